"""Manifests cut from a manifest: nested budget subsets and K folds, by patient and stratified."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from headsweep.atomic_files import reason, write_json
from headsweep.data.manifest import Manifest
from headsweep.data.splitting import group_folds, linked_groups, split_by_group
from headsweep.data.tables import read_table, write_table
from headsweep.errors import ManifestError, OutputError


@dataclass(frozen=True)
class Subset:
    """One manifest cut from another.

    `requested_rows` is the budget, or a fold's fair share; patients stay whole, so `rows` may
    differ from it by a few.
    """

    file: str
    seed: int
    part: str
    requested_rows: int
    rows: int
    patients: int


def write_budget_subsets(
    manifest: Manifest, out_dir: Path, budgets: Sequence[int], seeds: Sequence[int]
) -> list[Subset]:
    """Write stratified training subsets, nested within a seed: each holds all smaller ones.

    Writes `<stem>_budget<rows>_seed<seed>.csv` and the list of sizes, `<stem>_budgets.json`.

    Args:
        manifest: whose rows to draw from.
        out_dir: folder of the new manifests.
        budgets: numbers of rows.
        seeds: each gives one chain of subsets.

    Returns:
        The subsets, the largest of each seed first.

    Raises:
        ManifestError: a budget is not between 1 and the manifest's rows.
        OutputError: `out_dir` cannot be written.
    """
    for budget in budgets:
        if not 1 <= budget <= len(manifest.volumes):
            raise ManifestError(
                f"{manifest.path}: a budget must be between 1 and {len(manifest.volumes)} rows, "
                f"found {budget}"
            )
    subsets = []
    for seed in seeds:
        rows = np.arange(len(manifest.volumes))
        for budget in sorted(set(budgets), reverse=True):
            rows = _stratified(manifest, rows, budget, seed)
            name = f"{manifest.name}_budget{budget}_seed{seed}.csv"
            subsets.append(_write(manifest, rows, out_dir / name, seed, "train", budget))
    _write_index(out_dir / f"{manifest.name}_budgets.json", subsets)
    return subsets


def write_folds(manifest: Manifest, out_dir: Path, folds: int, seed: int) -> list[Subset]:
    """Write K folds by patient: for each, a train and a valid manifest that share nothing.

    Patients who share a report stay in one fold. Writes
    `<stem>_fold<k>of<folds>_seed<seed>_{train,valid}.csv` and the list of sizes,
    `<stem>_folds_seed<seed>.json`.

    Returns:
        The manifests of every fold, train before valid.

    Raises:
        ManifestError: fewer than two folds, or fewer patients than folds.
        OutputError: `out_dir` cannot be written.
    """
    if folds < 2:
        raise ManifestError(f"{manifest.path}: there must be at least 2 folds, found {folds}")
    fold_of = group_folds(_groups(manifest), manifest.targets, folds, seed)
    subsets = []
    for fold in range(folds):
        stem = f"{manifest.name}_fold{fold}of{folds}_seed{seed}"
        for part, mask, share in (
            ("train", fold_of != fold, (folds - 1) / folds),
            ("valid", fold_of == fold, 1 / folds),
        ):
            path = out_dir / f"{stem}_{part}.csv"
            requested = round(share * len(fold_of))
            subsets.append(_write(manifest, np.flatnonzero(mask), path, seed, part, requested))
    _write_index(out_dir / f"{manifest.name}_folds_seed{seed}.json", subsets)
    return subsets


def _groups(manifest: Manifest) -> list[int]:
    reports = [report or None for report in manifest.reports or ()]
    keys: list[Sequence[Hashable]] = [reports] if reports else []
    groups: list[int] = linked_groups(manifest.patients, *keys).tolist()
    return groups


def _stratified(
    manifest: Manifest, rows: NDArray[np.int64], budget: int, seed: int
) -> NDArray[np.int64]:
    patients = [manifest.patients[row] for row in rows]
    if budget >= len(rows) or len(set(patients)) < 2:
        return rows
    chosen = split_by_group(patients, manifest.targets[rows], budget / len(rows), seed)
    return rows[chosen]


def _write(
    manifest: Manifest,
    rows: NDArray[np.int64],
    path: Path,
    seed: int,
    part: str,
    requested: int,
) -> Subset:
    table = read_table(manifest.path, kind="manifest")
    cells = table.cells.loc[[manifest.rows[row] for row in rows.tolist()]]
    write_table(path, table.header, cells.to_numpy().tolist())
    patients = len({manifest.patients[row] for row in rows})
    return Subset(path.name, seed, part, requested, len(rows), patients)


def _write_index(path: Path, subsets: Sequence[Subset]) -> None:
    try:
        write_json(path, [asdict(subset) for subset in subsets])
    except OSError as error:
        raise OutputError(f"{path}: cannot write the file: {reason(error)}") from None
