"""Options that several commands share, each defined once."""

from __future__ import annotations

import re
from pathlib import Path

import click

from headsweep.cli.paths import GivenPath
from headsweep.settings import (
    CPU_SLOTS,
    DEFAULT_STORAGE_URL,
    GPU_SLOTS,
    STORAGE_URL_VARIABLE,
    EngineSettings,
    default_storage_url,
)

storage = click.option(
    "--storage",
    "storage_url",
    metavar="URL",
    default=default_storage_url,
    help="Optuna storage: sqlite:///FILE or postgresql+psycopg://USER@HOST/DATABASE.  "
    f"[default: ${STORAGE_URL_VARIABLE}, or {DEFAULT_STORAGE_URL}]",
)
seed = click.IntRange(min=0, max=2**32 - 1)
n_workers = click.IntRange(min=1, max=10_000)
workers = click.option(
    "--workers",
    type=n_workers,
    metavar="N",
    help="Worker processes.  [default: one a GPU; on a CPU two, or one on a single core]",
)
device = click.option(
    "--device",
    default=EngineSettings.device,
    show_default=True,
    metavar="auto|cpu|cuda[:i]",
    callback=lambda ctx, param, value: _device(value),
    help="Device that trains heads.",
)
slots = click.option(
    "--slots",
    type=click.IntRange(min=1, max=10_000),
    default=EngineSettings.slots,
    metavar="K",
    help=f"Trials that one worker trains at once.  [default: {CPU_SLOTS}, on a GPU {GPU_SLOTS}]",
)
n_trials = click.option(
    "--n-trials",
    type=click.IntRange(min=1, max=10**9),
    metavar="N",
    help="Finished trials to reach; may grow an existing study.  [default: the study file's]",
)
out = click.option(
    "--out",
    type=GivenPath(path_type=Path),
    metavar="DIR",
    help="Folder of the leaderboard.  [default: outputs/<study>]",
)
reopen = click.option(
    "--reopen",
    metavar="WHY",
    help="Open test again for other finalists; the reason is shown on the leaderboard.",
)
timeout = click.option(
    "--timeout",
    "timeout_s",
    metavar="TIME",
    callback=lambda ctx, param, value: None if value is None else _seconds(value),
    help="Stop the search after this time, as in 2h, 90m or 1d12h; running trials end at their "
    "next rung. The same command continues later.",
)
overrides = click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")
study_file = click.argument(
    "study_file",
    metavar="STUDY.yaml",
    type=GivenPath(path_type=Path, dir_okay=False),
    callback=lambda ctx, param, value: _study_file(value),
)
study_name = click.argument("study_name", metavar="STUDY_NAME")


def _study_file(given: Path) -> Path:
    from headsweep.package_info import study_path

    return study_path(given)


def _seconds(text: str) -> float:
    """Return a duration such as `1h30m` in seconds; a plain number is seconds.

    Raises:
        click.BadParameter: the text is no duration.
    """
    units = {"d": 86400, "h": 3600, "m": 60, "s": 1}
    if re.fullmatch(r"[0-9]{1,9}", text):
        text += "s"
    if not re.fullmatch(r"(?=.)" + "".join(f"([0-9]{{1,9}}{unit})?" for unit in units), text):
        raise click.BadParameter(f"must be a time such as 2h, 90m or 1d12h, found {text!r}")
    total = sum(int(n) * units[unit] for n, unit in re.findall(r"([0-9]+)([dhms])", text))
    if not 0 < total <= 10 * 365 * units["d"]:
        raise click.BadParameter(f"must be between 1 second and 10 years, found {text!r}")
    return float(total)


def _device(value: str) -> str:
    kind, _, index = value.partition(":")
    if value in {"auto", "cpu", "cuda"} or (kind == "cuda" and re.fullmatch(r"[0-9]{1,3}", index)):
        return value
    raise click.BadParameter(f"must be auto, cpu, cuda or cuda:i, found {value!r}")
