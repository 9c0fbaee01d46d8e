"""Reading, encoding and keeping features (6 s, most of it the import of transformers)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from jepa_hub.models.ijepa import IJepaConfig, IJepaModel
from jepa_hub.models.vjepa import VJepaConfig, VJepaModel
from jepa_hub.processing import JEPAProcessor
from tests.training.probing.probe_sources import Squares, SquaresSettings
from training.probing.features import default_processor, extract_features, raw_pixels, untrained
from training.probing.tables import FeatureTable

TINY: dict[str, Any] = {
    "image_size": 32,
    "patch_size": 8,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "predictor_hidden_size": 16,
    "predictor_num_hidden_layers": 1,
    "predictor_num_attention_heads": 2,
}
QUIET: dict[str, Any] = {"progress": False}


def squares(**settings: Any) -> Squares:
    return Squares(SquaresSettings(**settings))


@pytest.fixture(scope="module")
def model() -> IJepaModel:
    torch.manual_seed(0)
    return IJepaModel(IJepaConfig(**TINY))


def test_features_are_the_models_own_of_processed_pixels(model: IJepaModel) -> None:
    source = squares(length=10, size=48)
    model.train()
    table = extract_features(model, source, batch_size=4, **QUIET)
    assert model.training and all(module.training for module in model.modules())
    model.eval()
    processor = JEPAProcessor(image_size=32, patch_size=8)
    inputs = processor([source.read(index, 0).pixels for index in range(10)], layout="CHW")
    assert torch.allclose(table.features, model.encode(inputs).pooled, atol=1e-6)
    assert table.labels["place"].dtype == torch.int64 and table.labels["level"].dtype == torch.float64
    assert table.labels["level"].tolist() == [source.read(index, 0).labels["level"] for index in range(10)]
    tokens = extract_features(model, source, pooled=False, limit=3, **QUIET)
    assert tokens.features.shape == (3, 16, 32)
    assert torch.allclose(tokens.pooled().features, table.features[:3], atol=1e-6)


def test_the_last_blocks_side_by_side(model: IJepaModel) -> None:
    source = squares(length=5)
    last, both = (extract_features(model, source, layers=layers, **QUIET).features for layers in (1, 2))
    width = last.shape[1]
    inputs = default_processor(model)([source.read(index, 0).pixels for index in range(5)], layout="CHW")
    before = model.encode(inputs, layers=[-2]).layers[-2].mean(dim=1)
    assert torch.allclose(both[:, :width], before, atol=1e-6) and torch.allclose(both[:, width:], last, atol=1e-6)
    with pytest.raises(ValueError, match="1 to 2"):
        extract_features(model, source, layers=3, **QUIET)
    with pytest.raises(ValueError, match="needs a model"):
        extract_features(lambda pixels: pixels.flatten(1), source, layers=2, **QUIET)


def test_an_image_model_sees_the_frames_of_a_clip_and_a_video_model_a_still(model: IJepaModel) -> None:
    clips = extract_features(model, squares(length=3, frames=2), pooled=False, **QUIET)
    stills = extract_features(model, squares(length=3), pooled=False, **QUIET)
    assert torch.allclose(clips.features, stills.features.repeat(1, 2, 1), atol=1e-6)  # both frames are the still
    torch.manual_seed(0)
    video = VJepaModel(VJepaConfig(**TINY, num_frames=4))
    assert extract_features(video, squares(length=3, frames=4), pooled=False, **QUIET).features.shape == (3, 32, 32)
    assert extract_features(video, squares(length=3), pooled=False, **QUIET).features.shape == (3, 16, 32)


def test_a_function_gets_normalised_clips() -> None:
    seen: list[Tensor] = []

    def encode(pixels: Tensor) -> Tensor:
        seen.append(pixels)
        return pixels.mean(dim=(2, 3, 4))

    source = squares(length=4, size=16)
    table = extract_features(encode, source, batch_size=3, indices=[2, 0, 3], **QUIET)
    assert [tuple(each.shape) for each in seen] == [(3, 3, 1, 16, 16)]
    first = source.read(2, 0).pixels.float().mean(dim=(1, 2)) / 255
    expected = (first - torch.tensor([0.485, 0.456, 0.406])) / torch.tensor([0.229, 0.224, 0.225])
    assert torch.allclose(table.features[0], expected, atol=1e-5)
    assert table.indices is not None and table.indices.tolist() == [2, 0, 3]


def test_the_same_content_has_the_same_number(model: IJepaModel) -> None:
    table = extract_features(model, squares(length=6, repeat=3), **QUIET)
    assert len(table.samples.unique()) == 4 and len(table.samples[:3].unique()) == 1
    assert torch.equal(raw_pixels(squares(length=6, repeat=3), **QUIET).samples, table.samples)


def test_unreadable_samples_are_left_out_and_counted(model: IJepaModel, caplog: pytest.LogCaptureFixture) -> None:
    table = extract_features(model, squares(length=20, bad=(3, 7)), max_bad=0.1, **QUIET)
    assert len(table) == 18 and table.skipped == ("square 3 is torn", "square 7 is torn")
    assert table.indices is not None and 3 not in table.indices.tolist()
    assert "sample 7 left out: square 7 is torn" in caplog.text
    with pytest.raises(ValueError, match=r"2 of 20 samples could not be read, more than the tolerated 5\.0%: square 3"):
        extract_features(model, squares(length=20, bad=(3, 7)), max_bad=0.05, **QUIET)
    with pytest.raises(ValueError, match="no samples to encode"):
        extract_features(model, squares(), limit=0, **QUIET)


def test_a_cache_hit_does_not_run_the_model(model: IJepaModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings: dict[str, Any] = {"cache": tmp_path, **QUIET}
    first = extract_features(model, squares(length=20, bad=(5,)), max_bad=0.1, **settings)
    with monkeypatch.context() as patch:
        patch.setattr(IJepaModel, "encode", lambda *_, **__: pytest.fail("the model ran"))
        again = extract_features(model, squares(length=20, bad=(5,)), max_bad=0.1, **settings)
    assert_same(first, again)
    assert len(list(tmp_path.iterdir())) == 1
    extract_features(model, squares(length=20), **settings)  # other source settings
    extract_features(untrained(model, 1), squares(length=20), **settings)  # other weights
    extract_features(model, squares(length=20), limit=10, **settings)  # other samples
    extract_features(model, squares(length=20), pooled=False, **settings)
    assert len(list(tmp_path.iterdir())) == 5


def test_a_changed_source_or_a_torn_file_is_not_taken_from_the_cache(
    model: IJepaModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    source = squares(length=8)
    first = extract_features(model, source, cache=tmp_path, **QUIET)
    (stored,) = tmp_path.iterdir()
    stored.write_bytes(stored.read_bytes()[:100])
    assert_same(first, extract_features(model, source, cache=tmp_path, **QUIET))
    assert "is damaged and will be made again" in caplog.text
    monkeypatch.setattr(Squares, "SPLIT", 9)  # the folder's pictures changed, its settings did not
    assert not torch.equal(extract_features(model, source, cache=tmp_path, **QUIET).features, first.features)


def test_a_function_needs_a_name_for_the_cache(tmp_path: Path) -> None:
    def encode(pixels: Tensor) -> Tensor:
        return pixels.flatten(1)

    with pytest.raises(ValueError, match="give name="):
        extract_features(encode, squares(length=4), cache=tmp_path, **QUIET)
    extract_features(encode, squares(length=4), cache=tmp_path, name="flat", **QUIET)
    assert len(list(tmp_path.iterdir())) == 1


def test_tokens_that_do_not_fit_are_refused(model: IJepaModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("training.probing.features.MAX_BYTES", 1000)
    with pytest.raises(ValueError, match="tokens of 200 samples would take"):
        extract_features(model, squares(), pooled=False, **QUIET)


def test_an_untrained_twin_is_its_own_network(model: IJepaModel) -> None:
    state = torch.get_rng_state()
    twin, same, other = untrained(model), untrained(model), untrained(model, 1)
    assert torch.equal(torch.get_rng_state(), state)
    pixels = torch.zeros(1, 3, 32, 32)
    assert torch.equal(twin.encode(pixels).tokens, same.encode(pixels).tokens)
    assert not torch.allclose(twin.encode(pixels).tokens, other.encode(pixels).tokens)
    assert not torch.allclose(twin.encode(pixels).tokens, model.encode(pixels).tokens)


def test_raw_pixels_are_small_and_flat() -> None:
    assert raw_pixels(squares(length=3, size=64), **QUIET).features.shape == (3, 3 * 16 * 16)
    assert raw_pixels(squares(length=3, frames=9), **QUIET).features.shape == (3, 3 * 4 * 16 * 16)


def test_workers_read_the_same(model: IJepaModel) -> None:
    source = squares(length=12, bad=(2,))
    here = extract_features(model, source, max_bad=0.1, batch_size=5, **QUIET)
    assert_same(here, extract_features(model, source, max_bad=0.1, batch_size=5, num_workers=2, **QUIET))
    assert source.reads == 12  # only the first run read in this process


def assert_same(first: FeatureTable, second: FeatureTable) -> None:
    assert torch.equal(first.features, second.features) and torch.equal(first.samples, second.samples)
    assert first.labels.keys() == second.labels.keys() and first.label_info == second.label_info
    assert all(torch.equal(values, second.labels[name]) for name, values in first.labels.items())
    assert first.indices is not None and second.indices is not None and torch.equal(first.indices, second.indices)
    assert first.skipped == second.skipped
