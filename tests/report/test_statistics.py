"""The screen of ``stats``, by its text where that is stable, at the width of a small terminal."""

from __future__ import annotations

import dataclasses

import pytest

from seqpack.core.ledger import Ledger
from seqpack.packing.quality import PlanQuality
from seqpack.pipeline.characters import Characters
from seqpack.pipeline.describe import Bucket
from seqpack.pipeline.forecast import Copies, Ending, Sampled, Stats, Steps
from seqpack.pipeline.layouts import Candidate, Layout
from seqpack.report.statistics import characters_screen, copies_line, endings_line, stats_screen
from tests.report.test_packs import plain


@pytest.fixture
def made() -> Stats:
    ledger = Ledger()
    ledger.keep_whole(2596, 600_000, 411_000)
    for _ in range(3):
        ledger.keep(2000, 1000, original=4053)
    quality = PlanQuality(298, 298, 0.0, 0.9971, 11.4, 0.5, 0.02)
    return Stats(
        files=("data/[a].jsonl", "data/b.jsonl"), engine="tokenizers 0.22", engine_refused="", handler="alpaca",
        prompt_type="qwen", seq_length=2048, seq_length_was_given=True, ledger=ledger, num_tokens=612_159,
        mean=235.5, quantiles={"p50": 178, "p99": 1123}, minimum=12, maximum=4100,
        describe={"count": 2599.0, "mean": 235.5, "std": 301.25, "min": 12.0, "25%": 80.0, "50%": 178.0, "75%": 300.0,
                  "max": 4100.0},
        histogram=(Bucket(8, 15, 99, 0.04), Bucket(16, 2047, 2497, 0.999), Bucket(2048, 4100, 3, 1.0)),
        layouts=(Layout("pad to 2,048", 2599, 5_322_752, 0.1138, 8.71, 3),
                 Layout("pack, best-fit", 298, 610_304, 0.9971, 1.0, 3, quality),
                 Layout("pack, optimal", 0, 0, 0.0, 0.0, note="needs the package x")),
        fewest_rows=298, attended_share=0.221, steps=Steps(8, 325, 38, 69.77),
        candidates=(Candidate(1024, 584, 0.998, 46, 0.9734), Candidate(2048, 298, 0.9971, 3, 1.0)),
        longest=(), copies=Copies(100, "data/b.jsonl:7", "data/[a].jsonl:3"), endings=(Ending(9, "<|im_end|>", 2599),),
    )  # fmt: skip


def test_the_screen(made):
    assert plain(*stats_screen(made)) == SCREEN


SCREEN = """\
2,599 samples · 2 files · handler alpaca · template qwen · tokenizers 0.22
612,159 tokens · 68.3 % trained on · mean 236 · p50 178 · p99 1,123 · max 4,100

count   mean    std  min   25%    50%    75%    max
2,599  235.5  301.2   12  80.0  178.0  300.0  4,100

tokens/sample                                samples  cumulated
         8-15  █▏                                 99      4.0 %
     16-2,047  ████████████████████████████    2,497     99.9 %
  2,048-4,100  ▏                                   3    100.0 %  ◂ seq-length

What each layout would cost at --seq-length 2,048, one epoch
layout           rows    over  filled  cut  mixing  balance  vs best
pad to 2,048    2,599       –  11.4 %    3       –        –    8.71x
pack, best-fit    298  0.00 %  99.7 %    3   11.40     0.50    1.00x
no packing can need fewer than 298 rows
over: rows above that bound · cut: samples not kept whole
mixing: 1 is a random draw, more is samples of like length together
balance: variation of attention work from pack to pack
pack, optimal: needs the package x
attention inside packed samples: 22.1 % of full rows of 2,048
steps per epoch of 8 rows: 325 unpacked, 38 packed (69.8 samples a step)

Other lengths, about
--seq-length  packs  filled  longer  tokens kept
       1,024    584  99.8 %      46       97.3 %
       2,048    298  99.7 %       3      100.0 %  ◂ shortest that keeps 99.9 %
"""


def test_a_part_of_the_rows_says_how_far_off_it_may_be(made):
    ranges = {"p50": (170, 185), "p99": (1000, 1300)}
    part = dataclasses.replace(made, sampled=Sampled(0.001, 7, 2599, 2_600_000, 612_000_000, 5_900_000, 2.3, ranges))
    assert plain(*stats_screen(part)).startswith(
        "2,599 samples from 0.1 % of the rows (2,599 of 2,600,000, --seed 7) · 2 files ·\n"
        "handler alpaca · template qwen · tokenizers 0.22\n"
        "about 612,000,000 ± 5,900,000 tokens in all rows · 68.3 % trained on · mean\n"
        "235.5 ± 2.3\n"
        "p50 178 (170-185) · p99 1,123 (1,000-1,300) · longest taken 4,100\n"
        "± and ranges: one standard error of taking a part\n"
    )
    assert "fewer than about 298 rows" in plain(*stats_screen(part))


def test_a_suggested_length_says_so(made):
    assert "2,048 (suggested)" in plain(*stats_screen(dataclasses.replace(made, seq_length_was_given=False)))
    own = dataclasses.replace(made, seq_length_was_given=False, source="packed set")
    assert "2,048 (its own)" in plain(*stats_screen(own))


def test_endings_and_copies_in_a_line(made):
    assert endings_line(made.endings, 2599) == "last trained token: <|im_end|> (9) in all samples"
    many = tuple(Ending(number, f"\n{number}", 10) for number in range(5))
    assert endings_line(many, 50) == (
        r"last trained token: \n0 (0) in 20.0 %, \n1 (1) in 20.0 %, \n2 (2) in 20.0 %, and 2 others"
    )
    assert copies_line(made) == "100 samples are exact copies of earlier ones: b.jsonl:7 repeats [a].jsonl:3"
    assert copies_line(dataclasses.replace(made, copies=Copies(0, "", ""))) == ""


def test_characters(made):
    found = Characters(made.files, made.describe, "instruction + input + output", 2)
    assert plain(*characters_screen(found)) == (
        "characters of instruction + input + output · 2,599 rows · 2 files\n"
        "count   mean    std  min   25%    50%    75%    max\n"
        "2,599  235.5  301.2   12  80.0  178.0  300.0  4,100\n"
        "2 rows not counted: nothing that could be\n"
        "characters are not tokens: leave out --characters to measure what --seq-length\nis about"
    )
