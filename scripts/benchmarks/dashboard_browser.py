"""Time the page of a study in Chromium, for `dashboard.py --browser`.

All times are seconds since the page was requested from a new `headsweep dashboard` on SQLite:
- `paint_s` first paint, a logo; `page_s` the page without its trials
- `answer_s` its trials have arrived; `drawn_s` the history plot has `points` points
- `refreshed_s` between the starts of the first two refreshes, normally ten seconds;
  `busy_s` of this time, the page handled no input for longer than 50 ms at once
- `browser_cpu_s` and `server_cpu_s` are CPU seconds until the points are drawn

Linux only: the server's CPU time is read from /proc.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from store_studies import Cell, Stores, define

sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.helpers.chromium import browse

if TYPE_CHECKING:
    from tests.helpers.chromium import Page

SCREEN = {"width": 1400, "height": 1000, "deviceScaleFactor": 1, "mobile": False}
PATIENCE_S = 600.0
OBSERVER = """
window.tasks = [];
new PerformanceObserver(list => window.tasks.push(...list.getEntries())).observe(
    {type: 'longtask', buffered: true});
window.busy = (from, to) => window.tasks.reduce((sum, task) => sum + Math.max(
    0, Math.min(to, task.startTime + task.duration) - Math.max(from, task.startTime)), 0);
window.points = () => document.querySelectorAll('#plot-history path.point').length;
window.answers = after => performance.getEntriesByType('resource').filter(
    entry => entry.name.includes('?after=') && entry.startTime > after);
window.page_ms = window.drawn_ms = 0;
const look = setInterval(() => {
    if (!window.page_ms && document.body && document.body.innerText.includes('History'))
        window.page_ms = performance.now();
    if (points() > 0) {
        clearInterval(look);
        requestAnimationFrame(() => setTimeout(() => { window.drawn_ms = performance.now(); }));
    }
}, 50);
"""
COLUMNS = (
    *("paint_s", "page_s", "answer_s", "drawn_s", "points", "browser_cpu_s", "server_cpu_s"),
    *("refreshed_s", "busy_s"),
)


def measure_pages(sizes: list[int], all_points: bool, pictures: Path | None) -> None:
    """Print the times of the study's page at several numbers of finished trials."""
    print(" ".join(("finished", *COLUMNS)), flush=True)
    options = ["--all-points"] if all_points else []
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        stores = Stores(Path(folder), None)
        spec = define(stores.folder, "random")
        for n in sizes:
            cell = Cell(n, 0, slots=0, workers=0, sampler="random")
            url = stores.copy("sqlite", spec, cell)
            profile = Path(folder) / f"browser_{n}"
            with dashboard(url, options) as (pid, site), browse(profile) as page:
                row = page_times(page, pid, site)
                if pictures is not None:
                    page.screenshot(pictures / f"dashboard_{n}.png")
            print(f"{n:8}", *(f"{row[c]:{len(c)}.{c != 'points':d}f}" for c in COLUMNS), flush=True)


@contextmanager
def dashboard(url: str, options: list[str]) -> Iterator[tuple[int, str]]:
    """Run `headsweep dashboard` on a free port; give its process id and address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    command = [sys.executable, "-m", "headsweep", "dashboard", "--storage", url, "--port", port]
    with subprocess.Popen([*command, *options], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        process.stdout.readline()  # its address, printed when it listens
        try:
            yield process.pid, f"http://127.0.0.1:{port}/"
        finally:
            process.terminate()


def cpu_seconds(pid: int) -> float:
    """Return the CPU seconds of a process so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def page_times(page: Page, pid: int, site: str) -> dict[str, float]:
    """Return the columns of one study's page."""
    page.call("Emulation.setDeviceMetricsOverride", **SCREEN)
    page.call("Page.addScriptToEvaluateOnNewDocument", source=OBSERVER)
    browser, server = page.cpu_seconds(), cpu_seconds(pid)
    page.visit(f"{site}dashboard/studies/1", site=site)
    page.wait_until("drawn_ms > 0", within_s=PATIENCE_S)
    row = {
        "browser_cpu_s": page.cpu_seconds() - browser,
        "server_cpu_s": cpu_seconds(pid) - server,
        "points": page.value("points()"),
    }
    drawn_ms = page.value("drawn_ms")
    times = {
        "paint_s": page.value("performance.getEntriesByType('paint')[0].startTime"),
        "page_s": page.value("page_ms"),
        "answer_s": page.value("answers(0)[0].responseEnd"),
        "drawn_s": drawn_ms,
    }
    page.wait_until(f"answers({drawn_ms}).length > 1", within_s=PATIENCE_S)
    first, second = page.value(f"answers({drawn_ms}).slice(0, 2).map(entry => entry.startTime)")
    times |= {"refreshed_s": second - first, "busy_s": page.value(f"busy({first}, {second})")}
    return row | {name: ms / 1000 for name, ms in times.items()}
