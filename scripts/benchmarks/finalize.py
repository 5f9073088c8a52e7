"""CPU time of the whole `finalize` of a shipped study, with and without references.

Both studies search the same trials with one worker, so that they have the same finalists. The time
contains the finalists' training, the evaluation, the ensembles, the health of the features and the
report.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path

import numpy as np
from workload import make_split

import headsweep as hs

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


def cpu_seconds(study: str, trials: int, references: str, data: hs.Dataset) -> float:
    """Return the CPU seconds that `finalize` takes after a search."""
    overrides = [f"study.n_trials={trials}", f"finalists.references={references}"]
    with (
        tempfile.TemporaryDirectory() as folder,
        hs.Study.create(study, data=data, out=Path(folder) / "board", overrides=overrides) as made,
    ):
        made.run(progress=False)
        start = time.process_time()
        made.finalize()
        return time.process_time() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--study", default="linear_visual")
    parser.add_argument("--rows", type=int, default=46_438)
    parser.add_argument("--trials", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=1)
    arguments = parser.parse_args()
    data = make_dataset(arguments.rows, 512, 18)
    taken: dict[str, list[float]] = {name: [] for name in CONTESTANTS}
    for _ in range(arguments.rounds):
        for name, references in CONTESTANTS.items():
            seconds = cpu_seconds(arguments.study, arguments.trials, references, data)
            taken[name].append(seconds)
            print(f"{name}: {seconds:.1f} s of CPU", flush=True)
    whole, bare = (float(np.median(taken[name])) for name in CONTESTANTS)
    print(f"references add {whole / bare - 1:.1%}")
    print(json.dumps(vars(arguments) | taken))


if __name__ == "__main__":
    main()
