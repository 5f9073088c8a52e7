"""Verify a leaderboard: train again from its exported configs, compare every file.

On the machine it was made on (device, threads, PyTorch) every number must be equal to the bit.
Elsewhere probabilities and metrics must agree within a tolerance, and the files must be unaltered
and agree among themselves.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from threadpoolctl import threadpool_limits

from headsweep.config.files import read_config
from headsweep.config.fingerprints import without_irrelevant
from headsweep.config.schema import Config, to_dict
from headsweep.config.values import differences, parse_config, with_values
from headsweep.data.dataset import Dataset, Split
from headsweep.data.in_memory import TRAIN
from headsweep.errors import InputError, ManifestError, VerificationError
from headsweep.leaderboard.cross_validation import CrossValidation
from headsweep.leaderboard.ensembles.chosen import recorded_selection
from headsweep.leaderboard.finalists import Finalist
from headsweep.leaderboard.finalize import (
    confirm_with_progress,
    seen_rows,
    union_of_inputs,
    write_board,
)
from headsweep.leaderboard.provenance import (
    DATA_ROWS,
    StudyFacts,
    changed_files,
    check_contained,
    data_rows,
    fingerprints,
    machine,
    read_provenance,
    rules_of,
    search_of,
)
from headsweep.leaderboard.references.chosen import recorded_names
from headsweep.leaderboard.references.rows import load_references
from headsweep.leaderboard.unblinding import load_test, load_test_subgroups, with_content
from headsweep.leaderboard.verification.file_diff import Difference, largest_difference
from headsweep.leaderboard.verification.recompute import recompute
from headsweep.settings import EngineSettings
from headsweep.studies.references import zero_shot_inputs

TOLERANCE: Mapping[str, float] = {".json": 0.02, ".csv": 0.02, ".parquet": 0.1}
"""Largest difference allowed on another machine, by kind of file; weights, text and thresholds
are compared by digest there."""

SAME_MACHINE = ("device", "threads", "torch")


MOVABLE = ("paths.data_root", "paths.manifest_dir")
"""Config keys that name folders of the data, which may have moved before a verification."""


def verify(
    folder: Path, moved: Mapping[str, str] | None = None, *, data: Dataset | None = None
) -> str:
    """Train the finalists of a leaderboard again and compare all files.

    Uses the exported configs and the data that they name; no storage is needed.

    Args:
        folder: the leaderboard's.
        moved: where the data are now, by the config keys in `MOVABLE`; None is what the configs
            name.
        data: what the study was searched on; None is what the configs name.

    Returns:
        A line that says how they were compared.

    Raises:
        VerificationError: something differs; names the file and the largest difference.
        InputError: the data can no longer be read.
    """
    check_contained(folder)
    recorded = read_provenance(folder)
    finalists = _finalists(folder, recorded)
    settings = _settings(recorded)
    exact = all(machine(settings)[key] == recorded["machine"][key] for key in SAME_MACHINE)
    # The finalists keep their own paths, which are part of the files that are compared.
    reading = with_values(finalists[0].config, moved or {}, where="command line")
    inputs = union_of_inputs([finalist.config for finalist in finalists])
    zero_shot = "zero_shot" in recorded_names(recorded)
    inputs = zero_shot_inputs(inputs, reading, zero_shot=zero_shot)
    data = data or _named_data(folder, reading)
    train, valid = data.search_splits(reading, inputs=inputs)
    tests = load_test(data, reading, inputs)
    _check_data(folder, recorded, (train, valid, *tests))
    cross_validation = CrossValidation.recorded(recorded, train, valid)
    folds = None if cross_validation is None else cross_validation.folds
    facts = _facts(recorded, reading, train, cross_validation)
    _check_prompts(folder, recorded, facts)
    confirmed = confirm_with_progress(
        *(finalists, facts.seeds, train, valid, settings, facts.rules),
        cross_validation=cross_validation,
    )
    with tempfile.TemporaryDirectory() as temporary, threadpool_limits(1, user_api="blas"):
        again = Path(temporary)
        subgroups = load_test_subgroups(data, reading, tests)
        if facts.shows_unseen:
            subgroups = with_content(subgroups, seen_rows(train, folds), tests)
        write_board(again, confirmed, facts, train, valid, tests, subgroups)
        _check_files(folder, again, exact=exact)
    check_digests(folder, recorded)
    if not exact:
        recompute(folder)
    how = "equal to the bit" if exact else f"within tolerance ({_listed(TOLERANCE)})"
    each = "" if folds is None else f" and {folds.count} folds"
    return f"{len(finalists)} finalists with {len(facts.seeds)} seeds{each} trained again: {how}"


def _named_data(folder: Path, config: Config) -> Dataset:
    """Return the data that a config names.

    Raises:
        InputError: the leaderboard was made on data in memory.
        ManifestError: the data are not there.
    """
    file = Path(config.paths.manifest_dir) / config.data.train_manifest
    if config.data.train_manifest == TRAIN and not file.exists():
        raise InputError(
            f"{folder}: was made on data in memory; give them to Leaderboard(…).verify(data=…)"
        )
    if not file.exists():
        here = "" if file.is_absolute() else f" (relative to the current folder, {Path.cwd()})"
        raise ManifestError(
            f"manifest not found: {file}{here}. Say where the data are: paths.data_root=FOLDER "
            "paths.manifest_dir=FOLDER"
        )
    return Dataset.from_config(config, progress=True)


def _facts(
    recorded: Mapping[str, Any],
    config: Config,
    train: Split,
    cross_validation: CrossValidation | None,
) -> StudyFacts:
    """Return what the leaderboard's provenance says of its study, and its references read again."""
    return StudyFacts(
        recorded["study"],
        recorded["study_fingerprint"],
        recorded["n_trials_searched"],
        tuple(recorded["seeds"]),
        rules_of(recorded),
        search_of(recorded),
        references=load_references(recorded_names(recorded), config, train),
        states_inputs="inputs" in recorded,
        shows_unseen=recorded.get("shows_unseen", False),
        selection=recorded_selection(recorded),
        cross_validation=cross_validation,
    )


