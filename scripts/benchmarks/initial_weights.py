"""Compare the values of `head.init` on configs of a shipped study.

Random configs of the study are trained with each initialization and several seeds. Shown are, for
the configs that are best on valid (the same for every initialization), AUPRC on valid and test,
the differences from the default with their standard error over configs, and the spread over seeds.

Takes a few minutes.
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Sequence

import numpy as np
import optuna
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table
from sklearn.metrics import average_precision_score
from workload import ROOT, make_split

from headsweep.config.schema import Config
from headsweep.config.values import with_values
from headsweep.data.dataset import Dataset, Split
from headsweep.engine.train_configs import Trained, train_to_end
from headsweep.search.space import suggest
from headsweep.search.study_file import load_study_file
from headsweep.settings import EngineSettings

INITS = ("default", "normal", "zero")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--study", default="linear_visual", help="of search_spaces/")
    parser.add_argument("--data-root", help="folder of features; random data without it")
    parser.add_argument("--manifest-dir", help="folder of manifests")
    parser.add_argument("--rows", type=int, default=8_100, help="of random data")
    parser.add_argument("--configs", type=int, default=40)
    parser.add_argument("--best", type=int, default=8, help="configs that are compared")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--fix", nargs="*", default=[], metavar="KEY=VALUE")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    train, valid, test = splits(arguments)
    spec = load_study_file(ROOT / "search_spaces" / f"{arguments.study}.yaml", arguments.fix)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    drawn = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    configs = [
        with_values(spec.config, suggest(drawn.ask(), spec.space, spec.config), where="space")
        for _ in range(arguments.configs)
    ]
    pairs = list(itertools.product(INITS, configs, range(arguments.seeds)))
    trained = train_to_end(
        [
            with_values(c, {"head.init": init, "training.seed": seed}, where="init")
            for init, c, seed in pairs
        ],
        train,
        valid,
        EngineSettings(device="cpu"),
    )
    shape = len(INITS), len(configs), arguments.seeds
    on_valid = np.array([t.best_value for t in trained]).reshape(shape)
    on_test = np.array([auprc(t, test) for t in trained]).reshape(shape)
    report(on_valid, on_test, arguments.best)


def splits(arguments: argparse.Namespace) -> tuple[Split, Split, Split]:
    """Return train, valid, and the first test split."""
    if arguments.data_root is None:
        rows = ("train", arguments.rows, 1), ("valid", 3_039, 2), ("test", 3_039, 3)
        train, valid, test = (make_split(name, n, 512, 18, seed) for name, n, seed in rows)
        return train, valid, test
    data = Dataset.from_manifests(arguments.data_root, arguments.manifest_dir)
    config: Config = data.config
    return *data.search_splits(), data.test_splits(config)[0]


def auprc(trained: Trained, test: Split) -> float:
    """Return the macro AUPRC of a head on a split."""
    logits = trained.predictor.decision_function(test.features)
    assert logits is not None
    values = [
        average_precision_score(truth, scores)
        for truth, scores in zip(test.targets.T, logits.T, strict=True)
        if 0 < truth.sum() < len(truth)
    ]
    return float(np.mean(values))


def report(on_valid: NDArray[np.float64], on_test: NDArray[np.float64], n_best: int) -> None:
    """Print values, differences and spread of the best configs."""
    best = np.argsort(-on_valid.mean(axis=(0, 2)))[:n_best]
    table = Table("head.init", "split", "AUPRC", "- default", "s.e.", "spread over seeds", "best")
    for k, init in enumerate(INITS):
        for name, values in (("valid", on_valid), ("test", on_test)):
            chosen = values[:, best]
            difference = (chosen[k] - chosen[0]).mean(axis=1)
            # what a study reports: the best config on valid, for each seed
            winner = [values[k, on_valid[k, :, s].argmax(), s] for s in range(values.shape[2])]
            row: Sequence[float] = (
                chosen[k].mean(), difference.mean(), difference.std(ddof=1) / n_best**0.5,
                chosen[k].std(axis=1, ddof=1).mean(), float(np.mean(winner)),
            )  # fmt: skip
            table.add_row(init, name, *(f"{value:.4f}" for value in row))
    Console().print(table)


if __name__ == "__main__":
    main()
