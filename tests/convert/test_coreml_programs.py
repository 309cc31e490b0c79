"""Stages as ML Programs: the same numbers as torch, every value's origin, and what is said where a stage cannot be converted."""

from __future__ import annotations

import inspect
from collections import Counter
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from tests.convert.coreml_models import (
    LAYERS,
    Branches,
    Buckets,
    Fourier,
    Memory,
    Outer,
    Seven,
    Six,
    by_torch,
    converted,
    feed,
    language,
    memory,
    torch,
)
from workbench.convert.coreml.compress import compress
from workbench.convert.coreml.programs import convert_stage
from workbench.convert.coreml.recipe import Recipe
from workbench.convert.coreml.saving import save_package
from workbench.convert.coreml.sources import relative_l2
from workbench.convert.stages.stage import Stage
from workbench.errors import ModelError, UsageError
from workbench.mil import load

LIMIT = {"fp32": 2e-6, "fp16": 3e-3}


@pytest.fixture(scope="module")
def packages(tmp_path_factory):
    """``packages("fp16")``: the language stage saved in that precision, once."""
    made: dict[str, Path] = {}

    def package(precision: str, *keep: str) -> Path:
        key = "-".join((precision, *keep))
        if key not in made:
            made[key] = tmp_path_factory.mktemp("programs") / "main.mlpackage"
            converted(precision, keep).mlmodel.save(str(made[key]))
        return made[key]

    return package


def observed(path, given):
    seen = {}
    program = load(path)
    program.observe(given, lambda op, results: seen.update(zip([name for name, _ in op.outputs], results, strict=True)))
    return {name: value.numpy() for name, value in seen.items()}


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_the_same_outputs_as_torch_at_every_length(precision, packages):
    program = load(packages(precision))
    assert [str(item) for item in program.inputs] == ["tokens: int32[1, 2..24]", "mask: fp32[1, 1, 2..24, 2..24]"]
    assert [(item.name, item.dtype) for item in program.outputs] == [("logits", "fp32"), ("hidden", "fp32")]
    for length in (2, 7, 24):
        given = feed(length)
        for found, wanted in zip(program.predict(given).values(), by_torch(language(), given), strict=True):
            assert found.dtype == np.float32 and 0 < relative_l2(found, wanted) < LIMIT[precision]


def torch_values(stage, exported, given):
    """Every node's value, by torch's own interpreter of the exported graph."""
    seen = {}

    class Recording(torch.fx.Interpreter):
        def run_node(self, node):
            seen[node.name] = super().run_node(node)
            return seen[node.name]

    held = {**dict(exported.named_parameters()), **dict(exported.named_buffers()), **dict(exported.constants)}
    flat = [held[spec.target] if spec.target else None for spec in exported.graph_signature.input_specs]
    names = iter(stage.example)
    with torch.no_grad():
        Recording(exported.graph_module).run(*(torch.from_numpy(given[next(names)]) if each is None else each for each in flat))
    return {name: (value[0] if isinstance(value, tuple) else value) for name, value in seen.items()}


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_every_value_with_an_origin_is_what_torch_has_there(precision, packages):
    found, given = converted(precision), feed(11, seed=3)
    wanted, seen = torch_values(found.stage, found.exported, given), observed(packages(precision), given)
    results = {name: origin["node"] for name, origin in found.origins.items() if origin["result"]}
    errors = {name: relative_l2(seen[name], wanted[node].numpy()) for name, node in results.items()}
    assert len(errors) > 25 and max(errors.values()) < 3 * LIMIT[precision], errors
    nodes = [origin["node"] for origin in found.origins.values() if origin["result"]]
    assert len(set(nodes)) == len(nodes)
    swapped = dict(
        zip(results, [*list(results.values())[1:], results[next(iter(results))]], strict=True)
    )  # a mapping that is off by one
    wrong = [
        seen[name].shape != wanted[node].shape or relative_l2(seen[name], wanted[node].numpy()) > 0.1
        for name, node in swapped.items()
    ]
    assert sum(wrong) > len(wrong) / 2


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_layers_are_what_torch_modules_return(precision, packages):
    found, given = converted(precision), feed(6, seed=4)
    returned = {}
    hooks = [
        module.register_forward_hook(lambda _, __, output, name=LAYERS[path]: returned.__setitem__(name, output))
        for path, module in language().module.named_modules()
        if path in LAYERS
    ]
    by_torch(language(), given)
    for hook in hooks:
        hook.remove()
    seen = observed(packages(precision), given)
    assert set(found.layers) == {*LAYERS.values(), "logits"} - {
        "text.widen"
    }  # folded into the batch norm: it has no value of its own
    for layer, value in found.layers.items():
        if layer != "logits":
            assert relative_l2(seen[value], returned[layer].numpy()) < LIMIT[precision], layer


