"""Single runs that are killed on their way."""

import multiprocessing
import os
import signal
import threading
from pathlib import Path

from headsweep.config.schema import Config
from headsweep.engine.slots import EpochReport
from headsweep.settings import EngineSettings
from headsweep.single_run import METRICS, train

SETTINGS = EngineSettings(device="cpu", slots=1)
WEIGHTS_AND_METRICS = ("model.safetensors", METRICS, "metrics.json")


def train_and_die(config: Config, epoch: int, delay_s: float) -> None:
    """Train; some time after an epoch this process is killed, wherever it then is."""
    timer = threading.Timer(delay_s, os.kill, (os.getpid(), signal.SIGKILL))

    def on_epoch(report: EpochReport) -> None:
        if report.epoch >= epoch and not timer.is_alive():
            timer.start()

    train(config, SETTINGS, progress=False, on_epoch=on_epoch)
    os.kill(os.getpid(), signal.SIGKILL)  # the end came before the timer did


def kill_once(config: Config, epoch: int, delay_s: float) -> None:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["headsweep.single_run"])
    process = context.Process(target=train_and_die, args=(config, epoch, delay_s))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL


def epochs_in(folder: Path) -> int:
    file = folder / METRICS
    return len(file.read_text().splitlines()) if file.is_file() else 0
