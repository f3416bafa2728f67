"""Would training work on this machine? torch and what goes with it, devices, attention, network variables."""

from __future__ import annotations

import os
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as installed_version
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from seqpack.core.check_result import CheckResult
from seqpack.core.errors import SeqpackError
from seqpack.core.types import MaskMode
from seqpack.runtime.interfaces import check_interfaces

if TYPE_CHECKING:
    from collections.abc import Mapping

    from seqpack.attention.contract import AttentionBackend
    from seqpack.attention.npu_cases import CaseResult

NETWORK_PREFIXES = ("GLOO_", "HCCL_", "NCCL_", "TP_")
HCCL_SECONDS = 600
"""HCCL's own limit of 120 s is less than machines may differ in the time they take to load."""
PRECISIONS = ("float64", "float32", "bfloat16", "float16")
TRAINED_IN = ("float32", "bfloat16")


def network_checks(environment: Mapping[str, str]) -> Iterator[CheckResult]:
    """What the environment tells the libraries by which processes talk."""
    given = {name: value for name, value in sorted(environment.items()) if name.startswith(NETWORK_PREFIXES)}
    seen = ", ".join(f"{name}={value}" for name, value in given.items()) or "nothing is set"
    try:
        check_interfaces(environment)
    except SeqpackError as error:
        yield CheckResult("network", "failed", f"{error.message}: {error.help}")
        return
    seconds = environment.get("HCCL_CONNECT_TIMEOUT", "")
    if _has_npu() and not (seconds.isdecimal() and int(seconds) >= HCCL_SECONDS):
        yield CheckResult("network", "warning", f"{seen}; set HCCL_CONNECT_TIMEOUT=1800: the default of 120 s is short")
    else:
        yield CheckResult("network", "passed", seen)


def torch_checks(*, numbers: bool) -> Iterator[CheckResult]:
    """Whether torch loads, its partners fit, and attention computes what it should; ends where nothing more can run."""
    # Device packages load themselves with torch, and take it down with them where their own software is missing.
    os.environ["TORCH_DEVICE_BACKEND_AUTOLOAD"] = "0"
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as in train
    if find_spec("torch") is None:
        how = 'not installed: data can be prepared, not trained on; pip install "seqpack-toolkit[train]"'
        yield CheckResult("torch", "skipped", how)
        return
    try:
        import torch
    except Exception as error:
        yield CheckResult("torch", "failed", f"cannot be loaded: {type(error).__name__}: {_first_line(error)}")
        return
    built = f"CUDA {torch.version.cuda}" if torch.version.cuda else "CPU"
    yield CheckResult("torch", "passed", f"{torch.__version__}, built for {built}, {torch.get_num_threads()} threads")
    yield check_npu_pair(torch.__version__)
    devices = []
    for kind, result in _devices(torch):
        yield result
        if result.outcome == "passed":
            devices.append(kind)
    for device in devices:
        yield from attention_checks(device, numbers=numbers)


def check_npu_pair(torch_version: str) -> CheckResult:
    """torch_npu is made for one torch: their first two numbers are the same."""
    try:
        found = installed_version("torch_npu")
    except PackageNotFoundError:
        return CheckResult("torch_npu", "skipped", "not installed; only NPUs need it")
    ours, theirs = (".".join(number.split("+")[0].split(".")[:2]) for number in (torch_version, found))
    fault = f"torch_npu {found} goes with torch {theirs}, this is {torch_version}" if ours != theirs else ""
    return CheckResult.of("torch_npu", fault, f"{found} goes with torch {torch_version}")


