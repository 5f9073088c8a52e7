"""The progress line that a run prints."""

from __future__ import annotations

import io
import sys
from dataclasses import replace

import pytest

from headsweep.launching.progress import line, saved, shown
from headsweep.studies.summary import Summary
from headsweep.studies.worker_timings import WorkerTimings

BEGUN = Summary(
    study="probe",
    n_trials=40,
    states={"COMPLETE": 3, "PRUNED": 2, "RUNNING": 4, "WAITING": 0, "FAIL": 0},
    best_value=None,
    best_trial=None,
    trials_per_minute=7.4,
    minutes_left=None,
    workers_by_host={},
    epochs_trained=30,
    epochs_planned=120,
    last_failure=None,
    effort=WorkerTimings(),
)
OVER = replace(BEGUN, states=BEGUN.states | {"COMPLETE": 38})


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_line_names_only_what_there_is() -> None:
    assert line(BEGUN) == "3 complete, 2 pruned, 4 running · 7 trials/min"
    more = replace(
        BEGUN,
        states=BEGUN.states | {"WAITING": 1, "FAIL": 6},
        best_value=0.51237,
        minutes_left=4.7,
    )
    assert line(more) == (
        "3 complete, 2 pruned, 4 running · 1 waiting · 6 failed · best 0.5124 · 7 trials/min · "
        "4 min left"
    )


@pytest.mark.parametrize(
    ("minutes", "told"),
    [(0.99, "59 s"), (1.0, "1 min"), (59.99, "59 min"), (60.0, "1.0 h"), (150.0, "2.5 h")],
)
def test_line_shows_the_time_left_in_seconds_minutes_or_hours(minutes: float, told: str) -> None:
    assert line(replace(BEGUN, minutes_left=minutes)).endswith(f" · {told} left")


def test_saved_before_any_trial_ended_is_zero_percent() -> None:
    assert saved(BEGUN) == "75% of the epochs not trained (30 of 120 were)"
    assert saved(replace(BEGUN, epochs_trained=0, epochs_planned=0)).startswith("0% of")


def test_shown_without_a_terminal_prints_few_lines_and_the_last_once(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with shown() as show:
        for summary in (BEGUN, BEGUN, OVER, OVER):
            show(summary)
    told = capsys.readouterr()
    assert told.out == ""
    assert told.err.splitlines() == [f"5/40 trials: {line(BEGUN)}", f"40/40 trials: {line(OVER)}"]


def test_shown_in_a_terminal_draws_one_live_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.setenv("TERM", "xterm")
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    with shown() as show:
        show(BEGUN)
        show(OVER)
    last = terminal.getvalue().rpartition("\r")[2]
    assert "40/40" in last
    assert line(OVER) in last
