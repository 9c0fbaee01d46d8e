"""What the claim llip runs: train on quadrants, ask for every thing in every quarter, draw the sweep of sizes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from training.claims.arms import recipe_settings, train
from training.claims.base import Arm, Results

Split = Literal["train", "validation", "test"]
RECIPE = "llip/tiny_quadrants"
NUM_IMAGES = 2000  # of a test; the standard error of an accuracy over its 8,000 answers is half a point
SIZES = (16, 64, 128)  # of the sweep
SWEEP = {  # arms of the sweep, by size
    "Llip, chosen for each D": ("llip", "llip_64_tuned", "llip_128_tuned"),
    "SigLIP, chosen for each D": ("siglip", "siglip_64_tuned", "siglip_128"),
    "Llip, chosen at D = 16": ("llip", "llip_64", "llip_128"),
    "SigLIP, chosen at D = 16": ("siglip", "siglip_64", "siglip_128"),
}
LADDER = (  # arms of the picture, top to bottom
    *("siglip", "register", "uniform", "learned", "llip", "shortcut", "patches"),
    *("siglip_matched", "siglip_64", "siglip_128", "siglip_plain"),
    *("siglip_large", "siglip_long", "siglip_large_long", "siglip_64_tuned"),
    *("llip_64", "llip_128", "llip_64_tuned", "llip_128_tuned"),
)
SINGLE = ("model.mixing=first", "model.num_mixture_tokens=1")


def arm(name: str, what: str, *overrides: str, seeds: int | None = None, positions: bool = True) -> Arm:
    """An arm that trains the recipe with overrides and is measured on the test split."""
    given = [*overrides, f"data.source.positions={str(positions).lower()}"]

    def run(seed: int, work: Path) -> dict[str, float]:
        model = train(RECIPE, seed, work, [*given, f"data.source.seed={seed}"])
        found = measured(model, seed, "test") if positions else anywhere(model, seed, "test")
        return found | {"parameters": sum(each.numel() for each in model.parameters()) / 1000}

    return Arm(name, what, run, seeds=seeds)


def _pictures(model: Any, seed: int, split: Split) -> tuple[Any, Tensor]:
    """Parts of the pictures of a split, and what is in their quarters, int64 [N, 4]."""
    from jepa_hub.models.llip import ImageParts
    from training.data.quadrants import Quadrants
    from training.data.views import DeviceViews

    settings = recipe_settings(RECIPE, seed, Path("unused"))
    source = Quadrants(Quadrants.Settings(num_samples=NUM_IMAGES, seed=seed, split=split))
    samples = [source.read(index, 0) for index in range(NUM_IMAGES)]
    views = DeviceViews(settings.data.views, seed)
    pixels = views(torch.stack([each.pixels for each in samples])[:, :, None], torch.arange(NUM_IMAGES), 0)
    parts = [model.encode_image(each) for each in pixels.split(250)]
    things = torch.tensor([each.details["things"] for each in samples])
    return ImageParts(*(torch.cat(each) for each in zip(*parts, strict=True))), things


def measured(model: Any, seed: int, split: Split) -> dict[str, float]:
    """Scores of a model on captions with positions, per cent.

    "zero_shot": which of 48 things is in a quarter; "colour" and "shape": of that answer; "shuffled": the same with
    pictures and truths of different samples; "text_recall": the best of all 192 captions is true; "image_recall": the
    best picture for a caption shows it. Also the effective rank of the text-free vectors, and the entropy of the
    mixing weights in per cent of that of equal ones.
    """
    from training.data.quadrants import PLACES, SHAPES, THINGS
    from training.objectives import rank_me

    image, things = _pictures(model, seed, split)
    text = model.encode_text([f"{place}: {thing}" for place in PLACES for thing in THINGS])  # 4 x 48
    cosines = model.cosines(image, text)  # [N, 192]
    answers = cosines.unflatten(1, (len(PLACES), len(THINGS))).argmax(dim=-1)  # [N, 4]
    truth = torch.zeros_like(cosines, dtype=torch.bool)
    truth.unflatten(1, (len(PLACES), len(THINGS))).scatter_(2, things[..., None], value=True)
    pooled = image.pooled - image.pooled.mean(dim=0)
    found = {
        "zero_shot": share(answers == things),
        "colour": share(answers // len(SHAPES) == things // len(SHAPES)),
        "shape": share(answers % len(SHAPES) == things % len(SHAPES)),
        "shuffled": share(answers.roll(1, 0) == things),
        **recalls(cosines, truth),
        "rank": float(rank_me(pooled)),
    }
    if model.mixes_by_text:
        weights = model.mix(type(image)(*(each[:100] for each in image)), text).weights  # [100, 192, H, K]
        entropy = -torch.special.xlogy(weights, weights).sum(-1).mean()
        found["entropy"] = 100 * float(entropy) / math.log(weights.shape[-1])
    return found


def anywhere(model: Any, seed: int, split: Split) -> dict[str, float]:
    """Scores of a model on captions without positions ("there is a red circle"), per cent; see `measured`."""
    from training.data.quadrants import THINGS

    image, things = _pictures(model, seed, split)
    cosines = model.cosines(image, model.encode_text([f"there is a {thing}" for thing in THINGS]))  # [N, 48]
    truth = torch.zeros_like(cosines, dtype=torch.bool).scatter_(1, things, value=True)
    return {f"{name}_anywhere": value for name, value in recalls(cosines, truth).items()}


def recalls(cosines: Tensor, truth: Tensor) -> dict[str, float]:
    """How often the best text is true of a picture, and the best picture shows what a text says; per cent."""
    best_text, best_image = cosines.argmax(dim=1), cosines.argmax(dim=0)
    by_text = truth[best_image, torch.arange(truth.shape[1])]
    return {
        "text_recall": share(truth[torch.arange(len(truth)), best_text]),
        "image_recall": share(by_text),
    }


def share(right: Tensor) -> float:
    """Per cent of true values."""
    return 100 * float(right.double().mean())


def remark(results: Results) -> str:
    """What exchanged pictures give, and whether any SigLIP catches up; computed from the results."""
    means = {
        name: _mean([entry["metrics"]["zero_shot"] for entry in runs.values()])
        for name, runs in results.items()
        if runs and all("shuffled" in entry["metrics"] for entry in runs.values())
    }
    if "llip" not in means:
        return "Exchanged pictures: not run."
    shuffled = [run["metrics"]["shuffled"] for name in means for run in results[name].values()]
    chance = 100 / 48
    said = (
        f"With the pictures of other samples the {len(shuffled)} models answer {min(shuffled):.1f} to "
        f"{max(shuffled):.1f} % right (chance: {chance:.1f} %). "
    )
    single = {name: score for name, score in means.items() if name.startswith("siglip")}
    if not single:
        return said.strip()
    best, score = max(single.items(), key=lambda each: each[1])
    own = means["llip"]
    reaches = "reaches" if score >= own else "stays below"
    return f"{said}The best SigLIP of those tried, {best} ({score:.1f} %), {reaches} Llip ({own:.1f} %)."


def draw(results: Results, path: Path) -> None:
    """Left: zero-shot accuracy of every arm. Right: against the size of the embedding, Llip and SigLIP."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    def values(name: str) -> list[float]:
        return [entry["metrics"]["zero_shot"] for entry in results.get(name, {}).values()]

    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 5), width_ratios=(1.5, 1))
    names = [name for name in LADDER if values(name)]
    for row, name in enumerate(reversed(names)):
        left.plot(values(name), [row] * len(values(name)), "o", alpha=0.55, markersize=5, color="#3b6ea8")
        left.plot([_mean(values(name))] * 2, [row - 0.3, row + 0.3], color="#c44e52", linewidth=2)
    left.set_yticks(range(len(names)), list(reversed(names)))
    left.axvline(100 / 48, color="#999999", linestyle=":")
    left.set_xlabel("zero-shot accuracy, % (dotted: chance)")
    for (name, arms), colour, line in zip(SWEEP.items(), ("#3b6ea8", "#777777") * 2, ("-", "-", ":", ":"), strict=True):
        sizes = [size for size, each in zip(SIZES, arms, strict=True) if values(each)]
        found = [values(each) for each in arms if values(each)]
        for size, here in zip(sizes, found, strict=True):
            right.plot([size] * len(here), here, "o", color=colour, alpha=0.4, markersize=5)
        right.plot(sizes, [_mean(here) for here in found], line, color=colour, label=name)
    right.set_xscale("log", base=2)
    right.set_xticks(SIZES, list(map(str, SIZES)))
    right.set_xlabel("size D of the embedding")
    right.set_ylim(0, 102)
    right.set_title("zero-shot accuracy, %")
    right.legend(loc="upper center", bbox_to_anchor=(0.5, -0.13), ncols=2, fontsize="small")
    for axis in (left, right):
        axis.grid(alpha=0.3)
    figure.tight_layout()
    figure.savefig(path, dpi=110, metadata={"Software": None})
    plt.close(figure)


def _mean(found: Sequence[float]) -> float:
    return sum(found) / len(found)
