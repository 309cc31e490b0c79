"""Graphs as files: the same bytes, every weight once, nothing of this machine."""

import json
import re

import numpy as np
import pytest

onnx = pytest.importorskip("onnx")
ir = pytest.importorskip("onnx_ir")

from tests.convert.onnx_stages import language_graph  # noqa: E402
from workbench.convert.onnx import saving  # noqa: E402
from workbench.convert.onnx.describing import arrays_of, checked, ops_of, packages_of, types_of  # noqa: E402
from workbench.convert.onnx.recipe import Recipe  # noqa: E402
from workbench.convert.onnx.saving import WEIGHTS, save  # noqa: E402
from workbench.convert.onnx.weights import stored, weight_report  # noqa: E402
from workbench.errors import ModelError  # noqa: E402


def graph_of(weight, name="w", scale=2.0):
    """x (3, N) @ weight * scale, with the weight outside and the scale inside."""
    value = ir.Value(name=name, const_value=ir.tensor(weight, name=name), type=ir.TensorType(ir.DataType.FLOAT))
    value.shape = ir.Shape(weight.shape)
    small = ir.Value(name="scale", const_value=ir.tensor(np.float32([scale]), name="scale"), shape=ir.Shape([1]))
    small.type = ir.TensorType(ir.DataType.FLOAT)
    given = ir.Value(name="x", shape=ir.Shape([3, weight.shape[0]]), type=ir.TensorType(ir.DataType.FLOAT))
    product = ir.node("MatMul", [given, value], metadata_props={"pkg.torch.onnx.stack_trace": "/home/someone/model.py"})
    found = ir.node("Mul", [product.outputs[0], small])
    product.outputs[0].name, found.outputs[0].name = "product", "y"
    found.outputs[0].type, found.outputs[0].shape = ir.TensorType(ir.DataType.FLOAT), ir.Shape([3, weight.shape[1]])
    graph = ir.Graph([given], found.outputs, nodes=[product, found], initializers=[value, small], opset_imports={"": 20}, name="g")
    return ir.Model(graph, ir_version=10, producer_version="/home/someone")


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("saved")
    save({"prefill": language_graph().model.clone()}, folder)
    return folder


