from __future__ import annotations

from pathlib import Path

import seqpack.train.storage
from seqpack.core.errors import ConfigError
from seqpack.runtime.ranks import Ranks
from seqpack.train.storage import check_storage
from tests.distributed import run_ranks


def storage_of(ranks: Ranks, saves: list[Path], own_disks: bool) -> str:
    seqpack.train.storage.VISIBLE_SECONDS = 0.5
    try:
        check_storage(saves[ranks.rank], ranks, own_disks=own_disks)
    except ConfigError as error:
        return f"{error.code} {error.message}"
    return "fine"


def test_one_directory_for_all(tmp_path: Path) -> None:
    save = tmp_path / "new" / "run"
    assert run_ranks(2, storage_of, [save, save], False) == ["fine", "fine"]
    assert list(save.iterdir()) == []  # nothing is left behind


def test_a_disk_of_its_own_is_noticed_by_all(tmp_path: Path) -> None:
    saves = [tmp_path / "here", tmp_path / "there"]
    for found in run_ranks(2, storage_of, saves, False):
        assert found.startswith(f"SP622 --save {tmp_path}") and "is not seen by rank 1" in found
    assert run_ranks(2, storage_of, saves, True) == ["fine", "fine"]
