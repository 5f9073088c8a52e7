"""Warnings about settings of a study file that are allowed but probably not intended."""

from __future__ import annotations

from collections.abc import Iterator

from headsweep.search.samplers_and_pruners import first_decision, longest_training
from headsweep.search.spec import Dimension, FloatDimension, IntDimension, StudySpec

WARMUP = "training.warmup_epochs"
_FIRST_EPOCH_KEYS = {
    "successive_halving": "min_resource",
    "hyperband": "min_resource",
    "median": "n_warmup_steps",
    "percentile": "n_warmup_steps",
    "threshold": "n_warmup_steps",
    "patient": "patience",
}


def remarks(spec: StudySpec) -> tuple[str, ...]:
    """Return one line, `section.key: what is odd and how to change it`, for each such setting."""
    return (*_ends_before_high(spec), *_pruning_during_warmup(spec), *_unused_valid_rows(spec))


def _ends_before_high(spec: StudySpec) -> Iterator[str]:
    for key, dimension in spec.space.items():
        if isinstance(dimension, FloatDimension | IntDimension) and dimension.last < dimension.high:
            yield (
                f"space.{key}: steps of {dimension.step} from {dimension.low} end at "
                f"{dimension.last}, so high ({dimension.high}) is never tried. Set high to "
                f"{dimension.last}, or choose a step that meets it"
            )


def _pruning_during_warmup(spec: StudySpec) -> Iterator[str]:
    first = first_decision(spec.pruner, longest_training(spec))
    warmup = longest_warmup(spec)
    if first is not None and first <= warmup:
        key = _FIRST_EPOCH_KEYS[spec.pruner.name]
        yield (
            f"pruner.{key}: trials are first pruned at epoch {first}, but {WARMUP} lets the "
            f"learning rate rise until epoch {warmup:g}, where slow starters are pruned. Raise "
            f"pruner.{key} so that pruning begins later, or shorten {WARMUP}"
        )


def _unused_valid_rows(spec: StudySpec) -> Iterator[str]:
    objective, data = spec.objective, spec.config.data
    if objective.folds is not None and not objective.include_valid and data.val_manifest is None:
        yield (
            "objective.include_valid: data.val_manifest is null, so "
            f"{data.val_fraction:.0%} of the train manifest becomes valid, which no fold reads. "
            "Set objective.include_valid to true to use all rows"
        )


def longest_warmup(spec: StudySpec) -> float:
    """Return the most epochs of warm-up that any trial of the study can have."""
    dimension: Dimension | None = spec.space.get(WARMUP)
    if dimension is None:
        return spec.config.training.warmup_epochs
    if isinstance(dimension, FloatDimension):
        return dimension.last
    return max(float(value) for value in dimension.extremes.values())  # type: ignore[arg-type]
