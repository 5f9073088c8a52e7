"""The report is one self-contained HTML file; its plots are also stored as files."""

import itertools
import re
from html.parser import HTMLParser

from matplotlib.figure import Figure
from optuna.distributions import CategoricalDistribution
from optuna.trial import create_trial

from headsweep.leaderboard.report.plots import learning_curves, value_slice
from headsweep.leaderboard.report.sections import _slices

VOID = {"meta", "link", "br", "hr", "img", "input"}


class Page(HTMLParser):
    """Collect ids and link addresses, and check that every element is closed."""

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


def test_report_is_well_formed_and_loads_no_other_file(finished):
    text = (finished / "report.html").read_text()
    page = Page()
    page.feed(text)
    assert page.open == []
    assert len(page.ids) == len(set(page.ids))
    assert all(address.startswith("#") for address in page.addresses)
    assert "@import" not in text
    assert not re.search(r"url\((?!#)", text)


def test_report_shows_results_before_the_search_and_then_curves(finished):
    titles = re.findall(r"<h2>([^<]*)</h2>", (finished / "report.html").read_text())
    kinds = ("Intervals on", "Optimism", "Search", "Slices", "Precision and recall on")
    first = [next(i for i, title in enumerate(titles) if title.startswith(k)) for k in kinds]
    assert first == sorted(first)


def test_report_plots_use_the_color_of_the_theme(finished):
    text = (finished / "report.html").read_text()
    assert "prefers-color-scheme: dark" in text
    assert "currentColor" in text
    assert "#0a0b0c" not in text


def test_report_shows_board_best_config_and_provenance(finished):
    text = (finished / "report.html").read_text()
    assert "Leaderboard on test_manual_all" in text
    assert "test opened" in text
    assert "learning_rate:" in text
    assert "data fingerprint" in text


def test_plots_folder_has_every_plot_as_svg_and_some_as_png(finished):
    names = {path.stem for path in (finished / "plots").glob("*.svg")}
    alone = {path.stem for path in (finished / "plots").glob("*.png")}
    assert {"history", "learning-curves", "optimism-test_manual_all"} <= alone <= names
    assert {name.split("-")[0] for name in names - alone} == {"pr", "roc", "reliability", "slice"}


def test_value_slice_names_choices_in_the_order_of_the_space_and_slants_long_names():
    choices = ["weighted_bce", "bce", "focal", "asymmetric", "asymmetric_with_a_long_name"]
    for names, slanted in ((["64", "256", "1024"], False), (choices, True)):
        axes = Figure(figsize=(2.3, 1.9)).add_subplot()
        positions = list(range(len(names)))[::-1]
        value_slice(axes, positions, [0.5] * len(names), names=names, log=False)
        ticks = axes.get_xticklabels()
        assert [tick.get_text()[:11] for tick in ticks] == [name[:11] for name in names]
        assert {tick.get_rotation() for tick in ticks} == {30.0 if slanted else 0.0}
        assert axes.get_xlim() == (-0.5, len(names) - 0.5)
        boxes = [tick.get_window_extent() for tick in ticks]
        assert all(a.x1 < b.x1 for a, b in itertools.pairwise(boxes))


def test_slices_of_a_categorical_parameter_follow_the_order_of_its_choices():
    space = {"head.width": CategoricalDistribution([64, 128, 256])}
    trials = [
        create_trial(value=value, params={"head.width": width}, distributions=space)
        for value, width in ((0.1, 256), (0.2, 64), (0.3, 256))
    ]
    (plot,) = _slices(trials, "macro AUPRC")
    names = re.findall(r">(\d+)</text>", plot.svg.decode())
    assert [name for name in names if name in ("64", "128", "256")] == ["64", "256"]


def test_learning_curves_draw_every_report_of_a_pruned_trial():
    axes = Figure().add_subplot()
    learning_curves(axes, complete=[([1, 2, 3], [0.1, 0.2, 0.3])], pruned=[([1, 2], [0.1, 0.15])])
    curve, end, whole = axes.get_lines()
    assert (list(curve.get_xdata()), list(curve.get_ydata())) == ([1, 2], [0.1, 0.15])
    assert curve.get_alpha() >= 0.5
    assert (list(end.get_xdata()), end.get_marker()) == ([2], ".")
    assert len(whole.get_xdata()) == 3
