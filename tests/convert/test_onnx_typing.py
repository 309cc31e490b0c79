"""fp16 and bf16 by types: random graphs hold to what the checker, the schemas and the pass's own words say; then each rule alone."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

onnx = pytest.importorskip("onnx")
ir = pytest.importorskip("onnx_ir")
from onnx import parser  # noqa: E402

from tests.convert.random_graphs import arrays, drawn  # noqa: E402
from workbench.convert.onnx.typing import typed  # noqa: E402
from workbench.errors import ModelError, UsageError  # noqa: E402

SEEDS = range(32)
LOW = {"fp16": ir.DataType.FLOAT16, "bf16": ir.DataType.BFLOAT16}


def typed_copy(proto, precision, keep=(), **more):
    """(the model typed, its proto after the checker and strict inference took it, the rows)."""
    model = ir.from_proto(proto)
    rows = typed(model, precision, keep, **more)
    made = ir.to_proto(model)
    onnx.checker.check_model(made, full_check=True)
    onnx.shape_inference.infer_shapes(made, check_type=True, strict_mode=True, data_prop=True)
    return model, made, rows


def text(body: str, opset: int = 20, head: str = "float[2, 4] x) => (float[2, 4] y)", functions: str = ""):
    domain = ', "local": 1' if functions else ""
    return parser.parse_model(f'<ir_version: 10, opset_import: ["": {opset}{domain}]> main ({head} {{ {body} }} {functions}')


def run(proto, feed):
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 3
    return ort.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"]).run(None, feed)


def kinds(model):
    return {value.name: value.dtype for node in model.graph for value in node.outputs}


def reasons(rows):
    return {row["value"]: row["reason"] for row in rows}


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
@pytest.mark.parametrize("opset", [18, 20, 23])
def test_random_graphs_are_valid_and_cast_once(precision, opset):
    low, seen = LOW[precision], Counter()
    for seed in SEEDS:
        before = drawn(seed, opset)
        model, _, rows = typed_copy(before, precision)
        graph, kept = model.graph, {row["value"] for row in rows}
        assert [value.name for value in graph.inputs] == [each.name for each in before.graph.input]
        assert [value.name for value in graph.outputs] == [each.name for each in before.graph.output]
        assert {each.dtype for each in graph.outputs} == {ir.DataType.FLOAT}
        casts = [
            node for node in graph if node.op_type == "Cast" and node.inputs[0].dtype in (low, ir.DataType.FLOAT)
            and node.outputs[0].dtype in (low, ir.DataType.FLOAT)
        ]  # fmt: skip
        assert len({(id(node.inputs[0]), node.outputs[0].dtype) for node in casts}) == len(casts), seed
        for node in casts:
            made = node.inputs[0].producer()
            assert made is None or made.op_type != "Cast" or made.inputs[0].dtype != node.outputs[0].dtype, (seed, node.name)
            assert node.outputs[0].uses() or node.outputs[0].is_graph_output(), (seed, node.name)
        for node in graph:
            names = {value.name for value in node.outputs}
            if names & kept:
                assert low not in {value.dtype for value in (*node.outputs, *node.inputs) if value is not None}, (
                    seed,
                    node.op_type,
                )
            seen.update(f"{node.op_type} {value.dtype.name}" for value in node.outputs if value.type and value.dtype)
        for value in graph.initializers.values():
            if value.dtype == ir.DataType.FLOAT and not value.is_graph_output():
                assert any(use.node.graph is not graph or use.node.op_type in ("Resize", "Dropout") or _is_kept(use.node, kept)
                           for use in value.uses()), (seed, value.name)  # fmt: skip
    word = low.name
    assert seen[f"MatMul {word}"] > 10 and seen[f"Add {word}"] > 20 and not seen[f"Softmax {word}"]
    assert not seen[f"LayerNormalization {word}"] and not seen[f"Sin {word}"] and not seen[f"Loop {word}"]
    assert seen["If FLOAT"] and seen["Loop FLOAT"]
    assert bool(seen[f"ConstantOfShape {word}"]) == ((opset, precision) != (18, "bf16"))  # opset 18 fills none in bfloat16


def _is_kept(node, kept):
    return any(value.name in kept for value in node.outputs)


def test_random_graphs_compute_what_they_did():
    for seed in SEEDS:
        before = drawn(seed)
        _, made, _ = typed_copy(before, "fp16")
        for one, other in zip(run(before, arrays(seed)), run(made, arrays(seed)), strict=True):
            assert (np.isfinite(one) == np.isfinite(other)).all()
            same = np.isfinite(one)
            assert not same.any() or np.median(np.abs(one[same] - other[same]) / (1 + np.abs(one[same]))) < 5e-3, seed


def test_patterns_keep_types_values_and_layers_and_say_so():
    proto = text("a = Tanh(x)  b = Relu(a)  c = Tanh(b)  y = Sigmoid(c)")
    origins = {
        name: {"op": "op", "module": module, "line": f"net.py:{n}"}
        for n, (name, module) in enumerate([("a", "one"), ("b", "one.two"), ("c", "three"), ("y", "")])
    }
    _, _, rows = typed_copy(proto, "fp16", ("Relu", "text.one"), origins=origins, modules={"one": "text.one"})
    assert [(row["value"], row["op"], row["layer"], row["line"], row["pattern"], row["reason"]) for row in rows] == [
        ("a", "Tanh", "text.one", "net.py:0", "text.one", "asked for"),
        ("b", "Relu", "text.one", "net.py:1", "Relu", "asked for"),
        ("b", "Relu", "text.one", "net.py:1", "text.one", "asked for"),
    ]
    assert origins["y_float16"]["line"] == "net.py:3"  # what computes the output was renamed; the cast has the output's name
    model, _, _ = typed_copy(proto, "fp16", ("c", "T*"))
    assert kinds(model) == {
        **{name: ir.DataType.FLOAT for name in ("a", "c", "b_float32", "y")},
        **{name: ir.DataType.FLOAT16 for name in ("a_float16", "b", "c_float16", "y_float16")},
    }


def test_a_weight_is_stored_once_and_stays_fp32_where_a_kept_node_reads_it():
    proto = text("a = Mul(x, w) b = Add(a, s) c = Softmax(b) d = Mul(c, s) y = Tanh(d)")
    numbers = {"w": np.arange(40).reshape(10, 1, 4), "s": np.float32(2.5)}
    proto.graph.initializer.extend(onnx.numpy_helper.from_array(np.float32(value), name) for name, value in numbers.items())
    del proto.graph.output[0].type.tensor_type.shape.dim[:]
    proto.graph.output[0].type.tensor_type.shape.dim.extend([onnx.TensorShapeProto.Dimension(dim_value=n) for n in (10, 2, 4)])
    model, _, _ = typed_copy(proto, "fp16")
    assert {name: value.dtype for name, value in model.graph.initializers.items()} == {"w": LOW["fp16"], "s": LOW["fp16"]}
    assert model.graph.initializers["w"].const_value.numpy().dtype == np.float16
    model, made, _ = typed_copy(proto, "bf16", ("a", "d"))
    stored = {name: value.dtype for name, value in model.graph.initializers.items()}
    assert stored == {"w": ir.DataType.FLOAT, "s": ir.DataType.FLOAT, "s_bfloat16": LOW["bf16"]}  # a scalar is no weight
    proto.graph.node.append(onnx.helper.make_node("Mul", ["y", "w"], ["z"]))
    proto.graph.output[0].name = "z"
    model, made, _ = typed_copy(proto, "fp16", ("a",))
    assert model.graph.initializers["w"].dtype == ir.DataType.FLOAT and "w_float16" in kinds(
        model
    )  # stored once, cast for the other


def added(proto, **numbers):
    proto.graph.initializer.extend(onnx.numpy_helper.from_array(np.float32(value), name) for name, value in numbers.items())
    return proto


@pytest.mark.parametrize(("precision", "number", "kept"), [
    ("fp16", 65504, []), ("fp16", -np.inf, []), ("fp16", 65520, ["a", "y"]), ("fp16", -1e9, ["a", "y"]), ("fp16", 1e-9, ["a"]),
    ("bf16", -1e9, []), ("bf16", 1e-9, []), ("bf16", np.finfo(np.float32).min, ["a", "y"]), ("fp16", np.finfo(np.float32).min, ["a", "y"]),
])  # fmt: skip
def test_constants_that_the_type_cannot_hold_keep_their_readers(precision, number, kept):
    _, made, rows = typed_copy(added(text("a = Add(x, c) y = Tanh(a)"), c=number), precision)
    assert [row["value"] for row in rows] == kept
    stored = {each.name: onnx.numpy_helper.to_array(each) for each in made.graph.initializer}
    assert float(stored["c"]) == np.float32(np.float32(number).astype(stored["c"].dtype))  # never clamped
    assert (stored["c"].dtype == np.float32) == bool(kept)
    if kept:
        assert rows[0]["reason"].startswith("c would all become 0" if number == 1e-9 else "c holds ")
        assert (
            rows[-1]["reason"] == "it reads what may be beyond float16's range".replace("float16", LOW[precision].name.lower())
            or len(rows) == 1
        )


def test_a_bound_beyond_the_range_does_not_spread_but_what_passes_it_on_does():
    _, _, rows = typed_copy(added(text("a = Clip(x, , c) b = Tanh(a) d = Where(m, x, c) e = Add(d, b) f = Softmax(e) y = Tanh(f)",
        head="float[2, 4] x, bool[2, 4] m) => (float[2, 4] y)"), c=1e9), "fp16")  # fmt: skip
    assert reasons(rows) == {
        "a": "c holds 1e+09, beyond float16's 65504",
        "d": "c holds 1e+09, beyond float16's 65504",
        "e": "it reads what may be beyond float16's range",
        "f": "a softmax",
    }


def test_norms_are_known_by_their_sums_and_by_their_torch_class():
    body = """two = Constant <value_float = 2.0> () last = Constant <value_ints = [-1]> ()
        mean = ReduceMean (x, last) centred = Sub (x, mean) square = Pow (centred, two) variance = ReduceMean (square, last)
        shifted = Add (variance, two) root = Sqrt (shifted) one = Reciprocal (root) normed = Mul (centred, one)
        length = ReduceL2 (normed, last) unit = Div (normed, length) plain = Sqrt (unit) y = Mul (plain, two)"""
    model = ir.from_proto(text(body))
    node = next(node for node in model.graph if node.outputs[0].name == "y")
    rows = typed(model, "fp16")
    names = ["mean", "centred", "square", "variance", "shifted", "root", "one", "normed", "length", "unit"]
    assert reasons(rows) == dict.fromkeys(names, "a norm")
    model = ir.from_proto(text(body))
    node = next(node for node in model.graph if node.outputs[0].name == "y")
    node.metadata_props["pkg.torch.onnx.class_hierarchy"] = "['own.Net', 'own.LastNorm', 'aten.mul.Tensor']"
    assert reasons(typed(model, "fp16")) == {**dict.fromkeys(names, "a norm"), "y": "part of a norm (LastNorm)"}


def test_the_softmax_inside_an_attention_is_fp32():
    proto = text("y = Attention(x, x, x)", 23, head="float[1, 2, 5, 4] x) => (float[1, 2, 5, 4] y)")
    model, _, rows = typed_copy(proto, "fp16")
    node = next(node for node in model.graph if node.op_type == "Attention")
    assert not rows and node.outputs[0].dtype == LOW["fp16"] and node.attributes["softmax_precision"].as_int() == ir.DataType.FLOAT


def test_angles_stay_fp32_back_to_the_last_matrix():
    proto = text("a = MatMul(x, w) b = Mul(a, f) c = Concat<axis = -1>(b, b) d = Slice(c, from, to, last) s = Sin(d) y = Mul(s, a)")
    for name, values in {
        "w": np.eye(4, dtype=np.float32),
        "f": np.float32([1, 2, 3, 4]),
        "from": [0],
        "to": [4],
        "last": [-1],
    }.items():
        proto.graph.initializer.append(onnx.numpy_helper.from_array(np.asarray(values), name))
    model, _, rows = typed_copy(proto, "fp16")
    assert [row["value"] for row in rows] == ["b", "c", "d", "s"]
    assert rows[0]["reason"] == "it feeds a sine or cosine" and rows[-1]["reason"] == "a sine or cosine of an angle"
    assert kinds(model)["a"] == LOW["fp16"]


def test_sizes_and_indices_are_computed_in_fp32():
    body = """three = Constant <value_float = 3.0> () size = Shape(x) count = Cast<to = 1>(size) third = Div(count, three)
        lower = Floor(third) whole = Cast<to = 7>(lower) t = Tanh(x) place = Mul(t, three) at = Cast<to = 7>(place)
        flags = Cast<to = 9>(t) more = Expand(t, whole) y = Mul(t, three)"""
    model, _, rows = typed_copy(text(body, head="float[6, 4] x) => (float[6, 4] y, int64[6, 4] at)"), "fp16")
    why = "it feeds whole numbers: sizes, positions or indices"
    assert reasons(rows) == {name: why for name in ("third", "lower", "place")}
    assert {kinds(model)[name] for name in ("t", "more")} == {LOW["fp16"]}


def test_whole_numbers_become_floats_of_both_types_without_a_chain():
    head = "float[2, 4] x, int64[2, 4] n) => (float[2, 4] y)"
    model, made, _ = typed_copy(text("f = Cast<to = 1>(n) s = Softmax(f) t = Mul(f, x) y = Add(s, t)", head=head), "fp16")
    assert kinds(model)["f"] == ir.DataType.FLOAT and kinds(model)["f_float16"] == LOW["fp16"]
    assert [node.input[0] for node in made.graph.node if node.output[0] in ("f", "f_float16")] == ["n", "n"]
    model, made, _ = typed_copy(text("f = Cast<to = 1>(n) y = Mul(f, x)", head=head), "bf16")
    assert kinds(model)["f"] == LOW["bf16"]


def test_functions_are_inlined():
    function = '<domain: "local", opset_import: ["": 20]> twice (a) => (b) { c = Softmax(a) b = Add(c, c) }'
    model, _, rows = typed_copy(text("t = local.twice(x) y = local.twice(t)", functions=function), "fp16")
    assert not model.functions and [row["op"] for row in rows] == ["Softmax", "Softmax"]
    assert Counter(node.op_type for node in model.graph)["Add"] == 2


def test_what_no_schema_types_stays_and_says_why():
    proto = text("a = Tanh(x) b = other.Thing(a) y = Add(b, a)")
    proto.opset_import.append(onnx.helper.make_opsetid("other", 1))
    model = ir.from_proto(proto)
    assert reasons(typed(model, "fp16")) == {
        "b": "the type of an input or output is not told",
        "y": "the type of an input or output is not told",
    }
    assert kinds(model)["a"] == LOW["fp16"] and kinds(model)["y"] == ir.DataType.FLOAT
    small = added(text("q = QuantizeLinear(x, s) y = DequantizeLinear(q, s)"), s=1e-6)
    assert "below float16's smallest normal number" in reasons(typed_copy(small, "fp16")[2])["q"]
    assert reasons(typed_copy(text("y = Softplus(x)", 18), "bf16")[2]) == {"y": "Softplus of opset 18 takes no bfloat16"}
    _, _, rows = typed_copy(text("g = Greater(x, x) y = If(g1) <then_branch = one () => (float[2, 4] t) { t = Neg(x) }, else_branch = two "
        "() => (float[2, 4] e) { e = Tanh(x) }>", head="float[2, 4] x, bool g1) => (float[2, 4] y)"), "fp16")  # fmt: skip
    assert reasons(rows)["y"] == "If holds graphs, which stay as they are"


def test_what_cannot_be_typed_is_refused():
    with pytest.raises(UsageError, match="fp8"):
        typed(ir.from_proto(text("y = Tanh(x)")), "fp8")
    wrong = text("n = Shape(x) z = Add(x, n) y = Tanh(z)")
    with pytest.raises(ModelError, match="do not fit together"):
        typed(ir.from_proto(wrong), "fp16")
