"""By which metric the finalists of several studies are ordered, and their values on valid."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from headsweep.errors import VerificationError
from headsweep.json_text import parse_json
from headsweep.leaderboard.provenance import read_provenance
from headsweep.leaderboard.results import objective_figure
from headsweep.leaderboard.staging import PROVENANCE
from headsweep.metrics.trial_metrics import TITLES

DEFAULT = "auprc_macro"
SHOWN = ("auprc_macro", "auroc_macro")
"""Metrics whose values on valid every leaderboard has in its table."""

OBJECTIVE_COLUMNS = {f"val/{name}": title for name, title in TITLES.items() if name not in SHOWN}
"""Columns that merged boards have besides where they are ordered by such a metric, with titles."""


@dataclass(frozen=True)
class Order:
    """How rows of one board are ordered.

    Attributes:
        metric: by whose value on valid.
        values: of the rows.
        note: a sentence for readers; empty where all studies were searched by AUPRC.
    """

    metric: str
    values: Sequence[float]
    note: str = ""

    @property
    def column(self) -> str:
        """Name of the column that has the values."""
        return f"val/{self.metric}"


def order_of(entries: Sequence[tuple[Mapping[str, str], Path]]) -> Order:
    """Return how finalists are ordered: by the metric of their studies, or by AUPRC if it differs.

    Args:
        entries: rows of `leaderboard.csv`, each with the folder of its board.

    Returns:
        The order.

    Raises:
        VerificationError: a board's provenance or a finalist's metrics cannot be read.
    """
    by_folder = {folder: _metric_of(folder) for _, folder in entries}
    metrics = sorted(set(by_folder.values()))
    if len(metrics) == 1 and metrics[0] != DEFAULT:
        (metric,) = metrics
        values = [_value(row, folder, metric) for row, folder in entries]
        return Order(metric, values, f"Ordered by {TITLES.get(metric, metric)} on valid.")
    values = [float(row[f"val/{DEFAULT}"]) for row, _ in entries]
    if len(metrics) == 1:
        return Order(DEFAULT, values)
    named = ", ".join(TITLES.get(metric, metric) for metric in metrics)
    note = f"Ordered by {TITLES[DEFAULT]} on valid, as the studies maximize different metrics"
    return Order(DEFAULT, values, f"{note}: {named}.")


def with_values(rows: Sequence[Mapping[str, str]], order: Order) -> list[dict[str, str]]:
    """Return rows with the values by which they are ordered, where their table lacks them."""
    if order.metric in SHOWN:
        return [dict(row) for row in rows]
    values = zip(rows, order.values, strict=True)
    return [{**row, order.column: repr(value)} for row, value in values]


def _metric_of(folder: Path) -> str:
    """Return the metric that the study of a board maximizes; AUPRC where no file says."""
    if not (folder / PROVENANCE).is_file():
        return DEFAULT
    config = read_provenance(folder)["finalists"][0]["config"]
    metric: str = config.get("training", {}).get("metric", DEFAULT)
    return metric


def _value(row: Mapping[str, str], folder: Path, metric: str) -> float:
    """Return a finalist's value on valid, the first split of its `metrics.json`.

    Raises:
        VerificationError: the file cannot be read, or lacks the value.
    """
    path = (folder / row["config"]).parent / "metrics.json"
    try:
        metrics = parse_json(path.read_text(encoding="utf-8"))
        value = objective_figure(next(iter(metrics.values())), metric)
    except (OSError, ValueError, LookupError, TypeError, AttributeError, StopIteration) as error:
        raise VerificationError(f"{path}: cannot read {metric} on valid: {error!r}") from None
    if value is None:
        raise VerificationError(f"{path}: {metric} on valid is undefined")
    return value