def _check_prompts(folder: Path, recorded: Mapping[str, Any], facts: StudyFacts) -> None:
    """Check that the file of prompts is the one that the leaderboard was made with.

    Raises:
        VerificationError: it has changed.
    """
    prompts = facts.references.prompts
    digest = None if prompts is None else prompts.digest
    if digest != recorded.get("references", {}).get("prompts_sha256"):
        raise VerificationError(
            f"{folder}: the file of prompts (data.zero_shot) has changed since the leaderboard "
            "was made"
        )


def check_digests(folder: Path, recorded: Mapping[str, Any]) -> None:
    """Check that no file of the leaderboard is missing or altered.

    Raises:
        VerificationError: a file is missing or altered.
    """
    for name in changed_files(folder, recorded["files"]):
        raise VerificationError(
            f"{folder / name}: the file "
            f"{'was altered' if (folder / name).is_file() else 'is missing'}"
        )


def _finalists(folder: Path, recorded: Mapping[str, Any]) -> list[Finalist]:
    """Return the finalists from their exported configs, after a check against the record.

    Raises:
        VerificationError: a config differs from the record.
    """
    finalists = []
    for rank, one in enumerate(recorded["finalists"], start=1):
        path = folder / "finalists" / str(rank) / "config.yaml"
        config = read_config(path)
        expected = parse_config(one["config"], where=str(folder))
        if config.fingerprint() != expected.fingerprint():
            name, found, was = next(
                differences(without_irrelevant(to_dict(config)), without_irrelevant(one["config"]))
            )
            raise VerificationError(
                f"{path}: differs from the recorded config: {name} is {found}, recorded {was}"
            )
        finalists.append(Finalist(one["trial"], one["value"], config))
    return finalists


