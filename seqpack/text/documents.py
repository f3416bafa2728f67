"""Pretraining text to ids: whole documents, with the special tokens the tokenizer adds by itself."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from seqpack.core.types import running_sum
from seqpack.text.encoder import FlatEncoder
from seqpack.text.tokenizer import FlatIds, Tokenizer

_PROBES = ("a", "b c")


class DocumentEncoder:
    """Encodes documents with any engine.

    What a tokenizer adds to a text by itself (Llama 3: a token at the beginning) is found out once and added here, so
    that no engine needs to know. A tokenizer that does not add the same to every text encodes by itself.
    """

    def __init__(self, engine: FlatEncoder, tokenizer: Tokenizer) -> None:
        self._engine = engine
        self._tokenizer = tokenizer
        self._affixes: tuple[list[int], list[int]] | None = None
        self._is_known = False

    def encode(self, texts: Sequence[str], *, end_token_id: int | None = None) -> FlatIds:
        """Ids of all texts (int32 ``[tokens]``) and where each begins (int64 ``[texts + 1]``).

        ``end_token_id`` ends every text that does not end so already.
        """
        ids, offsets = self._encode(texts)
        if end_token_id is None:
            return ids, offsets
        ends = offsets[1:]
        is_open = np.ones(len(texts), np.bool_)
        has_tokens = np.diff(offsets) > 0
        is_open[has_tokens] = ids[ends[has_tokens] - 1] != end_token_id
        return np.insert(ids, ends[is_open], end_token_id), offsets + running_sum(is_open)

    def _encode(self, texts: Sequence[str]) -> FlatIds:
        if not self._is_known:  # asked for late, since it loads the tokenizer
            self._affixes, self._is_known = _find_affixes(self._tokenizer), True
        if self._affixes is None:
            encoded = self._tokenizer.encode_documents(texts)
            offsets = running_sum(np.fromiter(map(len, encoded), np.int64, len(encoded)))
            return np.concatenate([np.zeros(0, np.int32), *(np.array(ids, np.int32) for ids in encoded)]), offsets
        ids, offsets = self._engine.encode_flat(texts)
        return _between(ids, offsets, *self._affixes)


def _find_affixes(tokenizer: Tokenizer) -> tuple[list[int], list[int]] | None:
    """What is added before and behind every text; None if it is not the same for all."""
    found = []
    for plain, whole in zip(tokenizer.encode(_PROBES), tokenizer.encode_documents(_PROBES), strict=True):
        places = [n for n in range(len(whole) - len(plain) + 1) if whole[n : n + len(plain)] == plain]
        if len(places) != 1:
            return None
        found.append((whole[: places[0]], whole[places[0] + len(plain) :]))
    return found[0] if found[0] == found[1] else None


def _between(ids: NDArray[np.int32], offsets: NDArray[np.int64], before: list[int], behind: list[int]) -> FlatIds:
    if not before and not behind:
        return ids, offsets
    count = len(offsets) - 1
    starts, ends = np.repeat(offsets[:-1], len(before)), np.repeat(offsets[1:], len(behind))
    # of two insertions at one place the first named comes first: what ends a text, before what begins the next
    places = np.concatenate([ends, starts])
    values = np.concatenate([np.tile(behind, count), np.tile(before, count)]).astype(np.int32)
    return np.insert(ids, places, values), offsets + np.arange(count + 1) * (len(before) + len(behind))
