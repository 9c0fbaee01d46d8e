"""Fixtures of the media tests: a folder per module, and a short clip in it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.media_files import encode


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("videos")


@pytest.fixture(scope="module")
def clip_path(folder: Path) -> Path:
    return encode(folder / "clip.mp4", options={"g": "12"})
