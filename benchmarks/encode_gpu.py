"""Speed and memory of encode() on a GPU: jepa_hub and transformers on the same weights, in turn, in one run.

    python benchmarks/encode_gpu.py             # exits non-zero below its bars

Prints, per case and precision, the ratio transformers / jepa_hub with its spread over the rounds, clips or pictures a
second, and peak memory. Both run eagerly with torch's fused attention.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from encode import CASES, build_ours, build_theirs
from torch import Tensor

BATCHES = {"vjepa2-128": 16, "vjepa2-256": 8, "ijepa-224": 64}
PASSES = 5  # per round
BAR = 1.0


def milliseconds(run: Callable[[], Tensor]) -> float:
    """Of one pass, by the device's clock."""
    begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    begin.record()
    for _ in range(PASSES):
        run()
    end.record()
    end.synchronize()
    return float(begin.elapsed_time(end)) / PASSES


def peak(run: Callable[[], Tensor]) -> float:
    """MiB that one pass adds."""
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    run()
    torch.cuda.synchronize()
    return (torch.cuda.max_memory_allocated() - before) / 2**20


@torch.no_grad()
def compare(name: str, dtype: torch.dtype, rounds: int) -> bool:
    """Run one case and print its line; True if it passes the bar."""
    case = replace(CASES[name], batch=BATCHES[name])
    theirs: Any = build_theirs(case)
    ours = build_ours(case, theirs.state_dict(), theirs.config.to_dict()).to("cuda", dtype).eval()
    theirs = theirs.to("cuda", dtype)
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randn(case.batch, 3, case.frames, case.size, case.size, generator=generator).to("cuda", dtype)
    frames_first = pixels.transpose(1, 2).contiguous()

    def mine() -> Tensor:
        tokens: Tensor = ours.encode(pixels).tokens
        return tokens

    def other() -> Tensor:
        if case.family == "ijepa":
            found: Tensor = theirs(pixels[:, :, 0]).last_hidden_state
        else:
            found = theirs(frames_first, skip_predictor=True).last_hidden_state
        return found

    own, reference = mine().float(), other().float()
    difference = ((own - reference).norm() / reference.norm()).item()
    spent: dict[str, list[float]] = {"ours": [], "theirs": []}
    for run in (mine, other):
        milliseconds(run)  # warm-up
    for index in range(rounds):
        for which, run in [("ours", mine), ("theirs", other)][:: 1 if index % 2 else -1]:  # who goes first alternates
            spent[which].append(milliseconds(run))
    ratios = [theirs_ms / ours_ms for theirs_ms, ours_ms in zip(spent["theirs"], spent["ours"], strict=True)]
    ratio, fastest = statistics.median(ratios), statistics.median(spent["ours"])
    memory = peak(mine), peak(other)
    passed = ratio >= BAR and memory[0] <= memory[1]
    print(
        f"{name}, batch {case.batch}, {str(dtype).removeprefix('torch.')}: {ratio:.2f}x faster (rounds "
        f"{min(ratios):.2f} .. {max(ratios):.2f}), {1e3 * case.batch / fastest:.0f} a second, peak memory "
        f"{memory[0]:.0f} against {memory[1]:.0f} MiB, relative difference {difference:.1e}   "
        f"{'passed' if passed else 'BELOW ITS BAR'}",
        flush=True,
    )
    if difference > (2e-2 if dtype == torch.bfloat16 else 1e-3):
        raise SystemExit(f"{name}: the two do not agree ({difference:.1e}); a speed-up would mean nothing")
    return passed


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=9)
    chosen = parser.parse_args()
    if not torch.cuda.is_available():
        raise SystemExit("needs a CUDA device; benchmarks/encode.py runs on a CPU")
    print(torch.cuda.get_device_name(), torch.__version__, flush=True)
    kinds = [torch.bfloat16, torch.float32]
    passed = [compare(name, dtype, chosen.rounds) for name in BATCHES for dtype in kinds]
    raise SystemExit(0 if all(passed) else 1)


if __name__ == "__main__":
    main()
