"""What `predict` is given: what converts without loss is taken, the rest is refused by an error naming the input."""

from __future__ import annotations

import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from coremltools.converters.mil import Builder as mb

from tests.mil.building import save
from workbench.mil import InputError, MilError, Program, load
from workbench.mil.arrays import to_tensor
from workbench.mil.errors import MOST_CHARACTERS
from workbench.mil.interface import Feature
from workbench.mil.types import TensorType

X = np.linspace(-2, 2, 6, dtype=np.float32).reshape(2, 3)
N = np.array([[1, 2, 3]], np.int32)


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Program:
    """floats: fp32[2, 3] twice as large, counts: int32[1, 3] plus one."""

    def build(floats: Any, counts: Any) -> Any:
        return mb.mul(x=floats, y=np.float32(2), name="double"), mb.add(x=counts, y=np.int32(1), name="more")

    return load(save(build, {"floats": X, "counts": N}, tmp_path_factory.mktemp("program")))


def results(program: Program, floats: Any = X, counts: Any = N, **options: Any) -> tuple[Any, Any]:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = program.predict({"floats": floats, "counts": counts}, **options)
    return found["double"], found["more"]


READ_ONLY = X.copy()
READ_ONLY.flags.writeable = False
FLOATS = {
    "float64": X.astype(np.float64),
    "list": X.astype(np.float64).tolist(),
    "nested tuples": tuple(map(tuple, X.tolist())),
    "columns first": np.asfortranarray(X),
    "every second": np.repeat(X, 2, axis=1)[:, ::2],
    "backwards": X[::-1, ::-1].copy()[::-1, ::-1],
    "byte-swapped": X.astype(">f4"),
    "read-only": READ_ONLY,
    "long double": X.astype(np.longdouble),
    "torch": torch.from_numpy(X),
    "torch float64": torch.from_numpy(X).double(),
    "torch with a gradient": torch.from_numpy(X.copy()).requires_grad_(),
    "torch transposed": torch.from_numpy(X.T.copy()).T,
    "rows of torch": list(torch.from_numpy(X)),
}


@pytest.mark.parametrize("given", FLOATS.values(), ids=FLOATS)
def test_floats_in_any_form(given: Any, program: Program) -> None:
    double, _ = results(program, floats=given)
    assert double.dtype == np.float32
    np.testing.assert_array_equal(double, 2 * X)


@pytest.mark.parametrize("kind", [np.float16, np.int8, np.uint8, np.int16, np.int64, np.uint64, np.bool_])
def test_numbers_of_another_type_that_floats_can_hold(kind: type, program: Program) -> None:
    given = np.array([[0, 1, 1], [1, 0, 1]]).astype(kind)
    np.testing.assert_array_equal(results(program, floats=given)[0], 2 * given.astype(np.float32))


def test_torch_bfloat16(program: Program) -> None:
    given = torch.from_numpy(X).bfloat16()
    np.testing.assert_array_equal(results(program, floats=given)[0], 2 * given.float().numpy())


@pytest.mark.parametrize(
    "kind", [np.int8, np.uint8, np.int16, np.uint16, np.uint32, np.int64, np.uint64, np.float16, np.float64, ">i4"]
)
def test_whole_numbers_of_another_type(kind: Any, program: Program) -> None:
    more = results(program, counts=N.astype(kind))[1]
    assert more.dtype == np.int32
    np.testing.assert_array_equal(more, N + 1)


@pytest.mark.parametrize("given", [[[2**31 - 2, -(2**31), 0]], [[True, False, True]], [[3.0, -0.0, 1e6]]], ids=repr)
def test_whole_numbers_up_to_the_ends(given: Any, program: Program) -> None:
    np.testing.assert_array_equal(results(program, counts=given)[1], np.array(given).astype(np.int64) + 1)


@pytest.mark.parametrize(
    "given",
    [
        [[2**31, 0, 0]],
        [[-(2**31) - 1, 0, 0]],
        [[1e30, 0, 0]],
        [[np.inf, 0, 0]],
        [[-np.inf, 0, 0]],
        np.full((1, 3), 2**64 - 1, np.uint64),
    ],
    ids=repr,
)
def test_whole_numbers_beyond_the_ends(given: Any, program: Program) -> None:
    with pytest.raises(InputError, match="input 'counts' holds") as caught:
        results(program, counts=given)
    assert "int32 goes from -2147483648 to 2147483647" in str(caught.value)


