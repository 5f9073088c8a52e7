"""How the search before a leaderboard ended, and how full its engines were."""

from __future__ import annotations

from typing import Annotated, Any, Self

from pydantic import BaseModel, ConfigDict, Field

from headsweep.metrics.trial_metrics import TITLES
from headsweep.search.objective import bounds_shown
from headsweep.search.spec import StudySpec
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

    metric: str | None = None
    """Metric that ranked trials and finalists; None is macro AUPRC."""
    constraint: dict[str, float] | None = None
    """Bounds that all finalists met in the search; None where there are none."""

    @classmethod
    def of(cls, summary: Summary, spec: StudySpec) -> Self:
        """Return the facts of a study's search."""
        metric, constraint = spec.config.training.metric, dict(spec.objective.constraint)
        effort = summary.effort
        return cls(
            n_trials=summary.n_trials,
            n_finished=summary.finished,
            stopped_by=summary.stopped_by,
            slots_per_step=effort.slots_per_step or None,
            us_per_slot_step=effort.us_per_slot_step or None,
            metric=None if metric == "auprc_macro" else metric,
            constraint=constraint or None,
        )

    def to_dict(self) -> dict[str, Any]:
        """Return the facts as plain data; what is None is left out, except `stopped_by`."""
        optional = {"slots_per_step", "us_per_slot_step", "metric", "constraint"}
        unknown = {name for name in optional if getattr(self, name) is None}
        return self.model_dump(exclude=unknown)

    @property
    def note(self) -> str:
        """Sentences about an unusual ranking and the end of the search; "" if there are none."""
        sentences = []
        if self.metric is not None:
            title = TITLES.get(self.metric, self.metric)
            sentences.append(f"Ranked by {title} (`{self.metric}`) on valid.")
        if self.constraint:
            sentences.append(f"Finalists met {bounds_shown(self.constraint)} in the search.")
        if self.stopped_by is not None:
            sentences.append(
                f"The search was stopped {STOPPED_BY[self.stopped_by]}, "
                f"after {self.n_finished} of {self.n_trials} trials."
            )
        return " ".join(sentences)
