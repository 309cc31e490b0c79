"""Is a node listed for a TensorRT version? Every kind of verdict on a graph made for it, and the tables against what is known of them."""

import json
from types import SimpleNamespace

import pytest

numpy = pytest.importorskip("numpy")
onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

from tests.convert.readiness_graphs import graph, node  # noqa: E402
from workbench.convert.onnx import restrictions, tables  # noqa: E402
from workbench.convert.onnx.capability import capability_of, parsed  # noqa: E402
from workbench.convert.onnx.facts import facts_of  # noqa: E402
from workbench.convert.onnx.memory import memory_of  # noqa: E402
from workbench.convert.onnx.readiness import judge, readiness_of, with_overflow  # noqa: E402
from workbench.errors import DataError, ModelError, UsageError  # noqa: E402

F, I64 = "FLOAT", "INT64"


def ints(*values):
    return numpy.array(values, numpy.int64)


def why(found):
    return [(row.kind, row.op, row.why) for row in found.rows]


@pytest.mark.parametrize(
    ("version", "commit", "rows", "listed", "opsets"),
    [("10.0", "73f629e", 195, 149, (9, 20)), ("10.15", "fa5aa9f", 200, 158, (9, 24)), ("11.1", "7c51a63", 201, 159, (9, 24))],
)
def test_a_table_says_where_it_is_from_and_only_has_checks_that_there_are(version, commit, rows, listed, opsets):
    table = tables.read(version)
    assert len(table.operators) == rows and sum(value is not None for value in table.operators.values()) == listed
    assert table.opsets == opsets and table.source["commit"].startswith(commit) and table.source["licence"] == "Apache-2.0"
    assert table.words.startswith(f"operators.md of onnx/onnx-tensorrt at {commit}, 20") and table.words.endswith(
        f"TensorRT {version}"
    )
    kinds = {kind for name in table.operators for kind in table.types(name) or ()}
    assert kinds <= set(tables.TYPES)
    checks = {row["check"] for rules in table.restrictions.values() for row in rules}
    assert checks - {None} <= set(restrictions.CHECKS) and set(table.restrictions) <= set(table.operators)
    known = {schema.name for schema in onnx.defs.get_all_schemas() if not schema.domain}
    older = {"ImageScaler", "ParametricSoftplus", "ScaledTanh", "Scatter", "Upsample", "GRUUnit"}  # of ONNX's first years
    assert set(table.operators) - known - older == set()


def test_the_newest_list_that_is_not_newer():
    assert tables.versions() == ("10.0", "10.15", "11.1")
    assert [tables.table_for(name).version for name in (None, "11.4", "11.1", "11.0", "10.16.1", "10.9", "v10", "12")] == [
        *("11.1", "11.1", "11.1", "10.15", "10.15", "10.0", "10.0", "11.1")
    ]
    for version, message in (("9.3", "no table for TensorRT 9.3"), ("new", "'new' is no version"), ("", "no version")):
        with pytest.raises(UsageError, match=message):
            tables.table_for(version)


def test_a_page_becomes_a_table():
    page = """TensorRT 12.3 supports operators in the inclusive range of opset 9 to opset 27. More below.
| Operator | Supported | Supported Types | Restrictions |
|---|---|---|---|
| Abs | Y | FP32, DOUBLE INT64 |
| Cast      | Y [EXPERIMENTAL] | FP32, , BOOL | only some |
| Det | N |
"""
    found = tables.from_page(page, {"commit": "c"})
    assert found["tensorrt"] == "12.3" and found["opsets"] == [9, 27] and found["source"] == {"commit": "c"}
    assert found["operators"] == {"Abs": "FP32 FP64 INT64", "Cast": "FP32 BOOL", "Det": None}
    assert found["restrictions"] == {"Cast": [{"check": None, "words": "only some"}]}
    for text in ("nothing", page.splitlines()[0]):
        with pytest.raises(DataError, match="no list of ONNX-TensorRT's operators"):
            tables.from_page(text, {})


