"""`workbench.mil.support`: counts, nested blocks, precisions, and what is not supported and why."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from coremltools.converters.mil import Builder as mb

from tests.mil.building import save
from workbench.mil.graph import Block, Constant, Function, Op, read_functions
from workbench.mil.package import read_package
from workbench.mil.registry import find_handler
from workbench.mil.support import op_table, unsupported
from workbench.mil.types import ListType, TensorType

FP16 = TensorType("fp16", (2,))


def read(build: Any, inputs: dict[str, np.ndarray], folder: Path, since: str = "iOS17") -> Function:
    return read_functions(read_package(save(build, inputs, folder, since=since)))["main"]


def made(*ops: Op, inputs: tuple[tuple[str, Any], ...] = (("x", FP16),)) -> Function:
    """A function no converter would write."""
    return Function("main", inputs, "iOS17", Block(inputs, ops, (ops[-1].outputs[0][0],)))


def test_counts_precisions_and_origin_of_the_handler(tmp_path: Path) -> None:
    def build(x: Any) -> Any:
        wide = mb.relu(x=mb.relu(x=x, name="first"), name="second")
        return mb.relu(x=mb.cast(x=wide, dtype="fp16", name="narrow"), name="third")

    relu, cast = op_table(read(build, {"x": np.ones((2, 3), np.float32)}, tmp_path))
    assert (relu.type, relu.count, relu.supported, relu.reason, relu.example) == ("relu", 3, True, None, "first")
    assert relu.precisions == ("fp16", "fp32") and cast.precisions == ("fp16",)
    assert relu.opset == "iOS17" and relu.handler_since == "iOS15"
    since = find_handler("cast", "iOS17")
    assert since is not None and cast.handler_since == since.since


def test_nested_blocks_count_and_constants_do_not(tmp_path: Path) -> None:
    def build(x: Any) -> Any:
        choice = mb.less(x=mb.reduce_sum(x=x), y=np.float32(3))
        return mb.cond(pred=choice, _true_fn=lambda: mb.exp(x=mb.exp(x=x)), _false_fn=lambda: mb.exp(x=x))

    rows = {row.type: row.count for row in op_table(read(build, {"x": np.ones(3, np.float32)}, tmp_path))}
    assert rows == {"reduce_sum": 1, "less": 1, "cond": 1, "exp": 3}


def test_every_reason_is_named_with_the_op_it_is_about() -> None:
    function = made(
        Op("relu", "fine", {"x": ("x",)}, (("a", FP16),)),
        Op("relu", "odd", {"x": ("a",), "sharpness": ("a",)}, (("b", FP16),)),
        Op("warp\x1b[31m", "foreign", {"x": ("b",)}, (("c", FP16),)),
        Op("add", "lacking", {"x": ("c",)}, (("d", FP16),)),
    )
    rows = {row.type: row for row in unsupported(function)}
    assert set(rows) == {"relu", "warp\x1b[31m", "add"}
    assert rows["relu"].count == 2 and rows["relu"].example == "odd" and "sharpness" in str(rows["relu"].reason)
    assert rows["add"].example == "lacking" and "'y'" in str(rows["add"].reason)
    foreign = rows["warp\x1b[31m"]
    assert foreign.handler_since is None and str(foreign.reason).isprintable()


def test_a_handler_newer_than_the_opset_is_none(tmp_path: Path) -> None:
    function = made(Op("scaled_dot_product_attention", "attend", {}, (("a", FP16),)))
    (row,) = unsupported(function)
    assert row.handler_since is None and "iOS17" in str(row.reason)


def test_odd_outputs_do_not_matter() -> None:
    function = made(
        Op("warp", "none", {}, ()),
        Op(
            "warp",
            "list",
            {"x": (Constant(FP16, np.ones(2, np.float16)),)},
            (("a", ListType(FP16, None)), ("b", TensorType("int4", None))),
        ),
    )
    (row,) = op_table(function)
    assert row.count == 2 and row.precisions == ("fp16", "int4")
