"""How an ensemble should average and select: half of valid selects, the other half measures.

For the heads of finished studies on the same data, over random halves of valid by patient: the mean
gain in macro AUPRC over the best finalist (best on the selecting half; mean over its seeds), with
its standard error over the halves.

    PYTHONPATH=src python scripts/benchmarks/ensembles.py outputs/linear-both outputs/mlp-both
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from headsweep.leaderboard.ensembles.stored import read_heads
from headsweep.leaderboard.merge import read_board
from headsweep.metrics.ensemble_selection import Selection, select_weights
from headsweep.metrics.ranking import average_precision, macro

Array = NDArray[np.float64]


def settings() -> Iterator[tuple[str, Selection]]:
    """Yield the selections that are compared, by name."""
    yield "no bags, 10 rounds", Selection(n_bags=1, share=1.0, n_rounds=10)
    for share in (0.5, 0.25):
        for rounds in (10, 25):
            name = f"20 bags of {share:g} of the heads, {rounds} rounds"
            yield name, Selection(share=share, n_rounds=rounds)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folders", nargs="+", type=Path)
    parser.add_argument("--halves", type=int, default=20)
    asked = parser.parse_args()
    finalists = [
        read_heads(folder, row, f"{row['study']}/{row['rank']}")
        for folder in asked.folders
        for row in read_board(folder)
    ]
    valid = [next(iter(by_split.values())) for one in finalists for by_split in one.predictions]
    owner = np.repeat(np.arange(len(finalists)), [len(one.seeds) for one in finalists])
    probabilities = np.stack([one.scores for one in valid]).astype(np.float32)
    averaged = {"probabilities": probabilities}
    if all(one.logits is not None for one in valid):
        averaged["logits"] = np.stack([one.logits for one in valid])
    targets = valid[0].targets
    patient = np.unique(valid[0].patients, return_inverse=True)[1]
    print(f"{len(valid)} heads of {len(finalists)} finalists, {len(targets)} rows of valid")
    rng = np.random.default_rng(1)
    gains: dict[str, list[float]] = {}
    for half in range(asked.halves):
        chosen = rng.permutation(patient.max() + 1) <= patient.max() // 2
        select, rest = chosen[patient], ~chosen[patient]
        for kind, scores in averaged.items():
            own, other = scores[:, select], scores[:, rest]
            each = macro(average_precision(targets[select], own))
            best = np.argmax([each[owner == i].mean() for i in range(len(finalists))])
            base = macro(average_precision(targets[rest], other[owner == best])).mean()
            weights: dict[str, Array] = {
                "mean of the best finalist's seeds": (owner == best) / (owner == best).sum(),
                "mean of all heads": np.full(len(valid), 1 / len(valid)),
            }
            for name, selection in settings():
                drawn = Selection(selection.n_bags, selection.share, selection.n_rounds, half)
                weights[name] = select_weights(targets[select], own, drawn)
            for name, weight in weights.items():
                mean = np.tensordot(weight, other.astype(np.float64), 1).astype(np.float32)
                value = macro(average_precision(targets[rest], mean[None]))[0]
                gains.setdefault(f"{kind}: {name}", []).append(float(value - base))
    for name, found in gains.items():
        error = np.std(found, ddof=1) / np.sqrt(len(found))
        print(f"{name:60} {np.mean(found):+.4f} ± {error:.4f}")


if __name__ == "__main__":
    main()
