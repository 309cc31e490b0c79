"""Lends MLX torch's matrix multiplication on Linux, where MLX's own wheel ships the slow reference BLAS.

Loading torch's ``libtorch_cpu.so`` with ``RTLD_GLOBAL`` before ``import mlx.core`` makes the reference library's
``cblas_sgemm`` call torch's ``sgemm_``: fp32 matmul becomes about 50 times faster. Hazards: such matmuls are
bit-identical to torch's, so they are no independent evidence (run once with ``blas=off`` as control), and some 74,000
symbols become global in this process. torch itself is not imported.
"""

from __future__ import annotations

import ctypes
import importlib.util
import platform
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

from workbench.errors import RuntimeMissing, UsageError

CHOICES = ("torch", "off")
LIBRARY = "libtorch_cpu.so"

_done: dict[str, Any] = {}
"""What this process settled on; empty until the route is open, which is for good."""


def library_path() -> Path | None:
    """torch's CPU library, found without importing torch; None where there is none."""
    try:
        spec = importlib.util.find_spec("torch")
    except (ImportError, ValueError):
        return None
    for folder in (spec and spec.submodule_search_locations) or ():
        path = Path(folder) / "lib" / LIBRARY
        if path.is_file():
            return path
    return None


def on_linux_x86() -> bool:
    return platform.system() == "Linux" and platform.machine() in ("x86_64", "AMD64")


def prepare(asked: str | None) -> dict[str, Any]:
    """Open the route if ``asked`` (default: on Linux x86 with torch installed) and say what holds for this process.

    Returns ``{"blas_route": "torch", "library", "torch"}`` or ``{"blas_route": "off"}`` plus ``"blas_reason"`` where one
    is known. Raises UsageError for an unknown choice and RuntimeMissing when ``torch`` was asked for and cannot be had,
    or ``off`` was asked for and the route is open already: a process cannot change its mind.
    """
    if asked not in (None, *CHOICES):
        raise UsageError(f"unknown blas route {asked!r}", why=f"known: {', '.join(CHOICES)}", fix="?blas=off")
    if _done:
        if asked == "off":
            raise RuntimeMissing(
                "blas=off cannot be had", why="torch's BLAS was opened for MLX earlier in this process", fix="run it alone"
            )
        return dict(_done)
    if asked == "off":
        return {"blas_route": "off"}
    problem = _open()
    if problem is None:
        _done.update(blas_route="torch", library=LIBRARY, torch=metadata.version("torch"))
        return dict(_done)
    if asked == "torch":
        raise RuntimeMissing("the BLAS route to torch cannot be opened", why=problem, fix="?blas=off")
    return {"blas_route": "off", "blas_reason": problem} if on_linux_x86() else {"blas_route": "off"}


def _open() -> str | None:
    """Try; returns the reason why not."""
    if not on_linux_x86():
        return "the route is for Linux on x86; MLX has its own BLAS here"
    if "mlx.core" in sys.modules:
        return "mlx was imported already"
    path = library_path()
    if path is None:
        return f"torch's {LIBRARY} was not found"
    try:
        ctypes.CDLL(str(path), mode=ctypes.RTLD_GLOBAL)
    except OSError as error:
        return f"{LIBRARY} cannot be loaded: {type(error).__name__}"
    return None
