"""The typed config: errors are one line with the key, the constraint and the value."""

import json
from importlib.metadata import EntryPoint
from typing import Any, Literal

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from headsweep.config.fingerprints import ADDED_KEYS
from headsweep.config.head_section import BUILT_IN_HEADS, HEAD_ENTRY_POINTS, HeadConfig, MLPConfig
from headsweep.config.overrides import (
    GROUPS,
    compose_config,
    override_value,
    refuse_escapes,
)
from headsweep.config.schema import Config, escapes, to_dict
from headsweep.config.section import Section
from headsweep.config.sweeps import expand_sweep
from headsweep.config.values import leaf_paths, parse_config, value_at, with_values
from headsweep.errors import ConfigError


@pytest.mark.parametrize("head", BUILT_IN_HEADS)
def test_compose_config_of_each_head_equals_typed_defaults(head: str) -> None:
    composed = compose_config([f"head={head}"], where="test")
    assert composed == Config(head=BUILT_IN_HEADS[head]())


def test_parse_config_of_dumped_config_returns_same_config() -> None:
    config = compose_config(["head=mlp", "head.hidden_dims=[512,256]"], where="test")
    text = yaml.safe_dump(to_dict(config))
    assert parse_config(yaml.safe_load(text), where="file") == config


def test_compose_config_with_overrides_sets_values_and_groups() -> None:
    config = compose_config(
        ["features=both", "head=mlp", "training.learning_rate=1e-4", "head.depth=3"], where="test"
    )
    assert config.features.input == "both"
    assert config.training.learning_rate == 1e-4
    assert isinstance(config.head, MLPConfig)
    assert config.head.widths == (512, 512, 512)


def test_mlp_widths_with_hidden_dims_ignore_depth_and_width() -> None:
    assert MLPConfig(depth=4, width=7, hidden_dims=(64, 32)).widths == (64, 32)


def test_with_values_sets_values_that_value_at_returns() -> None:
    config = with_values(
        Config(head=MLPConfig()),
        {"head.hidden_dims": "[8, 4]", "training.batch_size": 16},
        where="trial",
    )
    assert value_at(config, "head.hidden_dims") == [8, 4]
    assert value_at(config, "training.batch_size") == 16


@given(st.floats(1e-6, 1), st.integers(1, 4096))
def test_fingerprint_depends_on_values_and_not_on_paths(rate: float, batch: int) -> None:
    values = {"training.learning_rate": rate, "training.batch_size": batch}
    one = with_values(Config(), values, where="test")
    moved = with_values(one, {"paths.data_root": "/elsewhere"}, where="test")
    changed = with_values(one, {"training.batch_size": batch + 1}, where="test")
    assert one.fingerprint() == moved.fingerprint()
    assert one.fingerprint() != changed.fingerprint()


LBFGS = {"optimizer": "lbfgs", "weight_decay": 0.1}
REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"trainin": {}}, "trainin: unknown key 'trainin'. Did you mean 'training'?"),
    ({"training": {"learning_rat": 1}}, "Did you mean 'learning_rate'?"),
    ({"head": {"kind": "mlp", "dept": 1}}, "Did you mean 'depth'?"),
    ({"head": {"kind": "forest"}}, "head.kind must be one of linear, mlp, retrieval, found"),
    ({"training": {"learning_rate": "1e-3"}}, "should be a valid number, found '1e-3'"),
    ({"training": {"learning_rate": True}}, "should be a valid number, found True"),
    ({"training": {"batch_size": 1.5}}, "should be a valid integer"),
    ({"training": {"batch_size": 0}}, "should be greater than 0, found 0"),
    ({"training": {"learning_rate": float("nan")}}, "training.learning_rate: "),
    ({"training": {"warmup_epochs": 99.0}}, "at most training.max_epochs (50), found 99"),
    ({"features": {"input": "audio"}}, "features.input: "),
    ({"features": "visual"}, "features: "),
    ({"head": {"kind": "mlp", "hidden_dims": [64, 0]}}, "head.hidden_dims"),
    ({"head": {"kind": "mlp"}, "training": LBFGS}, "head.kind must be linear with training.optimi"),
    ({"training": LBFGS | {"precision": "bf16"}}, "training.precision must be float32 with train"),
    ({"training": LBFGS | {"weight_decay": 0.0}}, "training.weight_decay must be greater than 0"),
]  # fmt: skip


@pytest.mark.parametrize(("data", "expected"), REFUSED, ids=lambda x: json.dumps(x)[:40])
def test_parse_config_of_bad_config_raises_in_one_line(data: dict[str, Any], expected: str) -> None:
    with pytest.raises(ConfigError) as refused:
        parse_config(data, where="file.yaml")
    message = str(refused.value)
    assert message.startswith("file.yaml: ")
    assert expected in message
    assert "\n" not in message


