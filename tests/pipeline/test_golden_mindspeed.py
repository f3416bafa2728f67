"""``seqpack preprocess --compat mindspeed`` writes the bytes that MindSpeed-LLM wrote, with its own command lines."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest

from seqpack.cli.app import run

GOLDEN = Path(__file__).parents[1] / "golden" / "mindspeed"
SHARED = Path(__file__).parents[3] / "shared" / "golden" / "mindspeed"


def modes() -> list[tuple[Path, str]]:
    """Folders with an ``args.txt``: those of this repository, and where they lie beside it, all the others."""
    found = {path.parent.name: path.parents[1] for root in (SHARED, GOLDEN) for path in root.glob("*/args.txt")}
    return [(root, name) for name, root in sorted(found.items())]


def test_there_are_modes() -> None:
    assert {name for _, name in modes()} >= {"plain_qwen", "neat_pack_qwen_seq512"}


@pytest.mark.parametrize(("root", "mode"), modes(), ids=lambda value: value if isinstance(value, str) else "")
def test_bytes_are_those_of_mindspeed(
    root: Path, mode: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(root)  # the paths in args.txt are relative to it
    flags = (root / mode / "args.txt").read_text().strip()
    # args.txt leaves quotes out, and its --map-keys has none of the spaces that would need them
    words = flags.split() if "--map-keys" in flags else shlex.split(flags)
    left_out = ["--tokenizer-type", "PretrainedFromHF", "--output-prefix", str(tmp_path / "data")]
    code = run(["preprocess", *words, "--compat", "mindspeed", *left_out])
    assert code == 0, capfd.readouterr().err
    for expected in sorted(path for path in (root / mode).iterdir() if path.suffix in (".bin", ".idx")):
        assert (tmp_path / expected.name).read_bytes() == expected.read_bytes(), expected.name
