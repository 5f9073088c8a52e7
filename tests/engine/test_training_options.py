"""Schedules, initial weights and optimizer options against PyTorch's own."""

import json
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from headsweep.config.head_section import HeadConfig
from headsweep.config.schema import Config
from headsweep.config.training_section import TrainingConfig
from headsweep.config.values import with_values
from headsweep.data.dataset import Split
from headsweep.engine.numerics.schedule import learning_rate
from headsweep.engine.programs.grouped.rates import step_rates
from headsweep.engine.slots import Slot
from headsweep.engine.train_configs import train_to_end
from headsweep.errors import ConfigError
from headsweep.heads.base import HeadShape
from headsweep.heads.predictor import load_predictor, save_predictor
from headsweep.heads.registry import build_head
from headsweep.settings import EngineSettings
from tests.helpers.splits import config

SHAPE = HeadShape({"visual": 30}, "visual", 5)
SETTINGS = EngineSettings(device="cpu")


def torch_rates(training: TrainingConfig, total: int) -> list[float]:
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, training.learning_rate, total, pct_start=training.one_cycle_rise,
        cycle_momentum=False,
    )  # fmt: skip
    rates = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a schedule that is stepped without its optimizer
        for _ in range(total):
            rates.append(schedule.get_last_lr()[0])
            if len(rates) < total:
                schedule.step()
    return rates


@given(st.integers(1, 8), st.integers(1, 12), st.sampled_from([0.07, 0.3, 0.55, 0.99]))
def test_one_cycle_equals_torch(epochs: int, steps: int, rise: float) -> None:
    one = config("training.schedule=one_cycle", f"training.one_cycle_rise={rise}")
    one = with_values(one, {"training.max_epochs": epochs}, where="test")
    total = epochs * steps
    found = [learning_rate(one.training, step, steps) for step in range(total)]
    np.testing.assert_allclose(found, torch_rates(one.training, total), rtol=1e-9)
    slot = Slot(0, one, 32, steps, epochs)
    other = Slot(1, with_values(one, {"training.schedule": "cosine"}, where="t"), 32, steps, epochs)
    rates = step_rates([other, slot], total)[:, 1, 0]
    np.testing.assert_allclose(rates, found, rtol=1e-6)


@pytest.mark.parametrize("rise", [0.0, 1.0])
@pytest.mark.parametrize("steps", [1, 2, 7])
def test_one_cycle_without_rise_or_fall_has_finite_rates(rise: float, steps: int) -> None:
    one = config("training.schedule=one_cycle", f"training.one_cycle_rise={rise}")
    rates = [learning_rate(one.training, step, steps) for step in range(4 * steps)]
    assert all(0 < rate <= one.training.learning_rate for rate in rates)
    assert rates[-1 if rise else 0] >= 0.5 * one.training.learning_rate


@pytest.mark.parametrize("kind", ["linear", "mlp"])
def test_init_changes_the_last_layer_alone(kind: str) -> None:
    def tensors(init: str) -> dict[str, torch.Tensor]:
        head: HeadConfig = config(f"head={kind}", f"head.init={init}").head
        return build_head(head, SHAPE, seed=3).state_dict()

    default, normal, zero = tensors("default"), tensors("normal"), tensors("zero")
    last = {"output.weight", "output.bias"}
    for name in default.keys() - last:
        assert default[name].equal(normal[name])
        assert default[name].equal(zero[name])
    assert not zero["output.weight"].any()
    assert not zero["output.bias"].any()
    assert not normal["output.bias"].any()
    assert float(normal["output.weight"].std()) == pytest.approx(0.01, rel=0.2)
    torch.manual_seed(3)
    plain = nn.Linear(30, 5)
    if kind == "linear":
        assert default["output.weight"].equal(plain.weight)


def test_options_in_a_crowd_keep_every_bit(splits: tuple[Split, Split]) -> None:
    """Heads with new options share a stack with others, and no slot depends on another."""
    crowd = [
        config("training.learning_rate=0.1"),
        config("head.init=zero", "training.adam_epsilon=1e-3"),
        config("head.init=normal", "training.schedule=one_cycle", "training.adam_betas=[0.5,0.9]"),
        config("features.normalization=layer"),
        config("features.normalization=std", "training.early_stopping_metric=loss"),
    ]
    together = train_to_end(crowd, *splits, SETTINGS)
    for one, among in zip(crowd, together, strict=True):
        (alone,) = train_to_end([one], *splits, SETTINGS)
        assert [r.metrics for r in alone.history] == [r.metrics for r in among.history]
        for name, tensor in alone.predictor.state_dict().items():
            assert tensor.equal(among.predictor.state_dict()[name])


@pytest.mark.parametrize("normalization", ["layer", "std"])
@pytest.mark.parametrize("optimizer", ["adamw", "lbfgs"])
def test_saved_predictor_carries_its_normalization(
    normalization: str, optimizer: str, splits: tuple[Split, Split], tmp_path: Path
) -> None:
    one = config(
        f"features.normalization={normalization}", f"training.optimizer={optimizer}",
        "head.init=zero", "features=both",
    )  # fmt: skip
    (trained,) = train_to_end([one], *splits, SETTINGS)
    save_predictor(trained.predictor, tmp_path / "model.safetensors")
    raw = splits[1].features
    loaded = load_predictor(tmp_path)
    assert loaded.spec == trained.predictor.spec
    expected = trained.predictor.predict_proba(raw)
    np.testing.assert_array_equal(loaded.predict_proba(raw), expected)


def test_saved_predictor_with_default_init_does_not_name_it(
    splits: tuple[Split, Split], tmp_path: Path
) -> None:
    """So the file equals that of a version without the key."""
    (trained,) = train_to_end([config("training.max_epochs=1")], *splits, SETTINGS)
    save_predictor(trained.predictor, tmp_path / "model.safetensors")
    header = (tmp_path / "model.safetensors").read_bytes()[8:].split(b"\x00")[0]
    start = header.index(b'"__metadata__"')
    metadata, _ = json.JSONDecoder().raw_decode(header[start + 15 :].decode(errors="ignore"))
    assert json.loads(metadata["headsweep"])["head"] == {"kind": "linear"}


REFUSED = {
    "head.init": "normal",
    "training.schedule": "one_cycle",
    "training.adam_betas": (0.8, 0.9),
    "training.adam_epsilon": 1e-6,
    "training.early_stopping_metric": "loss",
    "training.early_stopping_window": 2,
    "training.early_stopping_start_epoch": 2,
}


@pytest.mark.parametrize("key", REFUSED)
def test_lbfgs_with_options_of_iterative_training_raises(key: str) -> None:
    solver = with_values(Config(), {"training.optimizer": "lbfgs"}, where="test")
    with pytest.raises(ConfigError, match=rf"^test: {key} must be \S+ with training.optimizer=lb"):
        with_values(solver, {key: REFUSED[key]}, where="test")
