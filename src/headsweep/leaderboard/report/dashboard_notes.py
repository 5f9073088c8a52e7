"""Attach a finished study's leaderboard, curves and plots as notes, for optuna-dashboard."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import optuna
from optuna.artifacts import get_all_artifact_meta, upload_artifact
from optuna.samplers import RandomSampler
from optuna_dashboard import save_note

from headsweep.atomic_files import locked
from headsweep.errors import OutputError
from headsweep.json_text import parse_json
from headsweep.leaderboard.formatting import markdown_table, number
from headsweep.leaderboard.provenance import read_provenance
from headsweep.storage.artifacts import ArtifactFolder
from headsweep.studies.study import StoredStudy


def attach_board(stored: StoredStudy, folder: Path) -> None:
    """Attach a leaderboard to its study and finalists, replacing what was attached before.

    Args:
        stored: the study that was finalized.
        folder: its leaderboard.

    Raises:
        OutputError: the artifacts cannot be written.
    """
    storage = stored.storage
    # With a random sampler, opening a finished trial does not call the study's own sampler.
    study = optuna.Study(stored.name, storage, RandomSampler())
    artifacts = ArtifactFolder(storage)
    files = [folder / "leaderboard.csv", *sorted((folder / "plots").glob("*.png"))]
    try:
        artifacts.path.mkdir(parents=True, exist_ok=True)
        # Two processes at once would attach every file twice.
        with locked(artifacts.path / ".lock"):
            ids = {path.name: _attach(study, path, artifacts) for path in files}
    except OSError as error:
        raise OutputError(
            f"{artifacts.path}: cannot write to the folder: {error.strerror}"
        ) from None
    board = (folder / "leaderboard.md").read_text(encoding="utf-8")
    study_id = stored.study_id
    plots = {name: f"/artifacts/{study_id}/{id_}" for name, id_ in ids.items()}
    save_note(study, f"# Leaderboard\n\n{board}\n\n{_pictures(plots)}")
    for rank, finalist in enumerate(read_provenance(folder)["finalists"], start=1):
        trial_id = storage.get_trial_id_from_study_id_trial_number(study_id, finalist["trial"])
        save_note(
            optuna.Trial(study, trial_id), _of_finalist(rank, folder / "finalists" / str(rank))
        )


def _attach(study: optuna.Study, path: Path, store: ArtifactFolder) -> str:
    """Store a file under the id of an earlier file of this name, or a new id.

    Returns:
        Id of the artifact.
    """
    known = {meta.filename: meta.artifact_id for meta in get_all_artifact_meta(study)}
    if path.name not in known:
        return upload_artifact(artifact_store=store, file_path=str(path), study_or_trial=study)
    with path.open("rb") as content:
        store.write(known[path.name], content)
    return known[path.name]


def _pictures(plots: Mapping[str, str]) -> str:
    return "\n\n".join(
        f"**{Path(name).stem.replace('_', ' ')}**\n\n![{name}]({url})"
        for name, url in plots.items()
        if name.endswith(".png")
    )


def _of_finalist(rank: int, folder: Path) -> str:
    metrics = parse_json((folder / "metrics.json").read_text(encoding="utf-8"))
    rows = [
        [split, *(number(one[f"{name}_macro"]["mean"], 4) for name in ("auprc", "auroc"))]
        for split, one in metrics.items()
    ]
    table = markdown_table(["split", "AUPRC", "AUROC"], rows)
    config = (folder / "config.yaml").read_text(encoding="utf-8")
    return f"# Finalist, rank {rank}\n\n" + f"{table}\n```yaml\n{config}```\n"
