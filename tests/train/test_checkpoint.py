from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from seqpack.attention.cpu import cpu_flash_attention
from seqpack.core.types import MaskMode, PackedSequence
from seqpack.models.load import FAMILIES, build_model, resolve_model
from seqpack.models.packed import PackedLM
from seqpack.runtime.batch import collate
from seqpack.runtime.device import select_device
from seqpack.train.checkpoint import save_hf
from seqpack.train.loss import chunked_cross_entropy

from .conftest import VOCAB_SIZE


def tiny(family: str) -> Any:
    spec = resolve_model(f"tiny:{family}", vocab_size=VOCAB_SIZE)
    return build_model(spec, dtype=torch.float32, backend=select_device("cpu"))


@pytest.mark.parametrize("family", FAMILIES)
def test_stock_transformers_loads_it(tmp_path: Path, tokenizer_dir: Path, family: str) -> None:
    from transformers import AutoModelForCausalLM

    model = tiny(family)
    save_hf(model, tmp_path / "run" / "model", tokenizer_dir)
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "run" / "model")
    assert loaded.config._attn_implementation == "sdpa"
    assert not loaded.training
    input_ids = torch.arange(2, 30)
    row = PackedSequence(*[input_ids.numpy().astype("int32")] * 2, np.array([0, len(input_ids)], np.int32), 0)
    with torch.no_grad():
        ours = PackedLM(model, cpu_flash_attention, chunked_cross_entropy).logits(collate([row], MaskMode.CAUSAL))
        theirs = loaded(input_ids=input_ids[None]).logits[0]
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=0)
    expected, found = model.state_dict(), loaded.state_dict()
    assert expected.keys() == found.keys()
    assert all(torch.equal(found[name], weight) for name, weight in expected.items())


def test_tokenizer_files_are_copied_byte_for_byte(tmp_path: Path, tokenizer_dir: Path) -> None:
    save_hf(tiny("llama"), tmp_path / "model", tokenizer_dir)
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        assert (tmp_path / "model" / name).read_bytes() == (tokenizer_dir / name).read_bytes()


def test_all_files_can_be_read_by_the_same_users(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    save_hf(tiny("llama"), tmp_path / "model")
    assert len({path.stat().st_mode for path in (tmp_path / "model").iterdir()}) == 1
    assert capfd.readouterr() == ("", "")


def test_replaces_an_older_model_as_a_whole(tmp_path: Path) -> None:
    target = tmp_path / "model"
    target.mkdir()
    (target / "stale.safetensors").write_text("")
    save_hf(tiny("llama"), target)
    assert not (target / "stale.safetensors").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_a_save_that_fails_leaves_the_older_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "model"
    target.mkdir()
    (target / "config.json").write_text("old")
    model = tiny("llama")

    def fail(folder: Path) -> None:
        (folder / "config.json").write_text("half of it")
        raise RuntimeError("stopped")

    monkeypatch.setattr(model, "save_pretrained", fail)
    with pytest.raises(RuntimeError, match="stopped"):
        save_hf(model, target)
    assert (target / "config.json").read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
