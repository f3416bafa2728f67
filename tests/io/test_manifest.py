from __future__ import annotations

import hashlib
import json

import pytest

from seqpack.core.errors import DataError, FormatError
from seqpack.core.ledger import Ledger
from seqpack.core.types import MaskMode
from seqpack.io.manifest import FileRecord, Manifest, TokenizerRecord


def manifest(**values) -> Manifest:
    ledger = Ledger(rejected={"empty 'output'": 1}, padding=3)
    ledger.keep(10, 4, original=12)
    ledger.drop("too long", 40)
    made = {
        "packed": True,
        "seq_length": 16,
        "strategy": "greedy",
        "mask": MaskMode.BLOCK_CAUSAL,
        "seed": 7,
        "num_rows": 1,
        "num_samples": 1,
        "ledger": ledger,
        "tokenizer": TokenizerRecord("tokenizers/qwen", "ab" * 32, 3000, None, 0),
        "recipe": {"handler": "Ünï", "map_keys": {"query": None}, "template": "user: x\n"},
        "inputs": {"data/a.jsonl": FileRecord(3, "00" * 32)},
        "files": {"_packed_index.arrow": FileRecord(9, "11" * 32)},
        "seqpack_version": "0.1",
    }
    return Manifest(**made | values)


@pytest.mark.parametrize("values", [{}, {"packed": False, "seq_length": None, "strategy": None, "mask": None}])
def test_what_is_written_is_read(tmp_path, values):
    written = manifest(**values)
    written.write(tmp_path / "m.json")
    assert Manifest.read(tmp_path / "m.json") == written


def test_a_set_without_one_is_unfinished(tmp_path):
    with pytest.raises(DataError, match=r"m\.json is missing") as error:
        Manifest.read(tmp_path / "m.json")
    assert error.value.code == "SP106"


def test_another_format_version_names_both(tmp_path):
    manifest(format_version=99).write(tmp_path / "m.json")
    with pytest.raises(FormatError, match="version 99, this seqpack reads 1") as error:
        Manifest.read(tmp_path / "m.json")
    assert error.value.code == "SP105"


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "3", "null", "{}", '{"format_version": 1}', "\udcff"], ids=lambda text: repr(text)
)
def test_garbage_is_refused(tmp_path, text):
    (tmp_path / "m.json").write_text(text, encoding="utf-8", errors="surrogateescape")
    with pytest.raises(FormatError, match=r"m\.json") as error:
        Manifest.read(tmp_path / "m.json")
    assert error.value.code == "SP105"


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("mask", "sawtooth"), ("ledger", {}), ("ledger", 3), ("tokenizer", {"path": "x"}), ("files", []),
        ("inputs", {"x": 3}), ("surprise", 1), ("kind", "dpo"),
    ],
)  # fmt: skip
def test_a_damaged_part_is_refused(tmp_path, key, value):
    manifest().write(tmp_path / "m.json")
    written = json.loads((tmp_path / "m.json").read_bytes())
    (tmp_path / "m.json").write_text(json.dumps(written | {key: value}))
    with pytest.raises(FormatError, match="is damaged") as error:
        Manifest.read(tmp_path / "m.json")
    assert error.value.code == "SP105"


def test_a_file_record_is_size_and_digest(tmp_path):
    (tmp_path / "x").write_bytes(b"seqpack")
    assert FileRecord.of(tmp_path / "x") == FileRecord(7, hashlib.sha256(b"seqpack").hexdigest())
