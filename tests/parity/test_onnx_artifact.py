"""Rung 1 of ONNX artifacts: what its graphs hold, weight by weight, read from the files and compared with a checkpoint's."""

from __future__ import annotations

import numpy as np
import pytest

onnx = pytest.importorskip("onnx", reason="pip install 'parity-workbench[onnx]'")
from onnx import TensorProto, helper, numpy_helper  # noqa: E402

from workbench.backends.onnx_file import read  # noqa: E402
from workbench.models.artifact import artifact  # noqa: E402
from workbench.models.converted import ConvertedStage  # noqa: E402
from workbench.models.converted_weights import add  # noqa: E402
from workbench.models.onnx_values import computed_types, float_values, value_types  # noqa: E402
from workbench.models.onnx_weights import entries, precision_of  # noqa: E402
from workbench.parity.converted_artifact import compare_converted  # noqa: E402

SIZE = 48
drawn = np.random.default_rng(11)
CHECKPOINT = {
    "norm.weight": drawn.normal(size=(SIZE,)).astype(np.float32),
    "query.weight": drawn.normal(size=(SIZE, SIZE)).astype(np.float32),
    "head.weight": drawn.normal(size=(96, SIZE)).astype(np.float32),
}
KEPT = [{"value": "normed", "op": "Mul", "reason": "a norm"}, {"value": "shares", "op": "Softmax", "reason": "a softmax"}]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """``artifact.json`` of a folder with the three weights."""
    import json

    from safetensors.numpy import save_file

    folder = tmp_path_factory.mktemp("checkpoint")
    save_file(CHECKPOINT, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps({"model_type": "llava"}))
    return artifact(folder)


def write(path, stored, *, quantised=(), low=False):
    """x * norm, @ query^T, softmax, @ head^T. ``stored``: name -> array; those in ``quantised`` stand behind a DequantizeLinear."""
    nodes, initializers = [], []
    kind = TensorProto.BFLOAT16 if low == "bf16" else TensorProto.FLOAT16 if low else TensorProto.FLOAT
    for name, array in stored.items():
        if name in quantised:
            scale = (np.abs(array).max(axis=0) / 127).astype(np.float32)
            whole = np.clip(np.rint(array / scale), -128, 127).astype(np.int8)
            for end, value in (("_quantized", whole), ("_scale", scale), ("_zero_point", np.zeros(len(scale), np.int8))):
                initializers.append(numpy_helper.from_array(value, name + end))
            nodes.append(helper.make_node("DequantizeLinear", [f"{name}{end}" for end in ("_quantized", "_scale", "_zero_point")], [f"{name}_DequantizeLinear_Output"], axis=1))  # fmt: skip
        else:
            initializers.append(numpy_helper.from_array(array.astype(helper.tensor_dtype_to_np_dtype(kind)), name))
    read_as = {name: f"{name}_DequantizeLinear_Output" if name in quantised else name for name in stored}
    norm, query, head = read_as.values()
    nodes += [
        *([helper.make_node("Cast", ["x"], ["x_low"], to=kind)] if low else []),
        helper.make_node("Mul", ["x_low" if low else "x", norm], ["normed"]),
        helper.make_node("MatMul", ["normed", query], ["queried"]),
        helper.make_node("Softmax", ["queried"], ["shares"]),
        helper.make_node("MatMul", ["shares", head], ["logits_low" if low else "logits"]),
        *([helper.make_node("Cast", ["logits_low"], ["logits"], to=TensorProto.FLOAT)] if low else []),
    ]
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [None, size]) for name, size in (("x", SIZE), ("logits", 96))]
    graph = helper.make_graph(nodes, "graph", ends[:1], ends[1:], initializers)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 22)], ir_version=10), path)
    return path


def held(path, rows, precision="fp32", kept=()):
    """The part of ``artifact.json`` that rung 1 reads, of one stage with the manifest's ``rows``."""
    origins = {"queried": {"op": "linear", "module": "model.query", "line": "model.py:7"}}
    stage = ConvertedStage("step", path, None, (), (), origins=origins, weights=tuple(rows))
    file, tensors = read(path), {}
    for key, entry in entries(stage, file):
        add(tensors, key, entry, "step")
    stages = {"step": precision_of({"kept_fp32": list(kept)}, file)}
    return {"tensors": tensors, "converted": {"recipe": {"precision": precision}, "label": precision, "stages": stages}}


