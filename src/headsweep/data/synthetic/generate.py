"""A synthetic data set in CT-RATE's shape: names, prevalences, co-occurrence, and learnable signal.

Every scan has latent variables that an orthonormal map carries into the feature space:

- content: a few dozen directions of high variance that say nothing about labels; one half is
  shared by image and text, so that the two can be paired;
- acquisition: one direction of high variance, its sign +1 or -1 (contrast given or not);
- linear signs: one direction a label, shifted where the label is present;
- gated signs: one direction a label, shifted too, but the acquisition's sign says which way.

A linear probe reads the linear signs alone; an MLP also learns to read the gated ones. Both kinds
have little variance, as pathology has in real encoders, so whitening brings them forward.
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from headsweep.atomic_files import new_folder, reason
from headsweep.data.ct_rate.names import FINDINGS, LABELS, NOT_GIVEN, PREVALENCES
from headsweep.data.synthetic.copula import latent_correlation, to_labels
from headsweep.errors import ConfigError, OutputError
from headsweep.progress import progress_bar

PHI = {
    ("Arterial wall calcification", "Coronary artery wall calcification"): 0.68,
    ("Arterial wall calcification", "Cardiomegaly"): 0.35,
    ("Atelectasis", "Pleural effusion"): 0.32,
    ("Lung opacity", "Consolidation"): 0.31,
}
"""The strongest co-occurrences among CT-RATE's reports."""

BASE_CORRELATION = 0.2
"""Latent correlation of all other pairs; leaves 11 % of scans without any label, as in CT-RATE."""

PATIENT_SHARE = 0.6
"""Share of the latent label variance that the scans of one patient have in common."""

SECOND_SCAN, EXTRA_RECONSTRUCTION = 0.2, 0.475
"""Chance of one more scan a patient, and of each of two more reconstructions a scan."""

CONTENT_STD = np.concatenate([np.linspace(2, 0.7, 24)] * 2)
"""Standard deviations of the shared, then of the modality's own content."""

ACQUISITION_STD = 2.0
SIGN_STD = 0.35
JITTER = 0.5
"""Noise between reconstructions of a scan, relative to each direction's standard deviation;
the acquisition is the scan's."""

FLOOR_STD = 0.01
"""Noise of every feature, which gives the matrix full rank."""


@dataclass(frozen=True)
class Visibility:
    """How far a present label shifts its two signs, in standard deviations of the sign."""

    linear: float
    gated: float


IMAGE, TEXT = Visibility(linear=1.35, gated=2.2), Visibility(linear=1.9, gated=1.8)


@dataclass(frozen=True, eq=False)
class Cohort:
    """Sampled patients: one entry a reconstruction, features of unit length."""

    volumes: list[str]
    targets: NDArray[np.uint8]
    image: NDArray[np.float32]
    text: NDArray[np.float32]


