"""Ship a small model with the package: half precision, under `jepa_hub/weights`, within the size budget.

    python -m training.ship runs/claims/ijepa/latent-seed0/final ijepa-tiny-scenes

A shipped weight is replaced, never added to; its row is in `jepa_hub/catalog.py`.
"""

from __future__ import annotations

import argparse
import re
import shutil
from collections.abc import Sequence
from pathlib import Path

import torch

from jepa_hub.models.base import JEPAModel

WEIGHTS = Path(__file__).resolve().parent.parent / "jepa_hub" / "weights"
MOST_BYTES, MOST_IN_ALL = 12_000_000, 42_000_000


def ship(model_folder: Path, name: str, weights: Path = WEIGHTS) -> Path:
    """Write a finished model to `weights/name` in half precision, with its card, settings and preprocessing.

    Args:
        model_folder: `final/` or `best/` of a run.
        name: of the shipped weight, family-size-data.
        weights: the folder of all shipped weights.

    Raises:
        ValueError: the model is too large, or all of them together are, or half precision changes its features.
    """
    model = JEPAModel.from_pretrained(model_folder)
    draft = weights / f"{name}.unfinished"
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir(parents=True)
    for file in ("settings.yaml", "metrics.json", "preprocessor_config.json", "video_preprocessor_config.json"):
        if (model_folder / file).is_file():
            shutil.copy(model_folder / file, draft / file)
    run = str(model_folder.parent.name)
    card = (model_folder / "README.md").read_text(encoding="utf-8")
    card = card.replace(f"{model.config.model_type.split('_')[-1]}-{run}", name)
    (draft / "README.md").write_text(_without_folder(card, name), "utf-8")
    settings = draft / "settings.yaml"
    settings.write_text(_without_folder(settings.read_text(encoding="utf-8"), name), "utf-8")
    model.half().save_pretrained(draft)
    try:
        _check(model_folder, draft, weights, name)
    except ValueError:
        shutil.rmtree(draft)
        raise
    target = weights / name
    shutil.rmtree(target, ignore_errors=True)
    draft.rename(target)
    return target


def _without_folder(text: str, name: str) -> str:
    """Settings whose run.out is a neutral folder instead of a place on the machine that trained."""
    return re.sub(r"^  out: .*$", f"  out: runs/{name}", text, flags=re.MULTILINE)


def _check(original: Path, draft: Path, weights: Path, name: str) -> None:
    size = (draft / "model.safetensors").stat().st_size
    others = [path.stat().st_size for path in weights.rglob("*.safetensors") if path.parent.name != name]
    total = sum(others)  # the draft is among them
    if size > MOST_BYTES or total > MOST_IN_ALL:
        raise ValueError(f"{name} has {size:,} bytes (most {MOST_BYTES:,}), all weights {total:,} ({MOST_IN_ALL:,})")
    whole, half = JEPAModel.from_pretrained(original), JEPAModel.from_pretrained(draft)
    size_ = whole.config.image_size
    assert isinstance(size_, int)  # training makes square models
    pixels = torch.randn(2, 3, whole.config.num_frames, size_, size_, generator=torch.Generator().manual_seed(0))
    cosine = torch.cosine_similarity(whole.encode(pixels).tokens, half.encode(pixels).tokens, dim=-1).min()
    if cosine < 0.999:
        raise ValueError(f"half precision changes the features of {name}: least cosine {cosine:.5f}")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(prog="training.ship", description="Ship a small model with the package.")
    parser.add_argument("model", type=Path, help="final/ or best/ of a run")
    parser.add_argument("name", help="of the shipped weight, such as ijepa-tiny-scenes")
    chosen = parser.parse_args(arguments)
    print(ship(chosen.model, chosen.name))


if __name__ == "__main__":
    main()
