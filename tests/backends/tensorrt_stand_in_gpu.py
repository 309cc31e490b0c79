"""A stand-in for what ``workbench.backends.tensorrt_gpu`` tells of a GPU.

monkeypatch.setattr(tensorrt_gpu, "gpu_of", lambda index: StandInGpu(trt, index))
"""

from __future__ import annotations

from contextlib import nullcontext


class StandInGpu:
    """The GPU that the stand-in module's engines are made for: ``trt.deeds.gpu`` is its name and capability."""

    def __init__(self, trt, index=0, driver="580.65.06"):
        self.trt, self.index, self.driver, self.cuda = trt, index, driver, "13.0"
        self.name, _, self.capability = trt.deeds.gpu.rpartition(" ")
        self.memory_bytes = 2**37

    def use(self):
        return nullcontext()
