"""A Hugging Face tokenizer directory, used through the ``tokenizers`` library alone: transformers is never imported."""

from __future__ import annotations

import functools
import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain, compress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import Encoding
from tokenizers import Tokenizer as FastTokenizer
from tokenizers import __version__ as tokenizers_version

from seqpack.core.errors import ConfigError, DataError
from seqpack.core.types import running_sum
from seqpack.text.borders import hard_tokens
from seqpack.text.normal import is_stable, not_normalizing, only_composes
from seqpack.text.remembered import Remembered

FlatIds = tuple[NDArray[np.int32], NDArray[np.int64]]
"""Ids of many texts back to back; those of text ``i`` lie at ``offsets[i]:offsets[i + 1]``."""

TEXTS_PER_CALL = 64

TOKENIZER_FILE = "tokenizer.json"
CONFIG_FILE = "tokenizer_config.json"


@dataclass(frozen=True, slots=True)
class _Facts:
    """What is asked of every tokenizer, whether it encodes or not."""

    vocab_size: int
    added_tokens: dict[str, int]
    hard_tokens: tuple[str, ...]

    @classmethod
    def of(cls, tokenizer: FastTokenizer) -> _Facts:
        added = {token.content: token_id for token_id, token in tokenizer.get_added_tokens_decoder().items()}
        vocab_size = max(tokenizer.get_vocab(with_added_tokens=True).values(), default=-1) + 1
        return cls(vocab_size, added, hard_tokens(tokenizer))

    def to_json(self) -> str:
        return json.dumps([self.vocab_size, self.added_tokens, self.hard_tokens])

    @classmethod
    def from_json(cls, text: str) -> _Facts | None:
        """None for what ``to_json`` did not write."""
        try:
            vocab_size, added, hard = json.loads(text)
            known = {str(token): int(token_id) for token, token_id in added.items()}
            return cls(int(vocab_size), known, tuple(map(str, hard)))
        except (ValueError, TypeError, AttributeError):
            return None


