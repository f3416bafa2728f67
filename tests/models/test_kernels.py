"""``--kernels``: what replaces modules gives what they gave, and is refused where it does not."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import gelu, silu
from transformers import AutoConfig
from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

from seqpack.attention.cpu import cpu_flash_attention
from seqpack.core.errors import ConfigError
from seqpack.core.types import MaskMode
from seqpack.models import kernels, torch_kernels
from seqpack.models.compiling import compile_layers
from seqpack.models.kernel_modules import Kernels, Part, replace_parts
from seqpack.models.kernels import KERNEL_SETS, ChosenKernels, KernelSet, choose_kernels
from seqpack.models.lora import LoraSettings, add_lora
from seqpack.models.recompute import recompute
from seqpack.models.roles import FAMILIES
from seqpack.runtime.batch import collate
from seqpack.train.loss import chunked_cross_entropy
from seqpack.train.sharding import layers_of

from .conftest import EXTRAS, TINY, MakeRow, SaveModel
from .test_packed import backward_one_by_one, gradients, load, load_stock

CPU = torch.device("cpu")
LENGTHS = [9, 1, 23, 2, 5]
CLOSE = 5e-6
"""Relative: norms of the stock model compute in float32, those of the kernels in float64."""
SETS = {each.name: each for each in KERNEL_SETS}


def choose(
    name: str, family: str = "qwen2", sets: Any = KERNEL_SETS, dtype: torch.dtype = torch.float64, **settings: Any
) -> ChosenKernels:
    config = AutoConfig.for_model(family, **{**TINY, **EXTRAS.get(family, {}), **settings})
    rest = {"split_backward": settings.pop("split_backward")} if "split_backward" in settings else {}
    return choose_kernels(name, config, CPU, dtype, cpu_flash_attention, chunked_cross_entropy, sets=sets, **rest)


def planted(name: str = "planted", **functions: Any) -> KernelSet:
    return KernelSet(name, tuple(Part), frozenset({"cpu"}), lambda: Kernels(**functions))


def assert_same_training(
    chosen: ChosenKernels, save_model: SaveModel, make_row: MakeRow, family: str, granularity: str = "none"
) -> None:
    """Loss and gradients of a pack with the kernels are those of its samples in the stock model."""
    directory, row = save_model(family), make_row(LENGTHS)
    stock, model = load_stock(directory), load(directory)
    chosen.apply(model.model)
    recompute(model.model, granularity)  # type: ignore[arg-type]
    loss = model(collate([row], MaskMode.BLOCK_CAUSAL))
    loss.backward()
    assert loss.item() == pytest.approx(backward_one_by_one(stock, [row]), rel=CLOSE)
    ours, theirs = gradients(model.model), gradients(stock)
    assert ours.keys() == theirs.keys()
    for name, gradient in ours.items():
        assert (gradient - theirs[name]).abs().max() < CLOSE * theirs[name].abs().max(), name


@pytest.mark.parametrize("family", FAMILIES)
def test_torch_kernels_in_every_family(save_model: SaveModel, make_row: MakeRow, family: str) -> None:
    chosen = choose("torch", family, output_router_logits=True)  # of experts; others have no such setting
    assert chosen.parts == {Part.NORM, Part.ROTATION}
    assert chosen.notes == ("RMSNorm and rotation by --kernels torch: a tiny copy gave the same with and without",)
    assert_same_training(chosen, save_model, make_row, family, "selective" if family == "llama" else "none")


def test_one_model_is_changed_and_its_names_stay(save_model: SaveModel) -> None:
    directory = save_model("qwen3")
    other, model = load(directory).model, load(directory).model
    before = {name: (type(module), type(module).__name__) for name, module in model.named_modules()}
    names = list(model.state_dict())
    replaced = replace_parts(model, Kernels(torch_kernels.rms_norm, torch_kernels.rotate, lambda g, u: g), tuple(Part))
    assert replaced == set(Part)
    assert list(model.state_dict()) == names
    changed = {name for name, module in model.named_modules() if type(module) is not before[name][0]}
    layer = {"input_layernorm", "post_attention_layernorm", "self_attn", "self_attn.q_norm", "self_attn.k_norm", "mlp"}
    assert changed == {"model.norm", *(f"model.layers.{number}.{name}" for number in range(2) for name in layer)}
    assert all(type(module).__name__ == before[name][1] for name, module in model.named_modules())
    assert all(type(module) is before[name][0] for name, module in other.named_modules())


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_the_functions_of_torch(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)

    def random(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)

    def plain_norm(x: Tensor, weight: Tensor) -> Tensor:
        return weight * (x.double() * torch.rsqrt(x.double().square().mean(-1, keepdim=True) + 0.1)).to(dtype)

    x, weight = random(1, 7, 16).requires_grad_(), random(16).requires_grad_()
    q, k = (random(1, 7, heads, 8).transpose(1, 2).requires_grad_() for heads in (4, 2))
    angles = random(1, 7, 4).repeat(1, 1, 2)
    cos, sin = 1.5 * angles.cos(), 1.5 * angles.sin()
    pairs: list[tuple[Callable[[], Any], Callable[[], Any], list[Tensor]]] = [
        (lambda: (torch_kernels.rms_norm(x, weight, 0.1),), lambda: (plain_norm(x, weight),), [x, weight]),
        (lambda: torch_kernels.rotate(q, k, cos, sin), lambda: apply_rotary_pos_emb(q, k, cos, sin), [q, k]),
    ]
    tolerance = 1e-12 if dtype is torch.float64 else 0.04
    for ours, wanted, leaves in pairs:
        found = []
        for function in (ours, wanted):
            results = function()
            total = sum((result * torch.linspace(-1, 1, result.shape[-1], dtype=dtype)).sum() for result in results)
            found.append([*results, *torch.autograd.grad(total, leaves)])
        for result, expected in zip(*found, strict=True):
            assert result.dtype == expected.dtype
            torch.testing.assert_close(result, expected, atol=tolerance, rtol=tolerance)


def backwards(q: Tensor, k: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor]:
    return torch_kernels.rotate(q, k, cos, -sin)


def without_gradient(x: Tensor, weight: Tensor, epsilon: float) -> Tensor:
    scale = torch.rsqrt(x.square().mean(-1, keepdim=True) + epsilon).detach()
    return weight * x * scale


def over_the_row(x: Tensor, weight: Tensor, epsilon: float) -> Tensor:
    normed = torch_kernels.rms_norm(x, weight, epsilon)
    return normed + 1e-9 * x.mean(-2, keepdim=True)  # too little for any tolerance


def fails(gate: Tensor, up: Tensor) -> Tensor:
    raise RuntimeError("invalid configuration argument")


@pytest.mark.parametrize(
    ("functions", "reason"),
    [
        ({"rms_norm": lambda x, weight, epsilon: torch_kernels.rms_norm(x, weight, 0.0)}, "logits in a pack"),
        ({"rms_norm": without_gradient}, "the gradient of .* in a pack"),
        ({"rms_norm": over_the_row}, "a token of one sample changes the logits of another"),
        ({"rotate": lambda q, k, cos, sin: (torch_kernels.rotate(q, k, cos, sin)[0], k)}, "logits in a pack"),
        ({"swiglu": lambda gate, up: gelu(gate) * up}, "logits in a pack"),
        ({"swiglu": fails}, "RuntimeError: invalid configuration argument"),
    ],
)
def test_wrong_kernels_are_refused(functions: dict[str, Any], reason: str) -> None:
    with pytest.raises(ConfigError, match=f"--kernels planted does not give .*{reason}") as raised:
        choose("planted", sets=[planted(**functions)])
    assert raised.value.code == "SP213"
    assert "--kernels none" in str(raised.value.help)


def test_kernels_that_are_wrong_in_the_numbers_of_the_run_alone() -> None:
    def rms_norm(x: Tensor, weight: Tensor, epsilon: float) -> Tensor:
        return torch_kernels.rms_norm(x, weight, 1.0 if x.dtype is torch.bfloat16 else epsilon)

    sets = [planted(rms_norm=rms_norm)]
    assert choose("planted", sets=sets, dtype=torch.float32).name == "planted"
    with pytest.raises(ConfigError, match="in bfloat16 on cpu: its logits"):
        choose("planted", sets=sets, dtype=torch.bfloat16)
    assert choose("torch", "mixtral", dtype=torch.bfloat16).name == "torch"


def test_auto_takes_the_first_that_passes() -> None:
    wrong, right = planted("wrong", rotate=backwards, rms_norm=without_gradient), replace(SETS["torch"], name="right")
    assert choose("auto", sets=[SETS["npu"], wrong, right, planted()]).name == "right"
    nothing = choose("auto", sets=[SETS["npu"], wrong])
    assert (nothing.name, nothing.parts) == ("none", frozenset())
    assert nothing.notes[0].startswith("--kernels auto found none to use: npu is for npu, not for cpu; wrong does not")
    assert choose("auto").name == "torch"
    assert choose("none").notes == ()


def test_what_cannot_be_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "find_spec", lambda name: None)
    for name, package in (("liger", "liger-kernel"), ("npu", "torch_npu")):
        with pytest.raises(ConfigError, match=f"--kernels {name} needs the package {package}"):
            choose(name, sets=[replace(SETS[name], devices=frozenset({"cpu"}))])
        with pytest.raises(ConfigError, match=f"--kernels {name} is for .*, not for cpu"):
            choose(name)
    with pytest.raises(ConfigError, match="--kernels torch does not know the modules of family 'gemma'"):
        choose("torch", "gemma")
    once = replace(planted(), split_backward=False)
    with pytest.raises(ConfigError, match="zero-bubble"):
        choose("planted", sets=[once], split_backward=True)


@pytest.mark.parametrize("granularity", ["none", "selective"])
def test_liger_as_far_as_it_goes_without_cuda(
    save_model: SaveModel, make_row: MakeRow, monkeypatch: pytest.MonkeyPatch, granularity: str
) -> None:
    """Its functions by their signatures; the one that rotates writes over its inputs, as the real one does, unseen."""

    class Rotation(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, q: Tensor, k: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor]:
            ctx.save_for_backward(cos, sin)
            for x, turned in zip((q, k), apply_rotary_pos_emb(q, k, cos, sin), strict=True):
                x.data.copy_(turned)
            return q.view_as(q), k.view_as(k)

        @staticmethod
        def backward(ctx: Any, *gradients: Tensor) -> Any:
            cos, sin = ctx.saved_tensors
            return *apply_rotary_pos_emb(*gradients, cos, -sin), None, None

    def liger_rms_norm(
        X: Tensor,
        W: Tensor,
        eps: float,
        offset: float = 0.0,
        casting_mode: str = "llama",
        in_place: bool = True,
    ) -> Tensor:
        assert not in_place
        return torch_kernels.rms_norm(X, W, eps)

    fake = ModuleType("liger_kernel.transformers.functional")
    fake.liger_rms_norm = liger_rms_norm  # type: ignore[attr-defined]
    fake.liger_rope = Rotation.apply  # type: ignore[attr-defined]
    fake.liger_swiglu = lambda a, b: silu(a) * b  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, fake.__name__, fake)
    monkeypatch.setattr(kernels, "find_spec", lambda name: object())
    chosen = choose("liger", sets=[replace(SETS["liger"], devices=frozenset({"cpu"}))])
    assert chosen.parts == set(Part)
    assert "never tried elsewhere" in chosen.notes[0]
    assert_same_training(chosen, save_model, make_row, "llama", granularity)


def test_parts_that_are_left_as_they_are() -> None:
    all_of_it = planted(
        rms_norm=torch_kernels.rms_norm,
        rotate=torch_kernels.rotate,
        swiglu=lambda gate, up: silu(gate) * up,
        scaled_rotation=False,
    )
    assert choose("planted", sets=[all_of_it]).parts == set(Part)
    yarn = {"rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0, "original_max_position_embeddings": 128}
    assert choose("planted", sets=[all_of_it], rope_parameters=yarn).parts == {Part.NORM, Part.MLP}
    assert choose("planted", sets=[all_of_it], hidden_act="gelu").parts == {Part.NORM, Part.ROTATION}
    assert choose("planted", "mixtral", sets=[all_of_it]).parts == {Part.NORM, Part.ROTATION}
    assert choose("torch", rope_parameters=yarn).parts == {Part.NORM, Part.ROTATION}


def test_only_what_was_checked_is_replaced(save_model: SaveModel) -> None:
    """A dense layer among experts may not be in the tiny copy."""
    model = load(save_model("qwen3_moe", mlp_only_layers=[1])).model
    stock = type(model.model.layers[1].mlp)
    chosen = ChosenKernels("planted", Kernels(torch_kernels.rms_norm, swiglu=fails), frozenset({Part.NORM}))
    chosen.apply(model)
    assert type(model.model.layers[1].mlp) is stock


def test_beside_lora(save_model: SaveModel, make_row: MakeRow) -> None:
    directory, batch = save_model("qwen2"), collate([make_row(LENGTHS)], MaskMode.BLOCK_CAUSAL)
    found = []
    for name in ("none", "torch"):
        model = load(directory)
        choose(name).apply(model.model)
        add_lora(model.model, LoraSettings(2, 4.0, 0.0, ()))
        generator = torch.Generator().manual_seed(0)
        for parameter in model.model.parameters():
            if parameter.requires_grad:
                parameter.data.copy_(torch.randn(parameter.shape, generator=generator) / 9)
        model(batch).backward()
        found.append({key: p.grad for key, p in model.named_parameters() if p.grad is not None})
    without, with_kernels = found
    assert without.keys() == with_kernels.keys()
    assert not any("norm" in name for name in without)
    for name, gradient in without.items():
        assert (with_kernels[name] - gradient).abs().max() < CLOSE * gradient.abs().max(), name


# All of these come from inside torch's compiler.
@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning")
def test_in_compiled_layers(save_model: SaveModel, make_row: MakeRow, monkeypatch: pytest.MonkeyPatch) -> None:
    torch._dynamo.reset()
    monkeypatch.setattr("seqpack.models.compiling.COMPILER", "aot_eager")
    directory, row = save_model("qwen2"), make_row([9, 4, 12])
    stock, model = load_stock(directory), load(directory)
    choose("torch").apply(model.model)
    compile_layers(layers_of(model))
    model(collate([row], MaskMode.BLOCK_CAUSAL)).backward()
    backward_one_by_one(stock, [row])
    ours, theirs = gradients(model.model), gradients(stock)
    for name, gradient in ours.items():
        assert (gradient - theirs[name]).abs().max() < CLOSE * theirs[name].abs().max(), name
