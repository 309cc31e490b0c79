"""Golden cases: slices and their update, reversal, windows."""

from __future__ import annotations

import numpy as np
import pytest
from coremltools.converters.mil import Builder as mb

from tests.mil.building import save
from tests.mil.cases import Case, check, inferred
from workbench.mil import ExecutionError, load

RANDOM = np.random.default_rng(2)
X = RANDOM.standard_normal((4, 5, 6)).astype(np.float32)
WHOLE = np.arange(-60, 60, dtype=np.int32).reshape(4, 5, 6)
NO = (False, False, False)
FAR = 2**31 - 1


def as_type(x, name):
    """Of a type that no model input has."""
    return mb.cast(x=x, dtype=name)


def python_slice(x, begin, end, stride, begin_mask, end_mask, squeeze_mask):
    """The index that the op documents, for numpy."""
    parts = zip(begin, end, stride, begin_mask, end_mask, squeeze_mask, strict=True)
    return tuple(b if squeeze else slice(None if no_b else b, None if no_e else e, s) for b, e, s, no_b, no_e, squeeze in parts)


def arguments(begin, end, stride=(1, 1, 1), begin_mask=NO, end_mask=NO, squeeze_mask=NO, kind=np.int32):
    """(the op's arguments without those that are defaults, the index for numpy)"""
    given = {"begin": np.array(begin, kind), "end": np.array(end, kind)}
    given |= {} if tuple(stride) == (1, 1, 1) else {"stride": np.array(stride, kind)}
    masks = {"begin_mask": begin_mask, "end_mask": end_mask, "squeeze_mask": squeeze_mask}
    given |= {name: np.array(mask) for name, mask in masks.items() if any(mask)}
    return given, python_slice(X, begin, end, stride, begin_mask, end_mask, squeeze_mask)


