"""What the ONNX backend says about itself, and which executor, provider and reading its options lead to."""

import subprocess
import sys
from importlib import metadata

import numpy as np
import pytest

pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")

from tests.backends.onnx_graphs import BRAIN, HALF, chain, outside, plain, saved  # noqa: E402
from workbench.backends import onnx as onnx_backend  # noqa: E402
from workbench.backends.onnx import PROVIDERS, ONNXBackend, open_reference  # noqa: E402
from workbench.errors import ModelError, RuntimeMissing, UsageError  # noqa: E402
from workbench.registry import backend_names, get_backend  # noqa: E402

X = {"x": np.linspace(-3, 3, 7, dtype=np.float32)}


@pytest.fixture
def backend():
    return ONNXBackend()


def test_asking_imports_no_runtime():
    code = (
        "import sys; import workbench.backends.onnx; from workbench.registry import get_backend\n"
        "b = get_backend('onnx'); assert b.available().ok, b.available(); b.evidence({}); b.device({})\n"
        "assert not {'torch', 'onnx', 'onnxruntime', 'scipy'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
    assert "onnx" in backend_names() and isinstance(get_backend("onnx"), ONNXBackend)


def test_what_is_here(backend, monkeypatch):
    here = backend.available()
    assert here.ok and here.reason == f"onnxruntime {onnxruntime.__version__}, onnx {metadata.version('onnx')}"
    real = metadata.version

    def only(*names):
        def version(asked):
            if asked.startswith("onnx") and asked not in names:
                raise metadata.PackageNotFoundError(asked)
            return real(asked) if asked in ("onnx", "onnxruntime") else "1.30"

        monkeypatch.setattr(metadata, "version", version)

    only("onnx", "onnxruntime-gpu")
    assert backend.available().ok and "onnxruntime-gpu 1.30" in backend.available().reason
    for names, word in ((("onnx",), "onnxruntime is not installed"), (("onnxruntime",), "onnx is not installed")):
        only(*names)
        here = backend.available()
        assert not here.ok and word in here.reason and here.fix == "pip install 'parity-workbench[onnx]'"


@pytest.mark.parametrize("name", ["onnx", "onnxruntime"])
def test_a_broken_import_is_a_missing_runtime(backend, tmp_path, monkeypatch, name):
    path = saved(tmp_path / "plain.onnx", plain())
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(RuntimeMissing) as caught:
        backend.prepare({})
    assert caught.value.fix == "pip install 'parity-workbench[onnx]'" and caught.value.exit_code == 3
    with pytest.raises(RuntimeMissing):
        backend.open(path, {})


def test_on_the_cpu_it_is_a_runtime_of_its_own(backend):
    assert backend.evidence({}) == "host" and backend.device({})["kind"] == "cpu"
    assert backend.prepare({"threads": "2"}) == {
        "executor": "onnxruntime",
        "reading": "optimised",
        "provider": "CPUExecutionProvider",
        "threads": 2,
    }
    assert backend.prepare({"reading": "pure"}) != backend.prepare({})  # another reading is another run
    backend.reset_peak_memory()
    assert backend.peak_memory_bytes() > 10_000_000


@pytest.mark.parametrize("options", [{"executor": "reference"}, {"precision": "bf16"}])
def test_what_onnx_itself_computes_is_a_reference(backend, options):
    assert backend.evidence(options) == "reference" and backend.device(options)["kind"] == "reference"
    assert backend.prepare(options) == {"executor": f"onnx.reference {metadata.version('onnx')}", "reading": "pure"}
    assert backend.evidence({"precision": "bf16", "executor": "onnxruntime"}) == "host"


def test_names_of_providers_are_onnx_runtime_s():
    known = onnxruntime.get_all_providers()
    assert {name for name, _ in PROVIDERS.values()} <= set(known)


@pytest.mark.parametrize(
    ("provider", "fix"),
    [
        ("cuda", "pip uninstall -y onnxruntime && pip install onnxruntime-gpu"),
        ("openvino", "pip uninstall -y onnxruntime && pip install onnxruntime-openvino"),
        ("coreml", "run it on a Mac"),
        ("xnnpack", "build ONNX Runtime with xnnpack"),
    ],
)
def test_providers_that_are_not_in_this_build(backend, tmp_path, monkeypatch, provider, fix):
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["AzureExecutionProvider", "CPUExecutionProvider"])
    path = saved(tmp_path / "plain.onnx", plain())
    for call in (backend.prepare, lambda options: backend.open(path, options)):
        with pytest.raises(RuntimeMissing, match=f"the provider '{provider}' is not in this build") as caught:
            call({"provider": provider})
        assert caught.value.fix.startswith(fix) and caught.value.exit_code == 3 and "brings cpu" in caught.value.why


