"""Headless Chromium, driven through its debugging pipe: no driver and no package needed.

with Browser() as browser:
    page = browser.open(path, width=390, dark=True)
    page.wait()                                   # until the page says that it is ready
    page.run("document.title"), page.errors, page.requests
    page.screenshot(Path("page.png"))
"""

from __future__ import annotations

import base64
import fcntl
import json
import os
import select
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
    "--hide-scrollbars",
    "--remote-debugging-pipe",
)


def find() -> str | None:
    """A Chromium on PATH, or None."""
    return next((path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None)


class Browser:
    """One browser process, ended with the ``with`` block."""

    def __init__(self, seconds: float = 60.0):
        self.seconds = seconds
        self.profile = tempfile.mkdtemp(prefix="report-browser-")
        out, self.inbox = os.pipe()
        self.outbox, back = os.pipe()

        def attach() -> None:
            # The pipe is file descriptors 3 and 4 by Chromium's convention; copies first, since ours may be those.
            ends = [fcntl.fcntl(each, fcntl.F_DUPFD, 10) for each in (out, back)]
            for place, each in zip((3, 4), ends, strict=True):
                os.dup2(each, place)

        command = [find(), *FLAGS, f"--user-data-dir={self.profile}", "about:blank"]
        quiet = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        self.process = subprocess.Popen(command, preexec_fn=attach, close_fds=False, start_new_session=True, **quiet)  # noqa: PLW1509
        os.close(out)
        os.close(back)
        self.number, self.buffer, self.events = 0, b"", []

    def __enter__(self) -> Browser:
        return self

    def __exit__(self, *exception) -> None:
        os.close(self.inbox)
        try:
            self.process.wait(5)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
        os.close(self.outbox)
        shutil.rmtree(self.profile, ignore_errors=True)

    def send(self, method: str, session: str | None = None, **parameters: Any) -> dict[str, Any]:
        """Call a method of the DevTools protocol and return its result; events that arrive meanwhile are kept."""
        self.number += 1
        message = {"id": self.number, "method": method, "params": parameters} | ({"sessionId": session} if session else {})
        data = json.dumps(message).encode() + b"\0"
        while data:
            data = data[os.write(self.inbox, data) :]
        wanted = self.number
        until = time.monotonic() + self.seconds
        while True:
            found = self.receive(until)
            if found.get("id") == wanted:
                if "error" in found:
                    raise RuntimeError(f"{method}: {found['error']['message']}")
                return found["result"]

    def receive(self, until: float) -> dict[str, Any]:
        while b"\0" not in self.buffer:
            if not select.select([self.outbox], [], [], max(0.0, until - time.monotonic()))[0]:
                raise TimeoutError(f"the browser said nothing for {self.seconds} s")
            piece = os.read(self.outbox, 1 << 20)
            if not piece:
                raise RuntimeError("the browser ended")
            self.buffer += piece
        line, _, self.buffer = self.buffer.partition(b"\0")
        found = json.loads(line)
        if "method" in found:
            self.events.append(found)
        return found

    def open(self, path: Path | str, width: int = 1400, height: int = 900, dark: bool = False) -> Page:
        """A page at this size (CSS pixels) and colour scheme; a str is taken as an address."""
        address = path if isinstance(path, str) else path.resolve().as_uri()
        target = self.send("Target.createTarget", url="about:blank")["targetId"]
        session = self.send("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        page = Page(self, session, target)
        for domain in ("Page", "Runtime", "Log", "Network"):
            page.send(f"{domain}.enable")
        page.send("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 600)
        page.send("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}])
        page.began = time.perf_counter()
        page.send("Page.navigate", url=address)
        return page


class Page:
    """One tab."""

    def __init__(self, browser: Browser, session: str, target: str):
        self.browser, self.session, self.target, self.began = browser, session, target, 0.0

    def send(self, method: str, **parameters: Any) -> dict[str, Any]:
        return self.browser.send(method, self.session, **parameters)

    def run(self, expression: str) -> Any:
        """The value of a JavaScript expression (promises are awaited). Raises RuntimeError when it throws."""
        found = self.send("Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True)
        if "exceptionDetails" in found:
            raise RuntimeError(
                found["exceptionDetails"].get("exception", {}).get("description") or found["exceptionDetails"]["text"]
            )
        return found["result"].get("value")

    def wait(self, expression: str = "document.documentElement?.dataset.ready === 'true'", seconds: float = 60.0) -> float:
        """Seconds from the navigation until ``expression`` is true. Raises TimeoutError."""
        while not self.run(expression):
            if time.perf_counter() - self.began > seconds:
                raise TimeoutError(f"not true after {seconds} s: {expression}; {self.errors}")
            time.sleep(0.02)
        return time.perf_counter() - self.began

    @property
    def errors(self) -> list[str]:
        """What the console showed as error or warning, policy violations included, and uncaught exceptions."""
        found = []
        for event in self.browser.events:
            if event.get("sessionId") != self.session:
                continue
            parameters = event["params"]
            if event["method"] == "Runtime.exceptionThrown":
                found.append(str(parameters["exceptionDetails"].get("exception", {}).get("description")))
            if event["method"] == "Runtime.consoleAPICalled" and parameters["type"] in ("error", "warning", "assert"):
                found.append(str(parameters["args"]))
            if event["method"] == "Log.entryAdded" and parameters["entry"]["level"] in ("error", "warning"):
                found.append(parameters["entry"]["text"])
        return found

    @property
    def requests(self) -> list[str]:
        """Addresses that the page asked for, its own and pictures held in the page left out."""
        found = [
            event["params"]["request"]["url"]
            for event in self.browser.events
            if event["method"] == "Network.requestWillBeSent" and event.get("sessionId") == self.session
        ]
        return [address for address in found[1:] if not address.startswith("data:")]

    def screenshot(self, path: Path, whole: bool = False, clip: dict[str, float] | None = None) -> None:
        more: dict[str, Any] = {"captureBeyondViewport": True} if whole or clip else {}
        if whole:
            size = self.send("Page.getLayoutMetrics")["cssContentSize"]
            clip = {"x": 0, "y": 0, "width": size["width"], "height": size["height"]}
        if clip:
            more["clip"] = {**clip, "scale": 1}
        path.write_bytes(base64.b64decode(self.send("Page.captureScreenshot", format="png", **more)["data"]))

    def close(self) -> None:
        self.browser.send("Target.closeTarget", targetId=self.target)
