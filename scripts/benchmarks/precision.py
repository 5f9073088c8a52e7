"""Measure the effect of `training.precision` on validation AUPRC, on the same configs.

Configs are drawn from a shipped study's space. A CPU rounds the inputs of products by hand, so the
effect on the metric is that of a GPU's tensor cores; the effect on time is not.

Takes about half a minute.
"""

from __future__ import annotations

import argparse
import json

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from scipy.stats import kendalltau
from workload import STUDIES, draw_configs, make_split

from headsweep.config.values import with_values
from headsweep.engine.train_configs import train_to_end
from headsweep.settings import EngineSettings


def main() -> None:
    """Train, print a table, and one line of JSON last."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--head", choices=STUDIES, default="linear")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--configs", type=int, default=16)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--rows", type=int, default=3000)
    parser.add_argument("--width", type=int, default=256)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    splits = [
        make_split(name, rows, arguments.width, 18, seed=seed)
        for name, rows, seed in [("train", arguments.rows, 1), ("valid", 1000, 2)]
    ]
    settings = EngineSettings(device=arguments.device, slots=16)
    configs = draw_configs(STUDIES[arguments.head], arguments.configs, arguments.epochs, [], seed=0)
    reached = {}
    for precision in ("float32", "tf32", "bf16"):
        rounded = [with_values(c, {"training.precision": precision}, where="") for c in configs]
        trained = train_to_end(rounded, *splits, settings)
        reached[precision] = np.array([one.best_value for one in trained])
    exact = reached["float32"]
    table = Table(title=f"{arguments.configs} {arguments.head} heads, {arguments.rows} × "
                  f"{arguments.width} rows, {arguments.epochs} epochs")  # fmt: skip
    for column in ("precision", "mean AUPRC", "mean change", "largest change", "Kendall's τ"):
        table.add_column(column, justify="right")
    results = {}
    for precision, values in reached.items():
        change = values - exact
        found = {
            "mean": float(values.mean()),
            "mean_change": float(change.mean()),
            "largest_change": float(np.abs(change).max()),
            "kendall_tau": float(kendalltau(exact, values).statistic),
        }
        results[precision] = found
        mean, mean_change, largest, tau = found.values()
        numbers = (f"{mean:.4f}", f"{mean_change:+.1e}", f"{largest:.1e}", f"{tau:.3f}")
        table.add_row(precision, *numbers)
    Console().print(table)
    print(json.dumps({"head": arguments.head, "configs": arguments.configs, **results}))


if __name__ == "__main__":
    main()
