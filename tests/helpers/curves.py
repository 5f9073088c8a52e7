"""Slots whose learning curves are known in closed form, and workers that train in them."""

import math
import os
import signal
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from headsweep.config.schema import Config
from headsweep.engine.timings import Usage
from headsweep.settings import WorkerSettings
from headsweep.studies.study import StoredStudy
from headsweep.studies.worker_session import WorkerSession, join
from headsweep.workers.loop import Loop
from headsweep.workers.signals import Stop, stop_on_signals


def quality(config: Config) -> float:
    """Where the curve of a config ends: highest at a learning rate of 0.01."""
    return 0.9 * math.exp(-0.1 * math.log(config.training.learning_rate / 0.01) ** 2)


def value_after(config: Config, epoch: int) -> float:
    return quality(config) * (1 - math.exp(-epoch / 3))


@dataclass(frozen=True)
class Admission:
    """As `headsweep.engine.engine.Admission`, whose module takes seconds to load."""

    slot: int
    tape_position: int


@dataclass(frozen=True)
class EpochReport:
    """As `headsweep.engine.slots.EpochReport`."""

    slot: int
    epoch: int
    auprc_macro: float
    auroc_macro: float
    loss: float
    value: float
    best_value: float
    best_epoch: int
    finished: bool
    failure: str | None


@dataclass
class _Training:
    config: Config
    epoch: int = 0


class CurveEngine:
    """An engine as workers see it; an epoch takes `epoch_s` seconds."""

    def __init__(self, slots: int, *, epoch_s: float = 0.0, diverging: bool = False) -> None:
        self.slots = slots
        self.usage = Usage()
        self.most_used = 0
        self.configs: list[Config] = []
        self._epoch_s = epoch_s
        self._diverging = diverging
        self._training: dict[int, _Training] = {}

    @property
    def free(self) -> int:
        return self.slots - len(self._training)

    def admit(self, config: Config) -> Admission:
        assert self.free > 0
        slot = len(self.configs)
        self.configs.append(config)
        self._training[slot] = _Training(config)
        self.most_used = max(self.most_used, len(self._training))
        return Admission(slot, tape_position=slot)

    def run_epoch(self) -> list[EpochReport]:
        time.sleep(self._epoch_s)
        self.usage.training_s += self._epoch_s
        self.usage.fused_steps += 1
        self.usage.slot_steps += len(self._training)
        return [self._advance(slot, training) for slot, training in self._training.items()]

    def metrics(self, slot: int) -> dict[str, float]:
        training = self._training[slot]
        value = value_after(training.config, training.epoch)
        return {"auprc_macro": value, "ece": value / 10}

    def evict(self, slot: int) -> None:
        del self._training[slot]

    def _advance(self, slot: int, training: _Training) -> EpochReport:
        training.epoch += 1
        config, epoch = training.config, training.epoch
        value = value_after(config, epoch)
        return EpochReport(
            slot=slot,
            epoch=epoch,
            auprc_macro=value,
            auroc_macro=value,
            loss=1 - value,
            value=value,
            best_value=value,
            best_epoch=epoch,
            finished=epoch >= config.training.max_epochs,
            failure="its scores must be finite" if self._diverging else None,
        )


def work_through(session: WorkerSession, engine: CurveEngine, settings: WorkerSettings) -> None:
    """Runs the worker's loop to its end."""
    Loop(session, engine, settings, Stop()).run()


def work_as_process(study: str, url: str, options: Mapping[str, float]) -> None:
    """Run one worker in this process, which handles signals as `headsweep worker` does."""
    settings = WorkerSettings(
        lease_s=options.get("lease_s", 60.0),
        poll_s=0.05,
        max_retries=int(options.get("retries", 3)),
    )
    engine = CurveEngine(int(options.get("slots", 4)), epoch_s=options.get("epoch_s", 0.0))
    name = f"{os.getpid()}"
    if options.get("nohup"):
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
    with (
        stop_on_signals(options.get("grace_s", 30.0)) as stop,
        join(study, url, settings, worker=name) as session,
    ):
        Loop(session, engine, settings, stop).run()


def work_here(url: str, engine: CurveEngine, **settings: Any) -> None:
    """Works on the study `probe` in this process."""
    chosen = WorkerSettings(poll_s=0.01, **settings)
    with WorkerSession(StoredStudy.open("probe", url), chosen, worker="here") as session:
        work_through(session, engine, chosen)
