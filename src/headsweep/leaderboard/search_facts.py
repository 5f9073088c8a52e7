"""How the search before a leaderboard ended, and how full its engines were."""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, Field

from headsweep.studies.stopping import StopReason
from headsweep.studies.summary import Summary

STOPPED_BY: dict[StopReason, str] = {
    "timeout": "by its time limit",
    "patience": "by study.patience, since its last trials were no better",
}

Count = Annotated[int, Field(ge=0)]
Rate = Annotated[float, Field(gt=0)]


class SearchFacts(BaseModel):
    """What `provenance.json` holds about a search, under `search`."""

    model_config = ConfigDict(extra="ignore", strict=True, allow_inf_nan=False, frozen=True)

    n_trials: Count
    """Budget of the search."""
    n_finished: Count
    """Trials that count towards it."""
    stopped_by: StopReason | None = None
    """Why the search stopped before its budget was spent; None if it did not."""
    slots_per_step: Rate | None = None
    """Trials that one fused step trained, on average; None where no worker recorded it."""
    us_per_slot_step: Rate | None = None
    """Microseconds of one optimiser step of one trial; None where no worker recorded it."""

    @classmethod
    def of(cls, summary: Summary) -> Self:
        """Return the facts of a study's search."""
        effort = summary.effort
        return cls(
            n_trials=summary.n_trials,
            n_finished=summary.finished,
            stopped_by=summary.stopped_by,
            slots_per_step=effort.slots_per_step or None,
            us_per_slot_step=effort.us_per_slot_step or None,
        )

    def to_dict(self) -> dict[str, str | int | float | None]:
        """Return the facts as plain data; speeds that no worker recorded are left out."""
        speeds = {"slots_per_step", "us_per_slot_step"}
        unknown = {name for name in speeds if getattr(self, name) is None}
        return self.model_dump(exclude=unknown)

    @property
    def note(self) -> str:
        """A sentence that says why the search was stopped; "" if it was not."""
        if self.stopped_by is None:
            return ""
        return (
            f"The search was stopped {STOPPED_BY[self.stopped_by]}, "
            f"after {self.n_finished} of {self.n_trials} trials."
        )
