"""Training on an unpacked set through a plan is training on its packs."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from seqpack.core.errors import ConfigError, DataError
from seqpack.core.types import MaskMode
from seqpack.io.packed import PackedDataset
from seqpack.options.data import PlanOptions, RepackOptions, StrategyOptions, WriteOptions
from seqpack.pipeline.plan_only import plan_only
from seqpack.pipeline.repack import repack
from seqpack.train.data import open_data
from seqpack.train.run import execute

from .conftest import WriteDataset
from .test_data import flags, write_text
from .test_run import plan

SAMPLES = [[length] for length in (5, 3, 9, 2, 7, 4, 4, 6, 8, 3, 11, 2)]


def write_plan(source: Path, name: str = "plan.npz", *, seq_length: int = 12, **options: Any) -> Path:
    path = source.with_name(name)
    on_overlong = options.pop("on_overlong", "error")
    read = RepackOptions(source=source, seq_length=seq_length, on_overlong=on_overlong, max_drop=1.0)
    plan_only(PlanOptions(output=path, overwrite=True), read, StrategyOptions(**options))
    return path


def write_packs(source: Path, *, seq_length: int = 12, on_overlong: Any = "error", **options: Any) -> Path:
    prefix = source.with_name(f"{source.name}-packs")
    read = RepackOptions(source=source, seq_length=seq_length, on_overlong=on_overlong, max_drop=1.0)
    repack(read, StrategyOptions(**options), WriteOptions(output_prefix=prefix, overwrite=True))
    return prefix


def curve(save: Path) -> list[dict[str, float]]:
    """Losses, gradient norm and counts of every step."""
    names = ("loss", "eval_loss", "grad_norm", "num_tokens", "num_targets", "num_padding")
    lines = map(json.loads, (save / "metrics.jsonl").read_text().splitlines())
    return [{name: line[name] for name in names if name in line} for line in lines]


def same_run(save: Path, through: dict[str, Any], packs: dict[str, Any]) -> list[dict[str, float]]:
    """Both runs show the same header and make the same losses, to the last bit."""
    found = []
    for name, given in (("a", through), ("b", packs)):
        prepared = plan(save, save / name, epochs=2, dtype="float64", **given)
        summary = dataclasses.replace(prepared.summary(), data="", save="", notes=())
        execute(prepared)
        found.append((summary, curve(save / name)))
    assert found[0] == found[1]
    return found[0][1]


@pytest.mark.parametrize(
    "made",
    [{}, {"align": 4}, {"strategy": "wrapped"}, {"on_overlong": "drop", "seq_length": 8}],
    ids=["whole", "aligned", "cut", "dropped"],
)
def test_the_losses_are_those_of_the_packs(write_dataset: WriteDataset, tmp_path: Path, made: dict[str, Any]) -> None:
    source = write_dataset(SAMPLES, mask=None)
    packs = write_packs(source, neat_pack=True, **made)
    through = {"data_path": [str(source)], "plan": [write_plan(source, **made)], "neat_pack": True}
    lines = same_run(tmp_path, through, {"data_path": [str(packs)]})
    assert len(lines) > 2


def test_samples_that_see_each_other(write_dataset: WriteDataset, tmp_path: Path) -> None:
    source = write_dataset(SAMPLES, mask=None)
    packs = write_packs(source)
    through = {"data_path": [str(source)], "plan": [write_plan(source)], "reset_attention_mask": False}
    apart = same_run(tmp_path, through, {"data_path": [str(packs)]})
    assert apart != same_run(
        tmp_path / "apart",
        through | {"reset_attention_mask": True},
        {"data_path": [str(write_packs(source, neat_pack=True))]},
    )


def test_several_sets_with_weights_and_a_split(write_dataset: WriteDataset, tmp_path: Path) -> None:
    first, second = write_dataset(SAMPLES, mask=None), write_dataset(SAMPLES[::-1], mask=None)
    other = write_dataset([[4, 4], [9]], seq_length=12)
    plans = [write_plan(second, "b.npz"), write_plan(first, "a.npz", strategy="bfd")]
    packs = [write_packs(first, neat_pack=True, strategy="bfd"), write_packs(second, neat_pack=True)]
    common = {"split": "80,20", "eval_interval": 1, "loss_reduction": "sample"}
    lines = same_run(
        tmp_path,
        common | {"data_path": ["3", str(first), "2", str(second), "1", str(other)], "plan": plans, "neat_pack": True},
        common | {"data_path": ["3", str(packs[0]), "2", str(packs[1]), "1", str(other)]},
    )
    assert all("eval_loss" in line for line in lines)


def test_rows_name_their_samples_and_notes_say_how_they_are_read(write_dataset: WriteDataset) -> None:
    source = write_dataset(SAMPLES, mask=None)
    made = write_plan(source, on_overlong="drop", seq_length=8)
    data = open_data(flags(source, plan=[made], neat_pack=True))
    packs = open_data(flags(write_packs(source, neat_pack=True, on_overlong="drop", seq_length=8)))
    assert [data.describe(row) for row in range(len(data))] == [packs.describe(row) for row in range(len(packs))]
    (note,) = data.notes
    assert "8 tokens, strategy balanced; 2 longer samples are left out" in note


def test_a_run_goes_on_with_the_same_plan_only(write_dataset: WriteDataset) -> None:
    source = write_dataset([[4]] * 6, mask=None)  # of equal lengths, so that plans differ in nothing but who is where
    digests = []
    for seed, strategy in ((1, "balanced"), (1, "balanced"), (2, "balanced"), (1, "sequential")):
        made = write_plan(source, seed=seed, strategy=strategy, seq_length=8)
        digests.append(open_data(flags(source, plan=[made], neat_pack=True)).digest())
    digests.append(open_data(flags(source, plan=[made], neat_pack=False)).digest())
    digests.append(open_data(flags(source)).digest())
    assert digests[0] == digests[1] and len(set(digests)) == 5


@pytest.mark.parametrize(
    ("given", "code", "words"),
    [
        ({}, "SP203", "nothing says who sees whom"),
        ({"neat_pack": True, "reset_position_ids": False}, "SP203", "contradict"),
        ({"neat_pack": False, "align": 4}, "SP031", "plan.npz puts padding between samples"),
        ({"neat_pack": True, "seq_length": 99}, "SP208", "the packs have 12"),
    ],
)
def test_flags_that_do_not_fit(
    write_dataset: WriteDataset, tmp_path: Path, given: dict[str, Any], code: str, words: str
) -> None:
    source = write_dataset(SAMPLES, mask=None)
    made = write_plan(source, **({"align": given["align"]} if "align" in given else {}))
    given = {name: value for name, value in given.items() if name != "align"}
    with pytest.raises(ConfigError, match=words) as raised:
        plan(source, tmp_path / "run", plan=[made], **given)
    assert raised.value.code == code


def test_a_plan_for_other_data_is_refused(write_dataset: WriteDataset) -> None:
    source, other = write_dataset(SAMPLES, mask=None), write_dataset(SAMPLES[1:], mask=None)
    with pytest.raises(DataError, match=r"plan\.npz is a plan for other data") as raised:
        open_data(flags(source, plan=[write_plan(other)], neat_pack=True))
    assert raised.value.code == "SP117"
    with pytest.raises(DataError, match="plans for the same set"):
        open_data(flags(source, plan=[write_plan(source), write_plan(source, "b.npz", seed=5)], neat_pack=True))


def test_text_has_no_plan(write_dataset: WriteDataset, tmp_path: Path, tokenizer_dir: Path) -> None:
    made = write_plan(write_dataset(SAMPLES, mask=None))
    text = write_text(tmp_path / "text", tokenizer_dir, append_eod=True)
    with pytest.raises(ConfigError, match="no set of samples that seqpack made") as raised:
        open_data(flags(text, plan=[made], neat_pack=True, seq_length=8))
    assert raised.value.code == "SP208"


def test_packs_that_do_not_go_together(write_dataset: WriteDataset) -> None:
    source, packs = write_dataset(SAMPLES, mask=None), write_dataset([[4, 4]], seq_length=16)
    with pytest.raises(ConfigError, match="differ in sequence length"):
        open_data(flags(source, packs, plan=[write_plan(source)], neat_pack=True))


class TestUnpackedBesidePacked:
    @pytest.mark.parametrize("mask", MaskMode)
    @pytest.mark.parametrize("packed_first", [True, False])
    def test_both_are_trained_on(
        self, write_dataset: WriteDataset, tmp_path: Path, mask: MaskMode, packed_first: bool
    ) -> None:
        packs, plain = write_dataset([[5, 4], [9]], seq_length=12, mask=mask), write_dataset([[7], [3]], mask=None)
        paths = [str(packs), str(plain)][:: 1 if packed_first else -1]
        prepared = plan(packs, tmp_path / "run", data_path=paths, epochs=1, micro_batch_size=2)
        assert prepared.isolation.mask is mask and prepared.summary().packed
        summary, result = prepared.summary(), execute(prepared)
        assert (summary.num_tokens, summary.num_targets) == (result.num_tokens, result.num_targets) == (28, 23)

    def test_only_what_is_not_packed_is_padded(self, write_dataset: WriteDataset, tmp_path: Path) -> None:
        packs, plain = write_dataset([[5, 4], [9]], seq_length=12), write_dataset([[7], [3]], mask=None)
        losses, paddings = [], []
        for pad_to in ("none", "seq-length"):
            given = {"data_path": [str(packs), str(plain)], "pad_to": pad_to, "dtype": "float64", "epochs": 1}
            result = execute(plan(packs, tmp_path / pad_to, **given))
            losses.append(result.last_loss)
            paddings.append(result.num_padding)
        assert losses[0] == pytest.approx(losses[1], rel=1e-9)
        assert paddings == [6, 6 + 5 + 9]

    def test_a_sample_longer_than_the_packs(self, write_dataset: WriteDataset) -> None:
        packs, plain = write_dataset([[5, 4]], seq_length=12), write_dataset([[7], [13]], mask=None)
        with pytest.raises(ConfigError, match="a sample of 13 tokens") as raised:
            open_data(flags(packs, plain))
        assert raised.value.code == "SP203"

    def test_the_rows_are_those_of_the_set(self, write_dataset: WriteDataset) -> None:
        packs, plain = write_dataset([[5, 4]], seq_length=12), write_dataset([[7], [3]], mask=None)
        data = open_data(flags(packs, plain))
        assert not data.all_packed
        assert np.array_equal(data[2].input_ids, PackedDataset.open(plain)[1].input_ids)
