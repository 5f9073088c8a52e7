"""What samplers are measured on: standard functions and a recorded head study."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pyarrow.parquet as pq
from numpy.typing import NDArray
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.samplers import BaseSampler
from scipy.spatial.distance import cdist

from headsweep.search.samplers.tpe import BatchedTPESampler
from headsweep.search.space import distribution, suggest
from headsweep.search.spec import StudySpec
from headsweep.search.study_file import load_study_file

RECORDED = Path(__file__).parents[1] / "search" / "recorded"
SURROGATES = RECORDED / "surrogates.json"

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Objective:
    """Something to minimise: how its params are suggested, and its value at them."""

    suggest: Callable[[optuna.Trial], Mapping[str, Any]]
    value: Callable[[Mapping[str, Any]], float]
    conditional: bool = False


def best_of_batches(objective: Objective, sampler: BaseSampler, n_trials: int, batch: int) -> float:
    """The best of `n_trials` values, `batch` of them asked before any of these is told."""
    study = optuna.create_study(sampler=sampler)
    for done in range(0, n_trials, batch):
        n = min(batch, n_trials - done)
        one_fit = sampler.batch(n) if isinstance(sampler, BatchedTPESampler) else nullcontext()
        with one_fit:
            trials = [study.ask() for _ in range(n)]
            asked = [(trial, objective.suggest(trial)) for trial in trials]
        for trial, params in asked:
            study.tell(trial, objective.value(params))
    return study.best_value


def branin(x: Floats) -> float:
    b, c, t = 5.1 / (4 * math.pi**2), 5 / math.pi, 1 / (8 * math.pi)
    return float((x[1] - b * x[0] ** 2 + c * x[0] - 6) ** 2 + 10 * (1 - t) * math.cos(x[0]) + 10)


def hartmann(x: Floats) -> float:
    a = np.array(
        [[10, 3, 17, 3.5, 1.7, 8], [0.05, 10, 17, 0.1, 8, 14], [3, 3.5, 1.7, 10, 17, 8],
         [17, 8, 0.05, 10, 0.1, 14]]
    )  # fmt: skip
    p = 1e-4 * np.array(
        [[1312, 1696, 5569, 124, 8283, 5886], [2329, 4135, 8307, 3736, 1004, 9991],
         [2348, 1451, 3522, 2883, 3047, 6650], [4047, 8828, 8732, 5743, 1091, 381]]
    )  # fmt: skip
    return -float(np.array([1.0, 1.2, 3.0, 3.2]) @ np.exp(-(a * (x - p) ** 2).sum(axis=1)))


def ackley(x: Floats) -> float:
    bowl, waves = math.sqrt((x**2).mean()), np.cos(2 * math.pi * x).mean()
    return float(20 + math.e - 20 * math.exp(-0.2 * bowl) - math.exp(waves))


def rosenbrock(x: Floats) -> float:
    return float((100 * (x[1:] - x[:-1] ** 2) ** 2 + (1 - x[:-1]) ** 2).sum())


def styblinski_tang(x: Floats) -> float:
    return float((x**4 - 16 * x**2 + 5 * x).sum() / 2)


def rotated_ellipsoid(x: Floats) -> float:
    """A bowl whose axes differ a thousandfold in curvature and are rotated against the params."""
    rotation = np.linalg.qr(np.random.default_rng(0).normal(size=(len(x), len(x))))[0]
    curvatures = 1000.0 ** (np.arange(len(x)) / (len(x) - 1))
    return float((curvatures * (rotation @ (x - 1.0)) ** 2).sum())


def valley(x: Floats) -> float:
    """A narrow valley along which all params are equal; its floor is lowest at 0.7."""
    return float(10 * ((x[1:] - x[:-1]) ** 2).sum() + (x.mean() - 0.7) ** 2)


def _function(f: Callable[[Floats], float], *bounds: tuple[float, float]) -> Objective:
    names = [f"x{i}" for i in range(len(bounds))]

    def asked(trial: optuna.Trial) -> Mapping[str, Any]:
        pairs = zip(names, bounds, strict=True)
        return {name: trial.suggest_float(name, low, high) for name, (low, high) in pairs}

    return Objective(asked, lambda params: f(np.array([params[name] for name in names])))


FUNCTIONS: Mapping[str, Objective] = {
    "Branin 2": _function(branin, (-5, 10), (0, 15)),
    "Hartmann 6": _function(hartmann, *[(0, 1)] * 6),
    "Ackley 5": _function(ackley, *[(-32.768, 32.768)] * 5),
    "Rosenbrock 4": _function(rosenbrock, *[(-5, 10)] * 4),
    "Styblinski-Tang 5": _function(styblinski_tang, *[(-5, 5)] * 5),
}

INTERACTING: Mapping[str, Objective] = {
    "rotated ellipsoid 5": _function(rotated_ellipsoid, *[(-5, 5)] * 5),
    "valley 6": _function(valley, *[(0, 1)] * 6),
}
"""Functions whose good region is rotated against the params: no param can be chosen by itself."""


def table_path(study: str) -> Path:
    """Where the trials of a recorded study are."""
    return RECORDED / f"{study}.parquet"


@cache
def recorded_spec(study: str) -> StudySpec:
    """The study whose random trials were recorded."""
    return load_study_file(RECORDED / f"{study}.yaml", [])


@cache
def head_study() -> Objective:
    """The recorded head study: minus the AUPRC expected from the trials of the table nearby."""
    spec, values = recorded_spec("head_study"), recorded_trials("head_study")[1]
    shares = nearness("head_study")

    def value(params: Mapping[str, Any]) -> float:
        return -float(shares(params) @ values)

    return Objective(lambda trial: suggest(trial, spec.space, spec.config), value, conditional=True)


def nearness(study: str) -> Callable[[Mapping[str, Any]], Floats]:
    """From params to the share (n,) of every recorded trial in what is expected there."""
    surrogate = json.loads(SURROGATES.read_text())[study]
    scales, bandwidth = np.array(surrogate["length_scales"]), surrogate["bandwidth"]
    points, _ = recorded_trials(study)

    def shares(params: Mapping[str, Any]) -> Floats:
        distances = cdist(encoded(params, study)[None] / scales, points / scales)
        shares: Floats = _shares(distances, bandwidth)[0]
        return shares

    return shares


def recorded_curves(study: str) -> Floats:
    """The values (n, epochs) of the table's trials after every epoch."""
    return np.array(pq.read_table(table_path(study))["curve"].to_pylist(), dtype=float)


