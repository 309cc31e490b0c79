"""Q/DQ of int8 graphs: scales against numpy over ONNX Runtime's activations, weights and whole products against torch's fake quantisation,
places against the graph as it was, bytes against another process."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy
import pytest

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
torch = pytest.importorskip("torch")
from onnx import helper, numpy_helper  # noqa: E402

from tests.convert.onnx_int8_models import inner_values, mixed, one_product, samples, session, weights  # noqa: E402
from workbench.convert.onnx import calibration  # noqa: E402
from workbench.convert.onnx.placement import About  # noqa: E402
from workbench.convert.onnx.quantizing import quantize  # noqa: E402
from workbench.convert.onnx.recipe import Recipe  # noqa: E402
from workbench.errors import DataError, UsageError  # noqa: E402

RECIPE = Recipe(precision="int8-qdq").check()
PRODUCTS = {
    "stem_conv": ("sound", "conv", 0),
    "up_conv": ("stem", "up", 1),
    "query_product": ("hidden", "query", 1),
    "down_product": ("rows", "down", 0),
    "head_product": ("final", "table.transposed", 1),
}
"""Node -> its activation, its weight, the weight's axis of output channels."""


class Made:
    def __init__(self, folder: Path):
        self.before, self.after, self.feeds = mixed(folder), folder / "int8.onnx", samples(8)
        self.report = quantize(self.before, self.after, self.feeds, RECIPE)
        self.graph = onnx.load(self.after).graph
        self.tensors = {each.name: numpy_helper.to_array(each) for each in self.graph.initializer}
        self.makers = {name: node for node in self.graph.node for name in node.output}
        self.nodes = {node.name: node for node in self.graph.node}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    return Made(tmp_path_factory.mktemp("int8"))


def test_activation_scales_are_the_largest_value_over_127(made):
    found = inner_values(made.before, made.feeds, [activation for activation, _, _ in PRODUCTS.values()])
    rows = {row["value"]: row for row in made.report["activations"]}
    assert list(rows) == list(found)
    for value, arrays in found.items():
        largest = max(float(numpy.abs(array).max()) for array in arrays)
        assert rows[value]["scale"] == pytest.approx(largest / 127, rel=1e-6)
        assert rows[value]["values"] == sum(array.size for array in arrays)
        assert max(map(abs, rows[value]["seen"])) == largest == rows[value]["threshold"]


def test_weights_are_torchs_fake_quantised_ones(made):
    """torch.ao's observer finds the scales, and torch.fake_quantize_per_channel_affine the values."""
    from torch.ao.quantization.observer import PerChannelMinMaxObserver

    floats = weights() | {"table.transposed": weights()["table"].T}
    rows = {row["name"]: row for row in made.report["weights"]}
    assert set(rows) == {weight for _, weight, _ in PRODUCTS.values()}
    for _, name, axis in PRODUCTS.values():
        value = torch.from_numpy(numpy.ascontiguousarray(floats[name]))
        observer = PerChannelMinMaxObserver(axis, torch.qint8, torch.per_channel_symmetric, quant_min=-127, quant_max=127)
        observer(value)
        scale, zero = observer.calculate_qparams()
        expected = torch.fake_quantize_per_channel_affine(value, scale, zero.int(), axis, -127, 127).numpy()
        row, integers = rows[name], made.tensors[rows[name]["stored"]]
        stored = made.tensors[f"{name}_scale"]
        assert integers.dtype == numpy.int8 and row["axis"] == axis and row["channels"] == value.shape[axis] == stored.size
        numpy.testing.assert_allclose(stored, scale.numpy(), rtol=1e-6)
        across = stored.reshape([-1 if each == axis else 1 for each in range(value.ndim)])
        numpy.testing.assert_allclose(integers * across, expected, rtol=1e-5, atol=1e-7)
        assert row["error"] == pytest.approx(float((torch.from_numpy(expected) - value).norm() / value.norm()), rel=1e-3)
        assert row["stored_bytes"] == integers.nbytes + stored.nbytes < row["dense_bytes"]


