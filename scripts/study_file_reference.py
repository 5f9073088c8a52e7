"""Writes docs/study_file.md from the schema: `python scripts/study_file_reference.py`."""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from headsweep.config.schema import (
    BUILT_IN_HEADS,
    ColumnsConfig,
    Config,
    DataConfig,
    FeaturesConfig,
    PathsConfig,
    Section,
    TrainingConfig,
)
from headsweep.search.samplers_and_pruners import PRUNERS, SAMPLERS
from headsweep.search.spec import DIMENSIONS, Finalists, Identity
from headsweep.search.study_file import searchable_keys

PAGE = Path(__file__).parents[1] / "docs" / "study_file.md"
HEADER = """\
# The study file

Written by `scripts/study_file_reference.py` from the schema that checks study files; a test holds
it up to date. A file is YAML 1.2: plain data, no aliases, no key twice. An unknown key is refused,
and the nearest known one is named. `headsweep studies` lists the files that come with headsweep,
`headsweep studies quickstart` prints one.

| section | holds |
| --- | --- |
| `study` | name, budget, seed; must be given |
| `base` | a list of overrides in Hydra's grammar: `head=mlp`, `training.max_epochs=60` |
| `space` | a config key → a dimension; must be given |
| `sampler` | `name` and Optuna's keyword arguments; `tpe` if left out |
| `pruner` | `name` and Optuna's keyword arguments; `none` if left out |
| `finalists` | how many of the best trials are confirmed, and with which seeds |

Overrides on the command line follow those of `base`; `study.`, `sampler.`, `pruner.` and
`finalists.` change the file's sections, as in `study.name=other`. A stored study keeps its
definition; only `study.n_trials` may grow.
"""
SPACE = """\
## `space`
A key is one of those that may be searched, below. With `when`, a dimension is suggested only for
trials in which every named key has one of the listed values:
```yaml
training.optimizer: {type: categorical, choices: [adamw, sgd]}
training.momentum: {type: float, low: 0.8, high: 0.99, when: {training.optimizer: [sgd]}}
```
"""


def page() -> str:
    """The whole page."""
    samplers, pruners = (", ".join(f"`{name}`" for name in names) for names in (SAMPLERS, PRUNERS))
    parts = [
        HEADER,
        _section("`study`", Identity, "study."),
        SPACE,
        *(_section(f"`type: {name}`", model, "", level=3) for name, model in DIMENSIONS.items()),
        f"## `sampler`\n{samplers}; keyword arguments are\n"
        "[Optuna's](https://optuna.readthedocs.io/en/stable/reference/samplers/index.html).\n"
        "`cmaes` takes `n_startup_trials`, `popsize`, `consider_pruned_trials` and `lr_adapt`.\n",
        f"## `pruner`\n{pruners};\nkeyword arguments are "
        "[Optuna's](https://optuna.readthedocs.io/en/stable/reference/pruners.html).\n",
        _section("`finalists`", Finalists, "finalists."),
        "## Config keys\nThe keys of `base`, of `space`, and of overrides on the command line.\n",
        *(
            _section(f"`head={kind}`", model, "head.", level=3, kind=kind)
            for kind, model in BUILT_IN_HEADS.items()
        ),
        _section("`features=visual|text|both`", FeaturesConfig, "features.", level=3),
        _section("`training`", TrainingConfig, "training.", level=3),
        _section("`data`", DataConfig, "data.", level=3),
        _section("`data.columns`", ColumnsConfig, "data.columns.", level=3),
        _section("`paths`", PathsConfig, "paths.", level=3),
    ]
    return "\n".join(parts)


def _section(
    title: str, model: type[Section], prefix: str, *, level: int = 2, kind: str = "linear"
) -> str:
    """A heading, what the section is, and a table with a row a key."""
    searched = searchable_keys(Config.model_validate({"head": {"kind": kind}}))
    searching = prefix in ("head.", "features.", "training.")
    lines = [f"{'#' * level} {title}", inspect.cleandoc(model.__doc__ or ""), ""]
    rows = list(_rows(model))
    if not rows:
        return "\n".join(lines)
    columns = ["key", "value", "default", *(["may be searched"] if searching else []), ""]
    lines += ["| " + " | ".join(columns) + " |", "| --- " * len(columns) + "|"]
    for name, law, default, said in rows:
        cells = [f"`{prefix}{name}`", law, default]
        if searching:
            cells.append("yes" if f"{prefix}{name}" in searched else "")
        lines.append("| " + " | ".join([*cells, said]).replace("|  |", "| |") + " |")
    return "\n".join(lines) + "\n"


def _rows(model: type[Section]) -> Iterator[tuple[str, str, str, str]]:
    """Key, law, default and what is said of it, of every leaf of a section."""
    schema = model.model_json_schema()
    said = _docstrings(model)
    for name, field in schema["properties"].items():
        if "$ref" in field or name in ("kind", "type", "when"):
            continue
        if name in schema.get("required", ()):
            default = "must be given"
        else:
            default = f"`{_yaml(field.get('default'))}`"
        yield name, _law(field), default, said.get(name, "")


def _law(field: Mapping[str, Any]) -> str:
    """What a value must be, in words."""
    if "anyOf" in field:
        options = field["anyOf"]
        kinds = {option["type"] for option in options}
        if {"array", "string"} <= kinds:  # a choice
            return "true, false, number, text, list of integers, or null"
        return " or ".join(_law(option) for option in options)
    if "enum" in field:
        return ", ".join(f"`{value}`" for value in field["enum"])
    if field["type"] == "array":
        return f"list of {_law(field['items'])}" + (", not empty" if "minItems" in field else "")
    bounds = {
        "exclusiveMinimum": "above {}",
        "minimum": "at least {}",
        "exclusiveMaximum": "below {}",
        "maximum": "at most {}",
        "maxLength": "at most {} characters",
        "pattern": "matching `{}`",
    }
    kind = {"string": "text", "boolean": "true or false"}.get(field["type"], field["type"])
    laws = [text.format(field[key]) for key, text in bounds.items() if key in field]
    return " ".join([kind, " and ".join(laws)]).strip()


def _yaml(value: Any) -> str:
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return f"[{', '.join(map(str, value))}]" if isinstance(value, list | tuple) else str(value)


def _docstrings(model: type[Section]) -> dict[str, str]:
    """The text below each attribute of a class, which Python itself does not keep."""
    (tree,) = ast.parse(textwrap.dedent(inspect.getsource(model))).body
    assert isinstance(tree, ast.ClassDef)
    found: dict[str, str] = {}
    for statement, after in zip(tree.body, tree.body[1:], strict=False):
        if (
            isinstance(statement, ast.AnnAssign)
            and isinstance(statement.target, ast.Name)
            and isinstance(after, ast.Expr)
            and isinstance(after.value, ast.Constant)
        ):
            found[statement.target.id] = " ".join(str(after.value.value).split())
    return found


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
