"""Compare numbers of trials at once, and of trials that share settings: best value by time.

    python scripts/benchmarks/at_once.py [--seeds 20] [--trials 100] [--at-once 4 10 20 32 64]
        [--shared 1 8] [--processes 2] [--functions [NAME …]]

Searches the recorded linear study (`tests/search/recorded`) as a worker does: all running trials
train one epoch a tick, successive halving judges those at a rung together, and batched TPE fills
free slots. Values are those of recorded curves nearby. Times are modelled from the step times below
for 46,438 rows of 512 features: on one CPU core, where every batch size and every normalization
costs a product of its own, and on a GPU, where every batch size costs the launches of a step.
`stock` is Optuna's TPE with one trial at a time.

A search continues until it has taken as long as the median search of `--trials` trials with a tenth
of them at once and nothing shared, so that best values can be compared at equal time.

With `--functions`, standard functions are minimised instead: see `at_once_functions.py`.

Takes about a minute; with `--functions` longer.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import warnings
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import cache
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from numpy.typing import NDArray
from optuna.samplers import BaseSampler, TPESampler
from optuna.trial import TrialState

sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.helpers.objectives import nearness, recorded_curves, recorded_spec

from headsweep.search.samplers.tpe import BatchedTPESampler
from headsweep.search.space import suggest

STUDY = "linear_study"
ROWS = 46_438
BATCH_SIZE, NORMALIZATION = "training.batch_size", "features.normalization"
MIN_RESOURCE, REDUCTION, SPARED, PATIENCE = 3, 3, 5, 15
"""As the shipped linear studies prune and stop."""
CPU_US = {64: (100, 58), 256: (250, 150), 1024: (900, 520)}
"""By batch size: microseconds of a step for each normalization, and for each slot."""
GPU_US = {64: (100, 5), 256: (100, 10), 1024: (100, 30)}
"""By batch size: microseconds of a step, and for each slot. Assumed: some twenty launches a step.
"""
RANKING_US = 2000
"""Of a slot's validation scores."""


@dataclass
class Flight:
    """A trial that is training."""

    trial: optuna.Trial
    batch_size: int
    normalization: str
    curve: NDArray[np.float64]
    epoch: int = 0

    @property
    def best(self) -> float:
        """Return the best value so far."""
        return float(self.curve[: self.epoch].max())

    @property
    def finished(self) -> bool:
        """Return whether training has ended: by its last epoch, or too long after its best one."""
        since_best = self.epoch - 1 - int(self.curve[: self.epoch].argmax())
        return self.epoch == len(self.curve) or since_best >= PATIENCE


