"""How an NPU is found, loaded and refused; torch_npu itself is a module made here."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch

from seqpack.core.errors import DeviceError, DistributedError, SeqpackError
from seqpack.runtime import npu
from seqpack.runtime.device import CpuBackend, device_errors, select_device
from seqpack.runtime.npu import NpuBackend, hide_torch_npu, load_torch_npu, npu_is_there
from seqpack.runtime.npu_errors import explain

pytestmark = pytest.mark.skipif(
    "torch_npu" in sys.modules and sys.modules["torch_npu"] is not None, reason="the real torch_npu is in use"
)


@pytest.fixture(autouse=True)
def nothing_hidden() -> Iterator[None]:
    """torch_npu as this process would find it, before and after."""
    sys.modules.pop("torch_npu", None)
    yield
    sys.modules.pop("torch_npu", None)


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder on the path; its torch_npu/__init__.py is the test's."""
    (tmp_path / "torch_npu").mkdir()
    (tmp_path / "torch_npu" / "__init__.py").write_text("")
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


def devices(tmp_path: Path, *names: str) -> Path:
    folder = tmp_path / "dev"
    folder.mkdir()
    for name in names:
        (folder / name).touch()
    return folder


@pytest.mark.parametrize(("names", "there"), [(("davinci0",), True), (("davinci_manager", "null"), False)])
def test_an_npu_is_found_by_its_device_file(package: Path, tmp_path: Path, names: tuple[str, ...], there: bool) -> None:
    (package / "torch_npu" / "__init__.py").write_text("raise RuntimeError('imported')")
    assert npu_is_there(devices(tmp_path, *names)) is there


def test_without_torch_npu_there_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(npu, "find_spec", lambda name: None)
    assert not npu_is_there(devices(tmp_path, "davinci0"))
    with pytest.raises(DeviceError, match=r"seqpack-toolkit\[npu\]") as raised:
        load_torch_npu()
    assert raised.value.code == "SP502"


def test_auto_takes_the_npu_that_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    chosen = []
    monkeypatch.setattr("seqpack.runtime.device.NpuBackend", lambda index: chosen.append(index))
    monkeypatch.setattr("seqpack.runtime.device.npu_is_there", lambda: True)
    select_device("auto", index=3)
    assert chosen == [3]
    monkeypatch.setattr("seqpack.runtime.device.npu_is_there", lambda: False)
    assert select_device("auto").name == "cpu"


def test_a_run_on_the_cpu_hides_it_from_transformers(package: Path) -> None:
    select_device("cpu")
    assert find_spec("torch_npu") is None
    with pytest.raises(ImportError):
        import torch_npu  # type: ignore[import-not-found]  # noqa: F401
    assert not npu_is_there(package)  # looks again, and finds the package without a device
    assert find_spec("torch_npu") is not None


def test_what_is_imported_already_is_not_hidden(package: Path) -> None:
    module = ModuleType("torch_npu")
    module.__spec__ = ModuleSpec("torch_npu", None)
    sys.modules["torch_npu"] = module
    hide_torch_npu()
    assert sys.modules["torch_npu"] is module


@pytest.mark.parametrize(
    ("error", "home", "help_text"),
    [
        ("ImportError('libhccl.so: cannot open shared object file')", None, "not set up in this shell: source"),
        ("ImportError('libhccl.so: cannot open shared object file')", "/opt/cann", "ASCEND_HOME_PATH /opt/cann"),
        ("ImportError('_C.so: undefined symbol: aclFoo')", "/opt/cann", f"made for this torch, {torch.__version__}"),
        ("RuntimeError('Two accelerators cannot be used: npu and cuda.\\nmore')", None, "CPU build of torch"),
    ],
)
def test_why_it_cannot_be_loaded(package: Path, error: str, home: str | None, help_text: str) -> None:
    (package / "torch_npu" / "__init__.py").write_text(f"raise {error}")
    with pytest.raises(DeviceError, match="installed but cannot be loaded") as raised:
        load_torch_npu({} if home is None else {"ASCEND_HOME_PATH": home})
    assert raised.value.code == "SP511"
    assert help_text in raised.value.help
    assert "\n" not in raised.value.message


class FakeNpu:
    """``torch.npu`` of a machine with two NPUs."""

    def __init__(self, error: str = "") -> None:
        self.calls: list[Any] = []
        self.config = SimpleNamespace(allow_internal_format=True)
        self._error = error

    def is_available(self) -> bool:
        return True

    def device_count(self) -> int:
        return 2

    def set_compile_mode(self, *, jit_compile: bool) -> None:
        self.calls.append(("jit_compile", jit_compile))

    def set_device(self, index: int) -> None:
        if self._error:
            raise RuntimeError(self._error)
        self.calls.append(("device", index))

    def get_device_name(self, index: int) -> str:
        return f"Ascend910B{index}"


def test_the_device_of_a_process(monkeypatch: pytest.MonkeyPatch) -> None:
    module = FakeNpu()
    monkeypatch.setattr(npu, "load_torch_npu", lambda: module)
    monkeypatch.setattr(torch, "device", lambda kind, index: (kind, index))  # a torch without NPUs knows no such name
    backend = NpuBackend(1)
    assert (backend.name, backend.device) == ("Ascend910B1", ("npu", 1))
    assert module.calls == [("jit_compile", False), ("device", 1)]
    assert module.config.allow_internal_format is False


