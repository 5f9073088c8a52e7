"""Rules by which the figures of a board are computed; a board keeps the rules it was made with."""

from __future__ import annotations

from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Rules:
    """What differs between versions; `provenance.json` names the version as `figures_version`."""

    version: int
    ranks_logits: bool
    """Predictions have float64 probabilities and logits, which are ranked. Otherwise they have
    float32 probabilities, which are ranked with the ties that rounding makes."""
    corrects_few_patients: bool
    """Intervals and p-values are left out where too few patients have a class, and DeLong's test
    uses Student's distribution."""
    valid_auroc: bool
    """The table ends with the AUROC on valid."""
    bounds_ratios: bool
    """Ratios of exactly 0 or 1 have one-sided intervals; before, intervals without width."""
    cuts_logits: bool
    """Thresholds are chosen and applied on what ranks the rows: logits, where there are any."""
    scores_areas: bool
    """AUROC and AUPRC of labels and macro AUPRC have score intervals, and these and macro AUROC
    have intervals from fewer patients on."""
    student_areas: bool
    """Score intervals of labels use Student's quantiles, before normal ones, and macro AUROC has a
    score interval, before percentiles."""


_FIRST = Rules(
    1,
    ranks_logits=False,
    corrects_few_patients=False,
    valid_auroc=False,
    bounds_ratios=False,
    cuts_logits=False,
    scores_areas=False,
    student_areas=False,
)
_SECOND = replace(
    _FIRST, version=2, ranks_logits=True, corrects_few_patients=True, valid_auroc=True
)
_THIRD = replace(_SECOND, version=3, bounds_ratios=True, cuts_logits=True)
_FOURTH = replace(_THIRD, version=4, scores_areas=True)
_FIFTH = replace(_FOURTH, version=5, student_areas=True)
RULES = {rules.version: rules for rules in (_FIRST, _SECOND, _THIRD, _FOURTH, _FIFTH)}
CURRENT = RULES[max(RULES)]
