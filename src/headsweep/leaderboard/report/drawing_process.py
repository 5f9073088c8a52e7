"""A process that draws figures while this one computes.

A figure is sent as a line of JSON, one after another; its files come back as a line of JSON with
their sizes, and their bytes. The process ends when its input is closed, so it does not outlive a
killed parent, and it writes no file. Ctrl-C ends it through the parent. Figures that it cannot
draw are drawn here, and so are all if it cannot be started.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from typing import IO, Any

import numpy as np

from headsweep.json_text import parse_json
from headsweep.leaderboard.report import plots
from headsweep.leaderboard.report.plots import Drawing, Plot
from headsweep.settings import usable_cores

FUNCTIONS = {
    function.__name__: function
    for function in (
        plots.intervals,
        plots.optimism,
        plots.optimization_history,
        plots.learning_curves,
        plots.bars,
        plots.value_slice,
    )
}
"""What the process can draw, by name."""

Files = Mapping[str, bytes]


class Figures:
    """Figures that this process draws when their files are needed."""

    def drawn(self, plots: Sequence[Plot]) -> list[Plot]:
        """Return the plots. A second process, if there is one, begins to draw those that it can."""
        return list(plots)


@contextlib.contextmanager
def figures_drawn_aside() -> Iterator[Figures]:
    """Start a process that draws figures, unless this one may use a single core only.

    Yields:
        What draws them.
    """
    if usable_cores() < 2 or not sys.executable:
        yield Figures()
        return
    try:
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", __spec__.name],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,  # Ctrl-C reaches this process alone, which ends the other
        )
    except OSError:
        yield Figures()
        return
    with process:
        try:
            with ThreadPoolExecutor(1) as asker:
                try:
                    yield _DrawnAside(process, asker)
                finally:
                    asker.shutdown(wait=False, cancel_futures=True)
                    process.kill()
        finally:
            assert process.stdin is not None
            with contextlib.suppress(OSError):
                process.stdin.close()  # what it has not read is lost


class _DrawnAside(Figures):
    """Figures that one process draws; a thread waits for each."""

    def __init__(self, process: subprocess.Popen[bytes], asker: ThreadPoolExecutor) -> None:
        self.process, self.asker = process, asker

    def drawn(self, plots: Sequence[Plot]) -> list[Plot]:
        return [
            replace(plot, drawing=_Awaited(self.asker.submit(self._ask, request), drawing))
            if isinstance(drawing := plot.drawing, Drawing) and (request := to_request(drawing))
            else plot
            for plot in plots
        ]

    def _ask(self, request: bytes) -> Files | None:
        """Return what the process draws; None if it cannot, or has ended."""
        sent, received = self.process.stdin, self.process.stdout
        assert sent is not None
        assert received is not None
        try:
            sent.write(request)
            sent.flush()
            sizes = parse_json(received.readline().decode())
            files = {kind: received.read(size) for kind, size in sizes.items()}
        except (OSError, ValueError):
            return None
        whole = all(len(file) == sizes[kind] for kind, file in files.items())
        return files if whole else None


@dataclass(frozen=True)
class _Awaited:
    """A drawing whose files another process makes."""

    answer: Future[Files | None]
    drawing: Drawing

    def files(self) -> Files:
        """Wait for the files, or draw the figure here if the process did not.

        Returns:
            Content of each file by kind.
        """
        return self.answer.result() or self.drawing.files()


def to_request(drawing: Drawing) -> bytes | None:
    """Return a drawing as a line of JSON; None for one that the process cannot draw."""
    draw = drawing.draw
    if not isinstance(draw, partial) or draw.args or draw.func not in FUNCTIONS.values():
        return None
    request = {
        "function": draw.func.__name__,
        "options": draw.keywords,
        "height_in": drawing.height_in,
        "small": drawing.small,
    }
    try:
        return json.dumps(request, default=_plain).encode() + b"\n"
    except TypeError:
        return None


def _plain(value: object) -> Any:
    if not isinstance(value, np.ndarray | np.generic):
        raise TypeError(f"{type(value).__name__} is not plain data")
    return value.tolist()


def from_request(line: bytes) -> Drawing:
    """Return the drawing that `to_request` wrote."""
    request = parse_json(line.decode())
    draw = partial(FUNCTIONS[request["function"]], **request["options"])
    return Drawing(draw, request["height_in"], request["small"])


def serve(requests: IO[bytes], answers: IO[bytes]) -> None:
    """Draw each figure that is requested, until there are no more."""
    for line in requests:
        files = _files(line)
        answers.write(json.dumps({kind: len(file) for kind, file in files.items()}).encode())
        answers.write(b"\n")
        answers.writelines(files.values())
        answers.flush()


def _files(line: bytes) -> Files:
    """Return the files of a figure; none after an error, which the parent then meets itself."""
    try:
        return from_request(line).files()
    except Exception:
        return {}


if __name__ == "__main__":
    for name in ("backends.backend_agg", "backends.backend_svg", "figure"):
        importlib.import_module(f"matplotlib.{name}")
    with contextlib.suppress(BrokenPipeError):
        serve(sys.stdin.buffer, sys.stdout.buffer)