def test_all_listed_and_what_is_said_of_it(tmp_path):
    path = graph(
        tmp_path,
        [node("Relu", ["x"], ["y"]), node("MatMul", ["y", "w"], ["z"])],
        {"x": (F, [2, 64])},
        {"w": numpy.ones((64, 8), "f4")},
    )
    found = judge(path)
    assert found.ok and found.rows == [] and found.operators == {"Relu": 1, "MatMul": 1}
    assert found.sentence == "2 of 2 nodes are listed for v11.1; opset 20 is in its 9 to 24"
    said = readiness_of(path)
    assert json.loads(json.dumps(said)) == said == found.to_json() and "build" not in json.dumps(said)
    assert said["source"]["commit"] == tables.read("11.1").source["commit"] and said["capability"] is None


def test_not_listed_plugins_types_and_the_operator_set(tmp_path):
    nodes = [
        *(node("Unique", ["x"], ["u", "", "", ""]), node("Det", ["m"], ["d"]), node("Det", ["m"], ["e"])),
        node("QuickGelu", ["x"], ["q"], domain="com.microsoft"),
        node("Mish", ["b"], ["p"]),
        node("Abs", ["f"], ["a"]),
    ]
    inputs = {"x": (F, [8]), "m": (F, [2, 2]), "b": ("BFLOAT16", [4]), "f": ("DOUBLE", [4])}
    found = judge(graph(tmp_path, nodes, inputs, opset=22, domains={"com.microsoft": 1}), "10.1")
    assert [(row.kind, row.op, row.count, row.why) for row in found.rows] == [
        ("operator", "Det", 2, "is listed as not supported for v10.0"),
        ("operator", "Unique", 1, "is listed as not supported for v10.0"),
        ("plugin", "QuickGelu", 1, "operators of the domain com.microsoft are not in the list: a plugin of that name is needed"),
        ("type", "Mish", 1, "BF16: listed for v10.0 with FP32, FP16"),
    ]
    assert found.listed == 1 and not found.ok and not found.opset_listed and "opset 22 is NOT in its 9 to 20" in found.sentence
    assert found.notes[0] == "asked for TensorRT 10.1: the newest list that is not newer is that for 10.0"
    assert "DeformConv" in found.notes[1] and not any("Attention" in note for note in found.notes)
    assert "FP64 tensors are cast to FP32, and clamped to its range" in found.notes


def test_a_later_release_that_names_an_operator_is_told(tmp_path):
    path = graph(tmp_path, [node("Swish", ["x"], ["y"])], {"x": (F, [4])}, opset=24)
    assert why(judge(path, "10.15")) == [
        (
            "operator",
            "Swish",
            "has no row in the list for v10.15; NVIDIA/TensorRT CHANGELOG.md at a892d22267d9cd2dedc1a0893e6892ac901f6d3d names it",
        )
    ]
    assert judge(path, "11.1").ok


def test_functions_of_the_model_are_written_out(tmp_path):
    function = onnx.helper.make_function(
        "mine", "Twice", ["a"], ["b"], [node("Det", ["a"], ["b"])], [onnx.helper.make_opsetid("", 20)]
    )
    path = graph(
        tmp_path, [node("Twice", ["m"], ["d"], domain="mine")], {"m": (F, [2, 2])}, domains={"mine": 1}, functions=[function]
    )
    found = judge(path)
    assert why(found) == [("operator", "Det", "is listed as not supported for v11.1")] and found.functions == ("Twice",)


