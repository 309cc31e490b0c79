"""Shapes and places that are known at run time only: one loaded program, inputs of several shapes, in turn and again."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from coremltools.converters.mil import Builder as mb

from tests.mil.building import save
from tests.mil.cases import close
from workbench.mil import load

RANDOM = np.random.default_rng(5)


@dataclass(frozen=True, eq=False)
class Flexible:
    """``specs``: name -> (shape, type), None where a size may vary; ``calls``: what is predicted, in turn, with one program."""

    op: str
    build: Callable[..., Any]
    specs: Mapping[str, Any]
    calls: Sequence[Mapping[str, np.ndarray]]
    expected: Callable[..., Any]
    label: str = ""
    opset: str = "iOS15"

    def __str__(self) -> str:
        return f"{self.op}-{self.opset}-{self.label}"


def numbers(*shape: int) -> np.ndarray:
    return RANDOM.standard_normal(shape).astype(np.float32)


def ints(*values: Any) -> np.ndarray:
    return np.array(values, np.int32)


def size(x: Any, axis: int) -> Any:
    """A dimension as a scalar of the program."""
    return mb.slice_by_index(x=mb.shape(x=x), begin=[axis], end=[0], squeeze_mask=[True])


TWO = {"x": ((None, None), np.float32)}
PAIR = [{"x": numbers(2, 6)}, {"x": numbers(4, 3)}]
ROWS = {"x": ((None, 4), np.float32)}
TALL = [{"x": numbers(2, 4)}, {"x": numbers(5, 4)}, {"x": numbers(1, 4)}]
FIXED = {"x": ((3, 4), np.float32)}


def given(*more: np.ndarray, **specs: Any) -> list[dict[str, np.ndarray]]:
    """Calls with one fixed x [3, 4] and each of ``more`` as the second input."""
    x = numbers(3, 4)
    return [{"x": x, next(iter(specs)): value} for value in more]


SHAPES = [
    Flexible("reshape", lambda x: mb.reshape(x=x, shape=mb.concat(values=(size(x, 1), size(x, 0)), axis=0)), TWO, PAIR, lambda x: x.reshape(x.shape[::-1]), "from the shape"),
    Flexible("reshape", lambda x: mb.reshape(x=x, shape=[-1, 2]), ROWS, TALL, lambda x: x.reshape(-1, 2), "-1"),
    Flexible("reshape", lambda x: mb.reshape(x=x, shape=[0, -1, 2]), {"x": ((None, 4, 2), np.float32)}, [{"x": numbers(3, 4, 2)}, {"x": numbers(1, 4, 2)}], lambda x: x, "0"),
    Flexible("reshape", lambda x: mb.reshape(x=x, shape=[1, 0, -1]), ROWS, TALL, lambda x: x.reshape(1, *x.shape), "0 from the right", "iOS17"),
    Flexible("reshape", lambda x, to: mb.reshape(x=x, shape=to), FIXED | {"to": ((2,), np.int32)}, given(ints(2, 6), ints(-1, 2), ints(0, 4), ints(12, 1), to=0), lambda x, to: x.reshape([3 if n == 0 else n for n in to]), "from an input"),
    Flexible("reshape_like", lambda x, y: mb.reshape_like(x=x, ref_tensors=(y,), begins=(np.int32(1),), ends=(np.int32(0),), end_masks=(True,)), {"x": ((None, 4), np.float32), "y": ((None, 2, 2), np.float32)}, [{"x": numbers(1, 4), "y": numbers(n, 2, 2)} for n in (1, 3)], lambda x, y: x.reshape(2, 2), "", "iOS16"),
    Flexible("flatten2d", lambda x: mb.flatten2d(x=x, axis=-1), {"x": ((2, None, 3), np.float32)}, [{"x": numbers(2, n, 3)} for n in (1, 4)], lambda x: x.reshape(-1, 3)),
    Flexible("squeeze", lambda x: mb.squeeze(x=x), {"x": ((None, 1, 4), np.float32)}, [{"x": numbers(n, 1, 4)} for n in (3, 1)], lambda x: x[:, 0], "an unknown dimension of 1 stays"),
    Flexible("squeeze", lambda x: mb.squeeze(x=x, axes=[0, 2]), {"x": ((None, 4, 1), np.float32)}, [{"x": numbers(n, 4, 1)} for n in (1, 3)], lambda x: x[..., 0], "an unknown dimension of 1 stays, axes"),
    Flexible("expand_dims", lambda x: mb.expand_dims(x=x, axes=[1, -1]), ROWS, TALL, lambda x: x[:, None, :, None]),
    Flexible("transpose", lambda x: mb.transpose(x=x, perm=[1, 0]), TWO, PAIR, lambda x: x.T),
    Flexible("shape", lambda x: mb.shape(x=x), TWO, PAIR, lambda x: ints(*x.shape)),
]  # fmt: skip
MADE = [
    Flexible("fill", lambda x: mb.fill(shape=mb.shape(x=x), value=np.float32(2.5)), TWO, PAIR, lambda x: np.full(x.shape, 2.5, np.float32), "shape"),
    Flexible("fill", lambda x, to: mb.fill(shape=to, value=np.int32(-3)), FIXED | {"to": ((3,), np.int32)}, given(ints(1, 2, 3), ints(4, 1, 1), to=0), lambda x, to: np.full(to, -3, np.int32), "from an input"),
    Flexible("fill_like", lambda x: mb.fill_like(ref_tensor=x, value=True), TWO, PAIR, lambda x: np.ones(x.shape, bool), "", "iOS16"),
    Flexible("tile", lambda x: mb.tile(x=x, reps=[2, 3]), TWO, PAIR, lambda x: np.tile(x, (2, 3)), "constant"),
    Flexible("tile", lambda x, reps: mb.tile(x=x, reps=reps), FIXED | {"reps": ((2,), np.int32)}, given(ints(1, 1), ints(2, 1), ints(3, 2), reps=0), lambda x, reps: np.tile(x, tuple(reps)), "from an input"),
    Flexible("tile", lambda x: mb.tile(x=x, reps=mb.concat(values=(size(x, 0), np.int32(1)), axis=0)), {"x": ((None, None), np.float32)}, [{"x": numbers(1, 3)}, {"x": numbers(3, 2)}], lambda x: np.tile(x, (len(x), 1)), "from the shape"),
    Flexible("range_1d", lambda x: mb.range_1d(start=np.int32(0), end=size(x, 0), step=np.int32(1)), ROWS, TALL, lambda x: np.arange(len(x), dtype=np.int32), "from the shape"),
    Flexible("range_1d", lambda at: mb.range_1d(start=mb.gather(x=at, indices=0), end=mb.gather(x=at, indices=1), step=mb.gather(x=at, indices=2)), {"at": ((3,), np.float32)}, [{"at": np.array(at, np.float32)} for at in ((0, 1, 0.25), (3, -1, -1), (0, 4, 0.5), (2, 1, 1))], lambda at: np.arange(*at, dtype=np.float32), "from an input"),
    Flexible("concat", lambda x, y: mb.concat(values=(x, y), axis=0), {"x": ((None, 4), np.float32), "y": ((None, 4), np.float32)}, [{"x": numbers(n, 4), "y": numbers(m, 4)} for n, m in ((1, 2), (3, 1))], lambda x, y: np.concatenate((x, y))),
    Flexible("concat", lambda x: mb.concat(values=(x, x), axis=1, interleave=True), TWO, PAIR, lambda x: np.repeat(x, 2, 1), "interleave"),
    Flexible("stack", lambda x: mb.stack(values=(x, x), axis=-1), TWO, PAIR, lambda x: np.stack((x, x), -1)),
    Flexible("split", lambda x: mb.split(x=x, num_splits=2, axis=0), ROWS, [{"x": numbers(2, 4)}, {"x": numbers(6, 4)}], lambda x: tuple(np.split(x, 2))),
    Flexible("identity", lambda x: mb.identity(x=x), TWO, PAIR, lambda x: x),
]  # fmt: skip
PADDED = [
    Flexible("pad", lambda x: mb.pad(x=x, pad=[1, 2], mode="reflect"), {"x": ((2, None), np.float32)}, [{"x": numbers(2, n)} for n in (3, 7)], lambda x: np.pad(x, ((0, 0), (1, 2)), "reflect"), "constant"),
    *(Flexible("pad", lambda x, pad, mode=mode: mb.pad(x=x, pad=pad, mode=mode), FIXED | {"pad": ((4,), np.int32)}, given(ints(0, 0, 1, 2), ints(2, 1, 0, 0), ints(1, 1, 3, 3), pad=0), lambda x, pad, mode=mode: np.pad(x, pad.reshape(2, 2), {"replicate": "edge"}.get(mode, mode)), f"from an input, {mode}") for mode in ("constant", "reflect", "replicate")),
    Flexible("depth_to_space", lambda x: mb.space_to_depth(x=mb.depth_to_space(x=x, block_size=2), block_size=2), {"x": ((1, 4, None, None), np.float32)}, [{"x": numbers(1, 4, 2, 3)}, {"x": numbers(1, 4, 5, 1)}], lambda x: x, "and back"),
    Flexible("pixel_shuffle", lambda x: mb.pixel_unshuffle(x=mb.pixel_shuffle(x=x, upscale_factor=2), downscale_factor=np.uint32(2)), {"x": ((1, 4, None, None), np.float32)}, [{"x": numbers(1, 4, 2, 3)}, {"x": numbers(1, 4, 5, 1)}], lambda x: x, "and back", "iOS16"),
    Flexible("space_to_batch", lambda x: mb.batch_to_space(x=mb.space_to_batch(x=x, block_shape=[2, 2], paddings=[[0, 0], [1, 1]]), block_shape=[2, 2], crops=[[0, 0], [1, 1]]), {"x": ((1, 2, None, None), np.float32)}, [{"x": numbers(1, 2, 2, 4)}, {"x": numbers(1, 2, 4, 2)}], lambda x: x, "and back"),
]  # fmt: skip
SEARCHED = [
    Flexible("non_zero", lambda x: mb.gather_nd(x=x, indices=mb.non_zero(x=mb.greater(x=x, y=np.float32(0)))), FIXED, [{"x": numbers(3, 4)} for _ in range(3)], lambda x: x[x > 0], "how many follows from the values"),
    Flexible("topk", lambda x: mb.topk(x=x, k=2, axis=0, ascending=True), {"x": ((None, 3), np.float32)}, [{"x": numbers(n, 3)} for n in (2, 5)], lambda x: (np.sort(x, 0)[:2], np.argsort(x, 0)[:2].astype(np.int32))),
    Flexible("argsort", lambda x: mb.argsort(x=x, axis=1), TWO, PAIR, lambda x: np.argsort(-x, 1).astype(np.int32)),
    Flexible("one_hot", lambda x, n: mb.one_hot(indices=x, one_hot_vector_size=mb.squeeze(x=n), axis=0), {"x": ((None,), np.int32), "n": ((1,), np.int32)}, [{"x": ints(0, 2), "n": ints(3)}, {"x": ints(1, 0, 4), "n": ints(5)}, {"x": ints(1, 0, 4), "n": ints(2)}], lambda x, n: (np.arange(n[0])[:, None] == x).astype(np.int32), "size from an input"),
    Flexible("cumsum", lambda x: mb.cumsum(x=x, axis=0, exclusive=True, reverse=True), TWO, PAIR, lambda x: np.cumsum(x[::-1], 0)[::-1] - x),
    Flexible("band_part", lambda x: mb.band_part(x=x, lower=0, upper=-1), TWO, PAIR, lambda x: np.triu(x, 0)),
]  # fmt: skip


def sliced(x: np.ndarray, begin: np.ndarray, end: np.ndarray, stride: Sequence[int] = (1, 1)) -> np.ndarray:
    return x[tuple(slice(*part) for part in zip(begin.tolist(), end.tolist(), stride, strict=True))]


BOUNDS = {"begin": ((2,), np.int32), "end": ((2,), np.int32)}
X = numbers(5, 6)
CLOSED = [{"x": X, "begin": RANDOM.integers(-9, 9, 2, np.int32), "end": RANDOM.integers(-9, 9, 2, np.int32)} for _ in range(40)]
SLICED = [
    Flexible("slice_by_index", lambda x, begin, end, stride=stride: mb.slice_by_index(x=x, begin=begin, end=end, stride=stride), {"x": ((5, 6), np.float32)} | BOUNDS, CLOSED, lambda x, begin, end, stride=stride: sliced(x, begin, end, stride), f"any bounds, strides {stride}")
    for stride in ((1, 1), (2, -1), (-3, 2))
] + [
    Flexible("slice_by_index", lambda x: mb.slice_by_index(x=x, begin=[1, -2], end=[0, 0], end_mask=[True, True]), TWO, PAIR, lambda x: x[1:, -2:], "constant bounds"),
    Flexible("slice_by_index", lambda x: mb.slice_by_index(x=x, begin=[0, 0], end=[0, -1], stride=[-1, 1], begin_mask=[True, False], end_mask=[True, False]), TWO, PAIR, lambda x: x[::-1, :-1], "backwards"),
    Flexible("slice_by_index", lambda x, at: mb.slice_by_index(x=x, begin=at, end=[0, 0], end_mask=[False, True], squeeze_mask=[True, False]), FIXED | {"at": ((2,), np.int32)}, given(ints(0, 0), ints(2, 1), ints(-1, -2), at=0), lambda x, at: x[at[0], at[1] :], "squeezed place from an input"),
    Flexible("slice_by_size", lambda x, at: mb.slice_by_size(x=x, begin=at, size=[2, 1]), FIXED | {"at": ((2,), np.int32)}, given(ints(0, 0), ints(1, 3), ints(-2, -4), at=0), lambda x, at: x[at[0] % 3 :, at[1] % 4 :][:2, :1], "begin from an input"),
    Flexible("slice_by_size", lambda x, n: mb.slice_by_size(x=x, begin=[1, 0], size=n), FIXED | {"n": ((2,), np.int32)}, given(ints(2, 3), ints(-1, 1), ints(0, -1), n=0), lambda x, n: x[1 : None if n[0] == -1 else 1 + n[0], : None if n[1] == -1 else n[1]], "size from an input"),
    Flexible("slice_by_size", lambda x: mb.slice_by_size(x=x, begin=[0, 1], size=[-1, -1]), TWO, PAIR, lambda x: x[:, 1:], "the rest"),
    Flexible("slice_update", lambda x, new, at: mb.slice_update(x=x, update=new, begin=at, end=mb.add(x=at, y=ints(2, 3))), FIXED | {"new": ((2, 3), np.float32), "at": ((2,), np.int32)}, [{"x": numbers(3, 4), "new": numbers(2, 3), "at": at} for at in (ints(0, 0), ints(1, 1), ints(0, 1))], lambda x, new, at: np.block([[x[: at[0]]], [x[at[0] : at[0] + 2, : at[1]], new, x[at[0] : at[0] + 2, at[1] + 3 :]], [x[at[0] + 2 :]]]), "begin from an input", "iOS18"),
    Flexible("reverse", lambda x: mb.reverse(x=x, axes=[0]), TWO, PAIR, lambda x: x[::-1]),
    Flexible("reverse_sequence", lambda x, n: mb.reverse_sequence(x=x, lengths=n, seq_axis=1, batch_axis=0), {"x": ((2, None), np.float32), "n": ((2,), np.int32)}, [{"x": numbers(2, 4), "n": ints(3, 1)}, {"x": numbers(2, 5), "n": ints(5, 2)}, {"x": numbers(2, 4), "n": ints(0, 4)}], lambda x, n: np.stack([np.concatenate((row[:k][::-1], row[k:])) for row, k in zip(x, n, strict=True)])),
    Flexible("sliding_windows", lambda x: mb.sliding_windows(x=x, axis=0, size=2, stride=2), ROWS, [{"x": numbers(2, 4)}, {"x": numbers(5, 4)}], lambda x: np.stack([x[i : i + 2] for i in range(0, len(x) - 1, 2)])),
]  # fmt: skip


@pytest.mark.parametrize("case", SHAPES + MADE + PADDED + SEARCHED + SLICED, ids=str)
def test_one_program_for_every_shape(case, tmp_path):
    program = load(save(case.build, case.specs, tmp_path, since=case.opset))
    for call in (*case.calls, *case.calls):
        wanted = case.expected(**call)
        found = list(program.predict(call).values())
        for one, other in zip(found, wanted if isinstance(wanted, tuple) else (wanted,), strict=True):
            close(one, np.asarray(other), 2e-6)
