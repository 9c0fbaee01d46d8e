"""What tests of exports share: tiny models, unseen sizes, and both ways of running them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from jepa_hub.masks import Masks
from jepa_hub.models.graphs import is_image_model
from tests.official import tiny_config, tiny_model

GRIDS = ((2, 3, 7), (4, 5, 2), (3, 4, 4))  # (T, H, W) tokens; none is the example's, which is 5 x 6 patches


def exportable(family: str, **settings: Any) -> Any:
    """A tiny model with one block, which is exported faster and shows the same."""
    if tiny_config(family).num_hidden_layers == 2:  # a transformer's; a ResNet's follows from its stages
        settings = {"num_hidden_layers": 1, **settings}
    return tiny_model(family, **settings)


def cases(model: Any, batches: tuple[int, ...] = (1, 2, 5)) -> Iterator[Tensor]:
    """Pixels [B, 3, F, H, W] at batch sizes and grids not seen at export."""
    config = model.config
    for index, batch in enumerate(batches):
        t, h, w = GRIDS[index % len(GRIDS)]
        frames = 1 if is_image_model(config) else t * config.tubelet_size
        shape = (batch, config.num_channels, frames, h * config.patch_size, w * config.patch_size)
        yield torch.randn(shape, generator=torch.Generator().manual_seed(index))


def masks_for(model: Any, pixels: Tensor, targets: int) -> Masks:
    """Random masks, another draw for every sample."""
    config = model.config
    tokens = max(pixels.shape[2] // config.tubelet_size, 1)
    tokens *= (pixels.shape[3] // config.patch_size) * (pixels.shape[4] // config.patch_size)
    draw = torch.Generator().manual_seed(tokens)
    order = torch.stack([torch.randperm(tokens, generator=draw) for _ in range(len(pixels))])
    group = config.num_mask_tokens - 1
    return Masks(order[:, :4], order[:, 4 : 4 + 3 * targets].unflatten(1, (targets, 3)), group)


def assert_same(model: Any, exported: Any, tolerance: float = 2e-5, batches: tuple[int, ...] = (1, 2, 5)) -> None:
    """encode() and predict() of both agree, whatever the batch, size, length and number of targets."""
    for index, pixels in enumerate(cases(model, batches)):
        wanted, got = model.encode(pixels), exported.encode(pixels)
        assert got.grid_size == wanted.grid_size
        torch.testing.assert_close(got.tokens, wanted.tokens, atol=tolerance, rtol=tolerance)
        if "classification" in model.more_graphs:
            by = {"support_images": pixels, "support_labels": [f"label {number}" for number in range(len(pixels))]}
            labels, again = model.classify(pixels, **by), exported.classify(pixels, **by)
            assert again.labels == labels.labels
            torch.testing.assert_close(again.probabilities, labels.probabilities, atol=tolerance, rtol=1e-4)
        if "text" in model.more_graphs:
            assert_same_pairs(model, exported, pixels, texts(model, 2 + index, 4 + 2 * index), tolerance)
        if model.predictor is not None:
            masks = masks_for(model, pixels, targets=1 + index % 3)
            told = None
            if model.config.conditioning_size:
                told = torch.randn(len(pixels), model.config.conditioning_size)
            torch.testing.assert_close(
                exported.predict(pixels, masks=masks, conditioning=told),
                model.predict(pixels, masks=masks, conditioning=told),
                atol=tolerance,
                rtol=tolerance,
            )


def texts(model: Any, count: int, length: int) -> Tensor:
    """Token numbers [count, length], texts of 2 to `length` tokens with anything behind their end."""
    draw = torch.Generator().manual_seed(count)
    end = model.config.end_token_id
    ids = torch.randint(end + 1, model.config.vocab_size, (count, length), generator=draw)
    ids[torch.arange(count), torch.arange(count) % (length - 1) + 1] = end
    return ids


def assert_same_pairs(model: Any, exported: Any, pixels: Tensor, ids: Tensor, tolerance: float) -> None:
    """Parts of pictures, parts of texts and what they give together agree."""
    with torch.no_grad():
        image, text = model.image_parts(pixels), model.text_parts(ids)
        logits = model.pair_logits(image.keys, image.values, text.queries, text.targets)
    found = exported.image_parts(pixels)
    pairs = [*zip(found, image, strict=True), *zip(exported.text_parts(ids), text, strict=True)]
    pairs.append((exported.pair_logits(image.keys, image.values, text.queries, text.targets), logits))
    for got, wanted in pairs:
        torch.testing.assert_close(got, wanted, atol=tolerance, rtol=tolerance)
