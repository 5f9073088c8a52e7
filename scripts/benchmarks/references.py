"""CPU time that references add to `finalize`: 5 finalists with 5 seeds at CT-RATE's size.

Random correlated features and labels that depend on them; finalists as `linear_visual` or
`mlp_visual` draw them. The report and the loading of files, which references do not change, are
not in it.

Takes about two minutes.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from headsweep.config.overrides import compose_config
from headsweep.data.dataset import Dataset, Split
from headsweep.leaderboard.finalists import Finalist, ranked
from headsweep.leaderboard.finalize import confirm_with_progress, write_board
from headsweep.leaderboard.provenance import StudyFacts
from headsweep.leaderboard.references.files import write_references
from headsweep.leaderboard.references.rows import (
    add_references,
    load_references,
    score_references,
)
from headsweep.settings import EngineSettings


def splits(rows: int, width: int, labels: int) -> tuple[Split, Split, list[Split]]:
    rng = np.random.default_rng(0)
    names = ["train"] * rows + ["valid"] * 3039 + ["test"] * 1000
    mixing = rng.normal(size=(width, width)) * np.exp(-np.arange(width) / 100) / np.sqrt(width)
    x = (rng.normal(size=(len(names), width)) @ mixing.T).astype(np.float32)
    x += 0.02 * rng.normal(size=x.shape).astype(np.float32)
    signal = x @ rng.normal(size=(width, labels)).astype(np.float32)
    noise = rng.logistic(size=signal.shape) * signal.std() / 2
    targets = (
        signal + noise
        > np.quantile(signal, np.linspace(0.5, 0.92, labels), axis=0)[
            np.arange(labels), np.arange(labels)
        ]
    )
    data = Dataset.from_arrays(
        {"visual": x},
        targets.astype(int),
        labels=[f"label {j}" for j in range(labels)],
        split=names,
    )
    train, valid = data.search_splits()
    (whole,) = data.test_splits()
    return train, valid, [whole, _part(whole, slice(0, 650)), _part(whole, slice(650, None))]


def _part(split: Split, rows: slice) -> Split:
    """Return some rows: CT-RATE's test manifests overlap in this way."""
    return replace(
        split,
        name=f"{split.name}_{rows.start}",
        volumes=split.volumes[rows],
        patients=split.patients[rows],
        scans=split.scans[rows],
        targets=split.targets[rows],
        features={name: matrix[rows] for name, matrix in split.features.items()},
    )


def finalists(head: str, epochs: int, count: int) -> list[Finalist]:
    base = [f"head={head}", "features=visual", f"training.max_epochs={epochs}"]
    base += ["training.early_stopping_patience=15", "training.batch_size=256"]
    base += ["head.width=512", "head.dropout=0.3"] if head == "mlp" else []
    rates = np.geomspace(3e-4, 3e-3, count)
    configs = [
        compose_config([*base, f"training.learning_rate={r}"], where="benchmark") for r in rates
    ]
    return [Finalist(trial, 0.5, config) for trial, config in enumerate(configs)]


def timed(work: Callable[[], Any]) -> tuple[Any, float]:
    start = time.process_time()
    result = work()
    return result, time.process_time() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=46_438)
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--labels", type=int, default=18)
    parser.add_argument("--head", choices=["linear", "mlp"], default="linear")
    parser.add_argument("--epochs", type=int, default=60)
    parser.add_argument("--finalists", type=int, default=5)
    parser.add_argument("--seeds", type=int, default=5)
    arguments = parser.parse_args()
    train, valid, tests = splits(arguments.rows, arguments.width, arguments.labels)
    seeds = tuple(range(arguments.seeds))
    chosen = finalists(arguments.head, arguments.epochs, arguments.finalists)
    engine = EngineSettings(device="cpu", slots=32)
    confirmed, confirm_s = timed(
        lambda: ranked(confirm_with_progress(chosen, seeds, train, valid, engine))
    )
    facts = StudyFacts("benchmark", "", 100, seeds)
    none = {test.name: {} for test in tests}
    names = ("prevalence", "logistic_regression", "knn")
    references = load_references(names, chosen[0].config, train)
    with tempfile.TemporaryDirectory() as folder:
        board = Path(folder)
        (results, *_), board_s = timed(
            lambda: write_board(board, confirmed, facts, train, valid, tests, none)
        )

        def add() -> None:
            config = results[0].finalist.config
            scores = score_references(references, config, train, (valid, *tests))
            rows = add_references(scores, results[0], (valid, *tests), none, facts.rules)
            write_references(rows, board)

        _, references_s = timed(add)
    share = references_s / (confirm_s + board_s)
    print(
        f"training {confirm_s:.1f} s, board {board_s:.1f} s, references {references_s:.1f} s of CPU"
    )
    print(f"references add {share:.1%}")
    print(
        json.dumps(
            vars(arguments)
            | {"confirm_s": confirm_s, "board_s": board_s, "references_s": references_s}
        )
    )


if __name__ == "__main__":
    main()
