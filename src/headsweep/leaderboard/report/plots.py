"""Figures of the report, each drawn once, and rendered for the page or for a file.

A figure is as wide as a phone, so that its text is readable with figures side by side and one
below the other. Ink takes the page's text colour, light or dark. Matplotlib is imported by the
process that draws, which need not be the one that describes a figure (`drawing_process`).
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from headsweep.atomic_files import write_bytes
from headsweep.leaderboard.report.ink import BLUE, GREEN, GREY, INK, ORANGE, PURPLE, RED
from headsweep.metrics.trial_metrics import TITLES

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

AUPRC = TITLES["auprc_macro"]
WIDTH_IN = 4.2
KINDS = ("svg", "png")
NAME_SHOWN = 14
"""Characters of a choice below a small plot."""
NAMES_IN_A_ROW = 24
"""Characters of all choices together that fit below a small plot."""
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

Values = Sequence[float] | NDArray[np.float64]


class Renderable(Protocol):
    """What is rendered into files."""

    def files(self) -> Mapping[str, bytes]:
        """Return the content of each file by kind: "svg", and "png" for a figure with one."""


@dataclass(frozen=True)
class Drawing:
    """A figure of one pair of axes that `draw` fills; it can be sent to another process.

    A small one has no PNG: it is shown with its caption, next to figures of the same kind.
    """

    draw: Callable[[Axes], None]
    height_in: float = 2.8
    small: bool = False

    def files(self) -> Mapping[str, bytes]:
        """Draw the figure.

        Returns:
            Content of each file by kind.
        """
        import matplotlib as mpl
        from matplotlib.figure import Figure

        with mpl.rc_context({**STYLE, "font.size": 7} if self.small else STYLE):
            if self.small:
                figure = Figure(figsize=(2.3, 1.9))
                self.draw(figure.add_axes((0.22, 0.2, 0.75, 0.76)))
            else:
                figure = Figure(figsize=(WIDTH_IN, self.height_in), layout="constrained")
                self.draw(figure.add_subplot())
        return {kind: _render(figure, kind) for kind in (("svg",) if self.small else KINDS)}


@dataclass(frozen=True)
class Document:
    """A finished SVG document."""

    svg: str

    def files(self) -> Mapping[str, bytes]:
        """Return the document as the content of a file."""
        return {"svg": self.svg.encode()}


@dataclass(frozen=True)
class Plot:
    """A figure with the name of its files and the sentence that describes it."""

    name: str
    caption: str
    drawing: Renderable

    @cached_property
    def files(self) -> Mapping[str, bytes]:
        """Content of each file by kind."""
        return self.drawing.files()

    @property
    def svg(self) -> bytes:
        """Return the figure as an SVG file."""
        return self.files["svg"]

    def to_svg(self) -> str:
        """Return the figure as an `svg` element for a page: no fixed size, unique ids."""
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
        """Write the figure's files."""
        for kind, content in self.files.items():
            write_bytes(folder / f"{self.name}.{kind}", content)


def plot(name: str, caption: str, draw: Callable[[Axes], None], *, height_in: float = 2.8) -> Plot:
    """Return a figure of one pair of axes, filled by `draw`."""
    return Plot(name, caption, Drawing(draw, height_in))


def small_plot(name: str, caption: str, draw: Callable[[Axes], None]) -> Plot:
    """Return a small plot without a title, described by its caption."""
    return Plot(name, caption, Drawing(draw, small=True))


def drawn_plot(name: str, caption: str, svg: str) -> Plot:
    """Return a small plot of a finished SVG document."""
    return Plot(name, caption, Document(svg))


def _render(figure: Figure, kind: str) -> bytes:
    import matplotlib as mpl

    buffer = io.BytesIO()
    metadata = {"Date": None} if kind == "svg" else {}
    with mpl.rc_context(STYLE):
        figure.savefig(buffer, format=kind, dpi=160, transparent=kind == "svg", metadata=metadata)
    # A second file has the layout of the first; with any engine, matplotlib would draw it twice.
    with mpl.rc_context(STYLE):
        figure.set_layout_engine(None)
    return buffer.getvalue()


def _integer_ticks(axes: Axes) -> None:
    from matplotlib.ticker import MaxNLocator

    axes.xaxis.set_major_locator(MaxNLocator(integer=True))


def intervals(
    axes: Axes,
    names: Sequence[str],
    means: Values,
    lows: Values,
    highs: Values,
    *,
    xlabel: str,
) -> None:
    """Draw a horizontal interval for every name, the first on top."""
    y = np.arange(len(names))
    axes.hlines(y, lows, highs, color=BLUE, linewidth=2.5)
    axes.plot(means, y, "o", color=BLUE)
    axes.set_yticks(y, list(names))
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.set_xlabel(xlabel)
    axes.grid(axis="y", visible=False)


