"""A YAML file as plain data: YAML 1.2 scalars, no aliases, no duplicate keys, bounded size.

Study files and exported configs may come from anyone, so what could take more time or memory than
a person would ever write is refused before it is built.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from headsweep.errors import ConfigError

MAX_BYTES = 200_000
MAX_NODES = 2_000
"""Most keys, values and lists of a file; an exported config has about a hundred."""
MAX_DEPTH = 20
MAX_DIGITS = 100

_INTEGER = re.compile(r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+")
_NUMBER = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_NOT_FINITE = re.compile(r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)")
_SCALARS = {  # YAML 1.2, section 10.3.2
    "tag:yaml.org,2002:null": (re.compile(r"~|null|Null|NULL|"), ["", *"~nN"]),
    "tag:yaml.org,2002:bool": (re.compile(r"true|True|TRUE|false|False|FALSE"), [*"tTfF"]),
    "tag:yaml.org,2002:int": (_INTEGER, [*"-+0123456789"]),
    "tag:yaml.org,2002:float": (
        re.compile(f"{_NUMBER.pattern}|{_NOT_FINITE.pattern}"),
        [*"-+.0123456789"],
    ),
}


class _PlainLoader(yaml.SafeLoader):
    """PyYAML's safe loader with the scalars of YAML 1.2, so that `1e-3` is a number."""

    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012

    nodes = 0
    depth = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        event = self.peek_event()  # type: ignore[no-untyped-call]
        self.nodes += 1
        self.depth += 1
        problem = None
        if getattr(event, "anchor", None) is not None:  # an alias names its anchor as well
            problem = "a YAML file must hold plain data, found an anchor or alias"
        elif getattr(event, "tag", None) is not None:  # what a value is follows from its text
            problem = f"a YAML file must hold plain data, found the tag {event.tag}"
        elif self.nodes > MAX_NODES:
            problem = f"a YAML file must hold at most {MAX_NODES} keys and values, found more"
        elif self.depth > MAX_DEPTH:
            problem = f"a YAML file must nest at most {MAX_DEPTH} levels, found more"
        if problem is not None:
            raise yaml.MarkedYAMLError(problem=problem, problem_mark=event.start_mark)
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node


def _integer(loader: _PlainLoader, node: yaml.ScalarNode) -> int:
    text = loader.construct_scalar(node)
    if len(text) > MAX_DIGITS:
        raise yaml.MarkedYAMLError(
            problem=f"a number must have at most {MAX_DIGITS} digits, found {len(text)}",
            problem_mark=node.start_mark,
        )
    return int(text, {"0o": 8, "0x": 16}.get(text[:2], 10))


def _number(loader: _PlainLoader, node: yaml.ScalarNode) -> float:
    # YAML writes `.inf` and `.nan`; the schema refuses them with the key that holds them.
    text = loader.construct_scalar(node)
    return float(text if _NUMBER.fullmatch(text) else text.replace(".", ""))


def _mapping(loader: _PlainLoader, node: yaml.MappingNode) -> dict[str, Any]:
    mapping: dict[str, Any] = {}
    for key_node, value_node in node.value:
        key = loader.construct_object(key_node, deep=True)
        if not isinstance(key, str) or key in mapping:
            problem = "keys must differ" if isinstance(key, str) else "keys must be text"
            raise yaml.MarkedYAMLError(
                problem=f"{problem}, found {key!r}", problem_mark=key_node.start_mark
            )
        mapping[key] = loader.construct_object(value_node, deep=True)
    return mapping


class _PlainDumper(yaml.SafeDumper):
    """PyYAML's safe dumper, which quotes text that YAML 1.1 or 1.2 would read as something else."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


for _tag, (_pattern, _first) in _SCALARS.items():
    for _kind in (_PlainLoader, _PlainDumper):
        _kind.add_implicit_resolver(_tag, re.compile(f"^(?:{_pattern.pattern})$"), _first)
_PlainLoader.add_constructor("tag:yaml.org,2002:int", _integer)
_PlainLoader.add_constructor("tag:yaml.org,2002:float", _number)
_PlainLoader.add_constructor("tag:yaml.org,2002:map", _mapping)


def read_document(path: Path) -> dict[str, Any]:
    """Read the mapping that a YAML file holds.

    Returns:
        The mapping, of plain data.

    Raises:
        ConfigError: the file cannot be read, is larger than `MAX_BYTES`, `MAX_NODES` or
            `MAX_DEPTH`, or is not one mapping of plain data with distinct keys; the line is named.
    """
    try:
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
        if len(content) > MAX_BYTES:
            raise ConfigError(f"{path}: a YAML file must be at most {MAX_BYTES} bytes, found more")
        document = yaml.load(content.decode(), Loader=_PlainLoader)  # noqa: S506 (a SafeLoader)
    except OSError as error:
        raise ConfigError(f"{path}: cannot read the file: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ConfigError(f"{path}: a YAML file must be UTF-8 text, found other bytes") from None
    except yaml.YAMLError as error:
        raise ConfigError(_explain(path, error)) from None
    if not isinstance(document, dict):
        raise ConfigError(f"{path}: a YAML file must be a mapping, found {type(document).__name__}")
    return document


def parse_value(text: str, *, where: str) -> Any:
    """Return the plain value that a YAML text holds.

    Raises:
        ConfigError: the text is not YAML, or too large.
    """
    if len(text) > MAX_BYTES:
        raise ConfigError(f"{where[:40]}…: a value must have at most {MAX_BYTES} characters")
    try:
        return yaml.load(text, Loader=_PlainLoader)  # noqa: S506 (a SafeLoader)
    except yaml.YAMLError as error:
        reason = getattr(error, "problem", None) or str(error)
        raise ConfigError(
            f"{where}: a value must be YAML: {' '.join(str(reason).split())}"
        ) from None


def to_yaml(plain: Mapping[str, Any]) -> str:
    """Return plain data as a YAML text that `read_document` reads as the same data."""
    text: str = yaml.dump(plain, Dumper=_PlainDumper, sort_keys=False, allow_unicode=True)
    return text


def _explain(path: Path, error: yaml.YAMLError) -> str:
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark is not None:
        return f"{path}:{error.problem_mark.line + 1}: {error.problem}"
    return f"{path}: a YAML file must be YAML, found {' '.join(str(error).split())}"
