"""An ONNX file from elsewhere, opened in another process first: native code that ends its process ends that one.

    survives(Path("model.onnx"), sha256)     # raises ModelError where ONNX's shape inference or ONNX Runtime does not come back

onnx 1.23 and onnxruntime 1.31 check most of what a graph holds, and not all: a Slice whose sizes contradict each other trips an
assertion in the shape inference that both share, which ends the process, and no Python can catch that. One worker serves all files of
this process; it starts with the first (about half a second) and a file costs it some milliseconds.
"""

from __future__ import annotations

import atexit
import json
import subprocess
import sys
import threading
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

from workbench.errors import ModelError

SECONDS = 300.0
"""A worker that takes longer with one file is ended."""
LARGEST_BYTES = 2**30
"""Larger files, with their weights, are not tried: they would be held twice."""

_lock = threading.Lock()
_workers: list[subprocess.Popen[str]] = []
"""The last one is in use."""


@lru_cache(maxsize=256)
def survives(path: Path, sha256: str) -> None:
    """Try the file; what was tried once is not tried again. What the libraries only refuse is no matter here: they will say it again."""
    with _lock:
        worker = _started()
        timer = threading.Timer(SECONDS, worker.kill)
        timer.start()
        try:
            assert worker.stdin is not None and worker.stdout is not None
            worker.stdin.write(json.dumps(str(path.absolute())) + "\n")
            worker.stdin.flush()
            answer = worker.stdout.readline()
        except BrokenPipeError:
            answer = ""
        finally:
            timer.cancel()
        if answer:
            return
        code = _ended(worker)
    raise ModelError(
        f"{path.name} is no graph that can be computed",
        why=f"ONNX's own libraries do not survive opening it (a process that tried ended with {code}): sizes in it contradict each other",
        fix="copy it again and compare its hash, or export it again",
    )


def _started() -> subprocess.Popen[str]:
    if not _workers or _workers[-1].poll() is not None:
        worker = subprocess.Popen(
            [
                sys.executable,
                "-c",
                f"import sys; sys.path[:0] = {sys.path!r}; from workbench.backends.onnx_trial import serve; serve()",
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        atexit.register(_end, worker)
        _workers.append(worker)
    return _workers[-1]


def _end(worker: subprocess.Popen[str]) -> None:
    if worker.poll() is None:
        worker.kill()
    worker.wait()


def _ended(worker: subprocess.Popen[str]) -> str:
    try:
        code = worker.wait(timeout=10)
    except subprocess.TimeoutExpired:
        worker.kill()
        code = worker.wait()
    return f"signal {-code}" if code < 0 else f"exit code {code}"


def serve() -> None:
    """The worker: a path a line in, a line out for each that it survived."""
    for line in sys.stdin:
        try:
            _try(json.loads(line))
            said = "survived"
        except Exception as error:  # noqa: BLE001  a refusal; only the end of this process says anything
            said = type(error).__name__
        print(said, flush=True)


def _try(path: str) -> None:
    import onnx

    model = onnx.load(path, load_external_data=False)
    _refusing(lambda: onnx.shape_inference.infer_shapes(model, data_prop=True))
    try:
        import onnxruntime
    except ImportError:
        return
    from workbench.backends.onnx_session import session_options

    for reading in ("pure", "optimised"):
        options = session_options(onnxruntime, reading, 1)
        _refusing(lambda options=options: onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"]))


def _refusing(call: Callable[[], Any]) -> None:
    try:
        call()
    except Exception:  # noqa: BLE001, S110
        return