def row(name, parameter, error=0.0, **more):
    return {"name": name, "parameter": parameter, "checkpoint": parameter, "error": error, "how": "transposed", **more}


PLAIN = {"norm.weight": CHECKPOINT["norm.weight"], "query.t": CHECKPOINT["query.weight"].T, "head.t": CHECKPOINT["head.weight"].T}
ROWS = [row("norm.weight", "norm.weight", how="as it is"), row("query.t", "query.weight"), row("head.t", "head.weight")]


def kinds(told):
    return told.facts["weights_by_kind"]


def test_transposed_weights_are_the_same_values(checkpoint, tmp_path):
    mine = held(write(tmp_path / "a.onnx", PLAIN), ROWS)
    assert set(mine["tensors"]) == set(CHECKPOINT)
    told = compare_converted(checkpoint, mine)
    assert kinds(told) == {"same values": 3} and not told.broken
    assert mine["tensors"]["query.weight"]["module"] == "model.query" and mine["tensors"]["query.weight"]["op"] == "MatMul"


def test_a_weight_that_was_left_turned_or_changed_is_named(checkpoint, tmp_path):
    turned = {**PLAIN, "query.t": CHECKPOINT["query.weight"]}
    told = compare_converted(checkpoint, held(write(tmp_path / "b.onnx", turned), ROWS))
    assert kinds(told) == {"same values": 2, "other values": 1} and told.broken
    as_it_is = [ROWS[0], row("query.t", "query.weight", error=1.4, how="as it is"), ROWS[2]]
    told = compare_converted(checkpoint, held(write(tmp_path / "c.onnx", PLAIN), as_it_is))
    assert kinds(told)["transposed"] == 1 and "query.weight (MatMul, model.query, model.py:7)" in " ".join(told.words)


@pytest.mark.parametrize(("low", "name", "error"), [("fp16", "float16", None), ("bf16", "bfloat16", 1.6e-3)])
def test_a_low_type_is_told_and_what_stays_float32_with_its_reason(checkpoint, tmp_path, low, name, error):
    rows = [{**each, "error": error} for each in ROWS]
    path = write(tmp_path / "low.onnx", PLAIN, low=low)
    told = compare_converted(checkpoint, held(path, rows, low, KEPT))
    assert kinds(told) == {f"rounded to {name}": 3}
    said = " ".join(told.words)
    assert f"3 weights are stored in {name}, as asked" in said
    assert "2 ops stay float32, as the recipe says: 1 (a norm), 1 (a softmax)" in said
    assert told.facts["kept_fp32"] == {"a norm": 1, "a softmax": 1}
    unasked = compare_converted(checkpoint, held(path, rows, "fp32"))
    assert unasked.broken and kinds(unasked) == {f"{name}, not asked for": 3}
    assert f"3 weights are stored in {name}" in " ".join(unasked.words)


def test_a_bfloat16_weight_far_from_its_own_is_another(checkpoint, tmp_path):
    rows = [{**each, "error": 0.1} for each in ROWS]
    told = compare_converted(checkpoint, held(write(tmp_path / "low.onnx", PLAIN, low="bf16"), rows, "bf16"))
    assert kinds(told) == {"other values": 3} and told.broken


def test_a_quantised_weight_is_dequantised_and_its_size_told(checkpoint, tmp_path):
    path = write(tmp_path / "d.onnx", PLAIN, quantised=("query.t", "head.t"))
    rows = [ROWS[0], row("query.t_quantized", "query.weight", 0.006), row("head.t_quantized", "head.weight", 0.007)]
    mine = held(path, rows, "int8-qdq")
    tensor = mine["tensors"]["head.weight"]
    assert (tensor["kind"], tensor["compression"], tensor["shape"]) == ("int8", "int8, a scale per channel", [96, SIZE])
    assert tensor["stored_bytes"] == 96 * SIZE + 96 * 4 + 96 and tensor["dense_bytes"] == 96 * SIZE * 4
    told = compare_converted(checkpoint, mine)
    assert kinds(told) == {"same values": 1, "compressed": 2} and told.facts["compressed"] == 2
    assert "int8, a scale per channel; largest error 0.7 %, in head.weight" in " ".join(told.words)
    wrong = compare_converted(held(path, rows, "int8-qdq"), mine)
    assert not wrong.broken and kinds(wrong) == {"same values": 3}