def test_types_that_no_converter_gives_an_input() -> None:
    """Booleans are 0 and 1; unsigned integers are carried by the next wider type."""

    def tensor(kind: str, given: Any) -> torch.Tensor:
        feature = Feature("x", "array", kind, (2,))
        return to_tensor(feature, TensorType(kind, (2,)), given, torch.float16, torch.device("cpu"), allow_nan=False)

    assert tensor("bool", [1.0, 0]).tolist() == [True, False]
    for wrong in ([2, 0], [-1, 0], [0.5, 0]):
        with pytest.raises(InputError, match="input 'x' holds"):
            tensor("bool", wrong)
    for kind, most, carrier in (("uint8", 255, torch.uint8), ("uint16", 65535, torch.int32), ("uint32", 2**32 - 1, torch.int64)):
        found = tensor(kind, [0, most])
        assert found.tolist() == [0, most] and found.dtype == carrier
        for value in (-1, most + 1):
            with pytest.raises(InputError, match=f"holds .*{value}"):
                tensor(kind, [0, value])


def test_fractions_and_nan_are_no_whole_numbers(program: Program) -> None:
    with pytest.raises(InputError, match="input 'counts' holds float64 with fractions"):
        results(program, counts=[[1.5, 2, 3]])
    for allow in (False, True):
        with pytest.raises(InputError, match="input 'counts' holds 1 NaN of 3 values"):
            results(program, counts=[[np.nan, 2, 3]], allow_nan=allow)


def test_nan_is_refused_unless_it_is_meant(program: Program) -> None:
    given = X.copy()
    given[1, 2] = given[0, 0] = np.nan
    with pytest.raises(InputError, match="input 'floats' holds 2 NaN of 6 values") as caught:
        results(program, floats=given)
    assert "allow_nan=True" in str(caught.value.fix)
    np.testing.assert_array_equal(results(program, floats=given, allow_nan=True)[0], 2 * given)


def test_infinities_are_numbers(program: Program) -> None:
    given = np.array([[np.inf, -np.inf, 0], [1, 2, 3]])
    np.testing.assert_array_equal(results(program, floats=given)[0], 2 * given)


def test_floats_beyond_the_end_are_infinite(program: Program) -> None:
    assert results(program, floats=X.astype(np.float64) * 1e300)[0][0, 0] == -np.inf


class Hostile:
    def __array__(self, *_: Any, **__: Any) -> Any:
        raise TypeError("no")


NO_ARRAYS = {
    "text": "hello",
    "texts": [["a", "b", "c"]] * 2,
    "bytes": b"\0" * 24,
    "object": object(),
    "objects": np.array([[1, None, 3]] * 2),
    "ragged": [[1, 2, 3], [1, 2]],
    "dictionary": {"floats": X},
    "set": {1, 2},
    "complex": X.astype(np.complex64),
    "dates": np.zeros((2, 3), "datetime64[s]"),
    "records": np.zeros((2, 3), [("a", "f4")]),
    "huge integers": [[10**400, 1, 1]] * 2,
    "sparse": torch.from_numpy(X).to_sparse(),
    "shapes without values": torch.zeros(2, 3, device="meta"),
    "eight-bit floats": torch.zeros(2, 3).to(torch.float8_e4m3fn),
    "one that refuses": Hostile(),
    "function": len,
}


@pytest.mark.parametrize("given", NO_ARRAYS.values(), ids=NO_ARRAYS)
def test_what_is_no_array_of_numbers(given: Any, program: Program) -> None:
    with pytest.raises(InputError, match="input 'floats'"):
        results(program, floats=given)


@pytest.mark.parametrize("shape", [(), (3,), (6,), (3, 2), (2, 3, 1), (1, 2, 3), (2, 4), (0, 3), (2, 0)], ids=str)
def test_other_shapes(shape: tuple[int, ...], program: Program) -> None:
    with pytest.raises(InputError, match=r"input 'floats' has the shape") as caught:
        results(program, floats=np.zeros(shape, np.float32))
    assert str(list(shape)) in caught.value.what and "floats: fp32[2, 3]" in str(caught.value.why)


def test_missing_inputs(program: Program) -> None:
    for given in ({"floats": X}, {"floats": X, "counts": None}):
        with pytest.raises(InputError, match="input 'counts' is missing") as caught:
            program.predict(given)
        assert "floats: fp32[2, 3]; counts: int32[1, 3]" in str(caught.value.why)


@pytest.mark.parametrize(
    ("name", "meant"), [("float", "floats"), ("Counts", "counts"), ("nothing alike", None), (3, None), (None, None)]
)
def test_names_that_are_not_known(name: Any, meant: str | None, program: Program) -> None:
    with pytest.raises(InputError, match="there is no input") as caught:
        program.predict({"floats": X, "counts": N, name: X})
    assert repr(name) in caught.value.what and caught.value.fix == (f"did you mean {meant!r}?" if meant else None)


