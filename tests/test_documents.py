"""Documents say what the code says: files shown in them are those files, and no key or command is left out."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import get_type_hints

import pytest

import seqpack
from seqpack.cli.app import LAZY_COMMANDS
from seqpack.core.ledger import Ledger
from seqpack.hooks.host import PluginHost
from seqpack.io.indexed import DTYPES
from seqpack.io.manifest import Manifest, TokenizerRecord
from seqpack.io.packed import COLUMNS, DataSetPaths, PieceIndex
from seqpack.options.context import ContextOptions
from seqpack.options.data import StrategyOptions
from seqpack.options.field import flag_names
from seqpack.text.template import template_keys
from seqpack.text.tools import TOOL_FORMATS

ROOT = Path(__file__).parents[1]
CONTRIBUTING = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
CHANGELOG = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
FORMAT = (Path(seqpack.__file__).parent / "io" / "FORMAT.md").read_text(encoding="utf-8")
SHOWN = re.findall(r"<!-- file: (\S+) -->\n```\w+\n(.*?)```", CONTRIBUTING, re.DOTALL)


def names(*classes: type) -> list[str]:
    return [field.name for group in classes for field in dataclasses.fields(group)]


def test_files_are_shown():
    assert len(SHOWN) >= 5


@pytest.mark.parametrize(("path", "text"), SHOWN, ids=[path for path, _ in SHOWN])
def test_a_shown_file_is_that_file(path, text):
    assert (ROOT / path).read_text(encoding="utf-8") == text


def test_the_shown_entry_point_is_that_of_the_example():
    (entry_point,) = re.findall(r"```toml\n(.*?)```", CONTRIBUTING, re.DOTALL)
    assert entry_point in (ROOT / "examples" / "acme-plugin" / "pyproject.toml").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    "document",
    [
        "CONTRIBUTING.md",
        "CHANGELOG.md",
        "examples/acme-plugin/README.md",
        "templates/README.md",
        "seqpack/cp/README.md",
    ],
)
def test_links_and_paths_lead_somewhere(document):
    path = ROOT / document
    for target in re.findall(r"\]\((?!https?:)([^)#]+)\)", path.read_text(encoding="utf-8")):
        assert (path.parent / target).exists(), f"{document}: {target}"


def test_every_algorithm_and_flag_of_context_parallelism_is_described():
    text = (ROOT / "seqpack" / "cp" / "README.md").read_text(encoding="utf-8")
    flags = [flag_names(field)[0] for field in dataclasses.fields(ContextOptions) if not field.name.startswith("use_")]
    hints = get_type_hints(ContextOptions)
    names = re.findall(r"'([\w-]+)'", f"{hints['context_parallel_algo']} {hints['cp_plan']}")
    assert len(names) > 12
    assert [word for word in (*flags, *(f"`{name}`" for name in names)) if word not in text] == []


def test_every_template_and_key_of_one_is_described():
    text = (ROOT / "templates" / "README.md").read_text(encoding="utf-8")
    templates, keys = (set(re.findall(r"`(.+?)`", part)) for part in text.split("## Keys of a file"))
    assert [path.stem for path in (ROOT / "templates").glob("*.yaml") if path.stem not in templates] == []
    assert [key for key in template_keys() if key not in keys] == []
    assert [name for name in TOOL_FORMATS if name not in keys] == []


def test_every_package_is_in_the_table_of_layers():
    rows = re.findall(r"^\| (`.*?) \|", CONTRIBUTING, re.MULTILINE)
    listed = {name for row in rows for name in re.findall(r"`(\w+)`", row)}
    package = Path(seqpack.__file__).parent
    packages = {path.parent.name for path in package.glob("*/__init__.py")} | {"api"}
    assert packages <= listed


def test_every_handler_is_in_its_document():
    text = (Path(seqpack.__file__).parent / "handlers" / "README.md").read_text(encoding="utf-8")
    listed = {cell for row in re.findall(r"^\| (`.*?) \| (.*?) \|", text, re.MULTILINE) for cell in row}
    for handler in PluginHost([]).handlers:
        assert f"`{handler.name}`" in listed
        assert all(f"`{alias}`" in listed for alias in handler.aliases)


def test_every_strategy_is_in_its_document():
    text = (Path(seqpack.__file__).parent / "packing" / "README.md").read_text(encoding="utf-8")
    rows = [line.split("|") for line in text.splitlines() if line.startswith("| `")]
    listed = {row[1].strip(" `"): tuple(re.findall(r"`(.+?)`", row[2])) for row in rows}
    for strategy in PluginHost([]).strategies:
        assert listed[strategy.name] == strategy.aliases


def test_every_packing_option_is_in_its_document():
    text = (Path(seqpack.__file__).parent / "packing" / "README.md").read_text(encoding="utf-8")
    flags = [flag_names(field)[0] for field in dataclasses.fields(StrategyOptions)]
    assert [flag for flag in flags if f"`{flag}" not in text] == []


def test_every_command_is_in_the_changelog():
    assert [name for name in LAZY_COMMANDS if f"`seqpack {name}`" not in CHANGELOG] == []


@pytest.mark.parametrize("name", names(Manifest, Ledger, TokenizerRecord, PieceIndex))
def test_every_key_of_the_files_is_described(name):
    assert f"`{name}`" in FORMAT


def test_every_file_of_a_set_is_described():
    paths = DataSetPaths(Path("packs/mine"))
    pairs = [f"{paths.column(name)}.bin" for name in COLUMNS]
    others = [paths.index, paths.rejects, paths.resolved, paths.manifest]
    assert [name for name in map(str, [*pairs, *others]) if f"`{name}`" not in FORMAT] == []


def test_every_type_code_is_described():
    described = dict(re.findall(r"(\d) ([iuf]\d+)", FORMAT))
    assert described == {str(code): f"{dtype.kind}{8 * dtype.itemsize}" for code, dtype in DTYPES.items()}