def test_every_product_computes_what_torch_does_with_rounded_factors(made):
    """Also what Gemm's beta and the biases make: they are not rounded, and not lost."""
    floats = {name: torch.from_numpy(value) for name, value in weights().items()}
    scales = {row["value"]: row["scale"] for row in made.report["activations"]}
    names = ["stem", "wide", "q", "projected", "logits"]
    got = inner_values(made.after, made.feeds, list(dict.fromkeys([*names, *scales])))

    def near(value):
        return torch.fake_quantize_per_tensor_affine(value, scales[given], 0, -128, 127)

    for call in range(len(made.feeds)):
        for (given, weight, axis), result in zip(PRODUCTS.values(), names, strict=True):
            value = floats["table"].T.contiguous() if weight == "table.transposed" else floats[weight]
            scale = value.abs().amax([each for each in range(value.ndim) if each != axis]) / 127
            w = torch.fake_quantize_per_channel_affine(value, scale, torch.zeros(len(scale), dtype=torch.int32), axis, -127, 127)
            x = near(torch.from_numpy(got[given][call]))
            if result == "stem":
                expected = torch.nn.functional.conv1d(x, w, floats["bias"], padding=1)
            elif result == "wide":
                expected = torch.nn.functional.conv_transpose1d(x, w, stride=2)
            elif result == "projected":
                expected = x @ w.T + 0.5 * floats["bias"]
            else:
                expected = x @ w
            torch.testing.assert_close(torch.from_numpy(got[result][call]), expected, rtol=1e-5, atol=1e-5)


def test_zero_points_are_zero_and_biases_float(made):
    """TensorRT's parser refuses other zero points, and int32 biases."""
    quantised = [node for node in made.graph.node if node.op_type in ("QuantizeLinear", "DequantizeLinear")]
    assert quantised
    for node in quantised:
        zero = made.tensors[node.input[2]]
        assert zero.dtype == numpy.int8 and not zero.any() and (made.tensors[node.input[1]] > 0).all()
    assert made.nodes["stem_conv"].input[2] == "bias" and made.tensors["bias"].dtype == numpy.float32


def test_the_report_shows_the_places_that_the_graph_has(made):
    shown = {row["node"]: [each["read"] for each in row["quantized"]] for row in made.report["placement"]}
    read = {node.name: list(node.input[:2]) for node in made.graph.node if node.name in shown}
    assert shown == read and list(shown) == list(PRODUCTS)
    for name, (activation, weight, _) in PRODUCTS.items():
        first, second = (made.makers[each] for each in read[name])
        assert first.op_type == second.op_type == "DequantizeLinear"
        assert made.makers[first.input[0]].op_type == "QuantizeLinear" and made.makers[first.input[0]].input[0] == activation
        assert second.input[0] == f"{weight}_quantized" and second.input[0] in made.tensors
    assert made.report["placement"][0]["float"] == ["bias"]
    assert {row["node"]: row["reason"] for row in made.report["left"]} == {
        "scores_product": "two activations are multiplied: there is no weight"
    }
    assert json.loads(json.dumps(made.report)) == made.report


def test_nothing_else_in_the_graph_changes(made):
    """The residual additions, the mask, the look-up, the second output: each reads the value that it read before."""
    before = onnx.load(made.before).graph
    theirs = {node.name: node for node in before.node}
    gone = {"head_turned"}  # the head has its own int8 table; the look-up keeps the float one
    new = [name for name in made.nodes if name not in theirs]
    assert all(made.nodes[name].op_type in ("QuantizeLinear", "DequantizeLinear") for name in new)
    assert set(theirs) - set(made.nodes) == gone
    for name in set(theirs) - gone - set(PRODUCTS):
        assert made.nodes[name] == theirs[name]
    for name in PRODUCTS:
        assert made.nodes[name].input[2:] == theirs[name].input[2:] and made.nodes[name].attribute == theirs[name].attribute
    assert [each for each in made.graph.output] == [each for each in before.output]
    numpy.testing.assert_array_equal(made.tensors["table"], weights()["table"])
    assert {"conv", "up", "query", "down"}.isdisjoint(made.tensors)
    assert all(abs(row["threshold"]) < 1000 for row in made.report["activations"]), "a mask's -30000 has no scale"


