"""Speed and memory of encode(): jepa_hub and transformers on the same weights, in turn, in one run.

    python benchmarks/encode.py                 # three cases, exits non-zero below its bars
    python benchmarks/encode.py --rounds 9 --cases vjepa2-128

Prints, per case, the ratio transformers / jepa_hub with its spread over the rounds, the share of this machine's matrix
product rate that each reaches, and peak memory of a process that does nothing else. Times of noisy machines mean
little alone; the ratio of two runs side by side does.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from harness import matrix_product_rate, onednn_rate, resident, seconds
from torch import Tensor


@dataclass(frozen=True)
class Case:
    """One comparison; `bar` is the least median ratio that passes."""

    family: str
    batch: int
    frames: int
    size: int
    bar: float


CASES = {
    "vjepa2-128": Case("vjepa2", 1, 16, 128, 4.0),
    "vjepa2-256": Case("vjepa2", 1, 16, 256, 1.5),
    "ijepa-224": Case("ijepa", 4, 1, 224, 1.0),
}


def build_theirs(case: Case) -> Any:
    """Transformers' model with ViT-B sizes and random weights."""
    from transformers import IJepaConfig, IJepaModel, VJEPA2Config, VJEPA2Model

    torch.manual_seed(0)
    if case.family == "ijepa":
        return IJepaModel(IJepaConfig(image_size=case.size)).eval()
    sizes = {"hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "pred_num_hidden_layers": 1}
    return VJEPA2Model(VJEPA2Config(**sizes, crop_size=case.size, frames_per_clip=case.frames)).eval()


def build_ours(case: Case, state: dict[str, Tensor], config: dict[str, Any]) -> Any:
    """Our model with the same weights."""
    from jepa_hub.convert import transformers_format
    from jepa_hub.models.registry import model_class

    converted = transformers_format.read(config, state, {"networks": ["encoder"]})
    model = model_class(case.family)
    tensors = {name: tensor for name, tensor in converted.tensors.items() if name.startswith("encoder.")}
    return model.from_pretrained(None, config=model.config_class(**converted.config), state_dict=tensors)


def pixels_of(case: Case) -> Tensor:
    """Random pixels [B, 3, F, H, W]."""
    return torch.randn(case.batch, 3, case.frames, case.size, case.size, generator=torch.Generator().manual_seed(0))


def runner(case: Case, which: str) -> Callable[[], Tensor]:
    """A function that encodes the case's pixels once."""
    theirs, pixels = build_theirs(case), pixels_of(case)
    if which == "ours":
        ours = build_ours(case, theirs.state_dict(), theirs.config.to_dict())
        return lambda: ours.encode(pixels).tokens
    if case.family == "ijepa":
        return lambda: theirs(pixels[:, :, 0]).last_hidden_state
    frames_first = pixels.transpose(1, 2).contiguous()
    return lambda: theirs(frames_first, skip_predictor=True).last_hidden_state


def flops(case: Case) -> float:
    """Multiply-adds of one ViT-B encode, times two."""
    tubelet = 2 if case.family == "vjepa2" else 1
    tokens = max(case.frames // tubelet, 1) * (case.size // 16) ** 2
    per_token = 12 * 12 * 768**2 + 3 * tubelet * 16**2 * 768  # twelve blocks and the patches
    return 2.0 * case.batch * (tokens * per_token + 12 * 2 * tokens**2 * 768)


@torch.no_grad()
def compare(name: str, rounds: int) -> bool:
    """Run one case and print its line; True if it passes its bar."""
    case = CASES[name]
    ours, theirs = runner(case, "ours"), runner(case, "theirs")
    difference = (ours() - theirs()).abs().max().item()  # also the warm-up
    mine, others, rates, best = [], [], [], []
    for index in range(rounds):
        rates.append(matrix_product_rate())
        best.append(max(rates[-1], onednn_rate()))
        for run, times in [(ours, mine), (theirs, others)][:: 1 if index % 2 else -1]:  # who goes first alternates
            times.append(seconds(run))
    ratios = [other / own for other, own in zip(others, mine, strict=True)]
    ratio, rate = statistics.median(ratios), statistics.median(rates)
    share = [flops(case) / statistics.median(times) / rate for times in (mine, others)]
    limit = statistics.median(others) * statistics.median(best) / flops(case)
    memory = {which: peak_memory(name, which) for which in ("ours", "theirs")}
    passed = ratio >= case.bar and memory["ours"] <= memory["theirs"]
    print(
        f"{name}: {ratio:.2f}x faster (rounds {min(ratios):.2f} .. {max(ratios):.2f}, bar {case.bar}), "
        f"{statistics.median(mine):.3f} s against {statistics.median(others):.3f} s\n"
        f"    share of torch's own product rate ({rate / 1e9:.0f} GFLOP/s): {share[0]:.0%} against {share[1]:.0%}\n"
        f"    at this machine's best float32 product rate ({statistics.median(best) / 1e9:.0f} GFLOP/s), with all else "
        f"free, {limit:.2f}x is the most there can be\n"
        f"    peak memory above the idle process: {memory['ours']:.0f} MB against {memory['theirs']:.0f} MB\n"
        f"    largest difference of the features {difference:.1e}   {'passed' if passed else 'BELOW ITS BAR'}",
        flush=True,
    )
    if difference > 1e-3:
        raise SystemExit(f"{name}: the two do not agree ({difference:.1e}); a speed-up would mean nothing")
    return passed


def peak_memory(name: str, which: str) -> float:
    """Megabytes that encoding adds to a fresh process which holds the model and its input."""
    command = [sys.executable, __file__, "--measure-memory", name, which]
    return float(
        json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1])
    )


@torch.no_grad()
def measure_memory(name: str, which: str) -> None:
    """Child process: print how far one encode raises the high-water mark."""
    run = runner(CASES[name], which)
    small = torch.randn(8, 8)
    _ = small @ small  # start the thread pool before the mark is read
    before = resident()
    run()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(json.dumps(max(peak - before, 0) / 1e6))


def main() -> None:
    """Parse arguments, run the cases, exit 1 below a bar."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--rounds", type=int, default=5, help="alternations, five at least")
    parser.add_argument("--measure-memory", nargs=2, metavar=("CASE", "WHICH"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure_memory:
        measure_memory(*arguments.measure_memory)
        return
    if arguments.rounds < 5:
        parser.error("--rounds must be 5 or more: a spread over fewer says nothing")
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, ViT-B, float32", flush=True)
    results = [compare(name, arguments.rounds) for name in arguments.cases]
    sys.exit(0 if all(results) else 1)


if __name__ == "__main__":
    main()