@dataclass
class Search:
    """One search, tick by tick."""

    sampler: BaseSampler
    at_once: int
    in_flight: list[Flight] = field(default_factory=list)
    rungs: dict[int, list[float]] = field(default_factory=lambda: defaultdict(list))
    n_begun: int = 0
    n_ended: int = 0
    cpu_s: float = 0.0
    gpu_s: float = 0.0
    fused_steps: int = 0
    slot_steps: int = 0
    best: float = -math.inf

    def __post_init__(self) -> None:
        self.study = optuna.create_study(sampler=self.sampler, direction="maximize")

    def tick(self, budget: int) -> None:
        """Fill free slots while the budget lasts, and train all slots by one epoch."""
        self._refill(min(self.at_once - len(self.in_flight), budget - self.n_begun))
        self._take_time()
        for flight in self.in_flight:
            flight.epoch += 1
        at_rung = [f for f in self.in_flight if f.epoch in rung_epochs()]
        for flight in at_rung:
            flight.trial.report(float(flight.curve[flight.epoch - 1]), flight.epoch)
            self.rungs[flight.epoch].append(float(flight.curve[flight.epoch - 1]))
        pruned = [f for f in at_rung if not f.finished and self._is_pruned(f)]
        for flight in [f for f in self.in_flight if f.finished or f in pruned]:
            self.in_flight.remove(flight)
            self.n_ended += 1
            if flight in pruned:
                self.study.tell(flight.trial, state=TrialState.PRUNED)
            else:
                self.study.tell(flight.trial, flight.best)
                self.best = max(self.best, flight.best)

    def _refill(self, n: int) -> None:
        if n <= 0:
            return
        spec, shares, curves = recorded()
        batch = self.sampler.batch(n) if isinstance(self.sampler, BatchedTPESampler) else None
        with batch or nullcontext():
            for _ in range(n):
                trial = self.study.ask()
                params = suggest(trial, spec.space, spec.config)
                curve = shares(params) @ curves
                flight = Flight(trial, params[BATCH_SIZE], params[NORMALIZATION], curve)
                self.in_flight.append(flight)
        self.n_begun += n

    def _is_pruned(self, flight: Flight) -> bool:
        values = sorted(self.rungs[flight.epoch])
        value = float(flight.curve[flight.epoch - 1])
        return value < values[-max(len(values) // REDUCTION, 1)] and value < values[-SPARED:][0]

    def _take_time(self) -> None:
        by_batch: dict[int, list[str]] = defaultdict(list)
        for flight in self.in_flight:
            by_batch[flight.batch_size].append(flight.normalization)
        for batch_size, alike in by_batch.items():
            steps = math.ceil(ROWS / batch_size)
            each, slot = CPU_US[batch_size]
            self.cpu_s += 1e-6 * steps * (each * len(set(alike)) + slot * len(alike))
            each, slot = GPU_US[batch_size]
            self.gpu_s += 1e-6 * steps * (each + slot * len(alike))
            self.fused_steps += steps
            self.slot_steps += steps * len(alike)
        self.cpu_s += 1e-6 * RANKING_US * len(self.in_flight)
        self.gpu_s += 1e-7 * RANKING_US * len(self.in_flight)


@cache
def recorded() -> Any:
    """Return the spec, the recorded trials' shares by params, and their curves."""
    return recorded_spec(STUDY), nearness(STUDY), recorded_curves(STUDY)


def rung_epochs() -> frozenset[int]:
    return frozenset(MIN_RESOURCE * REDUCTION**rung for rung in range(4))


def search(
    at_once: int, n_shared: int, keys: Sequence[str], seed: int, trials: int, until_s: float
) -> Mapping[str, Any]:
    """Search until `trials` trials have ended and `until_s` seconds of one core have passed.

    Returns:
        The measurements by name.
    """
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    warnings.simplefilter("ignore")
    if at_once == 1:
        sampler: BaseSampler = TPESampler(seed=seed, multivariate=True)
    else:
        sampler = BatchedTPESampler(seed=seed, shared=keys, n_shared=n_shared)
    one = Search(sampler, at_once)
    outcome: dict[str, Any] = {}
    path: list[tuple[float, float, float]] = []
    while one.n_ended < trials or one.cpu_s < until_s:
        # The budget is spent first; trials beyond it only serve the comparison at equal time.
        one.tick(trials if one.n_ended < trials else 10**9)
        path.append((one.cpu_s, one.gpu_s, one.best))
        if one.n_ended >= trials and not outcome:
            outcome = {
                "best": one.best,
                "cpu_s": one.cpu_s,
                "gpu_s": one.gpu_s,
                "slots_a_step": one.slot_steps / one.fused_steps,
            }
        if one.n_ended >= 10 * trials:
            break
    return outcome | {"path": path}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--trials", type=int, default=100)
    parser.add_argument("--at-once", type=int, nargs="+", default=[4, 10, 20, 32, 64])
    parser.add_argument("--shared", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--keys", nargs="+", default=[BATCH_SIZE])
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--functions", nargs="*", help="all, or some; see at_once_functions.py")
    args = parser.parse_args()
    seeds = range(args.seeds)
    if args.functions is not None:
        from at_once_functions import NAMES, compare

        with get_context("spawn").Pool(args.processes) as pool:
            for line in compare(
                pool, args.functions or NAMES, seeds, args.trials, args.at_once, args.shared
            ):
                print(line, flush=True)
        return
    with get_context("spawn").Pool(args.processes) as pool:
        tenth = max(4, math.ceil(args.trials / 10))
        usual = pool.starmap(search, [(tenth, 1, (), s, args.trials, 0.0) for s in seeds])
        until_s = float(np.median([outcome["cpu_s"] for outcome in usual]))
        ways = [(1, 1), *((n, k) for n in args.at_once for k in args.shared)]
        jobs = [(n, k, tuple(args.keys), s, args.trials, until_s if n > 1 else 0.0)
                for n, k in ways for s in seeds]  # fmt: skip
        outcomes = dict(zip(jobs, pool.starmap(search, jobs, chunksize=1), strict=True))
    print(f"{args.trials} trials, {args.seeds} seeds; equal time is {until_s:.0f} s of one core")
    print(
        "at once  agree      best at equal trials   at half/equal time   slots a step  core  GPU s"
    )
    for line in table(ways, outcomes, until_s):
        print(line)


def table(
    ways: Sequence[tuple[int, int]], outcomes: Mapping[Any, Mapping[str, Any]], until_s: float
) -> Iterator[str]:
    """Yield a line for each setting, and one line of JSON."""
    plain = {}
    for n, k in ways:
        mine = [outcome for job, outcome in outcomes.items() if job[:2] == (n, k)]
        quartiles = np.percentile([outcome["best"] for outcome in mine], [25, 50, 75])
        halves = np.median([best_by(outcome["path"], until_s / 2) for outcome in mine])
        at_time = np.median([best_by(outcome["path"], until_s) for outcome in mine])
        medians = {key: float(np.median([outcome[key] for outcome in mine]))
                   for key in ("cpu_s", "gpu_s", "slots_a_step")}  # fmt: skip
        name = "stock" if n == 1 else f"{n}"
        plain[f"{name}/{k}"] = [*quartiles.round(4), float(at_time), medians]
        yield (
            f"{name:>7} {k:6}    {quartiles[0]:.4f} {quartiles[1]:.4f} {quartiles[2]:.4f}      "
            f"{halves:.4f} {at_time:.4f}   {medians['slots_a_step']:12.1f} "
            f"{medians['cpu_s']:6.0f} {medians['gpu_s']:6.1f}"
        )
    yield json.dumps(plain)


def best_by(path: Sequence[tuple[float, float, float]], cpu_s: float) -> float:
    """Return the best value of trials that ended within so many seconds of one core."""
    return max((best for at, _, best in path if at <= cpu_s), default=-math.inf)


if __name__ == "__main__":
    main()