def test_the_same_model_is_the_same_bytes(saved, tmp_path):
    save({"prefill": language_graph().model.clone()}, tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {
        path.name: path.read_bytes() for path in saved.iterdir()
    }


def test_nothing_of_this_machine_is_in_a_file(saved):
    content = (saved / "prefill.onnx").read_bytes()
    assert not re.search(rb"\.py|pkg\.torch|stack_trace|/home|/tmp|site-packages", content)
    proto = onnx.load(saved / "prefill.onnx", load_external_data=False)
    assert [each.key for each in proto.metadata_props] == ["workbench.ranges"]
    assert not any(node.metadata_props or node.doc_string for node in proto.graph.node)
    assert proto.graph.name == "prefill" and proto.producer_name == "parity-workbench"


def test_the_graph_in_memory_keeps_its_notes(saved):
    assert any(node.metadata_props for node in language_graph().model.graph)


def test_contents_are_stored_once_over_stages_and_names(tmp_path):
    weight = np.random.default_rng(0).standard_normal((40, 30)).astype(np.float32)
    other = weight + 1
    save({"a": graph_of(weight), "b": graph_of(weight, "another_name"), "c": graph_of(other)}, tmp_path)
    places = {}
    for name in "abc":
        (tensor,) = [
            each for each in onnx.load(tmp_path / f"{name}.onnx", load_external_data=False).graph.initializer if each.dims[0] > 1
        ]
        places[name] = {each.key: each.value for each in tensor.external_data}
        loaded = onnx.numpy_helper.to_array(onnx.load(tmp_path / f"{name}.onnx").graph.initializer[0])
        assert np.array_equal(loaded, other if name == "c" else weight)
    assert places["a"] == places["b"] != places["c"] and places["a"]["location"] == WEIGHTS
    assert (tmp_path / WEIGHTS).stat().st_size < 2 * weight.nbytes + saving.LINE
    packages, shared = packages_of(tmp_path)
    assert packages["a.onnx"]["weights"] == shared[WEIGHTS]["sha256"]


def test_large_contents_begin_at_a_page_and_small_ones_stay_inside(tmp_path):
    small, large = np.ones((30, 20), np.float32), np.zeros((600, 600), np.float32)
    save({"a": graph_of(small), "b": graph_of(large)}, tmp_path)
    offsets = {
        name: int(next(each.value for each in tensor.external_data if each.key == "offset"))
        for name in "ab"
        for tensor in onnx.load(tmp_path / f"{name}.onnx", load_external_data=False).graph.initializer
        if tensor.data_location == onnx.TensorProto.EXTERNAL
    }
    assert offsets == {"a": 0, "b": saving.PAGE}
    proto = onnx.load(tmp_path / "a.onnx", load_external_data=False)
    assert [each.name for each in proto.graph.initializer if each.data_location != onnx.TensorProto.EXTERNAL] == ["scale"]


def test_a_graph_of_small_constants_has_no_weights_beside_it(tmp_path):
    save({"main": graph_of(np.ones((3, 2), np.float32))}, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["main.onnx"]
    assert packages_of(tmp_path)[0]["main.onnx"]["weights"] is None and packages_of(tmp_path)[1] == {}


def test_what_a_manifest_says_of_a_file(saved):
    proto = checked(saved / "prefill.onnx")
    arrays = arrays_of(proto)
    assert arrays["inputs"][0] == {"name": "tokens", "dtype": "int32", "shape": [1, None], "range": [[1, 1], [2, 24]]}
    assert arrays["outputs"][1]["shape"] == [1, None, 32] and arrays["outputs"][1]["range"][1] == [0, None]
    assert arrays["states"] == [] and ops_of(proto)["LayerNormalization"] == 2
    assert types_of(proto)["fp32"] > 20 and "unknown" not in types_of(proto)


def test_a_graph_that_contradicts_itself_is_refused(tmp_path):
    model = graph_of(np.ones((3, 2), np.float32))
    model.graph[0].op_type = "NoSuchOp"
    save({"main": model}, tmp_path)
    with pytest.raises(ModelError, match="main.onnx is no valid ONNX graph"):
        checked(tmp_path / "main.onnx")


def test_every_weight_has_a_row(saved):
    rows = {row["name"]: row for row in weight_report(saved / "prefill.onnx", language_graph(), Recipe())}
    head = rows["head.weight.transposed"]
    assert (head["parameter"], head["how"], head["tied"]) == ("head.weight", "transposed", ["embeddings.weight"])
    assert head["checkpoint"] == "model.embed.weight" and head["readers"][0][1] == "MatMul" and head["error"] == 0.0
    assert head["stored_bytes"] == head["dense_bytes"] == 40 * 32 * 4 and not head["compressed"] and head["asked"] is None
    assert rows["blocks.1.query.weight.transposed"]["layer"] == "text.block.1"
    assert json.loads(json.dumps(list(rows.values()))) == list(rows.values())


def test_a_damaged_weight_shows_in_its_error(saved, tmp_path):
    for path in saved.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    place = next(each for each in stored(tmp_path / "prefill.onnx") if each.name == "blocks.0.out").tensor.offset
    with open(tmp_path / WEIGHTS, "r+b") as file:
        file.seek(place)
        file.write(np.full(64, 3, np.float32).tobytes())
    rows = weight_report(tmp_path / "prefill.onnx", language_graph(), Recipe())
    assert [row["name"] for row in rows if row["error"]] == ["blocks.0.out"]


@pytest.mark.parametrize("shape", [(), (5,), (0, 3), (7, 6)])
def test_the_error_of_a_weight_is_the_same_by_blocks(shape, monkeypatch):
    from workbench.convert.coreml import sources

    monkeypatch.setattr(sources, "BLOCK", 12)
    drawn = np.random.default_rng(1)
    found, wanted = (np.asarray(drawn.standard_normal(shape), np.float32) for _ in range(2))
    right = np.linalg.norm(found.astype(float) - wanted) / (np.linalg.norm(wanted) or 1.0)
    assert sources.relative_l2(found, wanted) == pytest.approx(right)
    assert sources.relative_l2(found, 0 * wanted) == pytest.approx(np.linalg.norm(found))
