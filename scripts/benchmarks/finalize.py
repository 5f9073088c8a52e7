"""CPU time of the whole `finalize` of a shipped study, and of its parts; wall time after training.

The time contains the finalists' training, the evaluation, the references, the ensembles, the health
of the features and the report. Another process draws the figures; its CPU time is not contained,
but the wall time from the end of the training to the end of `finalize` contains any wait for it.
The share of the references is that of the same run: between two runs, the training alone differs by
several percent. `--without` also finalizes the study without references; both search the same
trials with one worker, so that they have the same finalists.
`--real FOLDER` reads the features and manifests of a folder instead of random rows.

Takes two to three minutes with the default rows.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import json
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
from workload import make_split

import headsweep as hs
from headsweep.leaderboard import finalize

VALID_ROWS, TEST_ROWS = 3039, 1000
CONTESTANTS = {"with references": "null", "without": "[]"}


def make_dataset(rows: int, width: int, n_labels: int) -> hs.Dataset:
    counts = {"train": rows, "valid": VALID_ROWS, "test": TEST_ROWS}
    parts = [
        make_split(name, n, width, n_labels, seed=seed)
        for seed, (name, n) in enumerate(counts.items(), start=1)
    ]
    return hs.Dataset.from_arrays(
        features={"visual": np.concatenate([part.features["visual"] for part in parts])},
        targets=np.concatenate([part.targets for part in parts]),
        labels=list(parts[0].labels),
        split=[name for name, n in counts.items() for _ in range(n)],
    )


REFERENCES = ("load_references", "score_references", "add_references", "write_references")
TRAINING = ("confirm_with_progress",)


@contextlib.contextmanager
def timed_functions(names: tuple[str, ...]) -> Iterator[list[float]]:
    """Collect the CPU seconds of every call of functions that `finalize` calls by name.

    Only the calling thread counts: references are scored by a second one.
    """
    seconds: list[float] = []
    with contextlib.ExitStack() as stack:
        for name in names:
            stack.enter_context(patch.object(finalize, name, _timed(name, seconds)))
        yield seconds


def _timed(name: str, seconds: list[float]) -> Callable[..., Any]:
    function = getattr(finalize, name)

    @functools.wraps(function)
    def timed(*arguments: Any, **options: Any) -> Any:
        start = time.thread_time()
        try:
            return function(*arguments, **options)
        finally:
            seconds.append(time.thread_time() - start)

    return timed


@contextlib.contextmanager
def end_of_training() -> Iterator[list[float]]:
    """Collect the wall times at which the training ended."""
    ends: list[float] = []
    train = finalize.confirm_with_progress

    @functools.wraps(train)
    def noted(*arguments: Any, **options: Any) -> Any:
        try:
            return train(*arguments, **options)
        finally:
            ends.append(time.perf_counter())

    with patch.object(finalize, "confirm_with_progress", noted):
        yield ends


def seconds_of(
    arguments: argparse.Namespace, references: str, data: hs.Dataset | None
) -> dict[str, float]:
    """Return the seconds that `finalize` takes after a search, and its parts."""
    overrides = [f"study.n_trials={arguments.trials}", f"finalists.references={references}"]
    if data is None:
        overrides.append(f"paths.data_root={arguments.real / 'features'}")
        overrides.append(f"paths.manifest_dir={arguments.real / 'manifests'}")
    with (
        tempfile.TemporaryDirectory() as folder,
        hs.Study.create(
            arguments.study,
            data=data,
            out=Path(folder) / "board",
            storage=f"sqlite:///{folder}/study.db",
            overrides=overrides,
        ) as made,
        timed_functions(REFERENCES) as of_references,
        timed_functions(TRAINING) as of_training,
        end_of_training() as ends,
    ):
        made.run(progress=False)
        start = time.process_time()
        made.finalize()
        whole = time.process_time() - start
        wall = time.perf_counter() - ends[-1]
    training, added = sum(of_training), sum(of_references)
    return {
        "whole": whole,
        "training": training,
        "after the training": whole - training,
        "references": added,
        "wall after the training": wall,
        "share": added / (whole - added),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--study", default="linear_visual")
    parser.add_argument("--rows", type=int, default=46_438)
    parser.add_argument("--trials", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--without", action="store_true")
    parser.add_argument("--real", type=Path)
    arguments = parser.parse_args()
    data = None if arguments.real else make_dataset(arguments.rows, 512, 18)
    contestants = CONTESTANTS if arguments.without else {"with references": "null"}
    taken: dict[str, list[dict[str, float]]] = {name: [] for name in contestants}
    for _ in range(arguments.rounds):
        for name, references in contestants.items():
            parts = seconds_of(arguments, references, data)
            taken[name].append(parts)
            seconds = ", ".join(f"{part} {value:.2f}" for part, value in parts.items())
            print(f"{name}: CPU seconds (wall where named): {seconds}", flush=True)
    share = float(np.median([parts["share"] for parts in taken["with references"]]))
    print(f"references take {share:.1%} of the rest of the same run")
    if arguments.without:
        whole, bare = (
            float(np.median([parts["whole"] for parts in rounds])) for rounds in taken.values()
        )
        print(f"a run with them takes {whole / bare - 1:.1%} more than one without")
    print(json.dumps(vars(arguments) | taken, default=str))


if __name__ == "__main__":
    main()
