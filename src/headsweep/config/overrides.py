"""Config groups and Hydra overrides → a typed config; this module and `sweeps` call Hydra.

Hydra's grammar reads an override and Hydra's composer loads the groups that it chooses. Values go
from the grammar straight to the typed config: no composer sees them, so nothing in them can be
resolved, looked up or imported.
"""

from __future__ import annotations

import copy
import functools
import re
import warnings
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_module
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from headsweep.config.messages import unknown_key
from headsweep.config.schema import Config, escapes, to_dict
from headsweep.config.values import leaf_paths, parse_config, with_values
from headsweep.config.yaml_files import read_document
from headsweep.errors import ConfigError, HeadsweepWarning

COMMAND_LINE = "command line"
"""Names the source in errors about overrides given on the command line."""
CONFIG_MODULE = "headsweep.config.groups"
GROUPS = ("head", "features", "training", "data", "paths", "logging")
MAX_CHARACTERS = 4000
"""Most characters of an override, and of all those in a file."""
MAX_MARKS = 500
"""Most brackets and commas of an override: the time of Hydra's parser grows with their square."""
WITHOUT_MEANING = {
    "training.num_workers": "features are held in memory, so no data loader has workers",
    "training.pin_memory": "features are held in memory, so there is no data loader",
    "data.num_workers": "features are held in memory, so no data loader has workers",
    "data.preload_features": "features are always held in memory",
    "hydra.job.name": "Hydra runs no job here; paths.checkpoint_dir names the folder of a run",
}
"""Keys of other CT-RATE benchmarks that are accepted, and why they mean nothing here."""

RENAMED = {
    "utils.seed": "training.seed",
    "seed": "training.seed",
    "model": "head, as in head=mlp",
    "hydra.run.dir": "paths.checkpoint_dir",
    "hydra.sweep.dir": "paths.checkpoint_dir",
}
"""Keys of other CT-RATE benchmarks that have another name here."""

HYDRA_KEYS = {"job", "run", "sweep", "output_subdir", "verbose"}
"""Keys of a config file's section `hydra` that are ignored; others are refused."""

LOCAL = (
    "paths.output_dir",
    "paths.checkpoint_dir",
    "data.train_manifest",
    "data.val_manifest",
    "data.test_manifests",
    "data.label_maps",
    "data.zero_shot",
)
"""Keys that name what is written, and the manifests below `paths.manifest_dir`."""

# Hydra's lexer knows no letter beyond ASCII outside of quotes.
_PLAIN_TEXT = re.compile(r"[^\\'\"(){}\[\],]*")


PARSER_ERRORS = (
    *(HydraException, OmegaConfBaseException),
    *(ValueError, RecursionError, ArithmeticError),
)
"""What Hydra's parser raises on texts that it does not understand."""


def compose_config(
    overrides: Sequence[str],
    *,
    where: str,
    given: Mapping[str, Any] | None = None,
    fixed: Mapping[str, Any] | None = None,
) -> Config:
    """Compose the config that a list of group choices and `key=value` overrides describes.

    Args:
        overrides: Hydra's override grammar, such as `head=mlp` and `training.batch_size=64`.
        where: file or command the overrides came from, for the error.
        given: plain values by key, which `overrides` may replace.
        fixed: plain values by key, which replace those of `overrides`.

    Returns:
        The config.

    Raises:
        ConfigError: an override that Hydra cannot parse, an unknown key or choice, a value that
            is not allowed, an interpolation, or anything that addresses Hydra itself.
    """
    overrides = without_ignored(overrides, where=where)
    values = {**(given or {}), **dict(override_value(text, where=where) for text in overrides)}
    values |= fixed or {}
    choices = {key: values.pop(key) for key in GROUPS if key in values}
    for group, choice in choices.items():
        known = group_options(group)
        if choice not in known:
            hint = (
                f"; set its keys one by one, as {group}.KEY=VALUE"
                if isinstance(choice, dict)
                else ""
            )
            raise ConfigError(
                f"{where}: {group} must be one of {', '.join(known)}, found {choice!r}{hint}"
            )
    plain = copy.deepcopy(_composed(tuple(f"{k}={v}" for k, v in choices.items())))
    if "head.kind" in values:  # which keys there are depends on it, as on a choice
        plain["head"]["kind"] = values.pop("head.kind")
    config = parse_config(plain, where=where)
    known = leaf_paths(config)
    for key in values:
        if key not in known:
            raise ConfigError(f"{where}: {_unknown(key, known)}")
    return with_values(config, values, where=where)


