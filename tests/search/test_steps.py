"""Stepped ranges: every suggested value is a point of the study file, decimal for decimal."""

import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import optuna
import pytest
import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st
from optuna.distributions import FloatDistribution, IntDistribution

from headsweep.errors import HeadsweepWarning, InputError, StudyError
from headsweep.search.samplers_and_pruners import SAMPLERS, build_sampler
from headsweep.search.space import distribution, grid, suggest
from headsweep.search.spec import FloatDimension, IntDimension
from headsweep.search.steps import last_point, n_points, on_step, point
from headsweep.search.study_file import load_study_file
from tests.helpers.study_specs import DOCUMENT, make_spec

STEPPED = {
    "head.dropout": {"type": "float", "low": 0, "high": 0.9, "step": 0.1},
    "training.label_smoothing": {"type": "float", "low": 0.01, "high": 0.19, "step": 0.02},
    "training.max_epochs": {"type": "int", "low": 3, "high": 30, "step": 3},
}
LEGAL = {
    "head.dropout": {0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9},
    "training.label_smoothing": {0.01, 0.03, 0.05, 0.07, 0.09, 0.11, 0.13, 0.15, 0.17, 0.19},
    "training.max_epochs": set(range(3, 31, 3)),
}


@st.composite
def decimal_ranges(draw: st.DrawFn) -> tuple[Decimal, Decimal, int]:
    """Draw a low, a step and a number of steps, with few decimals."""
    exponent = draw(st.integers(-6, 2))
    low = Decimal(draw(st.integers(-(10**5), 10**5))).scaleb(exponent)
    step = Decimal(draw(st.integers(1, 10**4))).scaleb(draw(st.integers(-6, 2)))
    return low, step, draw(st.integers(0, 300))


@settings(deadline=None)
@given(decimal_ranges())
@example((Decimal("0"), Decimal("0.1"), 3))
@example((Decimal("0.05"), Decimal("0.1"), 8))
@example((Decimal("1"), Decimal("0.0000001"), 300))
def test_points_of_any_decimal_range_are_its_decimals(
    written: tuple[Decimal, Decimal, int],
) -> None:
    low, step, n = written
    points = [point(float(low), float(step), index) for index in range(n + 1)]
    assert points == [float(low + index * step) for index in range(n + 1)]
    assert n_points(float(low), float(low + n * step), float(step)) == n + 1
    assert last_point(float(low), float(low + n * step + step / 2), float(step)) == points[-1]
    stepped = FloatDistribution(float(low), float(low + n * step), step=float(step))
    # Optuna counts steps in floats, so it cannot represent finer steps than this.
    countable = float(step) > 1e-7 * max(map(abs, points))
    for index, value in enumerate(points):
        assert stepped._contains(value) or not countable
        assert on_step(stepped, float(low) + index * float(step)) == value


@pytest.mark.parametrize("n_startup_trials", [0, 100], ids=["fitted", "random"])
@pytest.mark.parametrize("name", SAMPLERS)
@pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
def test_suggest_when_stepped_gives_the_decimals_of_the_file(
    tmp_path: Path, name: str, n_startup_trials: int
) -> None:
    kwargs = {"n_startup_trials": n_startup_trials} if name in ("tpe", "cmaes", "gp") else {}
    spec = make_spec(
        tmp_path, "study.n_trials=60", "training.warmup_epochs=0", sampler={"name": name, **kwargs},
        base=["head=mlp"], space=STEPPED, pruner={"name": "none"},
    )  # fmt: skip
    study = optuna.create_study(sampler=build_sampler(spec, 0), direction="maximize")
    for number in range(25 if name == "gp" else 60):
        trial = study.ask()
        params = suggest(trial, spec.space, spec.config)
        study.tell(trial, -abs(params["head.dropout"] - 0.3) - (number % 3) * 1e-3)
    for key, legal in LEGAL.items():
        suggested = {trial.params[key] for trial in study.trials}
        assert suggested <= legal
        assert name == "gp" or len(suggested) > 2  # a Gaussian process may converge early


def test_stock_tpe_when_its_own_arguments_are_given_gives_the_decimals(tmp_path: Path) -> None:
    """Arguments that only Optuna's TPE accepts select Optuna's TPE."""
    sampler = {"name": "tpe", "n_startup_trials": 0, "consider_endpoints": True}
    with pytest.warns(FutureWarning):
        spec = make_spec(tmp_path, sampler=sampler, base=["head=mlp"], space=STEPPED)
    with pytest.warns(FutureWarning):
        stock = build_sampler(spec, 0)
    study = optuna.create_study(sampler=stock)
    for _ in range(40):
        trial = study.ask()
        study.tell(trial, suggest(trial, spec.space, spec.config)["head.dropout"])
    for key, legal in LEGAL.items():
        assert {trial.params[key] for trial in study.trials} <= legal


def test_grid_when_stepped_has_every_point_once(tmp_path: Path) -> None:
    spec = make_spec(
        tmp_path, "study.n_trials=1", base=["head=mlp"], space=STEPPED, sampler={"name": "grid"}
    )
    assert {key: set(points) for key, points in grid(spec.space, where="space").items()} == LEGAL
    assert all(len(points) == 10 for points in grid(spec.space, where="space").values())


