"""Pictures of what an image world model expects: for each change it is told, the nearest pictures of a bank."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from jepa_hub import photometry
from jepa_hub.processing import IMAGENET_MEAN, IMAGENET_STD
from jepa_hub.ranking import draw_changes, predict_whole, ranks

SIDE, GAP, HEAD, LABEL = 96, 8, 34, 190  # pixels
INK, TRUE, PAPER = (40, 40, 46), (32, 140, 70), (255, 255, 255)


@dataclass(frozen=True)
class Neighbours:
    """What lies nearest to the predictions for one picture.

    Attributes:
        asked: parameters [Q, 7] of the changes that the model was told.
        bank: parameters [N, 7] of the changed pictures it was compared with; the first Q are those asked for.
        nearest: int64 [Q, K], rows of `bank`, nearest first.
        rank: [Q], of the picture that was asked for among all N; ties count against it.
    """

    asked: Tensor
    bank: Tensor
    nearest: Tensor
    rank: Tensor


@torch.no_grad()
def neighbours(
    model: Any,
    picture: Tensor,
    changes: Sequence[Mapping[str, float]],
    *,
    count: int = 4,
    bank: int = 256,
    strength: float | Sequence[float] = 1.8,
    seed: int = 0,
    mean: Sequence[float] = IMAGENET_MEAN,
    std: Sequence[float] = IMAGENET_STD,
) -> Neighbours:
    """The nearest of a bank of changed versions of one picture to the prediction under each change, by tokens.

    Args:
        model: an IWMModel.
        picture: [3, H, W], normalised with `mean` and `std`.
        changes: named changes, e.g. [{"brightness": 0.3}, {"hue": -0.1, "contrast": 0.2}].
        count: K, how many neighbours.
        bank: N, changed versions to choose from: those asked for, and random ones.
        strength, seed: of the random ones, see `jepa_hub.ranking.draw_changes`.
        mean, std: of the normalisation.

    Raises:
        ValueError: no changes, or a bank too small for them.
    """
    if not changes or bank < len(changes) + 2 or not 1 <= count <= bank:
        raise ValueError(
            f"expected changes and a larger bank, got {len(changes)} changes, {count} neighbours of {bank}"
        )
    asked = torch.cat([photometry.parameters(each, 1) for each in changes])
    others = draw_changes(bank - len(asked), strength, seed=seed)
    table = torch.cat([asked, others])
    copies = picture.expand(bank, *picture.shape)
    targets = model.prediction_targets(photometry.apply_normalised(copies, table.to(picture), mean, std)).flatten(1)
    told = photometry.conditioning(asked).to(picture)
    predicted = predict_whole(model, copies[: len(asked)], told).flatten(1)
    distances = torch.cdist(predicted, targets, compute_mode="donot_use_mm_for_euclid_dist")  # [Q, N]
    nearest = distances.argsort(dim=1, stable=True)[:, :count]
    return Neighbours(
        asked, table, nearest.cpu(), ranks(distances, torch.arange(len(asked)).to(distances.device)).cpu()
    )


def neighbour_sheet(
    picture: Tensor,
    found: Neighbours,
    *,
    mean: Sequence[float] = IMAGENET_MEAN,
    std: Sequence[float] = IMAGENET_STD,
) -> Image.Image:
    """A picture of `neighbours`: one row per change, with what was asked for and the nearest of the bank.

    A neighbour that is exactly the picture asked for has a green frame.

    Args:
        picture: [3, H, W], normalised with `mean` and `std`.
        found: by `neighbours`, of that picture.
        mean, std: of the normalisation.
    """
    count = found.nearest.shape[1]
    width, height = LABEL + (2 + count) * (SIDE + GAP), HEAD + len(found.asked) * (SIDE + GAP)
    sheet = Image.new("RGB", (width, height), PAPER)
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(13)
    titles = ["seen", "asked for", *(f"nearest {place}" for place in range(1, count + 1))]
    for column, title in enumerate(titles):
        draw.text((LABEL + column * (SIDE + GAP), 10), title, INK, font)
    for row, asked in enumerate(found.asked):
        top = HEAD + row * (SIDE + GAP)
        lines = [*_words(asked), f"rank {int(found.rank[row])} of {len(found.bank)}"]
        draw.multiline_text((GAP, top + 8), "\n".join(lines), INK, font, spacing=4)
        tables = torch.stack([torch.zeros_like(asked), asked, *found.bank[found.nearest[row]]])
        shown = _shown(picture, tables, mean, std)
        for column, image in enumerate(shown):
            left = LABEL + column * (SIDE + GAP)
            sheet.paste(image, (left, top))
            if column > 1 and int(found.nearest[row, column - 2]) == row:
                draw.rectangle((left - 3, top - 3, left + SIDE + 2, top + SIDE + 2), outline=TRUE, width=3)
    return sheet


def _words(table: Tensor) -> list[str]:
    """The changes of one row of parameters."""
    named = [(name, value) for name, value in zip(photometry.NAMES, table.tolist(), strict=True) if value]
    return [f"{name} {value:+.2f}" for name, value in named] or ["no change"]


def _shown(picture: Tensor, tables: Tensor, mean: Sequence[float], std: Sequence[float]) -> list[Image.Image]:
    shift, scale = (torch.tensor(each).view(1, 3, 1, 1) for each in (mean, std))
    plain = picture.cpu().float()[None] * scale + shift
    changed = photometry.apply(plain.expand(len(tables), -1, -1, -1), tables).clamp(0, 1)
    pixels = (255 * changed).round().to(torch.uint8).permute(0, 2, 3, 1)
    return [Image.fromarray(each.numpy()).resize((SIDE, SIDE), Image.Resampling.BILINEAR) for each in pixels]
