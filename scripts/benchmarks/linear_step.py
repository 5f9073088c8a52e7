"""CPU time of a fused step of linear heads at batch size 64, by slots and input variants.

A slot is named by its batch size and its normalization. An epoch includes the validation of 300
rows. With `--values 16` products and rows cost next to nothing, so the time of a step is what
its calls cost.

Takes about 20 seconds.
"""

from __future__ import annotations

import argparse
import time

import torch
from workload import ROOT, make_split

from headsweep.config.values import with_values
from headsweep.engine.engine import Engine
from headsweep.engine.tape import batch_bounds
from headsweep.search.study_file import load_study_file
from headsweep.settings import EngineSettings

KINDS = ("zscore", "whiten", "l2", "none")
CASES: dict[str, list[tuple[int, int]]] = {
    "1 slot": [(64, 0)],
    "2 slots, 2 normalizations": [(64, 0), (64, 1)],
    "4 slots, 1 normalization": [(64, 0)] * 4,
    "4 slots, 4 normalizations": [(64, k) for k in range(4)],
    "1 slot of batch size 64, 1 of 256": [(64, 0), (256, 0)],
    "4 slots each of 64, 256 and 1,024": [(b, k) for b in (64, 256, 1024) for k in range(4)],
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=46438)
    parser.add_argument("--values", type=int, default=512)
    parser.add_argument("--epochs", type=int, default=5)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    config = load_study_file(ROOT / "search_spaces" / "linear_visual.yaml", []).config
    sizes = (("train", arguments.rows, 1), ("valid", 300, 2))
    splits = [make_split(name, n, arguments.values, 18, seed) for name, n, seed in sizes]
    engine = Engine(*splits, EngineSettings(device="cpu"))
    steps = len(batch_bounds(arguments.rows, 64))
    for name, slots in CASES.items():
        values = [
            {"training.batch_size": size, "features.normalization": KINDS[kind]}
            for size, kind in slots
        ]
        admitted = [engine.admit(with_values(config, own, where=name)).slot for own in values]
        engine.run_epoch()
        seconds = []
        for _ in range(arguments.epochs):
            start = time.process_time()
            engine.run_epoch()
            seconds.append(time.process_time() - start)
        print(f"{name}: {1e6 * min(seconds) / steps:.0f} µs a step of 64 rows", flush=True)
        for slot in admitted:
            engine.evict(slot)


if __name__ == "__main__":
    main()
