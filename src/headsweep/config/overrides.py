"""Config groups and Hydra overrides → a typed config: the one place that calls Hydra.

Hydra's grammar reads an override and Hydra's composer loads the groups that it chooses. Values go
from the grammar straight to the typed config: no composer sees them, so nothing in them can be
resolved, looked up or imported.
"""

from __future__ import annotations

import copy
import functools
import itertools
import re
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_module
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, RangeSweep
from hydra.errors import HydraException
from omegaconf import OmegaConf

from headsweep.config.messages import unknown_key
from headsweep.config.schema import Config, escapes, to_dict
from headsweep.config.values import leaf_paths, parse_config, with_values
from headsweep.config.yaml_files import read_document
from headsweep.errors import ConfigError

COMMAND_LINE = "command line"
"""The place named in errors about overrides given on the command line."""
CONFIG_MODULE = "headsweep.config.groups"
GROUPS = ("head", "features", "training", "data", "paths", "logging")
MAX_CHARACTERS = 4000
"""Most characters of an override, and of all those in a file."""
MAX_MARKS = 500
"""Most brackets and commas of an override: the time of Hydra's parser grows with their square."""
MAX_RUNS = 10_000
"""Most combinations of a sweep."""

LOCAL = (
    "paths.output_dir",
    "paths.checkpoint_dir",
    "data.train_manifest",
    "data.val_manifest",
    "data.test_manifests",
)
"""Keys that name what is written, and the manifests below `paths.manifest_dir`."""

# Hydra's lexer knows no letter beyond ASCII outside of quotes.
_PLAIN_TEXT = re.compile(r"[^\\'\"(){}\[\],]*")


def compose_config(overrides: Sequence[str], *, where: str) -> Config:
    """The config that a list of group choices and `key=value` overrides describes.

    Args:
        overrides: Hydra's override grammar, such as `head=mlp` and `training.batch_size=64`.
        where: file or command the overrides came from, for the error.

    Raises:
        ConfigError: an override that Hydra cannot parse, an unknown key or choice, a value that
            breaks its law, an interpolation, or anything that reaches for Hydra itself.
    """
    values = dict(override_value(text, where=where) for text in overrides)
    choices = {key: values.pop(key) for key in GROUPS if key in values}
    for group, choice in choices.items():
        known = _options(group)
        if choice not in known:
            law = f"{group} must be one of {', '.join(known)}"
            raise ConfigError(f"{where}: {law}, found {choice!r}")
    plain = copy.deepcopy(_composed(tuple(f"{k}={v}" for k, v in choices.items())))
    if "head.kind" in values:  # which keys there are depends on it, as on a choice
        plain["head"]["kind"] = values.pop("head.kind")
    config = parse_config(plain, where=where)
    known = leaf_paths(config)
    for key in values:
        if key not in known:
            raise ConfigError(f"{where}: {unknown_key(key, known)}")
    return with_values(config, values, where=where)


def override_value(text: str, *, where: str) -> tuple[str, Any]:
    """Key and plain value of one `key=value` override.

    Raises:
        ConfigError: the text is not a plain assignment.
    """
    override = _hydra_override(text, where=where)
    if override.is_delete() or override.is_add() or override.is_sweep_override():
        raise ConfigError(f"{where}: an override must set one known key, found {text!r}")
    key, value = override.key_or_group, override.value()
    if override.package is not None or key.partition(".")[0] == "hydra" or _interpolates(value):
        raise ConfigError(f"{where}: an override must be plain data, found {text!r}")
    return key, value


def refuse_escapes(overrides: Sequence[str], *, where: str) -> None:
    """Refuse overrides in a file from others that write, or look for manifests, just anywhere.

    Raises:
        ConfigError: a key of `LOCAL` is an absolute path, or one with `..`; or more than
            `MAX_CHARACTERS`.
    """
    if (found := sum(map(len, overrides))) > MAX_CHARACTERS:
        law = f"overrides in a file must have at most {MAX_CHARACTERS} characters"
        raise ConfigError(f"{where}: {law}, found {found}")
    for text in overrides:
        key, value = override_value(text, where=where)
        for name in value if isinstance(value, list) else [value]:
            if key in LOCAL and escapes(str(name)):
                raise ConfigError(
                    f"{where}: {key} in a file must be a relative path without '..' "
                    f"(the command line may give others), found {name!r}"
                )


