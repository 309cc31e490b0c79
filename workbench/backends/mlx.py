"""MLX: Apple's Metal, and the CPU on Linux.

>>> get_backend("mlx").prepare({})
{'blas_route': 'torch', 'library': 'libtorch_cpu.so', 'torch': '2.13.0+cpu'}

Options: ``blas`` (``torch`` or ``off``, Linux only, see ``workbench.backends.blas_route``), ``device`` (``gpu``, ``cpu``).
"""

from __future__ import annotations

import platform
from typing import Any

from workbench.backends import blas_route, process_memory
from workbench.backends.base import Availability, Evidence
from workbench.backends.torch import package_availability
from workbench.errors import RuntimeMissing, UsageError
from workbench.registry import backend

FIX = "pip install 'parity-workbench[mlx]'"


@backend("mlx")
class MLXBackend:
    """The runtime behind ``mlx:...`` models."""

    name = "mlx"
    distributions = ("mlx", "mlx-vlm", "transformers")

    def available(self) -> Availability:
        """Looks at installed packages only. On Linux the notes say whether the BLAS route can be opened."""
        found = package_availability(("mlx", "mlx-vlm", "transformers"), FIX)
        if not found.ok or platform.system() == "Darwin":
            return found
        if not blas_route.on_linux_x86():
            return found
        if blas_route.library_path() is None:
            note = (
                "without torch's BLAS fp32 matrix multiplication is about 50 times slower: "
                + "pip install 'parity-workbench[torch]'"
            )
        else:
            note = "on the CPU, with torch's BLAS (?blas=off for a run that is independent of it)"
        return Availability(found.ok, found.reason, found.fix, (note,))

    def prepare(self, options: dict[str, str]) -> dict[str, Any]:
        """Open the BLAS route (before MLX is imported), import MLX, choose the device. May be called again."""
        done = open_route(options)
        core = import_mlx()
        core.set_default_device(core.Device(resolve_device(options)))
        return done

    def device(self, options: dict[str, str]) -> dict[str, Any]:
        """Name, kind and memory of the device ``options`` lead to."""
        from workbench.backends import hardware

        if resolve_device(options).name == "cpu":
            return {"name": hardware.cpu_model(), "kind": "cpu", "memory_bytes": hardware.memory_bytes()}
        core = import_mlx()
        facts = core.device_info()
        return {
            "name": str(facts.get("device_name", hardware.cpu_model())),
            "kind": "metal" if core.metal.is_available() else "cuda",
            "memory_bytes": facts.get("memory_size", hardware.memory_bytes()),
        }

    def evidence(self, options: dict[str, str]) -> Evidence:
        """``device`` on Metal, ``host`` on a CPU."""
        return "host" if resolve_device(options).name == "cpu" else "device"

    def synchronize(self) -> None:
        import_mlx().synchronize()

    def peak_memory_bytes(self) -> int | None:
        """The allocator's peak on a GPU; on the CPU the process's peak, which also counts the libraries."""
        core = import_mlx()
        return process_memory.peak_bytes() if core.default_device().type == core.DeviceType.cpu else core.get_peak_memory()

    def reset_peak_memory(self) -> None:
        import_mlx().reset_peak_memory()
        process_memory.reset()


def open_route(options: dict[str, str]) -> dict[str, Any]:
    """The BLAS route, where this system has one; must come before the first ``import mlx.core``."""
    if platform.system() != "Darwin":
        return blas_route.prepare(options.get("blas"))
    if options.get("blas", "off") != "off":
        raise UsageError("blas=torch is for Linux", why="MLX on a Mac has its own BLAS", fix="leave ?blas out")
    return {}


def import_mlx():
    """The ``mlx.core`` module. Raises RuntimeMissing when it is absent or broken."""
    try:
        from mlx import core
    except (ImportError, OSError) as error:
        raise RuntimeMissing("MLX cannot be imported", why=str(error).splitlines()[0], fix=FIX) from error
    return core


def resolve_device(options: dict[str, str]):
    """The ``mlx.core.DeviceType`` asked for, else the GPU where there is one. Raises UsageError or RuntimeMissing."""
    asked = options.get("device", "auto")
    if asked not in ("auto", "gpu", "metal", "cpu"):
        raise UsageError(f"unknown device {asked!r} for MLX", why="known: gpu (metal), cpu", fix="--device cpu")
    open_route(options)
    core = import_mlx()
    here = core.is_available(core.Device(core.gpu))
    if asked in ("gpu", "metal") and not here:
        raise RuntimeMissing(f"device {asked!r} is not here", why="MLX sees no GPU on this machine", fix="--device cpu")
    return core.cpu if asked == "cpu" or not here else core.gpu
