"""Faults of a config in one line."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import ValidationError

from headsweep.config.data_sections import InputConfig
from headsweep.config.head_section import HeadConfig, head_config_type
from headsweep.config.messages import unknown_key
from headsweep.config.section import Section


def explain(error: ValidationError, data: Mapping[str, Any]) -> str:
    """Return one line about the first fault of a pydantic error: key, rule, value."""
    faults = error.errors()
    # A misspelled key is also missing under its right name: the misspelled one says more.
    first = next((fault for fault in faults if fault["type"] == "extra_forbidden"), faults[0])
    keys = [str(part) for part in first["loc"]]
    path = ".".join(keys)
    if first["type"] == "extra_forbidden":
        known = _known_keys(error.title, keys[:-1], data)
        return f"{path}: {unknown_key(keys[-1], known)}"
    rule = first["msg"].removeprefix("Value error, ")
    found = "" if first["type"] in {"missing", "value_error"} else f", found {first['input']!r}"
    return f"{path}: {rule[:1].lower()}{rule[1:]}{found}" if path else f"{rule}{found}"


def _known_keys(title: str, sections: list[str], data: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the keys of the section in which an unknown key is, starting from model `title`."""
    if sections[:2] == ["data", "inputs"] and len(sections) == 3:
        return tuple(InputConfig.model_fields)
    model = next((m for m in _all_sections(Section) if m.__name__ == title), Section)
    for name in sections:
        if name not in model.model_fields:
            return ()
        annotation = model.model_fields[name].annotation
        if annotation is HeadConfig:
            annotation = head_config_type(data.get("head", {}).get("kind", "linear"))
        if not (isinstance(annotation, type) and issubclass(annotation, Section)):
            return ()
        model = annotation
    return tuple(model.model_fields)


def _all_sections(root: type[Section]) -> Iterator[type[Section]]:
    yield root
    for child in root.__subclasses__():
        yield from _all_sections(child)
