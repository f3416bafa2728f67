from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from seqpack.core.errors import DataError
from seqpack.core.segments import shift_labels
from seqpack.core.types import IGNORE_INDEX, MaskMode
from seqpack.io.documents import DocumentRows
from seqpack.io.indexed import IndexedWriter


def write(folder: Path, documents: list[list[int]]) -> Path:
    prefix = folder / "data_text_document"
    with IndexedWriter(prefix) as writer:
        for document in documents:
            writer.append(np.array(document, np.int32), [len(document)])
    return prefix


@given(lengths=st.lists(st.integers(0, 9), min_size=1, max_size=12), seq_length=st.integers(2, 12))
def test_every_token_but_the_first_of_a_document_is_a_target_once(
    tmp_path_factory: pytest.TempPathFactory, lengths: list[int], seq_length: int
) -> None:
    total = sum(lengths)
    if total < 2:
        return
    stream = np.arange(1, total + 1)
    documents = [part.tolist() for part in np.split(stream, np.cumsum(lengths)[:-1])]
    rows = DocumentRows(write(tmp_path_factory.mktemp("set"), documents), seq_length, isolated=True)
    seen: list[tuple[int, int]] = []
    for number in range(len(rows)):
        row = rows[number]
        assert len(row) == rows.row_lengths[number] <= seq_length + 1
        shifted = shift_labels(row.labels, row.cu_seqlens)
        assert np.count_nonzero(shifted != IGNORE_INDEX) == rows.num_targets[number]
        seen += [(int(a), int(b)) for a, b in zip(row.input_ids, shifted, strict=True) if b != IGNORE_INDEX]
    wanted = [(a, b) for document in documents for a, b in pairwise(document)]
    assert seen == wanted  # each target is seen from the token before it, in the order of the stream
    assert rows.num_documents == sum(length > 0 for length in lengths)


def test_by_hand(tmp_path: Path) -> None:
    rows = DocumentRows(write(tmp_path, [[1, 2, 3], [4, 5], [6, 7, 8, 9]]), 4, isolated=True)
    assert [rows[row].input_ids.tolist() for row in range(len(rows))] == [[1, 2, 3, 4, 5], [5, 6, 7, 8, 9]]
    assert [rows[row].cu_seqlens.tolist() for row in range(len(rows))] == [[0, 3, 5], [0, 1, 5]]
    assert rows.manifest.mask is MaskMode.BLOCK_CAUSAL
    assert rows.manifest.tokenizer.vocab_size == 10


def test_ends_are_looked_for_only_where_the_index_has_none(tmp_path: Path) -> None:
    one = write(tmp_path, [[1, 2, 0, 4, 5, 0, 7]])
    assert DocumentRows(one, 9, isolated=True)[0].num_samples == 1
    assert DocumentRows(one, 9, isolated=True, end_token_id=0)[0].cu_seqlens.tolist() == [0, 3, 6, 7]
    two = write(tmp_path, [[1, 2, 0, 4], [5, 0, 7]])
    assert DocumentRows(two, 9, isolated=True, end_token_id=0)[0].cu_seqlens.tolist() == [0, 4, 7]


def test_nothing_to_train_on(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no text"):
        DocumentRows(write(tmp_path, [[], [1]]), 4, isolated=True)