def _settings(recorded: Mapping[str, Any]) -> EngineSettings:
    made_on = recorded["machine"]
    device = "cpu" if made_on["device_kind"] == "cpu" else "auto"
    return EngineSettings(device=device, slots=made_on["slots"], threads=made_on["threads"])


def _check_data(folder: Path, recorded: Mapping[str, Any], splits: Sequence[Split]) -> None:
    """Check that manifests and feature files are those the leaderboard was made on.

    Raises:
        VerificationError: they have changed.
    """
    for split in splits:
        was, now = recorded["data"].get(split.name), fingerprints(split)
        if was == now:
            continue
        _check_label_map(split, was, now)
        known = _known_rows(folder / DATA_ROWS)
        columns = data_rows(split)
        changed = [
            f"{name} of {volume}"
            for name in columns.keys() - {"split", "volumename"}
            for volume, value in zip(split.volumes, columns[name], strict=True)
            if known.get((split.name, volume), {}).get(name) != value
        ]
        lost = {volume for name, volume in known if name == split.name} - {*split.volumes}
        changed += [f"{volume}, which is missing" for volume in sorted(lost)]
        raise VerificationError(
            f"{split.name}: the data have changed since the leaderboard was made, "
            f"{len(changed)} changes: {'; '.join(sorted(changed)[:5]) or 'the order of rows'}"
        )


def _check_label_map(split: Split, was: Any, now: Mapping[str, Any]) -> None:
    """Check that a split's labels are read through the recorded map, or without one.

    Raises:
        VerificationError: the map has changed.
    """
    recorded = was.get("label_map") if isinstance(was, Mapping) else None
    found = now.get("label_map")
    if recorded != found:
        shown = [fingerprint[:12] if fingerprint else "none" for fingerprint in (found, recorded)]
        raise VerificationError(
            f"{split.name}: the label map has changed since the leaderboard was made: "
            f"{split.label_source} has fingerprint {shown[0]}, recorded {shown[1]}"
        )


def _known_rows(path: Path) -> dict[tuple[str, str], dict[str, str]]:
    """Return digests of the rows that the leaderboard was made on, by split and volume.

    Raises:
        VerificationError: the file cannot be read.
    """
    try:
        rows = pq.read_table(path).to_pylist()
    except (OSError, pa.ArrowException) as error:
        raise VerificationError(f"{path}: cannot read the digests: {error}") from None
    return {(row["split"], row["volumename"]): row for row in rows}


def _check_files(folder: Path, again: Path, *, exact: bool) -> None:
    """Compare each file of the leaderboard with the same file made again.

    Raises:
        VerificationError: a file differs.
    """
    differing: dict[str, Difference] = {}
    for path in sorted(again.rglob("*")):
        name = path.relative_to(again).as_posix()
        allowed = 0.0 if exact else _allowed(path, name)
        difference = largest_difference(folder / name, path) if path.is_file() else None
        if difference is not None and difference.size > allowed:
            differing[name] = difference
    if differing:
        name, difference = next(iter(differing.items()))
        more = f" (and {len(differing) - 1} more files)" if len(differing) > 1 else ""
        raise VerificationError(f"{folder / name}: differs when trained again: {difference}{more}")


def _allowed(path: Path, name: str) -> float:
    """Return the allowed difference of a file on another machine.

    Members of an ensemble are a choice, as thresholds are; both are recomputed and compared with
    the board's own predictions there.
    """
    chosen = path.name == "thresholds.json" or name.startswith("ensembles")
    return math.inf if chosen else TOLERANCE.get(path.suffix, math.inf)


def _listed(tolerance: Mapping[str, float]) -> str:
    return ", ".join(f"{suffix[1:]} {size:g}" for suffix, size in tolerance.items())
