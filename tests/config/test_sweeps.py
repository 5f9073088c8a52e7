"""Sweeps on the command line: every form of Hydra's grammar works or is refused in one line."""

import re
import warnings

import pytest

from headsweep.config.overrides import RENAMED, WITHOUT_MEANING, compose_config, config_of
from headsweep.config.schema import Config
from headsweep.config.sweeps import MAX_NAME_BYTES, multirun_configs
from headsweep.errors import ConfigError, HeadsweepWarning

SEEDS = {
    "1,2": [1, 2],
    "choice(1,2)": [1, 2],
    "range(3)": [0, 1, 2],
    "range(1,7,3)": [1, 4],
    "sort(3,1,2)": [1, 2, 3],
    "sort(choice(1,3),reverse=true)": [3, 1],
    "tag(name,choice(1,2))": [1, 2],
    "int(3.0)": [3],
    "int(1.0,2.0)": [1, 2],
}


@pytest.mark.parametrize(("text", "seeds"), SEEDS.items())
def test_multirun_configs_with_a_sweep_of_values_trains_each(text, seeds):
    configs = multirun_configs(None, [f"training.seed={text}"])
    assert [config.training.seed for config in configs] == seeds


def test_multirun_configs_with_shuffle_trains_each_in_some_order():
    configs = multirun_configs(None, ["training.seed=shuffle(range(5))"])
    assert sorted(config.training.seed for config in configs) == [0, 1, 2, 3, 4]


@pytest.mark.parametrize(
    ("text", "heads"),
    [
        ("glob(*)", ["linear", "mlp", "retrieval"]),
        ("glob(*,exclude=ret*)", ["linear", "mlp"]),
        ("glob([l*,mlp])", ["linear", "mlp"]),
        ("sort(mlp,linear)", ["linear", "mlp"]),
    ],
)
def test_multirun_configs_with_glob_trains_each_option(text, heads):
    configs = multirun_configs(None, [f"head={text}"])
    assert [config.head.kind for config in configs] == heads
    assert [config.paths.checkpoint_dir for config in configs] == [
        f"outputs/checkpoints/head={head}" for head in heads
    ]


REFUSED = {
    "head=glob(x*)": "'head=glob(x*)' matches none of linear, mlp, retrieval",
    "training.seed=glob(*)": "chooses among the options of a group: head, features",
    "training.learning_rate=interval(0,1)": "is an interval without single values",
    "training.learning_rate=interval(0,1),2": "an override must read key=value",
    "paths.data_root=a(b": "write a value with quotes or brackets as paths.data_root='…'",
    "head=choice(glob(*))": "an override must read key=value",
    "+training.seed=3": "adds or deletes a key",
    "~training.seed": "adds or deletes a key",
    "~head=mlp": "adds or deletes a key",
    "head@x=mlp": "is not plain data",
    "logging.run_name=${oc.env:HOME}": "is not plain data",
    "training={seed:3}": "set its keys one by one, as training.KEY=VALUE",
    "logging.tags=extend_list(a)": "Unknown function 'extend_list'",
    "training.seed": "an override must read key=value",
    "head/kind=mlp": "unknown key 'head/kind'",
}


@pytest.mark.parametrize("read", [multirun_configs, config_of])
@pytest.mark.parametrize(("text", "message"), REFUSED.items())
def test_configs_of_overrides_without_value_raise_in_one_line(read, text, message):
    with pytest.raises(ConfigError) as refused:
        read(None, [text])
    assert "\n" not in str(refused.value)
    assert str(refused.value).startswith("command line: ")
    if read is multirun_configs:
        assert message in str(refused.value)


@pytest.mark.parametrize("text", ["head=glob(*)", "training.seed=1,2", "training.seed=range(2)"])
def test_config_of_with_sweep_raises_and_suggests_multirun(text):
    with pytest.raises(ConfigError, match="stands for several values: `headsweep train -m`"):
        config_of(None, [text])


def test_config_of_with_force_add_sets_known_key():
    assert config_of(None, ["++training.seed=3"]).training.seed == 3


def test_multirun_configs_with_equal_names_get_separate_folders():
    configs = multirun_configs(None, ["data.train_manifest=a/b.csv,a_b.csv", "training.seed=1,1"])
    folders = [config.paths.checkpoint_dir for config in configs]
    assert len(set(folders)) == len(configs) == 4


def test_multirun_configs_with_long_values_get_short_folder_names():
    names = [f"[{letter * 300},b]" for letter in "xy"]
    configs = multirun_configs(None, [f"training.target_labels={','.join(names)}"])
    folders = {config.paths.checkpoint_dir.rpartition("/")[2] for config in configs}
    assert len(folders) == 2
    assert max(len(name.encode()) for name in folders) <= MAX_NAME_BYTES + 9


@pytest.mark.parametrize("key", WITHOUT_MEANING)
def test_configs_with_ignored_key_warn_once(key):
    with pytest.warns(HeadsweepWarning, match=f"^command line: {key} is ignored: ") as caught:
        assert config_of(None, [f"{key}=4"]) == Config()
    assert len(caught) == 1
    with pytest.warns(HeadsweepWarning) as caught:
        assert len(multirun_configs(None, [f"{key}=0,4", "training.seed=1,2"])) == 2
    assert len(caught) == 1


@pytest.mark.parametrize(("key", "here"), RENAMED.items())
def test_compose_config_with_renamed_key_raises_with_new_name(key, here):
    with warnings.catch_warnings(), pytest.raises(ConfigError) as refused:
        compose_config([f"{key}=1"], where="test")
    assert str(refused.value) == f"test: unknown key {key!r}: here it is {here}"


def test_config_of_a_file_of_other_benchmarks_ignores_keys_with_one_warning(tmp_path):
    file = tmp_path / "config.yaml"
    file.write_text(
        "hydra: {job: {name: run}, sweep: {dir: multirun}}\n"
        "data: {num_workers: 4, preload_features: true, train_manifest: a.csv}\n"
        "training: {batch_size: 48, num_workers: 2, pin_memory: true}\n"
    )
    with pytest.warns(HeadsweepWarning, match=f"^{re.escape(str(file))}: ignored keys: ") as caught:
        config = config_of(file, [])
    assert len(caught) == 1
    for key in (*WITHOUT_MEANING.keys() - {"hydra.job.name"}, "hydra"):
        assert f"{key}: " in str(caught[0].message)
    assert (config.training.batch_size, config.data.train_manifest) == (48, "a.csv")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("model: {hidden_dims: [512]}", "unknown key 'model': here it is head, as in head=mlp"),
        ("utils: {seed: 1}", "unknown key 'utils.seed': here it is training.seed"),
        ("seed: 1", "unknown key 'seed': here it is training.seed"),
    ],
)
def test_config_of_a_file_with_a_renamed_key_names_the_new_one(tmp_path, text, message):
    file = tmp_path / "config.yaml"
    file.write_text(f"{text}\ntraining: {{num_workers: 2}}\n")
    with pytest.raises(ConfigError) as refused:
        config_of(file, [])
    assert str(refused.value) == f"{file}: {message}"
