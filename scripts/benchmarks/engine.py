"""Time the training of the configs of one study in the four ways of `ways`.

All ways get the same configs, data and epochs, and one thread for each worker. They take turns, and
medians over the rounds are compared: CPU seconds, or wall seconds on another device. With
`--workers N`, N processes do the same side by side, one way at a time, like workers that share the
caches and memory of a machine; the time of a way is the mean over the processes.

Configs are drawn at random from the space of a shipped study. Early stopping is off, so that every
way trains every epoch. With `--alone`, headsweep and the plain loop train every config by itself:
the lowest ratio is the worst point of the space, where nothing is fused.

Takes a few minutes; `--rows 6000` less than one.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import statistics
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from ways import WAYS, search_by_engine, train_one
from workload import STUDIES, draw_configs, make_split

from headsweep.config.schema import Config
from headsweep.data.dataset import Split
from headsweep.engine.engine import Engine
from headsweep.engine.inputs import Inputs, Variant
from headsweep.engine.timings import Usage
from headsweep.settings import EngineSettings


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--head", choices=STUDIES, default="linear")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--rows", type=int, default=46_000)
    parser.add_argument("--valid-rows", type=int, default=3_039)
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--labels", type=int, default=18)
    parser.add_argument("--configs", type=int, default=32)
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--slots", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--workers", type=int, default=1, help="processes that do the same at once")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS))
    parser.add_argument("--alone", action="store_true", help="every config by itself")
    parser.add_argument(
        "--fix", nargs="*", default=[], metavar="KEY=VALUE", help="config leaves to hold fixed"
    )
    arguments = parser.parse_args()
    if arguments.alone:
        report_alone(arguments)
        return
    n = arguments.workers
    spawn = multiprocessing.get_context("spawn")
    with spawn.Manager() as manager, ProcessPoolExecutor(n, mp_context=spawn) as workers:
        start = manager.Barrier(n)
        turns = list(workers.map(take_turns, [arguments] * n, [start] * n))
    report(arguments, turns)


@dataclass(frozen=True)
class Turns:
    """Measurements of one worker."""

    seconds: dict[str, list[float]]
    """By way, of every round."""
    best: dict[str, list[float]]
    """By way, the best validation AUPRC of every config."""
    usage: Usage
    """The engine's counters in the last round."""


def take_turns(arguments: argparse.Namespace, start: threading.Barrier) -> Turns:
    """Train all configs in every way, each time together with the other workers.

    Returns:
        CPU seconds of each round, and the mean of the best AUPRC, by way.
    """
    configs, train, valid, device = workload(arguments)
    seconds: dict[str, list[float]] = defaultdict(list)
    best: dict[str, list[float]] = {}
    clock = clock_of(device)
    try:
        for _ in range(arguments.rounds):
            for name in arguments.ways:
                start.wait()
                begun = clock()
                work = (configs, train, valid, device, arguments.slots)
                if name == "headsweep":
                    best[name], usage = search_by_engine(*work)
                else:
                    best[name] = WAYS[name](*work)
                seconds[name].append(clock() - begun)
    except BaseException:
        start.abort()  # the others would wait for ever
        raise
    return Turns(dict(seconds), best, usage)


def workload(arguments: argparse.Namespace) -> tuple[list[Config], Split, Split, torch.device]:
    """Return configs, splits and device; the process computes with one thread from now on."""
    torch.set_num_threads(1)
    configs = draw_configs(
        STUDIES[arguments.head], arguments.configs, arguments.epochs, arguments.fix, arguments.seed
    )
    shape = arguments.width, arguments.labels
    train = make_split("train", arguments.rows, *shape, seed=1)
    valid = make_split("valid", arguments.valid_rows, *shape, seed=2)
    return configs, train, valid, torch.device(arguments.device)


def clock_of(device: torch.device) -> Callable[[], float]:
    """Return the clock: CPU time on a CPU, which other processes do not change; else wall time."""
    return time.process_time if device.type == "cpu" else time.perf_counter


def report_alone(arguments: argparse.Namespace) -> None:
    """Print the ratio of the plain loop to headsweep for every config, and one JSON line last."""
    configs, train, valid, device = workload(arguments)
    clock, ratios = clock_of(device), []
    engine, inputs = Engine(train, valid, EngineSettings(str(device))), Inputs(train, valid, device)
    for config in configs:
        inputs.matrix(Variant.of(config), valid=False)
        slot = engine.replay(config).slot
        start = clock()
        for _ in range(config.training.max_epochs):
            engine.run_epoch()
        ours = clock() - start
        engine.evict(slot)
        start = clock()
        train_one(config, inputs)
        ratios.append((clock() - start) / ours)
        print(f"{ratios[-1]:.2f}", config.head, config.training.batch_size)
    result = {"configs": len(configs), "lowest": min(ratios), "median": statistics.median(ratios)}
    print(json.dumps(result))


def report(arguments: argparse.Namespace, turns: Sequence[Turns]) -> None:
    """Print a table, and one JSON line last."""
    times = {
        name: [
            statistics.mean(taken) for taken in zip(*(t.seconds[name] for t in turns), strict=True)
        ]
        for name in arguments.ways
    }
    medians = {name: statistics.median(taken) for name, taken in times.items()}
    # A round's ways ran side by side in time, so ratios are taken round by round.
    ratios = {
        name: statistics.median(
            other / ours for other, ours in zip(taken, times["headsweep"], strict=True)
        )
        for name, taken in times.items()
    }
    best, usage = turns[0].best, turns[0].usage
    slots_a_step = usage.slot_steps / usage.fused_steps
    us_a_slot_step = 1e6 * usage.training_s / usage.slot_steps
    trained = arguments.configs * arguments.epochs
    table = Table(
        title=f"{arguments.head}: {arguments.configs} configs × {arguments.epochs} epochs, "
        f"{slots_a_step:.1f} slots per fused step, {us_a_slot_step:.1f} us per slot-step, "
        f"{arguments.workers} at once"
    )
    for column in ("way", "s", "ms a trial-epoch", "times headsweep's", "mean best AUPRC"):
        table.add_column(column, justify="left" if column == "way" else "right")
    for name, taken in medians.items():
        table.add_row(
            name, f"{taken:.2f}", f"{taken / trained * 1e3:.1f}", f"{ratios[name]:.2f}",
            f"{np.mean(best[name]):.3f}",
        )  # fmt: skip
    Console().print(table)
    result = {
        "head": arguments.head, "device": arguments.device, "rows": arguments.rows,
        "width": arguments.width, "configs": arguments.configs, "epochs": arguments.epochs,
        "fixed": arguments.fix, "workers": arguments.workers, "slots_a_step": slots_a_step,
        "us_a_slot_step": us_a_slot_step, "median_s": medians, "ratio": ratios,
    }  # fmt: skip
    print(json.dumps(result))


if __name__ == "__main__":
    main()