def nearby_means(distances: Floats, values: Floats, bandwidth: float) -> Floats:
    """Means (n,) of values (m,), those at shorter distances (n, m) weighing more.

    A mean promises no more than the best of what was recorded. Source: E. Nadaraya, *On Estimating
    Regression*, 1964, with an exponential kernel.
    """
    means: Floats = _shares(distances, bandwidth) @ values
    return means


def _shares(distances: Floats, bandwidth: float) -> Floats:
    weights = np.exp((distances.min(axis=1, keepdims=True) - distances) / bandwidth)
    shares: Floats = weights / weights.sum(axis=1, keepdims=True)
    return shares


@cache
def recorded_trials(study: str) -> tuple[Floats, Floats]:
    """Encoded params (n, d) and values (n,) of the table."""
    rows = pq.read_table(table_path(study)).to_pylist()
    points = np.array([encoded(row, study) for row in rows])
    return points, np.array([row["value"] for row in rows], dtype=float)


def encoded(params: Mapping[str, Any], study: str) -> Floats:
    """Params on the unit cube; a choice is one-hot, an inactive number stands in the middle."""
    point: list[float] = []
    for key, dimension in recorded_spec(study).space.items():
        value = params.get(key)
        match distribution(dimension):
            case CategoricalDistribution(choices=choices):
                point += [float(value == choice) for choice in choices]
            case (
                FloatDistribution(low=low, high=high, log=log)
                | IntDistribution(low=low, high=high, log=log)
            ):
                if value is None:
                    point.append(0.5)
                elif log:
                    point.append(math.log(value / low) / math.log(high / low))
                else:
                    point.append((value - low) / (high - low))
    return np.array(point)