def test_what_only_rounded_values_would_change_is_exact(made):
    feed = {**made.feeds[0], "sound": numpy.zeros_like(made.feeds[0]["sound"])}
    embedded = inner_values(made.after, [feed], ["embedded"])["embedded"][0]
    numpy.testing.assert_array_equal(embedded, weights()["table"][feed["tokens"]])


@pytest.mark.parametrize("optimised", [False, True])
def test_the_graph_runs_near_the_float_one(made, optimised):
    small, whole = session(made.after, optimised=optimised), session(made.before)
    for feed in made.feeds:  # on others a value beyond its range would be cut off
        for got, expected in zip(small.run(None, feed), whole.run(None, feed), strict=True):
            assert 1e-6 < numpy.linalg.norm(got - expected) / numpy.linalg.norm(expected) < 0.05


@pytest.mark.parametrize("method", ["max", "entropy", "percentile"])
def test_other_samples_give_other_scales_and_the_same_samples_the_same_bytes(tmp_path, method):
    path, recipe = mixed(tmp_path), Recipe(precision="int8-qdq", calibration=method).check()
    outs = [tmp_path / f"{name}.onnx" for name in "abc"]
    first, again, other = (
        quantize(path, out, feeds, recipe)
        for out, feeds in zip(outs, (samples(6), samples(6), samples(6, seed=4, size=3)), strict=True)
    )
    assert first == again and outs[0].read_bytes() == outs[1].read_bytes()
    assert first["method"] == method and first["samples"]["count"] == 6
    assert first["samples"]["sha256"] != other["samples"]["sha256"]
    for ours, theirs in zip(first["activations"], other["activations"], strict=True):
        assert ours["scale"] != theirs["scale"], ours["value"]
    assert [row["scales"] for row in first["weights"]] == [row["scales"] for row in other["weights"]]


def test_another_process_writes_the_same_bytes(made, tmp_path):
    code = (
        "import sys, pathlib; from tests.convert.onnx_int8_models import mixed, samples;"
        "from workbench.convert.onnx.quantizing import quantize; from workbench.convert.onnx.recipe import Recipe;"
        "folder = pathlib.Path(sys.argv[1]); quantize(mixed(folder), folder / 'out.onnx', samples(8), Recipe(precision='int8-qdq').check())"
    )
    root = Path(__file__).parents[2]
    environment = {**os.environ, "PYTHONHASHSEED": "77", "PYTHONPATH": str(root)}
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True, env=environment, cwd=root)
    digests = [hashlib.sha256(path.read_bytes()).hexdigest() for path in (tmp_path / "out.onnx", made.after)]
    assert digests[0] == digests[1]


@pytest.mark.parametrize(
    ("pattern", "left"),
    [
        ("MatMul", {"query_product", "head_product", "scores_product"}),
        ("logits", {"head_product", "scores_product"}),
        ("stem_*", {"stem_conv", "scores_product"}),
        ("text.block.1", {"down_product", "scores_product"}),
        ("text.block.*", {"down_product", "query_product", "scores_product"}),
    ],
)
def test_what_keep_fp32_names_takes_no_qdq(made, tmp_path, pattern, left):
    about = About(
        origins={"q": {"module": "layers.0.q", "line": "m.py:3"}, "projected": {"module": "layers.1.mlp.down"}},
        layers={"layers.0": "text.block.0", "layers.1": "text.block.1"},
    )
    recipe = Recipe(precision="int8-qdq", keep_fp32=(pattern, "nothing")).check()
    report = quantize(made.before, tmp_path / "out.onnx", made.feeds, recipe, about=about)
    assert {row["node"] for row in report["left"]} == left and report["patterns"] == [pattern]
    assert {row["node"] for row in report["placement"]} == set(PRODUCTS) - left
    graph = onnx.load(tmp_path / "out.onnx").graph
    nodes = {node.name: node for node in onnx.load(made.before).graph.node}
    assert all(node == nodes[node.name] for node in graph.node if node.name in left)
    rows = {row["node"]: row for row in [*report["left"], *report["placement"]]}
    assert (rows["query_product"]["layer"], rows["query_product"]["line"]) == ("text.block.0", "m.py:3")


