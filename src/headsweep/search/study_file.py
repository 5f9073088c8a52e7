"""The study file: a YAML file and overrides → a checked `StudySpec`."""

from __future__ import annotations

import copy
import json
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError

from headsweep.config.explain import explain
from headsweep.config.inputs import INPUT, joined_input
from headsweep.config.messages import unknown_key
from headsweep.config.overrides import (
    compose_config,
    override_value,
    refuse_escapes,
    refuse_escaping_value,
)
from headsweep.config.schema import Config
from headsweep.config.section import Section
from headsweep.config.values import leaf_paths, with_values
from headsweep.config.yaml_files import read_document
from headsweep.errors import ConfigError, HeadsweepWarning, StudyError
from headsweep.search.enqueued import complete_params
from headsweep.search.objective import Objective, impossible_bound
from headsweep.search.remarks import remarks
from headsweep.search.samplers_and_pruners import resolve_pruner, resolve_sampler
from headsweep.search.space import suggestion_order
from headsweep.search.spec import (
    DIMENSIONS,
    Choice,
    Dimension,
    Finalists,
    Identity,
    Policy,
    StudySpec,
)

__all__ = ["StudySpec", "load_study_file", "searchable_keys", "study_from_dict"]

SECTIONS = ("study", "base", "space", "sampler", "pruner", "objective", "finalists")
SEARCHED_SECTIONS = ("head", "features", "training")
FIXED_KEYS = (
    *("head.kind", "training.metric", "training.folds", "training.seed", "training.tape_position"),
    "training.target_labels",
)
OTHER_NAMES = {"head.momentum": "training.momentum"}


def load_study_file(
    path: Path, overrides: Sequence[str], *, fixed: Mapping[str, Any] | None = None
) -> StudySpec:
    """Read a study file with `key=value` overrides.

    Overrides of `study.`, `sampler.`, `pruner.`, `objective.` and `finalists.` replace values of
    the file; all others are appended to those of `base`.

    Args:
        path: the file.
        overrides: `key=value` texts.
        fixed: config values that hold whatever the file says: those of a data set at hand.

    Returns:
        The checked spec.

    Raises:
        StudyError: the file does not match its schema; the message names file and key.
        ConfigError: the file is not plain YAML, or a base value or a bound is not valid.
    """
    document = read_document(path)
    base_overrides = [text for text in overrides if not _override_file(document, text)]
    return _spec_from_document(document, base_overrides, fixed, where=str(path))


def study_from_dict(
    document: Mapping[str, Any],
    overrides: Sequence[str] = (),
    *,
    fixed: Mapping[str, Any] | None = None,
) -> StudySpec:
    """Build the spec of a study whose sections are given as a dict, as in a study file.

    Args:
        document: the sections `study`, `space`, and optionally the others.
        overrides: `key=value` texts, as in `load_study_file`.
        fixed: as in `load_study_file`.

    Returns:
        The checked spec.

    Raises:
        StudyError: the document does not match the schema of a study file.
        ConfigError: a base value or a bound violates a constraint of the config.
    """
    own = copy.deepcopy(dict(document))
    base_overrides = [text for text in overrides if not _override_file(own, text)]
    return _spec_from_document(own, base_overrides, fixed, where="study")


def _override_file(document: dict[str, Any], text: str) -> bool:
    """Apply an override to the document, if it belongs to the study file.

    Returns:
        Whether it was applied; otherwise it is an override of the base config.

    Raises:
        StudyError: the override names a key below a plain value.
    """
    section, _, rest = text.partition("=")[0].partition(".")
    if section not in ("study", "sampler", "pruner", "objective", "finalists") or not rest:
        return False
    _, value = override_value(text, where="command line")
    *parents, leaf = rest.split(".")
    node = document.setdefault(section, {})
    for name in parents:
        node = node.setdefault(name, {}) if isinstance(node, dict) else None
    if not isinstance(node, dict):
        raise StudyError(
            f"command line: {section}.{rest}: its parent is a value, not a section: {node!r}"
        )
    node[leaf] = value
    return True