@pytest.mark.parametrize(
    ("key", "least", "most"),
    [
        ("head.width", 1, 10**5),
        ("head.depth", 1, 100),
        ("training.max_epochs", 1, 10**6),
        ("training.batch_size", 1, 10**6),
        ("training.seed", 0, 2**32 - 1),
    ],
)
def test_with_values_accepts_numbers_within_bounds_only(key: str, least: int, most: int) -> None:
    mlp = Config(head=MLPConfig())
    for number in (least, most):
        assert value_at(with_values(mlp, {key: number}, where="test"), key) == number
    with pytest.raises(ConfigError, match=f"{key}.* should be less than .*, found {most + 1}"):
        with_values(mlp, {key: most + 1}, where="test")
    with pytest.raises(ConfigError, match=f"{key}.* should be greater than .*, found {least - 1}"):
        with_values(mlp, {key: least - 1}, where="test")


def test_parse_config_with_warmup_as_long_as_training_is_accepted() -> None:
    config = parse_config({"training": {"warmup_epochs": 7.0, "max_epochs": 7}}, where="file")
    assert config.training.warmup_epochs == config.training.max_epochs


def test_escapes_is_true_for_absolute_and_parent_paths_only() -> None:
    escaping = ("/etc", "..", "a/../b", "../a", "a\0b")
    staying = ("", "a", "a/b", "..a", "a..", "./a", "a/...")
    assert [path for path in (*escaping, *staying) if escapes(path)] == list(escaping)


class ForestConfig(HeadConfig):
    kind: Literal["forest"] = "forest"
    trees: int = 10


class ForestHead:
    config_type = ForestConfig


