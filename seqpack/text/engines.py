"""Who turns text into ids: ``tokenizers``, or a faster library that has proved to give the same ids.

The fast ones are optional (``pip install "seqpack-toolkit[fast]"``) and trusted only after a comparison with
``tokenizers`` on the user's own data. So the choice never shows in the data, only in the time they take.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as installed_version
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
from tokenizers import __version__ as tokenizers_version

from seqpack.core.errors import DeviceError, SeqpackError
from seqpack.text.remembered import Remembered
from seqpack.text.tokenizer import TOKENIZER_FILE, FlatIds, Tokenizer

EngineName = Literal["auto", "fastokens", "gigatoken", "tokenizers"]

PIECES_COMPARED = 2_000


class Engine(Protocol):
    """Encodes exactly as ``tokenizers`` does, special tokens only where the text names them."""

    @property
    def name(self) -> str: ...
    @property
    def version(self) -> str: ...
    def encode_flat(self, texts: Sequence[str]) -> FlatIds: ...
    def borders(self, text: str) -> tuple[int, int]: ...


@dataclass(frozen=True, slots=True)
class Choice:
    """The engine of a run; ``reason`` is for people; ``refused`` says why a fast one was not trusted, else empty."""

    engine: Engine
    reason: str
    refused: str = ""

    @property
    def label(self) -> str:
        return f"{self.engine.name} {self.engine.version}"


def choose_engine(tokenizer: Tokenizer, wanted: EngineName, *, pieces: Callable[[], Sequence[str]]) -> Choice:
    """The engine for data that begin with ``pieces()``; ``auto`` is a fast one if it is installed.

    A fast engine that cannot load this tokenizer, or differs in a single id, is refused, and ``tokenizers`` is used.
    Raises DeviceError if the engine asked for by name is not installed.
    """
    if wanted == "tokenizers":
        return Choice(tokenizer, "as asked")
    found = {name: number for name in _LOADERS if (number := _installed(name)) and wanted in ("auto", name)}
    if not found and wanted != "auto":
        extra = "seqpack-toolkit[fast]" if wanted == "fastokens" else wanted
        raise DeviceError("SP504", f"--tokenizer-engine {wanted}: not installed", help=f'pip install "{extra}"')
    refusals: list[str] = []
    for name, number in found.items():
        choice = _try(tokenizer, name, number, pieces)
        if not choice.refused:
            return choice
        refusals.append(choice.refused)
    if refusals:
        return Choice(tokenizer, "the fast engine was refused", "; ".join(refusals))
    return Choice(tokenizer, 'a faster engine is not installed: pip install "seqpack-toolkit[fast]"')


def _try(tokenizer: Tokenizer, name: str, number: str, pieces: Callable[[], Sequence[str]]) -> Choice:
    """The engine ``name`` if it is exact, else ``tokenizers`` with the reason; comparisons are remembered."""
    remembered = Remembered("engines")
    key = f"{tokenizer.digest()} {name} {number} tokenizers {tokenizers_version}"
    problem = remembered.get(key)
    if problem:
        return Choice(tokenizer, "as before", f"{name} {number}: {problem} (remembered)")
    try:
        encode = _LOADERS[name](tokenizer.directory / TOKENIZER_FILE)
        if problem is None:
            problem = _difference(tokenizer, encode, pieces()[:PIECES_COMPARED])
            remembered.put(key, problem)
    except SeqpackError:  # the data cannot be read, which is not the engine's fault
        raise
    except BaseException as error:  # panics of a Rust library are no Exception
        if isinstance(error, KeyboardInterrupt | SystemExit | MemoryError):
            raise
        problem = f"cannot use this tokenizer ({type(error).__name__}: {str(error)[:120]})"
    if problem:
        return Choice(tokenizer, "refused", f"{name} {number}: {problem}")
    return Choice(CheckedEngine(name, number, encode, tokenizer), "same ids as tokenizers on a slice of the data")


@dataclass(frozen=True, slots=True)
class CheckedEngine:
    """A fast engine that agreed with ``tokenizers``; texts it fails on are left to that one."""

    name: str
    version: str
    fast: Callable[[Sequence[str]], FlatIds]
    tokenizer: Tokenizer

    def encode_flat(self, texts: Sequence[str]) -> FlatIds:
        try:
            return self.fast(texts)
        except Exception:  # of whatever kind: the other one gives the same ids, or a better message
            return self.tokenizer.encode_flat(texts)

    def borders(self, text: str) -> tuple[int, int]:
        return self.tokenizer.borders(text)


def _difference(tokenizer: Tokenizer, encode: Callable[[Sequence[str]], FlatIds], pieces: Sequence[str]) -> str:
    """The first piece with other ids, or an empty string. A piece of every added token is compared too."""
    texts = [*pieces, *(f"a{token} b" for token in tokenizer.added_tokens)]
    expected, seen = tokenizer.encode_flat(texts), encode(texts)
    if np.array_equal(expected[0], seen[0]) and np.array_equal(expected[1], seen[1]):
        return ""
    for index, text in enumerate(texts):
        ids, others = (flat[offsets[index] : offsets[index + 1]].tolist() for flat, offsets in (expected, seen))
        if ids != others:
            return f"other ids for {text[:60]!r}"
    return "other boundaries between texts"


def _installed(name: str) -> str | None:
    try:
        return installed_version(name)
    except PackageNotFoundError:
        return None


def _load_fastokens(path: Path) -> Callable[[Sequence[str]], FlatIds]:
    # Our workers are processes: each of its threads would only learn the same words once more.
    os.environ.setdefault("FASTOKENS_BPE_THREADS", "1")
    from fastokens import Tokenizer as Fastokens

    tokenizer: Any = Fastokens.from_file(str(path))
    tokenizer.no_padding()
    tokenizer.no_truncation()

    def encode(texts: Sequence[str]) -> FlatIds:
        ids, offsets = tokenizer.encode_batch_flat(list(texts))
        return np.frombuffer(ids, np.int32), np.frombuffer(offsets, np.int64)

    return encode


def _load_gigatoken(path: Path) -> Callable[[Sequence[str]], FlatIds]:
    from gigatoken import Tokenizer as Gigatoken

    tokenizer: Any = Gigatoken(str(path))

    def encode(texts: Sequence[str]) -> FlatIds:
        layout = tokenizer.encode_batch(list(texts), parallel=False).layout
        return np.asarray(layout.content.data).astype(np.int32), np.asarray(layout.offsets).astype(np.int64)

    return encode


_LOADERS: dict[str, Callable[[Path], Callable[[Sequence[str]], FlatIds]]] = {
    "fastokens": _load_fastokens,
    "gigatoken": _load_gigatoken,
}
"""In the order in which ``auto`` tries them."""
