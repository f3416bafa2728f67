"""Exit codes are what scripts check; the tree is what callers catch."""

from __future__ import annotations

import pytest

from seqpack.core import errors


def all_errors(base: type[errors.SeqpackError]) -> set[type[errors.SeqpackError]]:
    return {base, *(error for child in base.__subclasses__() for error in all_errors(child))}


EXIT_CODES = {
    errors.SeqpackError: 1,
    errors.ConfigError: 2,
    errors.PluginError: 2,
    errors.DataError: 3,
    errors.FormatError: 3,
    errors.CheckpointError: 3,
    errors.DataLossError: 4,
    errors.DeviceError: 5,
    errors.DistributedError: 6,
}


def test_every_error_has_its_exit_code():
    ours = {error for error in all_errors(errors.SeqpackError) if error.__module__ == errors.__name__}
    assert {error: error.exit_code for error in ours} == EXIT_CODES


def test_a_damaged_file_is_caught_as_bad_data():
    assert issubclass(errors.FormatError, errors.DataError)
    assert issubclass(errors.CheckpointError, errors.DataError)


@pytest.mark.parametrize(("help", "text"), [("", "a.jsonl:3 is bad"), ("mend it", "a.jsonl:3 is bad (mend it)")])
def test_the_text_has_message_and_help(help, text):
    error = errors.DataError("SP103", "a.jsonl:3 is bad", help=help)
    assert str(error) == text
    assert (error.code, error.message, error.help) == ("SP103", "a.jsonl:3 is bad", help)


def test_a_rejection_is_no_error_of_the_run():
    rejection = errors.RejectError("empty 'output'", missing_column=True)
    assert not isinstance(rejection, errors.SeqpackError)
    assert (rejection.reason, rejection.missing_column) == ("empty 'output'", True)