IMAGE = {"x": (F, [1, 3, 8, 8])}
BROKEN = [
    ("no `dilations` other than 1", [node("MaxPool", ["x"], ["y"], kernel_shape=[2, 2], dilations=[2, 2])], IMAGE, {}),
    ("no output `Indices`", [node("MaxPool", ["x"], ["y", "i"], kernel_shape=[2, 2])], IMAGE, {}),
    ("2 or 3 spatial dimensions only", [node("AveragePool", ["x"], ["y"], kernel_shape=[2])], {"x": (F, [1, 3, 8])}, {}),
    ("modes nearest and linear only", [node("Resize", ["x", "", "s"], ["y"], mode="cubic")], IMAGE, {"s": numpy.ones(4, "f4")}),
    ("no antialiasing", [node("Resize", ["x", "", "s"], ["y"], mode="linear", antialias=1)], IMAGE, {"s": numpy.ones(4, "f4")}),
    ("`K` has to be less than 3840", [node("TopK", ["x", "k"], ["v", "i"])], {"x": (F, [5000])}, {"k": ints(3840)}),
    ("`sorted` has to be 1", [node("TopK", ["x", "k"], ["v", "i"], sorted=0)], {"x": (F, [5000])}, {"k": ints(2)}),
    ("`axes` has to be an initializer", [node("ReduceSum", ["x", "a"], ["y"])], {**IMAGE, "a": (I64, [1])}, {}),
    ("`axes` has to be known when the engine is built", [node("Unsqueeze", ["x", "a"], ["y"])], {**IMAGE, "a": (I64, [1])}, {}),
    ("no output `Mean`, `InvStdDev`", [node("LayerNormalization", ["x", "w"], ["y", "m"])], {"x": (F, [2, 8])}, {"w": numpy.ones(8, "f4")}),
    ("`X` of 4 dimensions only", [node("GridSample", ["x", "g"], ["y"])], {"x": (F, [1, 1, 2, 2, 2]), "g": (F, [1, 2, 2, 2, 3])}, {}),
    ("`input` has to be of fixed size", [node("EyeLike", ["x"], ["y"])], {"x": (F, ["n", 4])}, {}),
    ("no sparse values and no strings", [node("Constant", [], ["c"], value_strings=["a"]), node("Shape", ["c"], ["y"])], IMAGE, {}),
    ("no `reduction`", [node("ScatterND", ["x", "i", "u"], ["y"], reduction="add")], {"x": (F, [8]), "u": (F, [1])}, {"i": numpy.array([[1]])}),
    ("`y_zero_point` has to be 0 (symmetric quantisation)", [node("QuantizeLinear", ["x", "s", "z"], ["y"])], IMAGE, {"s": numpy.float32(1), "z": numpy.int8(3)}),
    ("`training_mode` has to be an initializer that is false", [node("Dropout", ["x", "r", "t"], ["y"])], IMAGE, {"r": numpy.float32(0), "t": numpy.bool_(True)}),
]  # fmt: skip


@pytest.mark.parametrize(
    ("words", "nodes", "inputs", "constants"), BROKEN, ids=[f"{each[0]} {each[1][0].op_type}" for each in BROKEN]
)
def test_a_restriction_that_is_broken(tmp_path, words, nodes, inputs, constants):
    found = judge(graph(tmp_path, nodes, inputs, constants))
    assert [row.why for row in found.rows if row.kind == "restriction"] == [words] and not found.ok


def test_restrictions_of_newer_operators(tmp_path):
    arrays = dict.fromkeys("qkv", (F, [2, 4, 8]))
    attention = node("Attention", ["q", "k", "v"], ["y"], q_num_heads=2, kv_num_heads=2, softcap=1.0)
    assert {row.why for row in judge(graph(tmp_path, [attention], arrays, opset=23)).rows} == {
        "`Q`, `K`, `V`, `attn_mask` of 4 dimensions only",
        "no `softcap`",
    }
    rotary = node("RotaryEmbedding", ["x", "c", "s", "p"], ["y"])
    sizes = {"x": (F, [1, 2, 3, 4]), "c": (F, [9, 2]), "s": (F, [9, 2]), "p": (I64, [1, 3])}
    assert judge(graph(tmp_path, [rotary], sizes, opset=23)).ok


