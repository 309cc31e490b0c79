"""What the TensorRT backend says of itself and opens: without a GPU, and on the stand-ins of the module and of the GPU."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.backends import tensorrt_models as models
from tests.backends.tensorrt_cpu import Cpu
from tests.backends.tensorrt_stand_in import VERSIONS, stand_in
from tests.backends.tensorrt_stand_in_gpu import StandInGpu
from workbench.backends import hardware, tensorrt, tensorrt_api, tensorrt_gpu
from workbench.errors import ItemError, ModelError, RuntimeMissing, UsageError
from workbench.registry import get_backend

GPU_ROW = {"name": "NVIDIA H200", "memory_bytes": 2**37, "driver": "580.65.06"}


@pytest.fixture
def backend(monkeypatch, tmp_path):
    monkeypatch.setenv("WORKBENCH_CACHE", str(tmp_path / "cache"))
    return get_backend("tensorrt")


@pytest.fixture(autouse=True)
def fresh():
    for cached in (tensorrt._usable, tensorrt._say_lack):
        cached.cache_clear()
    yield
    for cached in (tensorrt._usable, tensorrt._say_lack):
        cached.cache_clear()


@pytest.fixture
def bare(monkeypatch):
    """No driver, no TensorRT."""
    monkeypatch.setattr(hardware, "gpus", lambda: ())
    monkeypatch.setattr(tensorrt_gpu, "DRIVER", Path("/nowhere"))
    monkeypatch.delitem(sys.modules, "tensorrt", raising=False)
    monkeypatch.setattr(tensorrt, "_installed", lambda: False)
    absent = RuntimeMissing("TensorRT is not installed here", why="there is no Python module 'tensorrt'", fix=tensorrt_api.FIX)
    monkeypatch.setattr(tensorrt_api, "import_tensorrt", lambda: (_ for _ in ()).throw(absent))


@pytest.fixture(params=VERSIONS.values())
def trt(request, monkeypatch):
    """TensorRT and a GPU, both of them stand-ins."""
    module = stand_in(request.param)
    api = tensorrt_api.looked_over(module)
    monkeypatch.setattr(tensorrt_api, "import_tensorrt", lambda: api)
    monkeypatch.setattr(tensorrt_gpu, "gpu_of", lambda index: StandInGpu(module, index))
    monkeypatch.setattr("workbench.backends.tensorrt_cuda.Cuda", lambda index: Cpu())
    monkeypatch.setattr(tensorrt, "_installed", lambda: True)
    monkeypatch.setattr(hardware, "gpus", lambda: (GPU_ROW,))
    return module


@pytest.fixture
def linear(tmp_path):
    return models.linear(tmp_path / "linear.onnx")


def rows(count):
    return np.linspace(-1, 1, count * 4, dtype=np.float32).reshape(count, 4)


def test_asking_imports_no_runtime():
    code = (
        "import sys; from workbench.registry import get_backend\n"
        "b = get_backend('tensorrt'); a = b.available(); assert a.ok, a; b.evidence({}); b.device({})\n"
        "assert not {'tensorrt', 'onnxruntime'} & set(sys.modules)\n"
        "from workbench.backends import hardware\n"
        "assert hardware.gpus() or 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


def test_without_a_gpu_it_is_the_reference(backend, bare, linear):
    here = backend.available()
    assert here.ok and "onnxruntime" in here.reason
    assert here.notes == ("reference execution: no timing", "no engine: no NVIDIA GPU, TensorRT is not installed")
    assert backend.evidence({}) == "reference" and backend.device({})["kind"] == "reference"
    assert backend.device({"precision": "bf16"})["name"].startswith("reference (onnx.reference)")
    assert backend.peak_memory_bytes() is None
    done = backend.prepare({"cuda_graph": "false", "timing_cache": "auto", "device": "0"})  # the usual is no wish
    assert done["reading"] == "pure" and "onnxruntime" in done["executor"]
    assert backend.prepare({"precision": "bf16"})["executor"].startswith("onnx.reference")
    program = backend.open(linear, {"threads": "1"})
    assert program.evidence == "reference" and not program.describe().get("timing")
    expected = np.maximum(rows(2) @ (np.arange(12, dtype=np.float32).reshape(4, 3) - 5), 0)
    np.testing.assert_allclose(program({"x": rows(2)})["y"], expected, rtol=1e-6)


def test_the_gpu_of_a_mac_is_none_of_nvidia(backend, bare, linear, monkeypatch, capsys):
    """Nobody is told there that a driver and torch do not fit, and torch is not asked."""
    monkeypatch.setattr(hardware, "gpus", lambda: ({"name": "Apple M3 Max GPU", "memory_bytes": 2**37, "driver": "macOS 15.5"},))
    monkeypatch.setattr("platform.system", lambda: "Darwin")
    assert backend.available().notes[1] == "no engine: no NVIDIA GPU, TensorRT is not installed"
    assert backend.open(linear, {}).evidence == "reference" and capsys.readouterr().err == ""
    with pytest.raises(RuntimeMissing) as caught:
        backend.evidence({"executor": "engine"})
    assert caught.value.why.startswith("no NVIDIA GPU can be used here") and "torch" not in caught.value.why


def test_an_engine_that_was_asked_for_says_all_that_is_missing(backend, bare, linear):
    for call in (backend.prepare, backend.evidence, backend.device, lambda options: backend.open(linear, options)):
        with pytest.raises(RuntimeMissing, match="a TensorRT engine can be neither built nor run here") as caught:
            call({"executor": "engine"})
        assert "no NVIDIA GPU can be used here (nvidia-smi" in caught.value.why
        assert "TensorRT is not installed here (there is no Python module 'tensorrt')" in caught.value.why
        assert "executor=reference" in caught.value.fix and caught.value.exit_code == 3


def test_each_thing_that_is_missing(backend, monkeypatch):
    import torch

    monkeypatch.setattr(tensorrt_api, "import_tensorrt", lambda: tensorrt_api.looked_over(stand_in()))
    monkeypatch.setattr(tensorrt, "_installed", lambda: True)
    lacks = []

    def ask(device="0"):
        tensorrt._usable.cache_clear()
        with pytest.raises(RuntimeMissing) as caught:
            backend.prepare({"executor": "engine", "device": device})
        lacks.append(caught.value.what)
        return caught.value

    monkeypatch.setattr(hardware, "gpus", lambda: ())
    monkeypatch.setattr(tensorrt_gpu, "DRIVER", Path("/nowhere"))
    assert "nvidia-smi" in ask().fix
    with monkeypatch.context() as patch:  # a container without nvidia-smi: torch is asked
        patch.setattr(tensorrt_gpu, "DRIVER", Path(__file__))
        patch.setattr("platform.system", lambda: "Linux")
        patch.setattr(torch.version, "cuda", "13.0")
        patch.setattr(torch.cuda, "is_available", lambda: False)
        assert "nvidia-smi lists no GPU" in ask().why and lacks.pop() == "the NVIDIA driver and torch do not fit each other"
    monkeypatch.setattr(hardware, "gpus", lambda: (GPU_ROW,))
    monkeypatch.setattr(torch.version, "cuda", None)
    assert "built without CUDA" in ask().why and "pip install" in lacks_fix(backend)
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert (
        ask().fix == "unset CUDA_VISIBLE_DEVICES; or ?executor=reference" and lacks.pop() == "the GPUs of this machine are hidden"
    )
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    told = ask()
    assert "the driver is 580.65.06" in told.why and "--index-url https://download.pytorch.org/whl/cu126" in told.fix
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert ask("2").fix == "?device=1"
    assert lacks == [
        "no NVIDIA GPU can be used here",
        "the torch that is installed cannot reach the GPU",
        "the NVIDIA driver and torch do not fit each other",
        "there is no GPU 2",
    ]


def lacks_fix(backend):
    tensorrt._usable.cache_clear()
    return tensorrt.missing(0).fix


def test_a_gpu_without_tensorrt(backend, trt, linear, monkeypatch, capsys):
    broken = RuntimeMissing(
        "TensorRT is installed without its libraries, or they cannot be loaded", why="libnvinfer.so.11", fix="pip"
    )
    monkeypatch.setattr(tensorrt_api, "import_tensorrt", lambda: (_ for _ in ()).throw(broken))
    assert backend.evidence({}) == "reference"
    with pytest.raises(RuntimeMissing, match="without its libraries") as caught:
        backend.evidence({"executor": "engine"})
    assert caught.value.why == "libnvinfer.so.11" and caught.value.fix == "pip"
    assert [backend.open(linear, {"executor": each}).evidence for each in ("reference", "auto", "auto")] == ["reference"] * 3
    said = capsys.readouterr().err.splitlines()  # once, and not to who asked for the reference
    assert said == [f"no engine, the graph is read by reference: {broken.what} (libnvinfer.so.11)"]


def test_with_a_gpu_it_is_the_device(backend, trt):
    here = backend.available()
    assert here.ok and here.notes == () and here.reason.startswith("tensorrt")
    assert backend.evidence({}) == "device" and backend.evidence({"executor": "reference"}) == "reference"
    assert backend.device({}) == {"name": "NVIDIA H200", "kind": "cuda", "memory_bytes": 2**37}
    done = backend.prepare({})
    assert done == {
        "executor": f"TensorRT {trt.__version__}",
        "gpu": "NVIDIA H200",
        "capability": "9.0",
        "tf32": False,
        "cuda_graph": False,
    }
    assert backend.prepare({"opt_level": "5", "workspace": "4GiB"}) == done | {"opt_level": 5, "workspace_bytes": 2**32}
    assert backend.prepare({"executor": "reference"})["reading"] == "pure"


@pytest.mark.parametrize(
    ("text", "size"), [("4GiB", 2**32), ("512", 2**29), ("1.5gib", 3 * 2**29), ("2GB", 2 * 10**9), ("4096 KiB", 2**22), ("", None)]
)
def test_workspace(backend, trt, text, size):
    assert tensorrt.settings({"workspace": text}).workspace_bytes == size


@pytest.mark.parametrize(
    ("options", "word", "fix"),
    [
        ({"executor": "device"}, "unknown executor 'device'", "?executor=auto"),
        ({"executor": "Engine"}, "unknown executor 'Engine'", "?executor=engine"),
        ({"threads": "2"}, "threads=2 would do nothing here", "?executor=reference&threads=2"),
        ({"workspace": "lots"}, "workspace must be memory", "?workspace=4GiB"),
        ({"workspace": "12KiB"}, "workspace must be memory", "?workspace=4GiB"),
        ({"opt_level": "6"}, "opt_level must be 0 to 5", "?opt_level=3"),
        ({"cuda_graph": "yes"}, "unknown cuda_graph 'yes'", "?cuda_graph=true"),
        ({"refit": "1"}, "unknown refit '1'", "?refit=true"),
        ({"tf32": "on"}, "unknown tf32 'on'", "?tf32=true"),
        ({"timeout": "0"}, "timeout must be a number of seconds above 0", "?timeout=3600"),
        ({"timeout": "nan"}, "timeout must be", "?timeout=3600"),
        ({"device": "gpu"}, "device must be a GPU's number", "?device=0"),
        ({"executor": "reference", "device": "1"}, "device=1 would do nothing", "?executor=engine&device=1"),
        ({"executor": "reference", "profile": "T:1/2/3"}, "profile=T:1/2/3 would do nothing", "?executor=engine&profile=T:1/2/3"),
        ({"executor": "reference", "threads": "many"}, "threads must be a number", "?threads=4"),
    ],
)
def test_options_that_are_wrong_or_would_do_nothing(backend, trt, options, word, fix):
    with pytest.raises(UsageError) as caught:
        backend.prepare(options)
    assert word in caught.value.what and fix in caught.value.fix


@pytest.mark.parametrize("name", tensorrt.OF_ENGINE)
def test_what_belongs_to_an_engine_is_refused_without_one(backend, bare, name):
    value = {"cuda_graph": "true", "refit": "true", "tf32": "true", "device": "1", "timing_cache": "off"}.get(name, "3")
    with pytest.raises(UsageError, match=f"{name}={value} would do nothing here") as caught:
        backend.evidence({name: value})
    assert "no" in caught.value.why and caught.value.fix == f"leave {name} out"


def test_an_engine_computes_what_the_reference_computes(backend, trt, linear):
    engine, reference = backend.open(linear, {}), backend.open(linear, {"executor": "reference"})
    assert (engine.evidence, reference.evidence) == ("device", "reference")
    for count in (1, 3, 8):
        np.testing.assert_allclose(engine({"x": rows(count)})["y"], reference({"x": rows(count)})["y"], rtol=1e-6)
    told = engine.describe()
    assert told["executor"] == f"TensorRT {trt.__version__}" and told["opset"] == 20 and told["timing"]["load_seconds"] > 0
    assert told["engine"]["reused"] is False and told["engine"]["key"]["gpu"] == "NVIDIA H200"
    with pytest.raises(ItemError, match="was not built for"):
        engine({"x": rows(9)})
    again = backend.open(linear, {})
    assert again.describe()["engine"]["reused"] and trt.log.count("build") == 1
    for program in (engine, again):
        program.close()


def test_values_inside_come_from_an_engine_of_their_own(backend, trt, linear):
    engine, reference = backend.open(linear, {}), backend.open(linear, {"executor": "reference"})
    (found, seen), (_, wanted) = (each.observe({"x": rows(2)}, ["h"]) for each in (engine, reference))
    np.testing.assert_allclose(seen["h"], wanted["h"], rtol=1e-6)
    np.testing.assert_allclose(found["y"], engine({"x": rows(2)})["y"])
    assert trt.log.count("build") == 2
    with pytest.raises(ModelError, match="value 'q'"):
        engine.observe({"x": rows(2)}, ["q"])


def test_options_reach_the_program(backend, trt, linear, tmp_path):
    program = backend.open(linear, {"cuda_graph": "true", "refit": "true", "profile": "T:1/2/4", "opt_level": "2", "tf32": "true"})
    assert program.graphs is not None
    asked = program.describe()["engine"]["key"]["request"]
    assert (asked["refit"], asked["opt_level"], asked["tf32"]) == (True, 2, True)
    assert asked["profiles"][0]["shapes"]["x"] == [[1, 4], [2, 4], [4, 4]]
    (tmp_path / "more").mkdir()
    other = models.linear(tmp_path / "more" / "other.onnx", scale=2.0)
    before = program({"x": rows(2)})["y"]
    assert program.refit(other) == 1
    after = program({"x": rows(2)})["y"]
    np.testing.assert_allclose(after, backend.open(other, {"executor": "reference"})({"x": rows(2)})["y"], rtol=1e-6)
    assert np.abs(after - before).max() > 1
    with pytest.raises(UsageError, match="keeps the weights it was built with"):
        backend.open(linear, {}).refit(other)


def test_what_is_no_graph_is_refused(backend, trt, tmp_path, linear):
    for name in ("x.engine", "x.plan"):
        (tmp_path / name).write_bytes(b"ftrt")
        with pytest.raises(ModelError, match="is a built engine, not a model"):
            backend.open(tmp_path / name, {})
    with pytest.raises(ModelError, match=r"there is no absent\.onnx"):
        backend.open(tmp_path / "absent.onnx", {})
    with pytest.raises(UsageError, match="has no function 'step'"):
        backend.open(linear, {}, "step")
    with pytest.raises(UsageError, match="evidence of the device"):
        backend.open(linear, {}, None, "host")
