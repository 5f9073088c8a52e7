"""Health of the features of a leaderboard: the numbers and warnings of `headsweep data check`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from headsweep.data.dataset import Split
from headsweep.data.health import feature_health, health_messages
from headsweep.leaderboard.report.page import Cell, TableCard
from headsweep.progress import progress_bar

FEATURE_HEALTH = "feature_health.json"
_COUNTED = ("norm_outliers", "distance_outliers", "constant_columns")

NOTE = (
    "Effective rank: exp of the entropy of the variance shares of the principal components. Near-"
    "duplicates: share of rows that nearly equal a row of another patient. Outliers: robust z "
    "score of the norm or of the distance to the mean row above 6. headsweep data check shows the "
    "same numbers before a search."
)


def health_of(splits: Sequence[Split]) -> dict[str, dict[str, Any]]:
    """Measure the features of every split.

    Args:
        splits: with the features that the finalists read.

    Returns:
        By split and modality the numbers of `data.health.Health`, with lists as counts, and the
        warnings, which name volumes.
    """
    found: dict[str, dict[str, Any]] = {}
    with progress_bar("health of features", sum(len(split.features) for split in splits)) as bar:
        for split in splits:
            found[split.name] = {}
            for modality, matrix in split.features.items():
                if len(matrix) > 1:
                    health = feature_health(matrix, split.patients)
                    kind = f"{modality} features"
                    place = split.volumes.__getitem__
                    found[split.name][modality] = {
                        "n_rows": len(matrix),
                        "width": health.width,
                        "effective_rank": health.effective_rank,
                        "possible_rank": health.possible_rank,
                        "mean_cosine": health.mean_cosine,
                        "near_duplicates": health.near_duplicates,
                        **{f"n_{name}": len(getattr(health, name)) for name in _COUNTED},
                        "warnings": health_messages(health, kind, len(matrix), place),
                    }
                bar.advance()
    return found


def health_table(health: Mapping[str, Mapping[str, Any]]) -> TableCard:
    """Return the report's table: a line for each split and modality; warnings are shaded."""
    header = ["split", "rows", "effective rank", "mean cosine", "near-duplicates"]
    header += ["outliers: norm, distance", "constant columns", "warnings"]
    rows = []
    for split, by_modality in health.items():
        for modality, found in by_modality.items():
            outliers = f"{found['n_norm_outliers']}, {found['n_distance_outliers']}"
            warnings = found["warnings"]
            rows.append(
                [
                    Cell(split, f"{modality}, {found['width']} wide"),
                    Cell(str(found["n_rows"])),
                    Cell(f"{found['effective_rank']:.1f}", f"of {found['possible_rank']}"),
                    Cell(f"{found['mean_cosine']:.2f}"),
                    Cell(f"{found['near_duplicates']:.1%}"),
                    Cell(outliers),
                    Cell(str(found["n_constant_columns"])),
                    Cell("; ".join(warnings) or "none", heat=0.35 if warnings else None),
                ]
            )
    return TableCard("Health of the features", NOTE, header, rows)