def test_restrictions_that_are_kept_or_cannot_be_told(tmp_path):
    nodes = [
        node("QuantizeLinear", ["x", "s", "z"], ["q"]),
        node("DequantizeLinear", ["q", "s", "z"], ["d"]),
        node("TopK", ["d", "k"], ["v", "i"]),
        node("Resize", ["x4", "", "scales"], ["r"], mode="nearest"),
        node("ReduceMean", ["v", "axes"], ["m"]),
        node("MaxPool", ["x4"], ["p"], kernel_shape=[2, 2], dilations=[1, 1]),
        node("CumSum", ["x", "axis"], ["c"]),
    ]
    constants = {
        "s": numpy.float32(1),
        "z": numpy.int8(0),
        "k": ints(2),
        "axes": ints(0),
        "axis": numpy.int64(0),
        "scales": numpy.ones(4, "f4"),
    }
    found = judge(graph(tmp_path, nodes, {"x": (F, [8]), "x4": IMAGE["x"]}, constants))
    assert found.ok and found.rows == []
    assert found.unchecked == [
        {"op": "Resize", "words": "with `scales` as a tensor, `axes` have to name every dimension in order", "count": 1}
    ]
    asked = judge(graph(tmp_path, [node("TopK", ["x", "k"], ["v", "i"])], {"x": (F, [8]), "k": (I64, [1])}))
    assert asked.ok and asked.unchecked[0]["words"] == "`K` has to be less than 3840"
    assert asked.data_dependent == [{"op": "TopK", "why": "its K is computed", "count": 1, "nodes": ["v"]}]


def test_types_are_those_of_the_tensors_that_the_list_is_about(tmp_path):
    nodes = [
        node("Equal", ["x", "x"], ["same"]),
        node("Where", ["same", "x", "x"], ["y"]),
        node("Cast", ["x"], ["half"], to=onnx.TensorProto.FLOAT16),
        node("Cast", ["x"], ["tiny"], to=onnx.TensorProto.INT16),
        node("Shape", ["x"], ["shape"]),
        node("ConstantOfShape", ["shape"], ["zeros"], value=onnx.numpy_helper.from_array(numpy.zeros(1, "i8"))),
        node("Softmax", ["small"], ["s"]),
        node("Not", ["u"], ["nu"]),
    ]
    found = judge(graph(tmp_path, nodes, {"x": (F, [4]), "small": ("DOUBLE", [4]), "u": ("BOOL", [4])}))
    assert why(found) == [("type", "Cast", "INT16: listed for v11.1 with FP32, FP16, BF16, INT32, INT64, UINT8, BOOL")]
    assert found.int64["nodes"] == 2 and found.int64["operators"] == {"Shape": 1, "ConstantOfShape": 1}
    inner = [node("Cast", ["x"], ["c"], to=onnx.TensorProto.UINT8), node("Cast", ["c"], ["y"], to=onnx.TensorProto.FLOAT)]
    assert judge(graph(tmp_path, inner, {"x": (F, [4])})).notes == [
        "UINT8 only as a type of the network's inputs and outputs; here also c"
    ]


def test_unsigned_and_asymmetric_quantisation(tmp_path):
    nodes = [node("QuantizeLinear", ["x", "s", "z"], ["q"]), node("DequantizeLinear", ["q", "s", "z"], ["y"])]
    for zero, expected in (
        (numpy.uint8(0), [("type", "DequantizeLinear", "UINT8: listed for v11.1 with INT8, FP8, FP4, INT4")]),
        (numpy.int8(0), []),
        (numpy.int8(1), [(*("restriction", f"{name}uantizeLinear"), f"`{letter}_zero_point` has to be 0 (symmetric quantisation)") for name, letter in (("Deq", "x"), ("Q", "y"))]),
    ):  # fmt: skip
        path = graph(tmp_path, nodes, {"x": (F, [4])}, {"s": numpy.float32(1), "z": zero})
        assert why(judge(path)) == expected


