"""PiT: are patches needed to classify? (arXiv:2406.09415, sec. 4.1 and 5)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from training.claims.base import Arm, Claim, Comparison, Results, effect
from training.claims.pit import WIDE, draw_curves, finish, mean, supervised

RECIPE = "pit/tiny_digits"
PERMUTED = "data.source.permutation=1"
# What validation chose among four settings of each arm, see the claim's text; the recipe's are 4e-3 and 0.5.
SLOW, SMALL = "optim.lr=2e-3", "model.embedding_std=0.1"


def _arm(name: str, what: str, overrides: Sequence[str], *, core: bool = True) -> Arm:
    def run(seed: int, work: Path) -> dict[str, float]:
        return supervised(RECIPE, overrides, seed, work)

    return Arm(name, what, run, core=core)


def _pixels(size: int) -> tuple[str, ...]:
    return (f"model.image_size={size}", f"data.source.size={size}")


ARMS = (
    _arm("p1", "a token per pixel", ()),
    _arm("p2", "2 x 2 pixels to a token", ("model.patch_size=2", SMALL)),
    _arm("p4", "4 x 4 pixels to a token", ("model.patch_size=4",)),
    _arm("p8", "the whole picture as one token", ("model.patch_size=8", SMALL)),
    _arm("p2_wide", "2 x 2 pixels, wider: as many FLOPs as p1", (*WIDE, SMALL)),
    _arm("p1_permuted", "p1, pixels in one fixed random order", (PERMUTED,)),
    _arm("p2_permuted", "p2, the same order before cutting patches", ("model.patch_size=2", PERMUTED, SMALL)),
    _arm("p4_permuted", "p4, the same", ("model.patch_size=4", PERMUTED, SLOW)),
    _arm("p1_of_4x4", "a token per pixel of a 4 x 4 picture (16 tokens, as p2)", (*_pixels(4), SMALL)),
    _arm("p1_of_2x2", "a token per pixel of a 2 x 2 picture (4 tokens, as p4)", (*_pixels(2), SLOW)),
    _arm("p1_no_positions", "p1 without positions", ("model.position_type=none", SLOW, SMALL)),
    _arm("p1_sincos", "p1 with sine-cosine positions", ("model.position_type=sincos",)),
    _arm("p1_windows", "p1, attention within 3 x 3 pixels", ("model.attention_window=3", SMALL)),
    _arm(
        "p1_small_positions",
        "p1, pixels start at deviation 1, positions at 0.02",
        ("model.embedding_std=1.0", "model.position_std=0.02"),
    ),
)


def remark(results: Results) -> str:
    """How far the runs mislead: two arms of the same law."""
    found = effect(results, Comparison("accuracy", "p1_permuted", "p1"))
    if found.mean is None or found.half_width is None:
        return "p1_permuted and p1 are the same in law: their difference, once run, is chance."
    return (
        f"p1_permuted and p1 are the same in law, so their {found.mean:+.1f} ± {found.half_width:.1f} is chance: the "
        f"scale below which differences here say little."
    )


def draw(results: Results, path: Path) -> None:
    """Accuracy against steps, FLOPs and tokens."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(1, 3, figsize=(12, 3.6))
    colours = {"p1": "#c44e52", "p2": "#3b6ea8", "p2_wide": "#7fb0e0", "p4": "#55a868", "p8": "#8c8c8c"}
    draw_curves(results, colours, axes[:2])
    trends: dict[str, tuple[str, Sequence[str]]] = {
        "8 x 8 pixels, patches shrink": ("#c44e52", ("p8", "p4", "p2", "p1")),
        "the same, pixels permuted": ("#e0a0a2", ("p8", "p4_permuted", "p2_permuted", "p1_permuted")),
    }
    for label, (colour, arms) in trends.items():
        _line(axes[2], results, arms, colour, label)
    for length, arms in ((16, ("p2", "p1_of_4x4")), (4, ("p4", "p1_of_2x2"))):
        runs = [list(results.get(arm, {}).values()) for arm in arms]
        if all(runs):
            values = [mean(each, "accuracy") for each in runs]
            axes[2].annotate("", (length, values[1]), (length, values[0]), arrowprops={"arrowstyle": "->"})
            axes[2].plot([length], values[1:], "s", color="black", label=f"{length} tokens, picture shrinks")
    axes[2].set_xscale("log", base=2)
    axes[2].set_xlabel("tokens of a picture")
    axes[2].set_ylabel("test accuracy, %")
    axes[2].grid(alpha=0.3)
    if axes[2].get_legend_handles_labels()[0]:
        axes[2].legend(fontsize=7)
    finish(figure, path)


