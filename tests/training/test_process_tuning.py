"""Freed memory that is kept: the faults of a step that allocates large blocks."""

from __future__ import annotations

import sys

import pytest

from tests.hub_server import run_python

CODE = """
import resource, sys, torch
from training.process_tuning import keep_freed_memory
agreed = keep_freed_memory() if sys.argv[1] == "keep" else True

def step():
    blocks = [torch.ones(1 << 24) for _ in range(2)]  # 64 MB each
    return sum(float(block[0]) for block in blocks)

for _ in range(8):  # until the heap has found its size
    step()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(5):
    step()
print(int(agreed), resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's allocator")
def test_a_step_faults_its_memory_in_once() -> None:
    agreed, kept = map(int, run_python(["-c", CODE, "keep"]).stdout.split())
    _, returned = map(int, run_python(["-c", CODE, "return"]).stdout.split())
    if not agreed:
        pytest.skip("another C library")
    assert kept < 2000 < returned
