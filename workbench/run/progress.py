"""Progress of a long run: a bar in a terminal, plain lines otherwise; both on stderr.

mmmu-sample  demo:vlm@torch  120/400  35.2 items/s  8 s left  score 61.7 %
"""

from __future__ import annotations

import sys
import time
from typing import Protocol

PLAIN_SECONDS = 5.0


class Progress(Protocol):
    def start(self, title: str, total: int, done: int) -> None: ...

    def update(self, done: int, running: str) -> None: ...

    def finish(self) -> None: ...

    def say(self, text: str) -> None: ...


class Silent:
    """No progress: for calls from other programs."""

    def start(self, title: str, total: int, done: int) -> None: ...

    def update(self, done: int, running: str) -> None: ...

    def finish(self) -> None: ...

    def say(self, text: str) -> None: ...


def remaining(done: int, first: int, total: int, seconds: float) -> tuple[float, str]:
    """(items per second, time left as text) after ``seconds`` in which ``done - first`` items were finished."""
    rate = (done - first) / seconds if seconds > 0 else 0.0
    if rate <= 0:
        return rate, "time left unknown"
    left = (total - done) / rate
    if left < 90:
        return rate, f"{left:.0f} s left"
    return rate, f"{left / 60:.0f} min left" if left < 5400 else f"{left / 3600:.1f} h left"


def shown(text: str) -> str:
    """Names come from files: what would steer the terminal is shown, not obeyed."""
    return "".join(each if each.isprintable() or each == "\n" else "\N{REPLACEMENT CHARACTER}" for each in text)


class PlainLines:
    """One line every ``PLAIN_SECONDS`` and one at the end. ``rate``: with items per second."""

    def __init__(self, stream=None, rate: bool = True):
        self.stream, self.rate = stream or sys.stderr, rate

    def start(self, title: str, total: int, done: int) -> None:
        self.title, self.total, self.first, self.done = title, total, done, done
        self.running = ""
        self.began = self.last = time.monotonic()
        self.shown = -1
        if done:
            self.say(f"{title}  continues: {done}/{total} items are done")

    def update(self, done: int, running: str) -> None:
        self.done, self.running = done, running
        if time.monotonic() - self.last >= PLAIN_SECONDS:
            self._line()

    def _line(self) -> None:
        self.last, self.shown = time.monotonic(), self.done
        rate, left = remaining(self.done, self.first, self.total, self.last - self.began)
        end = "" if self.done >= self.total else f"  {left}"
        speed = f"  {rate:.1f} items/s" if self.rate else ""
        self.say(f"{self.title}  {self.done}/{self.total}{speed}{end}  {self.running}".rstrip())

    def finish(self) -> None:
        if self.shown != self.done:
            self._line()

    def say(self, text: str) -> None:
        print(shown(text), file=self.stream, flush=True)


class Bar:
    """A live bar (rich), for terminals; a new one for each run, since a finished one is printed for good."""

    def __init__(self, rate: bool = True):
        from rich.console import Console

        self.console, self.rate = Console(stderr=True), rate

    def start(self, title: str, total: int, done: int) -> None:
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
        from rich.progress import Progress as RichProgress

        self.progress = RichProgress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}", markup=False),
            TimeRemainingColumn(),
            TextColumn("{task.fields[running]}", markup=False),
            console=self.console,
        )
        self.first, self.total, self.began = done, total, time.monotonic()
        self.task = self.progress.add_task(shown(title), total=total, completed=done, rate="", running="")
        self.progress.start()

    def update(self, done: int, running: str) -> None:
        rate, _ = remaining(done, self.first, self.total, time.monotonic() - self.began)
        self.progress.update(self.task, completed=done, rate=f"{rate:.1f} items/s" if self.rate else "", running=shown(running))

    def finish(self) -> None:
        self.progress.stop()

    def say(self, text: str) -> None:
        self.console.print(shown(text), markup=False, highlight=False)


def automatic(rate: bool = True) -> Progress:
    """A bar when stderr is a terminal, plain lines otherwise. ``rate``: a reference executor's speed says nothing, and is not shown."""
    return Bar(rate) if sys.stderr.isatty() else PlainLines(rate=rate)
