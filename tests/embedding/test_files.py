"""Bulk embedding: right numbers, nothing lost by a kill, bad files left out, settings never mixed."""

from __future__ import annotations

import json
import resource
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open

from jepa_hub.embedding import files as embed
from jepa_hub.embedding.embedder import Embedder, Settings, fingerprint
from jepa_hub.embedding.files import Report, embed_files, find_files
from jepa_hub.embedding.formats import Embeddings, read_embeddings
from jepa_hub.media.video import read_frames
from jepa_hub.models.registry import model_class
from jepa_hub.processing import JEPAProcessor

SIZE = 32


def tiny_model(family: str) -> Any:
    torch.manual_seed(0)
    clips = {"num_frames": 8, "tubelet_size": 2} if family == "vjepa2" else {}
    config = model_class(family).config_class(
        hidden_size=48,
        num_hidden_layers=1,
        num_attention_heads=4,
        patch_size=16,
        image_size=SIZE,
        predictor_hidden_size=24,
        predictor_num_hidden_layers=1,
        networks=["encoder"],
        licence="mit",
        **clips,
    )
    return model_class(family)(config).eval()


@pytest.fixture(scope="module")
def models() -> dict[str, Any]:
    return {family: tiny_model(family) for family in ("ijepa", "vjepa2")}


@pytest.fixture
def make(models: dict[str, Any]) -> Callable[..., Embedder]:
    def embedder(family: str = "vjepa2", **settings: Any) -> Embedder:
        tubelet = 2 if family == "vjepa2" else 1
        processor = JEPAProcessor(image_size=SIZE, patch_size=16, tubelet_size=tubelet)
        defaults = {"model": f"tiny-{family}", "batch_size": 3, "num_workers": 0, "device": "cpu"}
        return Embedder(models[family], processor, Settings(**{**defaults, **settings}))

    return embedder