def synthesize(
    out: Path,
    *,
    patients_train: int,
    patients_valid: int,
    patients_test: int,
    width: int = 512,
    seed: int,
    progress: bool,
) -> dict[str, int]:
    """Write manifests and feature files of a synthetic data set.

    Args:
        out: a new or empty folder; it gets `manifests/*.csv` and `features/{image,text}/*.npz`.
        patients_train: patients of `train.csv`; about 1.2 scans and 2.3 rows each.
        patients_valid: patients of `valid.csv`.
        patients_test: patients of `test_manual_all.csv`, half of them in each of
            `test_manual_train.csv` and `test_manual_valid.csv`.
        width: of the feature vectors.
        seed: equal seeds and sizes give equal files.
        progress: show progress on standard error.

    Returns:
        The number of rows of each manifest.

    Raises:
        ConfigError: a size is too small.
        OutputError: `out` holds something already, or cannot be written.
    """
    least_width = len(CONTENT_STD) + 1 + 2 * len(LABELS)
    for name, value, least in (
        ("patients_train", patients_train, 1),
        ("patients_valid", patients_valid, 1),
        ("patients_test", patients_test, 2),
        ("width", width, least_width),
    ):
        if value < least:
            raise ConfigError(f"{name} must be at least {least}, found {value}")
    halves = {"test_manual_train": patients_test // 2, "test_manual_valid": -(-patients_test // 2)}
    plan = {  # prefix of the names, number of the first patient, patients
        "train": ("train", 1, patients_train),
        "valid": ("valid", 1, patients_valid),
        "test_manual_train": ("train", 1 + patients_train, halves["test_manual_train"]),
        "test_manual_valid": ("valid", 1 + patients_valid, halves["test_manual_valid"]),
    }
    mixing = np.random.default_rng([seed, len(plan)])
    maps = [_orthonormal(mixing, width, least_width) for _ in range(2)]
    cohorts = {
        name: sample_cohort(np.random.default_rng([seed, i]), *patients, maps)
        for i, (name, patients) in enumerate(plan.items())
    }
    return _write(out, cohorts, progress=progress)


def sample_cohort(
    rng: np.random.Generator,
    prefix: str,
    first: int,
    patients: int,
    maps: Sequence[NDArray[np.float64]],
) -> Cohort:
    """Sample patients `<prefix>_<first>` and following, with their scans, labels and features.

    Args:
        rng: source of all randomness.
        prefix: of the volume names.
        first: number of the first patient.
        patients: how many.
        maps: for image and text, shape (width, latent variables) with orthonormal columns.

    Returns:
        The cohort.
    """
    scans_of = 1 + (rng.random(patients) < SECOND_SCAN)
    patient = np.repeat(np.arange(patients), scans_of)
    targets = _sample_labels(rng, patient)
    shared = rng.standard_normal((len(patient), len(CONTENT_STD) // 2))
    acquisition = rng.choice([-1.0, 1.0], len(patient))
    image, text = (
        _latent(rng, targets, shared, acquisition, visibility) for visibility in (IMAGE, TEXT)
    )
    reconstructions = 1 + rng.binomial(2, EXTRA_RECONSTRUCTION, len(patient))
    scan = np.repeat(np.arange(len(patient)), reconstructions)
    jitter = JITTER * _latent_std(acquisition=0) * rng.standard_normal((len(scan), image.shape[1]))
    image = image[scan] + jitter
    letter = np.arange(len(patient)) - np.repeat(np.cumsum(scans_of) - scans_of, scans_of)
    number = np.arange(len(scan)) - np.repeat(
        np.cumsum(reconstructions) - reconstructions, reconstructions
    )
    volumes = [
        f"{prefix}_{first + patient[s]}_{'ab'[letter[s]]}_{n + 1}"
        for s, n in zip(scan, number, strict=True)
    ]
    # The reconstructions of a scan share its report, so its text features are equal.
    return Cohort(
        volumes,
        targets[scan],
        _to_features(rng, image, maps[0]),
        _to_features(rng, text, maps[1])[scan],
    )


def _sample_labels(rng: np.random.Generator, patient: NDArray[np.int64]) -> NDArray[np.uint8]:
    prevalences = list(PREVALENCES.values())
    phi = {(LABELS.index(a), LABELS.index(b)): value for (a, b), value in PHI.items()}
    factor = np.linalg.cholesky(latent_correlation(prevalences, phi, BASE_CORRELATION))
    shape = (int(patient.max()) + 1, len(LABELS))
    of_patient = rng.standard_normal(shape)[patient]
    of_scan = rng.standard_normal((len(patient), len(LABELS)))
    latent = np.sqrt(PATIENT_SHARE) * of_patient + np.sqrt(1 - PATIENT_SHARE) * of_scan
    return to_labels(latent @ factor.T, prevalences)


def _latent(
    rng: np.random.Generator,
    targets: NDArray[np.uint8],
    shared: NDArray[np.float64],
    acquisition: NDArray[np.float64],
    visibility: Visibility,
) -> NDArray[np.float64]:
    """Return the latent variables of scans: content, acquisition, linear signs, gated signs."""
    content = np.hstack([shared, rng.standard_normal(shared.shape)])
    linear = visibility.linear * targets + rng.standard_normal(targets.shape)
    # Centred, so that the gate leaves nothing for a linear probe to read.
    gated = acquisition[:, None] * visibility.gated * (targets - 0.5)
    gated += rng.standard_normal(targets.shape)
    return np.hstack([content, acquisition[:, None], linear, gated]) * _latent_std()


def _latent_std(acquisition: float = ACQUISITION_STD) -> NDArray[np.float64]:
    signs = np.full(2 * len(LABELS), SIGN_STD)
    return np.concatenate([CONTENT_STD, [acquisition], signs])


def _to_features(
    rng: np.random.Generator, latent: NDArray[np.float64], mapping: NDArray[np.float64]
) -> NDArray[np.float32]:
    features = (latent @ mapping.T).astype(np.float32)
    features += np.float32(FLOOR_STD) * rng.standard_normal(features.shape, dtype=np.float32)
    features /= np.linalg.norm(features, axis=1, keepdims=True)
    return features


def _orthonormal(rng: np.random.Generator, rows: int, columns: int) -> NDArray[np.float64]:
    return np.linalg.qr(rng.standard_normal((rows, columns)))[0]


def _write(out: Path, cohorts: dict[str, Cohort], *, progress: bool) -> dict[str, int]:
    """Write everything into a temporary folder, then move it to `out`.

    Returns:
        Number of rows of each manifest.

    Raises:
        OutputError: `out` is in use or cannot be written.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise OutputError(f"{out}: the output must be a new or empty folder")
    rows = {name: _rows(cohort) for name, cohort in cohorts.items()}
    rows["test_manual_all"] = rows["test_manual_train"] + rows["test_manual_valid"]
    try:
        with new_folder(out) as partial:
            _fill(partial, cohorts, rows, progress=progress)
    except OSError as error:
        raise OutputError(f"{out}: cannot write the output: {reason(error)}") from None
    return {name: len(lines) for name, lines in rows.items()}


def _fill(
    partial: Path,
    cohorts: dict[str, Cohort],
    rows: dict[str, list[list[str]]],
    *,
    progress: bool,
) -> None:
    for folder in ("manifests", "features/image", "features/text"):
        (partial / folder).mkdir(parents=True)
    total = sum(len(cohort.volumes) for cohort in cohorts.values())
    with progress_bar("writing features", total, visible=progress) as bar:
        for cohort in cohorts.values():
            for volume, image, text in zip(cohort.volumes, cohort.image, cohort.text, strict=True):
                np.savez(partial / f"features/image/{volume}.npz", arr=image[None])
                np.savez(partial / f"features/text/{volume}.npz", arr=text[None])
                bar.advance(1)
    for name, lines in rows.items():
        with (partial / f"manifests/{name}.csv").open("w", encoding="utf-8", newline="") as file:
            csv.writer(file, lineterminator="\n").writerows([HEADER, *lines])


HEADER = ["volumename", "visual_feature_path", "text_feature_path", *LABELS, *FINDINGS]


def _rows(cohort: Cohort) -> list[list[str]]:
    """Return the manifest's rows; a report names its scan, so no two scans share one."""
    rows = []
    for volume, targets in zip(cohort.volumes, cohort.targets, strict=True):
        present = [label for label, target in zip(LABELS, targets, strict=True) if target]
        findings = f"Chest CT {volume.rpartition('_')[0]}: {len(present)} abnormalities."
        impressions = f"{', '.join(present)}." if present else NOT_GIVEN
        paths = [f"image/{volume}.npz", f"text/{volume}.npz"]
        rows.append([volume, *paths, *map(str, targets), findings, impressions])
    return rows
