"""Errors of torch_npu and CANN, many lines each, as one sentence with the code CANN gives it."""

from __future__ import annotations

import re

from seqpack.core.errors import DeviceError, DistributedError, SeqpackError

_OUT_OF_MEMORY = re.compile(r"NPU out of memory\.?( Tried to allocate [\d.]+ ?\w+)?")
# "EJ0001: 2024-05-21-11:57:54.167.645 Failed to ...", "EI0006: [PID: 12] 2025-...", "Get_Socket_Timeout(EI0006): ..."
_CANN = re.compile(
    r"\b(?P<code>E[A-Z0-9]\d{4})\b\)?:\s*(?:\[PID: \d+\]\s*)?(?:\d{4}-\d\d-\d\d-[\d:.]+\s*)?(?P<text>[^\n]*)"
)
_TORCH_NPU = re.compile(r"\b(?P<code>ERR\d{5})\b\s*(?P<text>[^\n]*)")
_FULL_STOP = re.compile(r"\.(?:\s|$)")
_INNER = "9999"
"""Ends the codes that CANN gives to what its users can do nothing about; they often accompany the cause."""

MEMORY_HELP = (
    "take a smaller --micro-batch-size, --recompute-granularity full, or more processes (--nproc), which share the "
    "weights"
)
_UNREACHED = (
    "see whether another rank ended first; if none did, the machines do not reach each other: "
    "HCCL_SOCKET_IFNAME names the network interface, HCCL_CONNECT_TIMEOUT the seconds to wait"
)
_HELP = {
    "EI0002": _UNREACHED,
    "EI0006": _UNREACHED,
    "EJ0001": "an earlier run may still hold the NPUs (npu-smi info lists processes); wait 10 seconds after its end",
    "EL0004": MEMORY_HELP,
}
_OTHER_HELP = "--traceback shows all of it, ~/ascend/log what CANN wrote"


def explain(error: BaseException) -> SeqpackError | None:
    """The error to show instead: SP513 without memory, SP611 between ranks, SP512 for the rest; None if not theirs."""
    message = str(error)
    if memory := _OUT_OF_MEMORY.search(message):
        return DeviceError("SP513", f"the NPU is out of memory:{memory[1] or ' no block was left'}", help=MEMORY_HELP)
    found = list(_CANN.finditer(message)) or list(_TORCH_NPU.finditer(message))
    if not found:
        return None
    cause = next((match for match in found if not match["code"].endswith(_INNER)), found[0])
    code, text = cause["code"], _sentence(cause["text"])
    help_text = _HELP.get(code, _OTHER_HELP)
    if code == "EL0004":
        return DeviceError("SP513", f"the NPU is out of memory: {code}, {text}", help=help_text)
    if code.startswith(("EI", "EJ")) or code == "ERR02200":
        return DistributedError("SP611", f"the NPUs of the run cannot work together: {code}, {text}", help=help_text)
    return DeviceError("SP512", f"the NPU reported an error: {code}, {text}", help=help_text)


def _sentence(text: str) -> str:
    """What happened and, if it is said, why: "Failed to initialize. Reason: Maybe ... running" of a longer line."""
    what, _, reasons = text.partition("Reason: ")
    what, why = (_FULL_STOP.split(part, maxsplit=1)[0].strip() for part in (what, reasons.removeprefix("1. ")))
    return f"{what} ({why})" if why else what
