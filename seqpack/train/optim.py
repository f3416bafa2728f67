"""AdamW, its learning rate over a run, and the one pass over gradients between backward and update."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Literal

import torch

from seqpack.train.gradients import clip

DecayStyle = Literal["cosine", "linear", "wsd", "constant"]


def learning_rate(
    step: int,
    num_steps: int,
    *,
    peak: float,
    minimum: float,
    warmup_steps: int,
    style: DecayStyle,
    wsd_decay_steps: int = 0,
) -> float:
    """The rate of step 0 .. num_steps - 1: a straight rise to ``peak``, then a decay towards ``minimum``.

    "wsd" stays at ``peak`` and falls in a straight line in the last ``wsd_decay_steps``. No step has rate 0: warm-up
    ends its first step above it, and ``minimum`` would come after the last step.
    """
    if step < warmup_steps:
        return peak * (step + 1) / warmup_steps
    if style == "constant":
        return peak
    if style == "wsd":
        decay_steps = min(wsd_decay_steps, num_steps - warmup_steps)
        left = num_steps - step
        return peak if left > decay_steps else minimum + (peak - minimum) * left / (decay_steps + 1)
    progress = (step - warmup_steps) / (num_steps - warmup_steps)
    remaining = 1 - progress if style == "linear" else (1 + math.cos(math.pi * progress)) / 2
    return minimum + (peak - minimum) * remaining


class Optimizer:
    """AdamW over a model's named parameters; ``gradient_norm()`` then ``step(lr)`` once all backward passes are done.

    Weights narrower than float32 are updated through float32 masters, and their gradients summed in float32: an
    update of a millionth is lost in bfloat16, which has three significant digits. For each of ``copies`` another
    parameter stands, here or on another rank: the norm leaves it out.
    """

    def __init__(
        self,
        parameters: Iterable[tuple[str, torch.nn.Parameter]],
        *,
        betas: tuple[float, float] = (0.9, 0.95),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        clip_grad: float = 0.0,
        copies: Sequence[torch.Tensor] = (),
    ) -> None:
        self._masters = [_Master(name, parameter) for name, parameter in parameters if parameter.requires_grad]
        self._clip_grad = clip_grad
        self._copies = copies
        updated = [master.weight for master in self._masters]
        groups = [
            {"params": [weight for weight in updated if weight.ndim >= 2], "weight_decay": weight_decay},
            {"params": [weight for weight in updated if weight.ndim < 2], "weight_decay": 0.0},  # norms and biases
        ]
        self._adamw = torch.optim.AdamW([g for g in groups if g["params"]], betas=betas, eps=eps, fused=True)

    def tensors(self) -> dict[str, torch.Tensor]:
        """Weights and state by name, to save them and to load into them; call ``loaded`` after the latter."""
        found: dict[str, torch.Tensor] = {}
        for master in self._first_of_name().values():
            found[f"weight.{master.name}"] = master.weight.detach()
            found |= {f"{key}.{master.name}": value for key, value in self._state_of(master.weight).items()}
        return found

    def loaded(self) -> None:
        """Take up what was loaded into ``tensors()``."""
        first = self._first_of_name()
        for master in self._masters:
            if (loaded := first[master.name]) is not master:
                master.weight.detach().copy_(loaded.weight)
                for key, value in self._state_of(loaded.weight).items():
                    self._state_of(master.weight)[key].copy_(value)
            master.write_back()

    def _first_of_name(self) -> dict[str, _Master]:
        """By name; a pipeline may have a tied output layer beside the embedding, under its name."""
        return {master.name: master for master in reversed(self._masters)}

    def _state_of(self, weight: torch.Tensor) -> dict[str, torch.Tensor]:
        """What AdamW keeps for a weight; made here as AdamW would, which does it at its first step."""
        state: dict[str, torch.Tensor] = self._adamw.state[weight]
        if not state:
            state["step"] = torch.zeros((), dtype=torch.float32, device=weight.device)
            state["exp_avg"], state["exp_avg_sq"] = torch.zeros_like(weight), torch.zeros_like(weight)
        return {key: state[key] for key in ("step", "exp_avg", "exp_avg_sq")}

    def gradient_norm(self) -> torch.Tensor:
        """Norm of all gradients together, before clipping, a scalar; clips them."""
        weights = [master.weight for master in self._masters]
        return clip(weights, self._clip_grad or math.inf, copies=self._copies)

    def step(self, lr: float) -> None:
        """Update the parameters and forget the gradients."""
        for group in self._adamw.param_groups:
            group["lr"] = lr
        self._adamw.step()
        self._adamw.zero_grad(set_to_none=True)
        for master in self._masters:
            master.write_back()


class _Master:
    """The weight AdamW updates for a parameter: the parameter itself, or its float32 copy."""

    def __init__(self, name: str, parameter: torch.nn.Parameter) -> None:
        self.name = name
        self._parameter = parameter
        self.weight: torch.Tensor = parameter
        if parameter.dtype.itemsize < torch.float32.itemsize:
            self.weight = parameter.detach().to(torch.float32)
            parameter.register_post_accumulate_grad_hook(self._take_gradient)  # type: ignore[no-untyped-call]

    def write_back(self) -> None:
        if self.weight is not self._parameter:
            self._parameter.detach().copy_(self.weight)

    def _take_gradient(self, parameter: torch.Tensor) -> None:
        assert parameter.grad is not None
        gradient = parameter.grad.to(torch.float32)
        self.weight.grad = gradient if self.weight.grad is None else self.weight.grad.add_(gradient)
        parameter.grad = None
