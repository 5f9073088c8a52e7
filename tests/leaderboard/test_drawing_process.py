"""Figures that another process draws are those of this one, and never depend on that process."""

import io
import os
import sys
from functools import partial

import numpy as np
import pytest

from headsweep.leaderboard.report import drawing_process, plots
from headsweep.leaderboard.report.drawing_process import (
    Figures,
    figures_drawn_aside,
    from_request,
    serve,
    to_request,
)

NAMES, VALUES = ["1: trial 3", "2: trial 0"], [0.1 + 0.2, float("nan")]
CURVES = [([1.0, 2.0], np.array([0.25, 1 / 3]))]
PLOTS = [
    plots.plot(
        "board",
        "",
        partial(
            plots.intervals, names=NAMES, means=VALUES, lows=VALUES, highs=VALUES, xlabel="AUPRC"
        ),
        height_in=1.8,
    ),
    plots.plot(
        "optimism",
        "",
        partial(
            plots.optimism,
            names=NAMES,
            stages=("search", "valid", "test"),
            values=np.array([[0.5, 0.4, np.nan], [0.3, 0.2, 0.1]]),
        ),
    ),
    plots.plot(
        "history",
        "",
        partial(plots.optimization_history, complete=([0, 2], [0.5, 0.6]), pruned=([1], [0.1])),
    ),
    plots.plot("curves", "", partial(plots.learning_curves, complete=CURVES, pruned=CURVES)),
    plots.plot("bars", "", partial(plots.bars, names=NAMES, values=[0.5, 0.5], xlabel="share")),
    plots.small_plot(
        "slice",
        "",
        partial(plots.value_slice, found=[1, 0], values=[0.5, 0.6], names=["a", "b"], log=False),
    ),
]


@pytest.fixture(autouse=True)
def two_cores(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1})


def test_figures_drawn_aside_are_equal_to_the_bit_and_leave_no_process():
    with figures_drawn_aside() as figures:
        drawn = figures.drawn(PLOTS)
        for aside, here in zip(drawn, PLOTS, strict=True):
            answer = aside.drawing.answer.result()  # none would hide a process that fails
            assert answer == here.files
            assert aside.files == here.files
        assert set(drawn[0].files) == {"svg", "png"}
        assert set(drawn[-1].files) == {"svg"}
        process = figures.process
        assert process.poll() is None
    assert process.returncode is not None


def test_figures_of_a_process_that_was_killed_are_drawn_here():
    with figures_drawn_aside() as figures:
        figures.process.kill()
        figures.process.wait()
        (drawn,) = figures.drawn(PLOTS[:1])
        assert drawn.files == PLOTS[0].files


def test_drawing_process_when_interrupted_ends_at_once():
    processes = []

    def interrupted():
        with figures_drawn_aside() as figures:
            processes.append(figures.process)
            figures.drawn(PLOTS * 20)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert processes[0].returncode is not None


def test_figures_on_one_core_or_without_an_interpreter_are_drawn_here(monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(os, "sched_getaffinity", lambda _: {0})
        with figures_drawn_aside() as figures:
            assert type(figures) is Figures
            assert figures.drawn(PLOTS) == PLOTS
    for missing in ("", "/nonexistent/python"):
        monkeypatch.setattr(sys, "executable", missing)
        with figures_drawn_aside() as figures:
            assert figures.drawn(PLOTS) == PLOTS


def test_serve_ends_with_its_input_and_answers_a_faulty_figure_with_no_files():
    faulty = plots.Drawing(partial(plots.bars, names=["one"]))
    answers = io.BytesIO()
    serve(io.BytesIO(to_request(faulty) + b"no JSON\n"), answers)
    assert answers.getvalue() == b"{}\n{}\n"


def test_to_request_takes_what_the_process_can_draw_and_nothing_else():
    for one in PLOTS:
        again = from_request(to_request(one.drawing))
        assert again.draw.func is one.drawing.draw.func
        assert (again.height_in, again.small) == (one.drawing.height_in, one.drawing.small)
    for draw in (
        lambda axes: None,
        partial(print, "text"),
        partial(plots.bars, names=[object()], values=[1], xlabel=""),
    ):
        assert to_request(plots.Drawing(draw)) is None
    own = plots.drawn_plot("pr", "", "<svg/>")
    with figures_drawn_aside() as figures:
        assert figures.drawn([own]) == [own]


def test_functions_are_found_by_their_own_names():
    for name, function in drawing_process.FUNCTIONS.items():
        assert getattr(plots, name) is function
