"""Compare the grid of 104 linear heads with the way in which a challenge's script trains it.

That way is re-implemented in plain PyTorch: one `nn.Linear` a head, the losses of all heads on a
shared minibatch summed, one backward pass, one AdamW with a parameter group a head, cosine schedule
with 5 epochs of warm-up, weights drawn from N(0, 0.01²), and a head that stops early by the moving
average of its validation loss is left out from then on. headsweep runs the study of
`search_spaces/linear_grid_unpruned.yaml` with the same settings in one worker on SQLite, from the
study file to the last trial.

Both get the same rows in the same minibatches (the tape), the same initial weights and one thread,
and take turns. The script's way is spared its data loader, and its AUPRC is computed off the clock
unless `--scikit-learn` charges it for scikit-learn's after every epoch; headsweep ranks every epoch
on the clock. CPU seconds are compared. The values of trials that entered the tape at its beginning
are compared one by one.

Takes some ten minutes; with `--epochs 6` half a minute.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table
from shipped import make_dataset
from sklearn.metrics import average_precision_score
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits
from workload import ROOT

from headsweep.data.dataset import Dataset, Split
from headsweep.engine.inputs import Inputs
from headsweep.engine.tape import batch_bounds, permutation
from headsweep.metrics.ranking import average_precision, macro
from headsweep.search.spec import StudySpec
from headsweep.search.study_file import load_study_file
from headsweep.settings import EngineSettings
from headsweep.studies.study import StoredStudy
from headsweep.workers.signals import Stop
from headsweep.workers.worker import work

KEYS = ("features.normalization", "training.learning_rate", "training.weight_decay")
WARMUP_EPOCHS = 5
Point = tuple[str, float, float]
"""Normalization, learning rate and weight decay of a head."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data-root", help="folder of features; random data without it")
    parser.add_argument("--manifest-dir", help="folder of manifests")
    parser.add_argument("--rows", type=int, default=8_100, help="of random data")
    parser.add_argument("--epochs", type=int, default=150)
    parser.add_argument("--patience", type=int, help="of early stopping; no head stops without it")
    parser.add_argument("--window", type=int, default=5, help="of the moving average")
    parser.add_argument("--slots", type=int, nargs="+", default=[32, 128])
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--scikit-learn", action="store_true", help="on the script's clock")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    paths = {"data_root": arguments.data_root, "manifest_dir": arguments.manifest_dir}
    if arguments.data_root:
        data = Dataset.from_manifests(arguments.data_root, arguments.manifest_dir)
    else:
        data = make_dataset(arguments.rows, 512, 18)
    spec = load_study_file(
        ROOT / "search_spaces" / "linear_grid_unpruned.yaml",
        [
            "head.init=normal",
            f"training.max_epochs={arguments.epochs}",
            f"training.warmup_epochs={min(WARMUP_EPOCHS, arguments.epochs)}",
            f"training.early_stopping_patience={arguments.patience or 'null'}",
            "training.early_stopping_metric=loss",
            f"training.early_stopping_window={arguments.window}",
            *(f"paths.{k}={v}" for k, v in paths.items() if v),
        ],
    )
    seconds: dict[str, list[float]] = {}
    outcomes: dict[str, Outcome] = {}
    for _ in range(arguments.rounds):
        for slots in arguments.slots:
            name = f"headsweep, {slots} slots"
            outcomes[name] = by_headsweep(spec, data, slots)
            seconds.setdefault(name, []).append(outcomes[name].cpu_s)
        name = "summed losses"
        outcomes[name] = by_summed_losses(spec, data, arguments)
        seconds.setdefault(name, []).append(outcomes[name].cpu_s)
    report(seconds, outcomes)


@dataclass
class Outcome:
    """Cost of training the grid, and the best AUPRC of the heads."""

    cpu_s: float = 0.0
    epochs: int = 0
    """Trained, over all heads."""
    best: dict[Point, float] = field(default_factory=dict)
    comparable: set[Point] = field(default_factory=set)
    """Heads that saw the rows in the order of the tape's beginning."""
    slots_per_step: float | None = None
    us_per_slot_step: float | None = None


