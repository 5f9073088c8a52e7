"""Retrieval heads: recorded steps on several streams, and steps that the host starts one by one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from gpu_sections.correctness import equal_to_the_bit, weights_apart
from gpu_sections.device import CUDA, DEVICE, now, wait
from gpu_sections.programs import drawn_configs
from gpu_sections.run import Run
from gpu_sections.side_by_side import by_engine
from headsweep.engine import groups
from headsweep.engine.engine import Engine
from headsweep.engine.inputs import Variant
from headsweep.engine.programs.base import Program
from headsweep.engine.programs.retrieval import RetrievalProgram
from headsweep.engine.programs.retrieval_recorded import RecordedRetrievalProgram
from headsweep.engine.train_configs import train_to_end
from headsweep.settings import EngineSettings


@contextmanager
def program_of_retrieval(program: type[Program]) -> Iterator[None]:
    """Let the device train retrieval heads in this program."""
    name = "recorded_retrieval" if CUDA else "retrieval"
    kept = groups.PROGRAMS[name]
    groups.PROGRAMS[name] = program
    try:
        yield
    finally:
        groups.PROGRAMS[name] = kept


def retrieval(run: Run, until: float) -> dict[str, Any]:
    """Compare recorded retrieval heads with the CPU's and with themselves, and time both programs.

    Returns:
        The measurements.
    """
    s = run.sizes
    found: dict[str, Any] = {}
    splits = run.checked_data()
    settings = EngineSettings(device=str(DEVICE), slots=64)
    configs = drawn_configs(run, "retrieval", 6)
    with program_of_retrieval(RecordedRetrievalProgram):
        together = train_to_end(configs, *splits, settings)
        again = train_to_end(configs, *splits, settings)
        alone = [train_to_end([config], *splits, settings)[0] for config in configs]
    with program_of_retrieval(RetrievalProgram):
        cpu = train_to_end(configs, *splits, EngineSettings(device="cpu", slots=64))
    for name, others in (("repeats", again), ("alone", alone)):
        found[name] = [equal_to_the_bit(a, b) for a, b in zip(together, others, strict=True)]
        run.say(f"retrieval, {name} equal to the bit", f"{sum(found[name])} of {len(configs)}")
    found["auprc"] = [abs(a.best_value - b.best_value) for a, b in zip(together, cpu, strict=True)]
    found["weights"] = [weights_apart(a, b) for a, b in zip(together, cpu, strict=True)]
    run.say("retrieval, AUPRC against CPU, most", f"{max(found['auprc']):.1e}")
    run.say("retrieval, weights against CPU, most", f"{max(found['weights']):.1e}")

    found["us_per_slot_step"] = {}
    ways: dict[str, type[Program]] = {
        "one by one": RetrievalProgram,
        "recorded": RecordedRetrievalProgram,
    }
    for name, program in ways.items():
        if now() > until:
            run.say(f"retrieval, {name}", "skipped: no time left")
            continue
        with program_of_retrieval(program):
            found["us_per_slot_step"][name] = _us_per_slot_step(run)
        run.say(
            f"retrieval, {name}, {s.retrieval} configs x 1 epoch, validation included",
            f"{found['us_per_slot_step'][name]:.1f} us a slot-step",
        )
    return found


def _us_per_slot_step(run: Run) -> float:
    """Return the microseconds of a slot-step over an epoch of heads as the study draws them."""
    train, valid = run.data()
    configs = drawn_configs(run, "retrieval", run.sizes.retrieval)
    engine = Engine(train, valid, EngineSettings(device=str(DEVICE), slots=len(configs)))
    for config in configs:
        for name in ("visual", "text"):
            for split in (False, True):
                engine.inputs.matrix(Variant(name, config.features.normalization), valid=split)
    by_engine(configs[:2], engine)  # initializes libraries
    wait()
    begun = now()
    by_engine(configs, engine)
    wait()
    steps = sum(len(train.targets) / config.training.batch_size for config in configs)
    return (now() - begun) / steps * 1e6
