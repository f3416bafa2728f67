"""``seqpack show`` for sets of pretraining text: one document of every column."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from seqpack.io.sets import DocumentSet
from seqpack.pipeline.show import ShownToken, beginning, check_row, find_tokenizer, token_texts


@dataclass(frozen=True, slots=True)
class ShownDocument:
    """The document of one column; its ``labels`` are its ids, and ``text`` is how it begins."""

    key: str
    num_tokens: int
    text: str
    tokens: tuple[ShownToken, ...]


@dataclass(frozen=True, slots=True)
class ShownRow:
    """Row ``row`` of a set of pretraining text."""

    row: int
    num_rows: int
    documents: tuple[ShownDocument, ...]
    tokenizer_note: str

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)


def show_document(
    dataset: DocumentSet, row: int, *, with_tokens: bool = False, tokenizer_dir: Path | None = None
) -> ShownRow:
    """Look at row ``row``; ConfigError SP112 if there are fewer."""
    check_row(row, len(dataset), str(dataset.paths.prefix), "documents")
    tokenizer, note = find_tokenizer(dataset.manifest, tokenizer_dir)
    documents = []
    for key, ids in dataset.document(row).items():
        tokens: tuple[ShownToken, ...] = ()
        if with_tokens:
            texts, special = token_texts(tokenizer, ids)
            after = [*ids[1:].tolist(), None]
            columns = zip(range(len(ids)), ids.tolist(), texts, after, special, strict=True)
            tokens = tuple(
                ShownToken(index, token_id, text, token_id, target, index, 0, is_special)
                for index, token_id, text, target, is_special in columns
            )
        documents.append(ShownDocument(key, len(ids), beginning(tokenizer, ids), tokens))
    return ShownRow(row, len(dataset), tuple(documents), note)
