"""The processes that make rows: started, watched, and ended at their limits of time and memory.

    with Processes(width=2) as processes:
        processes.start(job)
        for job, outcome in processes.wait(): ...

On Linux a row is forked from a process that has imported torch and transformers (multiprocessing's fork server; 0.5 s a row, where a
fresh interpreter takes 4.5 s). Elsewhere it is a fresh interpreter: a Mac's frameworks do not survive a fork.

Memory is what the operating system says is resident, read every ``POLL_SECONDS``. A limit set by the kernel would count reserved
address space too, and would reach the row as an exception that its library may swallow.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from multiprocessing import connection
from pathlib import Path
from types import ModuleType
from typing import Any

from workbench.capture.zoo.worker import RESULT, work

METHOD = "forkserver" if sys.platform == "linux" else "spawn"
POLL_SECONDS = 0.05 if sys.platform == "linux" else 0.5
ASKING_SECONDS = 120.0
"""A user's file may import torch while it is listed."""
GIB = 2**30


@dataclass(frozen=True)
class Job:
    """A row to make, and its limits."""

    id: str
    origin: str
    family: str
    layout: str
    slow: bool
    seconds: float
    memory_bytes: int


@dataclass(frozen=True)
class Outcome:
    """``row`` and ``layers`` where the row was made; else ``verdict`` (crashed, timeout, memory, failed) and ``reason``."""

    seconds: float
    peak_memory_bytes: int | None
    row: dict[str, Any] | None = None
    layers: list[dict[str, Any]] = field(default_factory=list)
    verdict: str | None = None
    reason: str = ""


class Running:
    """A process under way."""

    def __init__(self, job: Job, folder: Path):
        self.job, self.folder = job, folder
        self.peak = 0
        self.ended: str | None = None
        context = multiprocessing.get_context(METHOD)
        if METHOD == "forkserver":
            context.set_forkserver_preload(["workbench.capture.zoo.preload"])
        fields = {"origin": job.origin, "family": job.family, "layout": job.layout, "seconds": job.seconds, "folder": str(folder)}
        self.process = context.Process(target=work, args=(fields,), daemon=True)
        with nobodys_script():
            self.process.start()
        self.began = time.monotonic()  # the fork server's own start is no row's

    def over(self, resident: int | None) -> str | None:
        """The limit that it has passed."""
        self.peak = max(self.peak, resident or 0)
        if self.peak > self.job.memory_bytes:
            return "memory"
        return "timeout" if time.monotonic() - self.began > self.job.seconds else None

    def end(self, why: str | None = None) -> None:
        """Kill it and what it started."""
        self.ended = self.ended or why
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.kill()

    def outcome(self) -> Outcome:
        """Of a process that has ended."""
        self.end()  # what it started and left behind
        self.process.join()
        code = self.process.exitcode
        self.process.close()
        try:
            # JSON has no NaN: what is no number is None in a bundle.
            found = json.loads((self.folder / RESULT).read_bytes(), parse_constant=lambda _: None)
        except (OSError, ValueError):
            found = {}
        seconds = time.monotonic() - self.began
        peak = max(self.peak, found.get("peak_memory_bytes") or 0) or None
        if "row" in found:
            return Outcome(seconds, peak, self.clean(found["row"]), found["layers"])
        if "error" in found:
            return Outcome(seconds, peak, verdict="failed", reason=self.clean(found["error"]))
        if self.ended == "timeout":
            return Outcome(seconds, peak, verdict="timeout", reason=f"no result within {self.job.seconds:g} s")
        if self.ended == "memory":
            return Outcome(seconds, peak, verdict="memory", reason=f"more than {self.job.memory_bytes / GIB:.3g} GiB were resident")
        died = ended_by(code)
        said = last_line(self.folder / "stderr")
        return Outcome(seconds, peak, verdict="crashed", reason=self.clean(f"{died}: {said}" if said else died))

    def clean(self, value: Any) -> Any:
        """A text, or all texts of a JSON value, without the folders of this machine: they name its user, and differ from run to run."""
        if isinstance(value, dict):
            return {name: self.clean(each) for name, each in value.items()}
        if isinstance(value, list):
            return [self.clean(each) for each in value]
        if isinstance(value, str):
            for path, name in ((str(self.folder), "FOLDER"), (str(Path.home()), "~")):
                value = value.replace(path, name) if len(path) > 1 else value
        return value


