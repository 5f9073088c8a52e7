"""CPU time of a study with a cross-validated objective against one with a single split.

Both studies train the same 24 linear heads (random search, no pruning, early stopping after 10
epochs). They take turns, so that a busy machine slows both; CPU times of all processes are counted.

    python scripts/benchmarks/folds.py --data-root FEATURES --manifest-dir MANIFESTS

Takes three minutes on 638 rows.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from headsweep.studies.study import StoredStudy

STUDY = {
    "base": ["head=linear", "features=visual", "training.max_epochs=50"],
    "space": {
        "training.learning_rate": {"type": "float", "low": 1e-4, "high": 1e-1, "log": True},
        "training.weight_decay": {"type": "float", "low": 1e-6, "high": 1e-2, "log": True},
        "features.normalization": {"type": "categorical", "choices": ["zscore", "l2", "none"]},
    },
    "sampler": {"name": "random"},
}
ALL = ("create", "worker", "finalize")
FUSION = ("slots a step", "µs a slot-step")


def cpu_s() -> float:
    """Return the CPU time of all child processes that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def measured(
    folder: Path, name: str, objective: dict[str, object], data: list[str], n: int
) -> dict[str, float]:
    """Create, search and finalize a study in new processes.

    Returns:
        CPU seconds of each step, slots a step and microseconds a slot-step.
    """
    study = STUDY | {"study": {"name": name, "n_trials": n, "seed": 1}, "objective": objective}
    (folder / f"{name}.yaml").write_text(json.dumps(study), encoding="utf-8")
    headsweep = [sys.executable, "-m", "headsweep"]
    environment = os.environ | {"HEADSWEEP_CACHE": str(folder / "packed"), "OMP_NUM_THREADS": "1"}
    times: dict[str, float] = {}
    for step, arguments in (
        ("create", [f"{name}.yaml", *data]),
        ("worker", [name]),
        ("finalize", [name]),
    ):
        begun = cpu_s()
        command = [*headsweep, step, *arguments, "--storage", f"sqlite:///{folder}/{name}.db"]
        subprocess.run(command, cwd=folder, env=environment, check=True, capture_output=True)
        times[step] = cpu_s() - begun
    with StoredStudy.open(name, f"sqlite:///{folder}/{name}.db") as searched:
        effort = searched.summary().effort
    times["slots a step"] = effort.slots_per_step or 0.0
    times["µs a slot-step"] = effort.us_per_slot_step or 0.0
    return times


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data-root", type=Path, required=True)
    parser.add_argument("--manifest-dir", type=Path, required=True)
    parser.add_argument("--trials", type=int, default=24)
    parser.add_argument("--folds", type=int, default=5)
    parser.add_argument("--repeats", type=int, default=3)
    given = parser.parse_args()
    data = [
        f"paths.data_root={given.data_root.resolve()}",
        f"paths.manifest_dir={given.manifest_dir.resolve()}",
    ]
    runs: dict[str, list[dict[str, float]]] = {"single split": [], f"{given.folds} folds": []}
    for repeat in range(given.repeats):
        for way, times in runs.items():
            objective = {} if way == "single split" else {"folds": given.folds}
            with tempfile.TemporaryDirectory() as folder:
                name = f"study-{repeat}"
                times.append(measured(Path(folder), name, objective, data, given.trials))
    print(
        f"{'CPU seconds, median':22}{'create':>10}{'search':>10}{'finalize':>10}{'all':>10}"
        f"{FUSION[0]:>16}{FUSION[1]:>16}"
    )
    totals = []
    for way, times in runs.items():
        by_step = [statistics.median(t[s] for t in times) for s in ALL]
        totals.append((by_step[1], statistics.median(sum(t[s] for s in ALL) for t in times)))
        seconds = "".join(f"{s:10.1f}" for s in (*by_step, totals[-1][1]))
        print(f"{way:22}{seconds}" + "".join(
            f"{statistics.median(t[name] for t in times):16.1f}" for name in FUSION
        ))  # fmt: skip
    search, whole = (after / before for before, after in zip(*totals, strict=True))
    print(f"ratio: search {search:.2f}, whole study {whole:.2f}")


if __name__ == "__main__":
    main()
