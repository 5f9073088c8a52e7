"""Finalists of a study with folds: a head for each fold, and predictions of the rows left out."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from pydantic import ValidationError

from headsweep.atomic_files import replacing
from headsweep.config.explain import explain
from headsweep.data.dataset import Split
from headsweep.data.folds import Folds
from headsweep.engine.engine import FoldedEngine
from headsweep.engine.slots import EpochReport
from headsweep.engine.train_configs import train_for, train_in
from headsweep.errors import VerificationError
from headsweep.evaluation.out_of_fold import fold_members, out_of_fold
from headsweep.evaluation.predictions import retrieval_ranks
from headsweep.evaluation.rules import CURRENT, Rules
from headsweep.heads.predictor import Predictor
from headsweep.leaderboard.finalists import Confirmed, Finalist, collected, seeded
from headsweep.metrics.retrieval import recall_at
from headsweep.search.objective import Objective, objective_from_plain, objective_to_plain
from headsweep.settings import EngineSettings
from headsweep.studies.folds import folds_of

FOLDS_FILE = "folds.parquet"


@dataclass(frozen=True, eq=False)
class CrossValidation:
    """The folds of a study, and how its finalists are made of them.

    Attributes:
        objective: of the study.
        seed: of the study, by which the rows were divided.
        folds: the rows and their folds.
    """

    objective: Objective
    seed: int
    folds: Folds

    @classmethod
    def of(cls, objective: Objective, seed: int, train: Split, valid: Split) -> Self | None:
        """Divide the rows of a study.

        Returns:
            The folds; None if the objective has none.

        Raises:
            ManifestError: there are fewer patients than folds.
        """
        folds = folds_of(objective, seed, train, valid)
        return None if folds is None else cls(objective, seed, folds)

    @classmethod
    def recorded(cls, provenance: Mapping[str, Any], train: Split, valid: Split) -> Self | None:
        """Divide the rows as the provenance of a board says.

        Returns:
            The folds; None if the provenance names none.

        Raises:
            VerificationError: the record cannot be read, or the rows fall into other folds.
        """
        record = provenance.get("cross_validation")
        if record is None:
            return None
        try:
            objective = objective_from_plain(record["objective"])
            seed, fingerprint = int(record["seed"]), record["fingerprint"]
        except ValidationError as error:
            raise VerificationError(f"cross_validation: {explain(error, {})}") from None
        except (LookupError, TypeError, ValueError) as error:
            raise VerificationError(f"cross_validation: cannot be read: {error!r}") from None
        again = cls.of(objective, seed, train, valid)
        if again is None or again.folds.fingerprint != fingerprint:
            raise VerificationError(
                "cross_validation: the rows fall into other folds than the board's"
            )
        return again

    def to_dict(self) -> dict[str, Any]:
        """Return the record in a board's provenance."""
        rows = [self.folds.held_out_rows(k).tolist() for k in range(self.folds.count)]
        patients = self.folds.rows.patients
        return {
            "objective": objective_to_plain(self.objective),
            "seed": self.seed,
            "fingerprint": self.folds.fingerprint,
            "rows": [len(held_out) for held_out in rows],
            "patients": [len({patients[row] for row in held_out}) for held_out in rows],
            "note": self.note,
        }

    @property
    def note(self) -> str:
        """Sentences for readers of the board."""
        source = "train and valid" if self.objective.include_valid else "train"
        head = (
            "was trained on all of them, for as many epochs as its folds"
            if self.objective.refit
            else "is the mean of its folds' heads"
        )
        return (
            f"Values on valid are out-of-fold: each of the {len(self.folds.fold_of)} rows of "
            f"{source} is scored by the head of those of {self.folds.count} folds that were not "
            f"trained on it. On test, a finalist {head}."
        )


def write_folds(folds: Folds, path: Path) -> None:
    """Write the fold of every row: `volumename, patient, fold`."""
    rows = folds.rows
    columns = {"volumename": rows.volumes, "patient": rows.patients, "fold": folds.fold_of}
    with replacing(path) as file:
        pq.write_table(pa.table(columns), file)


def confirm_folds(
    finalists: Sequence[Finalist],
    seeds: Sequence[int],
    study: CrossValidation,
    settings: EngineSettings,
    *,
    rules: Rules = CURRENT,
    on_epoch: Callable[[Sequence[EpochReport]], None] | None = None,
) -> list[Confirmed]:
    """Train every fold of every finalist with every seed; see `confirm`.

    Returns:
        The trained finalists, in the order given; their predictions on valid are out-of-fold.

    Raises:
        TrialError: a head diverged.
    """
    configs = seeded(finalists, seeds)
    engine = FoldedEngine(study.folds, settings, ranks_logits=rules.ranks_logits)
    trained = train_in(engine, configs, on_epoch)
    by_fold = [one.predictor for one in trained]
    predictions = [out_of_fold(predictor, study.folds, rules) for predictor in by_fold]
    predictors = by_fold
    if study.objective.refit:
        epochs = [one.best_epoch for one in trained]
        predictors = train_for(configs, epochs, study.folds.rows, settings)
    confirmed = collected(finalists, seeds, predictors, predictions)
    if not any(predictor.retrieves for predictor in by_fold):
        return confirmed
    own = collected(finalists, seeds, by_fold, predictions)
    return [
        _with_ranks(one, folded.predictors, study.folds)
        for one, folded in zip(confirmed, own, strict=True)
    ]


def _with_ranks(one: Confirmed, by_fold: Sequence[Predictor], folds: Folds) -> Confirmed:
    """Add the out-of-fold ranks of a finalist's retrieval heads, of each seed one.

    Returns:
        The finalist; unchanged if its heads retrieve nothing.
    """
    if not by_fold[0].retrieves:
        return one
    ranks = tuple(_ranks_out_of_fold(predictor, folds) for predictor in by_fold)
    recalls = tuple(recall_at(by_seed["visual_to_text"], 10) for by_seed in ranks)
    return replace(one, recalls=recalls, valid_ranks=ranks)


def _ranks_out_of_fold(predictor: Predictor, folds: Folds) -> dict[str, NDArray[np.int64]]:
    """Return the rank of each row's own scan among the rows of its fold, by direction."""
    parts = [retrieval_ranks(m, folds.held_out(k)) for k, m in enumerate(fold_members(predictor))]
    return {name: folds.pooled([part[name] for part in parts]) for name in parts[0]}
