"""Figures of the report, each drawn once, and rendered for the page or for a file.

A figure is as wide as a phone, so that its text stays readable where figures stand side by side
and where they stand below each other. Ink takes the page's text colour, light or dark.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from headsweep.atomic_files import write_bytes
from headsweep.metrics.calibration import Reliability
from headsweep.metrics.thresholds import OperatingPoint

INK = "#0a0b0c"
BLUE, ORANGE, GREEN, PURPLE, RED, GREY = (
    "#3d85c6",
    "#d9822b",
    "#2a9d6f",
    "#9a6fc4",
    "#d1495b",
    "#8a8f98",
)
WIDTH_IN = 4.2
STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "headsweep",
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.15,
    "axes.axisbelow": True,
    **{f"{part}.color": INK for part in ("text", "xtick", "ytick", "grid")},
    **{f"axes.{part}": INK for part in ("edgecolor", "labelcolor")},
}

MAX_POINTS = 150
"""Points of a PR or ROC curve that are drawn."""

Values = Sequence[float] | NDArray[np.float64]


@dataclass(frozen=True)
class Plot:
    """A figure with the name of its file and the sentence that says what it shows.

    One that does not stand `alone` has no labels of its own: only beside its caption, among its
    like, does it say anything.
    """

    name: str
    caption: str
    figure: Figure
    alone: bool = True

    @cached_property
    def svg(self) -> bytes:
        """The figure as an SVG file."""
        return self._render("svg")

    def to_svg(self) -> str:
        """The figure as an `svg` element for a page: no fixed size, ids of its own."""
        text = self.svg.decode()
        text = text[text.index("<svg") :].replace(INK, "currentColor")
        text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
        text = re.sub(r'id="([^"]+)"', rf'id="{self.name}-\1"', text)
        text = re.sub(r'(url\(#|href="#)', rf"\1{self.name}-", text)
        label = self.caption.replace("&", "&amp;").replace('"', "&quot;").replace("<", "&lt;")
        sized = re.compile(r' (width|height)="[^"]+pt"')
        return sized.sub("", text, count=2).replace(
            "<svg", f'<svg role="img" aria-label="{label}"', 1
        )

    def save(self, folder: Path) -> None:
        """Write the figure as SVG, and as PNG too if it stands alone."""
        write_bytes(folder / f"{self.name}.svg", self.svg)
        if self.alone:
            write_bytes(folder / f"{self.name}.png", self._render("png"))

    def _render(self, kind: str) -> bytes:
        buffer = io.BytesIO()
        metadata = {"Date": None} if kind == "svg" else {}
        with mpl.rc_context(STYLE):
            self.figure.savefig(
                buffer, format=kind, dpi=160, transparent=kind == "svg", metadata=metadata
            )
        return buffer.getvalue()


def plot(name: str, caption: str, draw: Callable[[Axes], None], *, height_in: float = 2.8) -> Plot:
    """One pair of axes, filled by `draw`."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH_IN, height_in), layout="constrained")
        draw(figure.add_subplot())
    return Plot(name, caption, figure)


def small_plot(name: str, caption: str, draw: Callable[[Axes], None]) -> Plot:
    """A plot that stands among many: no labels of its own, its caption says it all."""
    with mpl.rc_context({**STYLE, "font.size": 7}):
        figure = Figure(figsize=(2.3, 1.9))
        axes = figure.add_axes((0.22, 0.2, 0.75, 0.76))
        draw(axes)
    return Plot(name, caption, figure, alone=False)


def intervals(
    axes: Axes,
    names: Sequence[str],
    means: Values,
    lows: Values,
    highs: Values,
    *,
    xlabel: str,
) -> None:
    """A horizontal interval for every name, the first on top."""
    y = np.arange(len(names))
    axes.hlines(y, lows, highs, color=BLUE, linewidth=2.5)
    axes.plot(means, y, "o", color=BLUE)
    axes.set_yticks(y, list(names))
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.set_xlabel(xlabel)
    axes.grid(axis="y", visible=False)


def optimism(
    axes: Axes, names: Sequence[str], stages: Sequence[str], values: NDArray[np.float64]
) -> None:
    """One line a finalist over the stages of its evaluation, values (finalists, stages)."""
    for row, name, color in zip(values, names, _colors(len(names)), strict=True):
        axes.plot(np.arange(len(stages)), row, "o-", color=color, label=name, linewidth=1.5)
    axes.set_xticks(np.arange(len(stages)), list(stages))
    axes.set_xlim(-0.3, len(stages) - 0.7)
    axes.set_ylabel("macro AUPRC")
    axes.legend(frameon=False, fontsize=8)


