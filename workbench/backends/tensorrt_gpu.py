"""One NVIDIA GPU: what it is called, which an engine is only good for, and what is missing where none can be used.

    gpu = gpu_of(0)
    gpu.name, gpu.capability, gpu.driver        # ("NVIDIA H200", "9.0", "580.65.06")
    with gpu.use():                             # the calling thread's GPU, where TensorRT builds and runs
        ...

Memory, streams and graphs, which running an engine needs, are in ``tensorrt_cuda``.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any

from workbench.errors import RuntimeMissing

CUDA_TORCH = "pip install --force-reinstall torch"
REFERENCE = "?executor=reference"


class Gpu:
    """The GPU of that number. ``capability``: "9.0"; ``cuda``: the release that torch was built for; ``driver``: None if not told."""

    def __init__(self, index: int):
        import torch

        from workbench.backends import hardware

        self.index = index
        properties = torch.cuda.get_device_properties(index)
        self.name: str = properties.name
        self.capability = f"{properties.major}.{properties.minor}"
        self.memory_bytes: int = properties.total_memory
        self.cuda = str(torch.version.cuda)
        self.driver = next((str(row["driver"]) for row in hardware.gpus() if row["name"] == self.name), None)

    def use(self) -> AbstractContextManager[Any]:
        """Make it the calling thread's GPU for a while."""
        import torch

        return torch.cuda.device(self.index)


def gpu_of(index: int) -> Gpu:
    """Raises RuntimeMissing: no driver, a torch without CUDA, or no GPU of that number."""
    from workbench.backends import hardware
    from workbench.backends.torch import import_torch

    listed = hardware.gpus()
    if not listed:
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
    if not torch.cuda.is_available():
        raise RuntimeMissing(
            "the NVIDIA driver and torch do not fit each other",
            why=f"torch {torch.__version__} is for CUDA {torch.version.cuda}, the driver is {listed[0].get('driver')}",
            fix=f"a newer driver, or {CUDA_TORCH}; or {REFERENCE}",
        )
    if not 0 <= index < torch.cuda.device_count():
        raise RuntimeMissing(
            f"there is no GPU {index}",
            why=f"torch sees {torch.cuda.device_count()}, numbered from 0",
            fix=f"?device={torch.cuda.device_count() - 1}",
        )
    return Gpu(index)
