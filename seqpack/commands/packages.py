"""What a command needs beyond the data plane, looked for before anything is imported."""

from __future__ import annotations

import os
from importlib.util import find_spec

from seqpack.core.errors import DeviceError


def require_training_packages(what: str) -> None:
    """DeviceError SP502 that names the missing packages and the way to install them; ``what`` needs them.

    torch is then imported without the extensions that load themselves with it: of those, a device is loaded once it is
    chosen, and one whose software is missing (torch_npu without CANN) would take ``import torch`` down with it.
    """
    os.environ["TORCH_DEVICE_BACKEND_AUTOLOAD"] = "0"
    missing = [name for name in ("torch", "transformers", "safetensors") if find_spec(name) is None]
    if missing:
        raise DeviceError(
            "SP502",
            f"{what} needs {' and '.join(missing)}, which is not installed",
            help='pip install "seqpack-toolkit[train]"',
        )
