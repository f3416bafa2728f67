"""Nothing is left to write to while weights are saved: real limits on real files."""

from __future__ import annotations

import errno
import resource
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from seqpack.core.errors import DeviceError
from seqpack.models.lora import LoraSettings
from seqpack.runtime.ranks import Ranks
from seqpack.train.checkpoint import save_adapter, save_hf
from seqpack.train.disk import unwritable
from seqpack.train.run_state import RunState, newest, quiet

from .test_checkpoint import tiny

LIMIT = 50_000


@pytest.fixture
def small_files() -> Iterator[None]:
    """No file may be longer than ``LIMIT``; longer ones fail as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (LIMIT, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)


@pytest.mark.usefixtures("small_files")
def test_a_checkpoint(tmp_path: Path) -> None:
    state = RunState(tmp_path, Ranks(), {})
    with quiet():
        state.save(1, {"weight": torch.zeros(10)})
        with pytest.raises(DeviceError, match="File too large") as raised:
            state.save(2, {"weight": torch.zeros(LIMIT)})
    assert raised.value.code == "SP503"
    assert [path.name for path in tmp_path.iterdir()] == ["step-1"]
    assert newest(tmp_path)


@pytest.mark.usefixtures("small_files")
def test_the_model_at_the_end(tmp_path: Path) -> None:
    with pytest.raises(DeviceError, match="File too large") as raised:
        save_hf(tiny("llama"), tmp_path / "model")
    assert raised.value.code == "SP503"
    assert not list(tmp_path.iterdir())


@pytest.mark.usefixtures("small_files")
def test_an_adapter(tmp_path: Path) -> None:
    weights = {"layers.0.q_proj.lora_A": torch.zeros(LIMIT)}
    with pytest.raises(DeviceError, match="File too large"):
        save_adapter(weights, LoraSettings(1, 1.0), ["q_proj"], "base", tmp_path / "adapter")
    assert not list(tmp_path.iterdir())


def test_an_error_of_another_rank_has_lost_its_cause(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    error = RuntimeError("unexpected pos 704 vs 598")
    assert unwritable(error, tmp_path) is None
    monkeypatch.setattr("shutil.disk_usage", lambda path: type("Usage", (), {"free": 4096}))
    found = unwritable(error, tmp_path)
    assert found is not None
    assert found.errno == errno.ENOSPC
