"""One row in a process of its own: whatever a family or a library does there, it costs that row alone.

    process = context.Process(target=work, args=(job,))            # workbench.capture.zoo.processes starts them

Also a command, so that the table's own process imports neither MLX nor a user's code::

    python -m workbench.capture.zoo.worker device                  # {"device": {...}, "evidence": "host", "setup": {...}}
    python -m workbench.capture.zoo.worker list mine.py            # {"families": [{"name": "mine", ...}]}

MLX keeps its own matrix multiplication here: with torch's (``workbench.backends.blas_route``) both sides of a row would share it, and
their agreement would prove nothing.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import platform
import resource
import shutil
import signal
import sys
import threading
import traceback
import warnings
from contextlib import suppress
from pathlib import Path
from typing import Any

ENVIRONMENT = {
    **dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "VECLIB_MAXIMUM_THREADS"), "1"),
    "HF_HUB_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "TRANSFORMERS_VERBOSITY": "error",
}
"""One thread, so that a row's numbers do not depend on how many run beside it (and a process that is forked must have one);
no network; quiet."""
PRELOADED = (
    "torch",
    "transformers.modeling_utils",
    "transformers.models.auto.modeling_auto",
    "transformers.models.auto.processing_auto",
    "workbench.capture.zoo.row",
)
"""What every row imports and a fork may share. Nothing of MLX: its streams and threads do not survive a fork."""
BLAS_OFF = {} if platform.system() == "Darwin" else {"blas": "off"}
RESULT = "result.json"
SPARE_SECONDS = 30
"""How long after its time limit a row ends by itself, should nobody have ended it."""


def work(job: dict[str, Any]) -> None:
    """Make the row and leave it in ``job["folder"]/result.json``; never returns.

    Standard output and error go to ``stdout`` and ``stderr`` in that folder.
    """
    os.setsid()  # Ctrl-C in the terminal is for the parent, which ends whole groups
    signal.alarm(int(min(job["seconds"], 1e9)) + SPARE_SECONDS)
    threading.Thread(target=die_with_parent, args=(Path(job["folder"]).parent,), daemon=True).start()
    resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))
    os.environ.update(ENVIRONMENT)
    folder = Path(job["folder"])
    redirect(1, folder / "stdout")
    redirect(2, folder / "stderr")
    try:
        result = made(job, folder)
    except BaseException as error:  # noqa: BLE001  a family's file may also leave with SystemExit
        result = {"error": located(error, job["origin"])}
    from workbench.backends import process_memory

    result["peak_memory_bytes"] = process_memory.peak_bytes()
    draft = folder / f".{RESULT}"
    draft.write_text(json.dumps(result, default=plain), encoding="utf-8")
    draft.replace(folder / RESULT)
    # Neither handlers at exit nor MLX's own tear-down may turn a finished row into a crash.
    os._exit(0)


def made(job: dict[str, Any], folder: Path) -> dict[str, Any]:
    from workbench.capture.zoo.catalogue import load
    from workbench.capture.zoo.row import make_row

    silence()
    family = next(each for each in load(job["origin"]) if each.name == job["family"])
    checkpoint = folder / "checkpoint"
    checkpoint.mkdir()
    row, layers = make_row(family, job["layout"], checkpoint)
    return {"row": row, "layers": layers}


def silence() -> None:
    """What libraries print goes to files, but would hide the line that says why a process died."""
    warnings.simplefilter("ignore")
    with suppress(ImportError):
        from tqdm import tqdm

        tqdm.set_lock(threading.RLock())  # its own is a semaphore, which a process that ends at once never gives back
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(1)
    if "transformers" in sys.modules:
        from transformers.utils import logging

        logging.set_verbosity_error()
        logging.disable_progress_bar()


def redirect(number: int, path: Path) -> None:
    """Point a file descriptor at a file: also what C++ libraries print goes there."""
    target = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.dup2(target, number)
    os.close(target)


def die_with_parent(folder: Path) -> None:
    """End this process when the one that waits for it is gone, and remove its ``folder``: nobody else would."""
    multiprocessing.parent_process().join()  # a pipe's end: its number would still be taken while nobody has collected it
    shutil.rmtree(folder, ignore_errors=True)
    os.killpg(0, signal.SIGKILL)


def located(error: BaseException, origin: str) -> str:
    """The error in one line, with the last line of the family's own file that it passed through."""
    from workbench.capture.zoo.catalogue import brief

    file = origin if origin.endswith(".py") else getattr(sys.modules.get(origin), "__file__", None)
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == file]
    return brief(error) + (f" ({Path(file).name}, line {lines[-1]})" if lines else "")


def plain(value: Any) -> Any:
    """numpy's numbers as Python's; anything else as text, so that an odd value costs no row."""
    return value.item() if hasattr(value, "item") and getattr(value, "size", 1) == 1 else str(value)


def device() -> dict[str, Any]:
    """The device on which the port runs, as the bundle's environment names it, and what its backend was set up to."""
    from workbench.backends.hardware import describe_hardware
    from workbench.registry import get_backend

    mlx = get_backend("mlx")
    return {"hardware": describe_hardware("mlx", BLAS_OFF), "evidence": mlx.evidence(BLAS_OFF), "setup": mlx.prepare(BLAS_OFF)}


def families(path: str) -> dict[str, Any]:
    """``{"families": [...]}`` of a user's file; where it cannot be used, one with a problem."""
    from workbench.capture.zoo.catalogue import NAME, brief, described, load

    try:
        return {"families": [described(each) for each in load(path)]}
    except BaseException as error:  # noqa: BLE001  the user's own file may raise anything
        stem, name = Path(path).stem, Path(path).name
        found = {"name": stem if NAME.fullmatch(stem) else "file", "layouts": ["hub", "v5"], "problem": f"{name}: {brief(error)}"}
        return {"families": [found]}


def main(arguments: list[str]) -> None:
    """Print one line of JSON; what others print goes to standard error."""
    own = os.dup(1)
    os.dup2(2, 1)
    found = device() if arguments[0] == "device" else families(arguments[1])
    os.write(own, json.dumps(found).encode() + b"\n")
    os._exit(0)


if __name__ == "__main__":
    main(sys.argv[1:])
