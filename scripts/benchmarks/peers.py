"""Compare five services on the same pre-drawn configs of one study: trials a minute.

The services are headsweep (one worker, its SQLite storage), Optuna's `study.optimize` in this
process, Ray Tune with reused actors, Syne Tune's local backend, and one process for each trial that
reads one file per row, as the seed benchmark did. All of them train on one core, one trial process
at a time, and all but the last prune by successive halving at the same rungs. Except in headsweep,
a trial is a PyTorch loop with tensors in memory, fused AdamW and scikit-learn's metric. Before the
clock starts, the data are loaded into memory for these, and packed for headsweep.

Ray Tune and Syne Tune are compared where they are installed (the `benchmark` extra).

Takes some five minutes without Ray Tune and Syne Tune; a whole study with `--study` one minute a
round on 638 rows of MLPs, and up to nine on 46,438 rows.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import logging
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import torch
import yaml
from rich.console import Console
from rich.table import Table
from sklearn.metrics import average_precision_score
from torch import Tensor, nn

from headsweep.data.dataset import Dataset
from headsweep.search.spec import StudySpec

EPOCHS, RUNG, REDUCTION = 20, 1, 3
BATCH_SIZE = 256


@dataclass(frozen=True)
class Data:
    """The folder of the files, and the same features and labels in memory."""

    root: Path
    train: tuple[np.ndarray, np.ndarray]
    valid: tuple[np.ndarray, np.ndarray]


def make_data(root: Path, rows: int, width: int, n_labels: int) -> Data:
    """Write features as one file a row, and manifests, before any clock starts.

    Returns:
        The files, and their contents in memory.
    """
    rng = np.random.default_rng(0)
    weights = rng.normal(size=(width, n_labels)) / width**0.5
    (root / "features").mkdir()
    (root / "manifests").mkdir()
    splits = []
    for name, n in (("train", rows), ("valid", rows // 4)):
        x = rng.normal(size=(n, width)).astype(np.float32)
        y = (x @ weights + rng.normal(size=(n, n_labels)) > 1.0).astype(np.uint8)
        header = ["volumename", "visual_feature_path", *(f"label {j}" for j in range(n_labels))]
        lines = [",".join(header)]
        for i in range(n):
            volume = f"{name}_{i}_a_1"
            np.savez(root / "features" / f"{volume}.npz", arr=x[i : i + 1])
            lines.append(",".join([volume, f"{volume}.npz", *map(str, y[i])]))
        (root / "manifests" / f"{name}.csv").write_text("\n".join(lines) + "\n")
        splits.append((x, y))
    return Data(root, *splits)


def draw(n: int) -> list[dict[str, float]]:
    """Return random learning rates and weight decays."""
    rng = np.random.default_rng(1)
    rates, decays = 10 ** rng.uniform(-4, -1.5, n), 10 ** rng.uniform(-4, 0, n)
    return [
        {"training.learning_rate": float(r), "training.weight_decay": float(d)}
        for r, d in zip(rates, decays, strict=True)
    ]


def head_of(kind: str, width: int, n_labels: int) -> nn.Module:
    if kind == "linear":
        return nn.Linear(width, n_labels)
    return nn.Sequential(nn.Linear(width, 256), nn.ReLU(), nn.Linear(256, n_labels))


def epochs_of(
    params: dict[str, float], kind: str, train: tuple[Any, Any], valid: tuple[Any, Any]
) -> Iterator[float]:
    """Yield validation macro AUPRC after each epoch of one trial."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    x, y = torch.as_tensor(train[0]), torch.as_tensor(train[1]).float()
    x_valid, y_valid = torch.as_tensor(valid[0]), np.asarray(valid[1])
    mean, std = x.mean(0), x.std(0)
    x, x_valid = (x - mean) / std, (x_valid - mean) / std
    head = head_of(kind, x.shape[1], y.shape[1])
    optimizer = torch.optim.AdamW(
        head.parameters(), lr=params["training.learning_rate"],
        weight_decay=params["training.weight_decay"], fused=True,
    )  # fmt: skip
    for _ in range(EPOCHS):
        for rows in torch.randperm(len(x)).split(BATCH_SIZE):
            step(head, optimizer, x[rows], y[rows])
        with torch.no_grad():
            scores = torch.sigmoid(head(x_valid)).numpy()
        yield macro(y_valid, scores)


def step(head: nn.Module, optimizer: torch.optim.Optimizer, x: Tensor, y: Tensor) -> None:
    loss = nn.functional.binary_cross_entropy_with_logits(head(x), y)
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    optimizer.step()


