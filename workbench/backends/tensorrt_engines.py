"""Engines in the user's cache, built once for all processes and only ever read by the GPU and TensorRT that built them.

    engine = ensure(file, request, api, gpu, choice, say)     # built now, or found
    engine.engine, engine.report["reused"], engine.folder     # .../tensorrt/step-3f0c.../ with engine.plan and engine.json

An entry's name holds a hash of all that the engine was made from: the bytes of the graph and its weights, TensorRT's version, the GPU, the
profiles and the options of the build. Beside the plan lie the same parts in the open, and the plan's hash: a plan runs native code, so one
that is not what was built here for this very GPU is not even given to TensorRT.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import shutil
import stat
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from workbench.backends import tensorrt_build
from workbench.backends.onnx_file import OnnxFile
from workbench.backends.tensorrt_api import Api, ICudaEngine, worst
from workbench.backends.tensorrt_build import TIMEOUT_SECONDS, Built, Request
from workbench.backends.tensorrt_context import MEMORY_WORDS
from workbench.backends.tensorrt_gpu import Gpu
from workbench.backends.tensorrt_timing_cache import TimingCache
from workbench.errors import ModelError
from workbench.fingerprint import of_file, of_json
from workbench.user_cache import ELSEWHERE, cache_folder, made_by_one, not_written

FORMAT = 1
PLAN, NOTE = "engine.plan", "engine.json"
PLAN_SUFFIXES = (".engine", ".plan", ".trt")
KEPT = "built engines are kept there"
NAMES = {
    "onnx": "the graph",
    "external": "the weights",
    "tensorrt": "TensorRT",
    "gpu": "the GPU",
    "capability": "the GPU's compute capability",
    "request": "the profiles and options",
    "format": "the layout of the cache",
}
"""The parts of a key, as errors call them."""

Say = Callable[[str], None]


@dataclass(frozen=True)
class Engine:
    """``report``: of its build, with ``load_seconds``, ``device_memory_bytes``, ``reused`` and ``key`` (the parts that it was made from)."""

    engine: ICudaEngine
    folder: Path
    report: dict[str, Any]


def key_of(file: OnnxFile, request: Request, api: Api, gpu: Gpu) -> dict[str, Any]:
    """All that an engine depends on, as JSON."""
    return {
        "format": FORMAT,
        "onnx": file.sha256,
        "external": {name: of_file(path) for name, path in sorted(file.external.items())},
        "tensorrt": api.version,
        "gpu": gpu.name,
        "capability": gpu.capability,
        "request": request.to_json(),
    }


def ensure(
    file: OnnxFile,
    request: Request,
    api: Api,
    gpu: Gpu,
    timing_cache: str,
    say: Say,
    timeout_seconds: float = TIMEOUT_SECONDS,
) -> Engine:
    """The engine of ``request``; two processes that ask for the same build it once.

    Raises as ``tensorrt_build.build``, and ModelError for an entry that was made elsewhere and a cache that cannot be written.
    """
    key = key_of(file, request, api, gpu)
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", file.path.stem).strip("-.")[:60] or "model"
    entry = cache_folder("tensorrt") / f"{name}-{of_json(key, 16)}"
    found = _found(entry, key, api, gpu)
    if isinstance(found, Engine):  # a cache that can only be read serves what it holds
        return found
    with made_by_one(entry, f"building the engine of {file.path.name}", KEPT, say):
        found = _found(entry, key, api, gpu)
        if isinstance(found, Engine):
            return found
        if found is not None:
            _set_aside(entry, found, say)
        _remove_drafts(entry)
        _check_space(entry, file)
        timing = TimingCache.of(timing_cache, api, gpu)
        built = tensorrt_build.build(file, request, api, gpu, timing, say, timeout_seconds)
        try:
            _publish(entry, built, {"key": key, "driver": gpu.driver, "cuda": gpu.cuda})
        except OSError as error:
            raise not_written(entry, error, KEPT) from error
        say(f"built the engine of {file.path.name} in {built.report['seconds']:.1f} s: {len(built.plan):,} bytes, kept in {entry}")
        began = time.perf_counter()
        engine, why = _deserialized(built.plan, api, gpu)
        if engine is None:
            raise ModelError(
                f"TensorRT cannot open the engine of {file.path.name} that it has just built",
                why=why,
                fix="nvidia-smi tells what holds its memory",
            )
        return _opened(engine, entry, api, built.report, began, key, reused=False)


def refuse_plan(path: Path) -> None:
    """Raises ModelError for a built engine in the place of a model."""
    if path.suffix.lower() not in PLAN_SUFFIXES:
        return
    graph = path.with_suffix(".onnx")
    raise ModelError(
        f"{path.name} is a built engine, not a model",
        why="an engine runs native code and is good for the one GPU and TensorRT that built it; only engines that were built here are opened",
        fix=f"tensorrt:{graph if graph.is_file() else './model.onnx'}, from which the engine is built, once",
    )


def _found(entry: Path, key: Mapping[str, Any], api: Api, gpu: Gpu) -> Engine | str | None:
    """The entry's engine; why it is damaged; None where there is none. Raises ModelError for one that was made for something else."""
    if not os.path.lexists(entry):
        return None
    try:
        note = json.loads(_own_bytes(entry / NOTE))
        made_of, wanted, report = note["key"], note["sha256"], note["report"]
        made_of, report = dict(made_of), dict(report)
    except (OSError, ValueError, KeyError, TypeError) as error:
        return f"{NOTE} cannot be read: {error}"
    _same(entry, made_of, key)
    try:
        plan = _own_bytes(entry / PLAN)
    except OSError as error:
        return f"{PLAN} cannot be read: {error.strerror or error}"
    if sha256(plan).hexdigest() != wanted:
        return f"{PLAN} is not what was written"
    began = time.perf_counter()
    engine, why = _deserialized(plan, api, gpu)
    if engine is None and any(word in why.lower() for word in MEMORY_WORDS):
        raise ModelError(
            f"the engine in {entry.name} does not fit into the GPU's memory now",
            why=f"{why}; it is whole, and stays",
            fix="nvidia-smi tells what holds the memory; end that, or ?device=1 for another GPU",
        )
    if engine is None:
        return f"TensorRT refuses it: {why}"
    return _opened(engine, entry, api, report, began, key, reused=True)


