"""Configs from plain data, and their leaves by dotted path."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any

from pydantic import ValidationError

from headsweep.config.explain import explain
from headsweep.config.fingerprints import HEADS_WITH_INIT, without_added_defaults
from headsweep.config.messages import unknown_key
from headsweep.config.schema import Config, all_values
from headsweep.config.yaml_files import parse_value
from headsweep.errors import ConfigError
from headsweep.json_text import parse_json


def parse_config(data: Mapping[str, Any], *, where: str) -> Config:
    """Parse the config held by plain data.

    Args:
        data: nested sections, as read from YAML.
        where: file or command the data came from, for the error.

    Returns:
        The config.

    Raises:
        ConfigError: one line about the first key or value that is not allowed.
    """
    try:
        return Config.model_validate_json(json.dumps(dict(data)))
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from None
    except ValidationError as error:
        raise ConfigError(f"{where}: {explain(error, data)}") from None
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{where}: a config must be plain data, found {error}") from None


def with_values(config: Config, values: Mapping[str, Any], *, where: str) -> Config:
    """Set the leaves that dotted paths name.

    A string where a list is expected is read as JSON, since Optuna stores only scalars.

    Returns:
        A copy of `config` with these values.

    Raises:
        ConfigError: an unknown path, or a value that is not allowed.
    """
    data = all_values(config)
    if "head.kind" in values and config.head.kind in HEADS_WITH_INIT:
        data["head"] = without_added_defaults(data)["head"]  # other kinds have no `init`
        if "head.init" in values:
            data["head"]["init"] = "default"
    for path, value in values.items():
        *sections, leaf = path.split(".")
        node: Any = data
        for name in sections:
            node = node.get(name) if isinstance(node, dict) else None
        if not isinstance(node, dict) or leaf not in node:
            raise ConfigError(f"{where}:{path}: {unknown_key(path, leaf_paths(config))}")
        node[leaf] = value if isinstance(node[leaf], str) else _listed(value)
    return parse_config(data, where=where)


def _listed(value: Any) -> Any:
    """Return the list that a JSON text holds; any other value, and other text, as it is."""
    if isinstance(value, str) and value[:1] == "[":
        with suppress(ValueError):
            return parse_json(value)
    return value


def leaf_paths(config: Config) -> tuple[str, ...]:
    """Return the dotted paths of all leaves of `config`."""

    def walk(node: Mapping[str, Any], prefix: str) -> Iterator[str]:
        for key, value in node.items():
            if isinstance(value, dict):
                yield from walk(value, f"{prefix}{key}.")
            else:
                yield f"{prefix}{key}"

    return tuple(walk(all_values(config), ""))


def value_at(config: Config, path: str) -> Any:
    """Return the plain value of the leaf at a dotted path; `KeyError` when there is none."""
    node: Any = all_values(config)
    for name in path.split("."):
        node = node[name]
    return node


def values_of(overrides: Sequence[str]) -> dict[str, Any]:
    """Read `key=value` texts whose values are YAML, without Hydra's grammar.

    Returns:
        The plain value of every key.

    Raises:
        ConfigError: a text has no `=`, or its value is not YAML.
    """
    listed = [overrides] if isinstance(overrides, str) else list(overrides)
    if listed and (isinstance(overrides, str) or not all(isinstance(x, str) for x in listed)):
        raise ConfigError(f"overrides must be a list of key=value texts, found {overrides!r}")
    values = {}
    for text in listed:
        key, equals, value = text.partition("=")
        if not equals:
            raise ConfigError(f"an override must read key=value, found {text!r}")
        values[key] = parse_value(value, where=text)
    return values


ABSENT = "absent"
"""Stands for a key that one of two compared mappings lacks."""


def differences(found: Any, expected: Any, path: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Compare nested plain data; NaN equals NaN.

    Args:
        found: mappings and lists of any depth, or a leaf.
        expected: what `found` is compared with.
        path: dotted path of both, for the paths below it.

    Yields:
        For every leaf that differs, by order of the keys: its dotted path, its value in `found`
        and its value in `expected`; a key that one lacks has the value `ABSENT` there.
    """
    prefix = f"{path}." if path else ""
    if isinstance(found, Mapping) and isinstance(expected, Mapping):
        for key in sorted({*found, *expected}):
            pair = found.get(key, ABSENT), expected.get(key, ABSENT)
            yield from differences(*pair, f"{prefix}{key}")
    elif isinstance(found, list) and isinstance(expected, list) and len(found) == len(expected):
        for index, pair in enumerate(zip(found, expected, strict=True)):
            yield from differences(*pair, f"{prefix}{index}")
    elif found != expected and not (_is_nan(found) and _is_nan(expected)):
        yield path, found, expected


def _is_nan(value: Any) -> bool:
    return isinstance(value, float) and math.isnan(value)