def by_headsweep(spec: StudySpec, data: Dataset, slots: int) -> Outcome:
    """Run the study in one worker.

    Returns:
        The outcome.
    """
    with tempfile.TemporaryDirectory() as folder:
        url = f"sqlite:///{folder}/headsweep.db"
        begun = time.process_time()
        stored = StoredStudy.create(spec, url)
        work(stored, EngineSettings(device="cpu", slots=slots), Stop(), data=data)
        outcome = Outcome(time.process_time() - begun)
        with StoredStudy.open(spec.name, url) as again:
            effort = again.summary().effort
            outcome.slots_per_step = effort.slots_per_step
            outcome.us_per_slot_step = effort.us_per_slot_step
            for trial in again.trials():
                point: Point = tuple(trial.params[key] for key in KEYS)
                outcome.best[point] = trial.value or 0.0
                outcome.epochs += trial.user_attrs["epochs_trained"]
                if trial.user_attrs["tape_position"] == 0:
                    outcome.comparable.add(point)
    return outcome


class SummedLosses:
    """All heads of the grid in one model, as the script trains them."""

    def __init__(self, points: Sequence[Point], inputs: Inputs, seed: int) -> None:
        views = {p[0]: None for p in points}
        self.x, self.x_valid = (
            {name: inputs.view("visual", name, valid=valid) for name in views}  # type: ignore[arg-type]
            for valid in (False, True)
        )
        self.targets = inputs.targets
        self.valid_targets = torch.from_numpy(inputs.valid_targets).float()
        n_labels, width = inputs.targets.shape[1], self.x[points[0][0]].shape[1]
        self.heads = nn.ModuleDict()
        for k in range(len(points)):
            torch.manual_seed(seed)
            head = nn.Linear(width, n_labels)
            nn.init.zeros_(head.bias)
            nn.init.normal_(head.weight, std=0.01)
            self.heads[str(k)] = head
        self.points = points
        self.running = list(range(len(points)))
        self.optimizer = torch.optim.AdamW(
            [
                {"params": self.heads[str(k)].parameters(), "lr": rate, "weight_decay": decay}
                for k, (_, rate, decay) in enumerate(points)
            ]
        )

    def step(self, rows: Tensor, share: float) -> None:
        """Take one step of all running heads at a share of their learning rates."""
        batch = {name: x[rows] for name, x in self.x.items()}
        targets = self.targets[rows]
        for group, (_, rate, _) in zip(self.optimizer.param_groups, self.points, strict=True):
            group["lr"] = rate * share
        self.optimizer.zero_grad()
        total = sum(
            binary_cross_entropy_with_logits(self.heads[str(k)](batch[self.points[k][0]]), targets)
            for k in self.running
        )
        assert isinstance(total, Tensor)
        total.backward()
        self.optimizer.step()

    @torch.no_grad()
    def validate(self) -> tuple[dict[int, Tensor], dict[int, float]]:
        """Return logits `(n, c)` and mean losses of the running heads."""
        logits = {k: self.heads[str(k)](self.x_valid[self.points[k][0]]) for k in self.running}
        losses = {
            k: float(binary_cross_entropy_with_logits(z, self.valid_targets))
            for k, z in logits.items()
        }
        return logits, losses


