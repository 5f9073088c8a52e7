"""A scaling study: label source × budget × fold × seed, from one file to curves and paired tests.

Patients are cut into folds. In every fold a head is trained on a stratified budget of the other
folds' rows, labelled by one source, and measured on the fold's rows, labelled by the reference
source. Budgets are nested within a seed; the valid manifest chooses the best epoch throughout.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from numpy.typing import NDArray
from pydantic import Field, ValidationError

from headsweep.atomic_files import write_json
from headsweep.config.explain import explain
from headsweep.config.overrides import compose_config, refuse_escapes
from headsweep.config.schema import Config, escapes
from headsweep.config.section import PositiveInt, Section, Seed
from headsweep.config.values import with_values
from headsweep.config.yaml_files import read_document
from headsweep.data.dataset import Dataset, Split
from headsweep.data.folds import take
from headsweep.data.splitting import group_folds, linked_groups, split_by_group
from headsweep.data.tables import write_table
from headsweep.engine.train_configs import train_to_end
from headsweep.errors import ConfigError, ManifestError
from headsweep.evaluation.predictions import predict
from headsweep.evaluation.summaries import finite
from headsweep.leaderboard.report.plots import plot
from headsweep.metrics.multiplicity import benjamini_hochberg, holm
from headsweep.metrics.ranking import Metric, average_precision_and_auroc, macro
from headsweep.metrics.resampled_t import FoldMean, corrected_mean, seeds_averaged
from headsweep.preflight import check_output
from headsweep.search.spec import StudyName
from headsweep.settings import EngineSettings

METRICS = ("auprc_macro", "auroc_macro")


class ScalingStudy(Section):
    """The file of a scaling study.

    `sources` names a train manifest for every label source. The first is the reference: heads are
    measured against its labels. `base` holds group choices and overrides, as in other studies.
    """

    name: StudyName
    sources: Mapping[str, str] = Field(min_length=1)
    budgets: tuple[PositiveInt, ...] = Field(min_length=1)
    seeds: tuple[Seed, ...] = Field(min_length=1)
    folds: int = Field(ge=2, le=1000)
    fold_seed: Seed = 0
    base: tuple[str, ...] = ()


@dataclass(frozen=True)
class Cell:
    """One trained head: source, budget, fold and seed, the size of its data, and its metrics."""

    source: str
    budget: int
    fold: int
    seed: int
    rows: int
    patients: int
    test_rows: int
    best_epoch: int
    auprc_macro: float
    auroc_macro: float


def read_scaling_study(path: Path, overrides: Sequence[str]) -> tuple[ScalingStudy, Config]:
    """Read the study in a file, and the config of its heads with overrides on top.

    Returns:
        The study and the config.

    Raises:
        ConfigError: the file, one of its values or an override is not valid.
    """
    data = read_document(path)
    try:
        study = ScalingStudy.model_validate_json(json.dumps(data))
    except ValidationError as error:
        raise ConfigError(f"{path}: {explain(error, data)}") from None
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{path}: not plain data: {error}") from None
    for source, manifest in study.sources.items():
        if escapes(manifest):
            raise ConfigError(
                f"{path}: sources.{source} must be relative to paths.manifest_dir and stay inside "
                f"it, found {manifest!r}"
            )
    refuse_escapes(study.base, where=f"{path}:base")
    return study, compose_config([*study.base, *overrides], where=str(path))


def run_scaling(
    study: ScalingStudy,
    config: Config,
    out: Path,
    settings: EngineSettings,
    *,
    progress: bool = False,
    on_cell: Callable[[Cell], None] | None = None,
) -> dict[str, Any]:
    """Train every head of the study; write its curves and tests.

    `out` then holds `cells.csv` (a row a head), `scaling.json` (curves and tests) and
    `scaling.svg` and `.png`.

    Returns:
        Curves and tests, as `scaling.json` holds them.

    Raises:
        InputError: the study, the data or the folder cannot be used; nothing was written.
        TrialError: a head diverged.
    """
    check_output(out)
    splits, valid = _load(study, config, progress=progress)
    reference = next(iter(splits.values()))
    fold_of = _folds(reference, study)
    _check_budgets(study, splits, fold_of)
    out.mkdir(parents=True, exist_ok=True)
    cells = []
    for fold in range(study.folds):
        test = take(reference, _rows(fold_of[p] == fold for p in reference.patients))
        for source, split in splits.items():
            pool = take(split, _rows(fold_of.get(p) != fold for p in split.patients))
            for seed in study.seeds:
                for budget, part in _budgets(pool, study.budgets, seed):
                    cells.append(
                        _train_cell(config, part, valid, test, settings, source, budget, fold, seed)
                    )
                    if on_cell:
                        on_cell(cells[-1])
    summary = summarize(study, cells)
    _write(study, cells, summary, out)
    return summary


def summarize(study: ScalingStudy, cells: Sequence[Cell]) -> dict[str, Any]:
    """Compute curves with intervals, and paired tests of sources and of neighbouring budgets.

    Seeds are averaged within folds; variances are Nadeau and Bengio's; p-values are corrected by
    Holm and by Benjamini-Hochberg over all tests of a metric.

    Returns:
        Curves and tests as plain data.
    """
    share = {
        budget: float(np.mean([c.test_rows / c.rows for c in cells if c.budget == budget]))
        for budget in study.budgets
    }
    summary: dict[str, Any] = {"name": study.name, "curves": {}, "tests": {}}
    for metric in METRICS:
        values = {
            (source, budget): _by_fold(study, cells, source, budget, metric)
            for source in study.sources
            for budget in sorted(study.budgets)
        }
        summary["curves"][metric] = {
            source: [
                {"budget": budget, **_sizes(cells, source, budget)}
                | _plain(corrected_mean(values[source, budget], share[budget]))
                for budget in sorted(study.budgets)
            ]
            for source in study.sources
        }
        pairs = [
            ((a, budget), (b, budget))
            for budget in sorted(study.budgets)
            for a, b in itertools.combinations(study.sources, 2)
        ] + [
            ((source, more), (source, less))
            for source in study.sources
            for less, more in itertools.pairwise(sorted(study.budgets))
        ]
        summary["tests"][metric] = _tests(pairs, values, share)
    return summary


def _tests(
    pairs: Sequence[tuple[tuple[str, int], tuple[str, int]]],
    values: Mapping[tuple[str, int], Metric],
    share: Mapping[int, float],
) -> list[dict[str, Any]]:
    tests: list[dict[str, Any]] = []
    for a, b in pairs:
        # With unequal budgets the smaller training set gives the larger, conservative variance.
        found = corrected_mean(values[a] - values[b], max(share[a[1]], share[b[1]]))
        sides = {
            side: {"source": source, "budget": budget}
            for side, (source, budget) in (("a", a), ("b", b))
        }
        plain = _plain(found)
        tests.append({**sides, "difference": plain.pop("mean"), **plain, "p": finite(found.p)})
    p = np.array([np.nan if test["p"] is None else test["p"] for test in tests])
    for test, by_holm, by_bh in zip(tests, holm(p), benjamini_hochberg(p), strict=True):
        test |= {"p_holm": finite(by_holm), "p_bh": finite(by_bh)}
    return tests


def _load(study: ScalingStudy, config: Config, *, progress: bool) -> tuple[dict[str, Split], Split]:
    """Return the rows of every source, and the valid split.

    Raises:
        ConfigError: no valid manifest is named.
        ManifestError: the sources differ in their labels.
    """
    if config.data.val_manifest is None:
        raise ConfigError("data.val_manifest is null; a scaling study needs a valid manifest")
    data = Dataset.from_config(config, progress=progress)
    splits: dict[str, Split] = {}
    for source, manifest in study.sources.items():
        named = with_values(config, {"data.train_manifest": manifest}, where=study.name)
        data.refuse_mixed_labels(named)
        splits[source], valid = data.search_splits(named)
        labels = next(iter(splits.values())).labels
        if splits[source].labels != labels:
            raise ManifestError(
                f"{manifest}: labels or their order differ from those of the first source: "
                f"{splits[source].labels}. training.target_labels selects labels"
            )
    return splits, valid


def _folds(reference: Split, study: ScalingStudy) -> dict[str, int]:
    """Return the fold of every patient; patients who share a report stay together."""
    linked: list[Sequence[Hashable]] = []
    if reference.reports is not None:
        linked.append([report or None for report in reference.reports])
    groups = linked_groups(reference.patients, *linked).tolist()
    folds = group_folds(groups, reference.targets, study.folds, study.fold_seed)
    return dict(zip(reference.patients, folds.tolist(), strict=True))


def _check_budgets(
    study: ScalingStudy, splits: Mapping[str, Split], fold_of: Mapping[str, int]
) -> None:
    for source, split in splits.items():
        for fold in range(study.folds):
            rows = sum(fold_of.get(patient) != fold for patient in split.patients)
            if max(study.budgets) > rows:
                raise ConfigError(
                    f"budgets must be at most {rows}, the rows of {source} outside of fold {fold}, "
                    f"found {max(study.budgets)}"
                )


def _budgets(pool: Split, budgets: Sequence[int], seed: int) -> list[tuple[int, Split]]:
    """Return stratified parts of the pool, each within the next larger; patients stay whole."""
    parts = []
    for budget in sorted(set(budgets), reverse=True):
        if budget < len(pool.volumes):
            share = budget / len(pool.volumes)
            pool = take(pool, _rows(split_by_group(pool.patients, pool.targets, share, seed)))
        parts.append((budget, pool))
    return parts


def _rows(mask: Iterable[bool]) -> NDArray[np.int64]:
    """Return the indices of the rows where a mask is true."""
    return np.flatnonzero([*mask])


def _train_cell(
    config: Config,
    part: Split,
    valid: Split,
    test: Split,
    settings: EngineSettings,
    source: str,
    budget: int,
    fold: int,
    seed: int,
) -> Cell:
    seeded = with_values(config, {"training.seed": seed}, where="scaling study")
    (trained,) = train_to_end([seeded], part, valid, settings)
    predictions = predict(trained.predictor, test)
    auprc, auroc = average_precision_and_auroc(predictions.targets, predictions.ranking[None])
    return Cell(
        source=source,
        budget=budget,
        fold=fold,
        seed=seed,
        rows=len(part.volumes),
        patients=len(set(part.patients)),
        test_rows=len(test.volumes),
        best_epoch=trained.best_epoch,
        auprc_macro=float(macro(auprc)[0]),
        auroc_macro=float(macro(auroc)[0]),
    )


def _by_fold(
    study: ScalingStudy, cells: Sequence[Cell], source: str, budget: int, metric: str
) -> Metric:
    """Return the values (folds,) of one point of a curve, seeds averaged."""
    found = {
        (cell.fold, cell.seed): getattr(cell, metric)
        for cell in cells
        if (cell.source, cell.budget) == (source, budget)
    }
    folds = range(study.folds)
    return seeds_averaged(np.array([[found[fold, seed] for seed in study.seeds] for fold in folds]))


def _sizes(cells: Sequence[Cell], source: str, budget: int) -> dict[str, float | None]:
    chosen = [cell for cell in cells if (cell.source, cell.budget) == (source, budget)]
    return {
        "rows": float(np.mean([cell.rows for cell in chosen])),
        "patients": float(np.mean([cell.patients for cell in chosen])),
    }


def _plain(mean: FoldMean) -> dict[str, float | None]:
    return {
        "mean": finite(mean.mean),
        "ci_low": finite(mean.low),
        "ci_high": finite(mean.high),
    }


def _write(
    study: ScalingStudy, cells: Sequence[Cell], summary: Mapping[str, Any], out: Path
) -> None:
    rows = [[str(value) for value in asdict(cell).values()] for cell in cells]
    write_table(out / "cells.csv", tuple(Cell.__dataclass_fields__), rows)
    write_json(out / "scaling.json", summary)

    def draw(axes: Axes) -> None:
        for source, points in summary["curves"]["auprc_macro"].items():
            x = [point["rows"] for point in points]
            low, high = ([point[end] for point in points] for end in ("ci_low", "ci_high"))
            (line,) = axes.plot(x, [point["mean"] for point in points], "o-", label=source)
            axes.fill_between(x, low, high, color=line.get_color(), alpha=0.15, linewidth=0)
        axes.set_xscale("log")
        axes.set_xlabel("training rows")
        axes.set_ylabel("macro AUPRC")
        axes.legend(frameon=False)

    caption = f"{study.name}: mean over {study.folds} folds with 95 % intervals"
    plot("scaling", caption, draw).save(out)
