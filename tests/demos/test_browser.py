"""The demo as people see it: in Debian's Chromium, every tab, one example run, the result looked at."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from jepa_hub.catalog import CHECKPOINTS
from tests.demos.conftest import Server

PHONE = {"width": 390, "height": 844}
DESK = {"width": 1280, "height": 1000}
# Where the screenshots go, to be looked at; a temporary folder unless told.
SCREENSHOTS = os.environ.get("JEPA_HUB_SCREENSHOTS")
THUMBNAILS = ".jh-examples button.thumbnail-item, .jh-examples .thumbnail-lg"


class Visit:
    """A page of the demo, and everything it complained about or asked others for."""

    def __init__(self, page: Any, address: str, folder: Path) -> None:
        self.page, self.address, self.folder = page, address, folder
        self.complaints: list[str] = []
        self.elsewhere: list[str] = []
        page.on("console", self._heard)
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.on("request", self._asked)
        page.set_default_timeout(30_000)

    def _heard(self, message: Any) -> None:
        if message.type == "error":
            self.complaints.append(f"{message.type}: {message.text}")

    def _asked(self, request: Any) -> None:
        if not request.url.startswith((self.address, "data:", "blob:")):
            self.elsewhere.append(request.url)

    def open(self, tab: str) -> Any:
        """The panel of a tab."""
        if self.page.url == "about:blank":
            self.page.goto(self.address)
        self.page.locator("#jh-tab-features-button").first.wait_for()
        self.page.wait_for_timeout(400)  # tabs that find no room move into a menu
        name = f"jh-tab-{tab.lower().replace(' ', '-')}"
        if (button := self.page.locator(f"#{name}-button").first).is_visible():
            button.click()
        else:
            self.page.get_by_label("More tabs").first.click()
            self.page.locator(".overflow-dropdown button", has_text=tab).first.click()
        panel = self.page.locator(f"#{name}")
        panel.wait_for()
        return panel

    def keep(self, name: str) -> None:
        """A screenshot of the whole page."""
        self.page.wait_for_timeout(400)
        self.page.screenshot(path=str(self.folder / f"{name}.png"), full_page=True)


@pytest.fixture
def visit(server: Server, browser: Any, tmp_path: Path) -> Iterator[Callable[..., Visit]]:
    folder = Path(SCREENSHOTS) if SCREENSHOTS else tmp_path
    folder.mkdir(parents=True, exist_ok=True)
    visits = []

    def opened(size: dict[str, int] = DESK, scheme: str = "light") -> Visit:
        context = browser.new_context(viewport=size, color_scheme=scheme, reduced_motion="reduce")
        visits.append(Visit(context.new_page(), server.address, folder))
        return visits[-1]

    yield opened
    for each in visits:
        assert each.complaints == []
        assert each.elsewhere == []
        # the page is no wider than the screen
        assert each.page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    assert server.outgoing == []


def count(locator: Any, number: int) -> None:
    """Wait until there are so many."""
    from playwright.sync_api import expect

    expect(locator).to_have_count(number, timeout=30_000)


def colours(page: Any, selector: str) -> int:
    """How many different colours a picture or canvas has, roughly."""
    return int(
        page.locator(selector).first.evaluate(
            """async node => {
                if (node.tagName === 'IMG') await node.decode();
                const canvas = document.createElement('canvas');
                canvas.width = canvas.height = 64;
                const context = canvas.getContext('2d');
                context.drawImage(node, 0, 0, 64, 64);
                const data = context.getImageData(0, 0, 64, 64).data;
                const seen = new Set();
                for (let i = 0; i < data.length; i += 4)
                    seen.add((data[i] >> 4) * 256 + (data[i + 1] >> 4) * 16 + (data[i + 2] >> 4));
                return seen.size;
            }"""
        )
    )


def features(visit: Visit, name: str) -> None:
    """A scene, a click, a film."""
    panel = visit.open("Features")
    panel.locator(THUMBNAILS).nth(0).click()
    panel.get_by_text("16 x 16 tokens each of 128 numbers").wait_for()
    pictures = panel.locator(".jh-picture img")
    count(pictures, 4)  # input, colours, groups, attention
    assert colours(visit.page, "#jh-tab-features .jh-picture >> nth=1 >> img") > 30
    box = pictures.first.bounding_box()
    pictures.first.click(position={"x": box["width"] * 0.55, "y": box["height"] * 0.55})  # the yellow ball
    panel.get_by_text("Similarity").wait_for()
    visit.page.wait_for_function("document.querySelectorAll('#jh-tab-features .jh-picture img').length === 5")
    visit.keep(f"{name}-features")
    panel.locator(THUMBNAILS).nth(3).click()
    count(panel.locator(".jh-player canvas"), 4)
    panel.get_by_text(re.compile("8 x 16 x 16 tokens")).wait_for()
    player = panel.locator(".jh-player")
    assert player.get_attribute("data-frame") == "0"
    player.locator("input[type=range]").fill("5")
    assert player.get_attribute("data-frame") == "5"
    visit.page.wait_for_timeout(300)
    assert colours(visit.page, "#jh-tab-features .jh-player canvas >> nth=1") > 30
    panel.get_by_label("Model").click()  # another model looks at the same clip, unasked
    visit.page.get_by_role("option", name=re.compile("vjepa-tiny-worlds")).click()
    panel.get_by_text(re.compile("8 x 8 x 8 tokens")).wait_for()
    visit.keep(f"{name}-features-film")


def prediction(visit: Visit, name: str) -> None:
    """A picture, a stroke over it, a video."""
    panel = visit.open("Prediction")
    panel.locator(THUMBNAILS).nth(0).click()
    count(panel.locator(".jh-picture img"), 6)
    panel.get_by_text(re.compile("16 of 64 tokens hidden")).wait_for()
    said = re.search(r"truth: (\d\.\d\d)", panel.get_by_text(re.compile("Likeness of the")).text_content())
    assert said and 0.5 < float(said[1]) < 1
    canvas = panel.locator(".jh-painter canvas")
    assert panel.locator(".jh-painter").get_attribute("data-hidden") == "16"
    canvas.scroll_into_view_if_needed()
    box = canvas.bounding_box()
    mouse = visit.page.mouse
    mouse.move(box["x"] + box["width"] / 16, box["y"] + box["height"] / 16)  # down the first column
    mouse.down()
    mouse.move(box["x"] + box["width"] / 16, box["y"] + box["height"] * 15 / 16, steps=16)
    mouse.up()
    assert panel.locator(".jh-painter").get_attribute("data-hidden") == "24"
    panel.get_by_text(re.compile("24 of 64 tokens hidden")).wait_for()
    assert colours(visit.page, "#jh-tab-prediction .jh-picture >> nth=4 >> img") > 15
    visit.keep(f"{name}-prediction")
    panel.locator(THUMBNAILS).nth(3).click()
    count(panel.locator(".jh-player canvas"), 7)
    panel.get_by_text(re.compile("64 of 128 tokens hidden")).wait_for()
    visit.page.wait_for_timeout(300)
    panel.locator(".jh-player input[type=range]").fill("5")
    assert colours(visit.page, "#jh-tab-prediction .jh-player canvas >> nth=2") > 15
    visit.keep(f"{name}-prediction-video")


def physics(visit: Visit, name: str) -> None:
    """A scene, the other thing that goes wrong with it, the curve's cursor."""
    panel = visit.open("Physics")
    panel.locator(THUMBNAILS).nth(0).click()
    player = panel.locator(".jh-player")
    player.wait_for()
    count(player.locator("canvas"), 4)
    panel.get_by_text(re.compile(r"(impossible|possible) clip surprised it more")).wait_for()
    wrong = player.locator(".jh-mark-text").text_content()
    assert panel.get_by_role("radio", name=wrong).is_checked()
    before = panel.locator("strong").nth(1).text_content()
    panel.get_by_role("radio").nth(0).check()
    visit.page.wait_for_function(
        "old => document.querySelector('#jh-tab-physics .jh-mark-text').textContent !== old", arg=wrong
    )
    assert panel.locator("strong").nth(1).text_content() != before
    chart = player.locator(".jh-chart")
    assert chart.locator("path.jh-line").count() == 2 and chart.locator(".jh-seen").count() == 1
    box = chart.bounding_box()
    chart.click(position={"x": box["width"] * 0.8, "y": box["height"] * 0.5})  # the film goes where one points
    assert int(player.get_attribute("data-frame") or 0) >= 11
    visit.page.wait_for_timeout(300)
    assert colours(visit.page, "#jh-tab-physics .jh-player canvas >> nth=3") > 30
    visit.keep(f"{name}-physics")


