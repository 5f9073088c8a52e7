"""Numbers of trials at once on six functions, with and without suggestions that agree.

The first param of a function takes one of five values, evenly spaced over its range, and is the one
that suggestions agree on: it changes the value and interacts with the other params, as the batch
size of a study does, but more strongly. A round asks for all its trials before any of them has a
value. All trials take equally many steps, whose times are those of `at_once.py` for batch size 64:
a step costs once for every value of the shared param, and once for every slot.
"""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from functools import partial
from multiprocessing.pool import Pool
from typing import Any

import numpy as np
import optuna
from optuna.samplers import BaseSampler, TPESampler
from tests.helpers.objectives import FUNCTIONS, INTERACTING

from headsweep.search.samplers.tpe import BatchedTPESampler

SHARED = "x0"
N_VALUES = 5
NAMES = (*FUNCTIONS, "rotated ellipsoid 5")
CPU_US = (100, 58)
"""Microseconds of a step for each value of the shared param, and for each slot."""
N_STEPS = 1000
"""Steps of a trial."""

Progress = list[tuple[int, float, float]]
"""After every round: trials so far, seconds of a core, best value."""


class Stepped:
    """A trial whose first number takes one of `N_VALUES` values, as a choice."""

    def __init__(self, trial: optuna.Trial) -> None:
        self._trial = trial

    def suggest_float(self, name: str, low: float, high: float) -> float:
        """Suggest a number, or one of the values of the shared param.

        Returns:
            The suggestion.
        """
        if name != SHARED:
            return self._trial.suggest_float(name, low, high)
        values = np.linspace(low, high, N_VALUES).tolist()
        return float(self._trial.suggest_categorical(name, values))


def search(
    name: str, at_once: int, n_shared: int, seed: int, trials: int, until_s: float
) -> Progress:
    """Minimise a function until `trials` trials and `until_s` seconds of one core have passed.

    Returns:
        The path of the search.
    """
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    warnings.simplefilter("ignore")
    objective = {**FUNCTIONS, **INTERACTING}[name]
    sampler: BaseSampler = (
        TPESampler(seed=seed, multivariate=True)
        if at_once == 1
        else BatchedTPESampler(seed=seed, shared=(SHARED,), n_shared=n_shared)
    )
    study = optuna.create_study(sampler=sampler)
    path: Progress = []
    n_done, core_s, best = 0, 0.0, math.inf
    while n_done < trials or core_s < until_s:
        # The budget is spent first; trials beyond it only serve the comparison at equal time.
        n = min(at_once, trials - n_done) if n_done < trials else at_once
        batch = sampler.batch(n) if isinstance(sampler, BatchedTPESampler) else nullcontext()
        asked: list[tuple[optuna.Trial, Mapping[str, Any]]] = []
        with batch:
            for _ in range(n):
                trial = study.ask()
                asked.append((trial, objective.suggest(Stepped(trial))))  # type: ignore[arg-type]
        for trial, values in asked:
            value = objective.value(values)
            study.tell(trial, value)
            best = min(best, value)
        each, slot = CPU_US
        n_done += n
        core_s += 1e-6 * N_STEPS * (each * len({values[SHARED] for _, values in asked}) + slot * n)
        path.append((n_done, core_s, best))
    return path


def at_trials(path: Progress, trials: int) -> tuple[float, float]:
    """Return the best value after so many trials, and the seconds of one core until then."""
    _, core_s, best = next(point for point in path if point[0] >= trials)
    return best, core_s


def at_time(path: Progress, core_s: float) -> float:
    """Return the best value of the rounds that ended within so many seconds."""
    return min((best for _, at, best in path if at <= core_s), default=math.inf)


def compare(
    pool: Pool, names: Sequence[str], seeds: Sequence[int], trials: int,
    at_once: Sequence[int], shared: Sequence[int],
) -> Iterator[str]:  # fmt: skip
    """Yield a table, a line for each function and setting, and one line of JSON.

    Args:
        pool: processes for the searches.
        names: of the functions.
        seeds: one search each.
        trials: number of trials at which best values are compared.
        at_once: numbers of trials at once.
        shared: numbers of suggestions that agree; 0 stands for half of those at once.
    """
    yield "objective, at once, agree | quartiles at equal trials | median at equal time | core s"
    plain: dict[str, Mapping[str, Any]] = {}
    ways = [(1, 1)] + [(n, k or max(n // 2, 1)) for n in at_once for k in shared]
    for name in names:
        run = partial(searched, pool, name, seeds, trials)
        until_s = float(np.median([at_trials(path, trials)[1] for path in run(10, 1, 0.0)]))
        for n, k in dict.fromkeys(ways):
            paths = run(n, k, until_s if n > 1 else 0.0)
            ended = np.array([at_trials(path, trials) for path in paths])
            quartiles = np.percentile(ended[:, 0], [25, 50, 75])
            timely = float(np.median([at_time(path, until_s) for path in paths]))
            core_s = float(np.median(ended[:, 1]))
            way = "stock" if n == 1 else str(n)
            plain[f"{name}/{way}/{k}"] = {
                "quartiles": quartiles.tolist(), "at_time": timely, "core_s": core_s,
            }  # fmt: skip
            values = " ".join(f"{value:10.4f}" for value in quartiles)
            yield f"{name:20} {way:>6} {k:5}  {values}    {timely:10.4f}   {core_s:6.1f}"
    yield json.dumps(plain)


def searched(
    pool: Pool, name: str, seeds: Sequence[int], trials: int, n: int, k: int, until_s: float
) -> list[Progress]:
    """Return the path of a search for each seed."""
    return pool.starmap(search, [(name, n, k, seed, trials, until_s) for seed in seeds])