def test_grid_when_steps_are_many_keeps_its_end_point() -> None:
    """Ten thousand steps of 1e-5 add up to a little less than 0.1 in floats."""
    fine = FloatDimension(low=0.0, high=0.1, step=1e-5)
    points = grid({"head.dropout": fine}, where="space")["head.dropout"]
    assert points[-1] == 0.1
    assert len(set(points)) == len(points) == 10_001


def test_grid_when_integers_are_logarithmic_says_so(tmp_path: Path) -> None:
    space = {"training.max_epochs": {"type": "int", "low": 1, "high": 100, "log": True}}
    with pytest.raises(StudyError, match=r"but training\.max_epochs is on a logarithmic scale"):
        make_spec(tmp_path, space=space, sampler={"name": "grid"})


def test_exported_params_when_stepped_are_the_decimals_of_the_file(tmp_path: Path) -> None:
    """The exported config has exactly the stored values."""
    from headsweep.config.schema import to_dict
    from headsweep.config.values import with_values
    from headsweep.config.yaml_files import to_yaml

    config = make_spec(tmp_path, base=["head=mlp"]).config
    value = on_step(FloatDistribution(0, 0.9, step=0.1), 0.1 * 3)
    text = to_yaml(to_dict(with_values(config, {"head.dropout": value}, where="trial 0")))
    assert "dropout: 0.3\n" in text


@pytest.mark.parametrize(
    ("step", "high", "law"),
    [
        (1e-300, 0.5, "step must divide the range into at most 1e+15 steps, found 1e-300"),
        (1e-16, 0.5, "step must divide the range into at most 1e+15 steps, found 1e-16"),
    ],
)
def test_float_when_step_is_too_small_is_refused(
    tmp_path: Path, step: float, high: float, law: str
) -> None:
    space = {"training.weight_decay": {"type": "float", "low": 0.0, "high": high, "step": step}}
    with pytest.raises(InputError) as refused:
        make_spec(tmp_path, space=space)
    assert law in str(refused.value)


def test_float_when_points_fall_together_is_refused() -> None:
    with pytest.raises(ValueError, match="too small to tell values near 1e\\+20 apart"):
        FloatDimension(low=1e20, high=1e20 + 1e6, step=1.0)


RAGGED: list[tuple[str, dict[str, Any], str]] = [
    (
        "head.dropout",
        {"type": "float", "low": 0.05, "high": 0.9, "step": 0.1},
        "steps of 0.1 from 0.05 end at 0.85, so high (0.9) is never tried. Set high to 0.85",
    ),
    (
        "head.dropout",
        {"type": "float", "low": 0.2, "high": 0.3, "step": 0.5},
        "end at 0.2, so high (0.3) is never tried",
    ),
    (
        "training.max_epochs",
        {"type": "int", "low": 5, "high": 20, "step": 10},
        "steps of 10 from 5 end at 15, so high (20) is never tried. Set high to 15",
    ),
]


@pytest.mark.parametrize(("key", "dimension", "remark"), RAGGED)
def test_load_when_steps_miss_high_warns(
    tmp_path: Path, key: str, dimension: dict[str, Any], remark: str
) -> None:
    with pytest.warns(HeadsweepWarning) as warned:
        spec = make_spec(tmp_path, base=["head=mlp"], space={key: dimension})
    (message,) = (str(warning.message) for warning in warned)
    assert message.startswith(f"{tmp_path}/study.yaml:space.{key}: ")
    assert remark in message
    # Optuna would warn again in each worker's log, if it were given the bound that is not met.
    assert distribution(spec.space[key]).high == spec.space[key].last  # type: ignore[attr-defined]


def test_distribution_when_steps_miss_high_is_as_optuna_stores_it() -> None:
    """Studies of earlier versions continue, because their stored distributions stay equal."""
    with pytest.warns(UserWarning, match="not divisible"):
        theirs = FloatDistribution(0.05, 0.9, step=0.1)
    assert distribution(FloatDimension(low=0.05, high=0.9, step=0.1)) == theirs
    with pytest.warns(UserWarning, match="not divisible"):
        integers = IntDistribution(5, 20, step=10)
    assert distribution(IntDimension(low=5, high=20, step=10)) == integers


@settings(max_examples=20, deadline=None)  # every example composes a config
@given(
    low=st.decimals(0, 1, places=3), width=st.decimals(0, 1, places=3),
    step=st.decimals("0.001", 1, places=3),
)  # fmt: skip
@pytest.mark.filterwarnings("ignore::headsweep.errors.HeadsweepWarning")
def test_any_stepped_range_is_read_and_every_point_is_legal(
    tmp_path_factory: pytest.TempPathFactory, low: Decimal, width: Decimal, step: Decimal
) -> None:
    path = tmp_path_factory.mktemp("steps") / "study.yaml"
    bounds = {"type": "float", "low": float(low), "high": float(low + width), "step": float(step)}
    sections = {"space": {"training.weight_decay": bounds}, "base": ["head=linear"]}
    path.write_text(yaml.safe_dump(json.loads(json.dumps(DOCUMENT | sections))))
    space = load_study_file(path, []).space
    (points,) = grid(space, where="space").values()
    stepped = distribution(space["training.weight_decay"])
    assert points == [float(low + index * step) for index in range(int(width // step) + 1)]
    assert all(stepped._contains(value) for value in points)
