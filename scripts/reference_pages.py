"""Write the generated pages of the documentation: commands, study file, config keys, Python API.

`docs/conf.py` calls `write_pages` before Sphinx reads the sources, so the pages always describe the
code that they are built from: click's commands, pydantic's schema, and `headsweep.__all__`.
"""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import click

import headsweep
from headsweep.cli.root import root
from headsweep.config.data_sections import ColumnsConfig, DataConfig, FeaturesConfig
from headsweep.config.head_section import BUILT_IN_HEADS
from headsweep.config.schema import Config, LoggingConfig, PathsConfig
from headsweep.config.section import Section
from headsweep.config.training_section import ResumeConfig, TrainingConfig
from headsweep.search.objective import Objective
from headsweep.search.samplers_and_pruners import PRUNERS, SAMPLERS
from headsweep.search.spec import DIMENSIONS, Finalists, Identity
from headsweep.search.study_file import searchable_keys

STUDY_FILE = """\
# The study file

A study file is a YAML 1.2 file: plain data, no tags, no aliases, no repeated key. An unknown key
is refused, and the error names the nearest known one. `headsweep studies` lists the files that
come with headsweep; `headsweep studies quickstart` prints one.

| section | contents |
| --- | --- |
| `study` | name, number of trials, seed; required |
| `base` | a list of overrides in Hydra's grammar, such as `head=mlp`, and `key: value` mappings |
| `space` | for each searched config key its type and range; required |
| `sampler` | `name` and keyword arguments; the default is `tpe` |
| `pruner` | `name` and keyword arguments; the default is `none` |
| `objective` | metric, constraint and folds; the default is `auprc_macro` on valid |
| `finalists` | how many of the best trials are confirmed, and with which seeds |

Overrides on the command line are applied after those of `base`. Overrides that begin with
`study.`, `sampler.`, `pruner.`, `objective.` or `finalists.` change that section of the file:
`study.name=other`. The definition of a stored study cannot change, except that `study.n_trials`
may grow, `study.patience` may be another, and `study.enqueue` may get further entries.
"""
SPACE = """\
## `space`

Each key is a config key that may be searched (see [](config.md)). With `when`, a key is searched
only in trials in which every named key has one of the listed values:

```yaml
training.optimizer: {type: categorical, choices: [adamw, sgd]}
training.momentum: {type: float, low: 0.8, high: 0.99, when: {training.optimizer: [sgd]}}
```
"""
SAMPLER = """\
## `sampler`

{names}. Except for `tpe` and `cmaes`, these are Optuna's samplers, and the other keys of the
section are [their keyword
arguments](https://optuna.readthedocs.io/en/stable/reference/samplers/index.html).

**`tpe` is not Optuna's `TPESampler`.** It is a variant of the same method that suggests values
for many trials at once, from one fit of the density estimators; the trials of one batch are kept
apart, and running trials count as bad ones. It takes `n_startup_trials`, `n_ei_candidates`,
`multivariate`, `group`, `constant_liar` and `n_shared`; with any other argument of Optuna's
`TPESampler`, Optuna's own sampler is used. Its suggestions differ from those of Optuna for the same
seed. See [](../../benchmarks/search.md) for a comparison of all samplers on eight objectives, and
[](../../how_to/objective_and_sampler.md) for which to choose.

`n_shared` is the number of consecutive suggestions with the same `training.batch_size`, because
trials of one batch size share a training step. The default is a fifth of the trials that run at
once; 1 turns it off. The values of the other keys follow their distribution given that batch size.

A worker runs at most a tenth of `study.n_trials` at once with `tpe`, `gp` and `cmaes`, a quarter if
`tpe` searches linear heads, but at least 4, so that the sampler can learn from finished trials.
With other samplers it fills all of its slots. `--slots` lowers the number further.

`cmaes` computes what Optuna's `CmaEsSampler` computes, but stores no pickled optimizer in the
database: its state is computed again from the finished trials. It takes `n_startup_trials`,
`popsize`, `consider_pruned_trials` and `lr_adapt`, and needs `pip install "headsweep[cmaes]"`.
"""
PRUNER = """\
## `pruner`

{names}. These are Optuna's pruners, and the other keys of the section are
[their keyword arguments](https://optuna.readthedocs.io/en/stable/reference/pruners.html). A trial
reports the objective's metric on valid once an epoch; a step of the pruner is an epoch.
"""
CONFIG = """\
# Config keys

These keys can be set in the `base` of a study file and by `key=value` on the command line. Those
marked "yes" can also be keys of a study's `space`.
"""
COMMANDS = """\
# Command line

Options and `key=value` overrides may be mixed in any order. Overrides follow
[Hydra's grammar](https://hydra.cc/docs/advanced/override_grammar/basic/).

| exit code | meaning |
| --- | --- |
| 0 | done |
| 1 | the work started and failed, or a leaderboard does not verify |
| 2 | bad input: the error is one line, and nothing was written |
| 130 | interrupted |
"""
API = """\
# Python API

`import headsweep as hs` loads neither PyTorch nor Optuna; each name is loaded when it is first
used.
"""


