"""Which features the references of a study read."""

from __future__ import annotations

from collections.abc import Sequence

from headsweep.data.splits import ZERO_SHOT_INPUT
from headsweep.search.spec import StudySpec


def with_references(spec: StudySpec, inputs: Sequence[str]) -> tuple[str, ...]:
    """Return the inputs that heads read, and those that the study's references add."""
    return zero_shot_inputs(inputs, zero_shot="zero_shot" in spec.references)


def zero_shot_inputs(inputs: Sequence[str], *, zero_shot: bool) -> tuple[str, ...]:
    """Return the inputs that heads read, and that of zero-shot if there is such a row."""
    if not zero_shot or ZERO_SHOT_INPUT in inputs:
        return tuple(inputs)
    return (ZERO_SHOT_INPUT, *inputs)
