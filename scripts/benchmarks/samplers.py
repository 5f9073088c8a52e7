"""Compare samplers at equal trials: batched TPE, stock TPE, GP, CMA-ES, QMC, random search.

    python scripts/benchmarks/samplers.py [--seeds 24] [--trials 320] [--processes 2]
        [--objectives "Branin 2" ... head] [--contestants batched stock ...] [--log FILE.jsonl]

The objectives are five standard functions, two whose params interact, and a recorded head study.
All contestants but `stock` suggest 32 trials before any of them has a value; `stock` suggests one
after another. QMC is scrambled, so that seeds differ. Contestants run in turn, seed by seed. The
head study's values are minus the AUPRC. `--log` appends each outcome to a file as it arrives, and
skips those that the file holds, so that a long run can be interrupted.

Takes hours with all contestants: a search of `gp` alone takes a minute or more.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterator
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import optuna
from optuna.samplers import BaseSampler, GPSampler, QMCSampler, RandomSampler, TPESampler

sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.helpers.objectives import (
    FUNCTIONS,
    INTERACTING,
    Objective,
    best_of_batches,
    head_study,
)

from headsweep.search.samplers.cmaes import ReplayedCmaEsSampler
from headsweep.search.samplers.tpe import BatchedTPESampler

Job = tuple[str, str, int, int]
"""Contestant, objective, seed, number of trials."""

BATCH = 32
HEAD = "head"
CONTESTANTS: dict[str, tuple[Callable[..., BaseSampler], int]] = {
    "batched": (BatchedTPESampler, BATCH),
    "stock": (TPESampler, 1),
    "stock in batches": (TPESampler, BATCH),
    "gp": (partial(GPSampler, warn_independent_sampling=False), BATCH),
    "cmaes": (ReplayedCmaEsSampler, BATCH),
    "qmc": (partial(QMCSampler, scramble=True, warn_independent_sampling=False), BATCH),
    "random": (RandomSampler, BATCH),
}
TPE = ("batched", "stock", "stock in batches")


def objective_of(name: str) -> Objective:
    return head_study() if name == HEAD else {**FUNCTIONS, **INTERACTING}[name]


def contest(contestant: str, name: str, seed: int, n_trials: int) -> tuple[float, float]:
    """Run one search.

    Returns:
        The best value, and the seconds of the search.
    """
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    warnings.simplefilter("ignore")
    objective, (build, batch) = objective_of(name), CONTESTANTS[contestant]
    grouped: dict[str, bool] = {}
    if objective.conditional and contestant in TPE:
        grouped = {"group": True} | ({"multivariate": True} if contestant != "batched" else {})
    begun = time.perf_counter()
    best = best_of_batches(objective, build(seed=seed, **grouped), n_trials, batch)
    return best, time.perf_counter() - begun


def run(job: Job) -> tuple[Job, tuple[float, float]]:
    return job, contest(*job)


def results(
    jobs: list[Job], processes: int, log: Path | None
) -> Iterator[tuple[Job, tuple[float, float]]]:
    """Run all jobs that the log does not hold; yield the outcomes of all.

    Yields:
        Each job and its outcome.
    """
    lines = log.read_text().splitlines() if log and log.exists() else []
    known = {tuple(job): tuple(outcome) for job, outcome in map(json.loads, lines)}
    yield from ((job, known[job]) for job in jobs if job in known)
    left = [job for job in jobs if job not in known]
    with get_context("spawn").Pool(processes) as pool:
        for job, outcome in pool.imap_unordered(run, left):
            if log:
                with log.open("a") as file:
                    file.write(json.dumps([job, outcome]) + "\n")
            yield job, outcome


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=24)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--trials", type=int, default=320)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--objectives", nargs="+", default=[*FUNCTIONS, *INTERACTING, HEAD])
    parser.add_argument("--contestants", nargs="+", default=list(CONTESTANTS))
    parser.add_argument("--log", type=Path)
    args = parser.parse_args()
    seeds = range(args.first_seed, args.first_seed + args.seeds)
    jobs = [
        (c, o, s, args.trials) for o in args.objectives for s in seeds for c in args.contestants
    ]
    found: dict[tuple[str, str], list[tuple[float, float]]] = defaultdict(list)
    for (contestant, name, *_), outcome in results(jobs, args.processes, args.log):
        found[name, contestant].append(outcome)
    table = {}
    print(
        f"{'objective':18} {'contestant':17} {'25 %':>10} {'median':>10} {'75 %':>10}   s a search"
    )
    for (name, contestant), outcomes in found.items():
        values, seconds = np.array(outcomes).T
        quartiles = np.percentile(values, [25, 50, 75]).tolist()
        table[f"{name}/{contestant}"] = quartiles
        low, median, high = quartiles
        print(
            f"{name:18} {contestant:17} {low:10.4f} {median:10.4f} {high:10.4f} "
            f"{np.median(seconds):10.2f}"
        )
    print(json.dumps({"trials": args.trials, "seeds": args.seeds, "quartiles": table}))


if __name__ == "__main__":
    main()
