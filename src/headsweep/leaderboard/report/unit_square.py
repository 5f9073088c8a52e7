"""Small curves on the unit square, written as SVG without matplotlib.

A report has three for each label; matplotlib takes 50 ms to lay out each.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from headsweep.leaderboard.report.ink import BLUE, GREY, INK
from headsweep.metrics.calibration import Reliability
from headsweep.metrics.thresholds import OperatingPoint

MAX_POINTS = 150
"""Points of a curve that are drawn."""

WIDTH, HEIGHT = 166, 137
LEFT, RIGHT, TOP, BOTTOM = 37.0, 161.0, 6.0, 109.0
MARGIN = 0.02
"""Of the square on each side, so that a curve along its edge is whole."""

Values = Sequence[float] | NDArray[np.float64]


@dataclass(frozen=True)
class Curve:
    """Points of one line; `dots` marks each."""

    x: Values
    y: Values
    dots: bool = False


def pr_curves(points: Sequence[OperatingPoint], prevalence: float) -> str:
    """Draw precision over recall, one line for each seed, as the steps that are summed.

    Returns:
        An SVG document.
    """
    curves = []
    for point in points:
        full = np.searchsorted(point.sensitivity, 1.0) + 1  # the rest only adds false positives
        x, y = _thinned(point.sensitivity[:full], point.precision[:full])
        curves.append(Curve(np.repeat(x, 2)[:-1], np.repeat(y, 2)[1:]))
    chance = Curve((-MARGIN, 1 + MARGIN), (prevalence, prevalence))
    return _drawing(curves, chance, "recall", "precision")


def roc_curves(points: Sequence[OperatingPoint]) -> str:
    """Draw sensitivity over 1 - specificity, one line for each seed.

    Returns:
        An SVG document.
    """
    curves = []
    for point in points:
        x, y = _thinned(1 - point.specificity, point.sensitivity)
        curves.append(Curve(np.append(0, x), np.append(0, y)))
    return _drawing(curves, Curve((0, 1), (0, 1)), "1 - specificity", "sensitivity")


def reliability_curves(curves: Sequence[Reliability]) -> str:
    """Draw the share of positives over probability, one line for each seed, without empty bins.

    Returns:
        An SVG document.
    """
    lines = [
        Curve(curve.probability[curve.rows > 0], curve.frequency[curve.rows > 0], dots=True)
        for curve in curves
    ]
    return _drawing(lines, Curve((0, 1), (0, 1)), "probability", "frequency")


def _drawing(curves: Sequence[Curve], reference: Curve, xlabel: str, ylabel: str) -> str:
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" '
        f'width="{WIDTH}pt" height="{HEIGHT}pt" version="1.1" font-size="7" '
        f'font-family="DejaVu Sans, sans-serif" fill="{INK}">',
        *_axes(xlabel, ylabel),
        _polyline(reference, f'stroke="{GREY}" stroke-width="0.8" stroke-dasharray="1 1.6"'),
    ]
    style = f'stroke="{BLUE}" stroke-opacity="0.6" stroke-width="0.9"'
    for curve in curves:
        parts.append(_polyline(curve, style))
        if curve.dots:
            parts += [
                f'<circle cx="{x:.2f}" cy="{y:.2f}" r="1.2" fill="{BLUE}" fill-opacity="0.6"/>'
                for x, y in zip(*_placed(curve.x, curve.y), strict=True)
            ]
    return "".join([*parts, "</svg>"])


def _axes(xlabel: str, ylabel: str) -> list[str]:
    parts = []
    ticks = np.array([0.0, 0.5, 1.0])
    xs, ys = _placed(ticks, ticks)
    for tick, x, y in zip(("0", "0.5", "1"), xs, ys, strict=True):
        grid = f'stroke="{INK}" stroke-opacity="0.15" stroke-width="0.8"'
        parts.append(f'<path d="M{x:.2f} {TOP}V{BOTTOM}M{LEFT} {y:.2f}H{RIGHT}" {grid}/>')
        short = f'stroke="{INK}" stroke-width="0.8"'
        parts.append(f'<path d="M{x:.2f} {BOTTOM}v3M{LEFT} {y:.2f}h-3" {short}/>')
        parts.append(f'<text x="{x:.2f}" y="{BOTTOM + 10}" text-anchor="middle">{tick}</text>')
        parts.append(f'<text x="{LEFT - 5}" y="{y + 2.5:.2f}" text-anchor="end">{tick}</text>')
    spines = f'fill="none" stroke="{INK}" stroke-width="0.8"'
    parts.append(f'<path d="M{LEFT} {TOP}V{BOTTOM}H{RIGHT}" {spines}/>')
    middle = (LEFT + RIGHT) / 2, (TOP + BOTTOM) / 2
    parts.append(
        f'<text x="{middle[0]}" y="{HEIGHT - 8}" text-anchor="middle">{xlabel}</text>'
        f'<text transform="translate(12 {middle[1]}) rotate(-90)" text-anchor="middle">'
        f"{ylabel}</text>"
    )
    return parts


def _polyline(curve: Curve, style: str) -> str:
    points = " ".join(f"{x:.2f},{y:.2f}" for x, y in zip(*_placed(curve.x, curve.y), strict=True))
    return f'<polyline points="{points}" fill="none" {style}/>'


def _placed(x: Values, y: Values) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return coordinates of values between -MARGIN and 1 + MARGIN."""
    across, up = ((np.asarray(v, np.float64) + MARGIN) / (1 + 2 * MARGIN) for v in (x, y))
    return LEFT + across * (RIGHT - LEFT), BOTTOM - up * (BOTTOM - TOP)


def _thinned(x: Values, y: Values) -> tuple[Values, Values]:
    """Return at most `MAX_POINTS` points of a curve, its ends among them."""
    kept = np.unique(np.linspace(0, len(x) - 1, MAX_POINTS).astype(int))
    return np.asarray(x)[kept], np.asarray(y)[kept]
