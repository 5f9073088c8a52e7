"""How the ensemble of a leaderboard is selected, as `provenance.json` holds it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from headsweep.metrics.ensemble_selection import Selection


def selection_to_dict(selection: Selection | None) -> dict[str, Any]:
    """Return what `provenance.json` holds under `ensembles`; {} without ensembles."""
    return {} if selection is None else {"ensembles": asdict(selection)}


def recorded_selection(provenance: Mapping[str, Any]) -> Selection | None:
    """Return how the ensemble of a board was selected; None on boards without ensembles."""
    recorded = provenance.get("ensembles")
    if recorded is None:
        return None
    names = ("n_bags", "share", "n_rounds", "seed")
    return Selection(**{name: recorded[name] for name in names})
