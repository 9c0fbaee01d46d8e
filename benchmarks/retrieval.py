"""What a shortlist loses and saves: the shipped Llip model finds drawn pictures by phrases from their scene graphs.

    python benchmarks/retrieval.py                   # 2,000 test pictures, 500 phrases; prints a table, and
                                                     # how often words of colours, shapes and counts are right

Recall is the share of phrases with a true picture first; the last row ranks all pictures exactly. No bar: how much a
shortlist loses depends on the model. The time includes nothing but the search.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from jepa_hub import JEPAModel, zero_shot
from jepa_hub.models.llip import ImageParts, LlipModel
from jepa_hub.processing import JEPAProcessor
from jepa_hub.retrieval import Gallery, map_at_r, recall_at, tradeoff
from training.config import CaptionSettings
from training.data.captions import captions_of
from training.data.scene_graph import COLOURS
from training.data.scenes import Scenes
from training.data.solids import SHAPES
from training.data.source import Sample

MODEL = "llip-tiny-scenes"
SHORTLISTS = (10, 30, 100, 300, 1000)
COUNTS = ("one object", "two objects", "three objects", "four objects")


def main() -> None:
    """Print recall, agreement with the exact search and milliseconds per phrase."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pictures", type=int, default=2000)
    parser.add_argument("--phrases", type=int, default=500)
    parser.add_argument("-k", type=int, default=1, help="pictures per phrase that are looked at")
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    source = Scenes(Scenes.Settings(num_samples=chosen.pictures, split="test"))
    samples = [source.read(index, 0) for index in range(chosen.pictures)]
    model, processor = JEPAModel.from_pretrained(MODEL), JEPAProcessor.from_pretrained(MODEL)
    pictures = [each.pixels.permute(1, 2, 0).numpy() for each in samples]
    gallery = Gallery.of(model, (processor(pictures[start : start + 100]) for start in range(0, len(pictures), 100)))
    said = [set(captions_of(each, CaptionSettings(kind="scene"))) for each in samples]
    every = sorted(set().union(*said))
    order = torch.randperm(len(every), generator=torch.Generator().manual_seed(0))[: chosen.phrases].tolist()
    phrases = [every[place] for place in order]
    truth = torch.tensor([[phrase in each for each in said] for phrase in phrases])  # [Q, N]
    texts = model.encode_text(phrases)
    print(f"{len(phrases)} of {len(every)} phrases, {truth.sum(dim=1).double().mean():.1f} true pictures each")
    print(f"chance: {100 * truth.double().mean():.1f} %")
    print(f"| shortlist | recall at {chosen.k}, % | agreement with the exact search, % | ms per phrase |")
    print("|---|---|---|---|")
    for row in tradeoff(gallery, texts, truth, SHORTLISTS, k=chosen.k):
        print(f"| {row.shortlist} | {100 * row.recall:.1f} | {100 * row.agreement:.1f} | {row.milliseconds:.2f} |")
    cosines = model.cosines(gallery.parts, texts)  # [N, Q]
    print(
        f"texts by pictures: recall at 1 {100 * recall_at(cosines, truth.T, 1):.1f} %, mAP@R "
        f"{100 * map_at_r(cosines, truth.T):.1f} %; pictures by texts: mAP@R {100 * map_at_r(cosines.T, truth):.1f} %"
    )
    named(model, gallery.parts, samples)


def named(model: LlipModel, image: ImageParts, samples: Sequence[Sample]) -> None:
    """Print how often the best of some words is true: of pictures of one solid, and of how many there are."""
    count = torch.tensor([each.labels["count"] for each in samples])
    for label, names, template in (
        ("colour", tuple(COLOURS), "a {} object"),
        ("shape", tuple(SHAPES), "a {}"),
        ("count", COUNTS, "{}"),
    ):
        found = zero_shot.scores(model, image, zero_shot.encode_classes(model, names, [template])).argmax(dim=1)
        true = torch.tensor([each.labels[label] for each in samples])
        counted = torch.ones_like(count, dtype=torch.bool) if label == "count" else count == 0
        right = 100 * (found == true)[counted].double().mean()
        other = 100 * (found.roll(1) == true)[counted].double().mean()
        print(f"{label}: {right:.1f} % of {int(counted.sum())} pictures, {other:.1f} % with pictures exchanged")


if __name__ == "__main__":
    main()
