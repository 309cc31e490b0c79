"""A folder that appears whole or not at all, also when the process that fills it is killed.

    with draft(Path("model-coreml"), size_bytes=30_000_000) as folder:
        (folder / "a.bin").write_bytes(...)
        publish(folder, Path("model-coreml"))        # the very last thing

A draft lies beside its target under a hidden name and is locked while its process lives. Whoever makes the next draft there removes those
whose lock is free.
"""

from __future__ import annotations

import errno
import os
import re
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from workbench.errors import ModelError, UsageError
from workbench.user_cache import NO_SPACE

LOCK = "draft.lock"
SCARCE = 2**20
"""Bytes; with less than that free, a writer's own strange error is taken to mean that the disk is full."""
UNLOCKED_SECONDS = 3600.0
"""A draft is without its lock for an instant after it was made; one that stays so for an hour was left then."""


@contextmanager
def draft(target: Path, size_bytes: int, where: str = "--out FOLDER on another disk") -> Iterator[Path]:
    """An empty folder to be filled; whatever happens, nothing of it stays. ``where``: what a user types to write elsewhere.

    Raises UsageError where nothing can be written or the disk is full.
    """
    from filelock import FileLock

    outer: Path | None = None
    lock: FileLock | None = None
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        remove_stale(target.parent, target.name)
        free = shutil.disk_usage(target.parent).free
        if free < size_bytes:
            raise OSError(errno.ENOSPC, f"{size_bytes / 1e9:.2f} GB are needed and {free / 1e9:.2f} GB are free")
        fresh = Path(tempfile.mkdtemp(prefix=f".{target.name}.new-", dir=target.parent))
        outer = fresh
        lock = FileLock(fresh / LOCK)
        lock.acquire(timeout=0)
        outer = fresh.with_name(fresh.name.replace(".new-", ".draft-", 1))
        os.rename(fresh, outer)  # only now, with its lock held, may others judge it
        inner = outer / target.name
        inner.mkdir()  # of the usual permissions, unlike the folder around it
        yield inner
    except Exception as error:
        full = _full(error, target.parent)
        if full is None and not isinstance(error, OSError):
            raise
        if full is None:
            place = f": {Path(error.filename).name}" if error.filename else ""
            raise UsageError(f"cannot write {target}", why=f"{error.strerror or error}{place}", fix=where) from error
        raise ModelError(
            f"no space left to write {target}", why=f"{full}; nothing was kept", fix=f"free some space, or {where}"
        ) from error
    finally:
        if lock is not None:
            lock.release()
        if outer is not None:
            shutil.rmtree(outer, ignore_errors=True)


def publish(folder: Path, target: Path) -> None:
    """Put the whole draft where it belongs: all bytes on the disk first, then one rename.

    Raises UsageError where ``target`` has come to be meanwhile.
    """
    for path in sorted(folder.rglob("*"), reverse=True):
        _sync(path)
    _sync(folder)
    if os.path.lexists(target):
        raise UsageError(f"{target} is there already", why="it came to be meanwhile", fix="--out ANOTHER-FOLDER")
    os.rename(folder, target)
    _sync(target.parent)


def remove_stale(parent: Path, name: str | None = None) -> list[str]:
    """Remove the drafts of processes that died, of ``name`` or of every target in ``parent``. Returns what was removed."""
    from filelock import FileLock, Timeout

    removed = []
    start = "." if name is None else f".{name}."
    for path in sorted(parent.iterdir()):
        if not path.name.startswith(start) or path.is_symlink() or not path.is_dir():
            continue
        if name is not None and path.name[len(start) :].partition("-")[0] not in ("draft", "new"):
            continue
        if ".new-" in path.name:
            try:
                old = time.time() - path.stat().st_mtime > UNLOCKED_SECONDS
            except FileNotFoundError:
                continue
        elif ".draft-" in path.name and (path / LOCK).is_file():
            lock = FileLock(path / LOCK)
            try:
                lock.acquire(timeout=0)
            except (Timeout, OSError):
                continue
            lock.release()
            old = True
        else:
            old = False
        if old:
            shutil.rmtree(path, ignore_errors=True)
            removed.append(path.name)
    return removed


def _full(error: Exception, folder: Path) -> str | None:
    """Why there is no space, where that is what ``error`` or one that it came from says; coremltools' writers do not always say so."""
    each: BaseException | None = error
    while each is not None:
        if isinstance(each, OSError) and each.errno in NO_SPACE:
            return f"{each.strerror or each}{f': {Path(str(each.filename)).name}' if each.filename else ''}"
        if isinstance(each, shutil.Error):  # of a whole folder's copy: a list of texts
            numbers = {int(number) for number in re.findall(r"\[Errno (\d+)\]", str(each))}
            if numbers & NO_SPACE:
                return os.strerror(min(numbers & NO_SPACE))
        each = each.__cause__ or each.__context__
    for place, meant in ((folder, ""), (Path(tempfile.gettempdir()), "; export TMPDIR=/another/disk for temporary files")):
        try:
            free = shutil.disk_usage(place).free
        except OSError:
            continue
        if free < SCARCE:
            return f"the disk of {place} has {free:,} bytes left{meant}"
    return None


def _sync(path: Path) -> None:
    """On the disk when this returns. Folders cannot be opened for it everywhere."""
    if path.is_symlink():
        return
    try:
        handle = os.open(path, os.O_RDONLY)
    except PermissionError:
        return
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(handle)