@pytest.mark.parametrize("given", [None, [X, N], X, "floats", 3], ids=lambda value: type(value).__name__)
def test_inputs_that_are_no_dictionary(given: Any, program: Program) -> None:
    with pytest.raises(InputError, match="inputs are given as"):
        program.predict(given)


def test_a_number_for_a_tensor_of_one(tmp_path: Path) -> None:
    program = load(save(lambda x: mb.add(x=x, y=np.float32(1), name="y"), {"x": np.ones((1, 1), np.float32)}, tmp_path))
    for given in (3, 3.0, np.float64(3), torch.tensor(3)):
        np.testing.assert_array_equal(program.predict({"x": given})["y"], [[4]])


def test_what_was_given_is_neither_changed_nor_kept(program: Program) -> None:
    given = X.copy()
    double, _ = results(program, floats=given)
    np.testing.assert_array_equal(given, X)
    given[:] = 0
    np.testing.assert_array_equal(double, 2 * X)


# States.


@pytest.fixture(scope="module")
def stateful(tmp_path_factory: pytest.TempPathFactory) -> Path:
    def build(x: Any, total: Any) -> Any:
        return mb.coreml_update_state(state=total, value=mb.add(x=mb.read_state(input=total), y=x), name="y")

    ones = np.ones(3, np.float16)
    return save(build, {"x": ones}, tmp_path_factory.mktemp("states"), since="iOS18", states={"total": ((3,), np.float16)})


def test_states_that_do_not_fit(stateful: Path, program: Program, tmp_path: Path) -> None:
    held, ones = load(stateful), {"x": np.ones(3)}
    with pytest.raises(InputError, match="the program has states: total") as caught:
        held.predict(ones)
    assert "make_state" in str(caught.value.fix)
    for wrong in ({"total": np.zeros(3)}, np.zeros(3), "state", 0):
        with pytest.raises(InputError, match="the state is"):
            held.predict(ones, state=wrong)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="has no states, and was given one"):
        program.predict({"floats": X, "counts": N}, state=held.make_state())
    with pytest.raises(InputError, match="there is no state 'total'"):
        held.predict(ones, state=program.make_state())
    with pytest.raises(InputError, match="state 'total' is of another program") as caught:
        held.predict(ones, state=load(stateful, precision="emulate").make_state())
    assert "float16" in str(caught.value.why)

    def other(x: Any, total: Any) -> Any:
        return mb.coreml_update_state(state=total, value=mb.add(x=mb.read_state(input=total), y=x), name="y")

    longer = load(save(other, {"x": np.ones(4, np.float16)}, tmp_path, since="iOS18", states={"total": ((4,), np.float16)}))
    with pytest.raises(InputError, match="of another program"):
        held.predict(ones, state=longer.make_state())
    with pytest.raises(InputError, match="'total' is a state") as caught:
        held.predict({**ones, "total": np.zeros(3)}, state=held.make_state())


def test_writing_states(stateful: Path) -> None:
    program = load(stateful)
    state, given = program.make_state(), np.array([1.0, np.inf, np.nan])
    state.write("total", given)
    given[:] = 0
    np.testing.assert_array_equal(state.read("total"), np.array([1, np.inf, np.nan], np.float16))
    for wrong in ("abc", [[1, 2, 3]], [1, 2], {1}, np.zeros(3, complex)):
        with pytest.raises(InputError, match="state 'total'"):
            state.write("total", wrong)
    with pytest.raises(InputError, match="there is no state 'sum'"):
        state.write("sum", given)


# Messages.


def test_messages_say_what_why_and_what_to_do() -> None:
    error = MilError("what", why="why", fix="fix")
    assert str(error) == "what\n  why: why\n  try: fix" and error.args == ("what",)
    assert str(MilError("what")) == "what"


def test_foreign_names_in_messages_are_printable_and_short() -> None:
    name = "\x1b[2J\x00\r\u202e\u200b" + "n" * 100_000
    error = MilError(f"op {name} failed", why=f"because\nof {name}", fix=f"rename {name}")
    lines = str(error).split("\n")
    assert len(lines) == 3 and all(line.isprintable() and len(line) < 500 for line in lines)
    assert lines[0].startswith(r"op \x1b[2J\x00\r\u202e\u200bnnn") and lines[0].endswith("nnn failed")
    many = MilError(" ".join(["word"] * MOST_CHARACTERS))
    assert len(many.what) == MOST_CHARACTERS and many.what.endswith("...")
    assert str(MilError("größer als 1 \N{SNOWMAN} 名前")) == "größer als 1 \N{SNOWMAN} 名前"


def test_plain_numbers_of_python_are_64_bits_at_most(program: Program) -> None:
    with pytest.raises(InputError, match="input 'counts'"):
        results(program, counts=[[sys.maxsize + 1, 0, 0]])