def _opened(
    engine: ICudaEngine, entry: Path, api: Api, report: Mapping[str, Any], began: float, key: Mapping[str, Any], *, reused: bool
) -> Engine:
    more = {
        "load_seconds": time.perf_counter() - began,
        "device_memory_bytes": api.device_memory_bytes(engine),
        "reused": reused,
        "key": dict(key),
    }
    return Engine(engine, entry, {**report, **more})


def _same(entry: Path, there: Mapping[str, Any], here: Mapping[str, Any]) -> None:
    for name in (*NAMES, *(there.keys() - NAMES.keys())):
        if there.get(name) != here.get(name):
            short = [json.dumps(each.get(name))[:80] for each in (there, here)]
            raise ModelError(
                f"the engine in {entry.name} was built for something else: {NAMES.get(name, name)} differs",
                why=f"{name} is {short[0]} there and {short[1]} here; an engine of another GPU, version or graph is not opened",
                fix=f"rm -r {entry}, and it is built anew",
            )


def _own_bytes(path: Path) -> bytes:
    """What a file of an entry holds. Native code that somebody else put there is not run: raises ModelError for a link, and for a file or
    an entry that is another user's or that everybody may write to."""
    there, entry = os.lstat(path), os.lstat(path.parent)
    with open(path, "rb") as file:
        opened = os.fstat(file.fileno())
        same = (opened.st_dev, opened.st_ino) == (there.st_dev, there.st_ino)
        others = hasattr(os, "getuid") and any(each.st_uid not in (os.getuid(), 0) for each in (opened, entry))
        if not same or others or stat.S_ISLNK(there.st_mode) or stat.S_ISLNK(entry.st_mode):
            what, more = f"the engine in {path.parent.name} is a link, or another user's file", ""
        elif any(each.st_mode & stat.S_IWOTH for each in (opened, entry)):
            what, more = f"everybody may write to the engine in {path.parent.name}", f"; if that comes again, {ELSEWHERE}"
        else:
            return file.read()
    raise ModelError(
        what,
        why="an engine runs native code, so only one that this user built is opened",
        fix=f"rm -r {path.parent}, and it is built anew{more}",
    )


def _deserialized(plan: bytes, api: Api, gpu: Gpu) -> tuple[ICudaEngine | None, str]:
    with api.listening() as messages, gpu.use():
        try:
            engine = api.runtime().deserialize_cuda_engine(plan)
        except RuntimeError as error:
            return None, str(error)
    return engine, worst(messages) or "it gave no reason"


def _publish(entry: Path, built: Built, more: Mapping[str, Any]) -> None:
    """The whole entry in one rename, its bytes on the disk before it."""
    folder = Path(tempfile.mkdtemp(prefix=f".{entry.name}.draft-", dir=entry.parent))
    try:
        note = {**more, "sha256": sha256(built.plan).hexdigest(), "report": built.report}
        for name, data in ((PLAN, built.plan), (NOTE, json.dumps(note, indent=1, sort_keys=True).encode())):
            with open(folder / name, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.chmod(folder / name, 0o644)  # whatever the umask is
        os.rename(folder, entry)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise


def _remove_drafts(entry: Path) -> None:
    """Of processes that were killed; the lock of the entry is held."""
    for path in entry.parent.glob(f".{entry.name}.draft-*"):
        shutil.rmtree(path, ignore_errors=True)


def _set_aside(entry: Path, why: str, say: Say) -> None:
    aside = entry.with_name(f"{entry.name}.damaged")
    try:
        if os.path.lexists(aside):
            shutil.rmtree(aside) if aside.is_dir() and not aside.is_symlink() else aside.unlink()
        os.rename(entry, aside)
    except OSError as error:
        raise not_written(entry, error, KEPT) from error
    say(f"the engine {entry.name} is damaged ({why}): set aside as {aside.name}, building it again")


def _check_space(entry: Path, file: OnnxFile) -> None:
    """An engine is about as large as its weights; better now than after minutes of building."""
    with contextlib.suppress(FileNotFoundError):
        free = shutil.disk_usage(entry.parent).free
        if free < file.size_bytes:
            why = f"{file.size_bytes / 1e9:.2f} GB are needed and {free / 1e9:.2f} GB are free"
            raise not_written(entry, OSError(errno.ENOSPC, why), KEPT)
