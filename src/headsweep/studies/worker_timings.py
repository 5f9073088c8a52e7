"""How the workers of a study spent their time, and how many of their slots were in use."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, astuple, dataclass
from typing import Any, Self

from headsweep.errors import StorageError
from headsweep.storage.attributes import typed

EFFORT = "effort:"
"""Prefix of the study attributes that hold the timings of one worker each."""


@dataclass(frozen=True)
class WorkerTimings:
    """Counters of one worker, or sums over several."""

    training_s: float = 0.0
    metrics_s: float = 0.0
    store_s: float = 0.0
    """Claims with their suggestions, reports, pruning decisions and results."""
    waiting_s: float = 0.0
    """Time without trials, while trials of other workers may still be retried."""
    fused_steps: int = 0
    slot_steps: int = 0
    used_places: int = 0
    """Slots in training, summed over epochs."""
    places: int = 0
    """All slots, summed over epochs."""

    @property
    def slots_per_step(self) -> float | None:
        """Trials that one fused step trains, on average; `engine.timings.Usage` defines a step."""
        return self.slot_steps / self.fused_steps if self.fused_steps else None

    @property
    def us_per_slot_step(self) -> float | None:
        """Microseconds of training and validation that one optimizer step of one trial takes."""
        return 1e6 * self.training_s / self.slot_steps if self.slot_steps else None

    @property
    def occupancy(self) -> float | None:
        """Share of the slots that were in use."""
        return self.used_places / self.places if self.places else None

    @property
    def shares(self) -> dict[str, float]:
        """Shares of the time, by what it was spent on; empty before there is any."""
        seconds = {
            "training": self.training_s,
            "metrics": self.metrics_s,
            "store": self.store_s,
            "waiting": self.waiting_s,
        }
        total = sum(seconds.values())
        return {name: s / total for name, s in seconds.items()} if total > 0 else {}

    def to_dict(self) -> dict[str, Any]:
        """Return the counters and the values derived from them as plain data."""
        derived = {
            "slots_per_step": self.slots_per_step,
            "us_per_slot_step": self.us_per_slot_step,
            "occupancy": self.occupancy,
        }
        return asdict(self) | derived | {"shares": self.shares}

    @classmethod
    def total(cls, timings: Iterable[Self]) -> Self:
        """Return the sum over workers."""
        return cls(*map(sum, zip(astuple(cls()), *map(astuple, timings), strict=True)))


def total_timings(study_attrs: Mapping[str, Any]) -> WorkerTimings:
    """Return the sum of the timings in a study's attributes."""
    stored = {key: value for key, value in study_attrs.items() if key.startswith(EFFORT)}
    return WorkerTimings.total(_timings(value, where=key) for key, value in stored.items())


def _timings(stored: Any, *, where: str) -> WorkerTimings:
    """Return the counters that a worker stored.

    Raises:
        StorageError: the attribute holds something else.
    """
    if not isinstance(stored, dict):
        raise StorageError(f"{where}: must hold counters, found {str(stored)[:40]!r}")
    empty = asdict(WorkerTimings())
    return WorkerTimings(**{name: typed(stored, name, empty[name], where=where) for name in empty})
