"""Which features the references of a study read."""

from __future__ import annotations

from collections.abc import Sequence

from headsweep.config.schema import Config
from headsweep.data.splits import in_order
from headsweep.search.spec import StudySpec


def with_references(spec: StudySpec, inputs: Sequence[str]) -> tuple[str, ...]:
    """Return the inputs that heads read, and those that the study's references add."""
    return zero_shot_inputs(inputs, spec.config, zero_shot="zero_shot" in spec.references)


def zero_shot_inputs(inputs: Sequence[str], config: Config, *, zero_shot: bool) -> tuple[str, ...]:
    """Return the inputs that heads read, and that of zero-shot if there is such a row."""
    if not zero_shot:
        return tuple(inputs)
    return in_order((*inputs, config.data.zero_shot_input), config)
