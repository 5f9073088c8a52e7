"""The report in a real browser: no complaint, nothing wider than a phone, light and dark."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from headsweep.leaderboard.merge import merge
from tests.helpers.chromium import Page, browse

PHONE, DESK = {"width": 390, "height": 844}, {"width": 1280, "height": 800}
BACKGROUND = "getComputedStyle(document.body).backgroundColor"
WIDTHS = "[document.documentElement.scrollWidth, document.documentElement.clientWidth]"

pytestmark = pytest.mark.xdist_group("browser")


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory, chromium: None) -> Iterator[Page]:
    """A tab of a browser that this module shares."""
    with browse(tmp_path_factory.mktemp("chromium")) as page:
        yield page


@pytest.fixture(params=["report", "merged board"])
def html(request: pytest.FixtureRequest, finished: Path, tmp_path: Path) -> Path:
    """A page of each kind that is written for people."""
    if request.param == "report":
        return finished / "report.html"
    path = tmp_path / "board.html"
    path.write_text(merge([finished, finished]).to_html(), encoding="utf-8")
    return path


def brightness(page: Page) -> float:
    """Of the page's background: 0 is black, 1 white."""
    numbers = page.value(BACKGROUND).strip("rgba()").split(",")[:3]
    return sum(map(float, numbers)) / 3 / 255


@pytest.mark.parametrize("screen", [PHONE, DESK], ids=["phone", "desk"])
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_it_fits_the_screen_and_the_console_is_silent(page, html, theme, screen):
    page.complaints.clear()
    page.show(html, **screen, theme=theme)
    content, window = page.value(WIDTHS)
    assert content == window <= screen["width"]
    assert page.complaints == []
    assert (brightness(page) > 0.5) == (theme == "light")


def test_every_fold_opened_still_fits_a_phone(page, finished):
    page.show(finished / "report.html", **PHONE, theme="light")
    assert page.value("document.querySelectorAll('details').length") > 0
    page.value("document.querySelectorAll('details').forEach(fold => { fold.open = true })")
    assert page.value(WIDTHS) == [390, 390]


def test_the_browser_does_see_faults(page, tmp_path):
    """The tests above can fail: a page at fault is told from a sound one."""
    path = tmp_path / "faulty.html"
    path.write_text(
        "<!doctype html><meta name=viewport content='width=device-width'>"
        "<div style='width:900px'>wide</div><script>console.error('loud'); missing()</script>"
    )
    page.complaints.clear()
    page.show(path, **PHONE, theme="light")
    assert page.value(WIDTHS)[0] == 900 + 8
    assert any("loud" in complaint for complaint in page.complaints)
    assert any("missing is not defined" in complaint for complaint in page.complaints)
