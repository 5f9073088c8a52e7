"""Study files: valid ones, and the error messages for bad ones."""

import copy
import json
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from optuna.distributions import CategoricalDistribution

from headsweep.config.schema import Config
from headsweep.config.values import with_values
from headsweep.config.yaml_files import read_document
from headsweep.errors import ConfigError, InputError, StudyError
from headsweep.search.space import distribution, is_active
from headsweep.search.spec import (
    CategoricalDimension,
    FloatDimension,
    difference,
    spec_from_json,
    spec_to_json,
)
from headsweep.search.study_file import load_study_file
from tests.helpers.study_specs import DOCUMENT, make_spec, write_study

DESIGN_EXAMPLE = """
study: {name: mlp-visual, n_trials: 200, seed: 42}
base: [head=mlp, features=visual]            # config-group choices and overrides
space:
  training.learning_rate: {type: float, low: 1.0e-5, high: 5.0e-3, log: true}
  training.batch_size:    {type: categorical, choices: [64, 256, 1024]}
  head.depth:             {type: int, low: 1, high: 3}
  head.momentum:          {type: float, low: 0.8, high: 0.99, when: {training.optimizer: [sgd]}}
sampler: {name: tpe, multivariate: true}     # Optuna's names and keyword arguments
pruner:  {name: successive_halving, min_resource: 1, reduction_factor: 3}
finalists: {top_k: 5, seeds: [0, 1, 2, 3, 4]}
"""


def test_load_design_example_returns_its_spec(tmp_path: Path) -> None:
    path = tmp_path / "study.yaml"
    path.write_text(DESIGN_EXAMPLE)
    spec = load_study_file(path, [])
    assert spec.name == "mlp-visual"
    assert spec.config.head.kind == "mlp"
    assert spec.sampler.kwargs["group"] is True  # conditional keys are sampled jointly
    momentum = spec.space["training.momentum"]
    assert isinstance(momentum, FloatDimension)
    assert momentum.when == {"training.optimizer": ("sgd",)}


@pytest.mark.parametrize("text", ["1e-3", "1E-3", "1.0e-3", "+.001", "0.001"])
def test_read_document_when_a_number_is_written_in_any_form_returns_a_float(
    tmp_path: Path, text: str
) -> None:
    path = tmp_path / "study.yaml"
    path.write_text(f"a: {text}")
    assert read_document(path) == {"a": 0.001}


@settings(deadline=None)
@given(st.floats(allow_nan=False, allow_infinity=False))
def test_read_document_returns_floats_unchanged(
    tmp_path_factory: pytest.TempPathFactory, value: float
) -> None:
    path = tmp_path_factory.mktemp("float") / "study.yaml"
    path.write_text(f"a: {value!r}")
    assert read_document(path) == {"a": value}


@settings(deadline=None)
@given(st.integers())
def test_read_document_returns_integers_unchanged(
    tmp_path_factory: pytest.TempPathFactory, value: int
) -> None:
    path = tmp_path_factory.mktemp("int") / "study.yaml"
    path.write_text(f"a: {value}")
    assert read_document(path) == {"a": value}


def test_read_document_reads_scalars_as_yaml_1_2(tmp_path: Path) -> None:
    path = tmp_path / "study.yaml"
    path.write_text("{a: yes, b: 010, c: 2026-01-01, d: 12:30}")
    assert read_document(path) == {"a": "yes", "b": 10, "c": "2026-01-01", "d": "12:30"}


@pytest.mark.parametrize(
    ("text", "law"),
    [
        ("{a: 1, a: 2}", "keys must differ, found 'a'"),
        ("{a: &x [1], b: *x}", "must hold plain data, found an anchor"),
        ("a: !!python/name:os.system ''", "plain data, found the tag"),
        ("[" * 5000, "must nest at most 20 levels"),
        ("a: [", "line"),
        ("- 1", "must be a mapping"),
        ("{1: 2}", "keys must be text"),
        ("x" * 1_000_001, "at most 200000 bytes"),
        ("a: \udcff", "UTF-8"),
        ("a: \x07", "must be YAML, found"),
        (f"a: [{'1,' * 2000}]", "must hold at most 2000 keys and values"),
        (f"a: {'1' * 101}", "must have at most 100 digits, found 101"),
    ],
)
def test_read_document_when_not_plain_data_is_refused(tmp_path: Path, text: str, law: str) -> None:
    path = tmp_path / "study.yaml"
    path.write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(ConfigError) as refused:
        read_document(path)
    message = str(refused.value)
    assert message.startswith(f"{path}:")
    assert law in message or law == "line"
    assert "\n" not in message