def attention_checks(device: str, *, numbers: bool) -> Iterator[CheckResult]:
    """Which attention code runs on a device and why the rest does not; with ``numbers``, what each computes there."""
    from seqpack.attention.registry import BUILTIN_BACKENDS

    usable: list[tuple[AttentionBackend, list[str]]] = []
    reasons = []
    for backend in BUILTIN_BACKENDS:
        lacks = {dtype: backend.lacks(_needs(device, dtype)) for dtype in PRECISIONS}
        if dtypes := [dtype for dtype, reason in lacks.items() if not reason]:
            usable.append((backend, dtypes))
        else:
            reasons.append(f"{backend.name} {_reason(backend, device)}")
    names = ", ".join(f"{backend.name} ({', '.join(dtypes)})" for backend, dtypes in usable)
    chosen = any(not backend.on_request for backend, _ in usable)
    seen = "; ".join(filter(None, (names, *reasons)))
    yield CheckResult.of(f"attention on {device}", "" if chosen else f"nothing keeps samples apart: {seen}", seen)
    for backend, dtypes in usable if numbers else ():
        if not backend.on_request:
            yield check_numbers(backend, device, [dtype for dtype in dtypes if dtype in TRAINED_IN])


def check_numbers(backend: AttentionBackend, device: str, dtypes: list[str]) -> CheckResult:
    """All cases of the attention contract against float64 on the host."""
    import torch

    from seqpack.attention.npu_cases import run_cases

    name = f"{backend.name} on {device}"
    worst, wrong = [], ""
    for dtype in dtypes:
        try:
            results = run_cases(backend.load(), device=device, dtype=getattr(torch, dtype))
        except Exception as error:  # whatever a kernel raises
            return CheckResult(name, "failed", f"{dtype}: {type(error).__name__}: {_first_line(error)}")
        worst.append(f"{dtype} {max(max(result.differences.values()) for result in results):.1e}")
        failed = [result for result in results if not result.passed]
        wrong = wrong or "; ".join(_wrong(result) for result in failed)
    return CheckResult.of(name, wrong, f"largest differences in {len(results)} cases: {', '.join(worst)}")


def _wrong(result: CaseResult) -> str:
    over = ", ".join(f"{name} {off:.1e}" for name, off in result.differences.items() if not off <= result.tolerance)
    return f"{result.case.name} in {result.dtype}: {over}, over {result.tolerance:g}"


def _needs(device: str, dtype: str) -> Any:
    from seqpack.attention.contract import AttentionNeeds

    return AttentionNeeds(device, dtype, MaskMode.BLOCK_CAUSAL, head_size=64)


def _reason(backend: AttentionBackend, device: str) -> str:
    """Why it cannot run, in the precision it is best at."""
    dtype = next(dtype for dtype in PRECISIONS if dtype in backend.dtypes)
    return backend.lacks(_needs(device, dtype))


def _devices(torch: Any) -> Iterator[tuple[str, CheckResult]]:
    yield "cpu", CheckResult("device cpu", "passed", f"{torch.backends.cpu.get_cpu_capability()} kernels")
    if torch.cuda.is_available():
        found = [torch.cuda.get_device_properties(index) for index in range(torch.cuda.device_count())]
        names = ", ".join(f"{device.name} {device.total_memory / 2**30:.0f} GiB" for device in found)
        yield "cuda", CheckResult("device cuda", "passed", names)
    elif any(Path("/dev").glob("nvidia[0-9]*")):
        why = "a driver too old for it" if torch.version.cuda else "the torch that is installed is built for the CPU"
        yield "cuda", CheckResult("device cuda", "warning", f"there is a GPU that torch does not see: {why}")
    if _has_npu():
        yield "npu", _npu()


def _npu() -> CheckResult:
    if find_spec("torch_npu") is None:
        return CheckResult("device npu", "warning", 'an NPU is here; pip install "seqpack-toolkit[npu]" to train on it')
    from seqpack.runtime.npu import load_torch_npu

    try:
        npu = load_torch_npu()
        count = npu.device_count()
        names = ", ".join(str(npu.get_device_name(index)) for index in range(count))
    except SeqpackError as error:
        return CheckResult("device npu", "failed", f"{error.message}: {error.help}")
    return CheckResult.of("device npu", "" if count else "torch_npu sees no NPU: see npu-smi info", names)


def _has_npu() -> bool:
    return any(Path("/dev").glob("davinci[0-9]*"))


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [""])[0][:200]