def test_parse_config_with_plug_in_head_uses_its_config_type(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Entry points are faked here; `tests/heads/test_example.py` installs a real package."""
    entry = EntryPoint("forest", f"{__name__}:ForestHead", HEAD_ENTRY_POINTS)
    monkeypatch.setattr("headsweep.config.head_section.entry_points", lambda group: [entry])
    config = parse_config({"head": {"kind": "forest", "trees": 7}}, where="file")
    assert config.head == ForestConfig(trees=7)
    with pytest.raises(ConfigError, match="one of linear, mlp, retrieval, forest, found 'tree'"):
        parse_config({"head": {"kind": "tree"}}, where="file")


@pytest.mark.parametrize(
    "override",
    [
        "head=forest",
        "head.dept=2",
        "training.batch_size=big",
        "training.batch_size=1,2",
        "batch_size",
        "+extra=1",
        "~head",
        "hydra.run.dir=/tmp",
        "hydra/launcher=basic",
        "paths.data_root=${oc.env:HOME}",
        "head={_target_: os.system}",
        "training.seed=-1",
    ],
)
def test_compose_config_with_bad_override_raises_in_one_line(override: str) -> None:
    with pytest.raises(ConfigError, match="command line: ") as refused:
        compose_config([override], where="command line")
    assert "\n" not in str(refused.value)


def test_override_value_returns_key_and_plain_value() -> None:
    assert override_value("finalists.seeds=[1,2]", where="x") == ("finalists.seeds", [1, 2])
    assert override_value("study.name=a b", where="x") == ("study.name", "a b")


@pytest.mark.parametrize(
    ("overrides", "found"),
    [
        (["training.seed=range(0,10001)"], "found more with 'training.seed=range(0,10001)'"),
        (["training.seed=range(0,1,0)"], "found more with 'training.seed=range(0,1,0)'"),
        (["training.seed=range(1,1,0)"], "found more with 'training.seed=range(1,1,0)'"),
        (["training.seed=range(0,101)", "head.depth=range(0,100)"], "found more or none with 'he"),
        (["training.seed=range(3,3)"], "found "),
    ],
)
def test_expand_sweep_of_too_many_runs_or_none_raises(overrides: list[str], found: str) -> None:
    with pytest.raises(ConfigError) as refused:
        expand_sweep(overrides, where="command line")
    assert str(refused.value).startswith("command line: a sweep must span 1 to 10000 runs, ")
    assert found in str(refused.value)


def test_expand_sweep_of_largest_allowed_size_is_expanded() -> None:
    runs = expand_sweep(["head=linear", "training.seed=range(0,10000)"], where="command line")
    assert runs[0] == (("training.seed=0",), ["head=linear", "training.seed=0"])
    assert len({swept for swept, _ in runs}) == len(runs) == 10_000


def test_refuse_escapes_with_outside_path_or_long_override_raises() -> None:
    refuse_escapes(["paths.output_dir=out", "paths.data_root=/data"], where="file")
    with pytest.raises(ConfigError, match=r"file: paths\.output_dir in a file must be a relative"):
        refuse_escapes(["paths.output_dir=../out"], where="file")
    with pytest.raises(ConfigError, match=r"test_manifests in a file must .* found '/etc/x'"):
        refuse_escapes(["data.test_manifests=[test.csv,/etc/x]"], where="file")
    with pytest.raises(ConfigError, match="at most 4000 characters, found 4004"):
        refuse_escapes(["a=" + "x" * 2000] * 2, where="file")


def test_parse_config_of_data_that_is_not_plain_raises() -> None:
    with pytest.raises(ConfigError, match=r"^file: a config must be plain data, found "):
        parse_config({"training": {"seed": {1}}}, where="file")


def test_with_values_with_unknown_key_raises() -> None:
    for path in ("training.learning_rat", "training.learning_rate.x", "x.y"):
        with pytest.raises(ConfigError, match=f"^trial 3:{path}: unknown key"):
            with_values(Config(), {path: 1}, where="trial 3")


def test_config_sections_are_the_config_groups() -> None:
    assert {path.split(".")[0] for path in leaf_paths(Config())} == set(GROUPS)


FINGERPRINTS = {  # computed before any key of `ADDED_KEYS` existed
    (): "5163a9cb09adbb69fc3dae5ce17ad95235907ae4e6568ac70a6f0946bdfc233c",
    ("head=mlp", "features=both", "training.seed=7"): (
        "3d7718ea57bc5259820e693a05e6714c554ac2f9eb7c51bc5069cea2e85e3756"
    ),
    ("head=retrieval", "data.val_manifest=null", "training.target_labels=[a,b]"): (
        "aee8a875e0c68c2efdcb14bd6c9431a5e797a3bc43dd8329f678e9531bb45843"
    ),
}


@pytest.mark.parametrize(("overrides", "fingerprint"), FINGERPRINTS.items())
def test_fingerprint_of_config_without_added_keys_is_unchanged(overrides, fingerprint) -> None:
    assert compose_config(list(overrides), where="test").fingerprint() == fingerprint


OTHER_VALUES = {"data.columns.patient": "who", "data.columns.scan": "s", "data.feature_key": "k"}
OTHER_VALUES |= {"data.follow_links": True, "data.shared_content": "drop"}
OTHER_VALUES |= {"data.blank_labels": "mask", "data.label_maps": {"valid.csv": "map.yaml"}}
OTHER_VALUES |= {"data.zero_shot": "prompts.npz", "data.zero_shot_input": "ct_clip"}
OTHER_VALUES |= {"training.metric": "auroc_macro"}
OTHER_VALUES |= {
    "data.inputs": {"ct_clip": {"column": "c", "modality": "visual"}},
    "features.partner": "text",
    "head.init": "zero",
    "training.adam_betas": [0.8, 0.99],
    "training.adam_epsilon": 1e-6,
    "training.early_stopping_metric": "loss",
    "training.early_stopping_start_epoch": 5,
    "training.early_stopping_window": 3,
    "training.folds": {"count": 5, "seed": 1, "include_valid": True},
    "training.one_cycle_rise": 0.5,
}


@pytest.mark.parametrize("key", ADDED_KEYS)
def test_fingerprint_when_added_key_is_set_differs(key: str) -> None:
    changed = with_values(Config(), {key: OTHER_VALUES[key]}, where="test")
    assert changed.fingerprint() != Config().fingerprint()
    assert parse_config(to_dict(changed), where="test") == changed


@pytest.mark.parametrize("key", ADDED_KEYS)
def test_added_keys_at_their_default_are_left_out_of_plain_data(key: str) -> None:
    assert value_at(Config(), key) == ADDED_KEYS[key]
    assert key in leaf_paths(Config())
    node = to_dict(Config())
    for name in key.split("."):
        last, node = node, node.get(name, {})
    assert name not in last


def sections(model: type[Section]) -> set[type[Section]]:
    nested = {f.annotation for f in model.model_fields.values()}
    found = {kind for kind in nested if isinstance(kind, type) and issubclass(kind, Section)}
    return {model}.union(*(sections(kind) for kind in found - {HeadConfig}))


@pytest.mark.parametrize(
    "model",
    [*sorted(sections(Config), key=lambda s: s.__name__), *BUILT_IN_HEADS.values()],
    ids=lambda model: model.__name__,
)
def test_config_keys_all_have_a_description(model: type[Section]) -> None:
    missing = [name for name, field in model.model_fields.items() if not field.description]
    assert missing in ([], ["kind"])


@pytest.mark.parametrize("key", ["paths.output_dir", "paths.checkpoint_dir"])
@pytest.mark.parametrize("value", ["", " "])
def test_with_values_with_empty_result_folder_raises(key: str, value: str) -> None:
    with pytest.raises(ConfigError, match=f"{key}: a folder's name must not be empty"):
        with_values(Config(), {key: value}, where="test")
