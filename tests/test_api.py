"""What plugins rely on: a name that goes missing here breaks them, so that taking one away is a decision."""

from __future__ import annotations

import inspect
from pathlib import Path

import pytest

from seqpack import api

FROZEN = [
    "ATTENTION",
    "IGNORE_INDEX",
    "MLP",
    "SEQPACK_PLUGIN_API",
    "CheckpointError",
    "Component",
    "ConfigError",
    "DataError",
    "DataLossError",
    "DatasetHandler",
    "DeviceError",
    "DistributedError",
    "FormatError",
    "HandlerOptions",
    "Join",
    "MaskMode",
    "Message",
    "MetricSink",
    "PackPlan",
    "PackedDataset",
    "PackedSequence",
    "PackingStrategy",
    "Part",
    "PluginError",
    "Preference",
    "PromptTemplate",
    "Question",
    "RejectError",
    "Rule",
    "Sample",
    "SeqpackError",
    "Span",
    "TextSample",
    "TokenizedSample",
    "WeightConverter",
    "experts_under",
    "hookimpl",
]
CONTRIBUTING = Path(__file__).parents[1] / "CONTRIBUTING.md"


def test_the_public_names_are_these():
    assert api.__all__ == FROZEN


def test_the_module_shows_no_other_names():
    assert {name for name in vars(api) if not name.startswith("_")} - {"annotations"} == set(FROZEN)


@pytest.mark.parametrize("name", FROZEN)
def test_a_public_name_is_documented(name):
    value = getattr(api, name)
    if inspect.isclass(value):
        text = vars(value).get("__doc__") or ""
        assert text and not text.startswith(f"{name}("), f"{name} has no docstring of its own"
    else:
        assert f"`{name}`" in CONTRIBUTING.read_text(encoding="utf-8"), f"CONTRIBUTING.md does not mention {name}"


def test_errors_form_one_tree():
    errors = [
        value for name in FROZEN if name.endswith("Error") and name != "RejectError" for value in [vars(api)[name]]
    ]
    assert all(issubclass(error, api.SeqpackError) for error in errors)
    # A handler's verdict on a row, which never reaches the user as an error.
    assert not issubclass(api.RejectError, api.SeqpackError)


def test_errors_end_the_command_with_these_codes():
    codes = {name: vars(api)[name].exit_code for name in FROZEN if name.endswith("Error") and name != "RejectError"}
    assert codes == {
        "SeqpackError": 1,
        "ConfigError": 2,
        "PluginError": 2,
        "DataError": 3,
        "FormatError": 3,
        "CheckpointError": 3,
        "DataLossError": 4,
        "DeviceError": 5,
        "DistributedError": 6,
    }
