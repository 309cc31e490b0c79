"""A stage as an ONNX graph: what it computes, what its values and weights are called, and what cannot be written."""

from pathlib import Path

import numpy as np
import pytest

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")

from tests.convert.onnx_stages import (  # noqa: E402
    MOST,
    Branches,
    Decomposed,
    Kinds,
    Outer,
    Strict,
    alone,
    feed,
    language,
    language_graph,
    torch,
)
from workbench.convert.onnx.graphs import check_opset, graph_of  # noqa: E402
from workbench.convert.stages.stage import Stage  # noqa: E402
from workbench.errors import ModelError, UsageError  # noqa: E402


def by_onnx(model, given, outputs):
    """What the graph gives, as it stands."""
    import onnx_ir

    proto = onnx_ir.to_proto(model)
    onnx.checker.check_model(proto, full_check=True)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return dict(zip(outputs, session.run(list(outputs), given), strict=True))


def far(found, wanted):
    return float(np.linalg.norm(found.astype(np.float64) - wanted) / np.linalg.norm(wanted))


@pytest.mark.parametrize("length", [2, 6, MOST])
def test_a_stage_computes_the_same_at_every_length(length):
    """The weights' indices are int32, which ONNX's GatherND does not take."""
    graph = language_graph()
    given = feed(length, seed=length)
    expected, _ = language().run(given)
    found = by_onnx(graph.model, given, language().outputs)
    assert {name: far(found[name], expected[name]) < 1e-6 for name in expected} == dict.fromkeys(expected, True)
    assert "GatherND" in [node.op_type for node in graph.model.graph]


def test_sizes_are_called_as_the_stage_calls_them():
    shapes = {each.name: [str(size) for size in each.shape] for each in [*language_graph().model.graph.inputs]}
    assert shapes == {"tokens": ["1", "T"], "positions": ["1", "T"], "mask": ["1", "1", "T", "T"]}
    twice = language_graph().model.graph.outputs[1]
    assert [str(size) for size in twice.shape] == ["1", "2*T", "32"]
    assert language_graph().model.metadata_props["workbench.ranges"] == f'{{"T": [2, 6, {MOST}]}}'


def test_values_are_called_as_the_torch_nodes():
    graph = language_graph()
    assert set(graph.layers) == {"text.embeddings", "text.block.0", "text.block.1", "text.norm", "logits"}
    origin = graph.origins[graph.layers["text.block.1"]]
    assert origin["op"] == "Add" and origin["module"] == "blocks.1" and origin["result"]
    assert origin["line"].startswith("onnx_stages.py:")
    named = {node.outputs[0].name for node in graph.model.graph}
    assert set(graph.origins) - named == set() and all(origin["node"] for origin in graph.origins.values())
    steps = [origin for name, origin in graph.origins.items() if name.startswith("val_")]
    assert steps and not any(origin["result"] for origin in steps)


def test_a_layer_s_value_is_what_torch_s_module_gives():
    graph = language_graph()
    seen = {}
    hook = language().module.blocks[0].register_forward_hook(lambda *called: seen.update(block=called[2].numpy()))
    given = feed(5, seed=3)
    language().run(given)
    hook.remove()
    model = graph.model.clone()
    value = next(node.outputs[0] for node in model.graph for out in node.outputs if out.name == graph.layers["text.block.0"])
    model.graph.outputs.append(value)
    assert far(by_onnx(model, given, [value.name])[value.name], seen["block"]) < 1e-6


def test_every_weight_is_known():
    graph = language_graph()
    parameters = dict(language().module.named_parameters(remove_duplicate=False))
    buffers = dict(language().module.named_buffers())
    for name, source in graph.sources.items():
        held = graph.model.graph.initializers[name].const_value.numpy()
        wanted = {**parameters, **buffers}[source.parameter].detach().numpy()
        wanted = wanted.T if source.how == "transposed" else wanted
        assert (held.ravel() == wanted.ravel()).all(), name
    known = {id({**parameters, **buffers}[source.parameter]) for source in graph.sources.values()}
    ones = {"blocks.1.norm.weight", "blocks.1.norm.bias", "blocks.0.norm.bias"}  # as the first norm's: stored once
    assert [name for name, weight in parameters.items() if id(weight) not in known and name not in ones] == []
    assert "blocks.0.query.weight.transposed" in graph.sources


def test_arguments_are_not_passed_over():
    """gelu's tanh, alpha, correction, rounding: what another converter drops without a word."""
    stage = alone(Strict())
    given = {"x": np.random.default_rng(1).standard_normal((2, 6)).astype(np.float32)}
    found = by_onnx(graph_of(stage, 20).model, given, ["y"])["y"]
    assert far(found, stage.run(given)[0]["y"]) < 1e-6


def test_outputs_are_float32_and_int32_and_each_its_own():
    names = ("best", "above", "one", "again", "exact", "ones")
    stage = alone(Kinds(), names)
    model = graph_of(stage, 20).model
    given = {"x": np.random.default_rng(2).standard_normal((2, 6)).astype(np.float32)}
    found, expected = by_onnx(model, given, names), stage.run(given)[0]
    assert [str(found[name].dtype) for name in names] == ["int32", "int32", *["float32"] * 4]
    assert all(np.array_equal(found[name], expected[name].astype(found[name].dtype)) for name in names)


def test_another_operator_set(opset=23):
    graph = graph_of(language(), opset)
    assert graph.model.opset_imports[""] == opset
    expected, _ = language().run(feed(6))
    assert far(by_onnx(graph.model, feed(6), ["logits"])["logits"], expected["logits"]) < 1e-6


def test_an_op_without_a_translation_is_named_with_its_line():
    with pytest.raises(ModelError) as told:
        graph_of(alone(Outer(Decomposed())), 20)
    lines = Path(__file__).with_name("onnx_stages.py").read_text().splitlines()
    line = next(number for number, text in enumerate(lines, 1) if "# no translation" in text)
    assert "_linalg_svd" in told.value.what and f"onnx_stages.py:{line}" in told.value.what and "inner" in told.value.what
    assert told.value.fix


def test_a_branch_on_a_value_is_told_with_its_line():
    with pytest.raises(ModelError, match="onnx_stages.py:.*data-dependent"):
        graph_of(alone(Branches()), 20)


def test_operator_sets_that_are_not_known():
    for opset in (17, 99):
        with pytest.raises(UsageError, match="operator set"):
            check_opset(opset)


def test_states_and_other_types_are_refused():
    with pytest.raises(UsageError, match="states"):
        graph_of(Stage("main", torch.nn.Identity(), {"x": torch.zeros(2)}, ("y",), states=("x",)), 20)
    with pytest.raises(UsageError, match="int64"):
        graph_of(Stage("main", torch.nn.Identity(), {"x": torch.zeros(2, dtype=torch.int64)}, ("y",)), 20)
