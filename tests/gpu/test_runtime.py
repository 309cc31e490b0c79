"""What TensorRT and the workbench owe each other, on graphs of a few operations."""

from __future__ import annotations

import json
import threading

import numpy as np
import onnx
import onnx.parser
import pytest
from onnx import numpy_helper

from tests.backends.tensorrt_engines import FOUND, ROWS, STEP
from tests.gpu.conftest import GPU
from workbench.errors import ItemError, ModelError

WEIGHT = np.array([[1, -2, 0.5], [0.25, 1, -1], [3, 0, 0.125], [-0.5, 2, 1]], np.float32)
NANS = '<ir_version: 10, opset_import: ["" : 20]> g (float[4] x) => (float[4] y) { y = Sqrt(x) }'
ROWS_PROFILE = "N:1/4/64"


@pytest.fixture(scope="module")
def graph(tmp_path_factory):
    """``graph(text)``: its file; ``graph(text, times=2)``: with its weight multiplied."""
    folder = tmp_path_factory.mktemp("graphs")

    def saved(text, times=1.0):
        model = onnx.parser.parse_model(text)
        for number, node in enumerate(model.graph.node):
            node.name = f"node{number}"
        for each in model.graph.initializer:
            if each.name == "weight":
                each.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(each) * np.float32(times), "weight"))
        path = folder / f"graph{len(list(folder.iterdir()))}.onnx"
        onnx.save(model, path)
        return path

    return saved


@pytest.fixture(scope="module")
def rows(runtime, graph):
    return runtime.open(graph(ROWS), profile=ROWS_PROFILE)


def rows_of(count, seed=0):
    return np.random.default_rng(seed).standard_normal((count, 4)).astype(np.float32)


def test_sizes_that_vary(rows):
    """The right numbers at both ends of the profile and between, back and forth."""
    for count in (1, 7, 64, 7, 2):
        found = rows({"x": rows_of(count, count)})
        np.testing.assert_allclose(found["y"], np.maximum(rows_of(count, count) @ WEIGHT, 0), rtol=1e-4, atol=1e-5)
    with pytest.raises(ItemError, match="was not built for"):
        rows({"x": rows_of(65)})


def test_data_decides_the_shape(runtime, graph):
    """NonZero: the output's memory is asked for while it runs, and its shape told then; none found is an empty array."""
    program = runtime.open(graph(FOUND), profile="N:1/8/1000")
    for count in (5, 900, 1):
        x = np.arange(count, dtype=np.float32) % 3 - 1
        found = program({"x": x})
        np.testing.assert_array_equal(found["places"], np.nonzero(x > 0))
        np.testing.assert_array_equal(found["doubled"], x * 2)
    assert program({"x": -np.ones(4, np.float32)})["places"].shape == (1, 0)


def test_nan_stays_nan(runtime, graph):
    """What the engine computes as NaN comes out as NaN, and nothing else does."""
    found = runtime.open(graph(NANS))({"x": np.array([4, -1, 0, np.inf], np.float32)})["y"]
    np.testing.assert_array_equal(found, np.array([2, np.nan, 0, np.inf], np.float32))


