"""`Leaderboard`: a finished study, read from its folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from headsweep.arguments import refuse_no_path, refuse_other_types
from headsweep.errors import OutputError, VerificationError
from headsweep.json_text import parse_json
from headsweep.leaderboard.merge import Merged, frame_of, merge, read_board
from headsweep.leaderboard.provenance import read_provenance

if TYPE_CHECKING:
    import os

    import pandas as pd

    from headsweep.data.dataset import Dataset
    from headsweep.heads.predictor import Predictor
    from headsweep.leaderboard.label_noise import LabelNoise


class Leaderboard:
    """The finalists of a finished study, best on valid first.

    Files are read when they are asked for; no storage is needed. A leaderboard can be used as the
    path of its folder.

    Example:
        ```python
        import headsweep as hs

        board = hs.Leaderboard("outputs/mlp-visual")
        board.to_dataframe()
        board.predictions(rank=1, split="test_manual_all")
        board.predictor(rank=1, seed=0).predict_proba({"visual": features})
        ```
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        """Open the leaderboard in a folder.

        Args:
            folder: of a finished study.

        Raises:
            OutputError: the folder holds no leaderboard.
            VerificationError: the folder holds a link out of it.
        """
        refuse_no_path("folder", folder, OutputError)
        self.folder = Path(folder)
        """Folder of the leaderboard."""
        self._rows = {int(row["rank"]): row for row in read_board(self.folder)}

    def __fspath__(self) -> str:
        return str(self.folder)

    def __repr__(self) -> str:
        return f"Leaderboard({str(self.folder)!r})"

    def _repr_html_(self) -> str:
        """Return the leaderboard as a table for notebooks."""
        return merge([self.folder]).to_table()

    @property
    def ranks(self) -> tuple[int, ...]:
        """Ranks of the finalists."""
        return tuple(self._rows)

    @property
    def provenance(self) -> dict[str, Any]:
        """Where the leaderboard comes from, as `provenance.json` holds it."""
        return read_provenance(self.folder)

    def to_dataframe(self) -> pd.DataFrame:
        """Return the columns of `leaderboard.csv`, a row for each finalist."""
        return frame_of(list(self._rows.values()))

    def references(self) -> pd.DataFrame:
        """Return the columns of `references.csv`, a row for each reference that was not searched.

        Returns:
            The rows; an empty frame for boards without references.

        Raises:
            VerificationError: the file is missing or cannot be read.
        """
        import pandas as pd

        from headsweep.leaderboard.references.reading import read_references

        frame = pd.DataFrame(read_references(self.folder))
        for name in frame.columns.difference(["reference", "features"]):
            frame[name] = pd.to_numeric(frame[name], errors="coerce")
        return frame

    def ensembles(self) -> pd.DataFrame:
        """Return the rows that average heads: the mean of each finalist's seeds, and the ensemble.

        Returns:
            The columns of `ensembles.csv`; those of boards without ensembles are computed from
            their predictions.

        Raises:
            VerificationError: a file cannot be read.
        """
        import pandas as pd

        from headsweep.leaderboard.ensembles.chosen import recorded_selection
        from headsweep.leaderboard.ensembles.files import ENSEMBLES_TABLE

        if recorded_selection(self.provenance) is None:
            return pd.DataFrame(merge([self.folder], ensemble=True).ensembles)
        path = self.folder / ENSEMBLES_TABLE
        if not path.is_file():  # nothing could be averaged
            return pd.DataFrame()
        try:
            return pd.read_csv(path, dtype={"finalists": str})
        except (OSError, ValueError) as error:
            raise VerificationError(f"{path}: cannot read the ensembles: {error}") from None

    def ensemble(self) -> Predictor:
        """Load the ensemble of the finalists' heads that was selected on valid.

        Returns:
            The ensemble as one predictor, on the CPU.

        Raises:
            OutputError: the board has none.
            FeatureError: the model cannot be read.
        """
        from headsweep.heads.predictor import MODEL, load_predictor
        from headsweep.leaderboard.ensembles.files import ENSEMBLE_FOLDER

        folder = self.folder / ENSEMBLE_FOLDER
        if not (folder / MODEL).is_file():
            raise OutputError(f"{self.folder}: the leaderboard has no ensemble")
        return load_predictor(folder)

    def mean_of_seeds(self, rank: int = 1) -> Predictor:
        """Return all seeds of a finalist as one predictor, which averages their scores.

        Raises:
            OutputError: no finalist has this rank.
            FeatureError: a model cannot be read.
        """
        from headsweep.heads.predictor import ensemble_of

        members = [self.predictor(rank, seed) for seed in self.seeds(rank)]
        return ensemble_of(members, [1 / len(members)] * len(members))

    def cohorts(self) -> pd.DataFrame:
        """Return rows, scans, patients, labels and label source of every split.

        Returns:
            The columns of `cohorts.csv`; without rows on leaderboards of earlier versions.
        """
        import pandas as pd

        from headsweep.leaderboard.cohorts import HEADER

        return pd.DataFrame(self.provenance.get("cohorts", []), columns=list(HEADER))

    def finalist(self, rank: int) -> Path:
        """Return the folder of a finalist.

        Raises:
            OutputError: no finalist has this rank.
        """
        if rank not in self._rows:
            known = ", ".join(map(str, self._rows))
            raise OutputError(f"{self.folder}: rank must be one of {known}, found {rank!r}")
        return self.folder / Path(self._rows[rank]["config"]).parent

    def seeds(self, rank: int = 1) -> tuple[int, ...]:
        """Return the seeds with which a finalist was trained, in ascending order.

        Raises:
            OutputError: no finalist has this rank.
        """
        names = [path.name.removeprefix("seed_") for path in self.finalist(rank).glob("seed_*")]
        return tuple(sorted(int(name) for name in names if name.isdecimal()))

    def metrics(self, rank: int = 1) -> dict[str, Any]:
        """Return the metrics of a finalist by split, as `metrics.json` holds them.

        Raises:
            OutputError: no finalist has this rank.
            VerificationError: the file is missing or no JSON.
        """
        path = self.finalist(rank) / "metrics.json"
        try:
            metrics: dict[str, Any] = parse_json(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise VerificationError(f"{path}: cannot read metrics: {error}") from None
        return metrics

    def predictions(
        self, rank: int = 1, split: str | None = None, *, seed: int | None = None
    ) -> pd.DataFrame:
        """Return targets and scores of a finalist on a split, a row for each volume.

        Args:
            rank: of the finalist.
            split: valid or a test split; None is the first test split.
            seed: of the head; None averages the probabilities of all seeds.

        Returns:
            Columns `volumename`, `patient`, then `y_true:` and `y_score:` of every label, and for
            one seed `y_logit:` where the head has logits.

        Raises:
            OutputError: no finalist has this rank, or it has no such seed or split.
            VerificationError: a file of predictions cannot be read.
        """
        import pandas as pd

        from headsweep.evaluation.predictions import predictions_table, read_seeds

        splits = list(self.metrics(rank))
        split = splits[min(1, len(splits) - 1)] if split is None else split
        if split not in splits:
            known = ", ".join(splits)
            raise OutputError(f"{self.folder}: split must be one of {known}, found {split!r}")
        folder = self.finalist(rank)
        chosen = self.seeds(rank) if seed is None else (self._seed(rank, seed),)
        files = [folder / f"seed_{one}" / "predictions" / f"{split}.parquet" for one in chosen]
        return pd.DataFrame(predictions_table(read_seeds(files, folder)))

    def predictor(self, rank: int = 1, seed: int | None = None) -> Predictor:
        """Load the head of a finalist.

        Args:
            rank: of the finalist.
            seed: of the head; None is the first one.

        Returns:
            The head, on the CPU.

        Raises:
            OutputError: no finalist has this rank, or it has no such seed.
            FeatureError: the model cannot be read.
        """
        from headsweep.heads.predictor import load_predictor

        seed = self.seeds(rank)[0] if seed is None else self._seed(rank, seed)
        return load_predictor(self.finalist(rank) / f"seed_{seed}")

    def verify(
        self,
        *,
        recompute: bool = False,
        data: Dataset | None = None,
        moved: Mapping[str, str] | None = None,
    ) -> str:
        """Train the finalists again and compare every file, or only compute the figures again.

        Args:
            recompute: compute the figures again from the predictions, without data or training.
            data: what the study was searched on; None is what the exported configs name.
            moved: where the data are now, by `paths.data_root` and `paths.manifest_dir`.

        Returns:
            A line that says what was compared.

        Raises:
            VerificationError: something differs; names the file and the largest difference.
            InputError: the data can no longer be read.
        """
        if recompute:
            from headsweep.leaderboard.verification.recompute import recompute as from_predictions

            return from_predictions(self.folder)
        from headsweep.data.dataset import Dataset
        from headsweep.leaderboard.verification.verify import verify

        expected = (Dataset, type(None))
        refuse_other_types("data", data, expected, "a headsweep.Dataset")
        return verify(self.folder, moved, data=data)

    def label_noise(self, file: str | os.PathLike[str]) -> LabelNoise:
        """Measure every row again under other labels of the same rows, and compare the ranks.

        The stored predictions are used; no file of the leaderboard changes.

        Args:
            file: CSV file with a column of volume names and a column for each label. It holds
                whole splits, and may hold other rows.

        Returns:
            Metrics under both labels, ranks, and how often each label differs.

        Raises:
            ManifestError: the file cannot be read, lacks a label or rows, or has the same labels.
            VerificationError: predictions cannot be read.
        """
        from headsweep.leaderboard.label_noise import label_noise

        return label_noise(self.folder, Path(file))

    @staticmethod
    def merge(
        boards: Sequence[Leaderboard | str | os.PathLike[str]], *, ensemble: bool = False
    ) -> Merged:
        """Put the best finalists of several studies on one board for each set of data.

        Args:
            boards: leaderboards, or their folders.
            ensemble: also average heads of all studies, which must then be on the same data.

        Returns:
            The boards; of a single one, all its finalists.

        Raises:
            OutputError: a folder holds no leaderboard, or one on other data, with `ensemble`.
            VerificationError: its predictions cannot be read.
        """
        if isinstance(boards, str):
            raise OutputError(f"boards must be a list of leaderboards, found {boards!r}")
        return merge([Path(board) for board in boards], ensemble=ensemble)

    def _seed(self, rank: int, seed: int) -> int:
        if seed not in (known := self.seeds(rank)):
            listed = ", ".join(map(str, known))
            raise OutputError(
                f"{self.finalist(rank)}: seed must be one of {listed}, found {seed!r}"
            )
        return seed
