"""Whatever happens, nothing is left that looks finished."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from seqpack.core.errors import DeviceError
from seqpack.io.publish import partial_folder, publish


@pytest.fixture(scope="module")
def dead_pid() -> int:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def leftover(target: Path, pid: object) -> Path:
    """A folder as a killed run with that process number leaves it."""
    with partial_folder(target) as folder:
        name = folder.name.removesuffix(str(os.getpid())) + str(pid)
    path = target.with_name(name)
    path.mkdir()
    (path / "x.bin").touch()
    return path


def test_the_folder_is_hidden_beside_the_target_and_goes_away(tmp_path):
    with partial_folder(tmp_path / "new" / "x") as folder:
        (folder / "x.bin").touch()
        assert folder.parent == tmp_path / "new" and folder.name.startswith(".x.")
    assert list((tmp_path / "new").iterdir()) == []


def fail_inside(target: Path, error: BaseException) -> None:
    with partial_folder(target) as folder:
        (folder / "x.bin").touch()
        raise error


@pytest.mark.parametrize("error", [RuntimeError(), KeyboardInterrupt(), OSError(errno.EIO, "input/output error")])
def test_an_error_passes_through_and_leaves_nothing(tmp_path, error):
    with pytest.raises(type(error)):
        fail_inside(tmp_path / "x", error)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EACCES, errno.EROFS])
def test_a_full_disk_is_an_error_of_the_machine(tmp_path, number):
    with pytest.raises(DeviceError, match=os.strerror(number)) as error:
        fail_inside(tmp_path / "x", OSError(number, os.strerror(number)))
    assert (error.value.code, error.value.exit_code) == ("SP503", 5)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["file/x", "file/inside/x", "n" * 300 + "/x"])
def test_a_name_that_cannot_be_a_folder(tmp_path, name):
    (tmp_path / "file").touch()
    with pytest.raises(DeviceError, match=r"cannot be made a folder: (Not a directory|File name too long)") as error:
        fail_inside(tmp_path / name, RuntimeError())
    assert (error.value.code, [path.name for path in tmp_path.iterdir()]) == ("SP503", ["file"])


def test_a_really_full_disk(tmp_path):
    if not Path("/dev/full").exists():
        pytest.skip("this system has no /dev/full")
    with pytest.raises(DeviceError, match="No space left"), partial_folder(tmp_path / "x"):
        Path("/dev/full").write_bytes(b"x" * 100_000)


def test_folders_of_dead_runs_are_removed(tmp_path, dead_pid):
    folders = [leftover(tmp_path / "x", pid) for pid in (dead_pid, "garbage", 10**30)]
    with partial_folder(tmp_path / "x"):
        assert [folder for folder in folders if folder.exists()] == []


def test_the_folder_of_a_dead_run_with_our_process_number_is_removed(tmp_path):
    # In a container every run may be process 1.
    folder = leftover(tmp_path / "x", os.getpid())
    with partial_folder(tmp_path / "x") as again:
        assert again == folder and list(again.iterdir()) == []


def test_folders_of_living_runs_and_of_other_targets_stay(tmp_path, dead_pid):
    kept = [
        leftover(tmp_path / "x", os.getppid()),
        leftover(tmp_path / "xy", dead_pid),
        leftover(tmp_path / "y", dead_pid),
    ]
    with partial_folder(tmp_path / "x"):
        assert all((folder / "x.bin").exists() for folder in kept)


def test_a_target_with_pattern_characters_is_a_name(tmp_path, dead_pid):
    own, other = leftover(tmp_path / "a[1]*", dead_pid), leftover(tmp_path / "a1b", dead_pid)
    with partial_folder(tmp_path / "a[1]*"):
        assert not own.exists() and other.exists()


@pytest.fixture
def aside(tmp_path) -> Path:
    folder = tmp_path / "aside"
    folder.mkdir()
    for name in ("b", "a", "manifest"):
        (folder / name).write_text("new")
    return folder


def test_files_are_moved_in_the_order_given(tmp_path, aside, monkeypatch):
    moved: list[str] = []
    rename = Path.replace

    def replace(self: Path, target: Path) -> Path:
        moved.append(target.name)
        assert not (tmp_path / "manifest").exists(), "the manifest vouches for a mixture"
        return rename(self, target)

    (tmp_path / "manifest").write_text("old")
    monkeypatch.setattr(Path, "replace", replace)
    publish(aside, tmp_path, ["b", "a", "manifest"])
    assert moved == ["b", "a", "manifest"]
    assert [(tmp_path / name).read_text() for name in moved] == ["new"] * 3


def test_when_a_move_fails_there_is_no_manifest(tmp_path, aside):
    (tmp_path / "manifest").write_text("old")
    (aside / "a").unlink()
    with pytest.raises(FileNotFoundError):
        publish(aside, tmp_path, ["b", "a", "manifest"])
    assert not (tmp_path / "manifest").exists()