def expand_sweep(
    overrides: Sequence[str], *, where: str
) -> list[tuple[tuple[str, ...], list[str]]]:
    """Every combination of the sweeps among overrides, as Hydra's multirun makes them.

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
        override = _hydra_override(text, where=where)
        options = _sweep_options(override, text, where=where)
        n_runs *= len(options)
        if not 1 <= n_runs <= MAX_RUNS:
            law = f"a sweep must span 1 to {MAX_RUNS} runs"
            raise ConfigError(f"{where}: {law}, found more or none with {text!r}")
        choices.append(options)
    swept = [len(options) > 1 for options in choices]
    return [
        (tuple(itertools.compress(combination, swept)), list(combination))
        for combination in itertools.product(*choices)
    ]


def _sweep_options(override: Override, text: str, *, where: str) -> list[str]:
    """The plain overrides that one override stands for: itself, or `MAX_RUNS` + 1 at the most."""
    if not override.is_discrete_sweep():
        return [text]
    sweep = override.value()
    if isinstance(sweep, RangeSweep):
        assert sweep.start is not None
        assert sweep.stop is not None
        # Neither their number nor, at step 0 or nan, their end is bounded by Hydra.
        span = abs(sweep.stop - sweep.start)
        if sweep.step == 0 or not span <= abs(sweep.step) * MAX_RUNS:
            law = f"a sweep must span 1 to {MAX_RUNS} runs"
            raise ConfigError(f"{where}: {law}, found more with {text!r}")
    values = itertools.islice(override.sweep_string_iterator(), MAX_RUNS + 1)
    return [f"{override.get_key_element()}={value}" for value in values]


def _hydra_override(text: str, *, where: str) -> Override:
    if len(text) > MAX_CHARACTERS or sum(map(text.count, "[{(,")) > MAX_MARKS:
        raise ConfigError(
            f"{where}: an override must have at most {MAX_CHARACTERS} characters, of which "
            f"{MAX_MARKS} are brackets and commas, found more in {text[:40]!r}…"
        )
    key, equals, value = text.partition("=")
    if not value.isascii() and _PLAIN_TEXT.fullmatch(value):
        text = f"{key}{equals}'{value}'"
    try:
        return _parsed(text)
    except (HydraException, ValueError, RecursionError, ArithmeticError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise ConfigError(
            f"{where}: an override must read key=value, found {text!r} ({reason})"
        ) from None


@functools.lru_cache(maxsize=1000)
def _parsed(text: str) -> Override:
    """What Hydra reads in an override; not to be changed."""
    return OverridesParser.create().parse_override(text)


@functools.cache
def _options(group: str) -> tuple[str, ...]:
    """The choices of a config group: names of its files, which nothing else may name."""
    folder = files(CONFIG_MODULE).joinpath(group)
    return tuple(sorted(file.name.removesuffix(".yaml") for file in folder.iterdir()))


@functools.cache
def _composed(choices: tuple[str, ...]) -> dict[str, Any]:
    """The config of known group choices as plain data; not to be changed."""
    with initialize_config_module(CONFIG_MODULE, version_base="1.3"):
        plain = OmegaConf.to_container(compose("config", list(choices)), resolve=False)
    assert isinstance(plain, dict)
    return {str(key): value for key, value in plain.items()}


def _interpolates(value: Any) -> bool:
    """Whether a plain value holds text that OmegaConf would resolve."""
    if isinstance(value, dict):
        return any(map(_interpolates, (*value, *value.values())))
    if isinstance(value, list):
        return any(map(_interpolates, value))
    return isinstance(value, str) and "${" in value


def config_of(config_file: Path | None, overrides: Sequence[str]) -> Config:
    """The config that overrides describe, on top of the config file when there is one.

    Raises:
        ConfigError: a key or value that breaks its law, with the file or `command line` as place.
    """
    if config_file is None:
        return compose_config(overrides, where=COMMAND_LINE)
    data = read_document(config_file)
    pairs = [override_value(text, where=COMMAND_LINE) for text in overrides]
    choices = [text for text, (key, _) in zip(overrides, pairs, strict=True) if key in GROUPS]
    chosen = to_dict(compose_config(choices, where=COMMAND_LINE))
    data |= {key: chosen[key] for key, _ in pairs if key in GROUPS}
    values = {key: value for key, value in pairs if key not in GROUPS}
    return with_values(parse_config(data, where=str(config_file)), values, where=COMMAND_LINE)


def multirun_configs(config_file: Path | None, overrides: Sequence[str]) -> list[Config]:
    """The config of every combination that sweeps among the overrides span.

    A run's files go to a folder below `paths.checkpoint_dir` that is named after its swept values.

    Raises:
        ConfigError: as `config_of`; nothing is trained when one of the configs is wrong.
    """
    configs = []
    for swept, combination in expand_sweep(overrides, where=COMMAND_LINE):
        config = config_of(config_file, combination)
        name = re.sub(r"[^\w.,=+-]+", "_", ",".join(swept))
        folder = Path(config.paths.checkpoint_dir) / name
        configs.append(
            with_values(config, {"paths.checkpoint_dir": str(folder)}, where=COMMAND_LINE)
        )
    return configs
