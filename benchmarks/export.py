"""Exports against torch: speed of a ViT-B image encoder on this CPU, and probe accuracy of a shipped model.

    python benchmarks/export.py                      # speed; exits non-zero below the bar
    python benchmarks/export.py --accuracy           # and what a probe on the shipped model loses by int8 and fp16

Both sides run in turn, in one process, with the same threads; the peer is this package's own torch float32 `encode()`.
Speed is of random weights (it does not depend on them), accuracy of trained ones.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from harness import seconds, spread

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # `export` is the package, not this file

from export import samples
from export.runtime import OnnxJEPAModel
from export.to_onnx import to_onnx

BAR = 1.5  # int8 against torch float32
LEAST_COSINE = 0.999
MOST_LOST = 0.5  # points of probe accuracy
SHIPPED = "ijepa-tiny-scenes"
LABELS = ("shape", "colour")


def speed(rounds: int, batch: int, folder: Path) -> bool:
    """ViT-B/16 at 224 pixels: torch, and ONNX in fp32, int8 and int8_static; True if int8 reaches the bar."""
    from jepa_hub.models.ijepa import IJepaConfig, IJepaModel

    torch.manual_seed(0)
    model = IJepaModel(IJepaConfig.of_size("vit_base", networks=["encoder"])).eval()
    pixels = samples.pixels(model.config, None, batch=batch)

    def calibration(graph: Any) -> Any:
        return [samples.graph_inputs(graph, samples.pixels(model.config, None, batch=1, seed=9), model.config)]

    sides: dict[str, Any] = {"torch": model}
    for precision in ("fp32", "int8", "int8_static"):
        to_onnx(model, folder, precision=precision, graphs=["features"], calibration=calibration)
        sides[precision] = OnnxJEPAModel.from_pretrained(
            folder, precision=precision, provider="cpu", threads=torch.get_num_threads()
        )
    wanted = model.encode(pixels).tokens
    times: dict[str, list[float]] = {name: [] for name in sides}
    for name, side in sides.items():  # also the warm-up
        cosine = torch.nn.functional.cosine_similarity(side.encode(pixels).tokens, wanted, dim=-1)
        print(f"{name}: cosine {cosine.mean():.5f} (lowest {cosine.min():.5f})")
    for index in range(rounds):
        for name in list(sides)[:: 1 if index % 2 else -1]:  # who goes first alternates
            times[name].append(seconds(lambda: sides[name].encode(pixels)))  # noqa: B023 - called at once
    print(
        f"ViT-B/16, batch {batch}, {torch.get_num_threads()} threads; torch {statistics.median(times['torch']):.3f} s"
    )
    for name in list(sides)[1:]:
        ratios = [a / b for a, b in zip(times["torch"], times[name], strict=True)]
        print(f"    ONNX {name:<12} {spread(ratios)} x torch float32, {statistics.median(times[name]):.3f} s")
    ratio = statistics.median(a / b for a, b in zip(times["torch"], times["int8"], strict=True))
    print(f"int8: {ratio:.2f} x, bar {BAR}: {'passed' if ratio >= BAR else 'BELOW ITS BAR'}", flush=True)
    return ratio >= BAR


def accuracy(folder: Path, count: int) -> bool:
    """Linear probes fitted on torch features of a shipped model, read through its exports; True within the limits."""
    from jepa_hub.models.base import JEPAModel
    from training.build import build_source
    from training.config import Named
    from training.probing.features import extract_features
    from training.probing.linear import fit_logistic, standardise

    model = JEPAModel.from_pretrained(SHIPPED)
    sources = {
        split: build_source(
            Named.model_validate({"name": "scenes", "num_samples": count, "split": split, "cache": None})
        )
        for split in ("train", "test")
    }
    train = extract_features(model, sources["train"])
    scaling = standardise(train.features)
    fits = {
        label: fit_logistic(scaling(train.features), train.label(label), train.num_classes(label), [1e-3])[0]
        for label in LABELS
    }
    reference = extract_features(model, sources["test"])
    truth = {label: reference.label(label) for label in LABELS}

    def score(features: torch.Tensor) -> dict[str, float]:
        return {
            label: 100 * (fit(scaling(features)).argmax(1) == truth[label]).double().mean().item()
            for label, fit in fits.items()
        }

    def calibration(graph: Any) -> Any:
        return [samples.graph_inputs(graph, samples.pixels(model.config, None, batch=8, seed=9), model.config)]

    wanted, good = score(reference.features), True
    print(
        f"{SHIPPED}, linear probes, {count} scenes held out: " + ", ".join(f"{k} {v:.1f} %" for k, v in wanted.items())
    )
    for precision in ("fp16", "int8", "int8_static"):
        to_onnx(model, folder, precision=precision, graphs=["features"], calibration=calibration)
        exported = OnnxJEPAModel.from_pretrained(folder, precision=precision)
        table = extract_features(exported, sources["test"])
        got = score(table.features)
        cosine = torch.nn.functional.cosine_similarity(table.features, reference.features, dim=-1).mean().item()
        lost = max(abs(wanted[label] - got[label]) for label in LABELS)
        passed = lost <= MOST_LOST and cosine >= LEAST_COSINE
        told = ", ".join(f"{label} {value:.1f} %" for label, value in got.items())
        print(
            f"    {precision:<12} {told}; cosine {cosine:.5f}; at most {lost:.2f} points apart"
            + " BELOW" * (not passed)
        )
        good &= passed
    return good


def main() -> None:
    """Parse arguments, run, exit 1 below a bar."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7, help="alternations, five at least")
    parser.add_argument("--batch", type=int, default=4, help="images per call")
    parser.add_argument("--accuracy", action="store_true", help="also what probes lose")
    parser.add_argument("--skip-speed", action="store_true", help="accuracy alone")
    parser.add_argument("--scenes", type=int, default=2000, help="scenes to fit probes on, and as many to test")
    arguments = parser.parse_args()
    if arguments.rounds < 5:
        parser.error("--rounds must be 5 or more: a spread over fewer says nothing")
    good = True
    with tempfile.TemporaryDirectory() as folder:
        if not arguments.skip_speed:
            good &= speed(arguments.rounds, arguments.batch, Path(folder) / "speed")
        if arguments.accuracy:
            good &= accuracy(Path(folder) / "accuracy", arguments.scenes)
    sys.exit(0 if good else 1)


if __name__ == "__main__":
    main()
