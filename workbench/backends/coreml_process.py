"""The subprocess in which one compute unit of Core ML works, as its parent sees it.

    process = lend("ALL")
    answer, arrays = process.ask({"op": "predict", ...}, arrays, stage="predict")
    give_back(process)

Core ML may end the process that uses it (unit ALL does so on some systems: ultralytics PR 24885). So it never runs in this one: a
worker that aborts, crashes, exits or hangs becomes a `DeviceFailure` that says which unit, how, and at what. One worker serves all
programs of a unit; after a failure the next one is a new process.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import weakref
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from workbench.backends import coreml_wire
from workbench.backends.coreml_package import FIX
from workbench.errors import RuntimeMissing

START_SECONDS = 180.0
"""Importing coremltools for the first time on a slow disk."""
TIMEOUT_SECONDS = 900.0
"""Of one request. Preparing a large model for the Neural Engine takes minutes."""
TAIL_CHARACTERS = 2000
PREFIX = "workbench-coreml-"
"""Of folders with what workers compiled, which can be large; the parent's process number follows."""


class DeviceFailure(RuntimeMissing):
    """Core ML ended its process or did not come back: a result about that compute unit on this system.

    ``units``; ``stage``: start, load, predict, state, plan; ``how``: aborted, exited, hung; ``signal``: its name or None; ``stderr``: the end
    of what the process wrote.
    """

    def __init__(
        self, units: str, stage: str, how: str, *, signal_name: str | None, code: int | None, stderr: str, what: str, why: str
    ):
        fix = "?executor=reference" if units == "CPU_ONLY" else "?units=CPU_ONLY"
        super().__init__(what, why=why, fix=FIX if stage == "start" else fix)
        self.units, self.stage, self.how = units, stage, how
        self.signal, self.code, self.stderr = signal_name, code, stderr

    def record(self) -> dict[str, Any]:
        """As `RuntimeMissing.record`; a bundle takes paths and names out of ``stderr`` before it keeps it."""
        return {
            **super().record(),
            "units": self.units,
            "stage": self.stage,
            "how": self.how,
            "signal": self.signal,
            "code": self.code,
            "stderr": self.stderr,
        }


class DeviceError(Exception):
    """The runtime raised while it did what it was asked; the worker lives on. ``kind`` is the exception's class."""

    def __init__(self, kind: str, text: str):
        super().__init__(f"{kind}: {text}")
        self.kind, self.text = kind, text


