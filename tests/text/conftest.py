from __future__ import annotations

from pathlib import Path

import pytest

from seqpack.hooks.host import PluginHost
from seqpack.hooks.specs import PromptTemplate
from seqpack.text.catalog import load_template
from seqpack.text.tokenizer import Tokenizer


@pytest.fixture(scope="session")
def tokenizer(tokenizer_dir: Path) -> Tokenizer:
    return Tokenizer(tokenizer_dir)


@pytest.fixture(scope="session")
def qwen(tokenizer: Tokenizer) -> PromptTemplate:
    return load_template(PluginHost([]).template("qwen"), tokenizer)


@pytest.fixture(scope="session")
def alpaca(tokenizer: Tokenizer) -> PromptTemplate:
    return load_template(PluginHost([]).template("alpaca"), tokenizer)