def test_evidence_of_an_accelerator(backend, monkeypatch):
    assert backend.evidence({"provider": "coreml"}) == "device" and backend.evidence({"provider": "xnnpack"}) == "host"
    monkeypatch.setattr("workbench.backends.hardware.gpus", lambda: ({"name": "H200", "memory_bytes": 7, "driver": "1"},))
    assert backend.device({"provider": "cuda"}) == {"name": "H200", "kind": "cuda", "memory_bytes": 7}
    assert backend.device({"provider": "openvino"})["kind"] == "openvino"


@pytest.mark.parametrize(
    ("options", "word", "fix"),
    [
        ({"provider": "gpu"}, "unknown provider 'gpu'", "?provider=cpu"),
        ({"provider": "CUDAExecutionProvider"}, "unknown provider", "?provider=cuda"),
        ({"executor": "ort"}, "unknown executor 'ort'", "?executor=auto"),
        ({"reading": "optimized"}, "unknown reading 'optimized'", "?reading=optimised"),
        ({"executor": "reference", "provider": "cpu"}, "provider=cpu would do nothing", "leave executor out, or provider"),
        ({"executor": "reference", "threads": "2"}, "threads=2 would do nothing", "leave executor out, or threads"),
        ({"executor": "reference", "reading": "optimised"}, "reading=optimised would do nothing", "leave executor out, or reading"),
        ({"threads": "0"}, "threads must be a number", "?threads=4"),
        ({"threads": "many"}, "threads must be a number", "?threads=4"),
    ],
)
def test_options_that_are_wrong_or_would_do_nothing(backend, options, word, fix):
    for call in (backend.prepare, backend.evidence, backend.device):
        with pytest.raises(UsageError, match=word) as caught:
            call(options)
        assert caught.value.fix == fix


def test_the_executor_is_chosen_by_the_graph(backend, tmp_path):
    half, brain = saved(tmp_path / "half.onnx", chain(HALF)), saved(tmp_path / "brain.onnx", chain(BRAIN))
    one, other = backend.open(half, {}), backend.open(brain, {})
    assert one.describe()["executor"].startswith("onnxruntime") and one.evidence == "host"
    assert other.describe()["executor"].startswith("onnx.reference") and other.evidence == "reference"
    asked = backend.open(brain, {"executor": "onnxruntime", "reading": "pure", "threads": "1"})
    assert asked.evidence == "host" and asked.describe()["threads"] == 1
    np.testing.assert_array_equal(asked(X)["y"], other(X)["y"])
    assert backend.open(half, {"executor": "reference"}).evidence == "reference"


def test_standing_in_for_another_runtime(tmp_path):
    for kind in (HALF, BRAIN):
        program = open_reference(
            saved(tmp_path / "it.onnx", chain(kind)), {"precision": "fp16", "reading": "optimised", "threads": "1"}
        )
        assert program.evidence == "reference"
        told = program.describe()
        assert told["reading"] == "pure" and told["timing"] is None
        assert np.isfinite(program(X)["y"]).all()


def test_one_program_in_a_file(backend, tmp_path):
    path = saved(tmp_path / "plain.onnx", plain())
    assert backend.open(path, {}, function="main").outputs
    with pytest.raises(UsageError, match="has no function 'step'"):
        backend.open(path, {}, function="step")
    with pytest.raises(ModelError, match="there is no none.onnx"):
        backend.open(tmp_path / "none.onnx", {})
    with pytest.raises(ModelError, match="outside its folder"):
        backend.open(outside(tmp_path, location="/etc/hostname"), {})


@pytest.mark.filterwarnings("ignore:Specified provider")
def test_a_provider_that_does_not_load_is_no_cpu_run(backend, tmp_path, monkeypatch):
    """ONNX Runtime falls back to the CPU with a line in its log; times of the CPU would then pass for a GPU's."""
    monkeypatch.setattr(onnx_backend, "find_provider", lambda _: "CUDAExecutionProvider")
    with pytest.raises(RuntimeMissing, match="ONNX Runtime left CUDAExecutionProvider for CPUExecutionProvider"):
        backend.open(saved(tmp_path / "plain.onnx", plain()), {"provider": "cuda"})