def test_sizes_that_vary_what_depends_on_data_and_inner_graphs(tmp_path):
    branch = onnx.helper.make_graph([node("Det", ["x"], ["d"])], "branch", [], [onnx.helper.make_tensor_value_info("d", 1, [])])
    other = onnx.helper.make_graph(
        [node("ReduceMax", ["x"], ["r"], keepdims=0)], "other", [], [onnx.helper.make_tensor_value_info("r", 1, [])]
    )
    nodes = [node("If", ["c"], ["y"], then_branch=branch, else_branch=other), node("NonZero", ["x"], ["n"])]
    sizes = {"c": ("BOOL", []), "x": (F, ["T", "T"])}
    found = judge(graph(tmp_path, nodes, sizes, metadata={"workbench.ranges": json.dumps({"T": [1, 4, 16]})}))
    assert found.nodes == 4 and why(found) == [("operator", "Det", "is listed as not supported for v11.1")]
    assert [row["op"] for row in found.data_dependent] == ["If", "NonZero"] and found.notes == []
    assert found.dynamic == [{"input": "x", "size": "T", "range": [1, 4, 16]}]
    bare = judge(graph(tmp_path, nodes[1:], {"x": (F, ["T", None])}))
    assert [(row["size"], row["range"]) for row in bare.dynamic] == [("T", None), ("dimension 1", None)]
    assert bare.memory.sizes == {"T": 1, "sizes without a name": 1}
    assert bare.notes == ["no range is known for T, dimension 1: an optimisation profile has to say one"]


def test_memory_is_the_most_that_is_alive_at_once(tmp_path):
    nodes = [
        *(node("MatMul", ["x", "w"], ["a"]), node("Reshape", ["a", "shape"], ["b"]), node("Relu", ["b"], ["c"])),
        *(node("Add", ["c", "c"], ["d"]), node("ReduceSum", ["d"], ["y"], keepdims=0)),
    ]
    constants = {"w": numpy.ones((4, 100), "f2"), "shape": ints(-1), "half": numpy.ones(3, "f2")}
    path = graph(tmp_path, nodes, {"x": ("FLOAT16", ["T", 4])}, constants, metadata={"workbench.ranges": '{"T": [1, 5, 10]}'})
    found = memory_of(facts_of(path))
    # alive while Relu runs: the input (10 × 4), what MatMul made (10 × 100, which Reshape shares) and Relu's own; the output is one value
    assert found.weights == {"FP16": 806, "INT64": 8} and found.sizes == {"T": 10} and found.unsized == 0
    assert found.activation_bytes == 80 + 2 + 2000 + 2000 and found.peak_bytes == found.activation_bytes + 814
    assert memory_of(facts_of(path), {"T": 1}).activation_bytes == 8 + 2 + 200 + 200
    said = found.to_json()
    assert said["estimate"] and "workspace" in said["not_covered"] and said["peak_bytes"] == found.peak_bytes
    unknown = memory_of(
        facts_of(
            graph(
                tmp_path, [node("Mine", ["x"], ["u"], domain="own"), node("Abs", ["u"], ["y"])], {"x": (F, [4])}, domains={"own": 1}
            )
        )
    )
    assert unknown.unsized == 2 and unknown.activation_bytes == 16


def test_weights_beside_the_file_are_counted_and_missing_ones_told(tmp_path):
    path = graph(tmp_path, [node("MatMul", ["x", "w"], ["y"])], {"x": (F, [2, 256])}, {"w": numpy.ones((256, 64), "f4")})
    onnx.save(onnx.load(path), path, save_as_external_data=True, location="w.data", size_threshold=0)
    found = judge(path)
    assert found.memory.weights == {"FP32": 65536} and found.to_json()["external"] == {"w.data": 65536}
    (tmp_path / "w.data").unlink()
    with pytest.raises(ModelError):
        judge(path)
    with pytest.raises(ModelError):
        judge(tmp_path / "none.onnx")


def overflowing(folder, kind, name):
    nodes = [
        node("Mul", ["x", "big"], ["a"]),
        node("Mul", ["a", "small"], ["b"]),
        node("Mul", ["b", "small"], ["c"]),
        node("Softmax", ["c"], ["y"]),
    ]
    dtype = {"FLOAT": "f4", "FLOAT16": "f2"}[kind]
    return graph(
        folder, nodes, {"x": (kind, [4])}, {"big": numpy.array(60000, dtype), "small": numpy.array(1e-4, dtype)}, name=name
    )


