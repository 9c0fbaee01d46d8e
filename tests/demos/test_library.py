"""Which models a tab offers, and which it may load."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from demos import library
from demos.library import CACHED, SHIPPED, Known, Library, about, of_family, predicts, predicts_video
from jepa_hub.catalog import CHECKPOINTS
from jepa_hub.models.base import JEPAModel
from jepa_hub.processing import JEPAProcessor
from tests.hub_store import Hub
from tests.official import tiny_model


def test_every_shipped_model_is_listed() -> None:
    known = Library().known()
    shipped = {row.name for row in CHECKPOINTS.values() if row.source.startswith("package:")}
    assert {each.name for each in known if each.origin == SHIPPED} == shipped >= {"ijepa-tiny-scenes"}
    by_name = {each.name: each for each in known}
    assert by_name["vjepa-tiny-worlds"].is_video and not by_name["ijepa-tiny-scenes"].is_video


def test_tabs_get_what_they_can_use() -> None:
    image = Known("i", "ijepa", ("encoder", "predictor", "target_encoder"), False, SHIPPED)
    clip, one = Known("v", "vjepa", image.networks, True, SHIPPED), Known("p", "paws", ("encoder",), False, SHIPPED)
    assert [predicts(each) for each in (image, clip, one)] == [True, True, False]
    assert [predicts_video(each) for each in (image, clip, one)] == [False, True, False]
    assert [of_family("paws")(each) for each in (image, clip, one)] == [False, False, True]


def test_what_is_in_the_cache_is_listed_and_loads(hub: Hub, tmp_path: Path) -> None:
    for family in ("ijepa", "vjepa"):
        model = tiny_model(family)
        model.save_pretrained(tmp_path / family)
        video: dict[str, Any] = {"tubelet_size": 2, "num_frames": 8} if family == "vjepa" else {}
        JEPAProcessor(image_size=32, patch_size=model.config.patch_size, **video).save_pretrained(tmp_path / family)
        hub.add(f"tester/{family}", tmp_path / family)
    assert not [each for each in Library().known() if each.origin == CACHED]
    JEPAModel.from_pretrained("tester/vjepa")  # downloads it
    found = [each for each in Library().known() if each.origin == CACHED]
    assert [(each.name, each.family, each.is_video) for each in found] == [("tester/vjepa", "vjepa", True)]
    assert Library().get("tester/vjepa").is_video
    assert Library().get("tester/ijepa").family == "ijepa"  # any Hub id
    assert Library().get(str(tmp_path / "ijepa")).family == "ijepa"  # any folder


def test_a_locked_library_opens_what_is_listed_only(tmp_path: Path) -> None:
    tiny_model("ijepa").save_pretrained(tmp_path / "mine")
    JEPAProcessor(image_size=32, patch_size=8).save_pretrained(tmp_path / "mine")
    locked = Library(locked=True)
    for name in (str(tmp_path / "mine"), "someone/else", "../../etc", "/etc/passwd"):
        with pytest.raises(ValueError, match="not open here"):
            locked.get(name)
    assert locked.get("ijepa-tiny-scenes").family == "ijepa"


def test_models_stay_loaded_and_old_ones_go(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(library, "KEPT", 1)
    shelf = Library()
    first = shelf.get("ijepa-tiny-scenes")
    assert shelf.get(" ijepa-tiny-scenes ") is first
    shelf.get("paws-tiny-scenes")
    assert shelf.get("ijepa-tiny-scenes") is not first


@pytest.mark.parametrize(
    ("name", "said"), [("", "choose a model"), (None, "choose a model"), ("ijepa-tiny", "did you")]
)
def test_wrong_names_are_answered(name: str | None, said: str) -> None:
    with pytest.raises((ValueError, OSError), match=said):
        Library().get(name)


def test_a_line_about_a_model() -> None:
    text = about(Library().get("vjepa-tiny-worlds"))
    assert "904 k parameters" in text and "48 pixels x 16 frames" in text and "apache-2.0" in text
