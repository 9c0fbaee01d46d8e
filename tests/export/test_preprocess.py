"""The processor inside the graph: level for level the processor's own arithmetic, and the same tokens."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from export.preprocess import Preprocess
from export.runtime import OnnxJEPAModel
from export.to_onnx import to_onnx
from jepa_hub.masks import frame_masks
from jepa_hub.processing import JEPAProcessor
from tests.official import tiny_model

SETTINGS: list[dict[str, Any]] = [
    {"image_size": 64, "resize": 72},
    {"image_size": 64, "resize": 72, "crop_rounding": "down"},
    {"image_size": (48, 80)},
    {"image_size": 64, "aspect": "squash", "resize": 80},
    {"image_size": 64, "aspect": "pad"},
    {"aspect": "native", "resize": 64},
    {"aspect": "native", "patch_size": 16, "multiple": "pad"},
    {"aspect": "native", "patch_size": 16, "multiple": "crop"},
]


def picture(height: int, width: int, frames: int = 1) -> Tensor:
    """uint8 [F, H, W, 3], noise over a gradient: every level occurs, and every rounding."""
    draw = torch.Generator().manual_seed(height * width)
    ramp = torch.linspace(0, 200, width).expand(frames, height, width)[..., None]
    return (ramp + 55 * torch.rand(frames, height, width, 3, generator=draw)).byte()


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_levels_are_those_of_the_processor(settings: dict[str, Any], interpolation: Any) -> None:
    processor = JEPAProcessor(interpolation=interpolation, **settings)
    for height, width in ((97, 131), (201, 64), (33, 35), (80, 80), (64, 300)):
        frame = picture(height, width)
        wanted = processor(frame[0].numpy()).pixel_values[:, :, 0]
        got = Preprocess(processor)(frame)
        assert got.shape == wanted.shape
        # one level is 0.017 after normalisation
        assert (got - wanted).abs().max() < 1e-5


@pytest.mark.parametrize(("family", "frames"), [pytest.param("ijepa", 1, marks=pytest.mark.slow), ("vjepa2", 8)])
def test_frames_in_tokens_out(family: str, frames: int, tmp_path: Path) -> None:
    model = tiny_model(family, num_hidden_layers=1)
    config = model.config
    processor = JEPAProcessor(
        image_size=32,
        resize=37,
        patch_size=config.patch_size,
        tubelet_size=config.tubelet_size,
        interpolation="bicubic",
    )
    to_onnx(model, tmp_path, processor=processor, preprocessing_in_graph=True)
    exported = OnnxJEPAModel.from_pretrained(tmp_path)
    assert exported.processor == processor
    for height, width in ((61, 90), (48, 39)):
        clip = picture(height, width, frames)
        inputs = processor(clip.numpy() if frames > 1 else clip[0].numpy())
        wanted, got = model.encode(inputs), exported.encode(clip if frames > 1 else clip[0])
        assert got.grid_size == wanted.grid_size
        assert (got.tokens - wanted.tokens).abs().max() < 1e-4
        if frames > 1:
            spans = {"context": range(4), "target": range(4, 8), "group": 1}
            assert (exported.predict(clip, **spans) - model.predict(inputs, **spans)).abs().max() < 1e-4
            with pytest.raises(ValueError, match="frames or masks, not both"):
                exported.predict(clip, **spans, masks=frame_masks(range(4), range(4, 8), got.grid_size, 2, 1))
    with pytest.raises(ValueError, match="give uint8 frames"):
        exported.encode(inputs)