def _line(axis: Any, results: Results, arms: Sequence[str], colour: str, label: str) -> None:
    known = [list(results[arm].values()) for arm in arms if results.get(arm)]
    if known:
        places, values = ([mean(runs, metric) for runs in known] for metric in ("tokens", "accuracy"))
        axis.plot(places, values, "o-", color=colour, label=label)


CLAIM = Claim(
    name="pit_supervised",
    title="PiT: every pixel a token, supervised",
    paper="Nguyen et al., arXiv:2406.09415",
    statement=(
        "Patches are not needed: at a fixed input size a vision transformer gets better down to one pixel a token; at "
        "a fixed number of tokens it gets worse as the picture shrinks; a fixed shuffling of the pixels, which single "
        "pixels are indifferent to by construction, costs patches accuracy: they carry the locality."
    ),
    setting=(
        "scikit-learn's digits, 8 x 8 pixels, whole, without augmentation; another fifth of them is the test set for "
        "each of five seeds (about 305 pictures). Transformers of 3 blocks of width 32 (p2_wide: 72), mean of the "
        "tokens, learned positions, 1,000 steps of 64, at whose end validation is nearly flat. Every arm was tuned "
        "alike: learning rate 2e-3 or 4e-3, embeddings and positions starting at deviation 0.5 or 0.1, one run of "
        "another seed for each of the four, on 270 validation digits that are in no training or test set (small "
        "positions: the two learning rates; p1_permuted takes those of p1, the same in law). One seed chooses roughly: "
        "settings of an arm differ by 1 point. The paper trains 2,400 epochs on CIFAR-100 with augmentation, and "
        "reports no FLOPs; here there are 50 epochs of 1,200 pictures of 64 pixels, and the last step of the trend was "
        "not expected to show. p1_windows gives locality back at the same number of tokens. No pilot: the power column "
        "is of the runs themselves."
    ),
    metrics={
        "accuracy": "test accuracy, %",
        "tokens": "tokens of a picture",
        "kilo_parameters": "thousands of parameters",
        "tflops": "TFLOPs of training",
    },
    decimals={"tokens": 0, "tflops": 2},
    arms=ARMS,
    comparisons=(
        Comparison("accuracy", "p1", "p2"),
        Comparison("accuracy", "p2", "p1_of_4x4"),
        Comparison("accuracy", "p2", "p2_permuted"),
        Comparison("accuracy", "p4", "p4_permuted"),
        Comparison("accuracy", "p1_permuted", "p1", margin=-1.5, decisive=False),
        Comparison("accuracy", "p1", "p2_wide", decisive=False),
        Comparison("accuracy", "p2", "p4", decisive=False),
        Comparison("accuracy", "p4", "p1_of_2x2", decisive=False),
        Comparison("accuracy", "p1", "p1_no_positions", decisive=False),
        Comparison("accuracy", "p1_sincos", "p1", decisive=False),
        Comparison("accuracy", "p1_windows", "p1", decisive=False),
        Comparison("accuracy", "p1", "p1_small_positions", decisive=False),
    ),
    core_seeds=5,
    full_seeds=10,
    picture=draw,
    remark=remark,
)
