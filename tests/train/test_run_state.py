from __future__ import annotations

import errno
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.distributed.checkpoint.api import CheckpointException

from seqpack.core.errors import CheckpointError, ConfigError, DeviceError
from seqpack.runtime.ranks import Ranks
from seqpack.train.run_state import RunState, newest, quiet

IDENTITY = {"--seed": 1, "--dtype": "float32"}


def tensors(value: float) -> dict[str, torch.Tensor]:
    return {"weight.a": torch.full((3, 2), value), "step.a": torch.tensor(value)}


def state(folder: Path, *, keep_last: int | None = None, background: bool = False, **identity: Any) -> RunState:
    return RunState(folder, Ranks(), {**IDENTITY, **identity}, keep_last, background=background)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_what_is_saved_is_loaded(tmp_path: Path) -> None:
    assert newest(tmp_path) is None
    for step in (9, 10):
        assert state(tmp_path).save(step, tensors(step)) == tmp_path / f"step-{step}"
    saved = newest(tmp_path)
    assert saved is not None
    assert saved.step == 10
    into = tensors(0)
    state(tmp_path).load(saved, into)
    assert torch.equal(into["weight.a"], tensors(10)["weight.a"])
    assert into["step.a"].item() == 10
    assert names(tmp_path) == ["step-10", "step-9"]


def test_only_the_last_are_kept(tmp_path: Path) -> None:
    for step in (2, 4, 6, 10):
        state(tmp_path, keep_last=2).save(step, tensors(step))
    assert names(tmp_path) == ["step-10", "step-6"]


def test_the_same_step_again_replaces_it(tmp_path: Path) -> None:
    (tmp_path / ".step-3.partial").mkdir()
    (tmp_path / ".step-1.old").mkdir()
    for value in (1.0, 2.0):
        state(tmp_path).save(3, tensors(value))
    saved, into = newest(tmp_path), tensors(0)
    assert saved is not None
    state(tmp_path).load(saved, into)
    assert into["step.a"].item() == 2.0
    assert names(tmp_path) == ["step-3"]


@pytest.mark.parametrize("damage", ["remove", "cut", "no record", "bad record"])
def test_a_damaged_checkpoint_names_the_file(tmp_path: Path, damage: str) -> None:
    path = state(tmp_path).save(5, tensors(1))
    shard = next(file for file in path.iterdir() if file.suffix == ".distcp")
    record = path / "checkpoint.json"
    if damage == "remove":
        shard.unlink()
    elif damage == "cut":
        shard.write_bytes(shard.read_bytes()[:-1])
    elif damage == "no record":
        record.unlink()
    else:
        record.write_text("[]")
    named = shard.name if damage in ("remove", "cut") else r"checkpoint\.json"
    with pytest.raises(CheckpointError, match=named) as raised:
        newest(tmp_path)
    assert raised.value.code == "SP209"
    assert str(path) in raised.value.help


def test_another_format_version(tmp_path: Path) -> None:
    record = state(tmp_path).save(5, tensors(1)) / "checkpoint.json"
    record.write_text(json.dumps({**json.loads(record.read_text()), "format_version": 99}))
    with pytest.raises(CheckpointError, match="format version 99"):
        newest(tmp_path)


def test_another_run_is_named(tmp_path: Path) -> None:
    state(tmp_path).save(5, tensors(1))
    saved = newest(tmp_path)
    assert saved is not None
    with pytest.raises(ConfigError, match="another --seed: 1, now it is 2") as raised:
        state(tmp_path, **{"--seed": 2}).load(saved, tensors(0))
    assert raised.value.code == "SP210"


def test_a_checkpoint_without_a_tensor_or_with_another_shape(tmp_path: Path) -> None:
    state(tmp_path).save(5, tensors(1))
    saved = newest(tmp_path)
    assert saved is not None
    for into in ({**tensors(0), "weight.b": torch.zeros(2)}, {"weight.a": torch.zeros(4, 4)}):
        with pytest.raises(CheckpointError, match=r"weight\.[ab]|size|shape") as raised:
            state(tmp_path).load(saved, into)
        assert raised.value.code == "SP209"


@pytest.mark.parametrize("wrapped", [True, False])
def test_a_full_disk_leaves_the_older_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wrapped: bool
) -> None:
    state(tmp_path).save(5, tensors(1))

    def fail(*args: object, checkpoint_id: Path, **rest: object) -> None:
        (checkpoint_id / "__0_0.distcp").write_text("half of it")
        error: BaseException = OSError(errno.ENOSPC, "No space left on device")
        raise CheckpointException("write", {0: (error, [])}) if wrapped else error  # type: ignore[dict-item, arg-type]

    monkeypatch.setattr("seqpack.train.run_state.save", fail)
    with pytest.raises(DeviceError, match="No space left") as raised:
        state(tmp_path).save(6, tensors(2))
    assert raised.value.code == "SP503"
    assert names(tmp_path) == ["step-5"]
    assert newest(tmp_path)


def test_in_the_background_a_copy_is_written(tmp_path: Path) -> None:
    values, writer = tensors(1), state(tmp_path, background=True)
    with quiet():
        writer.save(5, values)
        values["step.a"].fill_(99)  # training goes on
        writer.save(6, values)
        writer.finish()
    writer.close()
    saved, into = newest(tmp_path), tensors(0)
    assert saved is not None
    for path, value in ((tmp_path / "step-5", 1), (tmp_path / "step-6", 99)):
        state(tmp_path).load(replace(saved, path=path), into)
        assert into["step.a"].item() == value


def test_an_error_in_the_background_comes_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: object, **rest: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("seqpack.train.run_state.save", fail)
    for come_out in (lambda writer: writer.finish(), lambda writer: writer.save(7, tensors(1))):
        writer = state(tmp_path, background=True)
        writer.save(6, tensors(1))
        with pytest.raises(DeviceError, match="No space left"):
            come_out(writer)
        writer.close()
    assert not list(tmp_path.iterdir())
