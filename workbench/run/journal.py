"""The append-only journal behind a run: one JSON object a line.

Lines are written whole, and fsynced within 50 ms by a thread beside the model's work. A torn last line is cut off when the
journal is opened again::

    with Journal(path) as journal:
        journal.append({"id": "1", "output": ...})
"""

from __future__ import annotations

import errno
import json
import os
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from workbench.errors import BundleError

SYNC_SECONDS = 0.05
NO_SPACE = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


def encode(record: dict[str, Any]) -> bytes:
    """One line of JSON, newline included. Lone surrogates (a model may emit them) are written as escapes."""
    text = json.dumps(record, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    try:
        return text.encode() + b"\n"
    except UnicodeEncodeError:
        return json.dumps(record, ensure_ascii=True, separators=(",", ":"), allow_nan=False).encode() + b"\n"


def read(path: Path) -> Iterator[dict[str, Any]]:
    """The whole lines of a journal, in order; a torn last line is left out.

    Raises BundleError when a line before the last is not JSON: that is damage, not an interruption.
    """
    if not path.exists():
        return
    with open(path, "rb") as file:
        for number, line in enumerate(file, 1):
            if not line.endswith(b"\n"):
                return
            try:
                yield json.loads(line)
            except ValueError as error:
                raise BundleError(
                    f"{path.name} is damaged at line {number}",
                    why=str(error),
                    fix=f"move {path.parent.name} away and run the same command again",
                ) from error


def repair(path: Path) -> int:
    """Cut a torn last line off. Returns the number of bytes removed."""
    if not path.exists():
        return 0
    with open(path, "r+b") as file:
        size = file.seek(0, os.SEEK_END)
        end = size
        while end > 0:
            start = max(0, end - 65536)
            file.seek(start)
            newline = file.read(end - start).rfind(b"\n")
            if newline >= 0:
                end = start + newline + 1
                break
            end = start
        if end < size:
            file.truncate(end)
            os.fsync(file.fileno())
        return size - end


def out_of_space(error: OSError, path: Path) -> BundleError:
    """The error a user sees when a bundle's file cannot be written."""
    if error.errno in NO_SPACE:
        return BundleError(
            f"no space left to write {path.parent.name}/{path.name}",
            why=f"{error.strerror}; every finished item is kept",
            fix="free some space, then type the same command again: the run continues where it stopped",
        )
    return BundleError(
        f"cannot write {path.parent.name}/{path.name}", why=str(error.strerror), fix="choose another folder with --runs FOLDER"
    )


class Journal:
    """A journal open for writing. Only the process that holds the bundle's lock may open one.

    ``append`` returns when the operating system has the lines, so they survive the death of this process at any moment.
    A thread fsyncs within ``SYNC_SECONDS``, beside the model's work; a failure there is raised by the next ``append`` or
    ``close``.
    """

    def __init__(self, path: Path):
        self.path = path
        self.repaired_bytes = repair(path)
        try:
            self._file = open(path, "ab", buffering=0)  # noqa: SIM115  closed in close()
        except OSError as error:
            raise out_of_space(error, path) from error
        self._size = os.fstat(self._file.fileno()).st_size
        self._written = threading.Semaphore(0)
        self._closing = threading.Event()
        self._failure: OSError | None = None
        self._thread = threading.Thread(target=self._sync, name=f"fsync {path.name}", daemon=True)
        self._thread.start()

    def append(self, *records: dict[str, Any]) -> None:
        """Write the records, all or none. Raises BundleError when the disk is full; what was written before is kept."""
        self._raise_failure()
        data = b"".join(encode(record) for record in records)
        try:
            view = memoryview(data)
            while view:
                view = view[self._file.write(view) :]
        except OSError as error:
            os.ftruncate(self._file.fileno(), self._size)
            raise out_of_space(error, self.path) from error
        self._size += len(data)
        self._written.release()

    def _sync(self) -> None:
        while True:
            self._written.acquire()
            self._closing.wait(SYNC_SECONDS)
            while self._written.acquire(blocking=False):
                pass  # one fsync covers all that was written before it
            if self._closing.is_set():
                return
            try:
                os.fsync(self._file.fileno())
            except OSError as error:
                self._failure = error
                return

    def _raise_failure(self) -> None:
        if self._failure is not None:
            raise out_of_space(self._failure, self.path) from self._failure

    def close(self) -> None:
        """Wait until everything is on the disk. May be called twice."""
        if self._file.closed:
            return
        self._closing.set()
        self._written.release()
        self._thread.join()
        try:
            os.fsync(self._file.fileno())
        except OSError as error:
            self._failure = self._failure or error
        self._file.close()
        self._raise_failure()

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *exception) -> None:
        self.close()


def write_atomically(path: Path, data: bytes | Iterable[bytes]) -> None:
    """Replace ``path`` in one step: readers see the old file or the whole new one, also after a crash."""
    draft = path.with_name(f".{path.name}.draft")
    try:
        with open(draft, "wb") as file:
            for piece in [data] if isinstance(data, bytes) else data:
                file.write(piece)
            file.flush()
            os.fsync(file.fileno())
        os.replace(draft, path)
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except OSError as error:
        draft.unlink(missing_ok=True)
        raise out_of_space(error, path) from error


def write_json(path: Path, value: Any) -> None:
    """``value`` as indented JSON, replaced in one step."""
    write_atomically(path, (json.dumps(value, indent=1, ensure_ascii=True, allow_nan=False) + "\n").encode())
