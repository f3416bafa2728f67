from __future__ import annotations

from pathlib import Path

import pytest

import seqpack.train.storage
from seqpack.core.errors import ConfigError, DataError
from seqpack.runtime.ranks import Ranks
from seqpack.train.plan import prepare
from seqpack.train.storage import check_same_files, check_storage
from tests.distributed import run_ranks

from .conftest import WriteDataset
from .test_run import options


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


def files_of(ranks: Ranks, data: list[Path], models: list[str]) -> str:
    plan = prepare(*options(data[ranks.rank], Path("none"), model=models[ranks.rank]), None, None, ranks)
    try:
        check_same_files(plan)
    except DataError as error:
        return f"{error.code} {error.message}"
    return "fine"


@pytest.mark.parametrize(
    ("same_data", "models", "wanted"),
    [
        (True, ["tiny:qwen2", "tiny:qwen2"], "fine"),
        (False, ["tiny:qwen2", "tiny:qwen2"], "SP621 the data set"),
        (True, ["tiny:qwen2", "tiny:llama"], "SP621 the model"),
    ],
)
def test_files_are_compared(write_dataset: WriteDataset, same_data: bool, models: list[str], wanted: str) -> None:
    first = write_dataset([[5, 3], [7]])
    data = [first, first if same_data else write_dataset([[5, 3], [7, 1]])]
    for found in run_ranks(2, files_of, data, models):
        assert found.startswith(wanted)
