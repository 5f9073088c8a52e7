"""Make the README's pictures from a real search.

    python scripts/pictures.py STUDY.yaml [key=value …]

Runs the study in a pseudo-terminal and writes docs/images/terminal.svg, which shows the progress
line at half of the trials and the leaderboard at the end, and docs/images/report.png, the top of
the report. Needs Chromium. Takes as long as the study.
"""

from __future__ import annotations

import argparse
import os
import pty
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from rich.console import Console
from rich.text import Text

ROOT = Path(__file__).parents[1]
IMAGES = ROOT / "docs" / "images"
COLUMNS, PIXELS = 92, {"width": 1000, "height": 720}
REDRAWN = re.compile(r"\r?\x1b\[2K|\r(?!\n)")
"""What rich writes before it draws a line anew."""
CURSOR = re.compile(r"\x1b\[\?25[hl]|\x1b\[1A")

sys.path.insert(0, str(ROOT))

from tests.helpers.chromium import browse  # noqa: E402

from headsweep.search.study_file import load_study_file  # noqa: E402


def in_a_terminal(command: list[str]) -> str:
    """Return everything that a command writes to a terminal.

    Raises:
        SystemExit: the command failed.
    """
    ours, theirs = pty.openpty()
    environment = os.environ | {"COLUMNS": str(COLUMNS), "LINES": "30", "TERM": "xterm-256color"}
    with subprocess.Popen(command, stdout=theirs, stderr=theirs, env=environment) as process:
        os.close(theirs)
        written = b""
        while True:
            try:
                written += os.read(ours, 1 << 16)
            except OSError:  # the other end was closed
                break
    if process.returncode:
        raise SystemExit(written.decode())
    return written.decode()


def frames(written: str) -> list[str]:
    """Return the successive states of all lines, with their ANSI colours."""
    states = REDRAWN.split(CURSOR.sub("", written).replace("\r\n", "\n"))
    return [state for state in states if state.strip()]


def half_way(states: list[str]) -> str:
    """Return the progress line at about half of the trials."""
    live = [state for state in states if "running" in state and "trials/min" in state]

    def distance(state: str) -> float:
        counted = re.search(r"(\d+)/(\d+)", Text.from_ansi(state).plain)
        return abs(int(counted[1]) / int(counted[2]) - 0.5) if counted else 1.0

    return min(live, key=distance).strip()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("study", metavar="STUDY.yaml")
    parser.add_argument("overrides", nargs="*", metavar="key=value")
    arguments = parser.parse_args()
    command = ["headsweep", "run", arguments.study, *arguments.overrides]
    with tempfile.TemporaryDirectory() as folder:
        store = ["--storage", f"sqlite:///{folder}/study.db", "--out", f"{folder}/board"]
        written = in_a_terminal([sys.executable, "-m", *command, *store])
        states = frames(written)
        end = written.replace("\r\n", "\n")
        board = end[end.index("rank") - 10 :].partition("report:")[0]
        study = load_study_file(Path(arguments.study), arguments.overrides)
        board = board.replace(f"{folder}/board", f"outputs/{study.name}")
        saved = next(line for line in end.splitlines() if "epochs not trained" in line)
        shown = [f"$ {' '.join(command)}", half_way(states), saved]
        terminal = Console(record=True, width=COLUMNS, file=open(os.devnull, "w"))  # noqa: PTH123, SIM115
        for part in (*shown, board.strip("\n")):
            terminal.print(Text.from_ansi(CURSOR.sub("", part)))
        IMAGES.mkdir(exist_ok=True)
        terminal.save_svg(str(IMAGES / "terminal.svg"), title="headsweep")
        with browse(Path(folder) / "browser") as page:
            page.show(Path(folder) / "board" / "report.html", **PIXELS, theme="light")
            page.screenshot(IMAGES / "report.png")


if __name__ == "__main__":
    main()
