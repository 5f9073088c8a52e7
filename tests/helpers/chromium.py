"""A real browser without a window, spoken to in its DevTools protocol over two pipes.

https://chromedevtools.github.io/devtools-protocol/
"""

from __future__ import annotations

import base64
import json
import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.helpers.requirements import require

FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--remote-debugging-pipe",
)
COMPLAINTS = ("Runtime.exceptionThrown", "Runtime.consoleAPICalled", "Log.entryAdded")


class Page:
    """One tab; `complaints` are what its console, its scripts and its network said."""

    def __init__(self, to_browser: int, from_browser: int) -> None:
        self._out = os.fdopen(to_browser, "wb", buffering=0)
        self._in = os.fdopen(from_browser, "rb")
        self._next = 0
        self._session: dict[str, str] = {}
        self._loaded = False
        self._site = "file:"
        self.complaints: list[str] = []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        attached = self.call("Target.attachToTarget", targetId=target, flatten=True)
        self._session = {"sessionId": attached["sessionId"]}
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def close(self) -> None:
        """Close both pipes, at which the browser ends."""
        self._out.close()
        self._in.close()

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        """The result of a command of the protocol."""
        self._next += 1
        message = {"id": self._next, "method": method, "params": params, **self._session}
        self._out.write(json.dumps(message).encode() + b"\0")
        while (answer := self._read()).get("id") != self._next:
            self._note(answer)
        assert "error" not in answer, (method, answer)
        result: dict[str, Any] = answer["result"]
        return result

    def cpu_seconds(self) -> float:
        """CPU seconds of all processes of the browser so far."""
        session, self._session = self._session, {}
        try:
            processes = self.call("SystemInfo.getProcessInfo")["processInfo"]
        finally:
            self._session = session
        return float(sum(process["cpuTime"] for process in processes))

    def show(self, path: Path, *, width: int, height: int, theme: str) -> None:
        """Load a file on a screen of `width` by `height` CSS pixels, in a light or dark theme."""
        screen = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
        self.call("Emulation.setDeviceMetricsOverride", **screen)
        feature = {"name": "prefers-color-scheme", "value": theme}
        self.call("Emulation.setEmulatedMedia", features=[feature])
        self.visit(path.resolve().as_uri(), site="file:")

    def visit(self, url: str, *, site: str) -> None:
        """Load a page that may ask for what lies under `site`, and wait for its load event."""
        self._site = site
        self._loaded = False
        self.call("Page.navigate", url=url)
        while not self._loaded:
            self._note(self._read())

    def wait_for(self, text: str, *, within_s: float = 120.0) -> None:
        """Wait until the page shows a text."""
        try:
            self.wait_until(
                f"document.body.innerText.includes({json.dumps(text)})", within_s=within_s
            )
        except TimeoutError as error:
            raise AssertionError(self.value("document.body.innerText")) from error

    def wait_until(self, condition: str, *, within_s: float = 120.0) -> None:
        """Wait until a JavaScript expression holds."""
        deadline = time.monotonic() + within_s
        while not self.value(condition):
            if time.monotonic() > deadline:
                raise TimeoutError(condition)
            time.sleep(0.1)

    def value(self, expression: str) -> Any:
        """The value of a JavaScript expression on the page."""
        found = self.call("Runtime.evaluate", expression=expression, returnByValue=True)
        return found["result"].get("value")

    def screenshot(self, path: Path, *, whole: bool = False) -> None:
        """Write what is shown, or the whole page, as PNG."""
        found = self.call("Page.captureScreenshot", captureBeyondViewport=whole)
        path.write_bytes(base64.b64decode(found["data"]))

    def _read(self) -> dict[str, Any]:
        text = bytearray()
        while (byte := self._in.read(1)) != b"\0":
            assert byte, "chromium ended"
            text += byte
        message: dict[str, Any] = json.loads(text)
        return message

    def _note(self, event: dict[str, Any]) -> None:
        method, params = event.get("method"), event.get("params", {})
        self._loaded |= method == "Page.loadEventFired"
        asked = params.get("request", {}).get("url", "")
        if method in COMPLAINTS:
            self.complaints.append(json.dumps(params))
        here = asked.startswith((self._site, "data:"))
        if method == "Network.requestWillBeSent" and not here:
            self.complaints.append(f"request of {asked}")


@contextmanager
def browse(profile: Path) -> Iterator[Page]:
    """A page of a new browser that keeps its files in `profile`."""
    to_browser, from_browser = os.pipe(), os.pipe()
    # The protocol's pipes are the file descriptors 3 and 4.
    shell = f'exec "$@" 3<&{to_browser[0]} 4>&{from_browser[1]}'
    command = ("bash", "-c", shell, "bash", "chromium", *FLAGS, f"--user-data-dir={profile}")
    with subprocess.Popen(
        command, pass_fds=(to_browser[0], from_browser[1]), stderr=subprocess.DEVNULL
    ) as process:
        os.close(to_browser[0])
        os.close(from_browser[1])
        try:
            with closing(Page(to_browser[1], from_browser[0])) as page:
                yield page
            process.wait(timeout=30)
        finally:
            process.kill()


@pytest.fixture(scope="session")
def chromium() -> None:
    """Mark the tests that call `browse`; they fail where the browser is required and missing."""
    require("chromium")
