"""Other ways to train, side by side with headsweep."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from ways import _train_stack, _train_summed, train_one

from gpu_sections.device import DEVICE, now, wait
from gpu_sections.programs import drawn_configs
from gpu_sections.run import Run
from headsweep.config.schema import Config
from headsweep.engine.engine import Engine
from headsweep.engine.inputs import Inputs, Variant
from headsweep.settings import EngineSettings


@torch.no_grad()
def by_engine(configs: Sequence[Config], engine: Engine) -> None:
    """Train all configs for one epoch with headsweep, as a search drives it."""
    waiting = list(configs)
    while waiting:
        for config in [waiting.pop() for _ in range(min(len(waiting), engine.free))]:
            engine.replay(config)
        for report in engine.run_epoch():
            engine.evict(report.slot)


def in_chunks(train: Callable[[Sequence[Config], Inputs], object], key: Callable[[Config], object],
              configs: Sequence[Config], inputs: Inputs) -> None:  # fmt: skip
    """Train heads together that agree on what a way cannot mix."""
    alike: dict[object, list[Config]] = {}
    for config in configs:
        alike.setdefault(key(config), []).append(config)
    for members in alike.values():
        train(members, inputs)


def ways(run: Run, until: float) -> dict[str, Any]:
    """Train with headsweep, and in the ways it is compared with, for one epoch.

    Returns:
        Microseconds a slot-step by head and way.
    """
    return {head: ways_of(run, until, head, ours, theirs) for head, ours, theirs in run.sizes.ways}


def ways_of(run: Run, until: float, head: str, ours: int, theirs: int) -> dict[str, float]:
    """Return microseconds a slot-step by way; inputs are made before."""
    train, valid = run.data()
    configs = drawn_configs(run, f"{head}_visual", ours)
    engine = Engine(train, valid, EngineSettings(device=str(DEVICE), slots=ours))
    inputs = engine.inputs
    for config in configs:
        for split in (False, True):
            inputs.matrix(Variant.of(config), valid=split)
    by_engine(configs[:4], engine)

    def alike(config: Config) -> tuple[object, ...]:
        return config.training.batch_size, config.features, config.training.optimizer

    def same_shape(config: Config) -> object:
        return alike(config), str(config.head).split(" dropout")[0]

    def one_at_a_time(some: Sequence[Config]) -> None:
        for config in some:
            train_one(config, inputs)

    calls: dict[str, Callable[[Sequence[Config]], None]] = {
        "headsweep": lambda some: by_engine(some, engine),
        "one at a time": one_at_a_time,
        "summed losses (dinov2)": lambda some: in_chunks(_train_summed, alike, some, inputs),
        "static stack (HFTA)": lambda some: in_chunks(_train_stack, same_shape, some, inputs),
    }
    timings: dict[str, float] = {}
    for way, call in calls.items():
        if now() > until:
            run.say(f"{head}: {way}", "skipped: no time left")
            continue
        some = configs if way == "headsweep" else configs[:theirs]
        wait()
        begun = now()
        call(some)
        wait()
        slot_steps = sum(len(train.targets) / c.training.batch_size for c in some)
        timings[way] = (now() - begun) / slot_steps * 1e6
        ratio = timings[way] / timings["headsweep"]
        run.say(
            f"{head}: {way}, {len(some)} configs x 1 epoch, validation included",
            f"{timings[way]:.1f} us a slot-step, {ratio:.1f} times headsweep's",
        )
    return timings
