"""What workers spent on a study: where their time went, and how full their engines were."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, astuple, dataclass
from typing import Any, Self

from headsweep.errors import StorageError
from headsweep.storage.attributes import typed

EFFORT = "effort:"
"""Study attributes, one a worker, that begin so hold what the worker has spent until then."""


@dataclass(frozen=True)
class WorkerTimings:
    """Counters of one worker, or sums over several."""

    training_s: float = 0.0
    metrics_s: float = 0.0
    store_s: float = 0.0
    """Claims with their suggestions, reports, verdicts and results."""
    waiting_s: float = 0.0
    """For trials that other workers may hand back."""
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
        """Microseconds of training and validation that one optimiser step of one trial takes."""
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
        """The counters and what follows from them, as plain data."""
        derived = {
            "slots_per_step": self.slots_per_step,
            "us_per_slot_step": self.us_per_slot_step,
            "occupancy": self.occupancy,
        }
        return asdict(self) | derived | {"shares": self.shares}

    @classmethod
    def total(cls, efforts: Iterable[Self]) -> Self:
        """The sum over workers."""
        return cls(*map(sum, zip(astuple(cls()), *map(astuple, efforts), strict=True)))


def total_timings(study_attrs: Mapping[str, Any]) -> WorkerTimings:
    """What all workers of a study spent, as far as its attributes tell."""
    noted = {key: value for key, value in study_attrs.items() if key.startswith(EFFORT)}
    return WorkerTimings.total(_timings(value, where=key) for key, value in noted.items())


def _timings(noted: Any, *, where: str) -> WorkerTimings:
    """The counters that a worker noted."""
    if not isinstance(noted, dict):
        raise StorageError(f"{where}: must hold counters, found {str(noted)[:40]!r}")
    empty = asdict(WorkerTimings())
    return WorkerTimings(**{name: typed(noted, name, empty[name], where=where) for name in empty})
