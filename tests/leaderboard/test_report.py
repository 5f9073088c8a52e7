"""The report is one file that needs nothing else, and its plots lie beside it."""

import re
from html.parser import HTMLParser

VOID = {"meta", "link", "br", "hr", "img", "input"}


class Page(HTMLParser):
    """Collects ids and addresses, and checks that elements close."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.addresses: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in VOID:
            self.open.append(tag)
        for name, value in attrs:
            if name == "id":
                self.ids.append(value or "")
            if name in ("src", "href", "xlink:href"):
                self.addresses.append(value or "")

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_the_page_is_well_formed_and_loads_nothing(finished):
    text = (finished / "report.html").read_text()
    page = Page()
    page.feed(text)
    assert page.open == []
    assert len(page.ids) == len(set(page.ids))
    assert all(address.startswith("#") for address in page.addresses)
    assert "@import" not in text
    assert not re.search(r"url\((?!#)", text)


def test_ink_follows_the_theme(finished):
    text = (finished / "report.html").read_text()
    assert "prefers-color-scheme: dark" in text
    assert "currentColor" in text
    assert "#0a0b0c" not in text


def test_it_shows_the_board_the_best_config_and_where_it_comes_from(finished):
    text = (finished / "report.html").read_text()
    assert "Leaderboard on test_manual_all" in text
    assert "test opened" in text
    assert "learning_rate:" in text
    assert "data fingerprint" in text


def test_plots_lie_beside_it_as_svg_and_those_that_stand_alone_as_png(finished):
    names = {path.stem for path in (finished / "plots").glob("*.svg")}
    alone = {path.stem for path in (finished / "plots").glob("*.png")}
    assert {"history", "learning-curves", "optimism-test_manual_all"} <= alone <= names
    assert {name.split("-")[0] for name in names - alone} == {"pr", "roc", "reliability", "slice"}
