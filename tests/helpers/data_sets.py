"""Small data sets on disk, made row by row."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from headsweep.config.schema import Config
from headsweep.config.values import with_values

LABELS = ("Emphysema", "Lung nodule")


def write_table(path: Path, header: Sequence[str], rows: Sequence[Sequence[object]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([header, *rows])
    return path


def write_feature(root: Path, name: str, vector: np.ndarray) -> Path:
    path = root / "features" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez(path, arr=vector)
    return path


def write_split(
    root: Path,
    name: str,
    targets: Mapping[str, Sequence[object]],
    *,
    width: int = 4,
    reports: Mapping[str, str] | None = None,
) -> Path:
    """A manifest under `root/manifests` and one feature file a volume, its values from its name."""
    for volume in targets:
        values = np.random.default_rng(list(volume.encode())).standard_normal(width)
        write_feature(root, f"image/{volume}.npz", values.astype(np.float32)[None])
    header = ["volumename", "visual_feature_path", *LABELS, *(["Findings_EN"] if reports else [])]
    rows = [
        [f"{volume}.nii.gz", f"image/{volume}.npz", *row, *([reports[volume]] if reports else [])]
        for volume, row in targets.items()
    ]
    return write_table(root / "manifests" / f"{name}.csv", header, rows)


def write_dataset(root: Path) -> Config:
    """Three sound splits of a few rows; both labels have positives and negatives in each."""
    write_split(
        root, "train", {"train_1_a_1": (1, 0), "train_1_a_2": (1, 0), "train_2_a_1": (0, 1)}
    )
    write_split(root, "valid", {"valid_1_a_1": (1, 0), "valid_2_a_1": (0, 1)})
    write_split(root, "test", {"valid_3_a_1": (1, 0), "valid_4_b_1": (0, 1)})
    return config_of(root, {"data.test_manifests": ["test.csv"]})


def config_of(root: Path, values: Mapping[str, object] | None = None) -> Config:
    paths = {
        "paths.data_root": str(root / "features"),
        "paths.manifest_dir": str(root / "manifests"),
    }
    return with_values(Config(), {**paths, **(values or {})}, where="test")
