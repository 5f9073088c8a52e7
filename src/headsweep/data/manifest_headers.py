"""Check of the test manifests before a search, from their first line alone."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from headsweep.config.schema import Config, Modality
from headsweep.data.columns import missing_column
from headsweep.data.label_maps import map_of
from headsweep.data.tables import read_header
from headsweep.errors import ManifestError


def check_test_headers(
    config: Config, labels: Sequence[str], modalities: Sequence[Modality]
) -> None:
    """Refuse test manifests that lack a column; only their first line and label map are read.

    Args:
        config: names the manifests and their columns.
        labels: the labels of train.
        modalities: which features the study reads.

    Raises:
        ManifestError: names the file and the column.
    """
    columns = config.data.columns
    feature = {"visual": columns.visual_feature, "text": columns.text_feature}
    wanted = [(columns.volume, "data.columns.volume")]
    wanted += [(feature[m], f"data.columns.{m}_feature") for m in modalities]
    for name, key in (
        (columns.patient, "data.columns.patient"),
        (columns.scan, "data.columns.scan"),
    ):
        wanted += [] if name is None else [(name, key)]
    for manifest in config.data.test_manifests:
        path = Path(config.paths.manifest_dir) / manifest
        header = read_header(path)
        of_labels = [(label, "training.target_labels") for label in labels]
        if map_of(config, manifest, labels) is not None:  # its columns were checked
            of_labels = []
        for name, key in (*wanted, *of_labels):
            if name not in header:
                raise ManifestError(f"{path}:1: {missing_column(name, key, header)}")
