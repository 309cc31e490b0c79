"""What a run was made on, without saying whose machine it is.

    describe_hardware("torch", {})["hardware_key"]   # "4f1c..." the same on two machines of one kind

Timings are compared within one ``hardware_key`` only. Host names, user names and paths never appear.
"""

from __future__ import annotations

import os
import platform
import subprocess
from functools import lru_cache
from pathlib import Path
from typing import Any

from workbench.backends import process_memory
from workbench.fingerprint import of_json


def describe_hardware(backend: str | None = None, options: dict[str, str] | None = None) -> dict[str, Any]:
    """CPU, memory, GPUs, operating system and Python; with ``backend`` also its device and the memory source.

    ``hardware_key`` (16 hex digits) covers what timing depends on: CPU model, usable cores, memory in GiB, GPUs, system.
    """
    found: dict[str, Any] = {
        "cpu": cpu_model(),
        "cores": usable_cores(),
        "memory_bytes": memory_bytes(),
        "gpus": list(gpus()),
        "system": platform.system(),
        "system_release": _release(),
        "machine": platform.machine(),
        "python": platform.python_version(),
    }
    stable = {name: found[name] for name in ("cpu", "cores", "gpus", "system", "machine")}
    stable["memory_gib"] = round((found["memory_bytes"] or 0) / 2**30)
    found["hardware_key"] = of_json(stable, 16)
    if backend is not None:
        from workbench.registry import get_backend

        device = get_backend(backend).device(dict(options or {}))
        found["device"] = device
        if device["kind"] == "cpu":
            found["peak_memory_source"] = process_memory.source()
    return found


def cpu_model() -> str:
    """The processor's marketing name, or its architecture where nothing says more."""
    if platform.system() == "Darwin":
        return _output("sysctl", "-n", "machdep.cpu.brand_string") or platform.machine()
    try:
        for line in Path("/proc/cpuinfo").read_text(errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def usable_cores() -> int:
    """Cores this process may use (affinity mask where the system has one)."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:
        return os.cpu_count() or 1


def memory_bytes() -> int | None:
    """Physical memory in bytes."""
    if platform.system() == "Darwin":
        text = _output("sysctl", "-n", "hw.memsize")
        return int(text) if text.isdigit() else None
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return None


@lru_cache(maxsize=1)
def gpus() -> tuple[dict[str, Any], ...]:
    """``{"name", "memory_bytes", "driver"}`` of each GPU, from nvidia-smi or the Mac's own description."""
    if platform.system() == "Darwin" and platform.machine() == "arm64":
        return ({"name": f"{cpu_model()} GPU", "memory_bytes": memory_bytes(), "driver": f"macOS {platform.mac_ver()[0]}"},)
    rows = []
    text = _output("nvidia-smi", "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader,nounits")
    for line in text.splitlines():
        parts = [part.strip() for part in line.split(",")]
        if len(parts) == 3:
            memory = int(float(parts[1]) * 2**20) if parts[1].replace(".", "", 1).isdigit() else None
            rows.append({"name": parts[0], "memory_bytes": memory, "driver": parts[2]})
    return tuple(rows)


def _release() -> str:
    if platform.system() == "Darwin":
        return platform.mac_ver()[0]
    if platform.system() == "Linux":
        try:
            named = platform.freedesktop_os_release()
            return f"{named.get('PRETTY_NAME', 'Linux')}, kernel {platform.release()}"
        except OSError:
            pass
    return platform.release()


def _output(*command: str) -> str:
    """Standard output of a short command; empty when it is missing, fails or takes more than 10 s."""
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return ""
