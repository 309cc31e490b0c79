"""Peak memory of this process, for runtimes on the CPU that cannot tell their own.

On Linux it is the kernel's high-water mark (``VmHWM``), which ``reset`` lowers to the present size where
``/proc/self/clear_refs`` may be written; elsewhere ``getrusage``, which counts since the process began.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

STATUS = Path("/proc/self/status")
CLEAR_REFS = Path("/proc/self/clear_refs")
SOURCE_SINCE_RESET = "resident set, high-water mark since reset"
SOURCE_SINCE_START = "resident set, high-water mark since the process began"


def peak_bytes() -> int | None:
    """The process's peak resident set in bytes; None where no source exists (Windows)."""
    try:
        for line in STATUS.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    try:
        import resource
    except ImportError:
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def reset() -> bool:
    """Lower the high-water mark to the present size. Returns False where that cannot be done."""
    try:
        CLEAR_REFS.write_text("5")  # proc(5): 5 resets the peak resident set size
    except OSError:
        return False
    return True


def source() -> str:
    """What ``peak_bytes`` counts here after a ``reset``, for the bundle."""
    return SOURCE_SINCE_RESET if os.access(CLEAR_REFS, os.W_OK) else SOURCE_SINCE_START
