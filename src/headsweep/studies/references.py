"""Which features the references of a study read."""

from __future__ import annotations

from collections.abc import Sequence

from headsweep.config.schema import Modality
from headsweep.data.splits import MODALITIES, ZERO_SHOT_INPUT
from headsweep.search.spec import StudySpec


def with_references(spec: StudySpec, modalities: Sequence[Modality]) -> tuple[Modality, ...]:
    """Return the modalities that heads read, and those that the study's references add."""
    return zero_shot_modalities(modalities, zero_shot="zero_shot" in spec.references)


def zero_shot_modalities(
    modalities: Sequence[Modality], *, zero_shot: bool
) -> tuple[Modality, ...]:
    """Return the modalities that heads read, and that of zero-shot if there is such a row."""
    needed = {*modalities, *([ZERO_SHOT_INPUT] if zero_shot else [])}
    return tuple(modality for modality in MODALITIES if modality in needed)
