"""The command: what it prints, and what it says where torch is missing."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from seqpack.commands.convert import convert
from seqpack.core.errors import DeviceError
from seqpack.options.output import OutputOptions

from .conftest import options

# vocab 61 twice and the last norm; per layer two norms, q and o of 40, k and v of 20, and the MLP of 40, by hidden 24
NUM_PARAMETERS = 24 * (2 * 61 + 1 + 2 * (2 + 2 * 40 + 2 * 20 + 3 * 40))


def test_json(llama: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    convert(options(llama, "mcore", tmp_path / "out"), OutputOptions(json=True))
    result = json.loads(capsys.readouterr().out)
    assert result | {"seconds": 0} == {
        "schema_version": 1,
        "output": str(tmp_path / "out"),
        "family": "LlamaForCausalLM",
        "tensors": 15,
        "bytes": NUM_PARAMETERS * 4,
        "dtypes": ["float32"],
        "seconds": 0,
        "verified": True,
        "notes": [],
    }


def test_table_and_place(llama: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    convert(options(llama, "mcore", tmp_path / "out"), OutputOptions())
    printed = capsys.readouterr().out
    for word in ("LlamaForCausalLM", "15", "float32", "every byte", f"wrote {tmp_path / 'out'}"):
        assert word in printed.replace("\n", "")


def test_torch_is_asked_for_only_when_it_is_needed() -> None:
    code = "import sys, seqpack.commands.convert; print({'torch', 'safetensors', 'numpy', 'rich'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_transformers_is_not_needed() -> None:
    code = "import sys, seqpack.convert.convert; print('transformers' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_a_missing_torch_is_answered_with_the_install_line(
    llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in sys.modules if name.startswith("seqpack.convert")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "safetensors", None)
    with pytest.raises(DeviceError) as caught:
        convert(options(llama, "mcore", tmp_path / "out"), OutputOptions())
    assert caught.value.code == "SP502"
    assert "seqpack-toolkit[train]" in caught.value.help