PLACES = {
    "plain": arguments((0, 1, 2), (3, 4, 6)),
    "whole": arguments((0, 0, 0), (4, 5, 6)),
    "strides": arguments((0, 1, 0), (4, 5, 6), (2, 3, 4)),
    "negative": arguments((-3, -5, -2), (-1, -1, 6)),
    "backwards": arguments((3, 4, -1), (0, 1, -5), (-1, -2, -3)),
    "backwards to the start": arguments((3, 0, 5), (0, 5, 0), (-2, 1, -2), end_mask=(True, False, True)),
    "backwards from the end": arguments((0, 0, 0), (0, 2, 3), (-1, 1, -1), begin_mask=(True, False, True)),
    "begin masked": arguments((2, 2, 2), (3, 4, 5), begin_mask=(True, False, True)),
    "end masked": arguments((1, 2, 3), (2, 3, 4), end_mask=(False, True, True)),
    "all masked backwards": arguments((1, 1, 1), (1, 1, 1), (-1, 1, -2), (True, True, True), (True, True, True)),
    "past the end": arguments((1, 2, 3), (FAR, 100, 7), (1, 2, 1)),
    "before the start": arguments((-100, 0, -7), (3, 4, 5)),
    "squeezed": arguments((1, 0, -2), (0, 3, 0), squeeze_mask=(True, False, True)),
    "squeezed in the middle": arguments((0, -1, 5), (4, 0, 0), (1, 1, -2), (True, False, False), (True, False, True), (False, True, False)),
}  # fmt: skip
MASKED_AND_SQUEEZED = {
    "begin": [2, 1, 0],
    "end": [0, 3, 4],
    "begin_mask": [True, False, False],
    "squeeze_mask": [True, False, False],
}
BY_INDEX = [
    Case("slice_by_index", "iOS15", lambda x, given=given: mb.slice_by_index(x=x, **given), {"x": x}, lambda x, where=where: x[where], "numpy", f"{label} {x.dtype}")
    for label, (given, where) in PLACES.items()
    for x in ((X, WHOLE) if label in ("plain", "backwards") else (X,))
] + [
    Case("slice_by_index", "iOS15", lambda x, given=PLACES[label][0]: mb.slice_by_index(x=x, **given), {"x": X}, inferred(lambda x, given=PLACES[label][0]: mb.slice_by_index(x=x, **given)), "value_inference", label)
    for label in ("backwards", "backwards from the end", "past the end", "begin masked", "squeezed")
] + [
    # The only source that says what a masked begin of a squeezed dimension means: the first element.
    Case("slice_by_index", "iOS15", lambda x: mb.slice_by_index(x=x, **MASKED_AND_SQUEEZED), {"x": X}, inferred(lambda x: mb.slice_by_index(x=x, **MASKED_AND_SQUEEZED)), "value_inference", "masked and squeezed"),
    Case("slice_by_index", "iOS15", lambda x: mb.slice_by_index(x=x, begin=[1, 2, 3], end=[0, 0, 0], squeeze_mask=[True] * 3), {"x": X}, lambda x: x[1, 2, 3], "numpy", "one element"),
    Case("slice_by_index", "iOS15", lambda x: mb.cast(x=mb.slice_by_index(x=mb.greater(x=x, y=np.float32(0)), begin=[0, 1, 1], end=[4, 3, 4]), dtype="int32"), {"x": X}, lambda x: (x > 0)[:, 1:3, 1:4].astype(np.int32), "numpy", "bool"),
    Case("slice_by_index", "iOS16", lambda x: mb.slice_by_index(x=x, begin=[1, 1, 1], end=[3, 3, 3]), {"x": X.astype(np.float16)}, lambda x: x[1:3, 1:3, 1:3], "numpy", "fp16"),
    Case("slice_by_index", "iOS17", lambda x: as_type(mb.slice_by_index(x=as_type(x, "int8"), **arguments((3, 4, -1), (0, 1, -5), (-1, -2, -3), kind=np.int8)[0]), "int32"), {"x": WHOLE}, lambda x: x[3:0:-1, 4:1:-2, -1:-5:-3], "numpy", "int8, places too"),
    Case("slice_by_index", "iOS17", lambda x: as_type(mb.slice_by_index(x=as_type(x, "uint16"), **arguments((0, 1, 2), (2, 3, 4), kind=np.int16)[0]), "int32"), {"x": WHOLE + 60000}, lambda x: x[0:2, 1:3, 2:4], "numpy", "uint16, places int16"),
]  # fmt: skip


def sized(x, begin, size, opset="iOS15", kind=np.int32, name=None):
    """``name``: the type that the op sees."""
    ends = [whole if count == -1 else start % whole + count for whole, start, count in zip(x.shape, begin, size, strict=True)]
    where = tuple(slice(start % whole, end) for whole, start, end in zip(x.shape, begin, ends, strict=True))

    def build(x):
        part = mb.slice_by_size(x=as_type(x, name) if name else x, begin=np.array(begin, kind), size=np.array(size, kind))
        return as_type(part, "int32") if name else part

    return Case("slice_by_size", opset, build, {"x": x}, lambda x: x[where], "numpy", f"{begin} {size} {name or x.dtype}")


BY_SIZE = [
    sized(X, (0, 1, 2), (4, 2, 3)),
    sized(X, (1, 0, 3), (-1, 5, -1)),
    sized(X, (-2, -5, -1), (1, 2, 1)),
    sized(WHOLE, (3, 4, 5), (1, 1, 1)),
    sized(WHOLE, (0, 0, 0), (-1, -1, -1)),
    sized(X.astype(np.float16), (0, 1, 2), (2, 2, -1), "iOS16"),
    sized(WHOLE, (1, 1, 1), (2, -1, 3), "iOS17", np.int8, "int8"),
    sized(WHOLE + 60000, (1, 1, 1), (2, -1, 3), "iOS17", np.int16, "uint16"),
    Case("slice_by_size", "iOS15", lambda x: mb.slice_by_size(x=x, begin=[1, 0, 2], size=[2, -1, 3]), {"x": X}, inferred(lambda x: mb.slice_by_size(x=x, begin=[1, 0, 2], size=[2, -1, 3])), "value_inference"),
]  # fmt: skip