class Tokenizer:
    """Text to ids and back. Special tokens are only added where the text names them.

    ``bos_token`` and ``eos_token`` are None if ``tokenizer_config.json`` states none; ``pad_token_id`` falls back to
    that of the end token, then to 0: padding is marked by boundaries, so its id never matters to training.

    The file is loaded when text is to be encoded or decoded. If the same file was loaded before, what is asked until
    then is remembered: with a fast engine, a quarter of a second and 60 MB are never spent.
    """

    name = "tokenizers"
    version = tokenizers_version

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._facts = self._remembered_facts(_tokenizer_file(directory))
        config = _read_config(directory / CONFIG_FILE)
        self.bos_token = _token_text(config.get("bos_token"))
        self.eos_token = _token_text(config.get("eos_token"))
        self.unk_token = _token_text(config.get("unk_token"))
        self.chat_template: Any = config.get("chat_template")
        pad = self.token_id(_token_text(config.get("pad_token")))
        self.has_pad_token = pad is not None
        self.pad_token_id = next((token for token in (pad, self.eos_token_id, 0) if token is not None), 0)

    @property
    def eos_token_id(self) -> int | None:
        return self.token_id(self.eos_token)

    @property
    def vocab_size(self) -> int:
        """Number of ids, added tokens included."""
        return self._facts.vocab_size

    @property
    def num_tokens(self) -> int:
        """``len()`` of a Hugging Face tokenizer: entries, which are fewer than ``vocab_size`` if ids are left out."""
        return self._tokenizer.get_vocab_size(with_added_tokens=True)

    @property
    def added_tokens(self) -> dict[str, int]:
        """Tokens that are found in a text before anything else is done to it, by their text: control tokens mostly."""
        return self._facts.added_tokens

    def borders(self, text: str) -> tuple[int, int]:
        """The first and the last place where ``text`` can be cut so that the ids of its parts are those of the whole.

        This holds whatever stands before and behind it. (length, 0) if there is none; see ``hard_tokens``.
        """
        places = [match.span() for match in self._hard_pattern.finditer(text)] if self._facts.hard_tokens else []
        return (places[0][0], places[-1][1]) if places else (len(text), 0)

    @functools.cached_property
    def _hard_pattern(self) -> re.Pattern[str]:
        return re.compile("|".join(map(re.escape, self._facts.hard_tokens)))

    def token_id(self, token: str | None) -> int | None:
        """The id of exactly this token, or None."""
        if token is None:
            return None
        known = self._facts.added_tokens.get(token)
        return self._tokenizer.token_to_id(token) if known is None else known

    def load(self) -> None:
        """Load the file now, so that processes forked from this one need not; DataError if it is damaged."""
        _ = self._tokenizer

    @functools.cached_property
    def _tokenizer(self) -> FastTokenizer:
        path = _tokenizer_file(self.directory)
        try:
            tokenizer = FastTokenizer.from_file(str(path))
        except Exception as error:  # the library raises bare Exception
            raise DataError("SP104", f"{path} cannot be loaded: {error}", help="check the file") from error
        tokenizer.no_padding()
        tokenizer.no_truncation()
        return tokenizer

    def _remembered_facts(self, path: Path) -> _Facts:
        remembered = Remembered("tokenizers")
        key = f"{hashlib.sha256(path.read_bytes()).hexdigest()} tokenizers {tokenizers_version}"
        facts = _Facts.from_json(remembered.get(key) or "")
        if facts is None:
            facts = _Facts.of(self._tokenizer)
            remembered.put(key, facts.to_json())
        return facts

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """Ids of each text, without character offsets."""
        if not self._only_composes:
            return self._encode(texts)
        are_stable = [is_stable(text) is not None for text in texts]
        with not_normalizing(self._tokenizer):
            stable = iter(self._encode(list(compress(texts, are_stable))))
        others = iter(self._encode([text for text, stays in zip(texts, are_stable, strict=True) if not stays]))
        return [next(stable if stays else others) for stays in are_stable]

    def _encode(self, texts: Sequence[str]) -> list[list[int]]:
        """As the file says; few texts at a time, since an encoding is large beside its ids."""
        encode = self._tokenizer.encode_batch_fast
        parts = [list(texts[first : first + TEXTS_PER_CALL]) for first in range(0, len(texts), TEXTS_PER_CALL)]
        return [encoding.ids for part in parts for encoding in encode(part, add_special_tokens=False)]

    @functools.cached_property
    def _only_composes(self) -> bool:
        return only_composes(self._tokenizer)

    def encode_flat(self, texts: Sequence[str]) -> FlatIds:
        """As ``encode``, in two arrays: the ``Engine`` that all others are compared with."""
        unique = list(dict.fromkeys(texts))  # the system text of a template is the same in every row
        known = dict(zip(unique, self.encode(unique), strict=True))
        ids = [known[text] for text in texts]
        offsets = running_sum(np.fromiter(map(len, ids), np.int64, len(ids)))
        return np.fromiter(chain.from_iterable(ids), np.int32, int(offsets[-1])), offsets

    def encode_documents(self, texts: Sequence[str]) -> list[list[int]]:
        """Ids of each text with the special tokens the tokenizer adds by itself, such as Llama 3's at the beginning."""
        return [encoding.ids for encoding in self._tokenizer.encode_batch_fast(list(texts), add_special_tokens=True)]

    def encode_with_offsets(self, texts: Sequence[str]) -> list[Encoding]:
        """As ``encode``, with ``offsets``: the character range of each token."""
        return self._tokenizer.encode_batch(list(texts), add_special_tokens=False)

    def decode(self, token_ids: Sequence[int]) -> str:
        """Text of the ids, special tokens shown."""
        return self._tokenizer.decode(list(token_ids), skip_special_tokens=False)

    def decode_batch(self, many: Sequence[Sequence[int]]) -> list[str]:
        """As ``decode``, for many at once, on all cores."""
        return self._tokenizer.decode_batch([list(ids) for ids in many], skip_special_tokens=False)

    def token_text(self, token_id: int) -> str:
        """The vocabulary entry of one id, or an empty string."""
        return self._tokenizer.id_to_token(token_id) or ""

    def fingerprint(self) -> str:
        return tokenizer_fingerprint(self.directory)

    def digest(self) -> str:
        """SHA-256 of the very file and of the tokens added to it: stricter than the fingerprint, and free."""
        digest = hashlib.sha256((self.directory / TOKENIZER_FILE).read_bytes())
        digest.update(repr(sorted(self.added_tokens.items())).encode("utf-8", "replace"))
        return digest.hexdigest()


