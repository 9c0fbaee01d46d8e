"""What the benchmarks share: the rate of this machine, memory, FLOPs, and peers in processes of their own."""

from __future__ import annotations

import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

_CPU_ATTENTION = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
_CPU_ATTENTION_BACKWARD = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward


Clock = Callable[[], float]


def seconds(run: Callable[[], Any], clock: Clock = time.perf_counter) -> float:
    """Seconds of one call, on the wall or on another clock."""
    start = clock()
    run()
    return clock() - start


def matrix_product_rate(clock: Clock = time.perf_counter, dtype: torch.dtype = torch.float32) -> float:
    """FLOP/s of a large `a @ b`, what every linear layer calls, best of several."""
    a, b = torch.randn(1024, 3072, dtype=dtype), torch.randn(3072, 768, dtype=dtype)
    best = min(seconds(lambda: a @ b, clock) for _ in range(20))
    return 2.0 * 1024 * 3072 * 768 / best


def onednn_rate(clock: Clock = time.perf_counter, dtype: torch.dtype = torch.float32) -> float:
    """FLOP/s of the same product by oneDNN, best of several; 0 in a build of torch without it.

    Torch hands float32 products to MKL, which leaves half of the vector unit of AMD processors unused. There
    `matrix_product_rate` is not what the machine can do.
    """
    if not torch.backends.mkldnn.is_available():
        return 0.0
    a, b = torch.randn(1024, 3072, dtype=dtype), torch.randn(768, 3072, dtype=dtype)
    product = torch.ops.mkldnn._linear_pointwise
    best = min(seconds(lambda: product(a, b, None, "none", [], ""), clock) for _ in range(20))
    return 2.0 * 1024 * 3072 * 768 / best


def resident() -> float:
    """Bytes of memory that this process holds now."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize()


def forget_peak() -> float:
    """Start the high-water mark anew where the system allows it; bytes held now."""
    try:
        with open("/proc/self/clear_refs", "w") as file:
            file.write("5")
    except OSError:
        pass  # then the mark includes the start of the process, for both sides alike
    return resident()


def peak() -> float:
    """The high-water mark of this process in bytes."""
    with open("/proc/self/status") as file:
        lines = dict(line.split(":", 1) for line in file)
    return float(lines["VmHWM"].split()[0]) * 1024


def count_flops(run: Callable[[], Any]) -> float:
    """FLOPs of the matrix products of one call; fused attention counts as the products it stands for."""

    def attention(query: Sequence[int], key: Sequence[int], *_: Any, **__: Any) -> int:
        batch, heads, queries, width = query
        return 4 * batch * heads * queries * key[-2] * width

    def backward(_: Any, query: Sequence[int], key: Sequence[int], *__: Any, **___: Any) -> int:
        return 2 * attention(query, key)  # what is recomputed is the kernel's affair

    mapping = {_CPU_ATTENTION: attention, _CPU_ATTENTION_BACKWARD: backward}
    with FlopCounterMode(display=False, custom_mapping=mapping) as counter:
        run()
    return float(counter.get_total_flops())


def spread(values: Sequence[float]) -> str:
    """Median and range in words."""
    return f"{statistics.median(values):.2f} ({min(values):.2f} .. {max(values):.2f})"


class Worker:
    """A Python process of its own: each command is one line to it, each answer one line of JSON from it.

    Peers that name their packages alike cannot meet, neither side inherits the other's memory, and what a peer prints
    goes to a log that is shown when it fails.
    """

    def __init__(self, arguments: Sequence[str]) -> None:
        self._log = tempfile.TemporaryFile("w+")  # noqa: SIM115 - lives as long as the process
        self._process = subprocess.Popen(
            [sys.executable, *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._log, text=True
        )
        self.hello = self._answer()

    def ask(self, command: str) -> Any:
        """The answer to a command."""
        assert self._process.stdin is not None  # a pipe was asked for
        self._process.stdin.write(command + "\n")
        self._process.stdin.flush()
        return self._answer()

    def _answer(self) -> Any:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            self._process.wait()
            self._log.seek(0)
            raise SystemExit(f"a side of the comparison failed:\n{self._log.read()[-3000:]}")
        return json.loads(line)

    def close(self) -> None:
        """End the process."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()


def serve(prepare: Callable[[], tuple[Any, Callable[[int], float]]], most: Callable[[], float] | None = None) -> None:
    """Child process: answer a Worker's commands until its input ends.

    Args:
        prepare: gives what to say first and a function that runs round `index` and returns its result.
        most: bytes in use at the highest; by default memory of the host above that of the idle process.
    """
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # what the side prints must not mix with the answers

    def say(what: Any) -> None:
        answers.write(json.dumps(what) + "\n")

    hello, run = prepare()
    _ = torch.randn(256, 256) @ torch.randn(256, 256)  # start the thread pool before memory is read
    before = forget_peak()
    say(hello)
    for line in sys.stdin:
        command, *index = line.split()
        if command == "run":
            wall, cpu = time.perf_counter(), time.process_time()
            result = run(int(index[0]))
            say({"seconds": time.perf_counter() - wall, "processor": time.process_time() - cpu, "result": result})
        elif command == "flops":
            say(count_flops(lambda: run(int(index[0]))))  # noqa: B023 - called at once
        elif command == "memory":
            say((peak() - before if most is None else most()) / 1e6)
