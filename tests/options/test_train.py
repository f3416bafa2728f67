from __future__ import annotations

from typing import Any

import pytest

from seqpack.core.errors import ConfigError
from seqpack.options.train import TrainOptions


@pytest.mark.parametrize(
    "given",
    [
        {"train_iters": 3, "epochs": 1.0},
        {"epochs": 0.0},
        {"epochs": float("nan")},
        {"train_iters": 0},
        {"global_batch_size": 8, "micro_batch_size": 3},
        {"global_batch_size": 2, "micro_batch_size": 4},
        {"lr": 0.0},
        {"lr": 1e-5, "min_lr": 1e-4},
        {"lr_warmup_fraction": 0.1, "lr_warmup_iters": 5},
        {"adam_beta2": 1.0},
    ],
)
def test_contradictions(given: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="--") as raised:
        TrainOptions(**given)
    assert raised.value.code == "SP208"
    assert raised.value.help


def test_defaults_that_depend() -> None:
    options = TrainOptions()
    assert options.peak_lr(random_weights=True) > options.peak_lr(random_weights=False)
    assert TrainOptions(lr=0.5).peak_lr(random_weights=True) == 0.5
    assert options.warmup_steps(1000) == 30
    assert TrainOptions(lr_warmup_fraction=0.5).warmup_steps(10) == 5
    assert TrainOptions(lr_warmup_iters=50).warmup_steps(10) == 10
