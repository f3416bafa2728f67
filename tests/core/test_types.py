from __future__ import annotations

import numpy as np
import pytest

from seqpack.core.types import IGNORE_INDEX, PackedSequence, TokenizedBatch, TokenizedSample


def int32(*values: int) -> np.ndarray:
    return np.array(values, np.int32)


def test_the_first_token_is_no_target_because_nothing_stands_before_it():
    sample = TokenizedSample(int32(1, 2, 3), int32(1, IGNORE_INDEX, 3))
    assert len(sample) == 3 and sample.num_trained == 1
    assert TokenizedSample(int32(1), int32(1)).num_trained == 0
    assert TokenizedSample(int32(), int32()).num_trained == 0


def test_ids_and_labels_are_of_one_length():
    with pytest.raises(AssertionError):
        TokenizedSample(int32(1, 2), int32(1))


@pytest.mark.parametrize(("num_padding", "num_samples"), [(0, 2), (2, 1)])
def test_padding_is_a_segment_but_no_sample(num_padding, num_samples):
    row = PackedSequence(int32(1, 2, 3, 0, 0), int32(1, 2, 3, 0, 0), int32(0, 3, 5), num_padding)
    assert row.num_samples == num_samples and len(row) == 5


@pytest.mark.parametrize("cu_seqlens", [(0, 3), (1, 5), (0, 3, 3, 5)])
def test_boundaries_that_do_not_fit_the_row_are_refused(cu_seqlens):
    ids = int32(1, 2, 3, 4, 5)
    with pytest.raises(AssertionError):
        PackedSequence(ids, ids, int32(*cu_seqlens), 0)


def batch_of(*samples: list[tuple[int, int]]) -> TokenizedBatch:
    """Samples as lists of (id, label)."""
    pairs = [pair for sample in samples for pair in sample]
    lengths = np.array([len(sample) for sample in samples], np.int64)
    return TokenizedBatch(int32(*(token for token, _ in pairs)), int32(*(label for _, label in pairs)), lengths)


SAMPLES = [[(1, 1), (2, IGNORE_INDEX), (3, 3)], [], [(4, 4)], [(5, IGNORE_INDEX), (6, 6)], []]


def test_a_batch_is_its_samples():
    batch = batch_of(*SAMPLES)
    assert len(batch) == 5 and batch.num_trained.tolist() == [sample.num_trained for sample in batch] == [1, 0, 0, 1, 0]
    assert [list(zip(s.input_ids.tolist(), s.labels.tolist(), strict=True)) for s in batch] == SAMPLES
    assert batch_of().num_trained.tolist() == []


def test_samples_of_a_batch_can_be_replaced_or_left_out():
    batch = batch_of(*SAMPLES)
    shorter = TokenizedSample(int32(9), int32(9))
    changed = batch.replace({3: [shorter], 0: [], 4: ()})
    assert [sample.input_ids.tolist() for sample in changed] == [[], [4], [9]]
    assert changed.labels.tolist() == [4, 9]
    assert batch.replace({}) is batch
    assert len(batch.replace(dict.fromkeys(range(5), ()))) == 0
    assert batch.replace({2: [shorter] * 2, 4: [shorter] * 3}).lengths.tolist() == [
        *(len(SAMPLES[number]) for number in (0, 1)),
        *(1, 1, len(SAMPLES[3]), 1, 1, 1),
    ]