def replaced(x, update, where):
    changed = x.copy()
    changed[where] = update
    return changed


UPDATES = [
    Case("slice_update", "iOS18", lambda x, update, given=given: mb.slice_update(x=x, update=update, **given), {"x": x, "update": 100 + x[where][...]}, lambda x, update, where=where: replaced(x, update, where), "numpy", f"{label} {x.dtype}")
    for label, (given, where) in PLACES.items()
    for x in ((X, WHOLE) if label in ("plain", "squeezed") else (X,))
] + [
    Case("slice_update", "iOS18", lambda x, update: as_type(mb.slice_update(x=as_type(x, "int8"), update=as_type(update, "int8"), **arguments((3, 0, 0), (1, 5, 6), (-1, 1, 1), kind=np.int8)[0]), "int32"), {"x": WHOLE, "update": WHOLE[:2] + 7}, lambda x, update: replaced(x, update, np.s_[3:1:-1]), "numpy", "int8, places too"),
    Case("slice_update", "iOS18", lambda x, update: mb.slice_update(x=x, update=update, begin=[0, 1, 0], end=[4, 3, 6]), {"x": X.astype(np.float16), "update": X[:, :2].astype(np.float16)}, lambda x, update: replaced(x, update, np.s_[:, 1:3]), "numpy", "fp16"),
]  # fmt: skip


def reversed_parts(x, lengths, along, batch):
    """As documented: per batch, the first elements in reverse."""
    out = x.copy()
    views, sources = np.moveaxis(out, (batch, along), (0, 1)), np.moveaxis(x, (batch, along), (0, 1))
    for view, source, length in zip(views, sources, lengths, strict=True):
        view[:length] = source[:length][::-1]
    return out


def part_reversed(x, lengths, along, batch, opset="iOS15", kind="int32", lengths_kind="int32"):
    def build(x, lengths):
        typed = kind != "int32"
        lengths = as_type(lengths, lengths_kind) if lengths_kind != "int32" else lengths
        found = mb.reverse_sequence(x=as_type(x, kind) if typed else x, lengths=lengths, seq_axis=along, batch_axis=batch)
        return as_type(found, "int32") if typed else found

    arrays = {"x": x, "lengths": np.array(lengths, np.int32)}
    return Case(
        "reverse_sequence",
        opset,
        build,
        arrays,
        lambda x, lengths: reversed_parts(x, lengths, along, batch),
        "definition",
        f"{along} {batch} {kind}",
    )


ORDERS = [
    Case("reverse", "iOS15", lambda x: mb.reverse(x=x), {"x": X}, lambda x: x[::-1, ::-1, ::-1], "numpy", "all"),
    Case("reverse", "iOS15", lambda x: mb.reverse(x=x, axes=[0, -1]), {"x": WHOLE}, lambda x: np.flip(x, (0, 2)), "numpy", "two axes, int32"),
    Case("reverse", "iOS15", lambda x: mb.reverse(x=x, axes=[1]), {"x": X}, inferred(lambda x: mb.reverse(x=x, axes=[1])), "value_inference"),
    Case("reverse", "iOS17", lambda x: as_type(mb.reverse(x=as_type(x, "uint16"), axes=[1]), "int32"), {"x": WHOLE + 60000}, lambda x: x[:, ::-1], "numpy", "uint16"),
    part_reversed(X, (0, 3, 5, 1), 1, 0),
    part_reversed(X, (4, 0, 1, 2, 3, 4), 0, 2),
    part_reversed(WHOLE, (6, 2, 0, 1, 5), -1, -2),
    part_reversed(WHOLE, (4, 3, 2, 1, 0), 0, 1),
    part_reversed(WHOLE, (0, 3, 5, 1), 1, 0, "iOS17", "int8", "int8"),
    part_reversed(WHOLE, (0, 3, 5, 1), 1, 0, "iOS17", "int16", "int16"),
]  # fmt: skip