def optimisation_history(
    axes: Axes, complete: tuple[Values, Values], pruned: tuple[Values, Values]
) -> None:
    """Values by trial number, complete and pruned, with the best so far."""
    axes.plot(*pruned, ".", color=GREY, alpha=0.7, label="pruned (last report)")
    axes.plot(*complete, ".", color=BLUE, label="complete")
    numbers, values = map(np.asarray, complete)
    best = np.maximum.accumulate(values)
    axes.step(numbers, best, where="post", color=ORANGE, label="best so far")
    axes.set(xlabel="trial", ylabel="valid macro AUPRC")
    axes.legend(frameon=False, fontsize=8)


def learning_curves(
    axes: Axes, complete: Sequence[tuple[Values, Values]], pruned: Sequence[tuple[Values, Values]]
) -> None:
    """Macro AUPRC on valid by epoch, one line a trial; a pruned trial ends in a dot."""
    for epochs, values in pruned:
        axes.plot(epochs, values, color=GREY, alpha=0.35, linewidth=0.8)
        axes.plot(epochs[-1:], values[-1:], ".", color=GREY, markersize=4)
    for epochs, values in complete:
        axes.plot(epochs, values, color=BLUE, alpha=0.6, linewidth=1.0)
    axes.set(xlabel="epoch", ylabel="valid macro AUPRC")


def bars(axes: Axes, names: Sequence[str], values: Values, *, xlabel: str) -> None:
    """Horizontal bars, the first on top."""
    y = np.arange(len(names))
    axes.barh(y, values, color=BLUE, height=0.6)
    axes.set_yticks(y, list(names))
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.set_xlabel(xlabel)
    axes.grid(axis="y", visible=False)


def value_slice(
    axes: Axes, found: Sequence[float] | Sequence[str], values: Values, *, log: bool
) -> None:
    """Values of trials against one parameter."""
    axes.plot(found, values, ".", color=BLUE, alpha=0.7, markersize=4)
    if log:
        axes.set_xscale("log")
    axes.set_ylabel("valid macro AUPRC")


def pr_curves(axes: Axes, points: Sequence[OperatingPoint], prevalence: float) -> None:
    """Precision over recall, one line a seed, as the steps that average precision sums."""
    axes.axhline(prevalence, color=GREY, linewidth=0.8, linestyle=":")
    for point in points:
        full = np.searchsorted(point.sensitivity, 1.0) + 1  # what follows adds only false calls
        x, y = _thinned(point.sensitivity[:full], point.precision[:full])
        axes.step(x, y, where="pre", color=BLUE, alpha=0.6, linewidth=0.9)
    _unit_square(axes, "recall", "precision")


def roc_curves(axes: Axes, points: Sequence[OperatingPoint]) -> None:
    """Sensitivity over 1 - specificity, one line a seed."""
    axes.plot((0, 1), (0, 1), color=GREY, linewidth=0.8, linestyle=":")
    for point in points:
        x, y = _thinned(1 - point.specificity, point.sensitivity)
        axes.plot(np.append(0, x), np.append(0, y), color=BLUE, alpha=0.6, linewidth=0.9)
    _unit_square(axes, "1 - specificity", "sensitivity")


def reliability_curves(axes: Axes, curves: Sequence[Reliability]) -> None:
    """Share of positives over probability, one line a seed; empty bins are left out."""
    axes.plot((0, 1), (0, 1), color=GREY, linewidth=0.8, linestyle=":")
    for curve in curves:
        full = curve.rows > 0
        (line,) = axes.plot(curve.probability[full], curve.frequency[full], ".-", color=BLUE)
        line.set(alpha=0.6, linewidth=0.9, markersize=3)
    _unit_square(axes, "probability", "frequency")


def _thinned(x: Values, y: Values) -> tuple[Values, Values]:
    """At most `MAX_POINTS` points of a curve, its ends among them."""
    kept = np.unique(np.linspace(0, len(x) - 1, MAX_POINTS).astype(int))
    return np.asarray(x)[kept], np.asarray(y)[kept]


def _unit_square(axes: Axes, xlabel: str, ylabel: str) -> None:
    axes.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), xlabel=xlabel, ylabel=ylabel)
    axes.set(xticks=(0, 0.5, 1), yticks=(0, 0.5, 1))  # each tick is laid out anew: most of the time


def _colors(n: int) -> list[str]:
    palette = (BLUE, ORANGE, GREEN, PURPLE, RED, GREY)
    return [palette[i % len(palette)] for i in range(n)]