def _spec_from_document(
    document: Mapping[str, Any],
    overrides: Sequence[str],
    fixed: Mapping[str, Any] | None,
    *,
    where: str,
) -> StudySpec:
    for key in document:
        if key not in SECTIONS:
            raise StudyError(f"{where}:{key}: {unknown_key(key, SECTIONS)}")
    for key in ("study", "space"):
        if key not in document:
            raise StudyError(f"{where}: missing section {key!r}")
    identity = _section(Identity, _enqueue_joined(document["study"]), where=f"{where}:study")
    base, given = _base(document.get("base", []), where=f"{where}:base")
    config = compose_config([*base, *overrides], where=f"{where}:base", given=given, fixed=fixed)
    objective = _section(Objective, document.get("objective", {}), where=f"{where}:objective")
    if config.training.folds is not None:
        raise StudyError(
            f"{where}:base: training.folds is for single runs; in a study write objective.folds"
        )
    config = _with_metric(config, objective, where=f"{where}:objective")
    space = _space(document["space"], config, where=f"{where}:space")
    _refuse_overridden_space(space, overrides)
    spec = StudySpec(
        name=identity.name,
        n_trials=identity.n_trials,
        seed=identity.seed,
        config=config,
        space=space,
        sampler=_policy(document.get("sampler", {"name": "tpe"}), where=f"{where}:sampler"),
        pruner=_policy(document.get("pruner", {"name": "none"}), where=f"{where}:pruner"),
        finalists=_section(Finalists, document.get("finalists", {}), where=f"{where}:finalists"),
        patience=identity.patience,
        objective=objective.model_copy(update={"metric": None}),  # the config has it
    )
    if "zero_shot" in spec.references and config.data.zero_shot is None:
        raise StudyError(
            f"{where}:finalists.references: zero_shot needs a file of prompt embeddings; "
            "name it in data.zero_shot"
        )
    enqueued = tuple(
        complete_params(params, spec, where=f"{where}:study.enqueue[{i}]")
        for i, params in enumerate(identity.enqueue)
    )
    spec = spec.model_copy(
        update={
            "sampler": resolve_sampler(spec, where=f"{where}:sampler"),
            "pruner": resolve_pruner(spec, where=f"{where}:pruner"),
            "enqueue": enqueued,
        }
    )
    for remark in remarks(spec):
        warnings.warn(f"{where}:{remark}", HeadsweepWarning, stacklevel=3)
    return spec


def _with_metric(config: Config, objective: Objective, *, where: str) -> Config:
    """Return the base config with the objective's metric, which exported configs then have too.

    Raises:
        StudyError: the base names another metric, the head has no such metric, or no trial can
            meet the constraint.
    """
    present, chosen = config.training.metric, objective.metric or config.training.metric
    if present not in (chosen, "auprc_macro"):
        raise StudyError(
            f"{where}.metric: is {chosen}, but the base has training.metric={present}; "
            "remove one of them"
        )
    if (problem := impossible_bound(objective.constraint)) is not None:
        raise StudyError(f"{where}.constraint.{problem}")
    named = {"metric": chosen} | {f"constraint.{name}": name for name in objective.constraint}
    for key, name in named.items():
        if name == "recall_at_10" and config.head.kind != "retrieval":
            raise StudyError(
                f"{where}.{key}: recall_at_10 needs head=retrieval, "
                f"found a head of kind {config.head.kind}"
            )
    return with_values(config, {"training.metric": chosen}, where=f"{where}.metric")


def _base(base: Any, *, where: str) -> tuple[list[str], dict[str, Any]]:
    """Return the `key=value` texts of the base, and the values of its `key: value` entries.

    Raises:
        StudyError: an entry is neither.
    """
    if not isinstance(base, list) or not all(isinstance(entry, str | dict) for entry in base):
        raise StudyError(f"{where}: must be a list of key=value texts, found {base!r}")
    texts = [entry for entry in base if isinstance(entry, str)]
    refuse_escapes(texts, where=where)
    given: dict[str, Any] = {}
    for entry in base:
        for key, value in entry.items() if isinstance(entry, dict) else ():
            refuse_escaping_value(key, value, where=where)
            given[key] = value
    return texts, given


