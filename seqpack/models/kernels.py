"""``--kernels``: faster functions for what surrounds attention, used only after they gave the model's own results.

A set is tried on a tiny random copy of the model, on the device and in the numbers of the run: samples side by side
with it against one at a time without it, logits, loss and every gradient. The model itself is changed afterwards, and
only in the parts that the copy had.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, NoReturn

import torch

from seqpack.core.errors import ConfigError
from seqpack.models.expert_parallel import has_experts
from seqpack.models.kernel_modules import Kernels, Part, replace_parts
from seqpack.models.roles import FAMILIES
from seqpack.models.self_check import Terms, packed_difference

if TYPE_CHECKING:
    from torch import Tensor

    from seqpack.attention.contract import VarlenAttention
    from seqpack.models.packed import HeadLoss

TOLERANCES = {torch.float64: 5e-6, torch.float32: 1e-4, torch.bfloat16: 0.1}
"""Largest relative difference. Those measured for ``torch`` on the CPU are 4e-7, 1e-6 and 0.03."""


@dataclass(frozen=True, slots=True)
class KernelSet:
    """What a set of kernels replaces, where, and how to get it.

    ``missing`` says what it lacks on this machine, empty for nothing; it is asked on one of its ``devices``.
    ``split_backward``: the backward pass may be taken in two parts, as a zero-bubble pipeline does. ``untried``: we
    never ran it on such a device.
    """

    name: str
    parts: tuple[Part, ...]
    devices: frozenset[str]
    load: Callable[[], Kernels]
    missing: Callable[[], str] = str
    split_backward: bool = True
    untried: bool = False


@dataclass(frozen=True, slots=True)
class ChosenKernels:
    """A set that passed the check, or none, and the parts of the model it was checked for and replaces.

    ``notes`` tell it to whoever looks at the run.
    """

    name: str = "none"
    kernels: Kernels = Kernels()  # noqa: RUF009 - frozen
    parts: frozenset[Part] = frozenset()
    notes: tuple[str, ...] = ()

    def apply(self, model: Any) -> None:
        """Change ``model``, which must be whole and as transformers builds it."""
        if self.parts:
            replace_parts(model, self.kernels, self.parts)


def choose_kernels(
    name: str,
    config: Any,
    device: torch.device,
    dtype: torch.dtype,
    attention: VarlenAttention,
    head_loss: HeadLoss,
    *,
    split_backward: bool = False,
    sets: Sequence[KernelSet] = (),
) -> ChosenKernels:
    """The set called ``name``, or for "auto" the first that passes.

    ``attention`` takes every dtype on ``device``. Raises ConfigError SP213 if a set that was named cannot be used.
    """
    if name == "none":
        return ChosenKernels()
    candidates = [each for each in sets or KERNEL_SETS if name in ("auto", each.name)]
    reasons = {}
    for candidate in candidates:
        found = _tried(candidate, config, device, dtype, attention, head_loss, split_backward)
        if isinstance(found, ChosenKernels):
            return found
        reasons[candidate.name] = found
    if name != "auto":
        _refuse(name, reasons[name])
    seen = "; ".join(f"{tried} {reason}" for tried, reason in reasons.items())
    return ChosenKernels(notes=(f"--kernels auto found none to use: {seen}",))


def _tried(
    candidate: KernelSet,
    config: Any,
    device: torch.device,
    dtype: torch.dtype,
    attention: VarlenAttention,
    head_loss: HeadLoss,
    split_backward: bool,
) -> ChosenKernels | str:
    """The set if it can be used, or else why not."""
    if config.model_type not in FAMILIES:
        return f"does not know the modules of family {config.model_type!r} (known are {', '.join(FAMILIES)})"
    if device.type not in candidate.devices:
        return f"is for {' and '.join(sorted(candidate.devices))}, not for {device.type}"
    if split_backward and not candidate.split_backward:
        return "overwrites what a zero-bubble pipeline reads a second time"
    if missing := candidate.missing():
        return missing
    kernels = candidate.load()
    parts: frozenset[Part] = frozenset()

    def change(model: Any) -> None:
        nonlocal parts
        parts = replace_parts(model, kernels, candidate.parts)

    # The router loss belongs to a micro-batch, not to its samples, and no kernel takes part in it.
    config = copy.deepcopy(config)
    config.output_router_logits = False
    for terms in _terms(config, device, dtype):
        if reason := packed_difference(config, attention, head_loss, terms=terms, change=change):
            numbers = str(terms.dtype).removeprefix("torch.")
            return f"does not give what the model gives without it, in {numbers} on {device.type}: {reason}"
    replaced = " and ".join(part for part in candidate.parts if part in parts)
    note = f"{replaced} by --kernels {candidate.name}: a tiny copy gave the same with and without"
    if candidate.untried:
        note += "; it passed here, and was never tried elsewhere"
    return ChosenKernels(candidate.name, kernels, parts, (note,))


def _terms(config: Any, device: torch.device, dtype: torch.dtype) -> Iterator[Terms]:
    """The widest numbers of the device, where a wrong formula shows most, and those of the run.

    Not so for experts in bfloat16: rounding may send a token to another expert, which says nothing about the kernels.
    """
    widest = torch.float64 if device.type == "cpu" else torch.float32
    rounds_away = dtype is torch.bfloat16 and has_experts(config)
    for each in dict.fromkeys((widest, widest if rounds_away else dtype)):
        yield Terms(device, each, TOLERANCES[each])


def _refuse(name: str, reason: str) -> NoReturn:
    raise ConfigError(
        "SP213",
        f"--kernels {name} {reason}",
        help="--kernels none trains with the model's own code; auto takes a set only if there is one that can be used",
    )


def _load_torch() -> Kernels:
    from seqpack.models.torch_kernels import rms_norm, rotate

    return Kernels(rms_norm, rotate)


def _load_npu() -> Kernels:
    from seqpack.models.npu_kernels import rms_norm, rotate, swiglu

    return Kernels(rms_norm, rotate, swiglu, scaled_rotation=False)


def _missing_npu() -> str:
    if find_spec("torch_npu") is None:
        return "needs the package torch_npu"
    names = ("npu_rms_norm", "npu_rotary_mul", "npu_swiglu")
    absent = [name for name in names if not hasattr(torch.ops.npu, name)]
    return f"needs {' and '.join(absent)}, which this torch_npu does not have" if absent else ""


def _load_liger() -> Kernels:
    from liger_kernel.transformers.functional import liger_rms_norm, liger_rope, liger_swiglu

    def rms_norm(x: Tensor, weight: Tensor, epsilon: float) -> Tensor:
        # Not in place: the gradient it would write over belongs to the residual as well.
        normed: Tensor = liger_rms_norm(x, weight, epsilon, in_place=False)
        return normed

    def rotate(q_1NTH: Tensor, k_1KTH: Tensor, cos_1TH: Tensor, sin_1TH: Tensor) -> tuple[Tensor, Tensor]:
        # It writes over its inputs, unseen by torch. Selective recomputation keeps those, and would rotate them twice.
        q, k = liger_rope(q_1NTH.clone(), k_1KTH.clone(), cos_1TH, sin_1TH)
        return q, k

    return Kernels(rms_norm, rotate, liger_swiglu)


def _missing_liger() -> str:
    return "" if find_spec("liger_kernel") else "needs the package liger-kernel"


_ALL = (Part.NORM, Part.ROTATION, Part.MLP)
KERNEL_SETS = (
    KernelSet(
        "liger",
        _ALL,
        frozenset({"cuda"}),
        _load_liger,
        _missing_liger,
        split_backward=False,  # SwiGLU writes gradients over what it kept for them
        untried=True,
    ),
    KernelSet("npu", _ALL, frozenset({"npu"}), _load_npu, _missing_npu, untried=True),
    KernelSet("torch", (Part.NORM, Part.ROTATION), frozenset({"cpu", "cuda", "npu"}), _load_torch),
)
"""In the order in which ``auto`` tries them."""
