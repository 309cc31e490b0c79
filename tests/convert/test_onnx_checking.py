"""The check against torch: a graph that is right passes in every precision; one with a single wrong thing in it is refused, and found."""

from __future__ import annotations

import copy
import math
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

torch = pytest.importorskip("torch")
onnx = pytest.importorskip("onnx")
ir = pytest.importorskip("onnx_ir")
pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")

from workbench.convert.onnx import checking, own  # noqa: E402
from workbench.convert.onnx.checking import check_stage, differences, first_departing, measure, precision_of  # noqa: E402
from workbench.convert.onnx.graphs import graph_of  # noqa: E402
from workbench.convert.onnx.recipe import Recipe  # noqa: E402
from workbench.convert.onnx.typing import typed  # noqa: E402
from workbench.convert.reload import DifferentModel  # noqa: E402
from workbench.convert.stages.stage import Stage  # noqa: E402
from workbench.metrics.tensors import TensorError, tensor_error  # noqa: E402

WIDTH, LENGTH, MASKED = 32, 7, -30000.0


class Norm(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.rand(WIDTH) + 0.5)

    def forward(self, x):
        return self.weight * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6))


class Attention(torch.nn.Module):
    """One head with rotary positions and a causal mask that is written in the module."""

    def __init__(self):
        super().__init__()
        self.query, self.key, self.value = (torch.nn.Parameter(torch.randn(WIDTH, WIDTH) / 5) for _ in range(3))
        self.register_buffer("frequencies", 30.0 ** -torch.linspace(0, 1, WIDTH // 2), persistent=False)
        self.register_buffer("masked", torch.tensor(MASKED))

    def turned(self, x, positions):
        angles = positions.float()[:, None] * self.frequencies
        angles = torch.cat((angles, angles), -1)
        first, second = x.chunk(2, -1)
        return x * angles.cos().to(x.dtype) + torch.cat((-second, first), -1) * angles.sin().to(x.dtype)

    def forward(self, x, positions):
        scores = self.turned(x @ self.query, positions) @ self.turned(x @ self.key, positions).transpose(1, 2)
        seen = positions[:, None] >= positions[None]
        scores = torch.where(seen, scores / math.sqrt(WIDTH), self.masked)
        return torch.softmax(scores, -1, dtype=torch.float32).to(x.dtype) @ (x @ self.value)


class Small(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.norms = torch.nn.ModuleList([Norm(), Norm()])
        self.blocks = torch.nn.ModuleList([Attention(), Attention()])
        self.head = torch.nn.Linear(WIDTH, 11)

    def forward(self, x, positions):
        for norm, block in zip(self.norms, self.blocks, strict=True):
            x = x + block(norm(x), positions)
        return self.head(x), x


@pytest.fixture(scope="module")
def stage():
    torch.manual_seed(2)
    layers = {f"blocks.{n}": f"text.block.{n}" for n in (0, 1)} | {f"norms.{n}": f"text.norm.{n}" for n in (0, 1)}
    example = {"x": torch.randn(1, LENGTH, WIDTH), "positions": torch.arange(LENGTH, dtype=torch.int32)}
    return Stage("main", Small().eval(), example, ("logits", "hidden"), layers=layers)


@pytest.fixture(scope="module")
def feeds():
    drawn = np.random.default_rng(5)
    positions = np.arange(LENGTH, dtype=np.int32)
    return [{"x": drawn.standard_normal((1, LENGTH, WIDTH), np.float32), "positions": positions + n} for n in (0, 9, 60)]


@pytest.fixture(scope="module")
def graph(stage):
    return graph_of(stage, 22)


@pytest.fixture(scope="module")
def proto(graph):
    return ir.to_proto(graph.model)


def written(proto, folder, name="main.onnx"):
    (folder / name).write_bytes(proto.SerializeToString())
    return folder / name


def in_type(proto, precision, folder, graph, keep=()):
    """(file, rows) of the graph in the type."""
    model = ir.from_proto(proto)
    rows = typed(model, precision, keep, dict(graph.origins), dict(graph.layers), graph.stage.layers) if precision != "fp32" else []
    made = ir.to_proto(model)
    onnx.checker.check_model(made, full_check=True)
    return written(made, folder, f"{precision}.onnx"), rows


@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16"])
def test_a_right_graph_is_as_near_as_torch_itself(precision, stage, feeds, graph, proto, tmp_path):
    path, rows = in_type(proto, precision, tmp_path, graph)
    found = check_stage(stage, path, feeds, Recipe(precision=precision), rows, written(proto, tmp_path))
    assert found["same"] and found["note"] is None and found["calls"] == 3 and not differences("main", found)
    for row in found["outputs"].values():
        assert row["limit"] == (1e-5 if precision == "fp32" else 2 * row["own_error"])
        assert row["relative_l2"] > (0 if precision == "fp32" else row["own_error"] / 3)  # it does compute in the type
    assert (found["before"] is None) == (precision == "fp32")
    kinds = found["precision"]["found"]
    assert set(kinds) == ({"fp32"} if precision == "fp32" else {"fp32", precision})
    layers = {row["layer"] for row in rows if row["reason"].startswith("part of a norm") or row["reason"] == "a norm"}
    assert precision == "fp32" or layers == {"text.norm.0", "text.norm.1"}


def test_own_errors_are_those_of_copies_in_the_type(stage, feeds):
    expected = [stage.run(feed)[0] for feed in feeds]
    sizes = {kind: own.own_errors(stage, feeds, expected, kind)[0]["logits"].relative_rms for kind in own.TYPES}
    assert 1e-8 < sizes["fp32"] < 1e-6 and 1e-4 < sizes["fp16"] < 2e-3 < sizes["bf16"] < 5e-2
    half = copy.deepcopy(stage.module).half()
    half.blocks[0].frequencies, half.blocks[1].frequencies = (block.frequencies for block in stage.module.blocks)
    with torch.no_grad():
        found = half(torch.from_numpy(feeds[0]["x"]).half(), torch.from_numpy(feeds[0]["positions"]))[0].double().numpy()
    alone = own.own_errors(stage, feeds[:1], expected[:1], "fp16")[0]["logits"]
    right = expected[0]["logits"].astype(np.float64)
    assert alone.relative_rms == pytest.approx(np.linalg.norm(found - right) / np.linalg.norm(right))
    assert stage.module.head.weight.dtype == torch.float32  # copies, not the stage's own


def weights(proto, name, change):
    for each in proto.graph.initializer:
        if each.name == name:
            each.CopyFrom(onnx.numpy_helper.from_array(change(onnx.numpy_helper.to_array(each)), name))
            return
    raise AssertionError(name)


def damaged(proto, how):
    made = onnx.ModelProto()
    made.CopyFrom(proto)
    stored = {each.name: onnx.numpy_helper.to_array(each) for each in made.graph.initializer}
    if how == "mask":
        name = next(name for name, value in stored.items() if value.size == 1 and float(value) == MASKED)
        weights(made, name, lambda value: value / np.float32(3000))
    elif how == "scale":
        divide = next(node for node in made.graph.node if node.op_type == "Div" or (
            node.op_type == "Mul" and any(name in stored and stored[name].size == 1 for name in node.input)))  # fmt: skip
        name = next(name for name in divide.input if name in stored)
        weights(made, name, lambda value: (value * np.float32(1.1)).astype(np.float32))
    elif how == "transposed":
        name = next(name for name, value in stored.items() if value.shape == (WIDTH, WIDTH) and name.startswith("blocks.1"))
        weights(made, name, lambda value: value.T.copy())
    else:
        wave = next(node for node in made.graph.node if node.op_type == "Cos")
        shifted = onnx.helper.make_node("Add", [wave.input[0], "shift"], ["shifted"])
        made.graph.initializer.append(onnx.numpy_helper.from_array(np.float32(0.05), "shift"))
        made.graph.node.insert(list(made.graph.node).index(wave), shifted)
        wave.input[0] = "shifted"
    onnx.checker.check_model(made, full_check=True)
    return made


@pytest.mark.parametrize("how", ["mask", "scale", "transposed", "rotary"])
def test_a_damaged_graph_is_refused_in_every_type_and_its_layer_found(how, stage, feeds, graph, proto, tmp_path):
    bad = damaged(proto, how)
    before = written(bad, tmp_path)
    alone = check_stage(stage, before, feeds, Recipe())
    assert not alone["same"] and differences("main", alone)[0].startswith("main: logits is ")
    path, rows = in_type(bad, "fp16", tmp_path, graph)
    found = check_stage(stage, path, feeds, Recipe(precision="fp16"), rows, before)
    assert not found["same"]
    assert differences("main", found)[0].startswith("main in fp32, before its types are changed: logits is ")
    told = first_departing(stage, before, feeds[0], graph.layers, graph.origins)
    layer = "text.block.1" if how == "transposed" else "text.block.0"
    assert (
        told.startswith(f"main: it begins in layer {layer} (op ")
        and "test_onnx_checking.py:" in told
        and "times torch's own" in told
    )
    assert f"module {layer.replace('text.block', 'blocks')}" in told
    told = first_departing(stage, before, feeds[0], graph.layers, graph.origins, "fp32", graph.exported)
    op, line = {
        "mask": ("Where", "torch.where("),
        "scale": ("Div", "scores / math.sqrt"),
        "transposed": ("MatMul", "x @ self."),
        "rotary": ("Cos", "self.turned("),
    }[how]
    assert f"(op {op} " in told
    number = int(told.partition("test_onnx_checking.py:")[2].partition(")")[0])
    assert line in Path(__file__).read_text(encoding="utf-8").splitlines()[number - 1] and f"in layer {layer} " in told


def test_nothing_departs_in_a_right_graph(stage, feeds, graph, proto, tmp_path):
    assert first_departing(stage, written(proto, tmp_path), feeds[0], graph.layers, graph.origins) is None
    path, _ = in_type(proto, "fp16", tmp_path, graph)
    assert first_departing(stage, path, feeds[0], graph.layers, graph.origins, "fp16") is None


def test_a_scale_that_is_off_hides_in_no_type(stage, feeds, graph, proto, tmp_path):
    """What ``before`` is for: a per-cent that half precision's limit may let pass is refused all the same."""
    off = onnx.ModelProto()
    off.CopyFrom(proto)
    weights(off, "head.bias", lambda value: value * np.float32(1.0005))
    path, rows = in_type(off, "bf16", tmp_path, graph)
    recipe = Recipe(precision="bf16")
    assert check_stage(stage, path, feeds, recipe, rows)["same"]
    before = written(off, tmp_path)
    told = first_departing(stage, before, feeds[0], graph.layers, graph.origins, "fp32", graph.exported)
    assert told.startswith("main: it begins outside the layers (op ") and "module head" in told
    found = check_stage(stage, path, feeds, recipe, rows, before)
    assert not found["same"] and [row["same"] for row in found["before"].values()] == [False, True]


def test_types_are_compared_with_what_was_asked_and_kept(stage, feeds, graph, proto, tmp_path):
    path, rows = in_type(proto, "fp16", tmp_path, graph, ("MatMul",))
    assert precision_of(path, "fp16", rows)["same"]
    lost = [row for row in rows if row["op"] != "Softmax"]
    found = check_stage(stage, path, feeds[:1], Recipe(precision="fp16"), lost)
    assert not found["same"] and len(found["precision"]["other"]) == 2
    assert "fp16 was asked, and the graph has" in differences("main", found)[-1] and "(Softmax)" in differences("main", found)[-1]
    assert not precision_of(path, "fp32")["same"]


class Wrong(torch.nn.Module):
    def forward(self, x):
        if x.dtype != torch.float32:
            raise TypeError("float32 only")
        return x.exp(), x.exp()[:, :4]


def test_where_torch_cannot_run_the_type_the_limit_is_stated(tmp_path):
    stage = Stage("main", Wrong(), {"x": torch.ones(2, 8)}, ("y", "z"))
    shape = onnx.helper.make_tensor_value_info
    nodes = [onnx.helper.make_node("Exp", ["x"], ["y"]), onnx.helper.make_node("Identity", ["y"], ["z"])]
    outputs = [shape("y", 1, [2, 8]), shape("z", 1, [2, 8])]
    opset = {"opset_imports": [onnx.helper.make_opsetid("", 20)], "ir_version": 10}
    model = onnx.helper.make_model(onnx.helper.make_graph(nodes, "g", [shape("x", 1, [2, 8])], outputs), **opset)
    feed = {"x": np.linspace(-1, 1, 16, dtype=np.float32).reshape(2, 8)}
    with pytest.raises(DifferentModel, match=r"output 'z' has the shape \[2, 8\]"):
        measure(stage, written(model, tmp_path), [feed])
    nodes[1] = onnx.helper.make_node("Slice", ["y", "zero", "four", "one"], ["z"])
    numbers = [onnx.numpy_helper.from_array(np.array([n]), name) for name, n in (("zero", 0), ("four", 4), ("one", 1))]
    outputs[1] = shape("z", 1, [2, 4])
    graph = onnx.helper.make_graph(nodes, "g", [shape("x", 1, [2, 8])], outputs, numbers)
    made = ir.from_proto(onnx.helper.make_model(graph, **opset))
    typed(made, "fp16")
    found = check_stage(stage, written(ir.to_proto(made), tmp_path), [feed], replace(Recipe(), precision="fp16"))
    assert (
        found["same"] and found["note"] == "torch cannot run it in fp16 (TypeError: float32 only): limits are 40 units of rounding"
    )
    assert found["outputs"]["y"]["limit"] == 40 / 2048 and found["outputs"]["y"]["own_error"] is None


@pytest.fixture
def lucky(monkeypatch):
    """torch as if it had been nearer by luck on the calls that were given; the list gets how many calls were asked about."""
    honest, calls = own.own_errors, []

    def nearer(stage, given, expected, precision):
        found, why = honest(stage, given, expected, precision)
        calls.append(len(given))
        factor = lucky.factor**2 if len(calls) == 1 else 1
        return {name: replace(error, error_square=error.error_square / factor) for name, error in found.items()}, why

    lucky = SimpleNamespace(factor=2.5, calls=calls)
    monkeypatch.setattr("workbench.convert.onnx.checking.own_errors", nearer)
    return lucky


def test_a_few_unlucky_roundings_are_judged_on_more_calls(stage, feeds, graph, proto, tmp_path, lucky):
    path, rows = in_type(proto, "fp16", tmp_path, graph)
    found = check_stage(stage, path, feeds, Recipe(precision="fp16"), rows)
    assert lucky.calls == [3, 9] and found["same"]
    assert (
        found["note"].startswith("on the 3 calls given logits was 2.")
        and "judged with 9 more, near those: logits " in found["note"]
    )
    lucky.calls.clear()
    bad = ir.load(path)
    name = next(name for name, value in bad.graph.initializers.items() if name.startswith("head") and len(value.shape) == 2)
    weight = bad.graph.initializers[name]
    weight.const_value = ir.tensor((weight.const_value.numpy() * np.float16(1.02)).astype(np.float16), name=name)
    found = check_stage(stage, written(ir.to_proto(bad), tmp_path), feeds, Recipe(precision="fp16"), rows)
    assert not found["outputs"]["logits"]["same"]


def test_three_times_the_own_error_is_no_luck(stage, feeds, graph, proto, tmp_path, lucky):
    """Whatever further calls would say, it is not asked; nor where they would be the same calls."""
    path, rows = in_type(proto, "fp16", tmp_path, graph)
    lucky.factor = 4
    found = check_stage(stage, path, feeds, Recipe(precision="fp16"), rows)
    assert lucky.calls == [3] and not found["same"] and found["note"] is None
    lucky.calls.clear()
    lucky.factor = 2.5
    whole = [{name: value for name, value in feed.items() if value.dtype.kind != "f"} for feed in feeds]
    assert not checking._may_be_luck(found["outputs"], whole)


@pytest.mark.parametrize("times", [1.5, 2.5, 4.0])
def test_an_error_that_is_everywhere_passes_below_twice_alone(times, stage, feeds, graph, proto, tmp_path, monkeypatch):
    """The graph errs by ``times`` torch's own error, in another direction on every call."""
    path, rows = in_type(proto, "fp16", tmp_path, graph)
    drawn = np.random.default_rng(3)

    def erring(path, given, expected):
        size = own.own_errors(stage, given, expected, "fp16")[0]
        found = {}
        for right in expected:
            for name, value in right.items():
                noise = drawn.standard_normal(value.shape)
                wrong = value + noise * np.linalg.norm(value) / np.linalg.norm(noise) * times * size[name].relative_rms
                found[name] = (found.get(name, (TensorError(), False))[0] + tensor_error(value, wrong), False)
        return found

    monkeypatch.setattr(checking, "_measured", erring)
    found = check_stage(stage, path, feeds, Recipe(precision="fp16"), rows)
    assert found["same"] == (times < 2) and (times != 2.5 or "judged with 9 more" in found["note"])


class Steep(torch.nn.Module):
    """Values beyond half precision on the way: torch in it has no finite result."""

    def forward(self, x):
        return (x * 1e6) / 1e6, x.sqrt()


def test_where_torch_has_nothing_finite_the_limit_is_stated_and_what_is_not_finite_is_told(tmp_path):
    stage = Stage("main", Steep(), {"x": torch.ones(2, 8)}, ("y", "z"))
    made = graph_of(stage, 20)
    before = written(ir.to_proto(made.model), tmp_path)
    feed = {"x": np.linspace(-1, 3, 16, dtype=np.float32).reshape(2, 8)}
    assert check_stage(stage, before, [feed], Recipe())["note"] == "4 values of z are not finite, in torch in fp32 already"
    found = check_stage(stage, before, [feed], Recipe(precision="fp16"), [{"value": "y"}, {"value": "z"}])
    assert (
        found["outputs"]["y"]["limit"] == 40 / 2048 and found["outputs"]["y"]["own_error"] is None and found["outputs"]["y"]["same"]
    )
    assert found["note"].startswith(
        "torch's own y in fp16 has only values that are not finite: its limit is 40 units of rounding; "
    )
    never = check_stage(stage, before, [{"x": np.full((2, 8), -1, np.float32)}], Recipe())
    assert not never["same"] and "no value of z is finite" in differences("main", never)[0]
