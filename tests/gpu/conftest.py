"""The GPU test kit: the contract between the workbench, TensorRT and a GPU.

Who has an NVIDIA GPU and TensorRT 10 or 11 runs ``make test-gpu`` (the time is that of some dozen engine builds of small models). Engines
are built into a folder of their own, so the first run builds every time.

Without them the same tests run as a rehearsal in ``make test``: TensorRT is then ``tests.backends.tensorrt_stand_in``, as strict as its
binding and computing with ONNX Runtime, and the GPU is ``tests.backends.tensorrt_cpu``, whose stream does nothing before it is waited for.
What such a rehearsal cannot show is TensorRT's arithmetic, and what it takes.
"""

from __future__ import annotations

import dataclasses
import functools

import pytest

from tests.gpu.run import missing

GPU = not missing()
RECIPES = ("fp32", "fp16", "bf16", "int8-qdq")[: None if GPU else 1]
STAGES = (("stt", "encoder"), ("stt", "step"), ("vlm", "step"), ("vlm", "vision"), ("vlm", "prefill"))[: None if GPU else 2]


@dataclasses.dataclass
class Runtime:
    """What the tests ask: ``open(path, **options)`` an engine, ``builds()`` how many were built so far."""

    backend: object
    api: object
    device: object
    opened: list = dataclasses.field(default_factory=list)
    built: list = dataclasses.field(default_factory=list)

    def open(self, path, **options):
        program = self.backend.open(path, {"executor": "engine", **options})
        self.opened.append(program)
        return program

    def builds(self):
        return len(self.built)


@pytest.fixture(scope="module")
def runtime(tmp_path_factory):
    """TensorRT and the GPU, or what stands in for both; engines go to a cache of this module's own."""
    for library in ("torch", "onnx", "onnxruntime"):
        pytest.importorskip(library)
    from workbench.backends import tensorrt, tensorrt_api, tensorrt_build, tensorrt_cuda, tensorrt_gpu

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WORKBENCH_CACHE", str(tmp_path_factory.mktemp("engines")))
        if not GPU:
            from tests.backends.tensorrt_cpu import Cpu
            from tests.backends.tensorrt_stand_in import stand_in
            from tests.backends.tensorrt_stand_in_gpu import StandInGpu

            trt, cpu = stand_in(), Cpu()
            api = tensorrt_api.looked_over(trt)
            patch.setattr(tensorrt_gpu, "gpu_of", lambda index: StandInGpu(trt, index))
            patch.setattr(tensorrt_api, "import_tensorrt", lambda: api)
            patch.setattr(tensorrt_cuda, "Cuda", lambda index: cpu)
        tensorrt._usable.cache_clear()
        made = Runtime(tensorrt.TensorRTBackend(), tensorrt_api.import_tensorrt(), tensorrt_cuda.Cuda(0))
        build = tensorrt_build.build
        patch.setattr(tensorrt_build, "build", lambda *given, **more: made.built.append(given) or build(*given, **more))
        yield made
        for program in made.opened:
            program.close()
    tensorrt._usable.cache_clear()


@pytest.fixture(scope="session")
def artifact():
    """``artifact("vlm", "fp16")``: the demo model, converted on the spot and shared with the other tests."""
    from tests.convert.onnx_models import converted_onnx
    from workbench.models.converted import Converted

    return functools.cache(lambda name, precision: Converted(converted_onnx(f"demo:{name}", precision=precision)))


@pytest.fixture(scope="session")
def reading():
    """``reading(path)``: the pure reading of a graph; ``reading(path, "optimised")``: ONNX Runtime's own."""
    from workbench.backends import onnx

    made = {}

    def opened(path, how="pure"):
        if (path, how) not in made:
            made[path, how] = onnx.open_reference(path, {}) if how == "pure" else onnx.ONNXBackend().open(path, {"reading": how})
        return made[path, how]

    yield opened
    for program in made.values():
        program.close()
