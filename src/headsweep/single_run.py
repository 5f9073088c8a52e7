"""One config trained to its end, with its files under `paths.checkpoint_dir`."""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch

from headsweep.atomic_files import locked, write_json, write_text
from headsweep.config.fingerprints import without_irrelevant
from headsweep.config.overrides import COMMAND_LINE
from headsweep.config.schema import Config, to_dict
from headsweep.config.values import differences, with_values
from headsweep.config.yaml_files import to_yaml
from headsweep.data.dataset import Dataset, Split
from headsweep.data.folds import Folds, divide
from headsweep.data.manifest import read_manifest
from headsweep.data.one_class import warn_of_one_class
from headsweep.engine.checkpoints import Snapshot, load_snapshot, save_snapshot
from headsweep.engine.engine import Engine, FoldedEngine
from headsweep.engine.slots import EpochReport
from headsweep.engine.train_configs import Trained, train_for
from headsweep.errors import ConfigError, OutputError, TrialError
from headsweep.evaluation.out_of_fold import out_of_fold
from headsweep.evaluation.summaries import choose_thresholds
from headsweep.evaluation.thresholds_file import THRESHOLDS, plain_thresholds
from headsweep.heads.predictor import MODEL, Predictor, save_predictor
from headsweep.preflight import check_output
from headsweep.settings import EngineSettings
from headsweep.tracking import Notice, Tracker, start_tracker

STATE = "state.safetensors"
METRICS, METRICS_OF_BEST = "metrics.jsonl", "metrics.json"


def train(
    config: Config,
    settings: EngineSettings,
    *,
    progress: bool,
    on_epoch: Callable[[EpochReport], None] | None = None,
    notice: Notice = lambda line: None,
) -> Trained:
    """Train one head and write its files.

    `paths.checkpoint_dir` then holds `config.yaml`, `metrics.jsonl` (a line an epoch),
    `metrics.json` (the best epoch), `model.safetensors` (its weights) and `state.safetensors`,
    written after every epoch, from which `training.resume` continues to the same bits.

    Args:
        config: what to train; entry on the tape and seed are its own.
        settings: device and threads.
        progress: draw a progress bar while features are packed.
        on_epoch: called with the report of every epoch.
        notice: called with one line when something differs from the request but training continues.

    Returns:
        The trained head.

    Raises:
        InputError: the config, the data or the folder cannot be used, or the state to resume from
            is another run's; nothing was trained.
        TrialError: training diverged.
    """
    folder = Path(config.paths.checkpoint_dir)
    check_output(folder)
    config = _without_missing_text(config, notice)
    data = Dataset.from_config(config, progress=progress)
    data.refuse_mixed_labels()
    fit, valid = data.search_splits()
    warn_of_one_class(fit, valid)
    folds = _folds_of(config, fit, valid)
    engine = Engine(fit, valid, settings) if folds is None else FoldedEngine(folds, settings)
    identity = _identity(config, fit, valid, engine.inputs.device, settings)
    snapshot = _snapshot_to_resume(config, folder, identity, notice)
    folder.mkdir(parents=True, exist_ok=True)
    with _locked_folder(folder):
        if snapshot is None:
            slot = engine.replay(config).slot
            (folder / STATE).unlink(missing_ok=True)
        else:
            slot = engine.restore(config, snapshot).slot
        write_text(folder / "config.yaml", _yaml(config))
        tracker = _tracker(engine.history(slot), config, folder, identity, notice)
        history = _train_on(engine, slot, folder, identity, on_epoch, tracker)
        predictor = _head(engine, slot, config, folds, folder, settings)
        save_predictor(predictor, folder / MODEL)
        last = history[-1]
        best = history[last.best_epoch - 1].metrics
        write_json(folder / METRICS_OF_BEST, best)
        tracker.finish(best, folder / MODEL)
    return Trained(config, predictor, last.best_value, last.best_epoch, history)


def _folds_of(config: Config, fit: Split, valid: Split) -> Folds | None:
    """Divide the rows into the folds that the config names.

    Returns:
        The folds; None if it names none.

    Raises:
        ManifestError: there are fewer patients than folds.
    """
    chosen = config.training.folds
    if chosen is None:
        return None
    return divide(fit, valid if chosen.include_valid else None, chosen.count, chosen.seed)


def _head(
    engine: Engine,
    slot: int,
    config: Config,
    folds: Folds | None,
    folder: Path,
    settings: EngineSettings,
) -> Predictor:
    """Return what a run that has ended results in; of folds, the mean of their heads.

    With `training.folds.refit` it is one head that is trained on the rows of all folds, for as many
    epochs as their heads were. Thresholds of folds are chosen out-of-fold, and written for
    `evaluate`.

    Returns:
        The head.

    Raises:
        TrialError: the head of all rows diverged.
    """
    predictor = engine.predictor(slot)
    if folds is None:
        (folder / THRESHOLDS).unlink(missing_ok=True)  # of an earlier run with folds
        return predictor
    predictions = out_of_fold(predictor, folds)
    thresholds = choose_thresholds(predictions)
    plain = plain_thresholds(thresholds, predictions.labels, predictions.name)
    write_json(folder / THRESHOLDS, plain)
    if config.training.folds is None or not config.training.folds.refit:
        return predictor
    epochs = engine.history(slot)[-1].best_epoch
    (refitted,) = train_for([config], [epochs], folds.rows, settings)
    return refitted