BAD = [
    ("study.n_trails", 3, "study.n_trails: unknown key 'n_trails'. Did you mean"),
    ("study.n_trials", 0, "study.n_trials: input should be greater than 0, found 0"),
    ("study.n_trials", "many", "study.n_trials: input should be a valid integer, found 'many'"),
    ("study.name", "../etc", "study.name: a name must begin with a letter"),
    ("sampler.name", "tpa", "sampler.name: unknown key 'tpa'. Did you mean"),
    ("sampler.multivariate", True, "sampler.multivariate: unknown key"),
    ("sampler.seed", 3, "sampler.seed: unknown key"),
    ("pruner.min_resource", "auto", "min_resource: must be an integer above 0, found 'auto'"),
    ("pruner.min_resource", 0, "pruner.min_resource: must be an integer above 0, found 0"),
    ("pruner.reduction_factor", 2.5, "pruner.reduction_factor: must be of type int, found 2.5"),
    ("pruner", {"name": "percentile"}, "pruner: percentile is missing; percentile needs it"),
    ("pruner", {"name": "percentile", "percentile": 101.0}, "pruner: Percentile must be between"),
    (
        "pruner",
        {"name": "patient", "patience": 1, "wrapped_pruner": {"kind": "median"}},
        "pruner.wrapped_pruner.name: must be the name of a pruner, found {'kind'",
    ),
    (
        "pruner",
        {"name": "patient", "patience": 1, "wrapped_pruner": {"name": "median", "kwargs": [1]}},
        "pruner.wrapped_pruner.kwargs: must map names to values, found [1]",
    ),
    ("sampler", {"name": "tpe", "group": True, "multivariate": False}, "group needs multivariate"),
    ("sampler", {"name": "grid"}, "but training.learning_rate is without a step"),
    (
        "objective",
        {"folds": 1},
        "objective.folds: input should be greater than or equal to 2, found 1",
    ),
    ("objective", {"include_valid": True}, "objective: include_valid needs folds. Set objective"),
    ("objective", {"refit": True}, "objective: refit needs folds. Set objective.folds"),
    ("finalists.seeds", [1, 1], "finalists: seeds must differ, found [1, 1]"),
    ("finalists.seeds", [], "finalists.seeds"),
    ("finalists", 3, "finalists: must map keys to values, found 3"),
    ("base", "head=mlp", "base: must be a list of key=value texts, found 'head=mlp'"),
    ("base", ["head=mpl"], "base: "),
    ("space", {}, "space: must map config keys to dimensions"),
    ("space.training.learning_rate.low", -1.0, "log needs low above 0, found -1"),
    ("space.training.learning_rate.low", 1.0, "low must be at most high, found 1 and 0.1"),
    ("space.training.learning_rate.step", 0.01, "log and step exclude each other, found both"),
    ("space.training.learning_rate.hi", 1.0, "Did you mean 'high'?"),
    ("space.training.learning_rate.high", float("inf"), "finite number"),
    ("space.training.learning_rate.high", "0.1", "valid number, found '0.1'"),
    ("space.training.batch_size.choices", [64, 0], "choices[1]: training.batch_size: "),
    ("space.training.batch_size.choices", [64, 64], "choices must differ"),
    ("space.training.momentum.high", 1.5, "momentum.high: training.momentum: "),
    ("space.training.momentum.when", {"training.optimiser": ["sgd"]}, "'training.optimizer'"),
    ("space.training.momentum.when", {"training.optimizer": ["sdg"]}, "found 'sdg'"),
    ("space.training.seed", {"type": "int", "low": 1, "high": 2}, "this key cannot be searched"),
    (
        "space.head.momentum",
        {"type": "float", "low": 0.1, "high": 0.2},
        "space.head.momentum: training.momentum is searched twice",
    ),
    ("space.head.depth", {"type": "int", "low": 1, "high": 2}, "unknown key"),
    ("space.training.learning_rate.type", "flaot", "must be one of float, int, categorical"),
    ("spaces", {}, "unknown key 'spaces'. Did you mean 'space'"),
]


