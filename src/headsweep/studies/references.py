"""What the references of a study read, checked before its search."""

from __future__ import annotations

from collections.abc import Sequence

from headsweep.config.schema import Modality
from headsweep.data.prompts import ZERO_SHOT_INPUT, prompts_for
from headsweep.data.splits import MODALITIES, Split
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


def check_references(spec: StudySpec, train: Split) -> None:
    """Refuse a file of prompts that the leaderboard could not use.

    Args:
        spec: of the study.
        train: training split, with the features that `with_references` names.

    Raises:
        FeatureError: the file lacks a label, or holds vectors that cannot be used.
    """
    if "zero_shot" in spec.references:
        prompts_for(spec.config, train)
