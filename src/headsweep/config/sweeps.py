"""Sweeps on the command line: every config that `headsweep train -m` trains."""

from __future__ import annotations

import hashlib
import itertools
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from hydra.core.override_parser.types import Glob, Override, RangeSweep

from headsweep.config.overrides import (
    COMMAND_LINE,
    GROUPS,
    PARSER_ERRORS,
    config_of,
    group_options,
    hydra_override,
    without_ignored,
)
from headsweep.config.schema import Config
from headsweep.config.values import with_values
from headsweep.errors import ConfigError

MAX_RUNS = 10_000
"""Most combinations of a sweep."""

MAX_NAME_BYTES = 200
"""Most bytes of a run's folder name, which file systems bound at 255."""


def expand_sweep(
    overrides: Sequence[str], *, where: str
) -> list[tuple[tuple[str, ...], list[str]]]:
    """Form every combination of the sweeps among overrides, as Hydra's multirun does.

    Args:
        overrides: plain ones, and sweeps such as `training.seed=0,1,2` or `head.depth=range(1,4)`.
        where: where they came from, for the error.

    Returns:
        For each combination the swept overrides, which tell it from the others, and all of them.

    Raises:
        ConfigError: an override that Hydra cannot parse or that has no list of values, or more
            combinations than `MAX_RUNS`.
    """
    choices: list[list[str]] = []
    n_runs = 1
    for text in overrides:
        override = hydra_override(text, where=where)
        options = _sweep_options(override, text, where=where)
        n_runs *= len(options)
        if not 1 <= n_runs <= MAX_RUNS:
            rule = f"a sweep must span 1 to {MAX_RUNS} runs"
            raise ConfigError(f"{where}: {rule}, found more or none with {text!r}")
        choices.append(options)
    swept = [len(options) > 1 for options in choices]
    return [
        (tuple(itertools.compress(combination, swept)), list(combination))
        for combination in itertools.product(*choices)
    ]


def _sweep_options(override: Override, text: str, *, where: str) -> list[str]:
    """Return the plain overrides that one override stands for: at most `MAX_RUNS` + 1.

    Raises:
        ConfigError: the override has no list of values, or too many.
    """
    if override.is_interval_sweep():
        raise ConfigError(
            f"{where}: {text!r} is an interval without single values: write choice(…) or "
            "range(START,STOP,STEP), or search it with a study file"
        )
    if not override.is_discrete_sweep():
        return [text]
    sweep = override.value()
    if isinstance(sweep, Glob):
        return _matching(override.get_key_element(), sweep, text, where=where)
    if isinstance(sweep, RangeSweep):
        assert sweep.start is not None
        assert sweep.stop is not None
        # Neither their number nor, at step 0 or nan, their end is bounded by Hydra.
        span = abs(sweep.stop - sweep.start)
        if sweep.step == 0 or not span <= abs(sweep.step) * MAX_RUNS:
            rule = f"a sweep must span 1 to {MAX_RUNS} runs"
            raise ConfigError(f"{where}: {rule}, found more with {text!r}")
    try:
        values = list(itertools.islice(override.sweep_string_iterator(), MAX_RUNS + 1))
    except PARSER_ERRORS as error:  # a sweep among the values of a sweep
        reason = str(error).strip().partition("\n")[0]
        raise ConfigError(
            f"{where}: an override must read key=value, found {text!r} ({reason})"
        ) from None
    return [f"{override.get_key_element()}={value}" for value in values]


def _matching(group: str, pattern: Glob, text: str, *, where: str) -> list[str]:
    """Return a choice of a config group for each of its options that a glob names.

    Raises:
        ConfigError: the key is no group, or no option matches.
    """
    if group not in GROUPS:
        raise ConfigError(
            f"{where}: {text!r} chooses among the options of a group: {', '.join(GROUPS)}"
        )
    names = pattern.filter(list(group_options(group)))
    if not names:
        raise ConfigError(f"{where}: {text!r} matches none of {', '.join(group_options(group))}")
    return [f"{group}={name}" for name in names]


def multirun_configs(config_file: Path | None, overrides: Sequence[str]) -> list[Config]:
    """Compose the config of every combination of the sweeps among the overrides.

    Args:
        config_file: a whole config, to which the overrides apply; None starts from the defaults.
        overrides: plain ones and sweeps.

    Returns:
        The configs; the files of each go to a folder below `paths.checkpoint_dir` that is named
        after its swept values.

    Raises:
        ConfigError: as `config_of`; nothing is trained when one of the configs is wrong.
    """
    configs = []
    folders: Counter[str] = Counter()
    overrides = without_ignored(overrides, where=COMMAND_LINE)
    for swept, combination in expand_sweep(overrides, where=COMMAND_LINE):
        config = config_of(config_file, combination)
        name = _folder_name(swept)
        folders[name] += 1
        if folders[name] > 1:  # equal values, or values that differ in other characters alone
            name = f"{name}_{folders[name]}"
        folder = Path(config.paths.checkpoint_dir) / name
        configs.append(
            with_values(config, {"paths.checkpoint_dir": str(folder)}, where=COMMAND_LINE)
        )
    return configs


def _folder_name(swept: Sequence[str]) -> str:
    """Return a folder's name that shows the swept values, short enough for any file system."""
    text = ",".join(swept)
    name = re.sub(r"[^\w.,=+-]+", "_", text)
    if len(name.encode()) <= MAX_NAME_BYTES:
        return name
    digest = hashlib.sha256(text.encode()).hexdigest()[:8]
    return f"{name.encode()[:MAX_NAME_BYTES].decode(errors='ignore')}_{digest}"
