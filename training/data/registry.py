"""SOURCES: every source of samples by name."""

from __future__ import annotations

from typing import Any

from training.registries import entry

SOURCES: dict[str, str] = {
    "image_folder": "training.data.image_folder:ImageFolder",
    "shards": "training.data.shards:Shards",
    "huggingface": "training.data.huggingface:HuggingFace",
    "video_list": "training.data.video_list:VideoList",
    "digits": "training.data.digits:Digits",
    "scenes": "training.data.scenes:Scenes",
    "moving_scenes": "training.data.moving_scenes:MovingScenes",
    "worlds": "training.data.worlds:Worlds",
    "quadrants": "training.data.quadrants:Quadrants",
    "sliding_scenes": "training.data.sliding_scenes:SlidingScenes",
}


def source_class(name: str) -> Any:
    """The class of a source.

    Raises:
        ValueError: there is no such source.
    """
    return entry(SOURCES, name, "source")
