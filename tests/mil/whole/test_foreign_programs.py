"""Programs that no converter of coremltools would write, put together by hand: what the format allows must run all the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from coremltools.proto import MIL_pb2 as pb

from tests.mil.whole.byhand import const, filed, function, kind, op, save, value
from workbench.mil import UnsupportedError, load

X = np.random.default_rng(0).standard_normal((2, 3)).astype(np.float32)
F23 = kind("fp32", 2, 3)


def results(program: Any, folder: Path, given: Any = None, outputs: Any = (), **options: Any) -> dict[str, Any]:
    """What the saved program gives, compiled and replayed."""
    loaded = load(save(program, folder, outputs), **options)
    given = {"x": X} if given is None else given
    first = loaded.predict(given)
    for name, found in loaded.predict(given).items():
        np.testing.assert_array_equal(found, first[name])
    return first


def test_values_bound_in_place(tmp_path: Path) -> None:
    """No const op at all: tensors, scalars, lists of ints, strings and flags stand where they are used."""
    program = pb.Program(version=1)
    block = function(program, {"x": F23})
    weight, bias = np.arange(12, dtype=np.float32).reshape(4, 3) / 7, np.float32([1, -1, 0.5, 0])
    op(block, "linear", {"dense": kind("fp32", 2, 4)}, x="x", weight=weight, bias=bias)
    op(block, "reshape", {"flat": kind("fp32", 4, 2)}, x="dense", shape=np.int32([-1, 2]))
    op(block, "concat", {"both": kind("fp32", 4, 4)}, values=["flat", "flat"], axis=np.int32(1), interleave=np.bool_(True))
    op(
        block,
        "concat",
        {"more": kind("fp32", 5, 4)},
        values=["both", np.ones((1, 4), np.float32)],
        axis=np.int32(0),
        interleave=np.bool_(False),
    )
    op(block, "gelu", {"out": kind("fp32", 5, 4)}, x="more", mode=value("TANH_APPROXIMATION"))
    block.outputs.append("out")
    flat = (X @ weight.T + bias).reshape(4, 2)
    more = np.concatenate([np.repeat(flat, 2, 1), np.ones((1, 4))])
    wanted = 0.5 * more * (1 + np.tanh(np.sqrt(2 / np.pi) * (more + 0.044715 * more**3)))
    np.testing.assert_allclose(results(program, tmp_path)["out"], wanted, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int16", "uint16", "int32", "int64", "fp16", "fp64", "bool"])
@pytest.mark.parametrize("place", ["const", "binding"])
def test_constants_of_every_type(tmp_path: Path, dtype: str, place: str) -> None:
    """As a const op and bound in place; narrow types are bytes in the program. Each is cast and returned."""
    types = {"fp16": np.float16, "fp64": np.float64, "bool": np.bool_}
    held = np.array([[0, 1, 100], [7, 0, 250 if dtype.startswith("u") else -3]]).astype(types.get(dtype, dtype))
    program = pb.Program(version=1)
    block = function(program, {"x": F23})
    if place == "const":
        const(block, "held", held)
    op(block, "cast", {"out": F23}, x="held" if place == "const" else held, dtype=value("fp32"))
    op(block, "add", {"sum": F23}, x="x", y="out")
    block.outputs.append("sum")
    np.testing.assert_array_equal(results(program, tmp_path)["sum"], X + held.astype(np.float32))


def test_several_weight_files(tmp_path: Path) -> None:
    """Constants in two files and in a folder of their own, one place read under two names, one bound in place to a file."""
    one, two, three = (np.random.default_rng(n).standard_normal((2, 3)).astype(np.float32) for n in range(3))
    first, second = filed(tmp_path, "weights/weight.bin", [one, two])
    (third,) = filed(tmp_path, "other parts/ü 0.bin", [three])
    program = pb.Program(version=1)
    block = function(program, {"x": F23})
    const(block, "a", first)
    const(block, "same place", first)
    const(block, "c", three)
    op(block, "mul", {"p": F23}, x="x", y="a")
    op(block, "add", {"q": F23}, x="p", y=second)
    op(block, "mul", {"r": F23}, x="q", y=third)
    op(block, "sub", {"s": F23}, x="r", y="same place")
    op(block, "sub", {"out": F23}, x="s", y="c")
    block.outputs.append("out")
    np.testing.assert_allclose(results(program, tmp_path)["out"], (X * one + two) * three - one - three, rtol=1e-6, atol=1e-6)


NAMES = ["a b", "model/layer.0/Relu:0", "größe ✓", "%x", "1", "x\n", "class", "__init__", "'; quoted \"", "-"]


def test_names_of_any_letters(tmp_path: Path) -> None:
    program = pb.Program(version=1)
    given = "in put/é:0"
    block = function(program, {given: F23})
    before = given
    for number, name in enumerate(NAMES):
        op(block, "add", {name: F23}, x=before, y=np.float32(number))
        before = name
    block.outputs.extend(NAMES[::-1])
    found = results(program, tmp_path, {given: X})
    assert list(found) == NAMES[::-1]
    wanted = X
    for number, name in enumerate(NAMES):
        wanted = wanted + np.float32(number)
        np.testing.assert_array_equal(found[name], wanted)


def branch(made: Any, ops: list[tuple[str, str, str, Any]], outputs: list[str]) -> None:
    """A nested block of binary ops (type, result, x, y)."""
    block = made.blocks.add()
    for type, result, x, y in ops:
        op(block, type, {result: F23}, x=x, y=y)
    block.outputs.extend(outputs)


@pytest.mark.parametrize("flag", [True, False])
def test_one_name_in_sibling_blocks(tmp_path: Path, flag: bool) -> None:
    """Two branches, and two conds one after the other, each define ``t``; one branch hands on a value from outside."""
    program = pb.Program(version=1)
    block = function(program, {"x": F23, "flag": kind("int32", 1)})
    op(block, "cast", {"yes": kind("bool", 1)}, x="flag", dtype=value("bool"))
    op(block, "squeeze", {"go": kind("bool")}, x="yes", axes=np.int32([0]))
    made = op(block, "cond", {"first": F23}, pred="go")
    branch(made, [("add", "t", "x", np.float32(1)), ("mul", "u", "t", "t")], ["u"])
    branch(made, [("sub", "t", "x", np.float32(2)), ("mul", "u", "t", np.float32(3))], ["u"])
    made = op(block, "cond", {"second": F23, "third": F23}, pred="go")
    branch(made, [("mul", "t", "first", "x")], ["t", "x"])
    branch(made, [("add", "t", "first", "first")], ["first", "t"])
    block.outputs.extend(["first", "second", "third"])
    found = results(program, tmp_path, {"x": X, "flag": [int(flag)]})
    first = (X + 1) ** 2 if flag else (X - 2) * 3
    wanted = {"first": first, "second": first * X if flag else first, "third": X if flag else 2 * first}
    for name, each in wanted.items():
        np.testing.assert_allclose(found[name], each, rtol=1e-6)


@pytest.mark.parametrize("flag", [True, False])
def test_inner_values_hide_outer_ones(tmp_path: Path, flag: bool) -> None:
    """A result named as a constant outside, a constant named as a value outside, a result named as the op that holds its block."""
    program = pb.Program(version=1)
    block = function(program, {"x": F23, "flag": kind("int32", 1)})
    const(block, "k", np.float32(3))
    op(block, "cast", {"yes": kind("bool", 1)}, x="flag", dtype=value("bool"))
    op(block, "squeeze", {"go": kind("bool")}, x="yes", axes=np.int32([0]))
    op(block, "add", {"y": F23}, x="x", y=np.float32(1))
    made = op(block, "cond", {"out": F23}, pred="go")
    branch(made, [("add", "k", "x", np.float32(1)), ("mul", "u", "k", "k")], ["u"])
    inner = made.blocks.add()
    const(inner, "x", np.float32(2))
    op(inner, "add", {"seven": kind("fp32")}, x="x", y=np.float32(5))
    op(inner, "mul", {"w": F23}, x="seven", y="y")
    op(inner, "sub", {"k": F23}, x="w", y="x")
    inner.outputs.append("k")
    again = op(block, "cond", {"more": F23}, pred="go")
    branch(again, [("mul", "more", "y", "k")], ["more"])
    branch(again, [("add", "y", "out", "x")], ["y"])
    op(block, "mul", {"end": F23}, x="y", y="k")
    block.outputs.extend(["out", "more", "end"])
    found = results(program, tmp_path, {"x": X, "flag": [int(flag)]})
    out = (X + 1) ** 2 if flag else 7 * (X + 1) - 2
    for name, each in {"out": out, "more": 3 * (X + 1) if flag else out + X, "end": 3 * (X + 1)}.items():
        np.testing.assert_allclose(found[name], each, rtol=1e-5, atol=1e-6)


def test_a_loop_whose_variables_shadow_outer_names(tmp_path: Path) -> None:
    """Both blocks of a loop call their inputs as values outside are called."""
    program = pb.Program(version=1)
    block = function(program, {"x": F23})
    const(block, "i", np.int32(0))
    made = op(block, "while_loop", {"count": kind("int32"), "out": F23}, loop_vars=["i", "x"])
    for names in (("i", "x"), ("x", "i")):  # the second turns the names around
        inner = made.blocks.add()
        inner.inputs.add(name=names[0], type=kind("int32"))
        inner.inputs.add(name=names[1], type=F23)
    op(made.blocks[0], "less", {"go": kind("bool")}, x="i", y=np.int32(4))
    made.blocks[0].outputs.append("go")
    op(made.blocks[1], "add", {"n": kind("int32")}, x="x", y=np.int32(1))
    op(made.blocks[1], "mul", {"m": F23}, x="i", y=np.float32(1.5))
    made.blocks[1].outputs.extend(["n", "m"])
    op(block, "sub", {"moved": F23}, x="out", y="x")
    block.outputs.extend(["count", "moved"])
    found = results(program, tmp_path)
    np.testing.assert_allclose(found["moved"], X * 1.5**4 - X, rtol=1e-6)
    assert found["count"] == 4


@pytest.mark.parametrize("opset, factor", [("CoreML5", 2), ("CoreML7", 3), ("CoreML8", 5)])
def test_a_function_specialised_for_several_opsets(tmp_path: Path, opset: str, factor: int) -> None:
    """The function's opset chooses which of its blocks holds."""
    program = pb.Program(version=1)
    made = program.functions["main"]
    made.opset = opset
    made.inputs.add(name="x", type=F23)
    for name, number in (("CoreML5", 2), ("CoreML8", 5), ("CoreML7", 3)):
        block = made.block_specializations[name]
        op(block, "mul", {"out": F23}, x="x", y=np.float32(number))
        block.outputs.append("out")
    np.testing.assert_array_equal(results(program, tmp_path)["out"], X * np.float32(factor))


