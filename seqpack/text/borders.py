"""Where a text can be cut so that its parts have the ids of the whole: at the added tokens of most tokenizers.

An added token is found before anything else is done to a text, and what lies between two of them is encoded on its own.
That is so of every tokenizer, but not of every token and every step behind it: hence the conditions here.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from tokenizers import AddedToken
from tokenizers import Tokenizer as FastTokenizer

_NORMALIZERS = ("NFC", "NFD", "NFKC", "NFKD")
_SPLITTERS = ("ByteLevel", "Digits", "Punctuation", "Split", "Whitespace")
"""Steps that do to a part what they do to the whole. Not so Metaspace, which may put a blank before the first part."""


def hard_tokens(tokenizer: FastTokenizer) -> tuple[str, ...]:
    """The added tokens at both ends of which any text can be cut; none if the tokenizer has other steps."""
    if not all(map(_is_local, (tokenizer.normalizer, tokenizer.pre_tokenizer))):
        return ()
    added = tokenizer.get_added_tokens_decoder().values()
    return tuple(sorted(token.content for token in added if _is_plain(token) and _is_alone(token.content, added)))


def _is_local(step: Any) -> bool:
    """Whether a step of the tokenizer, None for nothing, does to each part what it does to the whole."""
    return step is None or _is_local_state(json.loads(step.__getstate__()))


def _is_local_state(state: dict[str, Any]) -> bool:
    kind = state.get("type")
    if kind == "Sequence":
        return all(map(_is_local_state, state.get("normalizers") or state.get("pretokenizers") or ()))
    return kind in _NORMALIZERS or (kind in _SPLITTERS and not state.get("add_prefix_space"))


def _is_plain(token: AddedToken) -> bool:
    """Whether it is found wherever it stands, and takes no blanks around it with it."""
    return bool(token.content) and not (token.lstrip or token.rstrip or token.single_word or token.normalized)


def _is_alone(token: str, added: Iterable[AddedToken]) -> bool:
    """Whether no other token, nor the same one again, can be found where a part of this one stands."""
    others = [other.content for other in added if other.content != token]
    starts = tuple(token[:length] for length in range(1, len(token)))
    return not token.endswith(starts) and not any(token in other or other.endswith(starts) for other in others)
