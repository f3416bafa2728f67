"""Event files that read back as what was logged, and trackers that get what a run logs."""

import struct
import sys
from types import SimpleNamespace

import pytest
from seqpack_metrics import trackers
from seqpack_metrics.tensorboard import TensorBoardSink, crc32c, masked_checksum

from seqpack.api import DeviceError


def records(data):
    while data:
        (length,) = struct.unpack("<Q", data[:8])
        assert data[8:12] == masked_checksum(data[:8])
        event = data[12 : 12 + length]
        assert data[12 + length : 16 + length] == masked_checksum(event)
        yield event
        data = data[16 + length :]


def varint(data):
    value = shift = 0
    for place, byte in enumerate(data):
        value |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            return value, data[place + 1 :]
    raise AssertionError("cut off")


def fields(data):
    """Field number and value of a protocol buffer."""
    while data:
        key, data = varint(data)
        size = {0: None, 1: 8, 2: None, 5: 4}[key & 7]
        if key & 7 == 0:
            value, data = varint(data)
        else:
            if key & 7 == 2:
                size, data = varint(data)
            value, data = data[:size], data[size:]
        yield key >> 3, value


def test_checksum_of_the_standard():
    assert crc32c(b"123456789") == 0xE3069283


def test_what_is_logged_is_read(tmp_path):
    sink = TensorBoardSink(tmp_path, {})
    sink.log(1, {"loss": 2.5, "lr": 1e-3})
    sink.log(300, {"loss": 0.25})
    sink.close()
    (file,) = (tmp_path / "tensorboard").iterdir()
    assert file.name.startswith("events.out.tfevents.")
    first, *events = [dict(fields(event)) for event in records(file.read_bytes())]
    assert first[3] == b"brain.Event:2"
    seen = []
    for event in events:
        for _, value in fields(event[5]):
            named = dict(fields(value))
            seen.append((event[2], named[1].decode(), struct.unpack("<f", named[2])[0]))
    assert seen == [(1, "loss", 2.5), (1, "lr", pytest.approx(1e-3)), (300, "loss", 0.25)]


def test_tensorboard_itself_reads_it(tmp_path):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    sink = TensorBoardSink(tmp_path, {})
    sink.log(7, {"loss": 1.5})
    sink.close()
    events = accumulator.EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert [(event.step, event.value) for event in events.Scalars("loss")] == [(7, 1.5)]


@pytest.mark.parametrize(
    ("name", "sink"), [("wandb", "WandbSink"), ("swanlab", "SwanLabSink"), ("mlflow", "MlflowSink")]
)
def test_a_tracker_gets_the_metrics(tmp_path, monkeypatch, name, sink):
    calls = []

    def record(call):
        return lambda *given, **named: calls.append((call, given, named)) or package

    methods = ("init", "log", "finish", "start_run", "log_params", "log_metrics", "end_run")
    package = SimpleNamespace(**{method: record(method) for method in methods})
    monkeypatch.setitem(sys.modules, name, package)
    made = getattr(trackers, sink)(tmp_path / "mine", {"lr": 1e-5})
    made.log(3, {"loss": 1.0})
    made.close()
    started, *_, logged, ended = calls
    assert "mine" in started[2].values()
    assert (logged[1], logged[2]) == (({"loss": 1.0},), {"step": 3})
    assert ended[0] in ("finish", "end_run")


def test_a_tracker_that_is_not_installed(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(DeviceError, match="pip install wandb"):
        trackers.WandbSink(tmp_path, {})
