"""Memory of Llip's loss over all pairs: in chunks against the dense formula, each in a process of its own.

    python benchmarks/pair_memory.py                 # 1024 pictures x 1024 texts; exits non-zero above the bar
    python benchmarks/pair_memory.py --batch 256     # quick; also shows that losses and gradients agree

Forward and backward in float32 on the CPU. At the full size the dense side, which makes every mixture at once, is given
the bar and no more (RLIMIT_DATA), so that a machine without the memory it wants can run this; what it wants is measured
at half the batch, which has a quarter of the pairs. With a smaller --batch it runs through.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch
from harness import forget_peak, peak, resident

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from jepa_hub.nn.mixing import Mixing
from jepa_hub.nn.text import unit
from training.methods.pairing import chunked
from training.objectives import sigmoid_pairs

BAR = 2 * 2**30  # bytes
FULL = 1024
TOKENS, SIZE, HEADS, CHUNK = 64, 512, 8, 1 << 24


def measure(side: str, batch: int) -> dict[str, Any]:
    """Loss, a sum of every gradient, and the growth of this process's memory, of one loss and its gradients."""
    torch.manual_seed(0)
    mixing = Mixing(8, SIZE, num_tokens=TOKENS, num_heads=HEADS, temperature=5.0, kind="text", norm=False)
    with torch.no_grad():
        mixing.output.weight.normal_(std=SIZE**-0.5)  # type: ignore[union-attr]
    keys, values = (torch.randn(batch, TOKENS, SIZE, requires_grad=True) for _ in range(2))
    queries, targets = (torch.randn(batch, SIZE, requires_grad=True) for _ in range(2))

    def logits(key: torch.Tensor, value: torch.Tensor, query: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        return 10 * torch.einsum("bte,te->bt", mixing(key, value, query), unit(target)) - 10

    held = forget_peak()
    if side == "dense" and batch >= FULL:
        resource.setrlimit(resource.RLIMIT_DATA, (int(_data() + BAR),) * 2)
    try:
        if side == "dense":
            found = logits(keys, values, queries, targets)
        else:
            found = chunked(logits, keys, values, queries, targets, CHUNK)
        loss = sigmoid_pairs(found, torch.eye(batch, dtype=torch.bool)) / batch
        loss.backward()
    except RuntimeError as error:  # what torch's allocator raises
        if "memory" not in str(error):
            raise
        return {"error": str(error).splitlines()[0]}
    sums = [float(each.grad.double().abs().sum()) for each in (keys, values, queries, targets) if each.grad is not None]
    return {"loss": loss.item(), "gradients": sums, "grown": peak() - held, "held": held, "resident": resident()}


def _data() -> float:
    """Bytes that count against RLIMIT_DATA now."""
    with open("/proc/self/status") as file:
        lines = dict(line.split(":", 1) for line in file)
    return float(lines["VmData"].split()[0]) * 1024


def main() -> None:
    """Print both sides; status 1 above the bar, or if the dense formula fits below it at the full size."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch", type=int, default=FULL, help="pictures, and texts")
    parser.add_argument("--side", choices=("chunked", "dense"), help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.side:
        print(json.dumps(measure(chosen.side, chosen.batch)))
        return
    sides = {side: _told(side, chosen.batch) for side in ("chunked", "dense")}
    if chosen.batch >= FULL:
        _told("dense", chosen.batch // 2)
    array = chosen.batch**2 * SIZE * 4
    print(f"one array [pictures, texts, E] of {chosen.batch} x {chosen.batch} x {SIZE}: {array / 2**30:.2f} GiB")
    within = sides["chunked"].get("grown", BAR) < BAR
    same = "error" in sides["dense"] or _agree(sides["chunked"], sides["dense"])
    fits = "error" not in sides["dense"] and chosen.batch >= FULL
    met = within and same and not fits
    print(f"bar (chunked below 2 GiB, where dense fits the same numbers): {'met' if met else 'FAILED'}")
    raise SystemExit(not met)


def _told(side: str, batch: int) -> dict[str, Any]:
    """What `measure` finds in a process of its own, printed."""
    command = [sys.executable, __file__, "--batch", str(batch), "--side", side]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    if "error" in found:
        print(f"{side}, batch {batch}: not within {BAR / 2**30:g} GiB: {found['error']}")
    else:
        print(
            f"{side}, batch {batch}: {found['grown'] / 2**30:.2f} GiB more than the {found['held'] / 2**30:.2f} GiB "
            f"held before, loss {found['loss']:.6f}"
        )
    return found


def _agree(one: dict[str, Any], other: dict[str, Any]) -> bool:
    """Whether loss and gradients are those of the other side, to 1e-5."""
    pairs = zip([one["loss"], *one["gradients"]], [other["loss"], *other["gradients"]], strict=True)
    return all(abs(a - b) <= 1e-5 * abs(b) for a, b in pairs)


if __name__ == "__main__":
    main()