def write_pages(folder: Path) -> None:
    """Write all generated pages into a folder, leaving unchanged files untouched.

    Args:
        folder: Where the pages go; it is created if missing.
    """
    folder.mkdir(parents=True, exist_ok=True)
    pages = {
        "command_line.md": command_line_page(),
        "study_file.md": study_file_page(),
        "config.md": config_page(),
        "python_api.md": api_page(),
    }
    for name, text in pages.items():
        file = folder / name
        if not file.exists() or file.read_text(encoding="utf-8") != text:
            file.write_text(text, encoding="utf-8")


def command_line_page() -> str:
    """Return the page of all commands, with their help texts and options."""
    parts = [COMMANDS]
    for path, command in _commands(root, ("headsweep",)):
        context = click.Context(command, info_name=" ".join(path))
        usage = command.get_usage(context).removeprefix("Usage: ")
        parts.append(f"{'#' * len(path)} `{' '.join(path)}`")
        parts.append(f"```\n{' '.join(usage.split())}\n```")
        parts.append(inspect.cleandoc(command.help or ""))
        options = [option for option in command.params if isinstance(option, click.Option)]
        rows = [_option_row(option, context) for option in options if option.name != "debug"]
        if rows:
            parts.append("\n".join(["| option | meaning |", "| --- | --- |", *rows]))
    return "\n\n".join(parts) + "\n"


def _commands(
    command: click.Command, path: tuple[str, ...]
) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    """Yield every command below a group with its words, groups before their commands."""
    if not isinstance(command, click.Group):
        return
    for name in command.list_commands(click.Context(command)):
        child = command.commands[name]
        yield (*path, name), child
        yield from _commands(child, (*path, name))


def _option_row(option: click.Option, context: click.Context) -> str:
    names, text = option.get_help_record(context) or (option.opts[0], "")
    return f"| `{_cell(names)}` | {_cell(' '.join(text.split()))} |"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;")


def study_file_page() -> str:
    """Return the page of all sections and keys of a study file."""
    samplers, pruners = (", ".join(f"`{name}`" for name in names) for names in (SAMPLERS, PRUNERS))
    return "\n".join(
        [
            STUDY_FILE,
            _section("`study`", Identity, "study."),
            SPACE,
            *(
                _section(f"`type: {name}`", model, "", level=3)
                for name, model in DIMENSIONS.items()
            ),
            SAMPLER.format(names=samplers),
            PRUNER.format(names=pruners),
            _section("`objective`", Objective, "objective."),
            _section("`finalists`", Finalists, "finalists."),
        ]
    )


def config_page() -> str:
    """Return the page of all config keys with their types, defaults and descriptions."""
    heads = (
        _section(f"`head={kind}`", model, "head.", kind=kind)
        for kind, model in BUILT_IN_HEADS.items()
    )
    return "\n".join(
        [CONFIG, *heads, *(_section(t, model, prefix) for t, model, prefix in CONFIG_SECTIONS)]
    )


CONFIG_SECTIONS: tuple[tuple[str, type[Section], str], ...] = (
    ("`features=visual|text|both`", FeaturesConfig, "features."),
    ("`training`", TrainingConfig, "training."),
    ("`training.resume`", ResumeConfig, "training.resume."),
    ("`data`", DataConfig, "data."),
    ("`data.columns`", ColumnsConfig, "data.columns."),
    ("`paths`", PathsConfig, "paths."),
    ("`logging=none|tensorboard|wandb`", LoggingConfig, "logging."),
)


def api_page() -> str:
    """Return the page of everything that `headsweep` exports, filled in by Sphinx's autodoc."""
    parts = [API]
    for name in getattr(headsweep, "__all__", ()):
        value = getattr(headsweep, name)
        if inspect.isclass(value):
            options = "   :members:\n   :show-inheritance:\n"
            directive = "autoexception" if issubclass(value, Exception) else "autoclass"
        elif callable(value):
            options, directive = "", "autofunction"
        else:
            continue
        target = f"{value.__module__}.{value.__qualname__}"
        parts.append(f"```{{eval-rst}}\n.. {directive}:: {target}\n{options}```\n")
    return "\n".join(parts)


