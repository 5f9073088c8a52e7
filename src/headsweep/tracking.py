"""Experiment loggers of single runs, W&B and TensorBoard; their failure never stops training."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import yaml

from headsweep.config.schema import Config, LoggingConfig, to_dict

INIT_TIMEOUT_S = 30

Notice = Callable[[str], None]


class Tracker(ABC):
    """Receives a run's metrics as they come."""

    @abstractmethod
    def log(self, epoch: int, metrics: Mapping[str, float]) -> None:
        """Log one epoch's metrics."""

    @abstractmethod
    def finish(self, summary: Mapping[str, float], model: Path) -> None:
        """Log the best epoch's metrics and weights; nothing follows."""


class SilentTracker(Tracker):
    """Logs nowhere."""

    def log(self, epoch: int, metrics: Mapping[str, float]) -> None:
        """Do nothing."""

    def finish(self, summary: Mapping[str, float], model: Path) -> None:
        """Do nothing."""


class WandbTracker(Tracker):
    """A W&B run below `folder/wandb`; offline it needs neither network nor account."""

    def __init__(self, config: Config, folder: Path, run_id: str) -> None:
        import wandb

        logging = config.logging
        self.logging = logging
        self.run = wandb.init(
            project=logging.project,
            name=_run_name(logging, folder),
            group=logging.group,
            tags=list(logging.tags),
            config=to_dict(config),
            dir=str(folder),
            id=run_id,
            resume="allow",
            mode="offline" if logging.offline else "online",
            settings=wandb.Settings(silent=True, console="off", init_timeout=INIT_TIMEOUT_S),
        )

    def log(self, epoch: int, metrics: Mapping[str, float]) -> None:
        """Log one step of the run's history."""
        self.run.log(dict(metrics), step=epoch)

    def finish(self, summary: Mapping[str, float], model: Path) -> None:
        """Log the summary, and the weights if `logging.log_model` asks for them."""
        self.run.summary.update({f"best/{name}": value for name, value in summary.items()})
        if self.logging.log_model:
            self.run.log_artifact(str(model), name=f"head-{self.run.id}", type="model")
        self.run.finish()


class TensorBoardTracker(Tracker):
    """Events below `folder/tensorboard`; what an interrupted run logged too far is hidden."""

    def __init__(self, config: Config, folder: Path, first_epoch: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self.writer = SummaryWriter(str(folder / "tensorboard"), purge_step=first_epoch)
        logging = config.logging
        about = {"name": _run_name(logging, folder), "group": logging.group, "tags": logging.tags}
        for title, content in (("config", to_dict(config)), ("run", about)):
            text = yaml.safe_dump(_plain(content), sort_keys=False)
            self.writer.add_text(title, f"```yaml\n{text}```", first_epoch)

    def log(self, epoch: int, metrics: Mapping[str, float]) -> None:
        """Log one point of every curve."""
        for name, value in metrics.items():
            self.writer.add_scalar(name, value, epoch)
        self.writer.flush()

    def finish(self, summary: Mapping[str, float], model: Path) -> None:
        """Log the best epoch's metrics, at their epoch."""
        for name, value in summary.items():
            self.writer.add_scalar(f"best/{name}", value, int(summary["epoch"]))
        self.writer.close()


class HarmlessTracker(Tracker):
    """Passes everything on until the tracker fails; then says so once and stays silent."""

    def __init__(self, name: str, start: Callable[[], Tracker], notice: Notice) -> None:
        self.name, self.notice = name, notice
        self.tracker: Tracker = SilentTracker()
        self._attempt(lambda: setattr(self, "tracker", start()))

    def log(self, epoch: int, metrics: Mapping[str, float]) -> None:
        """Log with the tracker, while it works."""
        self._attempt(lambda: self.tracker.log(epoch, metrics))

    def finish(self, summary: Mapping[str, float], model: Path) -> None:
        """Finish the tracker, while it works."""
        self._attempt(lambda: self.tracker.finish(summary, model))

    def _attempt(self, call: Callable[[], None]) -> None:
        try:
            call()
        except Exception as error:  # a logger may fail in any way, training goes on
            self.tracker = SilentTracker()
            reason = " ".join(f"{type(error).__name__}: {error}".split())
            self.notice(f"logging to {self.name} ended, training goes on: {reason}")


def start_tracker(
    config: Config, folder: Path, *, run_id: str, first_epoch: int, notice: Notice
) -> Tracker:
    """Start the tracker that `logging.logger_name` names.

    Args:
        config: of the run.
        folder: of the run; the logger writes below it.
        run_id: stays the same when the run is resumed.
        first_epoch: the next epoch to be logged, from 1.
        notice: called once, with a line, when the logger has failed.

    Returns:
        The tracker; one that fails later is silenced, and training goes on.
    """
    name = config.logging.logger_name
    if name == "wandb":
        return HarmlessTracker(name, lambda: WandbTracker(config, folder, run_id), notice)
    if name == "tensorboard":
        return HarmlessTracker(
            name, lambda: TensorBoardTracker(config, folder, first_epoch), notice
        )
    return SilentTracker()


def _run_name(logging: LoggingConfig, folder: Path) -> str:
    return logging.run_name or folder.name


def _plain(content: Mapping[str, Any]) -> dict[str, Any]:
    return {key: list(v) if isinstance(v, tuple) else v for key, v in content.items()}
