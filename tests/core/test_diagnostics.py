"""Codes in the code and pages of ``seqpack explain`` are the same set."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import seqpack
from seqpack.core import diagnostics
from seqpack.core.diagnostics import DIAGNOSTICS

PACKAGE = Path(seqpack.__file__).parent
CODE = re.compile(r"SP\d{3}")


def codes_in_the_code() -> dict[str, str]:
    """Each code with one file that names it."""
    modules = [path for path in PACKAGE.rglob("*.py") if path != Path(diagnostics.__file__)]
    assert len(modules) > 50, "the package was not found"
    return {code: str(path) for path in modules for code in CODE.findall(_without_docstrings(path))}


def _without_docstrings(path: Path) -> str:
    return re.sub(r'"""[\s\S]*?"""', "", path.read_text(encoding="utf-8"))


def test_every_code_that_is_raised_has_a_page():
    assert {code: path for code, path in codes_in_the_code().items() if code not in DIAGNOSTICS} == {}


def test_every_page_is_of_a_code_that_is_raised():
    assert sorted(set(DIAGNOSTICS) - set(codes_in_the_code())) == []


@pytest.mark.parametrize("code", DIAGNOSTICS)
def test_a_page_says_what_why_and_what_to_do(code):
    page = DIAGNOSTICS[code]
    assert CODE.fullmatch(code)
    assert page.title and not page.title.endswith(".")
    assert page.cause.endswith(".") and page.remedy.strip()


def test_pages_are_sorted_by_code():
    assert list(DIAGNOSTICS) == sorted(DIAGNOSTICS)
