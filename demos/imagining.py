"""The gallery in whose patches predicted tokens are shown: pictures and clips of the demo, less the one on the page."""

from __future__ import annotations

import threading
from collections import OrderedDict
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from demos import examples
from demos.library import Loaded
from jepa_hub.patch_bank import PatchBank, as_patches

MOST_TOKENS = 6144  # of a gallery; large models look at fewer pictures
KEPT = 3  # galleries in memory


@dataclass(frozen=True)
class Gallery:
    """A bank of patches that knows which picture or scene each is from.

    Attributes:
        bank: tokens at the model's size, patches larger.
        owners: int64 [K], number of the picture or scene.
        names: of the pictures or scenes, as they stand in the names of the demo's files.
    """

    bank: PatchBank
    owners: Tensor
    names: tuple[str, ...]

    def without(self, path: str) -> PatchBank:
        """The bank without what a file of the demo shows; all of it for any other file."""
        stem = Path(path).stem
        keep = self.owners != next((number for number, name in enumerate(self.names) if stem.startswith(name)), -1)
        return PatchBank(self.bank.tokens[keep], self.bank.patches[keep])


class Galleries:
    """Galleries by model and size, made at first use."""

    def __init__(self) -> None:
        self._made: OrderedDict[Any, Gallery] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, loaded: Loaded, pixels: Tensor, scale: int) -> Gallery:
        """The gallery for inputs like `pixels`.

        Args:
            loaded: the model.
            pixels: [1, 3, F, H, W], what it was given.
            scale: how many times larger the patches are.
        """
        frames, height, width = pixels.shape[2:]
        key = loaded.name, frames, height, width, scale
        with self._lock:
            if key not in self._made:
                self._made[key] = _made(loaded, frames, (height, width), scale)
                while len(self._made) > KEPT:
                    self._made.popitem(last=False)
            self._made.move_to_end(key)
            return self._made[key]


def _made(loaded: Loaded, frames: int, size: tuple[int, int], scale: int) -> Gallery:
    config = loaded.model.config
    side = config.patch_size
    tubelet = getattr(config, "tubelet_size", 1)
    tokens = max(1, frames // tubelet) * (size[0] // side) * (size[1] // side)
    most = max(2, MOST_TOKENS // tokens)
    small = replace(loaded.processor, image_size=size, resize=None, aspect="squash", multiple="error")
    large = replace(small, image_size=(size[0] * scale, size[1] * scale), patch_size=side * scale)
    if frames == 1:
        shown = [np.asarray(Image.open(path).convert("RGB")) for path, _ in examples.scenes()[:most]]
        names = tuple(path for path, _ in examples.scenes()[:most])
        inputs, pictures = small(shown).pixel_values, large(shown).pixel_values  # [B, 3, 1, h, w]
    else:
        scenes = list(examples.worlds())[: max(1, most // 2)]
        clips = [torch.from_numpy(clip.copy()).permute(0, 3, 1, 2) for each in scenes for clip in each.clips[:2]]
        names = tuple(each.name.replace("/", "-") for each in scenes for _ in range(2))
        taken = [clip[torch.linspace(0, len(clip) - 1, frames).round().long()] for clip in clips]
        inputs, pictures = (each(taken, layout="FCHW").pixel_values for each in (small, large))
    with torch.no_grad():
        bank = PatchBank.of(loaded.model, inputs)
    patches = as_patches(pictures, tubelet, side * scale)  # [B, N, 3, t, p, p]
    unique = tuple(dict.fromkeys(Path(name).stem for name in names))
    owners = torch.tensor([unique.index(Path(name).stem) for name in names]).repeat_interleave(patches.shape[1])
    return Gallery(PatchBank(bank.tokens, patches.flatten(0, 1)), owners, unique)
