"""Durations as `--timeout` takes them."""

import click
import pytest

from headsweep.cli import options


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("2h", 7200), ("90m", 5400), ("1d12h", 129_600), ("1h0m5s", 3605), ("7", 7)],
)
def test_timeout_is_read_in_seconds(text: str, seconds: float) -> None:
    assert options._seconds(text) == seconds


@pytest.mark.parametrize(
    "text", ["2h2h", "5s1h", "1h30", "", "0", "0s", "1x", "-5", "inf", "9" * 12]
)
def test_timeout_that_is_no_duration_is_refused(text: str) -> None:
    with pytest.raises(click.BadParameter, match="must be"):
        options._seconds(text)
