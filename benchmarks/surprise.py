"""Surprise over five context lengths, this package against the naive protocol, in turn, in one run.

    python benchmarks/surprise.py [--pairs 7] [--bar 2.0]

The naive protocol is that of the published evaluation: for every context length and every window the target encoder
runs anew, one window at a time. Both compute the same numbers, which is checked first. Exits with status 1 below the
bar. Also printed: clips per second of the evaluation of the shipped suite and, where MuJoCo is installed, of drawing.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor

from jepa_hub.models.base import JEPAModel
from jepa_hub.models.vjepa import VJepaConfig, VJepaModel
from jepa_hub.physics.surprise import surprise
from jepa_hub.physics.worlds import worlds_suite

CONTEXTS = (2, 4, 6, 8, 10)


@torch.no_grad()
def naive(model: JEPAModel, clips: Tensor, window: int, stride: int) -> Tensor:
    """[B, C, W], as the published evaluation computes it."""
    rows = []
    for clip in clips:
        columns = []
        for context in CONTEXTS:
            row = []
            for start in range(0, clip.shape[1] - window + 1, stride):
                part = clip[None, :, start : start + window]
                target = model.prediction_targets(part)[0]
                predicted = model.predict(part, context=range(context), target=range(context, window))[0, 0]
                row.append((predicted - target[-len(predicted) :]).abs().mean())
            columns.append(torch.stack(row))
        rows.append(torch.stack(columns))
    return torch.stack(rows)


def timed(run: Callable[[], object]) -> float:
    """Seconds of one call."""
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, default=7, help="alternations, at least 5")
    parser.add_argument("--bar", type=float, default=2.0, help="least median ratio")
    parser.add_argument("--size", type=int, default=48, help="pixels")
    parser.add_argument("--patch", type=int, default=12, help="pixels")
    chosen = parser.parse_args()
    torch.manual_seed(0)
    config = VJepaConfig(
        image_size=chosen.size,
        patch_size=chosen.patch,
        hidden_size=128,
        num_hidden_layers=4,
        num_attention_heads=4,
        predictor_hidden_size=96,
        predictor_num_hidden_layers=4,
    )
    model = VJepaModel(config).eval()
    clips = torch.randn(4, 3, 30, chosen.size, chosen.size)  # 8 windows each

    def ours() -> Tensor:
        return surprise(model, clips, context_frames=CONTEXTS, stride=2, batch_size=16)

    def theirs() -> Tensor:
        return naive(model, clips, 16, 2)

    gap = float((ours() - theirs()).abs().max())
    if gap > 1e-5:
        raise SystemExit(f"the two do not compute the same numbers: {gap:.2e} apart")
    ratios = []
    for number in range(max(5, chosen.pairs)):
        pair = [timed(ours), timed(theirs)] if number % 2 else [timed(theirs), timed(ours)][::-1]
        ratios.append(pair[1] / pair[0])
    median = statistics.median(ratios)
    print(f"32 windows, 5 context lengths, {torch.get_num_threads()} thread(s), same numbers to {gap:.0e}")
    print(f"naive / ours: {median:.2f} x (from {min(ratios):.2f} to {max(ratios):.2f}, {len(ratios)} alternations)")
    several = torch.stack([item.read() for item in worlds_suite().items[:64]]).float().transpose(1, 2) / 255
    seconds = timed(lambda: surprise(model, several, context_frames=CONTEXTS, batch_size=32))
    print(f"evaluation: {len(several) / seconds:.0f} clips of 16 frames a second")
    try:
        from jepa_hub.physics.templates import possible_scene, scene_rng
        from jepa_hub.physics.worlds import stage_of

        stage = stage_of(48)
        scenes = [possible_scene(scene_rng(0, "train", index)) for index in range(10)]
        seconds = timed(lambda: [stage.draw(scene) for scene in scenes])
        print(f"drawing: {len(scenes) / seconds:.1f} clips of 16 frames a second and process")
    except ImportError as error:
        print(f"drawing: not measured ({error})")
    if median < chosen.bar:
        raise SystemExit(f"below the bar of {chosen.bar} x")


if __name__ == "__main__":
    main()