def write_image(path: Path, height: int = 40, width: int = 60, seed: int = 0) -> Path:
    pixels = np.random.default_rng(seed).integers(0, 255, (height, width, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def write_video(path: Path, frames: int, fps: int = 8) -> Path:
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream("libx264", rate=Fraction(fps))
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for index in range(frames):
            picture = np.full((48, 64, 3), 30, dtype=np.uint8)
            picture[:, index % 56 : index % 56 + 8] = 220
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Five images, one of them in a folder of its own, and a video of 20 frames."""
    media = tmp_path / "media"
    (media / "more").mkdir(parents=True)
    for index in range(4):
        write_image(media / f"{index}.png", 40 + index, seed=index)
    write_image(media / "more" / "4.jpg", 48, seed=4)
    write_video(media / "clip.mp4", 20)
    return media


def run(embedder: Embedder, source: Path, output: Path, **more: Any) -> tuple[Report, Embeddings]:
    report = embed_files(embedder, [source], output, progress=False, **more)
    return report, read_embeddings(output)


class Interrupt:
    """Stands before `encode` and stops the run after some batches, as a kill would."""

    def __init__(self, embedder: Embedder, batches: int | None) -> None:
        self.left, self.units, self.encode = batches, 0, embedder.encode
        embedder.encode = self  # type: ignore[assignment, method-assign]

    def __call__(self, units: Any) -> Any:
        if self.left == 0:
            raise KeyboardInterrupt
        self.left = None if self.left is None else self.left - 1
        self.units += len(units)
        return self.encode(units)


# Numbers --------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("num_workers", [0, 2])
def test_rows_are_what_the_model_says(folder: Path, make: Callable[..., Embedder], num_workers: int) -> None:
    embedder = make(num_workers=num_workers)
    report, found = run(embedder, folder, folder.parent / "out.safetensors")
    names = [Path(name).name for name in found.names]
    assert names == ["0.png", "1.png", "2.png", "3.png", "clip.mp4", "4.jpg"]
    assert (report.num_rows, report.num_new, report.num_bad) == (8, 6, 0)
    assert found.file.tolist() == [0, 1, 2, 3, 4, 4, 4, 5] and found.window.tolist() == [0, 0, 0, 0, 0, 1, 2, 0]
    assert found.size[:2].tolist() == [[40, 60], [41, 60]] and found.size[4].tolist() == [48, 64]
    for row, file in ((0, "0.png"), (7, "more/4.jpg")):
        with torch.no_grad():
            expected = embedder.model.encode(embedder.processor(folder / file)).pooled[0].numpy()
        np.testing.assert_allclose(found.pooled[row], expected, atol=1e-5)
    assert np.isnan(found.frame_times[0]).all()


def test_windows_of_a_video(folder: Path, make: Callable[..., Embedder]) -> None:
    embedder = make()
    _, found = run(embedder, folder / "clip.mp4", folder.parent / "out.npz")
    whole = read_frames(folder / "clip.mp4")
    for window, start in enumerate((0, 8, 12)):  # the last window is moved back to end with the video
        clip = replace(whole, frames=whole.frames[start : start + 8], times=whole.times[start : start + 8])
        expected = embedder.model.encode(embedder.processor(clip))
        np.testing.assert_allclose(found.pooled[window], expected.pooled[0].numpy(), atol=1e-5)
        np.testing.assert_allclose(found.frame_times[window], expected.frame_times[0].numpy(), atol=1e-6)
    assert found.grid_size.tolist() == [[4, 2, 2]] * 3


def test_rate_stride_and_clip_length_can_be_chosen(folder: Path, make: Callable[..., Embedder]) -> None:
    embedder = make(fps=4.0, num_frames=4, stride_frames=2)
    _, found = run(embedder, folder / "clip.mp4", folder.parent / "out.npz")
    assert found.window.tolist() == [0, 1, 2, 3]  # ten samples, windows of four
    np.testing.assert_allclose(found.frame_times[:, 0], [0.125, 0.625, 1.125, 1.625])


def test_a_video_shorter_than_a_window_is_one_shorter_row(tmp_path: Path, make: Callable[..., Embedder]) -> None:
    write_video(tmp_path / "short.mp4", 5)
    _, found = run(make(), tmp_path / "short.mp4", tmp_path / "out.npz")
    assert found.grid_size.tolist() == [[3, 2, 2]]  # the fifth frame is repeated to fill its tubelet
    np.testing.assert_allclose(found.frame_times[0], [0.0625, 0.3125, 0.5])


def test_an_image_model_sees_one_frame_a_second(folder: Path, make: Callable[..., Embedder]) -> None:
    _, found = run(make("ijepa"), folder / "clip.mp4", folder.parent / "out.npz")
    np.testing.assert_allclose(found.frame_times[:, 0], [0, 1, 2])


def test_a_window_that_splits_tubelets_is_refused(make: Callable[..., Embedder]) -> None:
    with pytest.raises(ValueError, match="tubelet"):
        make(num_frames=7)


@pytest.mark.parametrize(("stored", "tolerance"), [("float32", 0.0), ("float16", 2e-3)])
def test_formats_hold_the_same(folder: Path, make: Callable[..., Embedder], stored: str, tolerance: float) -> None:
    embedder = make("ijepa", stored_dtype=stored, tokens=True)
    found = [run(embedder, folder, folder.parent / f"out.{suffix}")[1] for suffix in ("safetensors", "npz", "parquet")]
    _, exact = run(make("ijepa", tokens=True), folder, folder.parent / "exact.npz")
    for one in found:
        assert one.pooled.dtype == stored and one.tokens is not None and one.tokens.shape == (8, 4, 48)
        np.testing.assert_allclose(one.pooled, exact.pooled, atol=tolerance)
        np.testing.assert_allclose(one.tokens.mean(1), exact.pooled, atol=3e-3)
        for name in ("file", "window", "frame_times", "size", "grid_size"):
            np.testing.assert_array_equal(getattr(one, name), getattr(exact, name))
        assert one.names == exact.names
        assert one.metadata["licence"] == "mit" and one.metadata["model"] == "tiny-ijepa"
        assert one.metadata["settings"]["preprocessing"]["image_size"] == SIZE


def test_files_open_with_the_usual_tools(folder: Path, make: Callable[..., Embedder]) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    outputs = {suffix: folder.parent / f"out.{suffix}" for suffix in ("safetensors", "npz", "parquet")}
    pooled = [run(make("ijepa"), folder, output)[1].pooled for output in outputs.values()]
    with safe_open(str(outputs["safetensors"]), framework="pt") as file:
        assert torch.equal(file.get_tensor("pooled"), torch.from_numpy(pooled[0]))
        assert file.metadata()["model"] == "tiny-ijepa"
        assert json.loads(file.metadata()["files"])[0][0].endswith("0.png")
    with np.load(outputs["npz"], allow_pickle=False) as archive:
        np.testing.assert_array_equal(archive["pooled"], pooled[1])
        assert str(archive["names"][0]).endswith("0.png")
    table = parquet.read_table(outputs["parquet"])
    assert table.column("name")[0].as_py().endswith("0.png")
    assert table.column("pooled")[0].as_py() == pytest.approx(pooled[2][0].tolist())


def test_a_format_can_be_named(folder: Path, make: Callable[..., Embedder]) -> None:
    output = folder.parent / "vectors.bin"
    run(make("ijepa"), folder, output, file_format="npz")
    assert np.load(output)["pooled"].shape == (8, 48)


# Going on -------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("batches", [0, 1, 2])
def test_a_killed_run_goes_on(folder: Path, make: Callable[..., Embedder], batches: int) -> None:
    _, expected = run(make(), folder, folder.parent / "whole.safetensors")
    output = folder.parent / "out.safetensors"
    interrupted = make()
    before = Interrupt(interrupted, batches)
    with pytest.raises(KeyboardInterrupt):
        run(interrupted, folder, output)
    assert not output.exists()
    resumed = make()
    after = Interrupt(resumed, None)
    _, found = run(resumed, folder, output)
    assert before.units + after.units == 8  # nothing is encoded twice
    assert found.names == expected.names and found.window.tolist() == expected.window.tolist()
    np.testing.assert_allclose(found.pooled, expected.pooled, atol=1e-5)
    assert not list(folder.parent.glob("out*.parts"))


def test_a_killed_run_goes_on_inside_a_video(folder: Path, make: Callable[..., Embedder]) -> None:
    output = folder.parent / "out.npz"
    interrupted = make(batch_size=1)
    Interrupt(interrupted, 2)
    with pytest.raises(KeyboardInterrupt):
        run(interrupted, folder / "clip.mp4", output)
    resumed = make(batch_size=1)
    after = Interrupt(resumed, None)
    _, found = run(resumed, folder / "clip.mp4", output)
    assert after.units == 1 and found.window.tolist() == [0, 1, 2]


@pytest.mark.parametrize("suffix", ["safetensors", "npz", "parquet"])
def test_a_second_run_adds_what_is_new(folder: Path, make: Callable[..., Embedder], suffix: str) -> None:
    output = folder.parent / f"out.{suffix}"
    _, first = run(make(), folder, output)
    written = output.stat().st_mtime_ns

    idle = make()
    count = Interrupt(idle, None)
    report, _ = run(idle, folder, output)
    assert count.units == 0 and (report.num_new, report.num_kept, report.num_rows) == (0, 6, 8)
    assert output.stat().st_mtime_ns == written

    write_image(folder / "1.png", 90, seed=99)  # changed
    write_image(folder / "new.png", seed=7)
    busy = make()
    count = Interrupt(busy, None)
    report, found = run(busy, folder, output)
    assert count.units == 2 and (report.num_new, report.num_kept, report.num_rows) == (2, 5, 9)
    old = dict(zip(np.array(first.names)[first.file], first.pooled, strict=True))
    new = dict(zip(np.array(found.names)[found.file], found.pooled, strict=True))
    changed = {Path(name).name for name in new if name not in old or not np.array_equal(old[name], new[name])}
    assert changed == {"1.png", "new.png"}


def test_a_kill_while_writing_leaves_the_old_file(
    folder: Path, make: Callable[..., Embedder], monkeypatch: pytest.MonkeyPatch
) -> None:
    output = folder.parent / "out.safetensors"
    run(make("ijepa"), folder, output)
    before = output.read_bytes()
    write_image(folder / "new.png", seed=7)

    def killed(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("jepa_hub.embedding.formats.Plan.read", killed)
    with pytest.raises(KeyboardInterrupt):
        run(make("ijepa"), folder, output)
    assert output.read_bytes() == before
    monkeypatch.undo()
    assert run(make("ijepa"), folder, output)[0].num_rows == 9


def test_other_settings_are_refused_by_name(folder: Path, make: Callable[..., Embedder]) -> None:
    output = folder.parent / "out.safetensors"
    run(make(), folder, output)
    with pytest.raises(ValueError, match=r"num_frames was 8, now 4.*--overwrite"):
        run(make(num_frames=4), folder, output)
    interrupted = make(num_frames=4)
    Interrupt(interrupted, 1)
    with pytest.raises(KeyboardInterrupt):
        run(interrupted, folder, output, overwrite=True)
    _, found = run(make(num_frames=4), folder, output)  # goes on with what --overwrite began
    assert found.metadata["settings"]["num_frames"] == 4 and found.grid_size[:, 0].max() == 2
    assert len(found.file) == 10


def test_changed_weights_are_refused(folder: Path, make: Callable[..., Embedder]) -> None:
    output = folder.parent / "out.safetensors"
    run(make("ijepa"), folder, output)
    other = make("ijepa")
    other.model = tiny_model("ijepa")
    assert fingerprint(other.model.encoder) == fingerprint(make("ijepa").model.encoder)
    with torch.no_grad():
        other.model.encoder.norm.bias.add_(1)
    with pytest.raises(ValueError, match="weights was"):
        run(other, folder, output)


def test_someone_elses_file_is_not_touched(folder: Path, make: Callable[..., Embedder]) -> None:
    output = folder.parent / "out.npz"
    np.savez(output, precious=np.arange(3))
    before = output.read_bytes()
    with pytest.raises(OSError, match=r"not written by.*--overwrite"):
        run(make("ijepa"), folder, output)
    assert output.read_bytes() == before


# Bad files ------------------------------------------------------------------------------------------------------------
def test_bad_files_are_logged_and_left_out(folder: Path, make: Callable[..., Embedder]) -> None:
    (folder / "bad.png").write_bytes(b"not a picture")
    (folder / "empty.jpg").write_bytes(b"")
    whole = (folder / "clip.mp4").read_bytes()
    (folder / "cut.mp4").write_bytes(whole[: len(whole) // 2])
    output = folder.parent / "out.safetensors"
    report, found = run(make(num_workers=2), folder, output)
    assert (report.num_bad, report.num_rows) == (3, 8) and "3 could not be read" in str(report)
    lines = [json.loads(line) for line in report.errors.read_text().splitlines()]
    assert {Path(line["file"]).name for line in lines} == {"bad.png", "empty.jpg", "cut.mp4"}
    assert all(line["error"] and line["type"] == "MediaError" for line in lines)

    write_image(folder / "bad.png")  # mended: the next run takes it in
    report, found = run(make(num_workers=2), folder, output)
    assert (report.num_bad, report.num_new) == (2, 1) and len(found.file) == 9


def test_nothing_but_bad_files_is_an_error_with_a_reason(tmp_path: Path, make: Callable[..., Embedder]) -> None:
    (tmp_path / "bad.png").write_bytes(b"not a picture")
    with pytest.raises(ValueError, match=r"nothing could be embedded.*bad\.png"):
        run(make(), tmp_path, tmp_path / "out.npz")
    assert not (tmp_path / "out.npz").exists()


def test_features_that_are_not_finite_are_bad(
    folder: Path, make: Callable[..., Embedder], monkeypatch: pytest.MonkeyPatch
) -> None:
    embedder = make("ijepa", batch_size=8)
    encode = embedder.model.encode

    def spoilt(pixels: torch.Tensor) -> Any:
        features = encode(pixels)
        features.tokens[0] = float("inf")
        return features

    monkeypatch.setattr(embedder.model, "encode", spoilt)
    report = embed_files(embedder, [folder / "0.png", folder / "1.png"], folder.parent / "out.npz", progress=False)
    assert (report.num_bad, report.num_rows) == (1, 1)
    assert "not finite" in report.errors.read_text()


def test_tokens_of_different_grids_do_not_mix(folder: Path, make: Callable[..., Embedder]) -> None:
    output = folder.parent / "out.safetensors"
    with pytest.raises(ValueError, match="separate outputs"):
        run(make(tokens=True), folder, output)
    assert len(list((folder.parent / "out.safetensors.parts").glob("*.safetensors"))) > 1  # nothing is lost


def test_too_many_names_for_a_header(
    folder: Path, make: Callable[..., Embedder], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("jepa_hub.embedding.store.HEADER_BYTES", 100)
    with pytest.raises(ValueError, match="parquet"):
        run(make(), folder, folder.parent / "out.safetensors")


# Finding files --------------------------------------------------------------------------------------------------------
def test_find_files(folder: Path) -> None:
    write_image(folder / ".hidden.png")
    (folder / ".cache").mkdir()
    write_image(folder / ".cache" / "x.png")
    (folder / "notes.txt").write_text("no")
    names = [path.name for path in find_files([folder, folder / "0.png"])]
    assert names == ["0.png", "1.png", "2.png", "3.png", "clip.mp4", "4.jpg"]


@pytest.mark.parametrize(("name", "error"), [("gone.png", FileNotFoundError), ("notes.txt", ValueError)])
def test_find_files_refuses(folder: Path, name: str, error: type[Exception]) -> None:
    (folder / "notes.txt").write_text("no")
    with pytest.raises(error, match=name):
        find_files([folder / name])
    (folder / "none").mkdir()
    with pytest.raises(ValueError, match="no image or video"):
        find_files([folder / "none"])


# Pictures -------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("source", "picture"), [("0.png", "pca.png"), ("clip.mp4", "pca.jpg"), ("clip.mp4", "pca.mp4")]
)
def test_draw(folder: Path, make: Callable[..., Embedder], source: str, picture: str) -> None:
    path = embed.draw(make(), [folder / source], folder.parent / picture)
    assert path.stat().st_size > 1000
    with pytest.raises(ValueError, match="6 files"):
        embed.draw(make(), [folder], folder.parent / picture)


@pytest.mark.slow
def test_memory_stays_flat_over_a_long_extraction(tmp_path: Path, make: Callable[..., Embedder]) -> None:
    """Two thousand pictures with all their tokens: the second half takes no more than the first."""
    folder = tmp_path / "many"
    folder.mkdir()
    for number in range(2000):
        Image.new("RGB", (64, 48), (number % 256, number // 8 % 256, 90)).save(folder / f"{number:04}.png")
    embedder = make("ijepa", tokens=True)
    held: list[int] = []
    encode = embedder.encode

    def watched(units: Any) -> Any:
        with open("/proc/self/statm") as file:
            held.append(int(file.read().split()[1]) * resource.getpagesize())
        return encode(units)

    object.__setattr__(embedder, "encode", watched)
    embed_files(embedder, [folder], tmp_path / "all.safetensors", progress=False)
    half = len(held) // 2
    assert len(held) >= 200 and max(held[half:]) - max(held[half // 2 : half]) < 30e6, (held[half], max(held[half:]))