def undescribed_keys() -> list[str]:
    """Return the config keys that have no description."""
    sections = [*((model, "head.") for model in BUILT_IN_HEADS.values())]
    sections += [(model, prefix) for _, model, prefix in CONFIG_SECTIONS]
    return [
        f"{prefix}{name}"
        for model, prefix in sections
        for name, _, _, description in _rows(model)
        if not description
    ]


def _section(
    title: str, model: type[Section], prefix: str, *, level: int = 2, kind: str = "linear"
) -> str:
    """Return a heading, the docstring of a section, and a table with one row per key."""
    searched = searchable_keys(Config.model_validate({"head": {"kind": kind}}))
    searching = prefix in ("head.", "features.", "training.")
    lines = [f"{'#' * level} {title}", "", inspect.cleandoc(model.__doc__ or ""), ""]
    rows = list(_rows(model))
    if not rows:
        return "\n".join(lines)
    columns = ["key", "value", "default", *(["may be searched"] if searching else [])]
    columns.append("description")
    lines += ["| " + " | ".join(columns) + " |", "| --- " * len(columns) + "|"]
    for name, values, default, description in rows:
        cells = [f"`{prefix}{name}`", values, default]
        if searching:
            cells.append("yes" if f"{prefix}{name}" in searched else "")
        lines.append("| " + " | ".join([*cells, _cell(description)]).replace("|  |", "| |") + " |")
    return "\n".join(lines) + "\n"


def _rows(model: type[Section]) -> Iterator[tuple[str, str, str, str]]:
    """Yield name, allowed values, default and description of every leaf of a section."""
    schema = model.model_json_schema()
    docstrings = _docstrings(model)
    for name, field in schema["properties"].items():
        if "$ref" in field or name in ("kind", "type", "when"):
            continue
        if name in schema.get("required", ()):
            default = "required"
        else:
            default = f"`{_yaml(field.get('default'))}`"
        description = docstrings.get(name) or " ".join(field.get("description", "").split())
        yield name, _allowed(field), default, description


def _allowed(field: Mapping[str, Any]) -> str:
    """Return the allowed values of a field in words."""
    if "anyOf" in field:
        options = field["anyOf"]
        kinds = {option.get("type", "section") for option in options}
        if {"array", "string"} <= kinds:  # a choice
            return "true, false, number, text, list of numbers, or null"
        return " or ".join(_allowed(option) for option in options)
    if "$ref" in field:  # a section as one value
        return "mapping"
    if "enum" in field:
        return ", ".join(f"`{value}`" for value in field["enum"])
    if "prefixItems" in field:
        return f"list of {len(field['prefixItems'])}: {_allowed(field['prefixItems'][0])} each"
    if field["type"] == "object":
        values = field.get("additionalProperties", {})
        return "mapping" if "$ref" in values else f"mapping of names to {_allowed(values)}"
    if field["type"] == "array":
        items = f"list of {_allowed(field['items'])}"
        return items + (", not empty" if "minItems" in field else "")
    bounds = {
        "exclusiveMinimum": "above {}",
        "minimum": "at least {}",
        "exclusiveMaximum": "below {}",
        "maximum": "at most {}",
        "maxLength": "at most {} characters",
        "pattern": "matching `{}`",
    }
    kind = {"string": "text", "boolean": "true or false"}.get(field["type"], field["type"])
    limits = [text.format(field[key]) for key, text in bounds.items() if key in field]
    return " ".join([kind, " and ".join(limits)]).strip()


def _yaml(value: Any) -> str:
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return f"[{', '.join(map(str, value))}]" if isinstance(value, list | tuple) else str(value)


def _docstrings(model: type[Section]) -> dict[str, str]:
    """Return the strings below the attributes of a class, inherited ones included."""
    texts: dict[str, str] = {}
    for owner in reversed(model.__mro__):
        if not issubclass(owner, Section) or owner is Section:
            continue
        (tree,) = ast.parse(textwrap.dedent(inspect.getsource(owner))).body
        assert isinstance(tree, ast.ClassDef)
        for statement, after in zip(tree.body, tree.body[1:], strict=False):
            if (
                isinstance(statement, ast.AnnAssign)
                and isinstance(statement.target, ast.Name)
                and isinstance(after, ast.Expr)
                and isinstance(after.value, ast.Constant)
            ):
                texts[statement.target.id] = " ".join(str(after.value.value).split())
    return texts
