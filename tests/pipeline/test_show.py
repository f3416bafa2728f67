"""One pack as people see it agrees with the pack on disk."""

from __future__ import annotations

import itertools
import json
import shutil

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from seqpack.core.errors import ConfigError
from seqpack.core.segments import Segments, cu_seqlens_from_lengths
from seqpack.core.types import IGNORE_INDEX, MaskMode
from seqpack.pipeline.show import TOKENS_SHOWN, mask_picture, show

MASKS = pytest.mark.parametrize("mask", MaskMode)


def dense_mask(lengths: list[int], mask: MaskMode, num_padding: int) -> np.ndarray:
    owner = np.repeat(np.arange(len(lengths)), lengths)
    seen = np.tril(np.ones((len(owner), len(owner))))
    if mask is MaskMode.BLOCK_CAUSAL:
        seen *= owner[:, None] == owner[None, :]
    if num_padding:
        seen[-num_padding:] = 0
    return seen


@MASKS
@given(
    lengths=st.lists(st.integers(1, 30), min_size=1, max_size=6),
    is_padded=st.booleans(),
    cells=st.integers(1, 32),
)
def test_the_picture_is_the_mean_of_a_dense_mask(mask, lengths, is_padded, cells):
    num_padding = lengths[-1] if is_padded and len(lengths) > 1 else 0
    total = sum(lengths)
    cells = min(cells, total)
    picture = mask_picture(Segments(cu_seqlens_from_lengths(lengths), mask), num_padding=num_padding, cells=cells)
    dense = dense_mask(lengths, mask, num_padding)
    edges = np.linspace(0, total, cells + 1).round().astype(int)
    expected = [
        [dense[top:bottom, left:right].mean() for left, right in itertools.pairwise(edges)]
        for top, bottom in itertools.pairwise(edges)
    ]
    assert np.allclose(picture, expected)


def test_padding_is_blank():
    picture = mask_picture(Segments(cu_seqlens_from_lengths([4, 4])), num_padding=4, cells=2)
    assert picture == ((0.625, 0.0), (0.0, 0.0))


@pytest.fixture
def neat(runs, alpaca):
    runs.preprocess(alpaca, "neat", seq_length=256, neat_pack=True)
    return runs.open("neat")


def test_samples_of_a_pack(neat, alpaca):
    row = int(neat.num_samples.argmax())
    shown, sequence = show(neat.paths.prefix, row), neat[row]
    assert (shown.row, shown.num_rows, shown.mask) == (row, len(neat), "block-causal")
    assert (shown.num_tokens, shown.num_padding) == (256 - sequence.num_padding, sequence.num_padding)
    assert len(shown.samples) == sequence.num_samples > 1 and shown.tokens == () and shown.tokenizer_note == ""
    for number, sample in enumerate(shown.samples):
        piece = int(neat.offsets[row]) + number
        assert (sample.number, sample.first) == (number, sequence.cu_seqlens[number])
        assert (sample.num_tokens, sample.num_targets) == (neat.pieces.length[piece], neat.pieces.num_targets[piece])
        line = int(neat.pieces.line[piece])
        assert sample.key == f"{alpaca}:{line}"
        assert f"{line - 1}.<|im_end|>" in sample.text, "the text begins where the samples differ"
        assert "helpful assistant" not in sample.text


def test_a_sample_alone_is_shown_from_its_beginning(runs, write_jsonl):
    runs.preprocess(write_jsonl([{"instruction": "Hi", "output": " water" * 99}]))
    (sample,) = show(runs.folder / "out", 0).samples
    assert sample.text.startswith("<|im_start|>system You are a helpful assistant.")
    assert 0 < sample.text.count("water") < TOKENS_SHOWN


def test_equal_samples_are_shown_whole(runs, write_jsonl):
    runs.preprocess(write_jsonl([{"instruction": "Hi", "output": "Hi!"}] * 2), seq_length=256, neat_pack=True)
    assert all("Hi!" in sample.text for sample in show(runs.folder / "out", 0).samples)


