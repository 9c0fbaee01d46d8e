"""What the package does, in a minute, on real pictures and offline: `make demo`, or `python -m demos.first_look`.

Encodes scikit-learn's two photographs and a short clip, draws what the model sees, predicts the second half of the clip
from the first, and checks that the answer could not have leaked.
"""

from __future__ import annotations

import argparse
import time
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import torch
from safetensors.torch import save_file
from sklearn.datasets import load_sample_images
from transformers.utils.logging import disable_progress_bar

from jepa_hub.models.base import JEPAModel
from jepa_hub.pictures import save_pca
from jepa_hub.processing import JEPAProcessor

IMAGE_MODEL, CLIP_MODEL = "ijepa-tiny-scenes", "vjepa-tiny-sliding-scenes"
SIZE, CLIP_SIZE, FRAMES = 224, 128, 16
DEFAULT_OUT = Path("demo_output")


def write_clip(photograph: np.ndarray, path: Path) -> None:
    """A real clip: the camera glides over a photograph for two seconds, encoded as H.264."""
    height, width, _ = photograph.shape
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=Fraction(8))
        stream.width = stream.height = 256
        stream.pix_fmt = "yuv420p"
        for index in range(FRAMES):
            left = int((width - 300) * index / (FRAMES - 1))
            top = int((height - 300) * (1 - index / (FRAMES - 1)))
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(photograph[top : top + 300, left : left + 300]))
            container.mux(stream.encode(frame.reformat(256, 256)))
        container.mux(stream.encode(None))


def look_at_photographs(photographs: list[np.ndarray], out: Path) -> None:
    """Features and PCA picture of the two photographs."""
    model = JEPAModel.from_pretrained(IMAGE_MODEL)
    processor = JEPAProcessor(image_size=SIZE, resize=256, patch_size=model.config.patch_size)  # any size is right
    inputs = processor(photographs)
    start = time.perf_counter()
    features = model.encode(inputs)
    seconds = time.perf_counter() - start
    save_pca(out / "photographs.png", features, inputs.pixel_values)
    save_file({"tokens": features.tokens, "pooled": features.pooled}, out / "photographs.safetensors")
    _, rows, columns = features.grid_size
    print(
        f"photographs   {len(photographs)} images -> {rows} x {columns} tokens of {features.tokens.shape[-1]} numbers "
        f"in {seconds:.2f} s\n"
        f"              {out / 'photographs.png'}  (colours: the three main directions of the features)\n"
        f"              {out / 'photographs.safetensors'}  (tokens {tuple(features.tokens.shape)}, "
        f"pooled {tuple(features.pooled.shape)})"
    )


def look_at_clip(photograph: np.ndarray, out: Path) -> None:
    """Features, PCA picture, a prediction, and the proof that it saw nothing of its target."""
    write_clip(photograph, out / "clip.mp4")
    model = JEPAModel.from_pretrained(CLIP_MODEL)
    processor = JEPAProcessor(
        image_size=CLIP_SIZE,
        resize=CLIP_SIZE,
        patch_size=model.config.patch_size,
        tubelet_size=model.config.tubelet_size,
        num_frames=FRAMES,
    )
    inputs = processor(out / "clip.mp4")
    features = model.encode(inputs)
    save_pca(out / "clip.png", features, inputs.pixel_values)
    past, future = range(FRAMES // 2), range(FRAMES // 2, FRAMES)
    predicted = model.predict(inputs, context=past, target=future)  # [1, 1, T, D]

    blinded = inputs.pixel_values.clone()
    blinded[:, :, FRAMES // 2 :] = torch.randn_like(blinded[:, :, FRAMES // 2 :])
    change = (model.predict(blinded, context=past, target=future) - predicted).abs().max().item()
    assert features.frame_times is not None  # a file has times
    times = ", ".join(f"{seconds:.2f}" for seconds in features.frame_times[0].tolist())
    print(
        f"clip          {FRAMES} frames of {out / 'clip.mp4'} -> grid {features.grid_size}, token times {times} s\n"
        f"              {out / 'clip.png'}\n"
        f"prediction    frames 8-15 from frames 0-7: {predicted.shape[2]} tokens; replacing the future by noise "
        f"changes it by {change:g}"
    )
    if change != 0:
        raise SystemExit("the prediction saw its target: this is a bug, please report it")


def main() -> None:
    """Run the demo; everything it writes is in --out."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=DEFAULT_OUT, help="folder for pictures and features")
    out = parser.parse_args().out
    out.mkdir(parents=True, exist_ok=True)
    disable_progress_bar()  # two tiny models: the bars would be most of what is printed
    photographs = [np.asarray(image) for image in load_sample_images().images]
    print(
        f"jepa_hub on a CPU, offline, with the shipped models {IMAGE_MODEL} and {CLIP_MODEL}. They are small and were"
    )
    print("trained on drawn solids, not on photographs: a first look, not what a large JEPA sees.\n")
    look_at_photographs(photographs, out)
    look_at_clip(photographs[0], out)
    print(f"\nNext: jepa-hub embed YOUR_FOLDER --model MODEL --output features.safetensors, or open {out}/*.png")


if __name__ == "__main__":
    main()