class Processes:
    """Those under way, at most ``width``. Leaving the ``with`` ends them all."""

    def __init__(self, width: int):
        self.width = width
        self.running: dict[Any, Running] = {}

    def __enter__(self) -> Processes:
        self._folder = Path(tempfile.mkdtemp(prefix="workbench-zoo-")).resolve()
        self._number, self._looked = 0, 0.0
        return self

    def __exit__(self, *exception) -> None:
        for each in self.running.values():
            each.end()
        for each in self.running.values():
            each.process.join()
        self.running.clear()
        shutil.rmtree(self._folder, ignore_errors=True)

    @property
    def free(self) -> bool:
        return len(self.running) < self.width

    @property
    def jobs(self) -> list[Job]:
        return [each.job for each in self.running.values()]

    def start(self, job: Job) -> None:
        self._number += 1
        folder = self._folder / str(self._number)
        folder.mkdir()
        begun = Running(job, folder)
        self.running[begun.process.sentinel] = begun

    def wait(self) -> Iterator[tuple[Job, Outcome]]:
        """Those that have ended by now, or within one poll. Ends those that are past a limit."""
        for sentinel in connection.wait(list(self.running), POLL_SECONDS):
            done = self.running.pop(sentinel)
            outcome = done.outcome()
            shutil.rmtree(done.folder, ignore_errors=True)
            yield done.job, outcome
        if self.running and time.monotonic() - self._looked >= POLL_SECONDS:
            self._looked = time.monotonic()
            resident = resident_bytes(each.process.pid for each in self.running.values())
            for each in self.running.values():
                if why := each.over(resident.get(each.process.pid)):
                    each.end(why)


@contextmanager
def nobodys_script():
    """multiprocessing lets a child import the caller's script again, which starts over where the script has no ``if __name__``."""
    script = sys.modules["__main__"]
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = script


def resident_bytes(pids: Iterable[int]) -> dict[int, int]:
    """Resident memory of processes, shared libraries included; those that are gone are left out."""
    found = {}
    if sys.platform == "linux":
        for pid in pids:
            with suppress(OSError, ValueError, IndexError):
                found[pid] = int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
        return found
    listed = subprocess.run(["ps", "-o", "pid=,rss=", "-p", ",".join(map(str, pids))], capture_output=True, text=True, check=False)
    for line in listed.stdout.splitlines():
        pid, kibibytes = line.split()
        found[int(pid)] = int(kibibytes) * 1024
    return found


def ask_worker(*words: str, seconds: float = ASKING_SECONDS) -> tuple[Any, str]:
    """(the worker's answer, "") to a question that a fresh process is to answer, or (None, why there is none)."""
    command = [sys.executable, "-P", "-m", "workbench.capture.zoo.worker", *words]
    try:
        done = subprocess.run(command, capture_output=True, timeout=seconds, check=False)
    except subprocess.TimeoutExpired:
        return None, f"no answer within {seconds:g} s"
    try:
        return json.loads(done.stdout.splitlines()[-1]), ""
    except (ValueError, LookupError):
        died = ended_by(done.returncode)
        lines = done.stderr.decode(errors="replace").strip().splitlines()
        return None, f"{died}: {lines[-1].strip()[:200]}" if lines else died


def ended_by(code: int) -> str:
    return f"killed by {name_of(-code)}" if code < 0 else f"the process left with exit code {code}"


def name_of(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def last_line(path: Path) -> str:
    """What a process said last, at most 200 characters."""
    try:
        with open(path, "rb") as file:
            file.seek(max(0, path.stat().st_size - 10_000))
            lines = file.read().decode(errors="replace").splitlines()
    except OSError:
        return ""
    return next((line.strip()[:200] for line in reversed(lines) if line.strip()), "")
