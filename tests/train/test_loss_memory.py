"""Peak memory of the loss does not grow with vocabulary x tokens: measured, each in a process of its own."""

from __future__ import annotations

import subprocess
import sys

import pytest

VOCAB_SIZE, WIDTH = 151_936, 16
MEASURE = """
import resource, sys, torch
from seqpack.train.loss import chunked_cross_entropy
torch.set_num_threads(1)
tokens, vocabulary, width = map(int, sys.argv[1:])
hidden = torch.randn(tokens, width, dtype=torch.bfloat16, requires_grad=True)
weight = torch.randn(vocabulary, width, dtype=torch.bfloat16, requires_grad=True)
labels = torch.randint(vocabulary, (tokens,))
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
chunked_cross_entropy(hidden, weight, labels).backward()
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""


def peak_mib(tokens: int) -> int:
    """MiB that the loss and its backward add to the process, of which a few are torch's own."""
    words = [sys.executable, "-c", MEASURE, *map(str, (tokens, VOCAB_SIZE, WIDTH))]
    return int(subprocess.run(words, capture_output=True, text=True, check=True).stdout)


@pytest.mark.slow
def test_8k_tokens_of_a_152k_vocabulary() -> None:
    small, large = peak_mib(512), peak_mib(8192)
    assert large < small + 50
    assert large < 300  # all logits in float32 would be 4,748 MiB
