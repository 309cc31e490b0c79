"""Sizes that are computed at run time and absurd: refused by an error naming the op, before anything is allocated."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from coremltools.converters.mil import Builder as mb

from tests.mil.building import save
from tests.mil.editing import body, edit, op_of, small_memory
from workbench.mil import ExecutionError, PackageError, load
from workbench.mil.budget import Budget
from workbench.mil.graph import Op

HUGE = 1 << 20


def pair(n: Any) -> Any:
    return mb.concat(values=(n, n), axis=0)


def outer(x: Any, function: Callable[..., Any]) -> Any:
    """Of a vector with itself."""
    return function(x=mb.expand_dims(x=x, axes=[1]), y=mb.expand_dims(x=x, axes=[0]))


def number(n: Any) -> Any:
    return mb.squeeze(x=n)


def counted(n: Any, function: Callable[..., Any]) -> Any:
    """Of a vector of n values with itself."""
    return outer(mb.cast(x=mb.range_1d(start=np.int32(0), end=number(n), step=np.int32(1)), dtype="fp32"), function)


BY_VALUE: dict[str, Callable[[Any], Any]] = {
    "fill": lambda n: mb.fill(shape=pair(n), value=np.float32(1)),
    "tile": lambda n: mb.tile(x=np.ones((2, 2), np.float32), reps=pair(n)),
    "pad": lambda n: mb.pad(
        x=np.ones((2, 2), np.float32), pad=mb.concat(values=(n, n, n, n), axis=0), mode="constant", constant_val=np.float32(0)
    ),
    "range_1d": lambda n: mb.range_1d(start=np.int32(0), end=mb.mul(x=number(n), y=np.int32(1000)), step=np.int32(1)),
    "one_hot": lambda n: mb.one_hot(
        indices=np.arange(3, dtype=np.int32), one_hot_vector_size=mb.mul(x=number(n), y=np.int32(1000))
    ),
    "random_normal": lambda n: mb.random_normal(shape=pair(n), mean=np.float32(0), stddev=np.float32(1), seed=np.int32(1)),
    "make_list": lambda n: mb.list_length(
        ls=mb.make_list(init_length=number(n), dynamic_length=True, elem_shape=(1000,), dtype="fp32")
    ),
    "add": lambda n: counted(n, mb.add),
    "select": lambda n: counted(n, lambda x, y: mb.select(cond=mb.greater(x=x, y=np.float32(1)), a=x, b=y)),
    "matmul": lambda n: counted(n, mb.matmul),
}
"""By op: sizes from an input's value; small ones run."""

BY_SHAPE: dict[str, Callable[[Any], Any]] = {
    "add": lambda x: outer(x, mb.add),
    "equal": lambda x: mb.cast(x=outer(x, mb.equal), dtype="fp32"),
    "matmul": lambda x: outer(x, mb.matmul),
    "gather": lambda x: mb.gather(x=mb.expand_dims(x=x, axes=[0]), indices=mb.cast(x=mb.mul(x=x, y=np.float32(0)), dtype="int32"), axis=0),
    "concat": lambda x: mb.concat(values=(outer(x, mb.sub), outer(x, mb.sub)), axis=0),
    "conv": lambda x: mb.conv(x=mb.expand_dims(x=x, axes=[0, 1]), weight=np.ones((1, 1, 1), np.float32), pad_type="custom", pad=[HUGE, HUGE]),
    "conv_transpose": lambda x: mb.conv_transpose(x=mb.expand_dims(x=x, axes=[0, 1]), weight=np.ones((1, 1, 1), np.float32), strides=[HUGE]),
    "max_pool": lambda x: mb.max_pool(x=mb.expand_dims(x=x, axes=[0, 1]), kernel_sizes=[2 * HUGE], strides=[1], pad_type="custom", pad=[HUGE, 2 * HUGE]),
    "upsample_nearest_neighbor": lambda x: mb.upsample_nearest_neighbor(x=mb.expand_dims(x=x, axes=[0, 1, 2]), scale_factor_height=1024, scale_factor_width=1024),
    "resize_bilinear": lambda x: mb.resize_bilinear(x=mb.expand_dims(x=x, axes=[0, 1, 2]), target_size_height=HUGE, target_size_width=1),
    "space_to_batch": lambda x: mb.space_to_batch(x=mb.expand_dims(x=x, axes=[0, 1, 2]), block_shape=np.array([1, 1], np.int32), paddings=np.array([[HUGE, 0], [0, 0]], np.int32)),
    "tile": lambda x: mb.tile(x=x, reps=[HUGE]),
    "sliding_windows": lambda x: mb.sliding_windows(x=mb.tile(x=x, reps=[80]), axis=0, size=2000, stride=1),
}  # fmt: skip
"""By op: sizes from an input's shape (3,000 values)."""


