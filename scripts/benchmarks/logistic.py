"""Time a path of penalties for every label: headsweep's joint solve against scikit-learn's loop.

scikit-learn fits `--sample` of the problems, spread over penalties and labels, with its default
solver and tolerance; its time for all of them is scaled from those. The joint solve's scores are
compared with scikit-learn's at a tight tolerance on one problem.

Takes about two minutes, most of it in scikit-learn.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression

from headsweep.engine.numerics.logistic_solver import solve_logistic


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=46_000)
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--labels", type=int, default=18)
    parser.add_argument("--penalties", type=int, default=24)
    parser.add_argument("--sample", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=1)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    rng = np.random.default_rng(0)
    shape = arguments.rows, arguments.width
    # Correlated columns, as encoders give: deviations of the components span two decades.
    mixing = np.linalg.qr(rng.normal(size=(arguments.width, arguments.width)))[0]
    x = rng.normal(size=shape) * np.logspace(0, -2, arguments.width) @ mixing
    x = ((x - x.mean(0)) / x.std(0)).astype(np.float32)
    weights = rng.normal(size=(arguments.width, arguments.labels)) * 1.5 / arguments.width**0.5
    y = (x @ weights + rng.logistic(size=(arguments.rows, arguments.labels)) > 1).astype(np.float32)
    inverse_penalties = np.logspace(-4, 1, arguments.penalties)
    penalty = torch.tensor(1 / (arguments.rows * inverse_penalties), dtype=torch.float32)
    problems = [(k, j) for k in range(arguments.penalties) for j in range(arguments.labels)]
    picked = np.linspace(0, len(problems) - 1, arguments.sample).astype(int)
    joint_s, loop_s = [], []
    for _ in range(arguments.rounds):
        start = time.perf_counter()
        solution = solve_logistic(
            torch.tensor(x),
            torch.tensor(y.T).repeat(arguments.penalties, 1),
            penalty.repeat_interleave(arguments.labels),
        )
        joint_s.append(time.perf_counter() - start)
        start = time.perf_counter()
        for k, j in (problems[i] for i in picked):
            LogisticRegression(C=inverse_penalties[k], max_iter=5000).fit(x, y[:, j])
        loop_s.append((time.perf_counter() - start) * len(problems) / len(picked))
    k, j = problems[picked[len(picked) // 2]]
    exact = LogisticRegression(C=inverse_penalties[k], tol=1e-8, max_iter=10_000)
    expected = exact.fit(x.astype(np.float64), y[:, j]).predict_proba(x.astype(np.float64))[:, 1]
    row = k * arguments.labels + j
    logits = torch.tensor(x) @ solution.weight[row] + solution.bias[row]
    difference = float(np.abs(torch.sigmoid(logits).numpy() - expected).max())
    ratio = statistics.median(b / a for a, b in zip(joint_s, loop_s, strict=True))
    print(f"{len(problems)} problems on {arguments.rows} × {arguments.width}")
    print(f"headsweep    {statistics.median(joint_s):9.1f} s, all converged: "
          f"{bool(solution.converged.all())}")  # fmt: skip
    print(f"scikit-learn {statistics.median(loop_s):9.1f} s, scaled from {len(picked)} fits")
    print(f"{ratio:.1f} times as long; largest difference of a probability {difference:.1e}")
    result = {"problems": len(problems), "rows": arguments.rows, "width": arguments.width}
    seconds = {"headsweep_s": joint_s, "sklearn_s": loop_s}
    print(json.dumps({**result, **seconds, "ratio": ratio, "max_difference": difference}))


if __name__ == "__main__":
    main()