@pytest.mark.parametrize("neat_pack", [True, False])
def test_every_token_can_be_listed(runs, alpaca, neat_pack):
    runs.preprocess(alpaca, seq_length=256, neat_pack=neat_pack, pack=True)
    dataset = runs.open("out")
    row = len(dataset) - 1 if dataset[-1].num_padding else int((dataset.num_tokens < 256).argmax())
    sequence, tokens = dataset[row], show(runs.folder / "out", row, with_tokens=True).tokens
    assert [token.index for token in tokens] == list(range(256))
    assert [token.token_id for token in tokens] == sequence.input_ids.tolist()
    assert [token.label for token in tokens] == sequence.labels.tolist()
    segment = np.repeat(np.arange(len(sequence.cu_seqlens) - 1), np.diff(sequence.cu_seqlens)).tolist()
    assert segment.count(sequence.num_samples) == sequence.num_padding > 0
    assert [token.segment for token in tokens] == [n if n < sequence.num_samples else None for n in segment]
    positions = [position for length in np.diff(sequence.cu_seqlens) for position in range(length)]
    assert [token.position for token in tokens] == (positions if neat_pack else list(range(256)))
    for token, after in zip(tokens, [*tokens[1:], None], strict=True):
        is_last = after is None or after.segment != token.segment
        assert token.target == (None if is_last or after.label == IGNORE_INDEX else after.label)
    assert sum(token.target is not None for token in tokens) == dataset.num_targets[row]
    assert "".join(token.text for token in tokens).startswith(
        "<|im_start|>system\nYou are a helpful assistant.<|im_end|>"
    )


@MASKS
def test_the_share_of_the_triangle_that_is_attended(runs, alpaca, mask):
    runs.preprocess(alpaca, seq_length=256, pack=True, neat_pack=mask is MaskMode.BLOCK_CAUSAL)
    for number, row in enumerate(runs.open("out")):
        lengths = np.diff(row.cu_seqlens)[: row.num_samples].tolist()
        full = np.tril(np.ones((sum(lengths), sum(lengths)))).sum()
        shown = show(runs.folder / "out", number)
        assert shown.attended_share == pytest.approx(dense_mask(lengths, mask, 0).sum() / full)
        assert (len(shown.picture), len(shown.picture[0])) == (32, 32)


def test_a_set_that_is_not_packed_can_be_shown(runs, alpaca):
    runs.preprocess(alpaca)
    shown = show(runs.folder / "out", 3)
    assert (len(shown.samples), shown.num_padding, shown.mask) == (1, 0, "block-causal")
    assert shown.attended_share == 1.0


def test_a_pack_that_is_not_there(neat):
    last = len(neat) - 1
    assert show(neat.paths.prefix, last).row == last
    with pytest.raises(ConfigError, match=f"packs 0 to {last}") as error:
        show(neat.paths.prefix, last + 1)
    assert error.value.code == "SP112"


@pytest.mark.parametrize("damage", ["missing", "other", "broken"])
def test_without_its_tokenizer_a_set_is_shown_without_texts(runs, alpaca, tokenizer_dir, tmp_path, damage):
    folder = shutil.copytree(tokenizer_dir, tmp_path / "tokenizer")
    runs.preprocess(alpaca, tokenizer=folder)
    assert show(runs.folder / "out", 0, with_tokens=True).samples[0].text
    path = folder / "tokenizer.json"
    if damage == "missing":
        path.unlink()
    else:
        text = path.read_text().replace("<|im_end|>", "<|im_stop|>")
        path.write_text("{" if damage == "broken" else text)
    shown = show(runs.folder / "out", 0, with_tokens=True)
    assert shown.tokenizer_note.startswith("no texts: ") and str(folder) in shown.tokenizer_note
    assert {sample.text for sample in shown.samples} == {token.text for token in shown.tokens} == {""}


def test_it_is_plain_data(neat):
    shown = show(neat.paths.prefix, 0, with_tokens=True)
    value = json.loads(json.dumps(shown.to_dict(), allow_nan=False))
    assert value["mask"] == "block-causal" and len(value["tokens"]) == 256
