"""The report in Chromium: no console errors, no horizontal scrolling, light and dark theme."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from headsweep.leaderboard.merge import merge
from tests.helpers.chromium import Page, browse

PHONE, DESK = {"width": 390, "height": 844}, {"width": 1280, "height": 800}
BACKGROUND = "getComputedStyle(document.body).backgroundColor"
WIDTHS = "[document.documentElement.scrollWidth, document.documentElement.clientWidth]"


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory, chromium: None) -> Iterator[Page]:
    """A browser tab shared by the tests of this module."""
    with browse(tmp_path_factory.mktemp("chromium")) as page:
        yield page


@pytest.fixture(params=["report", "merged board"])
def html(request: pytest.FixtureRequest, finished: Path, tmp_path: Path) -> Path:
    """The path of a report and of a merged board as HTML."""
    if request.param == "report":
        return finished / "report.html"
    path = tmp_path / "board.html"
    path.write_text(merge([finished, finished]).to_html(), encoding="utf-8")
    return path


def brightness(page: Page) -> float:
    """Return the brightness of the page's background: 0 is black, 1 is white."""
    numbers = page.value(BACKGROUND).strip("rgba()").split(",")[:3]
    return sum(map(float, numbers)) / 3 / 255


@pytest.mark.parametrize("screen", [PHONE, DESK], ids=["phone", "desk"])
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_page_on_any_screen_and_theme_fits_without_console_errors(page, html, theme, screen):
    page.complaints.clear()
    page.show(html, **screen, theme=theme)
    content, window = page.value(WIDTHS)
    assert content == window <= screen["width"]
    assert page.complaints == []
    assert (brightness(page) > 0.5) == (theme == "light")


def test_report_on_a_phone_with_all_sections_open_fits_the_width(page, finished):
    page.show(finished / "report.html", **PHONE, theme="light")
    assert page.value("document.querySelectorAll('details').length") > 0
    page.value("document.querySelectorAll('details').forEach(fold => { fold.open = true })")
    assert page.value(WIDTHS) == [390, 390]


def test_browser_with_a_faulty_page_reports_its_width_and_errors(page, tmp_path):
    """Check that the tests above can fail: the faults of a bad page are detected."""
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