@pytest.mark.parametrize("op", BY_VALUE)
def test_sizes_from_values(op: str, tmp_path: Path) -> None:
    path = save(BY_VALUE[op], {"n": np.zeros(1, np.int32)}, tmp_path, since="iOS17")
    for before in ([], [3], [3, 5, 3]):  # as the first thing, and after plans were made
        program = load(path, memory_bytes=HUGE)
        for small in before:
            program.predict({"n": [small]})
        with small_memory(), pytest.raises(ExecutionError) as caught:
            program.predict({"n": [50_000]})
        assert f"({op})" in caught.value.what or program_op(program, op) in caught.value.what
        assert "1,048,576 bytes" in str(caught.value.why)
        program.predict({"n": [4]})


def program_op(program: Any, kind: str) -> str:
    return repr(next(op.name for op in program.function.block.ops if op.type == kind))


@pytest.mark.parametrize("op", BY_SHAPE)
def test_sizes_from_shapes(op: str, tmp_path: Path) -> None:
    path = save(BY_SHAPE[op], {"x": ((None,), np.float32)}, tmp_path, since="iOS17")

    def wider(spec: Any) -> None:
        spec.description.input[0].type.multiArrayType.shapeRange.sizeRanges[0].upperBound = -1
        for item in body(spec).operations:  # as a program that hides what comes
            for output in item.outputs if item.type == op else ():
                output.type.tensorType.rank = -1
                del output.type.tensorType.dimensions[:]

    program = load(edit(path, wider), memory_bytes=HUGE)
    with small_memory(), pytest.raises(ExecutionError) as caught:
        program.predict({"x": np.ones(3000, np.float32)})
    assert program_op(program, op) in caught.value.what or op == "concat"
    assert "1,048,576 bytes" in str(caught.value.why)


def test_sizes_of_constants_are_refused_at_load(tmp_path: Path) -> None:
    path = save(lambda x: mb.add(x=x, y=mb.fill(shape=(2, 3), value=np.float32(1))), {"x": np.ones((2, 3), np.float32)}, tmp_path)

    def change(spec: Any) -> None:
        argument = op_of(spec, "fill").inputs["shape"].arguments[0]
        held = next(item for item in body(spec).operations if item.outputs[0].name == argument.name).attributes["val"]
        held.immediateValue.tensor.ints.values[:] = [HUGE, HUGE]

    with small_memory(), pytest.raises(ExecutionError, match=r"asks for a tensor of shape \[1048576, 1048576\]"):
        load(edit(path, change), memory_bytes=HUGE)


def test_inputs_larger_than_the_budget(tmp_path: Path) -> None:
    path = save(lambda x: mb.relu(x=x), {"x": np.ones((2, 3), np.float32)}, tmp_path)
    with pytest.raises(PackageError, match="value 'x' is declared as fp32"):
        load(path, memory_bytes=23)
    assert load(path, memory_bytes=24).predict({"x": np.ones((2, 3))})


# The budget itself.

OP = Op("some", "one", {}, ())


@pytest.mark.parametrize(
    "call",
    [
        lambda x: torch.zeros(1 << 20, 1 << 20),
        lambda x: torch.arange(0.0, 1e12),
        lambda x: x[:, None] * x[None],
        lambda x: torch.outer(x, x),
        lambda x: x.repeat(1 << 30),
        lambda x: x[:1].expand(1 << 40).reshape(2, -1),
        lambda x: torch.nn.functional.pad(x, (1 << 40, 1)),
        lambda x: torch.cat([x] * 5000),
        lambda x: torch.rand(1 << 20, 1 << 20, generator=torch.Generator()),
        lambda x: torch.einsum("i,j,k->ijk", x, x, x),
        lambda x: torch.cdist(x[:, None], x[:, None]),
        lambda x: torch.nn.functional.one_hot(torch.tensor([3]), 1 << 40),
        lambda x: torch.empty((), dtype=torch.float64).new_full((1 << 18,), 1.0),
    ],
)  # fmt: skip
def test_calls_beyond_the_budget(call: Callable[[torch.Tensor], Any]) -> None:
    x = torch.ones(4096)
    refused = pytest.raises(ExecutionError, match=r"op 'one' \(some\) asks for a tensor")
    with small_memory(), torch.inference_mode(), refused, Budget(HUGE, OP):
        call(x)


@pytest.mark.parametrize(
    "call",
    [
        lambda x: torch.zeros(1 << 18),
        lambda x: x[:512, None] * x[None, :512],
        lambda x: x @ x,
        lambda x: x[0 : 1 << 62].sort(descending=True)[0],
        lambda x: x.masked_fill(x > 0, -1e30).nonzero(),
        lambda x: torch.where(x > 1e30)[0],
        lambda x: x.add_(1).mul_(1e9),
        lambda x: x.numpy(),
    ],
)  # fmt: skip
def test_calls_within_the_budget_give_what_they_give_without_it(call: Callable[[torch.Tensor], Any]) -> None:
    wanted = call(torch.arange(4096.0))
    with torch.inference_mode(), Budget(HUGE, OP):
        found = call(torch.arange(4096.0))
    np.testing.assert_array_equal(np.asarray(found), np.asarray(wanted))
