"""Memory of one training step of PiT-B with a token for each of 64 x 64 pixels, with and without checkpointing.

    python benchmarks/pixel_memory.py                   # exits non-zero above 24 GiB with checkpointing
    python benchmarks/pixel_memory.py --image-size 96   # 9,216 tokens

Each step is a run of the trainer in a process of its own (float32, AdamW, batch 1, fused attention, so no N x N scores
are kept). Printed are the high-water mark of that process, what it held before the step, and the formula of
`training.memory`, which leaves out the program itself and what kernels need for a moment.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from harness import forget_peak, peak, seconds

GIB = 1024**3
BAR = 24.0  # GiB
RECIPE = "pit/vitb1_28_in1k"


def overrides(size: int, batch: int, checkpointing: bool) -> list[str]:
    """Of the recipe, so that it runs on drawn pictures of `size` pixels."""
    return [
        f"model.image_size={size}",
        f"data.source={{name: scenes, size: {size}, num_samples: {batch}}}",
        "method.label=shape",
        "method.num_classes=4",
        f"data.batch_size={batch}",
        "data.workers=0",
        "run.precision=fp32",
        "run.steps=1",
        "run.accumulation=1",
        "optim.warmup_steps=0",
        f"run.activation_checkpointing={str(checkpointing).lower()}",
    ]


def measure(size: int, batch: int, checkpointing: bool) -> dict[str, float]:
    """Bytes before and at most during one step, and its seconds; in this process."""
    from training.loop import Run
    from training.recipe import load_recipe

    with tempfile.TemporaryDirectory() as folder:
        settings = load_recipe(RECIPE, [*overrides(size, batch, checkpointing), f"run.out={Path(folder) / 'run'}"])
        run = Run(settings)
        before = forget_peak()
        spent = seconds(run.train)
    return {"before": before, "peak": peak(), "seconds": spent}


def formula(size: int, batch: int, checkpointing: bool) -> float:
    """GiB by `training.plan`."""
    from training.plan import plan
    from training.recipe import load_recipe

    found = plan(load_recipe(RECIPE, overrides(size, batch, checkpointing)))
    return float(found["memory"]["ddp_checkpointing" if checkpointing else "ddp"]["total"]) / GIB


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--image-size", type=int, default=64, help="side of the pictures: its square is the tokens")
    parser.add_argument("--batch", type=int, default=1, help="pictures of the step")
    parser.add_argument("--only", choices=("with", "without"), help="measure one of the two, in this process")
    chosen = parser.parse_args()
    if chosen.only:
        print(json.dumps(measure(chosen.image_size, chosen.batch, chosen.only == "with")))
        return
    given = ["--image-size", str(chosen.image_size), "--batch", str(chosen.batch)]
    print(f"PiT-B, {chosen.image_size**2} tokens, batch {chosen.batch}, torch {torch.__version__}, CPU")
    found = {}
    for how in ("with", "without"):
        command = [sys.executable, __file__, *given, "--only", how]
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
        found[how] = one = json.loads(done.stdout.splitlines()[-1])
        expected = formula(chosen.image_size, chosen.batch, how == "with")
        print(
            f"{how:>7} checkpointing: {one['peak'] / GIB:5.2f} GiB at most, {one['before'] / GIB:.2f} GiB before the "
            f"step, {expected:.2f} GiB by the formula, {one['seconds']:.0f} s"
        )
    if found["with"]["peak"] > BAR * GIB:
        sys.exit(f"above the bar of {BAR:g} GiB")


if __name__ == "__main__":
    main()