@pytest.mark.parametrize(("key", "value", "law"), BAD, ids=[f"{k}={v}" for k, v, _ in BAD])
def test_load_when_the_file_is_bad_is_refused_in_one_line(
    tmp_path: Path, key: str, value: Any, law: str
) -> None:
    document = copy.deepcopy(DOCUMENT)
    _set(document, key, value)
    study = write_study(tmp_path, **document)
    with pytest.raises(InputError) as refused:
        load_study_file(study, [])
    message = str(refused.value)
    assert message.startswith(f"{study}:")
    assert law in message
    assert "\n" not in message


def _set(document: dict[str, Any], key: str, value: Any) -> None:
    """Set `section`, `section.key`, `space.<config path>` or `space.<config path>.key`."""
    section, *rest = key.split(".")
    if section == "space" and rest:
        path, field = ".".join(rest[:2]), rest[2:]
        node = document["space"].get(path, {}) if field else document["space"]
        node[field[0] if field else path] = value
    elif rest:
        document[section][rest[0]] = value
    else:
        document[section] = value


@pytest.mark.parametrize("section", ["study", "space"])
def test_load_when_a_section_is_missing_is_refused(tmp_path: Path, section: str) -> None:
    study = tmp_path / "study.yaml"
    study.write_text(yaml.safe_dump({k: v for k, v in DOCUMENT.items() if k != section}))
    with pytest.raises(StudyError, match=f": missing section '{section}'"):
        load_study_file(study, [])


@pytest.mark.parametrize(
    ("space", "law"),
    [
        (
            {
                "training.optimizer": {"type": "categorical", "choices": ["adamw", "sgd"]},
                "training.momentum": {
                    "type": "float", "low": 0.8, "high": 0.9, "step": 0.1,
                    "when": {"training.optimizer": ["sgd"]},
                },
            },
            "a grid search supports no conditions, but training.momentum has one",
        ),
        (
            {
                "training.max_epochs": {"type": "int", "low": 1, "high": 1000},
                "training.batch_size": {"type": "int", "low": 1, "high": 101},
            },
            "a grid must have at most 100000 points, found more with training.batch_size",
        ),
        (
            {"training.max_epochs": {"type": "int", "low": 1, "high": 39}},
            "the grid has 39 points, fewer than study.n_trials (40). Lower study.n_trials to 39",
        ),
    ],
)  # fmt: skip
def test_grid_when_the_space_is_not_finite_is_refused(
    tmp_path: Path, space: dict[str, Any], law: str
) -> None:
    with pytest.raises(StudyError) as refused:
        make_spec(tmp_path, space=space, sampler={"name": "grid"})
    assert str(refused.value) == f"{tmp_path}/study.yaml:sampler: {law}"


def test_load_when_the_sampler_is_not_installed_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "cmaes", None)
    with pytest.raises(StudyError, match=r"study\.yaml:sampler: its package is not installed"):
        make_spec(tmp_path, sampler={"name": "cmaes"})


def test_hyperband_takes_the_longest_training_of_the_space(tmp_path: Path) -> None:
    longest = {
        "categorical": {"type": "categorical", "choices": [27, 3]},
        "int": {"type": "int", "low": 2, "high": 12},
    }
    for dimension, epochs in zip(longest.values(), (27, 12), strict=True):
        spec = make_spec(
            tmp_path, space={"training.max_epochs": dimension}, pruner={"name": "hyperband"}
        )
        assert spec.pruner.kwargs["max_resource"] == epochs


def test_patient_pruner_without_inner_pruner_is_accepted(tmp_path: Path) -> None:
    spec = make_spec(tmp_path, pruner={"name": "patient", "patience": 3})
    assert spec.pruner.kwargs == {"patience": 3, "wrapped_pruner": None}


def test_is_active_when_the_condition_is_a_list_compares_lists(tmp_path: Path) -> None:
    """Optuna stores a list as its JSON text, a config as a tuple."""
    spec = make_spec(
        tmp_path,
        base=["head=mlp", "head.hidden_dims=[16,8]"],
        space={
            "training.momentum": {
                "type": "float", "low": 0.1, "high": 0.9, "when": {"head.hidden_dims": [[16, 8]]}
            },
        },
    )  # fmt: skip
    momentum = spec.space["training.momentum"]
    for params, active in (({}, True), ({"head.hidden_dims": "[16, 8]"}, True),
                           ({"head.hidden_dims": "[16]"}, False)):  # fmt: skip
        assert is_active(momentum, params, spec.config) == active


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"name": 1}', "[" * 100_000])
def test_spec_from_json_when_not_a_spec_is_refused(text: str) -> None:
    with pytest.raises(StudyError, match=r"^the stored study definition cannot be read: "):
        spec_from_json(text)


