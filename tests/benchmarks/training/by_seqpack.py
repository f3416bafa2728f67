"""One run of seqpack for ``bench_training.py``: a line of JSON for every optimizer step."""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Mapping
from pathlib import Path

from seqpack.options.train import ModelOptions, RunOptions, TrainDataOptions, TrainOptions
from seqpack.train.prepare import prepare
from seqpack.train.run import execute


class Clock:
    """A metric sink that prints the clocks and the tokens so far, and what the step waited for its rows."""

    def __init__(self) -> None:
        self._tokens, self._padding, self._waited = 0, 0, 0.0

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        self._tokens += int(metrics["num_tokens"])
        self._padding += int(metrics["num_padding"])
        self._waited += metrics["data_seconds"]
        seen = {"tokens": self._tokens, "padding": self._padding, "waited": self._waited}
        print(json.dumps({"cpu": time.process_time(), "wall": time.perf_counter(), **seen}), flush=True)

    def close(self) -> None:
        pass


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", required=True, help="prefix of a data set")
    parser.add_argument("--model", required=True)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--micro-batch", type=int, required=True)
    parser.add_argument("--accumulate", type=int, required=True)
    parser.add_argument("--steps", type=int, required=True)
    parser.add_argument("--pad", action="store_true", help="pad the rows of a micro-batch to the longest")
    parser.add_argument("--recompute", action="store_true")
    options = parser.parse_args()

    plan = prepare(
        TrainDataOptions(data_path=[options.data], pad_to="longest" if options.pad else "none"),
        ModelOptions(model=options.model),
        TrainOptions(
            train_iters=options.steps,
            micro_batch_size=options.micro_batch,
            global_batch_size=options.micro_batch * options.accumulate,
            recompute_granularity="full" if options.recompute else "none",
            lr=1e-3,
        ),
        RunOptions(save=options.output, overwrite=True, num_threads=1),
    )
    execute(plan, sinks=[Clock()])


if __name__ == "__main__":
    main()
