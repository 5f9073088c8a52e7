"""Measure how time grows with trials, rows and width, and memory with slots and trials.

Every point is a separate process, which trains configs from a shipped study's space on synthetic
splits and reports its time and its peak memory beyond the memory before training. Memory is
measured on MLPs of one shape, whose weights are larger than the data that slots share. The exponent
is the slope of a least-squares line through the logarithms: 1 is linear growth, 0 is none.

Takes a few minutes.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

MEBIBYTE = 2**20
KIBIBYTE = 2**10


@dataclass(frozen=True)
class Point:
    """The work of one process."""

    head: str
    trials: int
    slots: int
    rows: int
    width: int
    epochs: int
    fixed: tuple[str, ...] = ("training.batch_size=256", 'features.normalization="zscore"')


def main() -> None:
    """Measure along each axis, print a table, and one line of JSON last."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--head", choices=["linear", "mlp"], default="linear")
    parser.add_argument("--rows", type=int, default=8000)
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--point", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.point is not None:
        print(json.dumps(train(Point(**json.loads(arguments.point)))))
        return
    base = Point(arguments.head, 32, 16, arguments.rows, arguments.width, arguments.epochs)
    heavy = replace(
        base, head="mlp", trials=64, epochs=1, rows=1000,
        fixed=(*base.fixed, "head.width=512", "head.depth=2"),
    )  # fmt: skip
    axes = {
        ("seconds", "trials"): (8, 16, 32, 64),
        ("seconds", "rows"): tuple(base.rows * k // 2 for k in (1, 2, 4, 8)),
        ("seconds", "width"): tuple(base.width * k // 2 for k in (1, 2, 4, 8)),
        ("mebibytes", "slots"): (8, 16, 32, 64),
        ("mebibytes", "trials"): (16, 32, 64, 128),
    }
    table = Table(title=f"{base.head} heads, at {base.trials} trials in {base.slots} slots, "
                  f"{base.rows} × {base.width} rows, {base.epochs} epochs")  # fmt: skip
    columns = ("grows", "with", "at", "measured", "exponent", "slots a step", "us a slot-step")
    for column in columns:
        table.add_column(column)
    results = []
    for (measure, axis), values in axes.items():
        fixed, rounds = (base, arguments.rounds) if measure == "seconds" else (heavy, 1)
        points = [_at(fixed, axis, value) for value in values]
        medians = _medians(points, rounds)
        found = medians[measure]
        exponent = float(np.polyfit(np.log(values), np.log(found), 1)[0])
        table.add_row(
            measure,
            axis,
            _joined(values),
            _joined(found),
            f"{exponent:.2f}",
            _joined(medians["slots_a_step"]),
            _joined(medians["us_a_slot_step"]),
        )
        results.append({"measure": measure, "axis": axis, "values": values, "found": found,
                        "exponent": exponent, "slots_a_step": medians["slots_a_step"],
                        "us_a_slot_step": medians["us_a_slot_step"]})  # fmt: skip
    Console().print(table)
    print(json.dumps({**asdict(base), "growth": results}))


def train(point: Point) -> dict[str, float]:
    """Return seconds, peak MiB beyond those before training, slots per step, us per slot-step."""
    import torch
    from workload import STUDIES, draw_configs, make_split

    from headsweep.engine.engine import Engine
    from headsweep.settings import EngineSettings

    settings = EngineSettings(device="cpu", slots=point.slots)
    torch.set_num_threads(1)
    train_split = make_split("train", point.rows, point.width, 18, seed=1)
    valid_split = make_split("valid", 1000, point.width, 18, seed=2)
    study = STUDIES[point.head]
    waiting = draw_configs(study, point.trials, point.epochs, point.fixed, seed=0)
    engine = Engine(train_split, valid_split, settings)
    # Data that are made and loaded once do not count as growth.
    first = engine.admit(draw_configs(study, 1, 1, point.fixed, seed=1)[0]).slot
    engine.run_epoch()
    engine.evict(first)
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    before = _peak_mebibytes()
    start = time.perf_counter()
    while waiting or engine.free < engine.slots:
        while waiting and engine.free:
            engine.admit(waiting.pop())
        for report in engine.run_epoch():
            if report.finished:
                engine.evict(report.slot)
    seconds = time.perf_counter() - start
    usage = engine.usage
    return {
        "seconds": seconds,
        "mebibytes": _peak_mebibytes() - before,
        "slots_a_step": usage.slot_steps / usage.fused_steps,
        "us_a_slot_step": 1e6 * usage.training_s / usage.slot_steps,
    }


def _at(point: Point, axis: str, value: int) -> Point:
    return Point(**(asdict(point) | {axis: value}))


def _medians(points: Sequence[Point], rounds: int) -> dict[str, list[float]]:
    """Return the medians of each figure at each point; the points take turns in each round."""
    runs = [[_run(point) for point in points] for _ in range(rounds)]
    return {
        figure: [statistics.median(run[i][figure] for run in runs) for i in range(len(points))]
        for figure in runs[0][0]
    }


def _run(point: Point) -> dict[str, float]:
    command = [sys.executable, __file__, "--point", json.dumps(asdict(point))]
    result = subprocess.run(command, check=True, capture_output=True, text=True)
    found: dict[str, float] = json.loads(result.stdout.splitlines()[-1])
    return found


def _peak_mebibytes() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * KIBIBYTE / MEBIBYTE


def _joined(values: Sequence[float]) -> str:
    return ", ".join(f"{value:.3g}" if isinstance(value, float) else str(value) for value in values)


if __name__ == "__main__":
    main()