def test_load_when_conditions_are_circular_is_refused(tmp_path: Path) -> None:
    circle = {
        "training.beta1": {
            "type": "float", "low": 0.1, "high": 0.9, "when": {"training.beta2": [0.5]}
        },
        "training.beta2": {
            "type": "float", "low": 0.1, "high": 0.9, "when": {"training.beta1": [0.5]}
        },
    }  # fmt: skip
    with pytest.raises(StudyError, match="conditions depend on each other in a cycle"):
        make_spec(tmp_path, space=circle)


def test_load_with_overrides_changes_the_file_or_the_base(tmp_path: Path) -> None:
    spec = make_spec(
        tmp_path, "study.n_trials=3", "finalists.seeds=[5,6]", "training.weight_decay=0.5"
    )
    assert spec.n_trials == 3
    assert spec.finalists.seeds == (5, 6)
    assert spec.config.training.weight_decay == 0.5


def test_load_when_an_override_is_below_a_value_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        StudyError, match=r"study\.n_trials\.x: its parent is a value, not a section: 40"
    ):
        make_spec(tmp_path, "study.n_trials.x=3")
    with pytest.raises(StudyError, match=r"sampler\.more: unknown key"):
        make_spec(tmp_path, "sampler.more.x=3")


def test_load_when_a_searched_key_is_overridden_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="which the study searches"):
        make_spec(tmp_path, "training.learning_rate=0.1")


def test_spec_from_json_of_its_json_is_equal(tmp_path: Path) -> None:
    spec = make_spec(tmp_path)
    assert spec_from_json(spec_to_json(spec)) == spec


def test_objective_of_folds_is_stored_and_at_its_default_leaves_no_trace(tmp_path: Path) -> None:
    plain = make_spec(tmp_path)
    assert "objective" not in json.loads(spec_to_json(plain))
    assert make_spec(tmp_path, objective={"folds": None}).fingerprint() == plain.fingerprint()
    spec = make_spec(tmp_path, "objective.include_valid=true", objective={"folds": 5})
    assert json.loads(spec_to_json(spec))["objective"] == {"folds": 5, "include_valid": True}
    assert spec_from_json(spec_to_json(spec)) == spec
    assert spec.fingerprint() != plain.fingerprint()
    assert (difference(plain, spec) or "").startswith("objective was")


def test_fingerprint_changes_only_with_what_changes_a_value(tmp_path: Path) -> None:
    spec = make_spec(tmp_path)
    same = make_spec(tmp_path, "study.n_trials=99", "paths.data_root=elsewhere")
    other = make_spec(tmp_path, "training.max_epochs=8")
    assert same.fingerprint() == spec.fingerprint()
    assert other.fingerprint() != spec.fingerprint()
    assert difference(spec, same) is None
    assert difference(spec, other) == "config.training.max_epochs was 9 and is 8"


@settings(max_examples=12, deadline=None)  # every example composes a config
@given(
    low=st.floats(1e-8, 1.0),
    high=st.floats(1e-8, 1.0),
    log=st.booleans(),
    choice=st.text(max_size=9),
)
def test_load_with_any_bounds_returns_a_spec_or_refuses(
    tmp_path_factory: pytest.TempPathFactory, low: float, high: float, log: bool, choice: str
) -> None:
    folder = tmp_path_factory.mktemp("bounds")
    space = {
        "training.learning_rate": {"type": "float", "low": low, "high": high, "log": log},
        "training.schedule": {"type": "categorical", "choices": ["cosine", choice]},
    }
    legal = low <= high and choice == "constant"
    path = folder / "study.yaml"
    path.write_text(yaml.safe_dump(DOCUMENT | {"space": space}))
    if legal:
        assert load_study_file(path, []).space.keys() == space.keys()
    else:
        with pytest.raises(InputError):
            load_study_file(path, [])


def test_choices_of_pairs_of_numbers_are_suggested_and_set() -> None:
    """A pair such as Adam's betas is stored as text and set as a pair."""
    dimension = CategoricalDimension(
        type="categorical", choices=((0.9, 0.999), (0.8, 0.98), None, 3)
    )
    stored = distribution(dimension)
    assert isinstance(stored, CategoricalDistribution)
    assert stored.choices == ("[0.9, 0.999]", "[0.8, 0.98]", None, 3)
    changed = with_values(Config(), {"training.adam_betas": stored.choices[1]}, where="test")
    assert changed.training.betas == (0.8, 0.98)
