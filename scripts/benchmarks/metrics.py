"""Time AUPRC and AUROC over all slots and labels against a loop over scikit-learn.

Both run on one core: neither sorting nor elementwise NumPy uses threads.

Takes half a minute, most of it in scikit-learn.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable

import numpy as np
from sklearn.metrics import average_precision_score, roc_auc_score

from headsweep.metrics.ranking import average_precision_and_auroc


def seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--slots", type=int, default=64)
    parser.add_argument("--labels", type=int, default=18)
    parser.add_argument("--rows", type=int, default=3039)
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    rng = np.random.default_rng(0)
    shape = (arguments.slots, arguments.rows, arguments.labels)
    prevalence = rng.uniform(0.07, 0.45, arguments.labels)
    targets = (rng.random(shape[1:]) < prevalence).astype(np.uint8)
    logits = rng.normal(size=shape) + 1.2 * targets - 2.0
    scores = (1 / (1 + np.exp(-logits))).astype(np.float32)

    def ours() -> tuple[np.ndarray, np.ndarray]:
        return average_precision_and_auroc(targets, scores)

    def theirs() -> tuple[np.ndarray, np.ndarray]:
        places = [(k, j) for k in range(shape[0]) for j in range(shape[2])]
        precision = [average_precision_score(targets[:, j], scores[k, :, j]) for k, j in places]
        area = [roc_auc_score(targets[:, j], scores[k, :, j]) for k, j in places]
        by_slot = (shape[0], shape[2])
        return np.reshape(precision, by_slot), np.reshape(area, by_slot)

    difference = max(float(np.abs(a - b).max()) for a, b in zip(ours(), theirs(), strict=True))
    times = [(seconds(ours), seconds(theirs)) for _ in range(arguments.repeats)]
    ours_s, theirs_s = (statistics.median(column) for column in zip(*times, strict=True))
    print(f"{arguments.slots} slots, {arguments.labels} labels, {arguments.rows} rows")
    print(f"headsweep    {ours_s * 1e3:9.1f} ms")
    print(f"scikit-learn {theirs_s * 1e3:9.1f} ms  ({theirs_s / ours_s:.1f} times as long)")
    result = {
        "headsweep_s": ours_s,
        "sklearn_s": theirs_s,
        "ratio": theirs_s / ours_s,
        "max_difference": difference,
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