def override_value(text: str, *, where: str) -> tuple[str, Any]:
    """Read one `key=value` override.

    Returns:
        Its key and its plain value.

    Raises:
        ConfigError: the text is not a plain assignment.
    """
    override = hydra_override(text, where=where)
    if override.is_delete() or override.is_add():
        raise ConfigError(
            f"{where}: {text!r} adds or deletes a key, but all keys exist and stay: "
            "write KEY=VALUE, or KEY=null"
        )
    if override.is_sweep_override():
        raise ConfigError(
            f"{where}: {text!r} stands for several values: `headsweep train -m` trains each, "
            "and a study file searches them"
        )
    key, value = override.key_or_group, override.value()
    if key in RENAMED:
        raise ConfigError(f"{where}: {_unknown(key, ())}")
    if override.package is not None or key.partition(".")[0] == "hydra" or _interpolates(value):
        raise ConfigError(
            f"{where}: {text!r} is not plain data: packages (@), keys of hydra and "
            "interpolations (${…}) are not read"
        )
    return key, value


def without_ignored(overrides: Sequence[str], *, where: str) -> list[str]:
    """Leave out overrides of keys that other CT-RATE benchmarks have, and that mean nothing here.

    Args:
        overrides: in Hydra's grammar.
        where: where they came from, for the warning.

    Returns:
        The other overrides.
    """
    kept = []
    for text in overrides:
        key = text.partition("=")[0].lstrip("+")
        if key in WITHOUT_MEANING:
            reason = WITHOUT_MEANING[key]
            warnings.warn(f"{where}: {key} is ignored: {reason}", HeadsweepWarning, stacklevel=3)
        else:
            kept.append(text)
    return kept


def without_ignored_sections(data: Mapping[str, Any], *, where: str) -> dict[str, Any]:
    """Leave out keys that other CT-RATE benchmarks have in their config files, with one warning.

    Args:
        data: sections of a config file.
        where: the file.

    Returns:
        The other keys.

    Raises:
        ConfigError: a key has another name here.
    """
    kept: dict[str, Any] = {}
    ignored: dict[str, str] = {}
    for name, section in data.items():
        if name in RENAMED:
            raise ConfigError(f"{where}: {_unknown(name, ())}")
        if name == "hydra" and isinstance(section, dict) and HYDRA_KEYS.issuperset(section):
            ignored[name] = "Hydra runs no job here"
            continue
        if not isinstance(section, dict):
            kept[name] = section
            continue
        paths = {f"{name}.{key}": key for key in section}
        for path in paths:
            if path in RENAMED:
                raise ConfigError(f"{where}: {_unknown(path, ())}")
        ignored |= {path: WITHOUT_MEANING[path] for path in paths if path in WITHOUT_MEANING}
        kept[name] = {key: section[key] for path, key in paths.items() if path not in ignored}
    if ignored:
        reasons = "; ".join(f"{path}: {reason}" for path, reason in ignored.items())
        warnings.warn(f"{where}: ignored keys: {reasons}", HeadsweepWarning, stacklevel=3)
    return kept


def _unknown(key: str, known: Sequence[str]) -> str:
    """Return the sentence that refuses a key, with the one that replaces it here."""
    other = RENAMED.get(key)
    return f"unknown key {key!r}: here it is {other}" if other else unknown_key(key, known)