def test_the_values_read_are_those_that_the_graph_computes_with(tmp_path):
    path = write(tmp_path / "d.onnx", PLAIN, quantised=("head.t",))
    file = read(path)
    from workbench.models.onnx_weights import dequantised

    tensors = {each.name: each for each in file.model.graph.initializer}
    node = next(each for each in file.model.graph.node if each.op_type == "DequantizeLinear")
    evaluator = pytest.importorskip("onnx.reference").ReferenceEvaluator(file.model)
    x = np.zeros((1, SIZE), np.float32)
    witness = evaluator.run(None, {"x": x}, intermediate=True)["head.t_DequantizeLinear_Output"]
    assert np.array_equal(dequantised(node, tensors, file), witness)


def test_types_and_values_of_a_graph(tmp_path):
    low = read(write(tmp_path / "low.onnx", PLAIN, low="fp16")).model
    assert value_types(low)["queried"] == "fp16" and value_types(low)["logits"] == "fp32"
    assert computed_types(low) == {"fp16": 4}
    assert float_values(low) == ["normed", "queried", "shares", "logits_low"]
    assert value_types(read(write(tmp_path / "plain.onnx", PLAIN)).model)["shares"] == "fp32"


def of_the_file(path, scale=0.25):
    """A product of ``x``, whose Q/DQ has one scale."""
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "x_scale", "zero"], ["x_q"]),
        helper.make_node("DequantizeLinear", ["x_q", "x_scale", "zero"], ["x_d"]),
        helper.make_node("MatMul", ["x_d", "w"], ["y"]),
    ]
    held_ = [("x_scale", np.float32(scale)), ("zero", np.int8(0)), ("w", CHECKPOINT["query.weight"])]
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [None, SIZE]) for name in ("x", "y")]
    graph = helper.make_graph(nodes, "graph", ends[:1], ends[1:], [numpy_helper.from_array(value, name) for name, value in held_])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9), path)
    return read(path)


def test_a_scale_that_is_not_the_calibrations_is_told(checkpoint, tmp_path):
    recorded = {"quantized": {"activations": [{"value": "x", "scale": 0.25}], "weights": []}}
    assert precision_of(recorded, of_the_file(tmp_path / "a.onnx"))["scales"] == []
    stage = precision_of(recorded, of_the_file(tmp_path / "b.onnx", 0.75))
    assert stage["scales"] == [{"value": "x", "recorded": 0.25, "found": 0.75}]
    mine = held(write(tmp_path / "plain.onnx", PLAIN), ROWS)
    mine["converted"]["stages"]["step"] = stage
    told = compare_converted(checkpoint, mine)
    assert told.broken and "1 scale is not what the calibration recorded: x of step (0.75 for 0.25)" in told.words


def test_a_quantised_weight_whose_error_was_another_is_named(checkpoint, tmp_path):
    """One channel of 48 has twice its scale; the recorded error is that of the honest one."""
    path = write(tmp_path / "d.onnx", PLAIN, quantised=("query.t",))
    rows = [ROWS[0], row("query.t_quantized", "query.weight", 0.0062), ROWS[2]]
    assert kinds(compare_converted(checkpoint, held(path, rows, "int8-qdq"))) == {"same values": 2, "compressed": 1}
    model = onnx.load(path)
    scale = next(each for each in model.graph.initializer if each.name == "query.t_scale")
    values = numpy_helper.to_array(scale).copy()
    values[7] *= 2
    scale.CopyFrom(numpy_helper.from_array(values, scale.name))
    onnx.save(model, path)
    told = compare_converted(checkpoint, held(path, rows, "int8-qdq"))
    assert told.broken and kinds(told) == {"same values": 2, "compressed, and not as recorded": 1}
    assert "is compressed, but other than its conversion recorded: query.weight" in " ".join(told.words)


def test_another_weight_is_not_said_to_be_no_distance_away(checkpoint, tmp_path):
    """The manifest still says that it is torch's own."""
    other = {**PLAIN, "query.t": CHECKPOINT["query.weight"].T + np.float32(0.5)}
    told = compare_converted(checkpoint, held(write(tmp_path / "a.onnx", other), ROWS))
    assert kinds(told)["other values"] == 1
    assert "0 % away" not in " ".join(told.words) and "though its conversion recorded an error of 0 %" in " ".join(told.words)