def test_an_engine_from_elsewhere_is_refused(runtime, graph, monkeypatch, tmp_path):
    """One that was built for another GPU, one that was changed, and a plan in the place of a graph; none is given to TensorRT."""
    monkeypatch.setenv("WORKBENCH_CACHE", str(tmp_path))
    path = graph(ROWS)
    runtime.open(path, profile=ROWS_PROFILE)
    (note,) = tmp_path.rglob("engine.json")
    written, plan = json.loads(note.read_text()), note.with_name("engine.plan")
    note.write_text(json.dumps(written | {"key": written["key"] | {"gpu": "NVIDIA A100"}}))
    with pytest.raises(ModelError, match="built for something else: the GPU"):
        runtime.open(path, profile=ROWS_PROFILE)
    note.write_text(json.dumps(written))
    content = bytearray(plan.read_bytes())
    content[len(content) // 2] ^= 0xFF
    plan.write_bytes(content)
    before = runtime.builds()
    assert not runtime.open(path, profile=ROWS_PROFILE).describe()["engine"]["reused"] and runtime.builds() == before + 1
    with pytest.raises(ModelError, match="is a built engine, not a model"):
        runtime.open(plan)


def test_other_weights_for_the_same_engine(runtime, graph):
    """Refitted with another file's weights it computes with them, CUDA graphs included, and builds nothing."""
    program = runtime.open(graph(ROWS), profile=ROWS_PROFILE, refit="true", cuda_graph="true")
    for _ in range(3):
        program({"x": rows_of(4)})
    before = runtime.builds()
    assert program.refit(graph(ROWS, times=-1)) >= 1
    for _ in range(3):
        np.testing.assert_allclose(program({"x": rows_of(4)})["half"], -(rows_of(4) @ WEIGHT) / 2, rtol=1e-4, atol=1e-5)
    assert runtime.builds() == before
    again = runtime.open(graph(ROWS), profile=ROWS_PROFILE, refit="true")
    np.testing.assert_allclose(again({"x": rows_of(4)})["half"], rows_of(4) @ WEIGHT / 2, rtol=1e-4, atol=1e-5)


def test_values_inside_come_out(rows):
    """A marked value is told while the engine runs; one that the graph does not compute is refused by name."""
    _, seen = rows.observe({"x": rows_of(3)}, ["product"])
    np.testing.assert_allclose(seen["product"], rows_of(3) @ WEIGHT, rtol=1e-4, atol=1e-5)
    with pytest.raises(ModelError, match="'nowhere'"):
        rows.observe({"x": rows_of(3)}, ["nowhere"])


def test_tensors_on_the_device_are_read_in_place(runtime, graph):
    """torch's tensors of the GPU go in by address; what is kept is taken by torch without a copy and survives the next calls."""
    import torch

    program = runtime.open(graph(STEP))
    program.keep_on_device(["new_keys"])
    there = torch.full((2, 4), 5.0, device="cuda") if GPU else runtime.device.tensor(np.full((2, 4), 5.0, np.float32))
    kept = program({"tokens": np.array([[3]]), "keys": there})["new_keys"]
    assert program.addresses["keys"] == there.data_ptr()
    assert torch.from_dlpack(kept).data_ptr() == kept.pointer
    for _ in range(4):
        program({"tokens": np.array([[9]]), "keys": kept})
    np.testing.assert_array_equal(kept.numpy(), np.full((2, 4), 8.0, np.float32))
    assert program.copies.on_device["keys"] == program.copies.to_device["keys"] == 0


def test_work_of_another_stream_comes_first(runtime, graph):
    """A tensor that torch still computes on its own stream is waited for."""
    import torch

    program = runtime.open(graph(STEP))
    where = "cuda" if GPU else "cpu"
    large = torch.ones(4096 if GPU else 8, 4096 if GPU else 8, device=where)
    for _ in range(3):
        value = (large @ large)[:2, :4].contiguous()
        found = program({"tokens": np.array([[1]]), "keys": value})["new_keys"]
        np.testing.assert_array_equal(found, np.full((2, 4), large.shape[0] + 1, np.float32))


def test_several_threads(rows):
    """Calls of other sizes from several threads wait for each other, and each gets its own answer."""
    wrong = []

    def work(seed):
        for number in range(8):
            x = rows_of((seed * 7 + number) % 60 + 1, seed)
            if not np.allclose(rows({"x": x})["half"], x @ WEIGHT / 2, atol=1e-4):
                wrong.append(seed)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


@pytest.mark.skipif(not GPU, reason="asks the machine")
def test_this_machine_is_told(runtime, record_property):
    """Names and versions of what the contract was tried with."""
    import torch

    record_property("found", f"{torch.cuda.get_device_name(0)}, TensorRT {runtime.api.version}, torch {torch.__version__}")
    assert runtime.backend.evidence({}) == "device" and runtime.backend.device({})["kind"] == "cuda"


@pytest.mark.skipif(not GPU, reason="needs a GPU")
def test_torch_on_the_gpu_beside_the_cpu(record_property):
    """torch's own CUDA route, for comparison: fp32 products without TF32 agree with the CPU's."""
    import torch

    torch.backends.cuda.matmul.allow_tf32 = False
    left, right = torch.randn(256, 256), torch.randn(256, 256)
    far = float((left.cuda() @ right.cuda()).cpu().sub(left @ right).norm() / (left @ right).norm())
    record_property("torch cuda", f"{far:.1e} from the CPU")
    assert far < 1e-5


@pytest.mark.skipif(not GPU, reason="needs a GPU")
def test_mlx_on_the_gpu_beside_the_cpu(record_property):
    """MLX's CUDA build, where it is installed: the default device is the GPU, and its products agree with the CPU's."""
    mx = pytest.importorskip("mlx.core")
    if mx.default_device().type != mx.DeviceType.gpu:
        pytest.skip("this MLX has no CUDA: pip install 'mlx[cuda13]'")
    left, right = mx.random.normal((256, 256)), mx.random.normal((256, 256))
    there, here = np.array(left @ right), np.array(mx.matmul(left, right, stream=mx.cpu))
    far = float(np.linalg.norm(there - here) / np.linalg.norm(here))
    record_property("mlx cuda", f"{far:.1e} from the CPU")
    assert far < 1e-2  # MLX may multiply in TF32
