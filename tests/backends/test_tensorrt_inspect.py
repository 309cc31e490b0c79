"""Looking into engines: values inside, layers, and other weights."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from tests.backends.tensorrt_engines import FOUND, ROWS, STEP, Maker
from workbench.backends import tensorrt_inspect
from workbench.backends.tensorrt_program import EngineProgram
from workbench.errors import ModelError, UsageError

PROFILE = {"x": [(1, 4), (2, 4), (8, 4)]}
WEIGHT = np.array([[1, -2, 0.5], [0.25, 1, -1], [3, 0, 0.125], [-0.5, 2, 1]], np.float32)
X = np.linspace(-1, 1, 8, dtype=np.float32).reshape(2, 4)


@pytest.fixture(scope="module")
def maker(tmp_path_factory):
    return Maker(tmp_path_factory.mktemp("inspect"))


def doubled(model):
    """The same graph with its weight doubled."""
    weight = next(each for each in model.graph.initializer if each.name == "weight")
    weight.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(weight) * 2, "weight"))


def test_values_inside(maker):
    """Marked values, outputs and both together; a second look at the same values builds nothing."""
    program = maker.program(ROWS, [PROFILE, {"x": [(9, 4), (9, 4), (9, 4)]}])
    outputs, seen = program.observe({"x": X}, ["product", "y"])
    np.testing.assert_allclose(seen["product"], X @ WEIGHT, rtol=1e-6)
    np.testing.assert_array_equal(seen["y"], outputs["y"])
    np.testing.assert_array_equal(outputs["half"], program({"x": X})["half"])
    built = maker.trt.log.count("build")
    again = program.observe({"x": X * 2}, ["product"])[1]["product"]
    np.testing.assert_allclose(again, 2 * X @ WEIGHT, rtol=1e-6)
    np.testing.assert_allclose(seen["product"], X @ WEIGHT, rtol=1e-6)
    tall = np.tile(X[:1], (9, 1))
    np.testing.assert_allclose(program.observe({"x": tall}, ["product"])[1]["product"], tall @ WEIGHT, rtol=1e-6)
    assert maker.trt.log.count("build") == built
    program.keep_on_device(["y"])
    assert isinstance(program.observe({"x": X}, ["y"])[1]["y"], np.ndarray) and maker.trt.log.count("build") == built
    program.close()


def test_values_whose_shape_the_data_decides(maker):
    """An observed value may be there beside an allocated output."""
    program = maker.program(FOUND, [{"x": [(0,), (4,), (8,)]}])
    x = np.array([1, -1, 2], np.float32)
    outputs, seen = program.observe({"x": x}, ["positive"])
    np.testing.assert_array_equal(seen["positive"], [1, 0, 2])
    np.testing.assert_array_equal(outputs["places"], [[0, 2]])


def test_values_that_cannot_be_seen(maker):
    """No such value; one that no engine was built for; one that never came: each says so."""
    program = maker.program(ROWS, [PROFILE])
    with pytest.raises(ModelError, match="'nowhere' of the graph cannot be observed"):
        program.observe({"x": X}, ["product", "nowhere"])
    with pytest.raises(ModelError, match="'weight'"):
        program.observe({"x": X}, ["weight"])
    program.again = lambda names: maker.engine(maker.graph(ROWS), [PROFILE])
    with pytest.raises(ModelError, match="not marked when it was built"):
        program.observe({"x": X}, ["product"])
    program.again = None
    with pytest.raises(ModelError, match="not at hand"):
        program.observe({"x": X}, ["product"])
    listener = tensorrt_inspect.Listener(maker.api, maker.device, ["product"])
    with pytest.raises(ModelError, match="never computed"):
        listener.found()


def test_a_listener_that_fails_is_heard(maker, monkeypatch):
    """An exception may not cross the library; it is raised after the call."""
    program = maker.program(ROWS, [PROFILE])
    monkeypatch.setattr(maker.device, "view", lambda address, size: (_ for _ in ()).throw(RuntimeError("no such memory")))
    with pytest.raises(RuntimeError, match="no such memory"):
        program.observe({"x": X}, ["product"])


def test_the_inspector_tells_the_layers(maker):
    """What the builder made, as mappings; what cannot be read is an error."""
    program = maker.program(ROWS, [PROFILE])
    layers = program.inspect()["Layers"]
    assert [layer["LayerType"] for layer in layers] == ["MatMul", "Relu", "Div"]

    class Silent:
        def create_engine_inspector(self):
            return self

        def get_engine_information(self, format):
            return ""

    with pytest.raises(ModelError, match="tells nothing"):
        tensorrt_inspect.dump(Silent(), None, maker.api)


@pytest.mark.parametrize("cuda_graph", [False, True])
def test_other_weights_for_the_same_engine(maker, cuda_graph):
    """Refitted, it computes with the new weights, graphs included; nothing is built; values inside are refused from then on."""
    program = maker.program(ROWS, [PROFILE], refit=True, cuda_graph=cuda_graph)
    for _ in range(3):
        program({"x": X})
    built = maker.trt.log.count("build")
    assert program.refit(maker.graph(ROWS, doubled)) == 2
    for _ in range(3):
        np.testing.assert_allclose(program({"x": X})["half"], X @ WEIGHT, rtol=1e-6)
    assert maker.trt.log.count("build") == built and program.describe()["engine"]["refitted"].endswith(".onnx")
    with pytest.raises(ModelError, match="cannot be observed"):
        program.observe({"x": X}, ["product"])
    if cuda_graph:
        assert program.describe()["cuda_graph"]["captured"] == 2


def test_what_does_not_refit(maker):
    """An engine not built for it, and weights of another graph; the engine stays as it was."""
    with pytest.raises(UsageError, match="keeps the weights"):
        maker.program(ROWS, [PROFILE]).refit(maker.graph(ROWS))
    program = maker.program(ROWS, [PROFILE], refit=True)
    with pytest.raises(ModelError, match="do not fit the engine") as caught:
        program.refit(maker.graph(STEP))
    assert "do not match" in caught.value.why
    np.testing.assert_allclose(program({"x": X})["half"], X @ WEIGHT / 2, rtol=1e-6)


def test_a_torn_engine_is_not_run(maker, monkeypatch):
    """Where only some weights may be new, nothing is computed any more."""
    program = maker.program(ROWS, [PROFILE], refit=True)
    monkeypatch.setattr(maker.trt.Refitter, "refit_cuda_engine", lambda self: False)
    with pytest.raises(ModelError, match="could not take the weights"):
        program.refit(maker.graph(ROWS, doubled))
    with pytest.raises(ModelError, match="could not take the weights"):
        program({"x": X})
    program.close()


def test_types_no_array_has(maker):
    """An engine whose input is FP8 is refused by name when it is opened."""

    class Odd:
        num_io_tensors = num_optimization_profiles = 1

        def get_tensor_name(self, index):
            return "x"

        def get_tensor_dtype(self, name):
            return maker.trt.DataType.FP8

    with pytest.raises(ModelError, match="'x' is FP8"):
        EngineProgram(Odd(), api=maker.api, device=maker.device, name="odd.engine")


def test_an_engine_without_room(maker):
    """A context that TensorRT cannot make is the model's error when it is opened."""
    engine = maker.engine(maker.graph(ROWS), [PROFILE])

    def none(self):
        maker.api.logger.log(maker.trt.ILogger.Severity.ERROR, "Requested size was 99 bytes, out of memory")

    original = type(engine).create_execution_context
    type(engine).create_execution_context = none
    try:
        with pytest.raises(ModelError, match="memory is not enough"):
            EngineProgram(engine, api=maker.api, device=maker.device, name="rows.onnx")
    finally:
        type(engine).create_execution_context = original


def test_the_graph_stays_what_it_was(maker):
    """Nothing here writes to a graph's file."""
    path = maker.graph(ROWS)
    before = path.read_bytes()
    maker.engine(path, [PROFILE], ["product"])
    assert path.read_bytes() == before and onnx.load(path).graph.output[0].name == "y"