@contextmanager
def _locked_folder(folder: Path) -> Iterator[None]:
    """Refuse a folder in which another run is at work: their lines and states would mix.

    Raises:
        OutputError: another run writes to the folder.
    """
    with ExitStack() as held:
        try:
            held.enter_context(locked(folder / ".lock", wait=False))
        except BlockingIOError:
            raise OutputError(
                f"{folder}: one run at a time may write to a folder, found another at work"
            ) from None
        yield


def _train_on(
    engine: Engine,
    slot: int,
    folder: Path,
    identity: Mapping[str, Any],
    on_epoch: Callable[[EpochReport], None] | None,
    tracker: Tracker,
) -> tuple[EpochReport, ...]:
    """Train a slot to its end, with the state, metrics and logs of every epoch.

    Returns:
        The reports of all epochs.

    Raises:
        TrialError: training diverged.
    """
    # An interrupted run may have written its last line only in part; the state is the truth.
    lines = "".join(_line(report) for report in engine.history(slot))
    write_text(folder / METRICS, lines)
    with (folder / METRICS).open("a", encoding="utf-8") as metrics:
        while not (history := engine.history(slot)) or not history[-1].finished:
            (report,) = engine.run_epoch()
            if report.failure is not None:
                raise TrialError(report.failure)
            save_snapshot(engine.snapshot(slot), folder / STATE, identity)
            metrics.write(_line(report))
            metrics.flush()
            tracker.log(report.epoch, report.metrics)
            if on_epoch:
                on_epoch(report)
    return history


def _tracker(
    before: Sequence[EpochReport],
    config: Config,
    folder: Path,
    identity: Mapping[str, Any],
    notice: Notice,
) -> Tracker:
    """Start the logger of a run that has trained these epochs.

    Returns:
        The logger.
    """
    return start_tracker(
        config, folder, run_id=identity["run"], first_epoch=len(before) + 1, notice=notice
    )


def _without_missing_text(config: Config, notice: Notice) -> Config:
    """Return the config with visual features alone if it asks for both and there is no text."""
    if config.features.input != "both" or config.head.kind == "retrieval":
        return config
    path = Path(config.paths.manifest_dir) / config.data.train_manifest
    manifest = read_manifest(
        path,
        config.data.manifest_columns,
        config.training.target_labels,
        config.data.blank_labels,
    )
    if "text" in manifest.feature_paths:
        return config
    notice(
        f"{path} has no column {config.data.columns.text_feature!r}: "
        "training on visual features alone (features.input=visual)"
    )
    return with_values(config, {"features.input": "visual"}, where=COMMAND_LINE)


def _identity(
    config: Config, fit: Split, valid: Split, device: torch.device, settings: EngineSettings
) -> dict[str, Any]:
    """Return what a state belongs to: config and data, which must be the same, and the machine."""
    relevant = without_irrelevant(to_dict(config))
    data = {
        part: [split.manifest_fingerprint, *split.feature_fingerprints.values()]
        for part, split in (("train", fit), ("valid", valid))
    }
    machine = {"device": device.type, "threads": settings.threads, "torch": torch.__version__}
    return {"config": relevant, "data": data, "machine": machine, "run": secrets.token_hex(4)}


def _snapshot_to_resume(
    config: Config, folder: Path, identity: dict[str, Any], notice: Notice
) -> Snapshot | None:
    """Return the state to go on from; `identity` then takes over the name of its run.

    Raises:
        ConfigError: the state named by `training.resume.state_path` is not there, or a state is
            another run's.
    """
    resume = config.training.resume
    path = Path(resume.state_path) if resume.state_path else folder / STATE
    if resume.state_path is None and not (resume.enabled and path.is_file()):
        if resume.enabled:
            notice(f"{path}: no state to resume from, training from the start")
        return None
    path = path / STATE if path.is_dir() else path
    if not path.exists():
        raise ConfigError(
            f"state file not found: {path}. training.resume.state_path names the folder of an "
            f"earlier run, or its {STATE}"
        )
    snapshot, saved = load_snapshot(path)
    for part in ("config", "data"):
        for name, before, now in differences(saved[part], identity[part]):
            raise ConfigError(
                f"{path}: a run resumes with the {part} it began with, "
                f"{name} was {before!r}, found {now!r}"
            )
    for name, before, now in differences(saved["machine"], identity["machine"]):
        notice(f"{path}: {name} was {before!r} and is {now!r}, so the last bits may differ")
    identity["run"] = saved["run"]
    return snapshot


def _yaml(config: Config) -> str:
    """Return the config as `--config` reads it; it describes the run, resumed or not."""
    plain = to_dict(config)
    plain["training"]["resume"] = to_dict(Config())["training"]["resume"]
    return to_yaml(plain)


def _line(report: EpochReport) -> str:
    return json.dumps(report.metrics) + "\n"
