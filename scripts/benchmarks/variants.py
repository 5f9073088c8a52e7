"""Compare the two programs for MLPs: slot by slot, and stacked.

For every width, batch size and number of slots, both train the same configs on the same minibatches
in turn. Times are milliseconds a slot and step, medians over the rounds. The figures decide which
program a device kind gets (`engine.groups.program_name`).

Takes about 20 seconds.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from dataclasses import replace

import torch
from rich.console import Console
from rich.table import Table
from workload import make_split

from headsweep.config.schema import Config
from headsweep.config.values import with_values
from headsweep.engine.groups import PROGRAMS, group_key
from headsweep.engine.hardware.device import flushed_denormals
from headsweep.engine.inputs import Inputs
from headsweep.engine.programs.base import Program
from headsweep.engine.slots import Slot
from headsweep.engine.tape import permutation

VARIANTS = {"slot by slot": "mlp", "stacked": "stacked_mlp"}


def main() -> None:
    """Time both at every shape, print a table, and one line of JSON last."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--rows", type=int, default=4096)
    parser.add_argument("--width-in", type=int, default=512)
    parser.add_argument("--widths", type=int, nargs="+", default=[16, 64, 256, 512])
    parser.add_argument("--batches", type=int, nargs="+", default=[64, 256])
    parser.add_argument("--slots", type=int, nargs="+", default=[4, 16])
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    splits = (make_split(s, arguments.rows, arguments.width_in, 18, seed=1) for s in ("a", "b"))
    inputs = Inputs(*splits, torch.device(arguments.device))
    table = Table(title=f"ms a slot and step on {_device_name(inputs.device)}")
    for column in ("width", "batch", "slots", *VARIANTS, "stacked is faster by"):
        table.add_column(column, justify="right")
    results = []
    for width in arguments.widths:
        for batch in arguments.batches:
            for slots in arguments.slots:
                configs = _configs(width, batch, slots)
                found = _compare(configs, inputs, arguments.steps, arguments.rounds)
                ratio = found["slot by slot"] / found["stacked"]
                times = [f"{value:.3f}" for value in found.values()]
                table.add_row(str(width), str(batch), str(slots), *times, f"{ratio:.2f}")
                shape = {"width": width, "batch": batch, "slots": slots}
                results.append({**shape, **found, "ratio": ratio})
    Console().print(table)
    print(json.dumps({"device": _device_name(inputs.device), "variants": results}))


def _configs(width: int, batch: int, slots: int) -> list[Config]:
    """Return configs with two hidden layers, dropout, and a learning rate for each slot."""
    base = {"head.width": width, "head.depth": 2, "head.dropout": 0.3, "training.batch_size": batch}
    mlp = Config.model_validate({"head": {"kind": "mlp"}})
    rates = [{"training.learning_rate": 1e-4 * (1 + i)} for i in range(slots)]
    return [with_values(mlp, base | rate, where="variants") for rate in rates]


@torch.no_grad()
def _compare(configs: list[Config], inputs: Inputs, steps: int, rounds: int) -> dict[str, float]:
    key = group_key(configs[0], inputs)
    batch_size = configs[0].training.batch_size
    order = permutation(0, 0, inputs.n_train)[: steps * batch_size]
    steps = len(order) // batch_size
    programs: dict[str, Program] = {}
    slots: dict[str, list[Slot]] = {}
    for variant, name in VARIANTS.items():
        also = PROGRAMS[name].cannot_mix(configs[0], inputs)
        program = PROGRAMS[name](replace(key, program=name, also=also), inputs)
        slots[variant] = [
            Slot(number, config, batch_size, steps, 1000) for number, config in enumerate(configs)
        ]
        for slot in slots[variant]:
            program.admit(slot)
        program.train_epoch(order, 0)
        programs[variant] = program
    times: dict[str, list[float]] = {variant: [] for variant in VARIANTS}
    with flushed_denormals():
        for _ in range(rounds):
            for variant, program in programs.items():
                for slot in slots[variant]:
                    slot.epoch += 1
                _wait(inputs.device)
                start = time.perf_counter()
                program.train_epoch(order, 0)
                _wait(inputs.device)
                times[variant].append(time.perf_counter() - start)
    share = 1000 / (steps * len(configs))
    return {variant: share * statistics.median(taken) for variant, taken in times.items()}


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "one CPU core"


if __name__ == "__main__":
    main()