class Process:
    """One worker. Use `lend`; requests from several threads wait for each other."""

    def __init__(self, units: str, runtime: str = "coremltools"):
        self.units, self.runtime = units, runtime
        self.users = 0
        self.failure: DeviceFailure | None = None
        remove_stale()
        self.folder = Path(tempfile.mkdtemp(prefix=f"{PREFIX}{os.getpid()}-"))
        self._lock = threading.Lock()
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115  open for as long as the worker writes
        self.link, theirs = coreml_wire.pair()
        paths = [item for item in sys.path if item]
        try:
            with theirs:
                self.child = subprocess.Popen(
                    [sys.executable, "-P", "-m", "workbench.backends.coreml_worker"]
                    + [str(theirs.fileno()), runtime, units, str(self.folder)],
                    pass_fds=[theirs.fileno()],
                    stdin=subprocess.DEVNULL,
                    stdout=self._errors,
                    stderr=self._errors,
                    env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
                    start_new_session=True,
                )
        except BaseException:
            self.link.close()
            shutil.rmtree(self.folder, ignore_errors=True)
            raise
        self._end = weakref.finalize(self, _end, self.child, self.link, self.folder)
        self._ear = coreml_wire.Receiver(self.link)
        answer, _ = self._exchange(None, {}, {}, "start", START_SECONDS)
        if "error" in answer:
            what = f"{runtime} cannot be imported in a process of its own"
            raise self._failed("start", "exited", None, None, what, f"{answer['error']['type']}: {answer['error']['text']}")
        self.version: str = answer["version"]

    def ask(
        self,
        request: Mapping[str, Any],
        arrays: Mapping[str, np.ndarray] | None = None,
        *,
        stage: str,
        seconds: float,
        marks: Mapping[str, str] | None = None,
    ) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        """Send a request and wait for its answer. Raises DeviceError, and DeviceFailure for good once the worker is gone."""
        with self._lock:
            if self.failure is not None:
                raise self.failure
            answer, found = self._exchange({**request, "limit_seconds": seconds}, arrays or {}, marks or {}, stage, seconds)
        if "error" in answer:
            raise DeviceError(answer["error"]["type"], answer["error"]["text"])
        return answer, found

    def _exchange(
        self,
        request: Mapping[str, Any] | None,
        arrays: Mapping[str, np.ndarray],
        marks: Mapping[str, str],
        stage: str,
        seconds: float,
    ) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        """One request and its answer; None waits for the worker's first word."""
        self.link.settimeout(seconds)
        try:
            if request is not None:
                coreml_wire.send(self.link, request, arrays, marks)
            return self._ear.receive()
        except TimeoutError:
            raise self._hung(stage, seconds) from None
        except OSError:
            raise self._gone(stage) from None
        except BaseException:  # Ctrl-C half-way: the next request would get this one's answer
            self._failed(stage, "ended", None, None, "the worker was ended", "its parent was interrupted while it waited")
            raise

    def _hung(self, stage: str, seconds: float) -> DeviceFailure:
        self.child.kill()
        return self._failed(
            stage,
            "hung",
            None,
            None,
            f"Core ML with units={self.units} did not come back from {stage} within {seconds:g} seconds",
            "its process was ended; ?timeout=SECONDS allows more",
        )

    def _gone(self, stage: str) -> DeviceFailure:
        try:
            code = self.child.wait(10)
        except subprocess.TimeoutExpired:
            self.child.kill()
            code = self.child.wait()
        number = -code if code < 0 else None
        name = _signal_name(number) if number else None
        how = "aborted" if name in ("SIGABRT", "SIGSEGV", "SIGBUS", "SIGILL", "SIGTRAP") else "exited"
        end = f"by signal {name}" if name else f"with code {code}"
        what = f"Core ML with units={self.units} ended its process {end} during {stage}"
        return self._failed(
            stage, how, name, code, what, "on this system this compute unit cannot run this program; recorded as a result"
        )

    def _failed(self, *facts: Any) -> DeviceFailure:
        self.failure = self._said(*facts)
        self._end()
        return self.failure

    def _said(self, stage: str, how: str, name: str | None, code: int | None, what: str, why: str) -> DeviceFailure:
        tail = self.tail()
        last = tail.strip().splitlines()[-1:] or [""]
        why += f"; its last words: {last[0].strip()[:300]}" if last[0] and how != "hung" else ""
        return DeviceFailure(self.units, stage, how, signal_name=name, code=code, stderr=tail, what=what, why=why)

    def tail(self) -> str:
        """The end of what the worker wrote to its standard output and error."""
        with contextlib.suppress(OSError, ValueError):
            size = self._errors.seek(0, os.SEEK_END)
            self._errors.seek(max(0, size - 4 * TAIL_CHARACTERS))
            return self._errors.read().decode(errors="replace")[-TAIL_CHARACTERS:]
        return ""

    def close(self) -> None:
        """End the worker and remove what it compiled."""
        self._end()


def _end(child: subprocess.Popen, link: socket.socket, folder: Path) -> None:
    """The worker ends by itself when the link closes; one that does not is killed."""
    with contextlib.suppress(OSError):
        link.close()
    try:
        child.wait(2)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()
    shutil.rmtree(folder, ignore_errors=True)


def remove_stale() -> None:
    """Remove folders of parents that were killed together with their workers."""
    for folder in Path(tempfile.gettempdir()).glob(f"{PREFIX}*-*"):
        owner = folder.name.removeprefix(PREFIX).partition("-")[0]
        try:
            os.kill(int(owner), 0)
        except ProcessLookupError:
            shutil.rmtree(folder, ignore_errors=True)
        except (ValueError, OverflowError, OSError):  # not ours to judge
            continue


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


_PROCESSES: dict[tuple[str, str], Process] = {}
_LENDING = threading.Lock()


def lend(units: str, runtime: str = "coremltools") -> Process:
    """The worker of ``units``, started when there is none or the last one failed. Give it back when done."""
    with _LENDING:
        process = _PROCESSES.get((units, runtime))
        if process is None or process.failure is not None:
            process = _PROCESSES[units, runtime] = Process(units, runtime)
        process.users += 1
        return process


def give_back(process: Process) -> None:
    """The last user's return ends the worker."""
    with _LENDING:
        process.users -= 1
        if process.users > 0:
            return
        if _PROCESSES.get((process.units, process.runtime)) is process:
            del _PROCESSES[process.units, process.runtime]
    process.close()