def macro(targets: np.ndarray, scores: np.ndarray) -> float:
    labels = range(targets.shape[1])
    return float(np.mean([average_precision_score(targets[:, j], scores[:, j]) for j in labels]))


def study_of(n_trials: int, kind: str, data: Data, folder: Path) -> StudySpec:
    """Return the same study for headsweep, from its file."""
    from headsweep.search.study_file import load_study_file

    file = folder / "study.yaml"
    head = ["head=mlp", "head.depth=1", "head.width=256"] if kind == "mlp" else ["head=linear"]
    base = [
        *head, f"paths.data_root={data.root / 'features'}",
        f"paths.manifest_dir={data.root / 'manifests'}", f"training.batch_size={BATCH_SIZE}",
        f"training.max_epochs={EPOCHS}", "training.early_stopping_patience=null",
        "training.schedule=constant",
    ]  # fmt: skip
    space = {
        "training.learning_rate": {"type": "float", "low": 1e-4, "high": 1e-1, "log": True},
        "training.weight_decay": {"type": "float", "low": 1e-4, "high": 1.0, "log": True},
    }
    pruner = {
        "name": "successive_halving", "min_resource": RUNG, "reduction_factor": REDUCTION,
    }  # fmt: skip
    file.write_text(
        yaml.safe_dump(
            {
                "study": {"name": "peers", "n_trials": n_trials, "seed": 0},
                "base": base, "space": space, "sampler": {"name": "random"}, "pruner": pruner,
                "finalists": {"top_k": 1, "seeds": [0]},
            }
        )
    )  # fmt: skip
    return load_study_file(file, [])


def pack(kind: str, data: Data) -> None:
    """Pack the features, as `headsweep data pack` does."""
    from headsweep.data.dataset import Dataset

    os.environ["HEADSWEEP_CACHE"] = str(data.root / "packed")
    config = study_of(1, kind, data, data.root).config
    Dataset.from_config(config).search_splits(inputs=["visual"])


def by_headsweep(configs: list[dict[str, float]], kind: str, data: Data, folder: Path) -> None:
    """Run the study file, with configs enqueued by stock Optuna, in one worker."""
    from headsweep.settings import EngineSettings
    from headsweep.studies.study import StoredStudy
    from headsweep.workers.signals import Stop
    from headsweep.workers.worker import work

    url = f"sqlite:///{folder}/study.db"
    spec = study_of(len(configs), kind, data, folder)
    stored = StoredStudy.create(spec, url)
    study = optuna.load_study(study_name="peers", storage=url)
    for params in configs:
        study.enqueue_trial(params)
    work(stored, EngineSettings(device="cpu", slots=32), Stop())
    with StoredStudy.open("peers", url) as again:
        effort = again.summary().effort
    print(f"headsweep: {effort.slots_per_step:.1f} slots a step, "
          f"{effort.us_per_slot_step:.0f} µs a slot-step")  # fmt: skip
    states = [
        trial.state.name for trial in optuna.load_study(study_name="peers", storage=url).trials
    ]
    assert len(states) == len(configs), states
    assert set(states) <= {"COMPLETE", "PRUNED"}, states


def by_optimize(configs: list[dict[str, float]], kind: str, data: Data, folder: Path) -> None:
    """Run Optuna in this process, on its own SQLite storage."""
    study = optuna.create_study(
        storage=f"sqlite:///{folder}/optuna.db", direction="maximize",
        pruner=optuna.pruners.SuccessiveHalvingPruner(
            min_resource=RUNG, reduction_factor=REDUCTION
        ),
    )  # fmt: skip
    for params in configs:
        study.enqueue_trial(params)

    def objective(trial: optuna.Trial) -> float:
        params = {
            "training.learning_rate": trial.suggest_float(
                "training.learning_rate", 1e-4, 1e-1, log=True
            ),
            "training.weight_decay": trial.suggest_float(
                "training.weight_decay", 1e-4, 1.0, log=True
            ),
        }
        best = 0.0
        for epoch, value in enumerate(epochs_of(params, kind, data.train, data.valid), 1):
            best = max(best, value)
            trial.report(value, epoch)
            if trial.should_prune():
                raise optuna.TrialPruned
        return best

    study.optimize(objective, n_trials=len(configs))