def test_values_that_leave_the_range_of_fp16(tmp_path):
    plain, low = overflowing(tmp_path, "FLOAT", "plain.onnx"), overflowing(tmp_path, "FLOAT16", "low.onnx")
    feeds = [{"x": numpy.array([1, 0, 0, 0], "f4")}, {"x": numpy.array([1.001, 2, 0, 1e-7], "f4")}]
    found = judge(low, None, feeds, fp32=plain, inputs="two calls")
    seen = found.overflow
    assert seen.applies and seen.type == "FP16" and seen.ran == "fp32" and seen.calls == 2 and seen.values == 4
    assert [(row["value"], row["here"]) for row in seen.over] == [("a", "FP16")] and seen.over[0]["largest"] == pytest.approx(
        120000
    )
    assert {row["value"]: row["count"] for row in seen.flushed}["c"] == 1 and not seen.ok and not found.ok and found.rows == []
    near = judge(low, None, feeds[:1], fp32=plain).overflow
    assert near.ok and [row["value"] for row in near.near] == ["a"] and near.near_count == 1
    would = judge(plain, None, feeds).overflow
    assert would.over_count == 1 and not would.applies and would.ok
    itself = judge(low, None, [{"x": feeds[1]["x"].astype("f2")}]).overflow
    assert itself.ran == "fp16" and [(row["value"], row["nonfinite"]) for row in itself.over] == [
        ("a", 1),
        ("b", 1),
        ("c", 1),
        ("y", 4),
    ]
    said = readiness_of(low)
    assert said["ok"] and not with_overflow(said, seen.to_json())["ok"] and with_overflow(said, None)["ok"]


def test_what_is_kept_in_fp32_is_not_held_against_the_graph(tmp_path):
    nodes = [
        node("Cast", ["x"], ["half"], to=onnx.TensorProto.FLOAT16),
        node("Cast", ["half"], ["full"], to=onnx.TensorProto.FLOAT),
        node("Mul", ["full", "big"], ["a"]),
        node("Softmax", ["a"], ["y"]),
    ]
    low = graph(tmp_path, nodes, {"x": (F, [2])}, {"big": numpy.array(1e6, "f4")}, name="low.onnx")
    plain = graph(
        tmp_path,
        [node("Mul", ["x", "big"], ["a"]), node("Softmax", ["a"], ["y"])],
        {"x": (F, [2])},
        {"big": numpy.array(1e6, "f4")},
    )
    seen = judge(low, None, [{"x": numpy.ones(2, "f4")}], fp32=plain).overflow
    assert seen.applies and seen.ok and seen.kept == 1 and seen.over == []


class Parser:
    """What is used of TensorRT's parser, by the names of its Python binding."""

    num_errors = 1

    def __init__(self, network, logger):
        assert (network, logger) == ("network", "logger")

    def parse(self, data, path):
        self.given = data, path
        return False

    def get_error(self, number):
        class Error:
            node_operator, node_name = (lambda self: "Unique"), (lambda self: "node_7")

            def __str__(self):
                return f"no importer {number}"

        return Error()


def test_what_an_installed_parser_says_is_beside_the_verdict(tmp_path):
    path = graph(tmp_path, [node("Relu", ["x"], ["y"])], {"x": (F, [2])})
    asked = []

    def create(strongly_typed=None):
        asked.append(strongly_typed)
        return "builder", "network"

    found = parsed(path, SimpleNamespace(OnnxParser=Parser, __version__="11.4.0"), create, lambda: "logger")
    assert found["errors"] == [{"op": "Unique", "node": "node_7", "words": "no importer 0"}] and not found["ok"]
    assert found["tensorrt"] == "11.4.0" and asked == [True]
    older = parsed(path, SimpleNamespace(OnnxParser=Parser, __version__="10.0"), lambda: ("builder", "network"), lambda: "logger")
    assert older["error_count"] == 1 and capability_of(path) is None
