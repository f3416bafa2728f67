from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from seqpack.core.errors import ConfigError
from seqpack.options.megatron import ArchitectureOptions, MegatronOptions, RefusedTrainOptions
from seqpack.options.train import LoraOptions, ModelOptions, TrainDataOptions, TrainOptions


def test_flags_without_effect_are_named_by_their_reason() -> None:
    assert MegatronOptions().notes() == []
    notes = MegatronOptions(use_flash_attn=True, manual_gc=True, use_fused_swiglu=True, spec=["a", "b"]).notes()
    assert len(notes) == 3
    assert notes[0].endswith(": --use-flash-attn --use-fused-swiglu")
    assert notes[1].endswith(": --manual-gc")
    assert notes[2] == "no effect, config.json of the model says it: --spec"


@pytest.mark.parametrize("field", dataclasses.fields(RefusedTrainOptions), ids=lambda field: field.name)
def test_what_is_not_supported_says_why_and_what_to_do(field: dataclasses.Field[Any]) -> None:
    value = True if field.default is False else 2
    with pytest.raises(ConfigError, match=f"--{field.name.replace('_', '-')}.* is not supported: ") as raised:
        RefusedTrainOptions(**{field.name: value})
    assert raised.value.code == "SP029"
    assert raised.value.help


def test_dropout_of_zero_is_what_happens_anyway() -> None:
    assert RefusedTrainOptions(attention_dropout=0.0, hidden_dropout=0.0) == RefusedTrainOptions()


def test_only_what_was_given_is_compared() -> None:
    assert ArchitectureOptions().given() == {}
    assert ArchitectureOptions(num_layers=2, swiglu=True).given() == {"--num-layers": 2, "--swiglu": True}
    assert ArchitectureOptions(num_layers=96, noop_layers="94,95").given() == {"--num-layers": 94}


def test_bf16_is_a_dtype() -> None:
    assert ModelOptions(model="m", bf16=True).dtype == "bfloat16"
    with pytest.raises(ConfigError, match="--bf16 and --dtype float64"):
        ModelOptions(model="m", bf16=True, dtype="float64")


def test_an_instruction_data_set_is_a_stage() -> None:
    assert TrainDataOptions(data_path=["a"], is_instruction_dataset=True).stage == "sft"
    with pytest.raises(ConfigError, match="--is-instruction-dataset and --stage pretrain"):
        TrainDataOptions(data_path=["a"], is_instruction_dataset=True, stage="pretrain")


def test_the_rate_decays_over_the_whole_run() -> None:
    assert TrainOptions(train_iters=10, lr_decay_iters=10).lr_decay_iters == 10
    with pytest.raises(ConfigError, match="--lr-decay-iters 5"):
        TrainOptions(train_iters=10, lr_decay_iters=5)


def test_lora_targets_go_by_both_names() -> None:
    names = LoraOptions(lora_r=4, lora_target_modules=["linear_qkv", "linear_fc2", "up_proj"]).lora_target_modules
    assert names == ["q_proj", "k_proj", "v_proj", "down_proj", "up_proj"]
