"""The timing cache: what TensorRT measured of its own kernels, kept so that the next build need not measure again.

    cache = TimingCache.of(choice, api, gpu)          # choice: "auto", "off" or a file
    cache.attach(config, say)                         # before the build
    cache.keep(config, say)                           # after it
    cache.state                                       # "new", "reused", "off", "set aside"

Timings are one GPU's and one TensorRT's. Beside the bytes lies a note of what they are for and their hash: a file that was cut off is found
before TensorRT sees it, set aside and made anew; one of another GPU or version is refused, for TensorRT would tell of it only in its log.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import stat
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from workbench.backends.tensorrt_api import Api, IBuilderConfig, worst
from workbench.backends.tensorrt_gpu import Gpu
from workbench.errors import ModelError, UsageError
from workbench.user_cache import cache_folder

Say = Callable[[str], None]


@dataclass
class TimingCache:
    """``path`` is None where none is wanted. ``ours``: its place is the cache folder's, so it is no error if it cannot be kept."""

    path: Path | None
    api: Api
    of_what: dict[str, str]
    ours: bool
    state: str = "new"

    @classmethod
    def of(cls, choice: str, api: Api, gpu: Gpu) -> TimingCache:
        of_what = {"tensorrt": api.version, "gpu": gpu.name, "capability": gpu.capability}
        if choice == "off":
            return cls(None, api, of_what, True, "off")
        if choice != "auto":
            return cls(Path(choice).expanduser(), api, of_what, False)
        name = re.sub(r"[^A-Za-z0-9._-]+", "-", f"timing-{gpu.name}-{gpu.capability}-{api.version}")
        return cls(cache_folder("tensorrt") / f"{name}.cache", api, of_what, True)

    @property
    def note(self) -> Path:
        assert self.path is not None
        return self.path.with_name(f"{self.path.name}.json")

    def attach(self, config: IBuilderConfig, say: Say) -> None:
        """Give the build what is there. Raises UsageError where a named file cannot be read or written, ModelError for one of another
        GPU or TensorRT."""
        if self.path is None:
            return
        data = self._read(say)
        with self.api.listening() as messages:
            cache = _made(config, data)
            if cache is None and data:
                data = self._set_aside(say, worst(messages) or "TensorRT cannot read it")
                cache = _made(config, data)
            if cache is not None and not config.set_timing_cache(cache, False):
                why = worst(messages) or "TensorRT did not take it"
                if not self.ours:
                    raise self._foreign(why)
                data = self._set_aside(say, why)  # ours by its note: the driver or the clocks are others than they were
                cache = _made(config, data)
                if cache is not None:
                    config.set_timing_cache(cache, False)
        if data:
            self.state = "reused"

    def keep(self, config: IBuilderConfig, say: Say) -> None:
        """Write what there is now; the old file stays whole until the new one is."""
        if self.path is None:
            return
        cache = config.get_timing_cache()
        if cache is None:
            return
        data = bytes(memoryview(cache.serialize()))
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            _replace(self.path, data)
            _replace(self.note, json.dumps({**self.of_what, "sha256": sha256(data).hexdigest()}, indent=1).encode())
        except OSError as error:
            say(f"the timing cache {self.path} could not be written: {error.strerror or error}; the engine is not changed by that")

    def _read(self, say: Say) -> bytes:
        assert self.path is not None
        try:
            if not self.ours and not os.access(self.path.parent, os.W_OK | os.X_OK):
                raise PermissionError(13, f"{self.path.parent} cannot be written or is not there")
            if self.ours and not _own(self.path):
                say(f"the timing cache {self.path} is a link or another user's file: measuring again")
                return b""
            data = self.path.read_bytes()
        except FileNotFoundError:
            return b""
        except OSError as error:
            if self.ours:
                say(f"the timing cache {self.path} cannot be read: {error.strerror or error}; building without it")
                return b""
            raise UsageError(
                f"the timing cache {self.path} cannot be used", why=str(error.strerror or error), fix="?timing_cache=auto"
            ) from error
        noted = self._noted()
        if not data:
            return self._set_aside(say, "it is empty")
        if noted is None:
            return data
        for name, here in self.of_what.items():
            if name in noted and noted[name] != here:
                raise self._foreign(f"its {name} is {noted[name]}, here it is {here}")
        if noted.get("sha256") != sha256(data).hexdigest():
            return self._set_aside(say, "its bytes are not those that were written")
        return data

    def _noted(self) -> dict[str, Any] | None:
        try:
            found = json.loads(self.note.read_text())
        except (OSError, ValueError):
            return None
        return found if isinstance(found, dict) else None

    def _set_aside(self, say: Say, why: str) -> bytes:
        assert self.path is not None
        aside = self.path.with_name(f"{self.path.name}.damaged")
        with contextlib.suppress(OSError):
            os.replace(self.path, aside)
            self.note.unlink(missing_ok=True)
        say(f"the timing cache {self.path.name} is damaged ({why}): set aside as {aside.name}, measuring again")
        self.state = "set aside"
        return b""

    def _foreign(self, why: str) -> ModelError:
        assert self.path is not None
        return ModelError(
            f"the timing cache {self.path.name} is another GPU's or TensorRT's",
            why=f"{why}; kernels would be chosen by another device's times",
            fix=f"rm {self.path}" if self.ours else "?timing_cache=auto",
        )


def _own(path: Path) -> bool:
    """Is it a plain file of this user's? TensorRT reads it with native code, and kernels are chosen by it."""
    status = os.lstat(path)
    return stat.S_ISREG(status.st_mode) and (not hasattr(os, "getuid") or status.st_uid in (os.getuid(), 0))


def _made(config: IBuilderConfig, data: bytes) -> Any:
    """TensorRT's object; None where it cannot read the bytes, which it says by None or by an exception."""
    try:
        return config.create_timing_cache(data)
    except RuntimeError:
        return None


def _replace(path: Path, data: bytes) -> None:
    """The whole file or the old one, whatever happens; OSError is the caller's."""
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(name, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(name)
        raise