def test_origins_name_module_and_line(packages):
    found = converted("fp32")
    softmax = [origin for origin in found.origins.values() if origin["op"] == "softmax"]
    lines = inspect.getsource(inspect.getmodule(Buckets)).splitlines()
    number = next(number for number, line in enumerate(lines, 1) if "torch.softmax(" in line)
    assert [origin["module"] for origin in softmax] == ["blocks.0.attention", "blocks.1.attention"]
    assert {origin["line"] for origin in softmax} == {f"coreml_models.py:{number}"}
    settled = found.settle(packages("fp32"))
    assert settled.origins == found.origins and settled.layers == found.layers
    spec = found.mlmodel.get_spec().mlProgram.functions["main"]
    types = Counter(op.type for op in next(iter(spec.block_specializations.values())).operations if op.type != "const")
    assert settled.ops == dict(types)


def test_a_saved_program_that_lost_a_layer_is_refused(packages):
    found = converted("fp16")  # its values have other names than those of fp32
    with pytest.raises(ModelError, match=r"lost \d+ of 9 layers(.|\n)*text\.embeddings"):
        found.settle(packages("fp32"))


def kinds(path):
    """MIL value -> (op type, declared float type)."""
    from workbench.mil.graph import walk

    return {name: (op.type, kind.dtype) for op in walk(load(path).function.block) for name, kind in op.outputs}


def test_named_ops_stay_fp32(packages):
    patterns = ("softmax", "text.block.1.*", "linear_1")
    found, declared = converted("fp16", patterns), kinds(packages("fp16", *patterns))
    floats = {name: dtype for name, (op, dtype) in declared.items() if op != "cast" and dtype in ("fp16", "fp32")}
    assert {name for name, dtype in floats.items() if dtype == "fp32"} == {row["value"] for row in found.kept}
    assert [row["pattern"] for row in found.kept if row["op"] == "softmax"] == ["softmax", "softmax", "text.block.1.*"]
    inside = {name for name, origin in found.origins.items() if origin["module"].startswith("blocks.1.") and name in floats}
    assert inside and {floats[name] for name in inside} == {"fp32"}
    assert {"linear_1"} == {row["value"] for row in found.kept if row["pattern"] == "linear_1"} and "fp16" in floats.values()
    plain = kinds(packages("fp16"))
    assert {dtype for op, dtype in plain.values() if op == "softmax"} == {"fp16"} and not converted("fp16").kept


def test_a_pattern_that_keeps_nothing_says_what_could_be_kept():
    layers = {"inner": "text.inner", "inner.unused": "text.inner.unused"}
    module = Outer(torch.nn.Linear(7, 7)).eval()
    with pytest.raises(UsageError) as caught:
        convert_stage(Stage("main", module, X, ("y",), layers=layers), Recipe("fp16", keep_fp32=("linear", "text.inner.u*")))
    assert "'text.inner.u*' keeps nothing" in str(caught.value) and "op types here: mul, linear;" in str(caught.value)
    assert "layers: text.inner, text.inner.unused; values: mul, " in str(caught.value)


def test_states_are_carried_as_torch_carries_them(tmp_path):
    stage = memory()
    found = convert_stage(stage, Recipe(stateful=True))
    program = load(save_package(compress(found.mlmodel, Recipe(quantize="int8")), tmp_path / "step.mlpackage"))
    ops = program.function.block.ops
    writes = [(before.outputs[0][0], op) for before, op in pairwise(ops) if op.type == "write_state"]
    assert len(writes) == 2 and all(made in op.references() for made, op in writes)  # each where its value is made
    assert sorted(str(item) for item in program.states) == ["last: state fp16[4, 32]", "sums: state fp16[4, 32]"]
    state, module = program.make_state(), Memory().eval()
    module.load_state_dict(stage.module.state_dict())
    for seed in range(3):
        x = np.random.default_rng(seed).normal(size=(4, 32)).astype(np.float32)
        y = program.predict({"x": x}, state)["y"]
        with torch.no_grad():
            assert relative_l2(y, module(torch.from_numpy(x)).numpy()) < 1e-6
        for name in ("sums", "last"):
            np.testing.assert_array_equal(state.read(name), getattr(module, name).numpy())


