"""The user's cache: where converted models and built engines are kept, and how one process at a time makes an entry of it.

with made_by_one(cache_folder("onnx") / "demo-vlm-3f0c", "converting demo:vlm", "a converted model is kept there", say):
    ...                                      # whoever comes meanwhile waits, and then finds the entry
"""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from workbench.errors import ModelError

NO_SPACE = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
ELSEWHERE = "export WORKBENCH_CACHE=/another/disk"


def cache_folder(kind: str) -> Path:
    """Where converted models and engines of one kind (``coreml``, ``onnx``, ``tensorrt``) are kept: ``$WORKBENCH_CACHE``, else the platform's folder for caches."""
    root = os.environ.get("WORKBENCH_CACHE")
    if root:
        return Path(root).expanduser() / kind
    home = Path(os.path.expanduser("~"))
    if sys.platform == "darwin":
        return home / "Library" / "Caches" / "parity-workbench" / kind
    return Path(os.environ.get("XDG_CACHE_HOME") or home / ".cache") / "parity-workbench" / kind


@contextmanager
def made_by_one(entry: Path, doing: str, kept: str, say: Callable[[str], None]) -> Iterator[None]:
    """Held while ``entry`` is made. ``doing``: what another process is told to be at; ``kept``: what the cache is for, in words.

    Raises ModelError where the cache cannot be written.
    """
    from filelock import FileLock, Timeout

    lock = FileLock(entry.with_name(f"{entry.name}.lock"))
    try:
        entry.parent.mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            say(f"another process is {doing}: waiting for it")
            lock.acquire()
    except OSError as error:
        raise not_written(entry, error, kept) from error
    try:
        yield
    finally:
        lock.release()


def not_written(entry: Path, error: OSError, kept: str) -> ModelError:
    """What a failed write to the cache means to its user."""
    full = error.errno in NO_SPACE
    return ModelError(
        f"no space left in the cache {entry.parent}" if full else f"the cache {entry.parent} cannot be written",
        why=f"{error.strerror or error}; {kept}",
        fix=f"free some space, or {ELSEWHERE}" if full else ELSEWHERE.replace("/another/disk", "/a/folder/of/yours"),
    )
