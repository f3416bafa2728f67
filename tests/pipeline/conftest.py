"""Runs of the pipeline in one line each."""

from __future__ import annotations

import dataclasses
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pytest

from seqpack.core.errors import DeviceError
from seqpack.core.progress import say_nothing
from seqpack.hooks.host import plugin_host
from seqpack.io.packed import PackedDataset
from seqpack.options.compat import CompatOptions
from seqpack.options.data import (
    InputOptions,
    LengthOptions,
    PackOptions,
    RepackOptions,
    StrategyOptions,
    TextOptions,
    WorkOptions,
    WriteOptions,
)
from seqpack.packing.planning import make_plan
from seqpack.pipeline.forecast import Stats
from seqpack.pipeline.output import DataSetResult
from seqpack.pipeline.preprocess import preprocess
from seqpack.pipeline.repack import repack
from seqpack.pipeline.stats import stats

T = TypeVar("T")


@dataclass(frozen=True)
class Runs:
    """``runs.preprocess(file, "out", seq_length=64, neat_pack=True)``: options by name, sets in one folder."""

    folder: Path
    tokenizer: Path

    def preprocess(self, file: Path | list[Path], name: str = "out", **options: Any) -> DataSetResult:
        read, text, length = self._input(file, options)
        pack = take(PackOptions, options)
        write = take(WriteOptions, options, output_prefix=self.folder / name)
        work = take(WorkOptions, options)
        compat = take(CompatOptions, options)
        resolved = options.pop("resolved", "seed: 1\n")
        say = options.pop("say", say_nothing)
        assert not options, f"unknown options {options}"
        return preprocess(read, text, length, pack, write, work, compat, resolved=resolved, say=say)

    def repack(self, source: str, name: str, **options: Any) -> DataSetResult:
        again = take(RepackOptions, options, source=self.folder / source)
        strategy = take(StrategyOptions, options)
        write = take(WriteOptions, options, output_prefix=self.folder / name)
        assert not options, f"unknown options {options}"
        return repack(again, strategy, write, resolved="seed: 1\n")

    def stats(self, file: Path, **options: Any) -> Stats:
        seed, workers, share = (options.pop(*each) for each in (("seed", 1234), ("workers", None), ("share", 1.0)))
        read, text, length = self._input(file, options)
        assert not options, f"unknown options {options}"
        return stats(read, text, length, seed=seed, workers=workers, share=share)

    def open(self, name: str) -> PackedDataset:
        return PackedDataset.open(self.folder / name)

    def files(self) -> dict[str, bytes]:
        """Everything in the folder of the sets, hidden files and folders too."""
        paths = self.folder.rglob("*") if self.folder.exists() else ()
        return {str(path.relative_to(self.folder)): path.read_bytes() if path.is_file() else b"" for path in paths}

    def _input(
        self, file: Path | list[Path], options: dict[str, Any]
    ) -> tuple[InputOptions, TextOptions, LengthOptions]:
        files = file if isinstance(file, list) else [file]
        options.setdefault("tokenizer", self.tokenizer)
        return take(InputOptions, options, input=files), take(TextOptions, options), take(LengthOptions, options)


def take(kind: type[T], options: dict[str, Any], **values: Any) -> T:
    """Options of this kind, removed from ``options``."""
    names = [field.name for field in dataclasses.fields(kind)]  # type: ignore[arg-type]
    return kind(**values, **{name: options.pop(name) for name in names if name in options})


@pytest.fixture
def runs(tmp_path: Path, tokenizer_dir: Path) -> Runs:
    return Runs(tmp_path / "sets", tokenizer_dir)


@pytest.fixture
def alpaca(write_jsonl) -> Path:
    """Forty rows of 38 to some 200 tokens under the qwen template."""
    rows = [
        {"instruction": f"Say the word number {n}.", "input": "", "output": " water" * (n * n // 10 + 1)}
        for n in range(40)
    ]
    return write_jsonl(rows, "alpaca.jsonl")


def samples(dataset: PackedDataset) -> Counter[tuple[tuple[int, ...], tuple[int, ...]]]:
    """All samples of a set, as (ids, labels), whatever row they are in."""
    found: Counter[tuple[tuple[int, ...], tuple[int, ...]]] = Counter()
    for row in dataset:
        starts, ends = row.cu_seqlens[: row.num_samples], row.cu_seqlens[1:]
        for start, end in zip(starts, ends, strict=False):
            found[tuple(row.input_ids[start:end].tolist()), tuple(row.labels[start:end].tolist())] += 1
    return found


def whole_strategies() -> list[str]:
    """Names of the strategies that can be used here and keep samples whole."""
    names = []
    for strategy in plugin_host().strategies:
        try:
            plan = make_plan(strategy, np.full(9, 3), seq_length=4, seed=1)
        except DeviceError:  # it needs a package that is not installed
            continue
        if len(plan.sample) == 9:
            names.append(strategy.name)
    return names
