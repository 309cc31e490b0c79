"""`workbench.mil.examine` on what coremltools would not write: foreign ops, odd graphs, damaged parts. Never a traceback but a MilError."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from coremltools.converters.mil import Builder as mb

from tests.mil.building import save
from workbench.mil.errors import MilError, UnsupportedError
from workbench.mil.examine import examine
from workbench.mil.facts import Facts
from workbench.mil.graph import Block, Constant, Function, Op
from workbench.mil.neural_engine import RULES, engine_findings
from workbench.mil.numerics import number_findings
from workbench.mil.package import protocol
from workbench.mil.types import ListType, TensorType

FP16 = TensorType("fp16", (1, 4))
X = (("x", FP16),)


def made(*ops: Op, constants: dict[str, Constant] | None = None) -> Facts:
    return Facts(Function("main", X, "iOS17", Block(X, ops, (), constants or {})))


def edited(folder: Path, edit: Callable[[Any], None], since: str = "iOS17") -> Path:
    """A package whose protobuf was changed behind coremltools' back: relu, then linear."""
    weight = np.ones((64, 64), np.float16)
    build = lambda x: mb.linear(x=mb.relu(x=x, name="act"), weight=weight, name="dense")  # noqa: E731
    path = save(build, {"x": np.ones((1, 64), np.float16)}, folder, since=since)
    (file,) = path.rglob("*.mlmodel")
    model = protocol().Model()
    model.ParseFromString(file.read_bytes())
    edit(model)
    file.write_bytes(model.SerializeToString())
    return path


def operations(model: Any) -> Any:
    (block,) = model.mlProgram.functions["main"].block_specializations.values()
    return block.operations


def relu(model: Any) -> Any:
    (found,) = (op for op in operations(model) if op.type == "relu")
    return found


@pytest.mark.parametrize(
    "op, word",
    [
        (Op("lstm", "op", {}, X), "recurrent"),
        (Op("while_loop", "op", {}, X), "loops"),
        (Op("scatter_nd", "op", {}, X), "scatters"),
        (Op("resample", "op", {}, X), "sampling"),
        (Op("custom_layer", "op", {}, X), "code of one's own"),
        (Op("reshape", "op", {}, (("y", TensorType("fp16", (1,) * 6)),)), "rank above 5"),
        (Op("non_zero", "op", {}, (("y", TensorType("int32", (None, 2))),)), "depends on the values"),
    ],
)
def test_single_ops_that_tend_to_leave_the_neural_engine(op: Op, word: str) -> None:
    (finding,) = engine_findings(made(op), [], [])
    assert finding.ops == ("op",) and word in finding.text


def test_every_rule_is_hedged_and_has_a_source() -> None:
    assert len(RULES) == len({rule.why for rule in RULES})
    for rule in RULES:
        assert rule.source and "will" not in rule.why.split() and "never" not in rule.why.split()


def test_a_foreign_op_is_listed_and_the_rest_is_examined(tmp_path: Path) -> None:
    def edit(model: Any) -> None:
        relu(model).type = "warp\x1b[31m"

    found = examine(edited(tmp_path, edit))
    ((kind, text, ops),) = [(one.kind, one.text, one.ops) for one in found.findings if one.kind == "unsupported"]
    assert ops == ("act",) and text.isprintable() and "warp" in text
    assert {row.type: row.supported for row in found.ops} == {"warp\x1b[31m": False, "linear": True}
    assert found.outputs == ("dense: fp16[1, 64]",) and len(found.weights) == 1


def test_names_are_escaped_and_cut(tmp_path: Path) -> None:
    name = "\x1b]0;evil\x07" + "n" * 5000

    def edit(model: Any) -> None:
        op = relu(model)
        op.attributes["name"].immediateValue.tensor.strings.values[0] = name
        op.outputs[0].type.tensorType.dataType = 11  # fp32: so that a rule speaks of it

    found = examine(edited(tmp_path, edit))
    named = [finding for finding in found.findings if name in finding.ops]
    assert named and all(finding.text.isprintable() and len(finding.text) < 600 for finding in found.findings)


def without_rank(model: Any) -> None:
    relu(model).outputs[0].type.tensorType.rank = -1
    del relu(model).outputs[0].type.tensorType.dimensions[:]


def as_list(model: Any) -> None:
    kind = relu(model).outputs[0].type
    tensor = type(kind.tensorType)()
    tensor.CopyFrom(kind.tensorType)
    kind.listType.type.tensorType.CopyFrom(tensor)


def without_outputs(model: Any) -> None:
    relu(model).outputs[0].name = "elsewhere"
    relu(model).inputs["x"].arguments[0].name = "x"