def test_states_that_cannot_be():
    with pytest.raises(UsageError, match="iOS17 has none"):
        convert_stage(memory(), Recipe(target="iOS17"))
    with pytest.raises(UsageError, match=r"writes the buffers sums, last; its states are none(.|\n)*states=\('sums', 'last'\)"):
        convert_stage(memory(states=()), Recipe())
    wide = Stage("step", Memory(torch.float32).eval(), {"x": torch.zeros(4, 32)}, ("y",), states=("sums", "last"))
    with pytest.raises(UsageError, match=r"state '\w+' is torch.float32"):
        convert_stage(wide, Recipe())


def line_of(mark: str) -> str:
    lines = inspect.getsource(inspect.getmodule(Buckets)).splitlines()
    return f"coreml_models.py:{next(number for number, line in enumerate(lines, 1) if line.endswith(f'# {mark}'))}"


X = {"x": torch.randn(2, 7)}


@pytest.mark.parametrize(
    ("module", "precision", "words"),
    [
        (Outer(Fourier()), "fp32", ("'fft_rfft'", line_of("not convertible"), "module inner")),
        (Outer(Buckets()), "fp32", ("'bucketize'", line_of("not known"), "module inner", "it knows no such op")),
        (Outer(Branches()), "fp32", ("cannot follow stage 'main'", line_of("data-dependent"), "if x.sum() > 0", "torch.where")),
        (Outer(Six()), "fp32", ("'reshape'", line_of("of rank 6"), "module inner", "rank <= 5")),
        (Outer(Six()), "fp16", ("'reshape'", line_of("of rank 6"), "module inner", "rank <= 5")),
    ],
)
def test_what_cannot_be_converted_is_named_with_its_line(module, precision, words, capfd):
    with pytest.raises(ModelError) as caught:
        convert_stage(Stage("main", module.eval(), X, ("y",)), Recipe(precision=precision))
    assert all(word in str(caught.value) for word in words), str(caught.value)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"dynamic": {"x": {1: "T"}}}, "size 'T' of input 'x' (axis 1) has no upper bound"),
        ({"dynamic": {"x": {1: "T"}}, "bounds": {"T": (9, 2)}}, "size 'T' is to lie in 9..2"),
        ({"dynamic": {"x": {1: "T"}}, "bounds": {"T": (8, 16)}}, "of the example has T = 7"),
        ({"dynamic": {"x": {2: "T"}}, "bounds": {"T": (2, 16)}}, "input 'x' has no axis 2"),
        ({"dynamic": {"y": {0: "T"}}, "bounds": {"T": (2, 16)}}, "there is no input 'y'"),
        ({"outputs": ()}, "gives 1 outputs, 0 named: none"),
        ({"outputs": ("a", "b")}, "gives 1 outputs, 2 named: a, b"),
        ({"outputs": ("x",)}, "the name 'x' is given twice"),
        ({"outputs": ("1st",)}, "'1st' is no name"),
        ({"example": {}}, "has no inputs"),
        ({"example": {"x": torch.tensor(1.0)}}, "input 'x' is a scalar"),
        ({"example": {"x": torch.zeros(2, 7, dtype=torch.int64)}}, "give it as torch.int32"),
        ({"example": {"x": torch.zeros(2, 7, dtype=torch.bool)}}, "Core ML's inputs are float32"),
        ({"example": {"x": np.zeros((2, 7))}}, "inputs are tensors"),
        ({"module": torch.nn.Identity()}, "is the input 'x' itself"),
    ],
)
def test_what_a_stage_may_not_be(changes, words):
    fields = {"name": "main", "module": Seven(), "example": X, "outputs": ("y",), **changes}
    with pytest.raises(UsageError) as caught:
        convert_stage(Stage(**fields), Recipe())
    assert words in str(caught.value)


def test_a_size_that_the_model_fixes():
    stage = Stage("main", Seven(), X, ("y",), dynamic={"x": {1: "T"}}, bounds={"T": (2, 16)})
    with pytest.raises(ModelError, match=r"Constraints violated(.|\n)*T = 7(.|\n)*leave it fixed"):
        convert_stage(stage, Recipe())
