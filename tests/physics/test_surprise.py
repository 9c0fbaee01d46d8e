"""Surprise: the official numbers, no leak, the fast path against the plain formula, and the command."""

from __future__ import annotations

import json
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch
from torch import Tensor
from typer.testing import CliRunner

import jepa_hub
from jepa_hub.cli import app
from jepa_hub.models.base import JEPAModel
from jepa_hub.models.vjepa import VJepaConfig, VJepaModel
from jepa_hub.physics.surprise import SurpriseCurve, step_means, surprise, surprise_curve
from jepa_hub.processing import JEPAProcessor
from tests.official import golden, tiny_model, write_official

PROCESSOR = JEPAProcessor(image_size=32, resize=32, patch_size=16, tubelet_size=2, num_frames=8)


def small(**settings: Any) -> VJepaModel:
    torch.manual_seed(0)
    sizes: dict[str, Any] = {"image_size": 32, "patch_size": 16, "num_frames": 8, "hidden_size": 48}
    sizes |= {"num_hidden_layers": 2, "num_attention_heads": 2, "predictor_hidden_size": 24}
    sizes |= {"predictor_num_hidden_layers": 2, "predictor_num_attention_heads": 2, "initializer_range": 0.2}
    model = VJepaModel(VJepaConfig(**(sizes | settings)))
    assert model.target_encoder is not None
    for parameter in model.target_encoder.parameters():  # a target that is not the encoder
        parameter.data += 0.05 * torch.randn_like(parameter)
    return model.eval()


def naive(model: Any, clips: Tensor, context: int, window: int = 8, stride: int = 2) -> Tensor:
    """The published protocol, one window and one context length at a time, the target anew each time: [B, W]."""
    rows = []
    for clip in clips:
        row = []
        for start in range(0, clip.shape[1] - window + 1, stride):
            part = clip[None, :, start : start + window]
            target = model.prediction_targets(part)[0]  # [N, D]
            predicted = model.predict(part, context=range(context), target=range(context, window))[0, 0]
            row.append((predicted - target[-len(predicted) :]).abs().mean())
        rows.append(torch.stack(row))
    return torch.stack(rows)


def test_the_official_numbers(tmp_path: Path) -> None:
    _, expected = golden("physics_rope_tiny")
    model = JEPAModel.from_pretrained(write_official(tmp_path / "m.pth.tar", "physics_rope_tiny"))
    ours = surprise(model, expected["videos"], context_frames=(2, 4, 6), window_frames=8, stride=2)
    assert ours.shape == expected["surprise"].shape
    assert (ours - expected["surprise"]).abs().max() < 1e-5  # asked for: 1e-4
    with pytest.raises(ValueError, match="give window_frames="):  # rotary files do not know their clip length
        surprise(model, expected["videos"], context_frames=2)


@pytest.mark.parametrize("position_type", ["sincos", "rotary_interleaved"])
@torch.no_grad()
def test_batches_change_nothing(position_type: str) -> None:
    model = small(position_type=position_type)
    clips = torch.randn(3, 3, 14, 32, 32)
    fast = surprise(model, clips, context_frames=(2, 4, 6), batch_size=5)  # [3, 3, 4], batches across clips
    for index, context in enumerate((2, 4, 6)):
        assert fast[:, index].allclose(naive(model, clips, context), atol=1e-6)
    one = surprise(model, clips, context_frames=4, batch_size=64)
    assert one.shape == (3, 4) and one.allclose(fast[:, 1], atol=1e-6)


def test_targets_are_computed_once_per_window(monkeypatch: pytest.MonkeyPatch) -> None:
    model = small()
    seen = []
    whole = VJepaModel.prediction_targets

    def count(self: Any, pixels: Tensor) -> Tensor:
        seen.append(len(pixels))
        return whole(self, pixels)

    monkeypatch.setattr(VJepaModel, "prediction_targets", count)
    surprise(model, torch.randn(2, 3, 12, 32, 32), context_frames=(2, 4, 6), batch_size=4)
    assert sum(seen) == 2 * 3  # clips x windows, whatever the number of contexts


def test_the_future_cannot_reach_the_prediction(monkeypatch: pytest.MonkeyPatch) -> None:
    model = small()
    clip = torch.randn(1, 3, 8, 32, 32)
    other = clip.clone()
    other[:, :, 4:] = torch.randn_like(other[:, :, 4:])
    kept: list[Tensor] = []
    whole = VJepaModel.forward

    def spy(self: Any, *args: Any, **more: Any) -> Any:
        out = whole(self, *args, **more)
        assert isinstance(out.predicted, Tensor)
        kept.append(out.predicted)
        return out

    monkeypatch.setattr(VJepaModel, "forward", spy)
    values = [surprise(model, each, context_frames=4) for each in (clip, other)]
    assert torch.equal(kept[0], kept[1])  # to the last bit
    assert not torch.equal(values[0], values[1])


def test_maps_say_where_and_when() -> None:
    model = small()
    clips = torch.randn(2, 3, 10, 32, 32)
    maps = surprise(model, clips, context_frames=(2, 6), per_token=True)
    assert maps.shape == (2, 2, 2, 4, 2, 2)
    assert maps[:, 0, :, :1].isnan().all() and maps[:, 0, :, 1:].isfinite().all()
    assert maps[:, 1, :, :3].isnan().all() and maps[:, 1, :, 3:].isfinite().all()
    assert maps.flatten(3).nanmean(-1).allclose(surprise(model, clips, context_frames=(2, 6)))
    # Every step has as many tokens, so the mean of the steps is the mean of the tokens.
    assert step_means(maps).nanmean(-1).allclose(maps.flatten(3).nanmean(-1), atol=1e-6)