def by_summed_losses(spec: StudySpec, data: Dataset, arguments: argparse.Namespace) -> Outcome:
    """Train the grid as the script does.

    Returns:
        The outcome.
    """
    train, valid = data.search_splits(data.apply_to(spec.config))
    points = grid(spec)
    training = spec.config.training
    outcome = Outcome(comparable=set(points))
    begun = time.process_time()
    inputs = Inputs(train, valid, torch.device("cpu"))
    model = SummedLosses(points, inputs, training.seed)
    bounds = batch_bounds(inputs.n_train, training.batch_size)
    losses: dict[int, list[float]] = {k: [] for k in range(len(points))}
    for epoch in range(training.max_epochs):
        order = permutation(training.seed, epoch, inputs.n_train)
        for i, (start, end) in enumerate(bounds):
            share = schedule(epoch * len(bounds) + i, len(bounds), training.max_epochs)
            model.step(order[start:end], share)
        logits, now = model.validate()
        outcome.epochs += len(model.running)
        outcome.cpu_s += time.process_time() - begun
        values = ranked(logits, inputs)
        begun = time.process_time()
        if arguments.scikit_learn:
            values = ranked_by_scikit_learn(logits, valid)
        for k in list(model.running):
            point = points[k]
            outcome.best[point] = max(outcome.best.get(point, 0.0), values[k])
            losses[k].append(now[k])
            if stops(losses[k], arguments.window, training.early_stopping_patience):
                model.running.remove(k)
        if not model.running:
            break
    outcome.cpu_s += time.process_time() - begun
    return outcome


def grid(spec: StudySpec) -> list[Point]:
    """Return all heads of the study."""
    normalizations, rates, decays = (spec.space[key].choices for key in KEYS)  # type: ignore[attr-defined]
    return [(str(n), float(r), float(d)) for n in normalizations for r in rates for d in decays]


def schedule(step: int, steps_per_epoch: int, epochs: int) -> float:
    """Return the share of the largest learning rate at a step: warm-up, then half a cosine."""
    warmup, total = min(WARMUP_EPOCHS, epochs) * steps_per_epoch, epochs * steps_per_epoch
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, total - warmup)))


def stops(losses: Sequence[float], window: int, patience: int | None) -> bool:
    """Return whether the moving average has not improved for `patience` epochs."""
    averages = [statistics.fmean(losses[max(0, n - window) : n]) for n in range(1, len(losses) + 1)]
    return patience is not None and len(averages) - 1 - averages.index(min(averages)) >= patience


def ranked(logits: Mapping[int, Tensor], inputs: Inputs) -> dict[int, float]:
    """Return the macro AUPRC of every head, by headsweep's ranking."""
    scores = torch.stack(list(logits.values())).numpy()
    values: NDArray[np.float64] = macro(average_precision(inputs.valid_targets, scores))
    return dict(zip(logits, values.tolist(), strict=True))


def ranked_by_scikit_learn(logits: Mapping[int, Tensor], valid: Split) -> dict[int, float]:
    """Return the macro AUPRC of every head, by scikit-learn."""
    defined = [j for j, truth in enumerate(valid.targets.T) if 0 < truth.sum() < len(truth)]
    return {
        k: float(np.mean([average_precision_score(valid.targets[:, j], z[:, j]) for j in defined]))
        for k, z in ((k, z.numpy()) for k, z in logits.items())
    }


def report(seconds: Mapping[str, Sequence[float]], outcomes: Mapping[str, Outcome]) -> None:
    """Print seconds, ratios and the largest difference of values."""
    base = outcomes["summed losses"]
    slowest = statistics.median(seconds["summed losses"])
    table = Table("", "CPU s", "ratio", "epochs", "best AUPRC", "largest difference", "heads",
                  "slots a step", "µs a slot-step")  # fmt: skip
    for name, outcome in outcomes.items():
        cpu_s = statistics.median(seconds[name])
        differences = [abs(outcome.best[p] - base.best[p]) for p in outcome.comparable]
        table.add_row(
            name, f"{cpu_s:.1f}", f"{slowest / cpu_s:.1f}", str(outcome.epochs),
            f"{max(outcome.best.values()):.5f}", f"{max(differences):.1e}", str(len(differences)),
            *(f"{v:.1f}" if v else "–" for v in (outcome.slots_per_step, outcome.us_per_slot_step)),
        )  # fmt: skip
    Console().print(table)
    Console().print_json(json.dumps({name: list(values) for name, values in seconds.items()}))


if __name__ == "__main__":
    main()
