"""A YAML file as plain data: YAML 1.2 scalars, no aliases, no duplicate keys, bounded size."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

from headsweep.errors import StudyError

MAX_BYTES = 1_000_000

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

    def compose_node(self, parent: Any, index: Any) -> Any:
        event = self.peek_event()  # type: ignore[no-untyped-call]
        if getattr(event, "anchor", None) is not None:  # an alias names its anchor as well
            raise yaml.MarkedYAMLError(
                problem="a study file must hold plain data, found an anchor or alias",
                problem_mark=event.start_mark,
            )
        return super().compose_node(parent, index)


def _integer(loader: _PlainLoader, node: yaml.ScalarNode) -> int:
    text = loader.construct_scalar(node)
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
            law = "keys must differ" if isinstance(key, str) else "keys must be text"
            raise yaml.MarkedYAMLError(
                problem=f"{law}, found {key!r}", problem_mark=key_node.start_mark
            )
        mapping[key] = loader.construct_object(value_node, deep=True)
    return mapping


for _tag, (_pattern, _first) in _SCALARS.items():
    _PlainLoader.add_implicit_resolver(_tag, re.compile(f"^(?:{_pattern.pattern})$"), _first)
_PlainLoader.add_constructor("tag:yaml.org,2002:int", _integer)
_PlainLoader.add_constructor("tag:yaml.org,2002:float", _number)
_PlainLoader.add_constructor("tag:yaml.org,2002:map", _mapping)


def read_document(path: Path) -> dict[str, Any]:
    """The mapping that a YAML file holds.

    Raises:
        StudyError: the file cannot be read, is larger than 1 MB, or is not one mapping of plain
            data with distinct keys; the line is named.
    """
    try:
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
        if len(content) > MAX_BYTES:
            raise StudyError(f"{path}: a study file must be at most {MAX_BYTES} bytes, found more")
        document = yaml.load(content.decode(), Loader=_PlainLoader)  # noqa: S506 (a SafeLoader)
    except OSError as error:
        raise StudyError(f"{path}: a study file must be readable, found {error.strerror}") from None
    except UnicodeDecodeError:
        raise StudyError(f"{path}: a study file must be UTF-8 text, found other bytes") from None
    except RecursionError:
        raise StudyError(f"{path}: a study file must nest a few levels, found too many") from None
    except yaml.YAMLError as error:
        raise StudyError(_explain(path, error)) from None
    if not isinstance(document, dict):
        raise StudyError(f"{path}: a study file must be a mapping, found {type(document).__name__}")
    return document


def _explain(path: Path, error: yaml.YAMLError) -> str:
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark is not None:
        return f"{path}:{error.problem_mark.line + 1}: {error.problem}"
    return f"{path}: a study file must be YAML, found {' '.join(str(error).split())}"