def world(visit: Visit, name: str) -> None:
    """A darker picture, and then a brighter one; or how to get a model."""
    panel = visit.open("World")
    if "iwm-tiny-scenes" not in CHECKPOINTS:
        panel.get_by_text("jepa-hub train iwm/tiny_scenes").wait_for()
        return
    panel.locator(THUMBNAILS).nth(0).click()
    count(panel.locator(".jh-picture img"), 7)
    said = panel.get_by_text(re.compile("Told: brightness"))
    rank = re.search(r"comes (\d+)", said.text_content() or "")
    assert rank and int(rank[1]) < 128
    slider = panel.get_by_label("range slider for Brightness")
    slider.focus()
    slider.press("End")
    panel.get_by_text(re.compile(r"Told: brightness \+0\.72")).wait_for()
    assert colours(visit.page, "#jh-tab-world .jh-picture >> nth=2 >> img") > 8
    visit.keep(f"{name}-world")


def words(visit: Visit, name: str) -> None:
    """A red sphere is red; pictures are found by words."""
    panel = visit.open("Words")
    panel.locator(THUMBNAILS).nth(0).click()
    panel.locator(".jh-mixture").first.wait_for()
    assert panel.locator("[data-testid=label-output-value]").inner_text().strip() == "red"
    count(panel.locator(".jh-mixture").first.locator("tbody tr"), 8)
    panel.get_by_label("Words to choose from").fill("a cube, a sphere, a zebra")
    panel.get_by_label("In the sentence").fill("{}")
    panel.get_by_role("button", name="Which word fits?").click()
    count(panel.locator(".jh-mixture").first.locator("tbody tr"), 3)
    panel.get_by_text(re.compile("It has never read zebra")).wait_for()
    panel.get_by_label("Find pictures of").fill("a blue cube")
    panel.get_by_role("button", name="Find", exact=True).click()
    count(panel.locator("#jh-found img"), 6)
    assert colours(visit.page, "#jh-found img") > 8
    visit.keep(f"{name}-words")


