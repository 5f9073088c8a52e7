"""Check of the test manifests before a search, from their first line and their blank cells."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from headsweep.config.schema import Config
from headsweep.data.columns import BLANK_CELLS, missing_column
from headsweep.data.label_maps import map_of
from headsweep.data.manifest import ALL_BLANK
from headsweep.data.tables import read_header, read_table
from headsweep.errors import ManifestError


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
