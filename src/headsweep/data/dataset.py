"""A data set: train and valid for a search, test for the leaderboard alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from headsweep.arguments import refuse_no_path
from headsweep.config.data_sections import BlankLabels, SharedContent
from headsweep.config.inputs import Modality
from headsweep.config.schema import Config
from headsweep.config.values import values_of, with_values
from headsweep.data.array_checks import checked_labels
from headsweep.data.frames import column, frame_arrays
from headsweep.data.in_memory import ArraySource, config_of, modalities_of, source_of_arrays
from headsweep.data.loading import ManifestSource
from headsweep.data.splits import (
    Split,
    in_order,
    required_inputs,
    row_digests,
    search_fingerprints,
)
from headsweep.settings import cache_dir as default_cache_dir

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import ArrayLike, NDArray

__all__ = [
    "Dataset",
    "Split",
    "in_order",
    "required_inputs",
    "row_digests",
    "search_fingerprints",
]


class Dataset:
    """Features, labels and patients of a train, a valid and any number of test splits.

    Every file is read and checked once, when it is first needed, however often splits are asked
    for. The methods take a `Config` because the config decides which features and labels are read;
    without one they use the data set's own, with the default head.

    Test splits are for the leaderboard and for evaluation: a search never reads them.

    Example:
        >>> import numpy as np
        >>> from headsweep.data.dataset import Dataset
        >>> features = np.random.default_rng(0).standard_normal((200, 16))
        >>> targets = (features[:, :2] > 0).astype(int)
        >>> data = Dataset.from_arrays({"visual": features}, targets, labels=["a", "b"])
        >>> train, valid = data.search_splits()
        >>> train.features["visual"].shape
        (120, 16)
    """

    def __init__(self, source: ManifestSource | ArraySource, config: Config) -> None:
        self._source, self._config = source, config

    def __repr__(self) -> str:
        return f"<headsweep.Dataset: {self._source.described(self._config)}>"

    @classmethod
    def from_manifests(
        cls,
        data_root: str | Path,
        manifest_dir: str | Path,
        *,
        overrides: Mapping[str, Any] | Sequence[str] = (),
        progress: bool = False,
    ) -> Self:
        """Describe a data set in files, which are read when they are first needed.

        Args:
            data_root: folder of the feature files.
            manifest_dir: folder of the manifests `train.csv`, `valid.csv` and
                `test_manual_*.csv`, which `overrides` can name otherwise.
            overrides: config values, as `{"data.val_manifest": None}` or
                `["data.val_manifest=null"]`.
            progress: show progress on standard error while features are packed.

        Returns:
            The data set.

        Raises:
            ConfigError: an override has an unknown key or a value that is not allowed.
        """
        refuse_no_path("data_root", data_root)
        refuse_no_path("manifest_dir", manifest_dir)
        values = {"paths.data_root": str(data_root), "paths.manifest_dir": str(manifest_dir)}
        given = overrides if isinstance(overrides, Mapping) else values_of(overrides)
        config = with_values(Config(), values | dict(given), where="Dataset.from_manifests")
        return cls.from_config(config, progress=progress)

    @classmethod
    def from_config(
        cls,
        config: Config,
        *,
        progress: bool = False,
        cache_dir: Path | None = None,
    ) -> Self:
        """Describe the data set that a config names in `data` and `paths`.

        Args:
            config: names manifests, folders and labels.
            progress: show progress on standard error while features are packed.
            cache_dir: folder of packed features; None is the one of the settings.

        Returns:
            The data set; nothing was read yet.
        """
        folder = cache_dir or default_cache_dir()
        return cls(ManifestSource(folder, progress=progress), config)

    @classmethod
    def from_arrays(
        cls,
        features: Mapping[str, ArrayLike],
        targets: ArrayLike,
        *,
        labels: Sequence[str],
        patients: Sequence[Any] | None = None,
        split: Sequence[Any] | None = None,
        volumes: Sequence[Any] | None = None,
        scans: Sequence[Any] | None = None,
        reports: Sequence[Any] | None = None,
        seed: int = 42,
        shared_content: SharedContent | None = None,
        modalities: Mapping[str, Modality] | None = None,
        blank_labels: BlankLabels = "refuse",
    ) -> Self:
        """Make a data set of arrays in memory; row i of each is the same volume.

        Args:
            features: an array of shape (n, d) for each input: `visual`, `text`, or an encoder's
                name, such as `{"ct_clip": x, "colipri": y}`.
            targets: shape (n, c), 0 or 1; with `blank_labels="mask"` also NaN.
            labels: names of the columns of `targets`.
            patients: patient of every row; None takes it from `volumes` if they are named as in
                CT-RATE, else every row is its own patient.
            split: `train`, `valid`, or any other name for a test split, for every row; None
                divides the patients 60 : 20 : 20, stratified over the labels. Without `valid`, a
                fifth of the patients of `train` become `valid`.
            volumes: name of every row; None numbers them.
            scans: scan of every row; rows of one scan share a report.
            reports: report of every row, "" where there is none.
            seed: of the division into splits.
            shared_content: `refuse`, `warn` or `drop` rows that share a report or a feature vector
                with another split; see `data.shared_content`.
            modalities: `visual` or `text` by the name of the input; those that are left out are
                `visual`, except `text`.
            blank_labels: `refuse` targets that are NaN, or `mask` them: they weigh nothing in the
                loss, and their rows are left out of the label's metrics.

        Returns:
            The data set; everything was checked.

        Raises:
            InputError: the shapes differ, features are not finite, labels are not 0 or 1, or a
                patient is in two splits; the row is named, counted from 0.
        """
        named = modalities_of(features, modalities or {})
        source = source_of_arrays(
            features,
            targets,
            modalities=named,
            labels=labels,
            patients=patients,
            split=split,
            volumes=volumes,
            scans=scans,
            reports=reports,
            seed=seed,
            shared_content=shared_content,
            blank_labels=blank_labels,
        )
        return cls(source, config_of(source, named, shared_content, blank_labels))

    @classmethod
    def from_dataframe(
        cls,
        frame: pd.DataFrame,
        *,
        features: Mapping[str, str | Sequence[str] | NDArray[Any]],
        labels: Sequence[str],
        patient: str | None = None,
        split: str | None = None,
        volume: str | None = None,
        scan: str | None = None,
        report: str | None = None,
        seed: int = 42,
        shared_content: SharedContent | None = None,
        modalities: Mapping[str, Modality] | None = None,
        blank_labels: BlankLabels = "refuse",
    ) -> Self:
        """Make a data set of a DataFrame with one row a volume.

        Args:
            frame: the rows.
            features: for each input the column that holds vectors, the names of the numeric
                columns, or an array with a row for each row of the frame.
            labels: names of the label columns.
            patient: column of the patients; see `from_arrays` for what None does, here and below.
            split: column of the splits.
            volume: column of the volume names.
            scan: column of the scans.
            report: column of the reports.
            seed: of the division into splits.
            shared_content: `refuse`, `warn` or `drop` rows that share a report or a feature vector
                with another split; see `data.shared_content`.
            modalities: `visual` or `text` by the name of the input; those that are left out are
                `visual`, except `text`.
            blank_labels: `refuse` targets that are NaN, or `mask` them: they weigh nothing in the
                loss, and their rows are left out of the label's metrics.

        Returns:
            The data set; everything was checked.

        Raises:
            InputError: a column is missing, or its values cannot be used.
        """
        named = {"patients": patient, "split": split, "volumes": volume}
        named |= {"scans": scan, "reports": report}
        chosen = {key: None if n is None else column(frame, n) for key, n in named.items()}
        checked_labels(labels)
        targets = {label: column(frame, label) for label in labels}
        return cls.from_arrays(
            frame_arrays(frame, features),
            _stacked(targets),
            labels=labels,
            seed=seed,
            shared_content=shared_content,
            modalities=modalities,
            blank_labels=blank_labels,
            **{key: None if values is None else list(values) for key, values in chosen.items()},
        )

    @property
    def in_memory(self) -> bool:
        """Whether the data exist in this process alone, so that no other process can load them."""
        return self._source.in_memory

    @property
    def config(self) -> Config:
        """A config whose `data` and `paths` name this data set."""
        return self._config

    @property
    def labels(self) -> tuple[str, ...]:
        """Names of the labels, in the order of the columns of `targets`."""
        return self._source.labels(self._config)

    def apply_to(self, config: Config) -> Config:
        """Make a config of another origin read this data set.

        Returns:
            `config` with the `data` section and the data folders of this data set. Data in memory
            have no files: the manifests are then the names of the splits.

        Raises:
            ConfigError: the config names an input that this data set lacks.
        """
        paths = config.paths.model_copy(
            update={
                "data_root": self._config.paths.data_root,
                "manifest_dir": self._config.paths.manifest_dir,
            }
        )
        mine = config.model_copy(update={"data": self._config.data, "paths": paths})
        return with_values(mine, {}, where="the data set")

    def search_splits(
        self, config: Config | None = None, *, inputs: Sequence[str] | None = None
    ) -> tuple[Split, Split]:
        """Load train and valid.

        Args:
            config: decides what is read; None is the data set's own.
            inputs: names of the inputs to load; None loads those that the config trains on.

        Returns:
            The train and the valid split.

        Raises:
            InputError: the data cannot be used.
        """
        config = config or self._config
        return self._source.search_splits(config, inputs or required_inputs(config))

    def test_splits(
        self, config: Config | None = None, *, inputs: Sequence[str] | None = None
    ) -> list[Split]:
        """Load the test splits, checked against train and valid: for the leaderboard alone.

        Args:
            config: decides what is read; None is the data set's own.
            inputs: names of the inputs to load; None loads those that the config trains on.

        Returns:
            The test splits in the order of `data.test_manifests`.

        Raises:
            InputError: the data cannot be used.
        """
        config = config or self._config
        return self._source.test_splits(config, inputs or required_inputs(config))

    def refuse_mixed_labels(self, config: Config | None = None) -> None:
        """Refuse labels of the caller's own beside CT-RATE's when the config does not choose.

        New studies and single runs call it. A study or leaderboard from before, in which such
        labels were left out, can still be continued and verified: loading only warns.

        Args:
            config: decides what is read; None is the data set's own.

        Raises:
            ManifestError: the train manifest has both, and `training.target_labels` is null.
        """
        self._source.refuse_mixed_labels(config or self._config)

    def splits_alone(
        self, config: Config | None = None, *, inputs: Sequence[str] | None = None
    ) -> list[Split]:
        """Load the test splits without reading train and valid: for evaluation alone.

        Args:
            config: decides what is read; None is the data set's own.
            inputs: names of the inputs to load; None loads all that a manifest names.

        Returns:
            The test splits in the order of `data.test_manifests`.

        Raises:
            InputError: the data cannot be used.
        """
        return self._source.splits_alone(config or self._config, inputs)

    def fingerprints(
        self, config: Config | None = None, *, inputs: Sequence[str] | None = None
    ) -> dict[str, str]:
        """Return the fingerprints of train and valid, by name of the content.

        Args:
            config: decides what is read; None is the data set's own.
            inputs: names of the inputs; None takes those that the config trains on.

        Raises:
            InputError: the data cannot be used.
        """
        return search_fingerprints(*self.search_splits(config, inputs=inputs))


def _stacked(columns: Mapping[str, NDArray[Any]]) -> NDArray[Any]:
    import numpy as np

    return np.column_stack(list(columns.values())) if columns else np.zeros((0, 0))