def test_more_processes_than_npus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(npu, "load_torch_npu", FakeNpu)
    with pytest.raises(DeviceError, match="process 2 of this machine has no NPU of its own: it sees 2") as raised:
        NpuBackend(2)
    assert raised.value.code == "SP501"


@pytest.mark.parametrize(("said", "shown"), [("EL0004: Failed to allocate memory.", DeviceError), ("?", RuntimeError)])
def test_a_device_that_cannot_be_taken(monkeypatch: pytest.MonkeyPatch, said: str, shown: type[Exception]) -> None:
    monkeypatch.setattr(npu, "load_torch_npu", lambda: FakeNpu(said))
    with pytest.raises(shown):
        NpuBackend(0)


SOCKET = (
    "InnerRunOpApi:torch_npu/csrc/framework/OpParamMaker.cpp:281 OPS function error: HcclAllreduce, error code is 6\n"
    "[ERROR] 2025-04-08-18:07:20 (PID:1292363, Device:1, RankID:1) ERR01100 OPS call acl api failed.\n"
    "EI0006: [PID: 1292363] 2025-04-08-18:07:20.444.436 Getting socket times out. Reason: Remote Rank did not send the "
    "data in time. Please check the reason for the rank being stuck\n        Solution: 1. Check the rank"
)
NEW_SOCKET = (
    "[PID: 749] 2025-12-29-03:16:15.787.356 Get_Socket_Timeout(EI0006): Getting socket times out. Reason: 1. The "
    "remote does not initiate a connect request. some NPUs in the cluster are abnormal."
)
HELD = (
    "[ERROR] HCCL error in: torch_npu/csrc/distributed/ProcessGroupHCCL.cpp:64\n"
    "[ERROR] 2024-05-21-11:57:54 (PID:927000, Device:3, RankID:3) ERR02200 DIST call hccl api failed.\n"
    "EJ0001: 2024-05-21-11:57:54.167.645 Failed to initialize the HCCP process. Reason: Maybe the last training "
    "process is running.\n        Solution: Wait for 10s after killing the last training process and try again."
)
INNER_FIRST = (
    "EZ9999: Inner Error!\nEZ9999: [PID: 5] 2025-01-01-00:00:00.000.000 The error from device\n"
    "E19999: Inner Error!\nEE1001: [PID: 5] 2025-01-01-00:00:00.000.000 The argument is invalid.Reason: rtMalloc"
)


@pytest.mark.parametrize(
    ("said", "kind", "code", "message", "help_text"),
    [
        (
            "NPU out of memory. Tried to allocate 20.00 GiB (NPU 0; 60.97 GiB total capacity; 1 GiB free)",
            DeviceError,
            "SP513",
            "the NPU is out of memory: Tried to allocate 20.00 GiB",
            "--micro-batch-size",
        ),
        (
            SOCKET,
            DistributedError,
            "SP611",
            "the NPUs of the run cannot work together: EI0006, Getting socket times out (Remote Rank did not send the "
            "data in time)",
            "HCCL_SOCKET_IFNAME",
        ),
        (
            NEW_SOCKET,
            DistributedError,
            "SP611",
            "EI0006, Getting socket times out (The remote does not initiate a connect request)",
            "HCCL_CONNECT_TIMEOUT",
        ),
        (HELD, DistributedError, "SP611", "Maybe the last training process is running", "npu-smi info"),
        ("EL0004: 2025-01-01 Failed to allocate memory.", DeviceError, "SP513", "out of memory: EL0004", "--nproc"),
        (INNER_FIRST, DeviceError, "SP512", "EE1001, The argument is invalid", "--traceback"),
        ("EZ9999: Inner Error!", DeviceError, "SP512", "the NPU reported an error: EZ9999, Inner Error!", "ascend/log"),
        ("x\n[ERROR] (PID:1) ERR00100 PTA call acl api failed", DeviceError, "SP512", "ERR00100, PTA call acl api", ""),
    ],
)
def test_what_cann_says(said: str, kind: type[SeqpackError], code: str, message: str, help_text: str) -> None:
    error = explain(RuntimeError(said))
    assert type(error) is kind
    assert error.code == code
    assert message in error.message
    assert "\n" not in error.message and len(error.message) < 200
    assert help_text in error.help


def test_other_errors_stay_what_they_are() -> None:
    assert explain(RuntimeError("mat1 and mat2 shapes cannot be multiplied (3x4 and 5x6)")) is None
    with pytest.raises(RuntimeError, match="EZ9999"), device_errors(CpuBackend()):
        raise RuntimeError("EZ9999: nothing of an NPU's")


def test_an_error_of_the_device_becomes_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    backend = CpuBackend()
    monkeypatch.setattr(CpuBackend, "explain", lambda self, error: explain(error))
    with pytest.raises(DeviceError, match="EZ9999") as raised, device_errors(backend):
        raise RuntimeError("EZ9999: Inner Error!")
    assert isinstance(raised.value.__cause__, RuntimeError)