def test_a_graph_with_qdq_takes_no_more(made, tmp_path):
    report = quantize(made.after, tmp_path / "twice.onnx", made.feeds, RECIPE)
    assert report["placement"] == report["weights"] == report["activations"] == []
    assert {row["reason"] for row in report["left"] if row["node"] in PRODUCTS} == {"it has Q/DQ already"}
    assert onnx.load(tmp_path / "twice.onnx").graph.node == made.graph.node


def test_beyond_one_message_weights_are_written_outside(made, tmp_path, monkeypatch):
    monkeypatch.setattr(calibration, "LARGE_BYTES", 100)
    report = quantize(made.before, tmp_path / "out.onnx", made.feeds, RECIPE)
    assert report == made.report
    assert sorted(each.name for each in tmp_path.iterdir()) == ["out.onnx", "out.onnx.data"]
    for got, expected in zip(
        session(tmp_path / "out.onnx").run(None, made.feeds[0]), session(made.after).run(None, made.feeds[0]), strict=True
    ):
        numpy.testing.assert_array_equal(got, expected)


def test_a_weight_of_two_products_is_stored_once_and_by_axis(tmp_path):
    """Read by a MatMul (channels on axis 1) and by a Gemm with transB (axis 0)."""
    square = numpy.random.default_rng(0).normal(size=(4, 4)).astype(numpy.float32)
    before = [
        helper.make_node("MatMul", ["x", "square"], ["a"], "one"),
        helper.make_node("MatMul", ["a", "square"], ["b"], "two"),
        helper.make_node("Gemm", ["b", "square"], ["c"], "three", transB=1),
    ]
    path = one_product(tmp_path, before, "c", square=square)
    report = quantize(path, tmp_path / "out.onnx", [{"x": numpy.ones((2, 4), numpy.float32)}], RECIPE)
    rows = {row["stored"]: row for row in report["weights"]}
    assert {name: (row["axis"], row["readers"]) for name, row in rows.items()} == {
        "square_quantized": (1, ["a", "b"]),
        "square_axis0_quantized": (0, ["c"]),
        "matrix_quantized": (1, ["y"]),
    }
    assert all(row["error"] < 0.01 for row in report["weights"])


def test_constant_nodes_are_weights_and_vectors_and_left_factors_are_not(tmp_path):
    stored = numpy_helper.from_array(numpy.random.default_rng(0).normal(size=(4, 4)).astype(numpy.float32))
    column, square = numpy.ones((4, 1), numpy.float32), numpy.eye(4, dtype=numpy.float32)
    before = [
        helper.make_node("Constant", [], ["held"], "held", value=stored),
        helper.make_node("MatMul", ["x", "held"], ["a"], "by_constant"),
        helper.make_node("MatMul", ["a", "column"], ["b"], "by_vector"),
        helper.make_node("Mul", ["a", "b"], ["c"], "times"),
        helper.make_node("Transpose", ["c"], ["turned"], "turned", perm=[1, 0]),
        helper.make_node("MatMul", ["square", "turned"], ["d"], "from_left"),
        helper.make_node("Transpose", ["d"], ["e"], "turned_back", perm=[1, 0]),
    ]
    path = one_product(tmp_path, before, "e", column=column, square=square)
    report = quantize(path, tmp_path / "out.onnx", [{"x": numpy.ones((2, 4), numpy.float32)}], RECIPE)
    assert [row["node"] for row in report["placement"]] == ["by_constant", "product"]
    assert {row["node"]: row["reason"].split(":")[0] for row in report["left"]} == {
        "by_vector": "its weight is a vector",
        "from_left": "its weight is the first factor",
    }
    assert "held" not in {node.name for node in onnx.load(tmp_path / "out.onnx").graph.node}