def refuse_escapes(overrides: Sequence[str], *, where: str) -> None:
    """Refuse overrides in an untrusted file that write or read manifests outside their folders.

    Raises:
        ConfigError: a key of `LOCAL` is an absolute path, or one with `..`; or more than
            `MAX_CHARACTERS`.
    """
    if (found := sum(map(len, overrides))) > MAX_CHARACTERS:
        rule = f"overrides in a file must have at most {MAX_CHARACTERS} characters"
        raise ConfigError(f"{where}: {rule}, found {found}")
    for text in overrides:
        refuse_escaping_value(*override_value(text, where=where), where=where)


def refuse_escaping_value(key: str, value: Any, *, where: str) -> None:
    """Refuse a value in an untrusted file that writes or reads manifests outside their folders.

    Raises:
        ConfigError: the key is one of `LOCAL` and the value an absolute path, or one with `..`.
    """
    names = list(value.values()) if isinstance(value, dict) else value
    for name in names if isinstance(names, list) else [names]:
        if key in LOCAL and escapes(str(name)):
            raise ConfigError(
                f"{where}: {key} in a file must be a relative path without '..' "
                f"(the command line may give others), found {name!r}"
            )


def hydra_override(text: str, *, where: str) -> Override:
    """Parse an override in Hydra's grammar.

    Returns:
        What Hydra reads in it; not to be changed.

    Raises:
        ConfigError: Hydra cannot parse it, or it is too long to be parsed in reasonable time.
    """
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
    except PARSER_ERRORS as error:
        reason = str(error).strip().partition("\n")[0]
        fix = f"; write a value with quotes or brackets as {key}='…'" if equals else ""
        raise ConfigError(
            f"{where}: an override must read key=value, found {text!r} ({reason}){fix}"
        ) from None


@functools.lru_cache(maxsize=1000)
def _parsed(text: str) -> Override:
    """Return what Hydra reads in an override; not to be changed."""
    return OverridesParser.create().parse_override(text)


@functools.cache
def group_options(group: str) -> tuple[str, ...]:
    """Return the options of a config group, which are the names of its files."""
    folder = files(CONFIG_MODULE).joinpath(group)
    return tuple(sorted(file.name.removesuffix(".yaml") for file in folder.iterdir()))


@functools.cache
def _composed(choices: tuple[str, ...]) -> dict[str, Any]:
    """Return the config of known group choices as plain data; not to be changed."""
    with initialize_config_module(CONFIG_MODULE, version_base="1.3"):
        plain = OmegaConf.to_container(compose("config", list(choices)), resolve=False)
    assert isinstance(plain, dict)
    return {str(key): value for key, value in plain.items()}


def _interpolates(value: Any) -> bool:
    """Return whether a plain value holds text that OmegaConf would resolve."""
    if isinstance(value, dict):
        return any(map(_interpolates, (*value, *value.values())))
    if isinstance(value, list):
        return any(map(_interpolates, value))
    return isinstance(value, str) and "${" in value


def config_of(config_file: Path | None, overrides: Sequence[str]) -> Config:
    """Compose the config that overrides describe, on top of the config file if there is one.

    Returns:
        The config.

    Raises:
        ConfigError: a key or value that is not allowed, after the file or `command line`.
    """
    overrides = without_ignored(overrides, where=COMMAND_LINE)
    if config_file is None:
        return compose_config(overrides, where=COMMAND_LINE)
    data = without_ignored_sections(read_document(config_file), where=str(config_file))
    pairs = [override_value(text, where=COMMAND_LINE) for text in overrides]
    choices = [text for text, (key, _) in zip(overrides, pairs, strict=True) if key in GROUPS]
    chosen = to_dict(compose_config(choices, where=COMMAND_LINE))
    data |= {key: chosen[key] for key, _ in pairs if key in GROUPS}
    values = {key: value for key, value in pairs if key not in GROUPS}
    return with_values(parse_config(data, where=str(config_file)), values, where=COMMAND_LINE)
