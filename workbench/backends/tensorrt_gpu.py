"""One NVIDIA GPU: what it is called, which an engine is only good for, and what is missing where none can be used.

    gpu = gpu_of(0)
    gpu.name, gpu.capability, gpu.driver        # ("NVIDIA H200", "9.0", "580.65.06")
    with gpu.use():                             # the calling thread's GPU, where TensorRT builds and runs
        ...

Memory, streams and graphs, which running an engine needs, are in ``tensorrt_cuda``.
"""

from __future__ import annotations

import os
import platform
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from workbench.errors import RuntimeMissing

CUDA_TORCH = "pip install --force-reinstall torch"
WHEELS = "https://download.pytorch.org/whl"
"""A folder for each CUDA release; PyPI's torch is for one of them, so installing that again would change nothing."""
DRIVER = Path("/dev/nvidiactl")
REFERENCE = "?executor=reference"


class Gpu:
    """The GPU of that number. ``capability``: "9.0"; ``cuda``: the release that torch was built for; ``driver``: None if not told."""

    def __init__(self, index: int):
        import torch

        self.index = index
        properties = torch.cuda.get_device_properties(index)
        self.name: str = properties.name
        self.capability = f"{properties.major}.{properties.minor}"
        self.memory_bytes: int = properties.total_memory
        self.cuda = str(torch.version.cuda)
        self.driver = next((str(row["driver"]) for row in cards() if row["name"] == self.name), None)

    def use(self) -> AbstractContextManager[Any]:
        """Make it the calling thread's GPU for a while."""
        import torch

        return torch.cuda.device(self.index)


def cards() -> tuple[dict[str, Any], ...]:
    """NVIDIA's GPUs, as nvidia-smi lists them. A Mac's own GPU is none."""
    from workbench.backends import hardware

    return () if platform.system() == "Darwin" else hardware.gpus()


def present() -> bool:
    """Is NVIDIA's driver at work? nvidia-smi need not be in a container, and may take longer than we wait where many GPUs are asleep."""
    return bool(cards()) or (platform.system() == "Linux" and DRIVER.exists())


def gpu_of(index: int) -> Gpu:
    """Raises RuntimeMissing: no driver, a torch without CUDA, or no GPU of that number."""
    from workbench.backends.torch import import_torch

    if not present():
        raise RuntimeMissing(
            "no NVIDIA GPU can be used here",
            why="nvidia-smi, which comes with NVIDIA's driver, is not here or lists no GPU",
            fix=f"{REFERENCE} runs the same graph on the CPU; with a GPU in the machine, install its driver and type: nvidia-smi",
        )
    torch = import_torch()
    if torch.version.cuda is None:
        raise RuntimeMissing(
            "the torch that is installed cannot reach the GPU",
            why=f"torch {torch.__version__} was built without CUDA (on Linux PyPI's torch has it); its tensors are the engine's buffers",
            fix=f"{CUDA_TORCH}; or {REFERENCE}",
        )
    if not torch.cuda.is_available() and os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1"):
        raise RuntimeMissing(
            "the GPUs of this machine are hidden",
            why=f"the environment says CUDA_VISIBLE_DEVICES={os.environ['CUDA_VISIBLE_DEVICES']}",
            fix=f"unset CUDA_VISIBLE_DEVICES; or {REFERENCE}",
        )
    if not torch.cuda.is_available():
        told = cards()[0].get("driver") if cards() else "not told (nvidia-smi lists no GPU)"
        raise RuntimeMissing(
            "the NVIDIA driver and torch do not fit each other",
            why=f"torch {torch.__version__} is for CUDA {torch.version.cuda}, the driver is {told}",
            fix=f"a newer driver, or a torch for the CUDA that nvidia-smi names: {CUDA_TORCH} --index-url {WHEELS}/cu126; or {REFERENCE}",
        )
    if not 0 <= index < torch.cuda.device_count():
        raise RuntimeMissing(
            f"there is no GPU {index}",
            why=f"torch sees {torch.cuda.device_count()}, numbered from 0",
            fix=f"?device={torch.cuda.device_count() - 1}",
        )
    return Gpu(index)