def test_remarks_and_attributes_that_mean_nothing(tmp_path: Path) -> None:
    """Documentation and attributes at every level are no part of the meaning."""
    program = pb.Program(version=1, docString="a program")
    block = function(program, {"x": F23})
    program.functions["main"].attributes["author"].CopyFrom(value("somebody"))
    program.attributes["buildInfo"].CopyFrom(value("none"))
    block.attributes["layer"].CopyFrom(value(np.int32(3)))
    weight = value(np.float32(4))
    weight.docString = "a four"
    const(block, "four", weight)
    made = op(block, "mul", {"out": F23}, x="x", y="four")
    made.attributes["name"].CopyFrom(value("times four"))
    made.attributes["com.example.line"].CopyFrom(value(np.int32(12)))
    made.outputs[0].type.tensorType.attributes["layout"].CopyFrom(value("NC"))
    block.outputs.append("out")
    np.testing.assert_array_equal(results(program, tmp_path)["out"], X * 4)


def test_an_attribute_of_an_op_that_is_not_known(tmp_path: Path) -> None:
    """It might change what the op means (constexpr ops keep their inputs there): refused by name, not passed over."""
    program = pb.Program(version=1)
    block = function(program, {"x": F23})
    op(block, "square", {"out": F23}, x="x").attributes["power"].CopyFrom(value(np.int32(3)))
    block.outputs.append("out")
    with pytest.raises(UnsupportedError, match=r"(?s)'out'.*'power'"):
        load(save(program, tmp_path))
