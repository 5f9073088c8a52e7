"""Config groups and Hydra overrides → a typed config: the one place that calls Hydra's composer."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

from hydra import compose, initialize_config_module
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from headsweep.config import Config, leaf_paths, parse_config, unknown_key
from headsweep.errors import ConfigError

CONFIG_MODULE = "headsweep.configs"
GROUPS = ("head", "features", "training", "data", "paths", "logging")


def compose_config(overrides: Sequence[str], *, where: str) -> Config:
    """The config that a list of group choices and `key=value` overrides describes.

    Args:
        overrides: Hydra's override grammar, such as `head=mlp` and `training.batch_size=64`.
        where: file or command the overrides came from, for the error.

    Raises:
        ConfigError: an override that Hydra cannot parse, an unknown key, a value that breaks its
            law, an interpolation, or anything that reaches for Hydra itself.
    """
    parsed = [_parse(text, where=where) for text in overrides]
    try:
        with initialize_config_module(CONFIG_MODULE, version_base="1.3"):
            chosen = (*GROUPS, "head.kind")  # what decides which keys there are
            choices = [o.input_line for o in parsed if o.key_or_group in chosen and o.input_line]
            known = leaf_paths(_to_config(compose("config", choices), where=where))
            for override in parsed:
                if override.key_or_group not in (*GROUPS, *known):
                    raise ConfigError(f"{where}: {unknown_key(override.key_or_group, known)}")
            # Hydra knows no keys of a head that another package brings: known ones are forced.
            forced = [
                text if override.key_or_group in GROUPS else f"++{text}"
                for text, override in zip(overrides, parsed, strict=True)
            ]
            return _to_config(compose("config", forced), where=where)
    except (HydraException, OmegaConfBaseException) as error:
        raise ConfigError(f"{where}: {_first_line(error)}") from None


def override_value(text: str, *, where: str) -> tuple[str, Any]:
    """Key and plain value of one `key=value` override.

    Raises:
        ConfigError: the text is not a plain assignment.
    """
    override = _parse(text, where=where)
    return override.key_or_group, override.value()


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
        ConfigError: an override that Hydra cannot parse or that has no list of values.
    """
    choices: list[list[str]] = []
    for text in overrides:
        override = _hydra_override(text, where=where)
        if override.is_discrete_sweep():
            values = override.sweep_string_iterator()
            choices.append([f"{override.get_key_element()}={value}" for value in values])
        else:
            choices.append([text])
    swept = [len(options) > 1 for options in choices]
    return [
        (tuple(itertools.compress(combination, swept)), list(combination))
        for combination in itertools.product(*choices)
    ]


def _hydra_override(text: str, *, where: str) -> Override:
    try:
        return OverridesParser.create().parse_override(text)
    except HydraException as error:
        raise ConfigError(
            f"{where}: an override must read key=value, found {text!r} ({_first_line(error)})"
        ) from None


def _parse(text: str, *, where: str) -> Override:
    override = _hydra_override(text, where=where)
    if override.is_delete() or override.is_add() or override.is_sweep_override():
        raise ConfigError(f"{where}: an override must set one known key, found {text!r}")
    if "${" in text or override.key_or_group.partition(".")[0] == "hydra":
        raise ConfigError(f"{where}: an override must be plain data, found {text!r}")
    return override


def _to_config(composed: Any, *, where: str) -> Config:
    plain = OmegaConf.to_container(composed, resolve=False)
    assert isinstance(plain, dict)
    return parse_config({str(key): value for key, value in plain.items()}, where=where)


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0]
