"""What is wrong in other code, shown: tiny random weights, no download, half a minute on a CPU.

    python docs/findings.py

Every finding prints what was done, what came, and what should have come. The text of docs/upstream.md follows it.
"""

from __future__ import annotations

import warnings
from typing import Any

import torch
from transformers import IJepaConfig, IJepaModel, VJEPA2Config, VJEPA2Model
from transformers.utils import logging

SIZES: dict[str, Any] = {"patch_size": 8, "crop_size": 32, "frames_per_clip": 8, "hidden_size": 48}
SIZES |= {"num_attention_heads": 2, "num_hidden_layers": 2}
SIZES |= {"pred_hidden_size": 24, "pred_num_hidden_layers": 1, "pred_num_attention_heads": 2}


def vjepa2() -> VJEPA2Model:
    """A tiny V-JEPA 2 of transformers: 8 frames of 32 pixels are 4 x 4 x 4 tokens."""
    torch.manual_seed(0)
    return VJEPA2Model(VJEPA2Config(**SIZES)).eval()


def clip(frames: int = 8, height: int = 32, width: int = 32) -> torch.Tensor:
    """Random pixels [1, F, 3, H, W], transformers' order."""
    return torch.randn(1, frames, 3, height, width, generator=torch.Generator().manual_seed(1))


@torch.no_grad()
def prediction_sees_its_target() -> float:
    """How far a prediction from frames 0-3 moves when only frames 4-7 change; 0 is right."""
    model, pixels = vjepa2(), clip()
    masks = {"context_mask": [torch.arange(32)[None]], "target_mask": [torch.arange(32, 64)[None]]}
    before = model(pixels, **masks).predictor_output.last_hidden_state
    pixels[:, 4:] += 1
    return float((model(pixels, **masks).predictor_output.last_hidden_state - before).abs().max())


@torch.no_grad()
def places_are_mixed_up() -> tuple[list[int], list[int]]:
    """Row and time step that the model gives to the first token of each of a frame's 6 rows; right: 0 to 5, and 0.

    The clip is 48 x 32 pixels, so 6 rows of 4 tokens, for a model configured for 4 x 4: positions follow its
    configuration and not the clip, and the fifth row of the first frame counts as the first row of the next.
    """
    attention = vjepa2().encoder.layer[0].attention
    steps, rows, _ = attention.get_position_ids(torch.zeros(1, 4 * 6 * 4, 48))
    starts = range(0, 6 * 4, 4)
    return [int(rows[start]) for start in starts], [int(steps[start]) for start in starts]


@torch.no_grad()
def several_targets_fail() -> str:
    """What several context and target masks in one call give; a prediction for each is right."""
    model = vjepa2()
    context = [torch.arange(16)[None], torch.arange(16)[None]]
    target = [torch.arange(16, 24)[None], torch.arange(24, 40)[None]]
    try:
        model(clip(), context_mask=context, target_mask=target)
    except (RuntimeError, IndexError) as error:
        return f"{type(error).__name__}: {str(error).splitlines()[0][:100]}"
    return ""


@torch.no_grad()
def last_frame_is_dropped() -> int:
    """Time steps of a clip of 5 frames at 2 frames a token; an error or 3 (padded) would be right."""
    return int(vjepa2()(clip(frames=5), skip_predictor=True).last_hidden_state.shape[1] // 16)


def pipeline_reads_another_name() -> bool:
    """Whether the configuration has the attribute that the pipeline "video-classification" reads."""
    return hasattr(VJEPA2Config(), "num_frames")


@torch.no_grad()
def no_mask_token() -> str:
    """What `IJepaModel(bool_masked_pos=...)` gives; it has neither mask token, predictor nor target encoder."""
    config = IJepaConfig(hidden_size=48, num_hidden_layers=1, num_attention_heads=2, intermediate_size=96)
    model = IJepaModel(config).eval()
    try:
        model(torch.randn(1, 3, 224, 224), bool_masked_pos=torch.zeros(1, 196, dtype=torch.bool))
    except (ValueError, AttributeError, TypeError) as error:
        return f"{type(error).__name__}: {str(error)[:100]}"
    return ""


def context_masks_lose_their_end() -> tuple[list[float], list[float], float]:
    """P(token in the context) by row of a 14 x 14 grid, drawn as upstream's collator does and as mended; tokens lost.

    The sampler `faithful` follows ijepa's multi-block collator at batch 64: its blocks never reach the last row and
    column, and its contexts are cut to the shortest of the batch from the end, which is the bottom of the picture.
    """
    from jepa_hub.masking.audit import coverage
    from jepa_hub.masking.samplers import MASKS

    rows, lengths = [], []
    for mode in ("faithful", "corrected"):
        found = coverage(MASKS["multi_block_2d"](grid=(14, 14), mode=mode), num_batches=8)  # type: ignore[call-arg]
        rows.append(found.groups[0].context[0].mean(dim=1).tolist())
        lengths.append(found.groups[0].context_length.mean)
    return rows[0], rows[1], 1 - lengths[0] / lengths[1]


def main() -> None:
    """Print every finding."""
    logging.set_verbosity_error()
    warnings.simplefilter("ignore")
    print("1. transformers: a prediction sees its target")
    print(f"   only the target changes, and the prediction moves by {prediction_sees_its_target():.3f}; right: 0")
    rows, steps = places_are_mixed_up()
    print("2. transformers: positions of a clip of another size")
    print(f"   rows 0 to 5 of the first frame count as rows {rows} of time steps {steps}")
    print("3. transformers: two predictions in one call")
    print(f"   {several_targets_fail()}")
    print("4. transformers: an odd number of frames")
    print(f"   5 frames give {last_frame_is_dropped()} time steps of 2 frames, and nothing is said")
    print('5. transformers: pipeline("video-classification") reads config.num_frames')
    print(f"   VJEPA2Config has it: {pipeline_reads_another_name()}")
    print("6. transformers: IJepaModel has no mask token")
    print(f"   {no_mask_token()}")
    faithful, corrected, lost = context_masks_lose_their_end()
    print("7. ijepa's masks: P(token is context) by row of the picture, top to bottom")
    print("   as upstream " + " ".join(f"{share:.2f}" for share in faithful))
    print("   as mended   " + " ".join(f"{share:.2f}" for share in corrected))
    print(f"   upstream's contexts are {lost:.0%} shorter than the mended ones")


if __name__ == "__main__":
    main()