def test_bfloat16_is_close() -> None:
    model = small()
    clips = torch.randn(2, 3, 8, 32, 32)
    exact = surprise(model, clips, context_frames=(2, 4))
    rough = surprise(model.to(torch.bfloat16), clips.to(torch.bfloat16), context_frames=(2, 4))
    assert rough.dtype == torch.float32 and rough.allclose(exact, rtol=0.03)


def test_pixels_for_a_model_without_target_encoder() -> None:
    model = tiny_model("mae", patch_size=16, image_size=32, num_frames=8, tubelet_size=2)
    clips = torch.randn(2, 3, 8, 32, 32)
    found = surprise(model, clips, context_frames=4)
    assert found.allclose(naive(model, clips, 4), atol=1e-6)
    # Upstream: the shipped evaluation overwrites this model's predictions with zeros; the model must matter.
    before = found.clone()
    for parameter in model.predictor.parameters():
        parameter.data += 0.3 * torch.randn_like(parameter)
    assert not surprise(model, clips, context_frames=4).allclose(before)
    zero = model.prediction_targets(clips)[:, -8:].abs().mean((1, 2))
    assert not before[:, 0].allclose(zero)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"context_frames": 3}, r"choose one or several of \[2, 4, 6\]"),
        ({"context_frames": 8}, "cannot split"),
        ({"context_frames": ()}, "cannot split"),
        ({"context_frames": (2, 2)}, "each once"),
        ({"context_frames": 2, "window_frames": 16}, "shorter than one window of 16"),
        ({"context_frames": 2, "window_frames": 7}, "two or more tubelets"),
        ({"context_frames": 2, "stride": 0}, "stride"),
        ({"context_frames": 2, "batch_size": 0}, "batch_size"),
    ],
)
def test_bad_settings_are_named(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        surprise(small(), torch.randn(1, 3, 8, 32, 32), **settings)


def test_an_image_model_and_a_lone_encoder_are_refused() -> None:
    with pytest.raises(ValueError, match="needs a video model"):
        surprise(tiny_model("ijepa"), torch.randn(1, 3, 32, 32), context_frames=1)
    with pytest.raises(ValueError, match="needs the predictor"):
        surprise(
            tiny_model("vjepa", networks=["encoder"], num_frames=8), torch.randn(1, 3, 8, 32, 32), context_frames=2
        )


def film(path: Path, frames: int = 20) -> Path:
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream("libx264", rate=Fraction(10))
        stream.width = stream.height = 64
        stream.pix_fmt = "yuv420p"
        for index in range(frames):
            picture = np.full((64, 64, 3), 20, np.uint8)
            picture[20:40, 2 * index : 2 * index + 20] = 220
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture)))
        container.mux(stream.encode(None))
    return path


def test_a_curve_has_the_times_of_the_film(tmp_path: Path) -> None:
    path, model = film(tmp_path / "clip.mp4"), small()
    curve = jepa_hub.surprise_curve(model, path, context_frames=(2, 4), processor=PROCESSOR)
    assert curve.values.shape == (2, 7) and curve.times.tolist() == pytest.approx([0.35 + 0.2 * w for w in range(7)])
    assert curve.timeline.shape == (2, 10) and curve.step_times[3].item() == pytest.approx(0.65)
    # A step's value is the mean over the windows that predict it: step 4 is step 4, 3, 2, 1 of windows 0 to 3.
    means = step_means(curve.maps)
    assert curve.timeline[0, 4].item() == pytest.approx(means[0, [1, 2, 3], [3, 2, 1]].mean().item(), rel=1e-5)
    assert curve.timeline[:, 0].isnan().all()
    every_second = surprise_curve(model, path, context_frames=2, processor=PROCESSOR, frame_step=2)
    assert every_second.values.shape == (1, 2) and every_second.frame_times[1].item() == pytest.approx(0.2)
    curve.plot(tmp_path / "curve.png", mark=1.0)
    assert (tmp_path / "curve.png").stat().st_size > 5000
    assert json.loads(json.dumps(curve.to_dict()))["step_surprise"][0][0] is None


def test_a_jump_is_seen_when_it_happens() -> None:
    """The error of a window is largest at the step whose pixels stand out."""
    model = tiny_model("mae", patch_size=16, image_size=32, num_frames=8, tubelet_size=2, pixel_targets="none")
    frames = np.full((16, 32, 32, 3), 120, np.uint8)
    frames[8:10] = 255
    curve = surprise_curve(model, frames, context_frames=2, processor=PROCESSOR)
    assert isinstance(curve, SurpriseCurve)
    assert int(curve.timeline[0].nan_to_num(-1).argmax()) == 4


def test_the_command(tmp_path: Path) -> None:
    path = film(tmp_path / "clip.mp4")
    small().save_pretrained(tmp_path / "model")
    PROCESSOR.save_pretrained(tmp_path / "model")
    run = CliRunner().invoke(app, ["surprise", str(path), "-m", str(tmp_path / "model"), "--context", "2,4"])
    assert run.exit_code == 0, run.output
    folder = tmp_path / "clip.mp4.surprise"
    numbers = json.loads((folder / "surprise.json").read_text())
    assert numbers["context_frames"] == [2, 4] and len(numbers["surprise"][0]) == len(numbers["times"]) == 7
    with av.open(str(folder / "overlay.mp4")) as container:
        frame = next(container.decode(video=0))
    assert frame.width == 2 * frame.height  # the film, and the film with its map
    assert (folder / "curve.png").is_file()
    wrong = CliRunner().invoke(app, ["surprise", str(path), "-m", str(tmp_path / "model"), "--context", "3"])
    assert wrong.exit_code == 1 and "choose one or several of" in wrong.output