def windows(x, axis, size, stride):
    found = np.lib.stride_tricks.sliding_window_view(x, size, axis)
    chosen = [slice(None)] * found.ndim
    chosen[axis % x.ndim] = slice(None, None, stride)
    return np.moveaxis(found[tuple(chosen)], -1, axis % x.ndim + 1)


WINDOWS = [
    Case("sliding_windows", "iOS15", lambda x: mb.sliding_windows(x=x, axis=1, size=3), {"x": X}, lambda x: windows(x, 1, 3, 1), "numpy", "stride 1"),
    Case("sliding_windows", "iOS15", lambda x: mb.sliding_windows(x=x, axis=-1, size=2, stride=3), {"x": X}, lambda x: windows(x, -1, 2, 3), "numpy", "stride 3"),
    Case("sliding_windows", "iOS15", lambda x: mb.sliding_windows(x=x, axis=0, size=4, stride=2), {"x": WHOLE}, lambda x: windows(x, 0, 4, 2), "numpy", "one window"),
    Case("sliding_windows", "iOS15", lambda x: mb.sliding_windows(x=x, axis=-3, size=2, stride=2), {"x": WHOLE}, lambda x: windows(x, -3, 2, 2), "numpy", "negative axis"),
    Case("sliding_windows", "iOS17", lambda x: as_type(mb.sliding_windows(x=as_type(x, "int8"), axis=2, size=3, stride=2), "int32"), {"x": WHOLE}, lambda x: windows(x, 2, 3, 2), "numpy", "int8"),
]  # fmt: skip
CASES = BY_INDEX + BY_SIZE + UPDATES + ORDERS + WINDOWS


@pytest.mark.parametrize("case", CASES, ids=str)
def test_golden(case, tmp_path):
    check(case, tmp_path)


def test_an_update_leaves_its_input_as_it_was(tmp_path):
    def build(x, update):
        return mb.slice_update(x=x, update=update, begin=[1, 0, 0], end=[2, 5, 6]), mb.add(x=x, y=np.float32(1))

    program = load(save(build, {"x": X, "update": X[:1]}, tmp_path, since="iOS18"))
    for _ in range(2):
        changed, after = program.predict({"x": X, "update": X[:1]}).values()
        np.testing.assert_array_equal(changed[1], X[0])
        np.testing.assert_array_equal(after, X + np.float32(1))


@pytest.mark.parametrize("begin, size, message", [((3, 0), (2, 1), "2 elements from 3"), ((-5, 0), (1, 1), "from -5")])
def test_a_slice_by_size_past_the_end_is_refused(begin, size, message, tmp_path):
    build = lambda x, begin: mb.slice_by_size(x=x, begin=begin, size=np.array(size, np.int32))  # noqa: E731
    program = load(save(build, {"x": X[:, :, 0], "begin": np.array(begin, np.int32)}, tmp_path))
    with pytest.raises(ExecutionError, match=message):
        program.predict({"x": X[:, :, 0], "begin": np.array(begin, np.int32)})


def test_an_element_out_of_range_is_refused(tmp_path):
    build = lambda x, begin: mb.slice_by_index(x=x, begin=begin, end=[0, 1], squeeze_mask=[True, False])  # noqa: E731
    program = load(save(build, {"x": X[0], "begin": np.zeros(2, np.int32)}, tmp_path))
    program.predict({"x": X[0], "begin": np.array([4, 0], np.int32)})
    with pytest.raises(ExecutionError, match="no element 5"):
        program.predict({"x": X[0], "begin": np.array([5, 0], np.int32)})
