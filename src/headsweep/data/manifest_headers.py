"""Checks of the test manifests before a search; no label is read."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from headsweep.config.schema import Config
from headsweep.data.columns import BLANK_CELLS, missing_column
from headsweep.data.label_maps import map_of
from headsweep.data.manifest import ALL_BLANK, read_without_labels
from headsweep.data.splits import Split
from headsweep.data.tables import read_header, read_table
from headsweep.errors import FeatureError, ManifestError


def check_test_headers(config: Config, labels: Sequence[str], inputs: Sequence[str]) -> None:
    """Refuse test manifests that lack a column, or in which all labels are blank.

    Their first line and label map are read and, if blank labels are masked, whether cells are
    blank.

    Args:
        config: names the manifests and their columns.
        labels: the labels of train.
        inputs: names of the inputs that the study reads.

    Raises:
        ManifestError: names the file and the column.
    """
    columns = config.data.manifest_columns
    features = columns.feature_columns()
    wanted = [(columns.volume, "data.columns.volume")]
    wanted += [(features[name], columns.key_of(name)) for name in inputs]
    for name, key in (
        (columns.patient, "data.columns.patient"),
        (columns.scan, "data.columns.scan"),
    ):
        wanted += [] if name is None else [(name, key)]
    for manifest in config.data.test_manifests:
        path = Path(config.paths.manifest_dir) / manifest
        header = read_header(path)
        of_labels = [(label, "training.target_labels") for label in labels]
        label_map = map_of(config, manifest, labels)
        if label_map is not None:  # its columns were checked
            of_labels = []
        for name, key in (*wanted, *of_labels):
            if name not in header:
                raise ManifestError(f"{path}:1: {missing_column(name, key, header)}")
        if config.data.blank_labels == "mask":
            _refuse_all_blank(path, labels if label_map is None else label_map.sources)


def _refuse_all_blank(path: Path, labels: Sequence[str]) -> None:
    cells = read_table(path, kind="manifest").cells[list(labels)]
    if len(cells) and cells.isin(list(BLANK_CELLS)).to_numpy().all():
        raise ManifestError(f"{path}: {ALL_BLANK}")


def check_test_rows(config: Config, inputs: Sequence[str], searched: Sequence[Split]) -> None:
    """Refuse test manifests whose rows could not be evaluated after the search.

    Their names, patients and feature paths are read, and it is looked whether the feature files
    exist.

    Args:
        config: names the manifests and their columns.
        inputs: names of the inputs that the study reads.
        searched: train and valid.

    Raises:
        ManifestError: a manifest has no rows, a wrong name, or a patient of train or valid.
        FeatureError: a feature file is missing.
    """
    for name in config.data.test_manifests:
        manifest = read_without_labels(
            Path(config.paths.manifest_dir) / name, config.data.manifest_columns
        )
        for split in searched:
            patients = set(split.patients)
            shared = [i for i, one in enumerate(manifest.patients) if one in patients]
            if shared:
                raise ManifestError(
                    f"{manifest.location(shared[0])}: a patient must be in one split, found "
                    f"{manifest.patients[shared[0]]!r} also in {split.name}{_more(len(shared))}"
                )
        for one in inputs:
            files = [Path(config.paths.data_root) / p for p in manifest.feature_paths[one]]
            missing = [i for i, file in enumerate(files) if not file.is_file()]
            if missing:
                raise FeatureError(
                    f"{manifest.location(missing[0])}: feature file not found: {files[missing[0]]}"
                    f"{_more(len(missing))}"
                )


def _more(count: int) -> str:
    return f" (and {count - 1} more rows)" if count > 1 else ""