@pytest.mark.parametrize(
    ("shape", "group", "words"),
    [
        ((16, 3, 3, 3), 1, None),
        ((8, 3, 3, 3), 1, "3 to 8 channels"),
        ((16, 3, 1, 3), 1, "3 to 16 channels"),
        ((16, 1, 3, 3), 16, None),
        ((12, 1, 3, 3), 12, "multiples of 8"),
    ],
)
def test_convolutions_without_an_int8_kernel_stay_float(tmp_path, shape, group, words):
    from tests.convert.onnx_int8_models import info, written

    tensor = numpy_helper.from_array(numpy.ones(shape, numpy.float32), "w")
    image = [1, shape[1] * group, 5, 5]
    node = helper.make_node("Conv", ["x", "w"], ["y"], "conv", group=group)
    path = written(
        helper.make_graph([node], "g", [info("x", image)], [info("y", [1, "C", "H", "W"])], [tensor]), tmp_path / "c.onnx", 20
    )
    report = quantize(path, tmp_path / "out.onnx", [{"x": numpy.ones(image, numpy.float32)}], RECIPE)
    assert [words in row["reason"] for row in report["left"]] == ([True] if words else [])
    assert len(report["placement"]) == (0 if words else 1)


def test_a_value_that_is_always_zero_leaves_its_product_float(tmp_path):
    before = [
        helper.make_node("Mul", ["x", "none"], ["nothing"], "times_zero"),
        helper.make_node("MatMul", ["nothing", "square"], ["gone"], "dead"),
        helper.make_node("Add", ["x", "gone"], ["sum"], "sum"),
    ]
    zeros = {"none": numpy.zeros(1, numpy.float32), "square": numpy.eye(4, dtype=numpy.float32)}
    path = one_product(tmp_path, before, "sum", **zeros)
    report = quantize(path, tmp_path / "out.onnx", [{"x": numpy.ones((2, 4), numpy.float32)}], RECIPE)
    assert [row["node"] for row in report["placement"]] == ["product"]
    assert report["left"][0]["reason"] == "its input 'nothing' is 0 in every sample: no scale"
    with pytest.raises(DataError, match="every range of stage 'one' is 0 over 2 calibration samples"):
        quantize(path, tmp_path / "none.onnx", [{"x": numpy.zeros((2, 4), numpy.float32)}] * 2, RECIPE)
    assert not (tmp_path / "none.onnx").exists()


def test_an_empty_channel_keeps_a_positive_scale(tmp_path):
    path = one_product(tmp_path)
    model = onnx.load(path)
    matrix = numpy_helper.to_array(model.graph.initializer[0]).copy()
    matrix[:, 1] = 0
    model.graph.initializer[0].CopyFrom(numpy_helper.from_array(matrix, "matrix"))
    onnx.save(model, path)
    row = quantize(path, tmp_path / "out.onnx", [{"x": numpy.ones((2, 4), numpy.float32)}], RECIPE)["weights"][0]
    assert row["zero_channels"] == 1 and row["scales"][0] > 0 and row["error"] < 0.01


def test_samples_and_operator_sets_that_do_not_fit_write_nothing(made, tmp_path):
    out = tmp_path / "out.onnx"
    with pytest.raises(UsageError, match="no calibration sample reaches stage 'step'"):
        quantize(made.before, out, [], RECIPE, stage="step")
    with pytest.raises(DataError, match="sample 0 of stage 'mixed' has no array 'tokens'"):
        quantize(made.before, out, [{"sound": made.feeds[0]["sound"]}], RECIPE)
    with pytest.raises(UsageError, match="stage 'one' is written in operator set 12\n  why: a scale per channel needs 13"):
        quantize(one_product(tmp_path, opset=12), out, [{"x": numpy.ones((2, 4), numpy.float32)}], RECIPE)
    assert not out.exists()