def extra_input(model: Any) -> None:
    relu(model).inputs["sharpness"].arguments.add().name = "x"


def without_arguments(model: Any) -> None:
    del relu(model).inputs["x"].arguments[:]


def damaged_constexpr(model: Any) -> None:
    op = relu(model)
    op.type = "constexpr_lut_to_dense"
    op.inputs.clear()


def unknown_dtype(model: Any) -> None:
    relu(model).outputs[0].type.tensorType.dataType = 4711


def negative_size(model: Any) -> None:
    relu(model).outputs[0].type.tensorType.dimensions[0].constant.size = 2**63


def two_names(model: Any) -> None:
    operations(model).append(relu(model))


def unknown_colour(model: Any) -> None:
    image = model.description.input[0].type.imageType
    image.width, image.height, image.colorSpace = 64, 1, 77


def ranges_of_another_rank(model: Any) -> None:
    array = model.description.input[0].type.multiArrayType
    array.shapeRange.sizeRanges.add(lowerBound=1, upperBound=2)


def enumerated_of_another_rank(model: Any) -> None:
    model.description.input[0].type.multiArrayType.enumeratedShapes.shapes.add().shape.append(3)


EDITS = (
    without_rank, as_list, without_outputs, extra_input, without_arguments, damaged_constexpr, unknown_dtype, negative_size, two_names,
    unknown_colour, ranges_of_another_rank, enumerated_of_another_rank,
)  # fmt: skip


@pytest.mark.parametrize("edit", EDITS, ids=lambda edit: edit.__name__)
def test_odd_programs_are_examined_or_refused(tmp_path: Path, edit: Callable[[Any], None]) -> None:
    try:
        found = examine(edited(tmp_path, edit))
    except MilError as error:
        assert error.what
        return
    assert found.to_json()["ops"]
    assert all(finding.text.isprintable() for finding in found.findings)


def test_a_data_type_that_is_not_known_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedError, match="data type"):
        examine(edited(tmp_path, unknown_dtype))


def test_a_damaged_compressed_weight_is_a_finding(tmp_path: Path) -> None:
    found = examine(edited(tmp_path, damaged_constexpr))
    assert "unsupported" in {finding.kind for finding in found.findings}


def test_numbers_of_odd_constants() -> None:
    """Constants of every kind of type, where a number is expected and where none is."""
    odd = {
        "text": Constant(TensorType("string", ()), "fp16"),
        "list": Constant(ListType(FP16, None), [np.ones((1, 4), np.float16)]),
        "half": Constant(TensorType("bf16", (2,)), np.array([0x7F80, 0], np.uint16)),
        "eighth": Constant(TensorType("fp8e5m2", (2,)), np.array([0x7C, 0], np.uint8)),
        "empty": Constant(TensorType("fp16", (0,)), np.empty(0, np.float16)),
        "huge": Constant(TensorType("fp16", (9000,)), np.zeros(9000, np.float16)),
        "infinite": Constant(TensorType("fp32", ()), np.float32(np.inf)),
    }
    ops = [
        Op(kind, f"{kind}_{name}", {parameter: (name,)}, X)
        for name in odd
        for kind, parameter in (
            ("rsqrt", "epsilon"),
            ("real_div", "y"),
            ("cast", "x"),
            ("conv", "dilations"),
            ("max_pool", "strides"),
        )
    ]
    facts = made(*ops, Op("rsqrt", "none", {"epsilon": ()}, X), Op("conv", "bare", {}, ()), constants=odd)
    found = number_findings(facts)
    assert [(finding.kind, "'infinite'" in finding.text) for finding in found] == [("constant", True)]
    assert {name for finding in engine_findings(facts, [], []) for name in finding.ops} <= {"conv_infinite", "max_pool_infinite"}


def test_a_constant_written_inside_an_op() -> None:
    mask = Constant(TensorType("fp16", (2,)), np.array([0, -np.inf], np.float16))
    (finding,) = number_findings(made(Op("add", "masked", {"x": ("x",), "y": (mask,)}, X)))
    assert finding.kind == "constant" and "'masked.y'" in finding.text and finding.ops == ("masked",)


def test_a_cast_that_overflows() -> None:
    constant = Constant(TensorType("fp32", (2,)), np.array([65519.0, -7e4], np.float32))
    op = Op("cast", "narrow", {"x": (constant,)}, X)
    (finding,) = number_findings(made(op))
    assert finding.kind == "overflow" and finding.ops == ("narrow",) and "-70000" in finding.text
    with np.errstate(over="ignore"):
        assert np.isinf(np.float16(-7e4)) and np.isfinite(np.float16(65519.0))