def few_labels(visit: Visit, name: str) -> None:
    """One label of each colour, one of them taken for another, all taken away."""
    panel = visit.open("Few labels")
    panel.locator(THUMBNAILS).nth(0).click()
    panel.locator(".jh-accuracy").wait_for()
    said = panel.get_by_text(re.compile(r"\d+% of 40 other pictures right"))
    said.wait_for()
    assert int((said.text_content() or "").split("%")[0].split()[-1]) >= 80
    count(panel.locator("#jh-classified img"), 40)
    panel.get_by_role("radio", name="brown").check()
    panel.locator("#jh-pool button.thumbnail-item, #jh-pool .thumbnail-lg").nth(7).click()  # a red cylinder
    panel.get_by_text("from 9 labels").wait_for()
    count(panel.locator(".jh-accuracy circle"), 2)
    visit.keep(f"{name}-few-labels")
    panel.get_by_role("button", name="Take all labels away").click()
    panel.get_by_text("No labels yet").wait_for()


TABS: dict[str, Callable[[Visit, str], None]] = {
    "Features": features,
    "Prediction": prediction,
    "Physics": physics,
    "World": world,
    "Words": words,
    "Few labels": few_labels,
}


def test_every_tab(visit: Callable[..., Visit]) -> None:
    desk = visit()
    for look in TABS.values():
        look(desk, "desk")
    names = [each for each in desk.page.get_by_role("tab").all_inner_texts() if each.strip()]
    assert names == list(TABS)


def test_on_a_phone_in_the_dark(visit: Callable[..., Visit]) -> None:
    phone = visit(PHONE, "dark")
    TABS["Words"](phone, "phone")
    assert "dark" in (phone.page.locator("body").get_attribute("class") or "")


@pytest.mark.slow
@pytest.mark.parametrize(("size", "scheme"), [(PHONE, "light"), (PHONE, "dark"), (DESK, "dark")])
def test_every_tab_at_every_width_and_in_every_light(
    visit: Callable[..., Visit], size: dict[str, int], scheme: str
) -> None:
    page = visit(size, scheme)
    for look in TABS.values():
        look(page, f"{'phone' if size is PHONE else 'desk'}-{scheme}")
        assert page.page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")


def test_an_upload_and_a_bad_one(visit: Callable[..., Visit], picture: str, tmp_path: Path) -> None:
    desk = visit()
    panel = desk.open("Features")
    bad = tmp_path / "bad.png"
    bad.write_text("no picture at all")
    panel.locator("input[type=file]").set_input_files(str(bad))
    desk.page.get_by_text(re.compile(r"bad\.png is not an image or video")).first.wait_for()
    desk.keep("desk-bad-upload")
    panel.get_by_label("Clear").first.click()
    panel.locator("input[type=file]").set_input_files(picture)
    panel.get_by_text("16 x 16 tokens each").wait_for()
