"""Scores of one head on one split, as they are stored in parquet and measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray

from headsweep.atomic_files import replacing
from headsweep.data.dataset import Split
from headsweep.errors import VerificationError
from headsweep.evaluation.rules import CURRENT, Rules
from headsweep.heads.predictor import Predictor
from headsweep.metrics.masking import BLANK, has_blanks, labelled
from headsweep.metrics.ranking import Scores
from headsweep.metrics.retrieval import instance_ranks

TRUE, SCORE, LOGIT = "y_true:", "y_score:", "y_logit:"
DIRECTIONS = ("visual_to_text", "text_to_visual")


@dataclass(frozen=True, eq=False)
class Predictions:
    """Scores of one head on one split; `targets`, `scores` and `logits` have shape (n, c).

    `scores` are probabilities: float64, or float32 on boards of earlier versions. `logits` are None
    where the probabilities rank the rows: for retrieval heads and boards of earlier versions.
    `targets` are `BLANK`, in files null, where a label is not known.
    """

    name: str
    volumes: tuple[str, ...]
    patients: tuple[str, ...]
    labels: tuple[str, ...]
    targets: NDArray[np.uint8]
    scores: Scores
    logits: NDArray[np.float32] | None = None

    @cached_property
    def ranking(self) -> Scores:
        """Return what ranks rows, (n, c): logits, or probabilities where there are none.

        A probability is exactly 1 above a logit of 36.7 (in float32, of 16.7): logits have no such
        ties.
        """
        return self.scores if self.logits is None else self.logits


def predict(predictor: Predictor, split: Split, rules: Rules = CURRENT) -> Predictions:
    """Score every row of a split with a head.

    Args:
        predictor: the head.
        split: whose features to score.
        rules: of the board that the scores are for.

    Returns:
        Probabilities and logits, as the rules say.
    """
    return predictions_on(split, *_scored(predictor, split.features, rules))


def predictions_on(
    split: Split, scores: Scores, logits: NDArray[np.float32] | None = None
) -> Predictions:
    """Return any method's scores on a split as predictions.

    Args:
        split: whose rows were scored.
        scores: probabilities `(n, c)`.
        logits: what ranks the rows, `(n, c)`; None ranks them by the probabilities.
    """
    return Predictions(
        split.name, split.volumes, split.patients, split.labels, split.targets, scores, logits
    )


def score_features(
    predictor: Predictor, features: Mapping[str, NDArray[np.float32]]
) -> tuple[Scores, NDArray[np.float32] | None]:
    """Score raw features.

    Returns:
        Probabilities `(n, c)` in float64, and the logits that they come from, if there are any.
    """
    return _scored(predictor, features, CURRENT)


def _scored(
    predictor: Predictor, features: Mapping[str, NDArray[np.float32]], rules: Rules
) -> tuple[Scores, NDArray[np.float32] | None]:
    if not rules.ranks_logits:
        return predictor(_tensors(predictor, features)).numpy().astype(np.float32), None
    return predictor.predict_proba(features), predictor.decision_function(features)


def retrieval_ranks(predictor: Predictor, split: Split) -> dict[str, NDArray[np.int64]]:
    """Rank each row's own scan among the rows of the other view, with a retrieval head.

    Returns:
        Ranks `(n,)` by direction.
    """
    views = {
        m: view.numpy()
        for m, view in predictor.project(_tensors(predictor, split.features)).items()
    }
    visual, text = views["visual"], views["text"]
    pairs = ((visual, text), (text, visual))
    return {
        direction: instance_ranks(queries, gallery, split.scans, split.reports)
        for direction, (queries, gallery) in zip(DIRECTIONS, pairs, strict=True)
    }


def write_predictions(predictions: Predictions, path: Path) -> None:
    """Write `volumename, patient`, then `y_true:`, `y_score:` by label; `y_logit:` columns last."""
    targets = dict(zip(predictions.labels, predictions.targets.T, strict=True))
    write_scores(
        predictions.volumes,
        predictions.patients,
        targets,
        predictions.labels,
        predictions.scores,
        predictions.logits,
        path,
    )


def write_scores(
    volumes: tuple[str, ...],
    patients: tuple[str, ...],
    targets: Mapping[str, NDArray[np.uint8]],
    labels: Sequence[str],
    scores: Scores,
    logits: NDArray[np.float32] | None,
    path: Path,
) -> None:
    """Write predictions of rows that have targets for some labels only.

    Args:
        volumes: of the rows.
        patients: of the rows.
        targets: column of each label that has one, `(n,)`.
        labels: of the columns of `scores`.
        scores: probabilities `(n, c)`.
        logits: `(n, c)`, or None.
        path: of the file.
    """
    columns: dict[str, object] = {}
    for label, values in zip(labels, scores.T, strict=True):
        if label in targets:
            blank = targets[label] == BLANK
            columns[f"{TRUE}{label}"] = pa.array(targets[label], mask=blank)
        columns[f"{SCORE}{label}"] = values
    if logits is not None:
        columns |= {f"{LOGIT}{label}": v for label, v in zip(labels, logits.T, strict=True)}
    _write(path, volumes, patients, columns)


def read_predictions(path: Path) -> Predictions:
    """Read what `write_predictions` wrote, including files without logits.

    Returns:
        The predictions; float32 scores without logits if that is what the file holds.

    Raises:
        VerificationError: the file is missing, or holds something else.
    """
    try:
        table = pq.read_table(path)
        names = [name for name in table.column_names if name.startswith(TRUE)]
        labels = tuple(name.removeprefix(TRUE) for name in names)
        targets = _targets(table, labels)
        scores = _matrix(table, SCORE, labels)
        has_logits = any(name.startswith(LOGIT) for name in table.column_names)
        logits = _matrix(table, LOGIT, labels) if has_logits else None
        _check(targets, scores, logits)
        volumes = tuple(table["volumename"].to_pylist())
        patients = tuple(table["patient"].to_pylist())
        return Predictions(path.stem, volumes, patients, labels, targets, scores, logits)
    except (OSError, KeyError, ValueError, pa.ArrowException) as error:
        raise VerificationError(f"{path}: cannot read predictions: {error}") from None


def _check(targets: NDArray[Any], scores: NDArray[Any], logits: NDArray[Any] | None) -> None:
    """Check the arrays of a file of predictions.

    Raises:
        ValueError: an array has no rows, another type, or values that are not allowed.
    """
    known = labelled(targets)
    if not len(targets) or targets.dtype != np.uint8 or targets[known].max(initial=0) > 1:
        raise ValueError("no rows, or targets other than 0 and 1")
    if scores.dtype not in (np.float32, np.float64) or not np.isfinite(scores).all():
        raise ValueError("scores that are not finite numbers")
    if logits is not None and (logits.dtype != np.float32 or not np.isfinite(logits).all()):
        raise ValueError("logits that are not finite numbers")


def read_seeds(paths: Sequence[Path], folder: Path) -> list[Predictions]:
    """Read predictions of one split by each seed of a finalist, all of the same rows.

    Args:
        paths: a file for each seed.
        folder: the finalist's, for messages.

    Returns:
        The predictions, in the order of `paths`.

    Raises:
        VerificationError: a file is missing or holds something else, or there is none.
    """
    seeds = [read_predictions(path) for path in paths]
    if not seeds:
        raise VerificationError(f"{folder}: the finalist has no predictions")
    first = seeds[0]
    for path, seed in zip(paths, seeds, strict=True):
        same = (seed.volumes, seed.patients, seed.labels) == (
            first.volumes,
            first.patients,
            first.labels,
        )
        if not same or not np.array_equal(seed.targets, first.targets):
            raise VerificationError(
                f"{path}: rows or labels differ from those of the finalist's other seeds"
            )
    return seeds


def predictions_table(by_seed: Sequence[Predictions]) -> dict[str, Any]:
    """Return the columns of a file of predictions, probabilities averaged over seeds.

    Args:
        by_seed: predictions of the same rows; logits are kept of a single seed alone.
    """
    first = by_seed[0]
    scores = np.mean([one.scores.astype(np.float64) for one in by_seed], axis=0)
    columns: dict[str, Any] = {"volumename": first.volumes, "patient": first.patients}
    for j, label in enumerate(first.labels):
        true = first.targets[:, j]
        if has_blanks(true):
            true = np.where(labelled(true), true, np.nan)
        columns |= {f"{TRUE}{label}": true, f"{SCORE}{label}": scores[:, j]}
    if len(by_seed) == 1 and first.logits is not None:
        columns |= {f"{LOGIT}{n}": first.logits[:, j] for j, n in enumerate(first.labels)}
    return columns


def write_ranks(ranks: Mapping[str, NDArray[np.int64]], split: Predictions, path: Path) -> None:
    """Write one row for each volume: `volumename, patient`, then `rank:` of every direction."""
    columns = {f"rank:{direction}": values for direction, values in ranks.items()}
    _write(path, split.volumes, split.patients, columns)


def read_ranks(path: Path) -> dict[str, NDArray[np.int64]]:
    """Read what `write_ranks` wrote.

    Returns:
        Ranks `(n,)` by direction.

    Raises:
        VerificationError: the file holds something else.
    """
    try:
        table = pq.read_table(path, columns=[f"rank:{direction}" for direction in DIRECTIONS])
        return {name: table[f"rank:{name}"].cast(pa.int64()).to_numpy() for name in DIRECTIONS}
    except (OSError, KeyError, ValueError, pa.ArrowException) as error:
        raise VerificationError(f"{path}: cannot read ranks: {error}") from None


def _matrix(table: pa.Table, kind: str, labels: Sequence[str]) -> NDArray[Any]:
    """Return the columns of one kind, `(n, c)`."""
    return np.stack([table[f"{kind}{label}"].to_numpy() for label in labels], axis=1)


def _targets(table: pa.Table, labels: Sequence[str]) -> NDArray[Any]:
    """Return the targets `(n, c)`, `BLANK` where they are null.

    Raises:
        ValueError: a value that is not null is `BLANK`.
    """
    columns = [table[f"{TRUE}{label}"] for label in labels]
    if any(pc.any(pc.equal(column, BLANK)).as_py() for column in columns):
        raise ValueError("targets other than 0 and 1")
    return np.stack([pc.fill_null(column, BLANK).to_numpy() for column in columns], axis=1)


def _tensors(
    predictor: Predictor, features: Mapping[str, NDArray[np.float32]]
) -> dict[str, torch.Tensor]:
    return {name: torch.from_numpy(np.array(features[name])) for name in predictor.inputs}


def _write(
    path: Path, volumes: tuple[str, ...], patients: tuple[str, ...], columns: Mapping[str, object]
) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    names = {"volumename": volumes, "patient": patients}
    with replacing(path) as file:
        # Scores are all different: looking for a dictionary of them takes most of the time.
        pq.write_table(
            pa.table({**names, **columns}), file, use_dictionary=[*names], write_statistics=False
        )
