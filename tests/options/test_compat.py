"""Flags of other systems."""

from __future__ import annotations

import pytest

from seqpack.core.errors import ConfigError
from seqpack.options.compat import CompatOptions, IgnoredOptions


@pytest.mark.parametrize("options", [{"n_subs": 4}, {"pad_to_multiple_of": 8}])
def test_flags_that_mean_something_only_there_are_refused_elsewhere(options):
    with pytest.raises(ConfigError, match="only for --compat mindspeed") as caught:
        CompatOptions(**options)
    assert caught.value.code == "SP026"
    assert CompatOptions(compat="mindspeed", **options).compat == "mindspeed"


def test_flags_without_effect_say_so():
    assert IgnoredOptions().notes() == []
    notes = IgnoredOptions(log_interval=1000, overwrite_cache=True).notes()
    assert notes == [
        "--log-interval has no effect: progress is shown by time.",
        "--overwrite-cache has no effect: there is no cache to overwrite.",
    ]