def optimism(
    axes: Axes,
    names: Sequence[str],
    stages: Sequence[str],
    values: NDArray[np.float64],
    *,
    metric: str = AUPRC,
) -> None:
    """Draw one line per finalist over the stages of its evaluation, values (finalists, stages)."""
    for row, name, color in zip(values, names, _colors(len(names)), strict=True):
        axes.plot(np.arange(len(stages)), row, "o-", color=color, label=name, linewidth=1.5)
    axes.set_xticks(np.arange(len(stages)), list(stages))
    axes.set_xlim(-0.3, len(stages) - 0.7)
    axes.set_ylabel(metric)
    _legend_above(axes)


def optimization_history(
    axes: Axes,
    complete: tuple[Values, Values],
    pruned: tuple[Values, Values],
    *,
    metric: str = AUPRC,
) -> None:
    """Draw values by trial number, complete and pruned, with the best so far.

    The legend names the states that occur, above the axes, where it covers no point.
    """
    if len(pruned[0]):
        axes.plot(*pruned, ".", color=GREY, alpha=0.7, label="pruned (last report)")
    if len(complete[0]):
        axes.plot(*complete, ".", color=BLUE, label="complete")
        numbers, values = map(np.asarray, complete)
        best = np.fmax.accumulate(values)
        axes.step(numbers, best, where="post", color=ORANGE, label="best so far")
    axes.set(xlabel="trial", ylabel=f"valid {metric}")
    _integer_ticks(axes)
    if axes.get_legend_handles_labels()[0]:
        _legend_above(axes)


def learning_curves(
    axes: Axes,
    complete: Sequence[tuple[Values, Values]],
    pruned: Sequence[tuple[Values, Values]],
    *,
    metric: str = AUPRC,
) -> None:
    """Draw the metric on valid by epoch, one line for each trial; a pruned one ends in a dot.

    A trial with a single report is a dot.
    """
    for epochs, values in pruned:
        axes.plot(epochs, values, color=GREY, alpha=0.6, linewidth=0.8)
        axes.plot(epochs[-1:], values[-1:], ".", color=GREY, markersize=4)
    for epochs, values in complete:
        marker = "." if len(epochs) == 1 else ""
        axes.plot(epochs, values, color=BLUE, alpha=0.6, linewidth=1.0, marker=marker)
    axes.set(xlabel="epoch", ylabel=f"valid {metric}")
    _integer_ticks(axes)


def bars(axes: Axes, names: Sequence[str], values: Values, *, xlabel: str) -> None:
    """Draw horizontal bars, the first on top."""
    y = np.arange(len(names))
    axes.barh(y, values, color=BLUE, height=0.6)
    axes.set_yticks(y, list(names))
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.set_xlabel(xlabel)
    axes.grid(axis="y", visible=False)


def value_slice(
    axes: Axes,
    found: Values,
    values: Values,
    *,
    names: Sequence[str] = (),
    log: bool,
    metric: str = AUPRC,
) -> None:
    """Draw values of trials against one parameter; `names` are those of the positions 0, 1, ..."""
    axes.plot(found, values, ".", color=BLUE, alpha=0.7, markersize=4)
    if names:
        _name_positions(axes, [_shortened(name) for name in names])
    if log:
        axes.set_xscale("log")
    axes.set_ylabel(f"valid {metric}")


def _name_positions(axes: Axes, names: Sequence[str]) -> None:
    """Name the positions 0, 1, ... of a small plot; names that do not fit in a row are slanted."""
    axes.set_xticks(range(len(names)), list(names))
    axes.set_xlim(-0.5, len(names) - 0.5)
    if sum(map(len, names)) > NAMES_IN_A_ROW:
        axes.set_position((0.22, 0.36, 0.75, 0.6))
        for label in axes.get_xticklabels():
            label.set(rotation=30, horizontalalignment="right", rotation_mode="anchor")


def _shortened(name: str) -> str:
    return name if len(name) <= NAME_SHOWN else f"{name[: NAME_SHOWN - 3]}..."


def _legend_above(axes: Axes) -> None:
    """Add a legend above the axes, where it covers no point."""
    axes.legend(
        loc="lower left",
        bbox_to_anchor=(0, 1),
        borderaxespad=0.2,
        ncols=3,
        frameon=False,
        fontsize=8,
        columnspacing=1,
    )


def _colors(n: int) -> list[str]:
    palette = (BLUE, ORANGE, GREEN, PURPLE, RED, GREY)
    return [palette[i % len(palette)] for i in range(n)]