def by_ray(configs: list[dict[str, float]], kind: str, data: Data, folder: Path) -> None:
    """Run Ray Tune: ASHA, reused actors, data in the object store."""
    import ray
    from ray import tune

    ray.init(num_cpus=1, include_dashboard=False, log_to_driver=False, configure_logging=False)

    def trainable(config: dict[str, Any], data: Any) -> None:
        for value in epochs_of(configs[config["index"]], kind, *data):
            tune.report({"value": value})

    scheduler = tune.schedulers.ASHAScheduler(
        max_t=EPOCHS, grace_period=RUNG, reduction_factor=REDUCTION
    )
    tune.Tuner(
        tune.with_parameters(trainable, data=(data.train, data.valid)),
        param_space={"index": tune.grid_search(list(range(len(configs))))},
        tune_config=tune.TuneConfig(
            metric="value", mode="max", scheduler=scheduler,
            max_concurrent_trials=1, reuse_actors=True,
        ),
        run_config=tune.RunConfig(verbose=0, storage_path=str(folder)),
    ).fit()  # fmt: skip
    ray.shutdown()


SYNE_TUNE_TRIAL = """
import argparse, json, sys
sys.path.insert(0, {scripts!r})
import numpy as np
from peers import epochs_of
from syne_tune import Reporter
parser = argparse.ArgumentParser()
parser.add_argument("--index", type=int)
arguments, _ = parser.parse_known_args()
params = json.load(open({configs!r}))[arguments.index]
data = np.load({arrays!r})
report = Reporter()
train, valid = (data["x"], data["y"]), (data["x_valid"], data["y_valid"])
for epoch, value in enumerate(epochs_of(params, {kind!r}, train, valid), 1):
    report(value=value, epoch=epoch)
"""


def by_syne_tune(configs: list[dict[str, float]], kind: str, data: Data, folder: Path) -> None:
    """Run Syne Tune: ASHA on its local backend, which starts a process for each trial."""
    from syne_tune import StoppingCriterion, Tuner
    from syne_tune.backend import LocalBackend
    from syne_tune.config_space import finrange
    from syne_tune.optimizer.baselines import ASHA

    logging.disable(logging.CRITICAL)
    arrays, listed, script = folder / "data.npz", folder / "configs.json", folder / "trial.py"
    np.savez(arrays, x=data.train[0], y=data.train[1], x_valid=data.valid[0], y_valid=data.valid[1])
    listed.write_text(json.dumps(configs))
    script.write_text(
        SYNE_TUNE_TRIAL.format(
            scripts=str(Path(__file__).parent), configs=str(listed), arrays=str(arrays), kind=kind
        )
    )
    n = len(configs)
    scheduler = ASHA(
        {"index": finrange(0, n - 1, n, cast_int=True)}, metric="value", time_attr="epoch",
        max_t=EPOCHS, do_minimize=False, grace_period=RUNG, reduction_factor=REDUCTION,
        points_to_evaluate=[{"index": i} for i in range(n)],
    )  # fmt: skip
    Tuner(
        LocalBackend(str(script)), scheduler, StoppingCriterion(max_num_trials_finished=n),
        n_workers=1, sleep_time=0.1, save_tuner=False, trial_backend_path=str(folder / "syne"),
    ).run()  # fmt: skip


ONE_PROCESS_TRIAL = """
import csv, json, sys
sys.path.insert(0, {scripts!r})
import numpy as np, torch
from torch.utils.data import DataLoader, Dataset
from peers import EPOCHS, BATCH_SIZE, head_of, macro, step
torch.set_num_threads(1)

class Rows(Dataset):
    def __init__(self, split):
        self.rows = list(csv.DictReader(open({root!r} + "/manifests/" + split + ".csv")))
        self.labels = [name for name in self.rows[0] if name.startswith("label")]
    def __len__(self):
        return len(self.rows)
    def __getitem__(self, i):
        row = self.rows[i]
        with np.load({root!r} + "/features/" + row["visual_feature_path"]) as file:
            x = file["arr"][0]
        return torch.from_numpy(x), torch.tensor([float(row[name]) for name in self.labels])

params = json.loads(sys.argv[1])
train, valid = Rows("train"), Rows("valid")
head = head_of({kind!r}, len(train[0][0]), len(train.labels))
optimizer = torch.optim.AdamW(head.parameters(), lr=params["training.learning_rate"],
                              weight_decay=params["training.weight_decay"])
for epoch in range(EPOCHS):
    for x, y in DataLoader(train, BATCH_SIZE, shuffle=True):
        step(head, optimizer, x, y)
    with torch.no_grad():
        batches = DataLoader(valid, BATCH_SIZE)
        pairs = [(torch.sigmoid(head(x)).numpy(), y.numpy()) for x, y in batches]
    macro(np.concatenate([y for _, y in pairs]), np.concatenate([s for s, _ in pairs]))
"""


