"""Peak memory of the loss does not grow with vocabulary x tokens: measured, each in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

VOCAB_SIZE, WIDTH = 151_936, 16
MEASURE = """
import sys, torch
from seqpack.runtime.device import CpuBackend
from seqpack.train.loss import chunked_cross_entropy
backend = CpuBackend(1)
tokens, vocabulary, width = map(int, sys.argv[1:])
hidden = torch.randn(tokens, width, dtype=torch.bfloat16, requires_grad=True)
weight = torch.randn(vocabulary, width, dtype=torch.bfloat16, requires_grad=True)
labels = torch.randint(vocabulary, (tokens,))
before = backend.peak_memory()
chunked_cross_entropy(hidden, weight, labels).backward()
print((backend.peak_memory() - before) // 2**20)
"""


def peak_mib(tokens: int) -> int:
    """MiB that the loss and its backward add to the process, of which a few are torch's own."""
    words = [sys.executable, "-c", MEASURE, *map(str, (tokens, VOCAB_SIZE, WIDTH))]
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "1000000"}  # large blocks go back as soon as they are free
    return int(subprocess.run(words, capture_output=True, text=True, check=True, env=environment).stdout)


@pytest.mark.slow
def test_8k_tokens_of_a_152k_vocabulary() -> None:
    small, large = peak_mib(512), peak_mib(8192)
    assert large < small + 50
    assert large < 300  # all logits in float32 would be 4,748 MiB
