"""What runs in the subprocess of one compute unit: models, states and predictions, one request after the other.

    python -P -m workbench.backends.coreml_worker FD coremltools CPU_AND_NE FOLDER

The parent is ``workbench.backends.coreml_process``. The runtime is imported by name, so that a test may put another in its place.
A request that takes longer than its limit ends this process from a thread of C (``faulthandler``), which works while Core ML holds
Python's lock: a worker that hangs never outlives its limit, even when the parent is gone.
"""

from __future__ import annotations

import contextlib
import faulthandler
import importlib
import os
import shutil
import signal
import socket
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from workbench.backends import coreml_wire
from workbench.backends.coreml_platform import Platform

GRACE_SECONDS = 1.0
"""The parent ends a worker at the limit; the worker ends itself so much later."""


class Worker:
    """Answers requests about models by number."""

    def __init__(self, platform: Platform, units: str, folder: Path):
        self.platform, self.units, self.folder = platform, units, folder
        self.models: dict[int, Any] = {}
        self.described: dict[int, dict[str, Any]] = {}
        self.states: dict[int, tuple[int, Any]] = {}
        """Number -> (the model that made it, the state)."""
        self.compiled: dict[tuple[str, int], str] = {}
        """(package, time of its last change) -> the compiled form."""
        self.count = 0

    def state(self, number: int) -> Any:
        return self.states[number][1]

    def number(self) -> int:
        self.count += 1
        return self.count

    def open(self, request: dict[str, Any], arrays: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
        """Compile once per package, load one function."""
        key, seconds = compiled_key(request), 0.0
        if key not in self.compiled:
            began = time.perf_counter()
            self.compiled[key] = self.platform.compile(request["path"], tempfile.mkdtemp(dir=self.folder))
            seconds = time.perf_counter() - began
        began = time.perf_counter()
        model = self.platform.load(self.compiled[key], request["function"], self.units)
        loaded = time.perf_counter() - began
        number = self.number()
        self.models[number], self.described[number] = model, request
        return {"model": number, "compile_seconds": seconds, "load_seconds": loaded}, {}

    def predict(self, request: dict[str, Any], arrays: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
        model = self.models[request["model"]]
        state = None if request["state"] is None else self.state(request["state"])
        began = time.perf_counter()
        results = self.platform.predict(model, arrays, state)
        seconds = time.perf_counter() - began
        return {"seconds": seconds}, {name: np.asarray(value) for name, value in results.items()}

    def make_state(self, request: dict[str, Any], arrays: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
        """A fresh state; with ``like`` one of the same contents, by reading and writing (Core ML offers no copy)."""
        state = self.platform.make_state(self.models[request["model"]])
        if request.get("like") is not None:
            for name in request["names"]:
                self.platform.write_state(state, name, self.platform.read_state(self.state(request["like"]), name))
        number = self.number()
        self.states[number] = (request["model"], state)
        return {"state": number}, {}

    def copy_state(self, request: dict[str, Any], arrays: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
        """The contents of state ``like`` into ``state``."""
        for name in request["names"]:
            value = self.platform.read_state(self.state(request["like"]), name)
            self.platform.write_state(self.state(request["state"]), name, value)
        return {}, {}

    def read_state(self, request: dict[str, Any], arrays: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
        return {}, {"value": self.platform.read_state(self.state(request["state"]), request["name"])}

    def write_state(self, request: dict[str, Any], arrays: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
        self.platform.write_state(self.state(request["state"]), request["name"], arrays["value"])
        return {}, {}

    def drop_states(self, request: dict[str, Any], arrays: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
        for number in request["states"]:
            self.states.pop(number, None)
        return {}, {}

    def plan(self, request: dict[str, Any], arrays: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
        compiled = self.compiled[compiled_key(self.described[request["model"]])]
        return {"rows": self.platform.plan(compiled, request["function"], self.units)}, {}

    def close_model(self, request: dict[str, Any], arrays: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
        """Drop a model with its states, and its compiled form when no other model is of it."""
        self.states = {number: held for number, held in self.states.items() if held[0] != request["model"]}
        self.models.pop(request["model"], None)
        described = self.described.pop(request["model"], None)
        if described is not None and all(compiled_key(item) != compiled_key(described) for item in self.described.values()):
            shutil.rmtree(Path(self.compiled.pop(compiled_key(described))).parent, ignore_errors=True)
        return {}, {}


def compiled_key(request: dict[str, Any]) -> tuple[str, int]:
    return request["path"], request["changed"]


OPS = ("open", "predict", "make_state", "copy_state", "read_state", "write_state", "drop_states", "plan", "close_model")


def serve(link: socket.socket, worker: Worker) -> None:
    """Answer until the parent is gone."""
    ear = coreml_wire.Receiver(link)
    while True:
        try:
            request, arrays = ear.receive()
        except coreml_wire.Closed:
            return
        faulthandler.dump_traceback_later(request["limit_seconds"] + GRACE_SECONDS, exit=True)
        try:
            if request["op"] not in OPS:
                raise ValueError(f"unknown request {request['op']!r}")
            answer, results = getattr(worker, request["op"])(request, arrays)
        except Exception as error:  # noqa: BLE001  whatever the runtime raises is the answer
            answer, results = {"error": {"type": type(error).__name__, "text": str(error)}}, {}
        finally:
            faulthandler.cancel_dump_traceback_later()
        if request["op"] == "close_model":
            ear.forget(request["model"])
        try:
            coreml_wire.send(link, answer, results)
        except TypeError as error:  # an output that is no array of numbers
            coreml_wire.send(link, {"error": {"type": "TypeError", "text": str(error)}})


def main(arguments: list[str]) -> None:
    descriptor, runtime, units, folder = int(arguments[0]), arguments[1], arguments[2], Path(arguments[3])
    faulthandler.enable()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    link = socket.socket(fileno=descriptor)
    try:
        try:
            worker = Worker(Platform(importlib.import_module(runtime)), units, folder)
        except Exception as error:  # noqa: BLE001  a broken installation may raise anything
            coreml_wire.send(link, {"error": {"type": type(error).__name__, "text": str(error)}})
            return
        coreml_wire.send(link, {"version": str(worker.platform.module.__version__)})
        serve(link, worker)
    finally:
        with contextlib.suppress(OSError):
            link.close()
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main(sys.argv[1:])
    os._exit(0)  # what is left is the taking down of a large runtime, for which nobody should wait