ADDED_TOKEN_FLAGS = ("lstrip", "rstrip", "single_word", "normalized")
"""What decides where an added token is found in a text; ``special`` does not, and saving may change it."""


def tokenizer_fingerprint(directory: Path) -> str:
    """SHA-256 of what decides the ids: vocabulary, merges, model options, added tokens, normalisation and splitting.

    Two files get the same fingerprint if they differ in layout only, as after ``save_pretrained``. To compute it
    takes a third of a second for a vocabulary of 150,000, so it is remembered by the digest of the file.
    """
    path = _tokenizer_file(directory)
    content = path.read_bytes()
    remembered = Remembered("fingerprints-2")  # another number for another way to compute them
    digest = hashlib.sha256(content).hexdigest()
    if (known := remembered.get(digest)) is not None:
        return known
    try:
        value = json.loads(content)
    except ValueError as error:
        raise DataError("SP104", f"{path} is not valid JSON: {error}", help="check the file") from error
    fingerprint = _fingerprint(value)
    remembered.put(digest, fingerprint)
    return fingerprint


def _fingerprint(value: dict[str, Any]) -> str:
    model = dict(value.get("model") or {})
    merges = [pair.split(" ", 1) if isinstance(pair, str) else list(pair) for pair in model.get("merges") or ()]
    vocabulary = model.get("vocab")
    if isinstance(vocabulary, dict):
        vocabulary = sorted(vocabulary.items(), key=lambda entry: int(entry[1]))
    added = sorted(
        (token["id"], token["content"], *(bool(token.get(flag)) for flag in ADDED_TOKEN_FLAGS))
        for token in value.get("added_tokens") or ()
    )
    # an option that is off may be written or left out: only those that are on count
    options = {key: option for key, option in model.items() if option and key not in ("type", "vocab", "merges")}
    normalizer, splitter = (_without_offsets(value.get(part)) for part in ("normalizer", "pre_tokenizer"))
    parts = [model.get("type"), options, vocabulary, merges, added, normalizer, splitter]
    return hashlib.sha256(json.dumps(parts, sort_keys=True, ensure_ascii=False).encode("utf-8", "replace")).hexdigest()


def _without_offsets(part: Any) -> Any:
    """A part of a tokenizer file without ``trim_offsets``: it moves offsets, not ids, and transformers rewrites it."""
    if isinstance(part, dict):
        return {key: _without_offsets(item) for key, item in part.items() if key != "trim_offsets"}
    return [_without_offsets(item) for item in part] if isinstance(part, list) else part


def _tokenizer_file(directory: Path) -> Path:
    path = directory / TOKENIZER_FILE
    if path.is_file():
        return path
    if not directory.is_dir():
        raise DataError("SP104", f"there is no tokenizer directory {directory}", help="check --tokenizer")
    raise DataError(
        "SP104",
        f"the tokenizer directory {directory} has no {TOKENIZER_FILE}",
        help="save it with transformers: AutoTokenizer.from_pretrained(...).save_pretrained(...)",
    )


def _read_config(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        value = json.loads(path.read_bytes())
    except ValueError as error:
        raise DataError("SP104", f"{path} is not valid JSON: {error}", help="check the file") from error
    return value if isinstance(value, dict) else {}


def _token_text(value: Any) -> str | None:
    """A token in ``tokenizer_config.json`` is its text, or an object with its text."""
    if isinstance(value, dict):
        value = value.get("content")
    return value if isinstance(value, str) else None


def require_token(tokenizer: Tokenizer, token: str, *, template: str) -> int:
    """The id of a token that a template needs; ConfigError if the tokenizer would cut it into pieces."""
    token_id = tokenizer.token_id(token)
    if token_id is None:
        raise ConfigError(
            "SP016",
            f"template {template!r} needs the token {token!r}, which {tokenizer.directory} does not have",
            help="choose the --prompt-type of this model, or its tokenizer",
        )
    return token_id
