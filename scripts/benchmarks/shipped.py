"""Compare a whole shipped study: headsweep's worker against `study.optimize` of a plain loop.

Both search the same space with the same budget, pruner and data, on one core, in turn. The plain
loop is what a good engineer writes: Optuna's own TPE and pruner on its SQLite storage, tensors in
memory that are normalized once, fused AdamW, early stopping, scikit-learn's metric. CPU seconds are
comparable even on a machine that does other work; wall seconds are not.
"""

from __future__ import annotations

import json
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import optuna
import torch
from fusion import Fusion, trained_trials
from rich.console import Console
from rich.table import Table
from ways import epochs_of_one
from workload import make_split

from headsweep.config.values import with_values
from headsweep.data.dataset import Dataset
from headsweep.engine.inputs import Inputs
from headsweep.search.samplers_and_pruners import trials_at_once
from headsweep.search.space import suggest
from headsweep.search.spec import StudySpec
from headsweep.search.study_file import load_study_file
from headsweep.settings import EngineSettings
from headsweep.studies.study import StoredStudy
from headsweep.workers.signals import Stop
from headsweep.workers.worker import work

ROOT = Path(__file__).parents[2]
VALID_ROWS = 3039
CPU = torch.device("cpu")


@dataclass(frozen=True)
class Outcome:
    """Cost and best value of one study in one service; only headsweep counts steps."""

    wall_s: float
    cpu_s: float
    best: float
    epochs: int
    """Epochs trained, over all trials."""
    slots_per_step: float | None = None
    us_per_slot_step: float | None = None
    fusion: Fusion | None = None


def make_dataset(rows: int, width: int, n_labels: int, valid_rows: int = VALID_ROWS) -> Dataset:
    """Return random features with linear labels; by default CT-RATE's number of valid rows."""
    parts = [
        make_split("train", rows, width, n_labels, seed=1),
        make_split("valid", valid_rows, width, n_labels, seed=2),
    ]
    return Dataset.from_arrays(
        features={"visual": np.concatenate([part.features["visual"] for part in parts])},
        targets=np.concatenate([part.targets for part in parts]),
        labels=list(parts[0].labels),
        split=["train"] * rows + ["valid"] * valid_rows,
    )


def by_headsweep(spec: StudySpec, data: Dataset, folder: Path, slots: int | None) -> Outcome:
    """Run one worker on its own SQLite storage.

    Returns:
        The outcome.
    """
    stored = StoredStudy.create(spec, f"sqlite:///{folder}/headsweep.db")
    settings = EngineSettings(device="cpu") if slots is None else EngineSettings("cpu", slots)
    start, cpu = time.perf_counter(), time.process_time()
    work(stored, settings, Stop(), data=data)
    wall_s, cpu_s = time.perf_counter() - start, time.process_time() - cpu
    with StoredStudy.open(spec.name, f"sqlite:///{folder}/headsweep.db") as again:
        summary = again.summary()
        trained = trained_trials(again, data)
    effort = summary.effort
    best = summary.best_value or 0.0
    epochs = sum(trial.epochs for trial in trained)
    fusion = Fusion.of(trained, min(settings.slots_on("cpu"), trials_at_once(spec)))
    assert fusion.fused_steps == effort.fused_steps, (fusion, effort)
    slots_per_step, us = effort.slots_per_step, effort.us_per_slot_step
    return Outcome(wall_s, cpu_s, best, epochs, slots_per_step, us, fusion)


def by_optimize(spec: StudySpec, data: Dataset, folder: Path, slots: int | None) -> Outcome:
    """Run Optuna in this process.

    Returns:
        The outcome.
    """
    start, cpu = time.perf_counter(), time.process_time()
    inputs = Inputs(*data.search_splits(spec.config), CPU)
    study = optuna.create_study(
        storage=f"sqlite:///{folder}/optuna.db",
        direction="maximize",
        sampler=optuna.samplers.TPESampler(multivariate=True, group=True, seed=spec.seed),
        pruner=optuna.pruners.SuccessiveHalvingPruner(**spec.pruner.kwargs),
    )
    epochs = 0

    def objective(trial: optuna.Trial) -> float:
        nonlocal epochs
        params = suggest(trial, spec.space, spec.config)
        config = with_values(spec.config, params, where=spec.name)
        best, best_epoch = 0.0, 0
        for epoch, value in enumerate(epochs_of_one(config, inputs), start=1):
            epochs += 1
            if value > best:
                best, best_epoch = value, epoch
            trial.report(value, epoch)
            if trial.should_prune():
                raise optuna.TrialPruned
            if epoch - best_epoch >= (config.training.early_stopping_patience or epoch + 1):
                break
        return best

    study.optimize(objective, n_trials=spec.n_trials)
    wall_s, cpu_s = time.perf_counter() - start, time.process_time() - cpu
    return Outcome(wall_s, cpu_s, study.best_value, epochs)


Service = Callable[[StudySpec, Dataset, Path, int | None], Outcome]
SERVICES: dict[str, Service] = {"headsweep": by_headsweep, "study.optimize": by_optimize}


def compare(
    study: str, data: Dataset, *, trials: int | None, seeds: Sequence[int], slots: int | None,
    alone: bool,
) -> None:  # fmt: skip
    """Run both services in turn, a round a seed, and print a table and one JSON line last."""
    outcomes: dict[str, list[Outcome]] = {name: [] for name in SERVICES}
    if alone:
        del outcomes["study.optimize"]
    for seed in seeds:
        overrides = [f"study.seed={seed}"] + ([f"study.n_trials={trials}"] if trials else [])
        spec = load_study_file(ROOT / "search_spaces" / f"{study}.yaml", overrides)
        spec = spec.model_copy(update={"config": data.apply_to(spec.config)})
        for name, done in outcomes.items():
            with tempfile.TemporaryDirectory() as folder:
                done.append(SERVICES[name](spec, data, Path(folder), slots))
            print(json.dumps({"seed": seed, "service": name, **asdict(done[-1])}), flush=True)
    report(study, outcomes)


def report(study: str, outcomes: dict[str, list[Outcome]]) -> None:
    """Print medians over the rounds; ratios are taken round by round."""
    table = Table(title=study)
    columns = ("service", "wall s", "CPU s", "best value", "epochs",
               "slots a step", "most possible", "µs")  # fmt: skip
    for column in columns:
        table.add_column(column, justify="left" if column == "service" else "right")
    for name, done in outcomes.items():
        table.add_row(
            name, f"{_median([o.wall_s for o in done]):.1f}",
            f"{_median([o.cpu_s for o in done]):.1f}", f"{_median([o.best for o in done]):.4f}",
            f"{_median([o.epochs for o in done]):.0f}",
            *(f"{_median(known):.1f}" if (known := [v for v in values if v is not None]) else "–"
              for values in ([o.slots_per_step for o in done],
                             [o.fusion and o.fusion.most_possible for o in done],
                             [o.us_per_slot_step for o in done])),
        )  # fmt: skip
    Console().print(table)
    ratios = {
        clock: [
            getattr(other, clock) / getattr(ours, clock)
            for ours, other in zip(
                outcomes["headsweep"], outcomes.get("study.optimize", []), strict=False
            )
        ]
        for clock in ("wall_s", "cpu_s")
    }
    plain = {name: [asdict(o) for o in done] for name, done in outcomes.items()}
    print(json.dumps({"study": study, "outcomes": plain, "ratios": ratios}))


def _median(values: Sequence[float]) -> float:
    return statistics.median(values)
