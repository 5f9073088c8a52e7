"""Time a patient bootstrap of AUPRC and AUROC against a loop over scikit-learn.

The loop runs on a few of the resamples and its time is scaled to all of them; both give the same
values on those, which is checked. Both run on one core.

Takes some ten seconds.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time

import numpy as np
from sklearn.metrics import average_precision_score, roc_auc_score

from headsweep.metrics.bootstrap import patient_resamples, resampled_ranking


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--resamples", type=int, default=2000)
    parser.add_argument("--looped", type=int, default=5, help="resamples that the loop runs on")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--labels", type=int, default=18)
    parser.add_argument("--rows", type=int, default=3039)
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    rng = np.random.default_rng(0)
    shape = (arguments.seeds, arguments.rows, arguments.labels)
    prevalence = rng.uniform(0.07, 0.45, arguments.labels)
    targets = (rng.random(shape[1:]) < prevalence).astype(np.uint8)
    logits = rng.normal(size=shape) + 1.2 * targets - 2.0
    scores = (1 / (1 + np.exp(-logits))).astype(np.float32)
    patients = [f"patient {i}" for i in np.sort(rng.integers(1304, size=arguments.rows))]
    resamples = patient_resamples(patients, arguments.resamples, seed=0)

    ours_s, theirs_s = [], []
    for _ in range(arguments.repeats):
        start = time.perf_counter()
        ours = np.stack(resampled_ranking(targets, scores, resamples))
        ours_s.append(time.perf_counter() - start)
        start = time.perf_counter()
        theirs = loop(targets, scores, resamples[: arguments.looped])
        scale = arguments.resamples / arguments.looped
        theirs_s.append((time.perf_counter() - start) * scale)
    difference = float(np.abs(ours[:, :, : arguments.looped] - theirs).max())
    ratio = statistics.median(theirs_s) / statistics.median(ours_s)
    sizes = f"{arguments.resamples} resamples, {shape[2]} labels, {shape[0]} seeds, {shape[1]} rows"
    print(sizes)
    print(f"headsweep    {statistics.median(ours_s):8.1f} s")
    print(f"scikit-learn {statistics.median(theirs_s):8.1f} s  ({ratio:.0f} times as long)")
    result = {
        "headsweep_s": statistics.median(ours_s),
        "sklearn_s": statistics.median(theirs_s),
        "ratio": ratio,
        "max_difference": difference,
    }
    print(json.dumps(result))


def loop(targets: np.ndarray, scores: np.ndarray, resamples: np.ndarray) -> np.ndarray:
    """Return both metrics for every seed, resample and label, `(2, S, B, c)`."""
    values = np.empty((2, len(scores), len(resamples), targets.shape[1]))
    for b, counts in enumerate(resamples):
        rows = np.repeat(np.arange(len(targets)), counts)
        for k, j in np.ndindex(len(scores), targets.shape[1]):
            y, score = targets[rows, j], scores[k, rows, j]
            values[:, k, b, j] = average_precision_score(y, score), roc_auc_score(y, score)
    return values


if __name__ == "__main__":
    main()
