"""The command: what it prints, and that it needs no torch."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from seqpack.commands.convert import convert
from seqpack.convert.request import Request
from seqpack.options.output import OutputOptions

from .conftest import options

# vocab 61 twice and the last norm; per layer two norms, q and o of 40, k and v of 20, and the MLP of 40, by hidden 24
NUM_PARAMETERS = 24 * (2 * 61 + 1 + 2 * (2 + 2 * 40 + 2 * 20 + 3 * 40))


def run(request: Request, output: OutputOptions) -> None:
    convert(request.options, request.megatron, request.ignored, request.refused, output)


def test_json(llama: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(options(llama, "mcore", tmp_path / "out"), OutputOptions(json=True))
    result = json.loads(capsys.readouterr().out)
    assert result | {"seconds": 0} == {
        "schema_version": 1,
        "output": str(tmp_path / "out"),
        "family": "LlamaForCausalLM",
        "source_split": None,
        "split": "TP 1, PP 1, EP 1",
        "tensors": 15,
        "bytes": NUM_PARAMETERS * 4,
        "dtypes": ["float32"],
        "seconds": 0,
        "dry_run": False,
        "verified": True,
        "largest_logit_difference": None,
        "notes": [],
    }


def test_table_and_place(llama: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(options(llama, "mcore", tmp_path / "out"), OutputOptions())
    printed = capsys.readouterr().out
    for word in ("LlamaForCausalLM", "15", "float32", "every byte", f"wrote {tmp_path / 'out'}"):
        assert word in printed.replace("\n", "")


def test_nothing_heavy_is_imported_for_help() -> None:
    code = "import sys, seqpack.commands.convert; print({'torch', 'safetensors', 'numpy', 'rich'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_torch_is_not_needed(llama: Path, tmp_path: Path) -> None:
    """Neither to write a checkpoint nor to read one: a login node will do."""
    code = f"""
import sys
for name in ("torch", "transformers", "safetensors"):
    sys.modules[name] = None
from seqpack.cli.app import main
for source, to, output in (("{llama}", "mcore", "{tmp_path}/a"), ("{tmp_path}/a", "hf", "{tmp_path}/b")):
    sys.argv = ["seqpack", "convert", source, "--to", to, "-o", output]
    try:
        main()
    except SystemExit as exit:
        assert not exit.code, exit.code
"""
    subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert (tmp_path / "b/model.safetensors").read_bytes()[8:] != b""