def by_process(configs: list[dict[str, float]], kind: str, data: Data, folder: Path) -> None:
    """Run one process for each trial, reading one file per row and epoch, without pruning."""
    script = ONE_PROCESS_TRIAL.format(
        scripts=str(Path(__file__).parent), root=str(data.root), kind=kind
    )
    for params in configs:
        subprocess.run([sys.executable, "-c", script, json.dumps(params)], check=True)


Service = Callable[[list[dict[str, float]], str, Data, Path], None]
SERVICES: dict[str, Service] = {
    "headsweep": by_headsweep,
    "study.optimize": by_optimize,
    "Ray Tune": by_ray,
    "Syne Tune": by_syne_tune,
    "one process a trial": by_process,
}
NEEDS = {"Ray Tune": "ray", "Syne Tune": "syne_tune"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--head", choices=["linear", "mlp"], default="linear")
    parser.add_argument("--rows", type=int, default=4000)
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--labels", type=int, default=18)
    parser.add_argument("--valid-rows", type=int, default=3039, help="with --study")
    parser.add_argument("--trials", type=int, help="50, or what the shipped study says")
    parser.add_argument("--process-trials", type=int, default=2, help="of one process a trial")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--first-seed", type=int, default=0, help="of the rounds, with --study")
    parser.add_argument(
        "--study", choices=["linear_visual", "mlp_visual", "quickstart"],
        help="a whole shipped study, against study.optimize alone (see shipped.py)",
    )  # fmt: skip
    parser.add_argument("--data-root", help="folder of features, with --study; else random data")
    parser.add_argument("--manifest-dir", help="folder of manifests, with --study")
    parser.add_argument("--slots", type=int, help="of headsweep's engine, with --study")
    parser.add_argument("--alone", action="store_true", help="headsweep alone, with --study")
    parser.add_argument("--services", nargs="+", choices=SERVICES, default=list(SERVICES))
    arguments = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    torch.set_num_threads(1)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    if arguments.study:
        from shipped import compare, make_dataset

        sizes = (arguments.rows, arguments.width, arguments.labels, arguments.valid_rows)
        if arguments.data_root and arguments.manifest_dir:
            shipped = Dataset.from_manifests(arguments.data_root, arguments.manifest_dir)
        else:
            print(json.dumps({"sizes": sizes}))
            shipped = make_dataset(*sizes)
        first = arguments.first_seed
        compare(
            arguments.study, shipped, trials=arguments.trials, slots=arguments.slots,
            seeds=range(first, first + arguments.rounds), alone=arguments.alone,
        )  # fmt: skip
        return
    arguments.trials = arguments.trials or 50
    services = [s for s in arguments.services if importlib.util.find_spec(NEEDS.get(s, "json"))]
    rates: dict[str, list[float]] = defaultdict(list)
    with tempfile.TemporaryDirectory() as root:
        data = make_data(Path(root), arguments.rows, arguments.width, arguments.labels)
        pack(arguments.head, data)
        for _ in range(arguments.rounds):
            for name in services:
                n = arguments.process_trials if SERVICES[name] is by_process else arguments.trials
                with tempfile.TemporaryDirectory() as folder:
                    start = time.perf_counter()
                    SERVICES[name](draw(n), arguments.head, data, Path(folder))
                    rates[name].append(60 * n / (time.perf_counter() - start))
    report(arguments, rates)


def report(arguments: argparse.Namespace, rates: dict[str, list[float]]) -> None:
    """Print a table, and one JSON line last."""
    ratios = {
        name: statistics.median(
            ours / other for ours, other in zip(rates["headsweep"], found, strict=True)
        )
        for name, found in rates.items()
    }
    medians = {name: statistics.median(found) for name, found in rates.items()}
    table = Table(title=f"{arguments.head}, {arguments.rows} rows, {arguments.trials} trials")
    for column in ("service", "trials a minute", "headsweep is faster by"):
        table.add_column(column, justify="left" if column == "service" else "right")
    for name, rate in medians.items():
        table.add_row(name, f"{rate:.1f}", f"{ratios[name]:.1f}")
    Console().print(table)
    result = {"head": arguments.head, "rows": arguments.rows, "trials": arguments.trials}
    print(json.dumps({**result, "trials_a_minute": medians, "ratio": ratios}))


if __name__ == "__main__":
    main()
