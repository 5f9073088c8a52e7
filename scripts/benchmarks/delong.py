#!/usr/bin/env python3
"""Measure how often DeLong's test over patients rejects equal models at a level of 5 %.

Both models are equally good; patients have one row, 1 to 4, or up to 30, and one label for all
their rows or several. The test with Student's distribution is the leaderboard's, the other one is
that of boards before it.

Takes about 20 seconds.
"""

from __future__ import annotations

import argparse
import math

import numpy as np
from numpy.typing import NDArray

from headsweep.metrics.delong import components, delong_p_value

ROWS = {"one row": 1, "1 to 4 rows": 4, "up to 30 rows": 30}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--patients", type=int, nargs="+", default=[15, 30, 70, 150])
    parser.add_argument("--sets", type=int, default=1500, help="data sets of each kind")
    options = parser.parse_args()
    for name, most in ROWS.items():
        for mixed in (False, True) if most > 1 else (False,):
            for patients in options.patients:
                rng = np.random.default_rng(0)
                rejected = [
                    pair
                    for _ in range(options.sets)
                    if (pair := _rejected(rng, patients, most, mixed=mixed)) is not None
                ]
                student, normal = np.mean(rejected, axis=0)
                kind = f"{name}, {'several labels' if mixed else 'one label'} a patient"
                print(f"{kind}, {patients} patients: Student {student:.3f}, normal {normal:.3f}")


def _rejected(
    rng: np.random.Generator, patients: int, most: int, *, mixed: bool
) -> tuple[bool, bool] | None:
    """Return whether either test rejects on one data set; None where there is no p-value."""
    rows = np.minimum(1 + rng.geometric(0.3, patients), most) if most > 4 else None
    counts: NDArray[np.int64] = rng.integers(1, most + 1, patients) if rows is None else rows
    patient = np.repeat(np.arange(patients), counts)
    share = rng.beta(2, 4, patients) if mixed else rng.random(patients) < 0.4
    positive = rng.random(len(patient)) < share[patient]
    if positive.all() or not positive.any():
        return None
    own = rng.normal(size=(2, patients))[:, patient]
    scores = (positive + own + 0.5 * rng.normal(size=own.shape)).astype(np.float32)
    one, other = (components(positive, score[None]) for score in scores)
    keys = patient.astype(str).tolist()
    student = delong_p_value(positive, keys, one, other)
    normal = delong_p_value(positive, keys, one, other, few_patients=False)
    return None if math.isnan(student) else (student <= 0.05, normal <= 0.05)


if __name__ == "__main__":
    main()
