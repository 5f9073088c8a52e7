"""SIGTERM and SIGHUP end a command as Ctrl-C does, in every phase of it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from headsweep.cli import interrupts
from headsweep.leaderboard.staging import staging


@pytest.mark.parametrize("sent", [signal.SIGTERM, signal.SIGHUP])
def test_staging_when_interrupted_by_a_signal_leaves_no_partial_folder(
    sent: signal.Signals, tmp_path: Path
) -> None:
    """A board is half written when the scheduler ends `finalize`."""

    def write_half() -> None:
        with interrupts.raised(), staging(tmp_path) as folder:
            (folder / "leaderboard.csv").write_text("half")
            os.kill(os.getpid(), sent)
            time.sleep(5)

    with pytest.raises(KeyboardInterrupt):
        write_half()
    assert [path.name for path in tmp_path.iterdir()] == [".lock"]
    assert signal.getsignal(sent) == signal.SIG_DFL


def test_ignored_signal_stays_ignored() -> None:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as by nohup
    try:
        with interrupts.raised():
            os.kill(os.getpid(), signal.SIGHUP)
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, signal.SIG_DFL)


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_command_interrupted_while_it_writes_a_folder_exits_130_and_leaves_nothing(
    sent: signal.Signals, tmp_path: Path
) -> None:
    command = [*("data", "synth", str(tmp_path / "data")), "--patients-train", "3000"]
    with subprocess.Popen(
        [sys.executable, "-m", "headsweep", *command],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # If the tests run in the background, child processes would ignore these signals.
        preexec_fn=lambda: signal.signal(sent, signal.SIG_DFL),
    ) as process:
        while process.poll() is None and not list(tmp_path.glob(".data.partial/*")):
            time.sleep(0.005)
        process.send_signal(sent)
        _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert err.splitlines()[-1].startswith("Interrupted: finished work is stored")
    assert not list(tmp_path.iterdir())
