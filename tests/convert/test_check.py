"""``--check`` runs both sides; what it prints is a difference it measured."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from seqpack.convert import convert as convert_module
from seqpack.convert.check import LogitCheck
from seqpack.convert.convert import convert_weights
from seqpack.core.errors import CheckpointError, ConfigError, DeviceError

from .conftest import make_model, options, tree


@pytest.mark.parametrize("family", ["qwen2", "qwen3_moe"])
def test_both_sides_compute_the_same(tmp_path: Path, family: str) -> None:
    model = make_model(tmp_path / "model", family)
    check = convert_weights(options(model, "mcore", tmp_path / "mcore", tp=2, pp=2, check=True)).check
    assert check is not None and check.largest_difference == 0 and check.largest_logit > 1
    check = convert_weights(options(tmp_path / "mcore", "hf", tmp_path / "back", check=True)).check
    assert check is not None and check.largest_difference == 0


def test_another_type_makes_a_difference(tmp_path: Path) -> None:
    model = make_model(tmp_path / "model", "llama")
    check = convert_weights(options(model, "mcore", tmp_path / "mcore", params_dtype="bf16", check=True)).check
    assert check is not None and 0 < check.largest_difference < check.largest_logit


def test_it_reads_the_weights_that_were_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that is damaged behind our back is noticed, also without --verify."""
    model = make_model(tmp_path / "model", "llama")
    real = convert_module.check_logits

    def damaged(model, small_files, source, target):  # type: ignore[no-untyped-def]
        place = next(place for key, place in target[1].items() if "final_layernorm" in key.name)
        with place.path.open("r+b") as file:
            file.seek(place.offset)
            file.write(torch.full((24,), 2.0).numpy().tobytes())
        return real(model, small_files, source, target)

    monkeypatch.setattr(convert_module, "check_logits", damaged)
    before = tree(tmp_path)
    with pytest.raises(CheckpointError, match="logits of source and output differ") as caught:
        convert_weights(options(model, "mcore", tmp_path / "out", check=True, verify=False))
    assert caught.value.code == "SP408"
    assert tree(tmp_path) == before


def test_a_difference_without_a_reason_publishes_nothing(
    llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for difference in (1e-6, float("nan")):
        monkeypatch.setattr(convert_module, "check_logits", lambda *args, it=difference: LogitCheck(it, 1.0))
        with pytest.raises(CheckpointError):
            convert_weights(options(llama, "mcore", tmp_path / "out", check=True))
        assert not (tmp_path / "out").exists()


def test_it_needs_a_config(llama: Path, tmp_path: Path) -> None:
    import shutil

    convert_weights(options(llama, "mcore", tmp_path / "mcore"))
    shutil.rmtree(tmp_path / "mcore/hf")
    assert convert_weights(options(tmp_path / "mcore", "mcore", tmp_path / "again", tp=2)).verified
    with pytest.raises(ConfigError) as caught:
        convert_weights(options(tmp_path / "mcore", "mcore", tmp_path / "other", tp=2, check=True))
    assert caught.value.code == "SP407"


def test_it_says_which_package_is_missing(llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(DeviceError, match="transformers") as caught:
        convert_weights(options(llama, "mcore", tmp_path / "out", check=True))
    assert caught.value.code == "SP502"
