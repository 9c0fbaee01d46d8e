"""What may be looked at: the files people hand in, checked before anything is decoded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from jepa_hub.media.clips import MediaError
from jepa_hub.media.sources import open_source, still_image
from jepa_hub.media.video import probe_video

MAX_UPLOAD = "64mb"  # of one file; gradio refuses more while it arrives
MAX_IMAGES = 8
MAX_IMAGE_PIXELS = 40_000_000
MAX_FRAME_PIXELS = 9_000_000  # 4K
MAX_SECONDS = 600.0


@dataclass(frozen=True)
class Media:
    """Files of one kind that can be opened.

    Attributes:
        paths: of the files.
        kind: "image" or "video".
    """

    paths: tuple[str, ...]
    kind: Literal["image", "video"]


def check(paths: str | Sequence[str] | None, *, most: int = MAX_IMAGES) -> Media:
    """The files, if they are up to `most` images, or one video, of a bearable size.

    Raises:
        MediaError: nothing, too many, of both kinds, unreadable, or too large; names the file, never its folder.
    """
    several = [paths] if isinstance(paths, str) else list(paths or [])
    if not several:
        raise MediaError("choose an image or a video first, or click an example")
    if len(several) > most:
        words = f"more than the {most} that are shown side by side" if most > 1 else "too many: one at a time here"
        raise MediaError(f"{len(several)} files are {words}")
    kinds = {_checked(path) for path in several}
    if len(kinds) > 1:
        raise MediaError("choose images or a video, not both")
    if kinds == {"video"} and len(several) > 1:
        raise MediaError("one video at a time")
    return Media(tuple(several), "video" if kinds == {"video"} else "image")


def _checked(path: str) -> Literal["image", "video"]:
    try:
        return _kind(path)
    except (ValueError, OSError) as error:
        raise MediaError(shown(error, [path])) from error


def _kind(path: str) -> Literal["image", "video"]:
    name = Path(path).name
    with open_source(path) as opened:
        source = replace(opened, expected="an image or video")
        image = still_image(source)
        if image is not None:
            with image:
                width, height = image.size
            if width * height > MAX_IMAGE_PIXELS:
                raise MediaError(
                    f"{name} is {width} x {height} pixels, more than the {MAX_IMAGE_PIXELS / 1e6:.0f} million that are "
                    "opened here: shrink it first"
                )
            return "image"
        info = probe_video(source)
    if info.width * info.height > MAX_FRAME_PIXELS:
        raise MediaError(f"{name} has frames of {info.width} x {info.height} pixels; at most 4K is opened here")
    if info.duration > MAX_SECONDS:
        raise MediaError(f"{name} lasts {info.duration:.0f} s; cut out the {MAX_SECONDS:.0f} s you mean")
    return "video"


def shown(error: BaseException, paths: Sequence[str] = ()) -> str:
    """The words of an error without the folders of this machine."""
    text = " ".join((str(error) or type(error).__name__).split())
    for path in paths:
        for each in (str(Path(path).absolute()), str(path), str(Path(path).parent)):
            text = text.replace(each, Path(path).name if each != str(Path(path).parent) else "")
    return text
