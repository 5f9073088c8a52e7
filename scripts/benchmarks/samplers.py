"""Compare samplers at equal trials: batched TPE, stock TPE, random search.

    python scripts/benchmarks/samplers.py [--seeds 24] [--trials 320] [--processes 2]
        [--objectives "Branin 2" ... head] [--contestants batched stock ...]

The objectives are five standard functions and a recorded head study. `batched` and `stock in
batches` suggest 32 trials before any of them has a value; `stock` suggests one after another.
Contestants run in turn, seed by seed. The head study's values are minus the AUPRC.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
import warnings
from collections import defaultdict
from collections.abc import Callable
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import optuna
from optuna.samplers import BaseSampler, RandomSampler, TPESampler

sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.helpers.objectives import FUNCTIONS, Objective, best_of_batches, head_study

from headsweep.search.samplers.tpe import BatchedTPESampler

BATCH = 32
HEAD = "head"
CONTESTANTS: dict[str, tuple[Callable[..., BaseSampler], int]] = {
    "batched": (BatchedTPESampler, BATCH),
    "stock": (TPESampler, 1),
    "stock in batches": (TPESampler, BATCH),
    "random": (RandomSampler, BATCH),
}


def objective_of(name: str) -> Objective:
    return head_study() if name == HEAD else FUNCTIONS[name]


def contest(contestant: str, name: str, seed: int, n_trials: int) -> tuple[float, float]:
    """Run one search.

    Returns:
        The best value, and the seconds of the search.
    """
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    warnings.simplefilter("ignore")
    objective, (build, batch) = objective_of(name), CONTESTANTS[contestant]
    grouped = {"group": True} if objective.conditional and build is not RandomSampler else {}
    begun = time.perf_counter()
    best = best_of_batches(objective, build(seed=seed, **grouped), n_trials, batch)
    return best, time.perf_counter() - begun


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=24)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--trials", type=int, default=320)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--objectives", nargs="+", default=[*FUNCTIONS, HEAD])
    parser.add_argument("--contestants", nargs="+", default=list(CONTESTANTS))
    args = parser.parse_args()
    seeds = range(args.first_seed, args.first_seed + args.seeds)
    jobs = [
        (c, o, s, args.trials) for o in args.objectives for s in seeds for c in args.contestants
    ]
    with get_context("spawn").Pool(args.processes) as pool:
        results = pool.starmap(contest, jobs, chunksize=1)
    found: dict[tuple[str, str], list[tuple[float, float]]] = defaultdict(list)
    for (contestant, name, *_), result in zip(jobs, results, strict=True):
        found[name, contestant].append(result)
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
