"""Rules by which the figures of a board are computed; a board keeps the rules it was made with."""

from __future__ import annotations

from dataclasses import dataclass


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


RULES = {
    1: Rules(
        1,
        ranks_logits=False,
        corrects_few_patients=False,
        valid_auroc=False,
        bounds_ratios=False,
        cuts_logits=False,
        scores_areas=False,
        student_areas=False,
    ),
    2: Rules(
        2,
        ranks_logits=True,
        corrects_few_patients=True,
        valid_auroc=True,
        bounds_ratios=False,
        cuts_logits=False,
        scores_areas=False,
        student_areas=False,
    ),
    3: Rules(
        3,
        ranks_logits=True,
        corrects_few_patients=True,
        valid_auroc=True,
        bounds_ratios=True,
        cuts_logits=True,
        scores_areas=False,
        student_areas=False,
    ),
    4: Rules(
        4,
        ranks_logits=True,
        corrects_few_patients=True,
        valid_auroc=True,
        bounds_ratios=True,
        cuts_logits=True,
        scores_areas=True,
        student_areas=False,
    ),
    5: Rules(
        5,
        ranks_logits=True,
        corrects_few_patients=True,
        valid_auroc=True,
        bounds_ratios=True,
        cuts_logits=True,
        scores_areas=True,
        student_areas=True,
    ),
}
CURRENT = RULES[max(RULES)]
