"""PiT: diffusion over single pixels makes better pictures than over patches (arXiv:2406.09415, sec. 4.3)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from training.claims.arms import recipe_settings, train
from training.claims.base import Arm, Claim, Comparison, Results
from training.claims.pit import costs, finish, mean

RECIPE, JUDGE = "dit/tiny_digits", "pit/tiny_digits"
WIDE = ("model.patch_size=2", "model.hidden_size=72", "model.num_attention_heads=4")  # as many FLOPs as one per pixel
JUDGED_BY = ("model.patch_size=4", "probe=")
PERMUTATION = 1
PER_CLASS, STEPS, GUIDANCE = 50, 25, 2.0  # pictures, steps of DDIM, guidance where there is any


def _arm(name: str, what: str, overrides: Sequence[str], *, permuted: bool = False, seeds: int | None = None) -> Arm:
    def run(seed: int, work: Path) -> dict[str, float]:
        import torch

        from training import few_labels, generation
        from training.data.digits import pixel_order
        from training.probing.splits import build_source

        judge_work = work.parent / "judge"  # one for all arms and seeds, which tests samples of none of them
        judge = train(JUDGE, 0, judge_work, JUDGED_BY)
        judged_by = few_labels.evaluate(judge, recipe_settings(JUDGE, 0, judge_work, JUDGED_BY)).top1
        model = train(RECIPE, seed, work, overrides)
        labels = generation.asked_labels(10, PER_CLASS)
        real = generation.real_features(judge, build_source("digits", {"size": 8}))
        found: dict[str, float] = {}
        for prefix, guidance in (("", 1.0), ("guided_", GUIDANCE)):
            pictures = model.sample(labels, steps=STEPS, guidance=guidance, seed=seed, progress=False)
            if permuted:
                back = torch.empty_like(pictures).flatten(-2)
                back[..., pixel_order(PERMUTATION, 8)] = pictures.flatten(-2)
                pictures = back.view_as(pictures)
            found |= {prefix + name: value for name, value in generation.score(judge, pictures, labels, real).items()}
        return {**found, "judge_accuracy": 100 * judged_by, **costs(RECIPE, overrides)}

    return Arm(name, what, run, seeds=seeds)


def _real(seed: int, work: Path) -> dict[str, float]:
    """As many real pictures that the others are not compared with, another draw for each seed."""
    import torch

    from training import generation
    from training.probing.splits import build_source

    judge = train(JUDGE, 0, work.parent / "judge", JUDGED_BY)
    train_part, *others = (
        generation.real_features(judge, build_source("digits", {"size": 8, "split": split}))
        for split in ("train", "validation", "test")
    )
    unseen = torch.cat(others)
    chosen = torch.randperm(len(unseen), generator=torch.Generator().manual_seed(seed))[: 10 * PER_CLASS]
    return {"frechet": generation.frechet_distance(unseen[chosen], train_part)}


def draw(results: Results, path: Path) -> None:
    """Distance and agreement against training FLOPs, a dot per seed."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(9, 3.6))
    colours = {
        "p1": "#c44e52",
        "p2": "#3b6ea8",
        "p2_wide": "#7fb0e0",
        "p2_permuted": "#55a868",
        "p1_no_positions": "#8c8c8c",
    }
    for axis, metric, label in zip(
        axes, ("frechet", "agreement"), ("Frechet distance of features", "asked class seen, %"), strict=True
    ):
        for name, colour in colours.items():
            runs = list(results.get(name, {}).values())
            if runs:
                values = [entry["metrics"][metric] for entry in runs]
                axis.plot([mean(runs, "tflops")] * len(runs), values, "o", color=colour, alpha=0.5, markersize=4)
                axis.plot(mean(runs, "tflops"), mean(runs, metric), "_", color=colour, markersize=18, label=name)
        axis.set_xscale("log")
        axis.set_yscale("log" if metric == "frechet" else "linear")
        axis.set_xlabel("training TFLOPs")
        axis.set_ylabel(label)
        axis.grid(alpha=0.3)
        if axis.get_legend_handles_labels()[0]:
            axis.legend(fontsize=7)
    real = list(results.get("real", {}).values())
    if real:
        axes[0].axhline(mean(real, "frechet"), color="black", linewidth=0.8, linestyle=":")
    finish(figure, path)


CLAIM = Claim(
    name="pit_diffusion",
    title="PiT: diffusion with every pixel a token",
    paper="Nguyen et al., arXiv:2406.09415",
    statement=(
        "A diffusion transformer that takes single pixels (in the paper: single latents of an autoencoder) makes "
        "better pictures than one that takes patches of 2 x 2."
    ),
    setting=(
        "scikit-learn's digits, 8 x 8 pixels: pixels, not latents. DiT blocks (adaLN-zero), 3 of width 32 (p2_wide: "
        "72), which predict the clean picture; 1,500 steps of 64, a tenth of the classes hidden; 50 pictures a class "
        "from the moving average by 25 steps of DDIM, without guidance and with a guidance of 2 (not tuned). The "
        "judge is a classifier (4 x 4 pixels a token) of seed 0, trained on the same training digits. Its features "
        "give the Frechet distance from the training digits, which is no FID: the same formula, another network; "
        "`real` is what unseen digits score. Tuning, by the distance from 270 validation digits with other noise: "
        "learning rate 2e-3 or 4e-3 and starting deviation 0.5 or 0.1 for every arm, one run of another seed each. "
        "That the clean picture is predicted was chosen on p2 (noise: 64 % of the classes right, velocity: 91 %, "
        "clean picture: 94 %; 300 pictures). Two seeds suffice for p1_no_positions: a set of pixels. No pilot: the "
        "power column is of the runs themselves."
    ),
    metrics={
        "frechet": "Frechet distance of the judge's features from those of the training pictures, lower is better",
        "agreement": "pictures in which the judge sees the class asked for, %",
        "guided_frechet": "the distance with guidance",
        "guided_agreement": "the agreement with guidance, %",
        "judge_accuracy": "of the judge on real test digits, %",
        "tokens": "tokens of a picture",
        "tflops": "TFLOPs of training",
    },
    decimals={"frechet": 2, "guided_frechet": 2, "tokens": 0, "tflops": 2},
    arms=(
        _arm("p1", "a token per pixel", ()),
        _arm("p2", "2 x 2 pixels to a token", ("model.patch_size=2",)),
        _arm("p2_wide", "2 x 2 pixels, wider: as many FLOPs as p1", WIDE),
        _arm(
            "p2_permuted",
            "p2, pixels in one fixed random order",
            ("model.patch_size=2", "optim.lr=2e-3", f"data.source.permutation={PERMUTATION}"),
            permuted=True,
        ),
        _arm("p1_no_positions", "p1 without positions", ("model.position_type=none",), seeds=2),
        Arm("real", "real pictures that were not trained on", _real),
    ),
    comparisons=(
        Comparison("frechet", "p2", "p1"),
        Comparison("agreement", "p1", "p2", decisive=False),
        Comparison("frechet", "p2_wide", "p1", decisive=False),
        Comparison("agreement", "p1", "p2_wide", decisive=False),
        Comparison("guided_frechet", "p2", "p1", decisive=False),
        Comparison("frechet", "p2_permuted", "p2", decisive=False),
        Comparison("frechet", "p1_no_positions", "p1", decisive=False),
    ),
    core_seeds=5,
    full_seeds=10,
    picture=draw,
)
