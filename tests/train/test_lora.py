"""LoRA runs from options to an adapter that peft loads."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoConfig

from seqpack.core.errors import ConfigError
from seqpack.core.types import MaskMode
from seqpack.models.load import build_model, resolve_model
from seqpack.models.lora import LoraLinear, LoraSettings, add_lora, find_targets
from seqpack.models.packed import PackedLM
from seqpack.options.train import LoraOptions
from seqpack.runtime.batch import collate
from seqpack.train.estimate import outline_of
from seqpack.train.plan import TrainPlan
from seqpack.train.prepare import prepare
from seqpack.train.run import execute
from seqpack.train.stopping import RunStopped

from .conftest import VOCAB_SIZE, WriteDataset
from .test_loop import CPU, make_rows, tiny_model
from .test_resume import Raise, losses
from .test_run import PACKS, options
from .test_run import plan as full_plan

STEPS = {"epochs": 3, "lr": 3e-3, "dtype": "float64"}


def plan(data: Path, save: Path, lora: LoraOptions, **given: Any) -> TrainPlan:
    return prepare(*options(data, save, **{**STEPS, **given}), lora=lora)


@pytest.fixture
def base(write_dataset: WriteDataset, tmp_path: Path) -> tuple[Path, Path]:
    """A data set, and a model on disk to adapt."""
    data = write_dataset(PACKS, seq_length=10)
    return data, Path(execute(full_plan(data, tmp_path / "base", train_iters=1, dtype="float64")).model_path)


def logits(model: Any) -> torch.Tensor:
    ids = torch.arange(2, 30)[None]
    with torch.no_grad():
        found: torch.Tensor = model(input_ids=ids).logits[0]
    return found


def test_peft_loads_the_adapter(base: tuple[Path, Path], tmp_path: Path) -> None:
    data, model = base
    lora = LoraOptions(lora_r=3, lora_alpha=7, lora_target_modules=["q_proj", "down_proj"])
    result = execute(plan(data, tmp_path / "run", lora, model=str(model), epochs=20, lr=1e-2))
    assert result.model_path == str(tmp_path / "run" / "adapter")
    assert result.last_loss < result.first_loss
    assert not (tmp_path / "run" / "model").exists()
    config = json.loads((tmp_path / "run" / "adapter" / "adapter_config.json").read_text())
    assert (config["r"], config["lora_alpha"], config["target_modules"]) == (3, 7, ["down_proj", "q_proj"])
    assert config["base_model_name_or_path"] == str(model)
    weights = load_file(tmp_path / "run" / "adapter" / "adapter_model.safetensors")
    assert len(weights) == 2 * 2 * 2  # layers, targets, A and B

    peft = pytest.importorskip("peft")
    from transformers import AutoModelForCausalLM

    stock = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float64)
    before = logits(stock)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        adapted = peft.PeftModel.from_pretrained(stock, result.model_path)
    ours = adapted_model(model, weights)
    with torch.no_grad():
        row = make_rows([[28]])[0]
        row.input_ids[:] = range(2, 30)
        wanted = ours.logits(collate([row], MaskMode.CAUSAL))
    torch.testing.assert_close(logits(adapted), wanted, atol=1e-9, rtol=0)
    assert (logits(adapted) - before).abs().max() > 1e-3


def adapted_model(base: Path, weights: dict[str, torch.Tensor]) -> PackedLM:
    """Our model with the weights of an adapter put in by their names."""
    from seqpack.attention.cpu import cpu_flash_attention
    from seqpack.train.loss import chunked_cross_entropy

    spec = resolve_model(str(base), vocab_size=VOCAB_SIZE)
    model = build_model(spec, dtype=torch.float64, backend=CPU)
    add_lora(model, LoraSettings(3, 7, 0.0, ("q_proj", "down_proj")))
    parameters = dict(model.named_parameters())
    with torch.no_grad():
        for name, weight in weights.items():
            parameters[name.removeprefix("base_model.model.").removesuffix(".weight")].copy_(weight)
    return PackedLM(model.eval(), cpu_flash_attention, chunked_cross_entropy)


def test_it_begins_as_the_model_was_and_only_adapters_learn() -> None:
    plain, adapted = tiny_model(torch.float64), tiny_model(torch.float64)
    targets = add_lora(adapted.model, LoraSettings(4, 8.0))
    assert targets == ("down_proj", "gate_proj", "k_proj", "o_proj", "q_proj", "up_proj", "v_proj")
    batch = collate(make_rows([[9, 4], [5]]), MaskMode.BLOCK_CAUSAL)
    loss = adapted(batch)
    assert loss.item() == plain(batch).item()
    loss.backward()
    trained = {name for name, parameter in adapted.named_parameters() if parameter.grad is not None}
    assert trained == {name for name, _ in adapted.named_parameters() if name.endswith(("lora_A", "lora_B"))}
    assert len(trained) == 2 * 7 * 2


def test_the_formula() -> None:
    base = torch.nn.Linear(3, 2, dtype=torch.float64)
    layer, x = LoraLinear(base, LoraSettings(2, 6.0)), torch.randn(5, 3, dtype=torch.float64)
    torch.nn.init.normal_(layer.lora_B)
    torch.testing.assert_close(layer(x), base(x) + 3 * (layer.lora_B @ layer.lora_A @ x.T).T)


def test_a_lora_run_resumes_exactly(base: tuple[Path, Path], tmp_path: Path) -> None:
    data, model = base
    lora, run, whole = LoraOptions(lora_r=2, lora_dropout=0.3), tmp_path / "run", tmp_path / "whole"
    execute(plan(data, whole, lora, model=str(model)))
    with pytest.raises(RunStopped):
        execute(plan(data, run, lora, model=str(model)), sinks=[Raise(2)])
    execute(plan(data, run, lora, model=str(model), resume=run))
    assert losses(run) == losses(whole)
    ours, wanted = (load_file(path / "adapter" / "adapter_model.safetensors") for path in (run, whole))
    assert all(torch.equal(ours[name], weight) for name, weight in wanted.items())
    with pytest.raises(ConfigError, match="another LoRA"):
        execute(plan(data, run, LoraOptions(lora_r=2), model=str(model), resume=run))


def test_an_unknown_matrix() -> None:
    with pytest.raises(ConfigError, match="no matrix 'q_prj'") as raised:
        add_lora(tiny_model().model, LoraSettings(2, 4.0, 0.0, ("q_prj",)))
    assert "q_proj" in raised.value.help


def test_a_dry_run_finds_an_unknown_matrix_and_names_the_known(write_dataset: WriteDataset, tmp_path: Path) -> None:
    data = write_dataset(PACKS, seq_length=10)
    with pytest.raises(ConfigError, match="no matrix 'q_prj'"):
        plan(data, tmp_path / "run", LoraOptions(lora_r=2, lora_target_modules=["q_prj"]))
    dense, experts = (
        plan(data, tmp_path / "run", LoraOptions(lora_r=2), model=name).summary().notes
        for name in ("tiny:qwen2", "tiny:mixtral")
    )
    assert any(note.endswith("beside down_proj, gate_proj, k_proj, o_proj, q_proj, up_proj, v_proj") for note in dense)
    assert any(note.endswith("beside k_proj, o_proj, q_proj, v_proj") for note in experts), "experts have no adapters"


def test_a_family_without_matrices_to_adapt() -> None:
    config = AutoConfig.for_model("gpt2", n_embd=8, n_layer=1, n_head=2, n_positions=16, vocab_size=11)
    with pytest.raises(ConfigError, match="the layers of family 'gpt2' have no matrix for") as raised:
        find_targets(outline_of(config), ())
    assert raised.value.code == "SP208"


def test_options_without_a_rank() -> None:
    with pytest.raises(ConfigError, match="without --lora-r"):
        LoraOptions(lora_alpha=3)