def _space(space: Any, config: Config, *, where: str) -> dict[str, Dimension]:
    if not isinstance(space, dict) or not space:
        raise StudyError(f"{where}: must map config keys to dimensions, found {space!r}")
    known = searchable_keys(config)
    dimensions: dict[str, Dimension] = {}
    for written, plain in space.items():
        key = OTHER_NAMES.get(written, written)
        here = f"{where}.{written}"
        if key in FIXED_KEYS:
            raise StudyError(f"{here}: this key cannot be searched")
        if key not in known:
            raise StudyError(f"{here}: {unknown_key(written, known)}")
        if key in dimensions:
            raise StudyError(f"{here}: {key} is searched twice")
        dimensions[key] = _dimension(key, plain, where=here)
        for name, value in dimensions[key].extremes.items():
            with_values(config, {key: _as_list(value)}, where=f"{here}.{name}")
    _check_conditions(dimensions, config, where=where)
    suggestion_order(dimensions, where=where)
    return dimensions


def searchable_keys(config: Config) -> tuple[str, ...]:
    """Return the config keys that a study over this head may search."""
    return tuple(
        path
        for path in leaf_paths(config)
        if path.startswith(tuple(f"{section}." for section in SEARCHED_SECTIONS))
        and path not in FIXED_KEYS
        and not path.startswith("training.resume.")
    )


def _dimension(key: str, plain: Any, *, where: str) -> Dimension:
    kind = plain.get("type") if isinstance(plain, dict) else None
    if not isinstance(kind, str) or kind not in DIMENSIONS:
        raise StudyError(f"{where}.type: must be one of {', '.join(DIMENSIONS)}, found {kind!r}")
    when = plain.get("when", {})
    if isinstance(when, dict):
        named = {OTHER_NAMES.get(other, other): values for other, values in when.items()}
        when = {other: _joined(other, values) for other, values in named.items()}
        plain = {**plain, "when": when}
    if "choices" in plain:
        plain = {**plain, "choices": _joined(key, plain["choices"])}
    return _section(DIMENSIONS[kind], plain, where=where)


def _enqueue_joined(study: Any) -> Any:
    """Return the section `study` with lists of inputs among the enqueued params as texts."""
    if not isinstance(study, dict) or not isinstance(study.get("enqueue"), list):
        return study
    enqueue = [
        {**params, INPUT: joined_input(params[INPUT])}
        if isinstance(params, dict) and INPUT in params
        else params
        for params in study["enqueue"]
    ]
    return {**study, "enqueue": enqueue}


def _joined(key: str | None, values: Any) -> Any:
    """Return choices of inputs with lists of names as texts, as they are stored."""
    if key != INPUT or not isinstance(values, list):
        return values
    return [joined_input(value) for value in values]


def _check_conditions(space: Mapping[str, Dimension], config: Config, *, where: str) -> None:
    for key, dimension in space.items():
        for other, values in dimension.when.items():
            here = f"{where}.{key}.when.{other}"
            if other not in leaf_paths(config):
                raise StudyError(f"{here}: {unknown_key(other, leaf_paths(config))}")
            for value in values:
                with_values(config, {other: _as_list(value)}, where=here)


def _policy(plain: Any, *, where: str) -> Policy:
    if not isinstance(plain, dict) or not isinstance(plain.get("name"), str):
        raise StudyError(f"{where}: must have a name, found {plain!r}")
    return Policy(name=plain["name"], kwargs={k: v for k, v in plain.items() if k != "name"})


S = TypeVar("S", bound=Section)


def _section(section: type[S], plain: Any, *, where: str) -> S:
    if not isinstance(plain, dict):
        raise StudyError(f"{where}: must map keys to values, found {plain!r}")
    for key in plain:
        if key not in section.model_fields:
            raise StudyError(f"{where}.{key}: {unknown_key(key, tuple(section.model_fields))}")
    try:
        return section.model_validate_json(json.dumps(plain))
    except ValidationError as error:
        fault = explain(error, plain)
    except (TypeError, ValueError) as error:
        fault = f"must be plain data, found {error}"
    # A fault of the section as a whole does not begin with a key.
    named = fault.partition(":")[0].split(".")[0] in section.model_fields
    raise StudyError(f"{where}{'.' if named else ': '}{fault}")


def _refuse_overridden_space(space: Mapping[str, Dimension], overrides: Sequence[str]) -> None:
    for text in overrides:
        key = text.partition("=")[0]
        if key in space:
            raise ConfigError(f"command line: {text!r} sets {key}, which the study searches")


def _as_list(value: Choice) -> Any:
    return list(value) if isinstance(value, tuple) else value
