"""Compare two Hugging Face model folders tensor by tensor: same names, formats, shapes and bytes?

python compare_weights.py demo-out/run-packed/model demo-out/back
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

LENGTH_BYTES = 8


def main() -> None:
    parser = argparse.ArgumentParser(description="Are the weights of two folders the same, bit for bit?")
    parser.add_argument("left", type=Path, help="folder with .safetensors files")
    parser.add_argument("right", type=Path, help="folder with .safetensors files")
    arguments = parser.parse_args()
    left, right = read_tensors(arguments.left), read_tensors(arguments.right)
    different = sorted(name for name in left.keys() | right.keys() if left.get(name) != right.get(name))
    num_bytes = sum(len(data) for _, _, data in left.values())
    identical = bool(left) and not different
    print(json.dumps({"tensors": len(left), "bytes": num_bytes, "identical": identical, "different": different}))


def read_tensors(folder: Path) -> dict[str, tuple[str, list[int], bytes]]:
    """Number format, shape and bytes of every tensor, in however many files they are."""
    tensors = {}
    for path in sorted(folder.glob("*.safetensors")):
        content = path.read_bytes()
        # The format: length of the header, header in JSON, then all bytes; offsets count from the end of the header.
        start = LENGTH_BYTES + int.from_bytes(content[:LENGTH_BYTES], "little")
        header: dict[str, dict[str, Any]] = json.loads(content[LENGTH_BYTES:start])
        for name, entry in header.items():
            if name != "__metadata__":
                first, last = entry["data_offsets"]
                tensors[name] = entry["dtype"], entry["shape"], content[start + first : start + last]
    return tensors


if __name__ == "__main__":
    main()
