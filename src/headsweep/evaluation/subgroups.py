"""Macro AUPRC and AUROC of a finalist within subgroups of patients."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from headsweep.atomic_files import replacing
from headsweep.errors import VerificationError
from headsweep.evaluation.areas import class_patients, macro_area_ends, min_patients
from headsweep.evaluation.extremes import bound_of_extremes
from headsweep.evaluation.predictions import Predictions
from headsweep.evaluation.rules import CURRENT, Rules
from headsweep.evaluation.summaries import (
    CONFIDENCE,
    MIN_PATIENTS,
    mean_patients,
    shared_resamples,
    summarize,
)
from headsweep.metrics.bootstrap import (
    rarer_class_patients,
    resampled_ranking,
)
from headsweep.metrics.ranking import average_precision_and_auroc, macro, n_defined

SUBGROUPS = "subgroups.parquet"

Attributes = Mapping[str, Sequence[str]]
"""Subgroup of every row by attribute."""

CONTENT, UNSEEN, IN_TRAIN = "content", "unseen", "also in train"
"""Attribute and subgroups of rows whose report or features train lacks, or has."""


def content_alone(attributes: Attributes) -> Attributes:
    """Return the attribute `content` without the others, if it is among them."""
    return {name: groups for name, groups in attributes.items() if name == CONTENT}


def subgroup_report(
    by_seed: Sequence[Predictions], attributes: Attributes, rules: Rules = CURRENT
) -> dict[str, Any]:
    """Measure both macro metrics within subgroups, with intervals over patients.

    Args:
        by_seed: predictions of each seed on one split.
        attributes: of its rows.
        rules: of the board.

    Returns:
        Plain data by attribute and subgroup.
    """
    return {
        name: {
            group: _measure(by_seed, np.asarray(groups) == group, rules)
            for group in sorted({*groups})
        }
        for name, groups in attributes.items()
    }


def write_subgroups(by_split: Mapping[str, tuple[Sequence[str], Attributes]], path: Path) -> None:
    """Write one row for each volume and split: `split, volumename`, then every attribute."""
    tables = [
        pa.table({"split": [name] * len(volumes), "volumename": list(volumes), **attributes})
        for name, (volumes, attributes) in by_split.items()
    ]
    with replacing(path) as file:
        pq.write_table(pa.concat_tables(tables, promote_options="default"), file)


def read_subgroups_of(path: Path, split: str) -> dict[str, list[str]]:
    """Read the attributes of a split's rows.

    Returns:
        Subgroup of every row by attribute; empty where there is no file or it lacks the split.

    Raises:
        VerificationError: the file holds something else.
    """
    if not path.is_file():
        return {}
    try:
        table = pq.read_table(path, filters=[("split", "=", split)])
    except (OSError, ValueError, KeyError, pa.ArrowException) as error:
        raise VerificationError(f"{path}: cannot read subgroups: {error}") from None
    columns = {name: table[name].to_pylist() for name in table.column_names[2:]}
    return {name: values for name, values in columns.items() if values and None not in values}


def _measure(
    by_seed: Sequence[Predictions], members: np.ndarray[Any, Any], rules: Rules
) -> dict[str, Any]:
    targets = by_seed[0].targets[members]
    ranking = np.stack([seed.ranking[members] for seed in by_seed])
    patients = np.asarray(by_seed[0].patients)[members].tolist()
    resamples = shared_resamples(tuple(patients))
    values = average_precision_and_auroc(targets, ranking)
    draws = resampled_ranking(targets, ranking, resamples)
    rest_on = mean_patients(rarer_class_patients(targets, patients))
    summaries = {}
    for name, value, drawn in zip(("auprc", "auroc"), values, draws, strict=True):
        by_seed_value, own = macro(value), np.array([rest_on])
        classes = class_patients(targets, patients)
        summaries[f"{name}_macro"] = summarize(
            by_seed_value,
            macro(drawn).mean(axis=0),
            rest_on,
            rules,
            extremes=bound_of_extremes(
                name, by_seed_value.mean(keepdims=True), own, CONFIDENCE, rules
            ),
            ends=macro_area_ends(name, value, drawn.mean(axis=0), classes, CONFIDENCE, rules),
            least=min_patients(name, rules, MIN_PATIENTS),
        )
    return {
        "n_rows": len(targets),
        "n_patients": len(set(patients)),
        "n_labels_used": int(n_defined(values[0][0])),
        **summaries,
    }
