"""Damage at many seeded places, and programs that no converter writes: a MilError or a number, nothing else, and little memory."""

from __future__ import annotations

import resource
import shutil
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from coremltools.converters.mil import Builder as mb
from coremltools.proto import Model_pb2

from tests.mil.building import save
from tests.mil.editing import body, constant_of, edit, model_file, op_of, weight_file
from workbench.mil import MilError, PackageError, UnsupportedError, load

X = np.random.default_rng(1).normal(size=(1, 3, 6, 6)).astype(np.float32)
PLACES = np.array([1, 2], np.int32)
INPUTS = {"x": X, "places": PLACES}


def many_ops(x: Any, places: Any) -> Any:
    weight = np.random.default_rng(0).normal(size=(4, 3, 3, 3)).astype(np.float32)
    y = mb.resize_bilinear(x=mb.relu(x=mb.conv(x=x, weight=weight, pad_type="same")), target_size_height=4, target_size_width=4)
    rows = mb.reshape(x=y, shape=(1, 4, -1))
    attended = mb.matmul(x=mb.softmax(x=mb.matmul(x=rows, y=rows, transpose_y=True), axis=-1), y=rows)
    picked = mb.gather(x=attended, indices=places, axis=1)
    small = mb.less(x=mb.reduce_sum(x=x), y=np.float32(3))
    either = mb.cond(
        pred=small,
        _true_fn=lambda: mb.add(x=picked, y=np.float32(1)),
        _false_fn=lambda: mb.sub(x=picked, y=np.float32(1), name="less"),
    )
    padded = mb.pad(
        x=mb.tile(x=either, reps=(1, 2, 1)), pad=np.array([0, 0, 1, 1], np.int32), mode="constant", constant_val=np.float32(0)
    )
    filled = mb.fill(shape=mb.concat(values=(places, np.array([2], np.int32)), axis=0), value=np.float32(2))
    return mb.gelu(x=padded), mb.topk(x=padded, k=2, axis=1)[0], filled, mb.one_hot(indices=places, one_hot_vector_size=5)


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(many_ops, INPUTS, tmp_path_factory.mktemp("saved"), since="iOS17")


@pytest.fixture
def package(saved: Path, tmp_path: Path) -> Path:
    return shutil.copytree(saved, tmp_path / "copy.mlpackage")


def outcome(package: Path) -> str:
    """The name of the error, or "ran"; anything but a MilError comes through. Also: no message breaks a terminal."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            program = load(package, memory_bytes=1 << 26)
            for _ in range(2):
                program.predict(INPUTS)
    except MilError as error:
        assert all(line.isprintable() for line in str(error).split("\n")) and error.what
        return type(error).__name__
    return "ran"


@pytest.fixture(autouse=True)
def _little_memory() -> Iterator[None]:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    yield
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 400_000, "KiB more than before"


def test_bytes_of_the_model_changed(package: Path) -> None:
    data, draw, seen = model_file(package).read_bytes(), np.random.default_rng(0), set()
    for number in range(400):
        changed = bytearray(data)
        for place in draw.integers(0, len(data), 1 + number % 3):
            changed[place] = draw.integers(0, 256)
        model_file(package).write_bytes(changed)
        seen.add(outcome(package))
    assert seen >= {"ran", "PackageError", "UnsupportedError"}


def test_the_model_cut_off_anywhere(package: Path) -> None:
    data = model_file(package).read_bytes()
    for length in [*range(40), *range(40, len(data), len(data) // 100)]:
        model_file(package).write_bytes(data[:length])
        assert outcome(package) == "PackageError"


def test_bytes_taken_out_or_put_in(package: Path) -> None:
    data, draw = model_file(package).read_bytes(), np.random.default_rng(1)
    for _ in range(200):
        first, count = draw.integers(0, len(data)), draw.integers(1, 30)
        model_file(package).write_bytes(data[:first] + data[first + count :])
        outcome(package)
        model_file(package).write_bytes(data[:first] + draw.bytes(int(count)) + data[first:])
        outcome(package)


def test_bits_of_the_weights_changed(package: Path) -> None:
    """In the header and the records it is refused or means nothing; in the data it changes a number."""
    data, seen = weight_file(package).read_bytes(), {}
    for place in [4, *range(0, len(data), 3)]:
        changed = bytearray(data)
        changed[place] ^= 1 << (place % 8)
        weight_file(package).write_bytes(changed)
        seen[place] = outcome(package)
    assert set(seen.values()) == {"ran", "PackageError"} and seen[4] == "PackageError" and seen[len(data) // 3 * 3 - 3] == "ran"


def test_the_weights_cut_off_anywhere(package: Path) -> None:
    data = weight_file(package).read_bytes()
    for length in range(0, len(data), 8):
        weight_file(package).write_bytes(data[:length])
        assert outcome(package) == "PackageError"


NUMBERS = (0, 1, 2, 3, -1, 7, 64, 1 << 20, (1 << 31) - 1, -(1 << 31), 1 << 40, (1 << 63) - 1, -(1 << 63), (1 << 64) - 1)


def fields(message: Any) -> Iterator[tuple[Any, Any]]:
    """Every field that is set, of a message and of all messages in it."""
    for field, value in message.ListFields():
        yield message, field
        if field.message_type is None:
            continue
        if field.message_type.GetOptions().map_entry:
            for key in value if field.message_type.fields_by_name["value"].message_type else ():
                yield from fields(value[key])
        else:
            for item in value if field.is_repeated else (value,):
                yield from fields(item)


def spoil(message: Any, field: Any, draw: np.random.Generator, names: list[str]) -> None:
    """One field changed to something else of its type, or taken away."""
    value, numbers = getattr(message, field.name), [int(n) for n in draw.choice(len(NUMBERS), 1)]
    if field.message_type is not None and field.message_type.GetOptions().map_entry:
        del value[list(value)[draw.integers(len(value))]]
    elif field.message_type is not None and not field.is_repeated:
        message.ClearField(field.name)
    elif field.message_type is not None:
        if draw.random() < 0.5:
            value.add().CopyFrom(value[draw.integers(len(value))])
        else:
            del value[draw.integers(len(value))]
    else:
        new: Any = NUMBERS[numbers[0]]
        if field.type == field.TYPE_STRING:
            new = str(draw.choice(names))
        elif field.type == field.TYPE_BYTES:
            new = draw.bytes(int(draw.integers(0, 40)))
        elif field.type == field.TYPE_BOOL:
            new = bool(draw.integers(2))
        elif field.type in (field.TYPE_FLOAT, field.TYPE_DOUBLE):
            new = float(draw.choice([np.nan, np.inf, -1.0, 0.0, 1e30]))
        elif field.type == field.TYPE_ENUM:
            new = field.enum_type.values[draw.integers(len(field.enum_type.values))].number
        try:
            if field.is_repeated:
                value[int(draw.integers(len(value)))] = new
            else:
                setattr(message, field.name, new)
        except (ValueError, OverflowError):  # a number that the field cannot hold
            pass


@pytest.mark.parametrize("seed", range(4))
def test_fields_changed_to_others_of_their_kind(seed: int, package: Path) -> None:
    data, draw, seen = model_file(package).read_bytes(), np.random.default_rng(seed), set()
    names = [
        "relu",
        "matmul",
        "cond",
        "while_loop",
        "lstm",
        "classify",
        "const",
        "",
        "\x1b[2J",
        "x",
        "places",
        "less",
        "CoreML5",
        "main",
    ]
    for number in range(250):
        spec = Model_pb2.Model.FromString(data)
        found = list(fields(spec))
        for _ in range(1 + number % 2):
            message, field = found[draw.integers(len(found))]
            spoil(message, field, draw, names) if field in message.DESCRIPTOR.fields and message.ListFields() else None
        model_file(package).write_bytes(spec.SerializeToString())
        seen.add(outcome(package))
    assert seen >= {"ran", "PackageError", "UnsupportedError"}


# Programs that no converter writes.


def nested(depth: int) -> bytes:
    """A model of ``cond`` in ``cond`` in ``cond``, byte by byte: protobuf itself writes none this deep."""

    def wrap(kind: Any, field: str, inner: bytes) -> bytes:
        size, length = len(inner), b""
        while size > 127:
            length, size = length + bytes([size & 127 | 128]), size >> 7
        return bytes([kind.fields_by_name[field].number << 3 | 2]) + length + bytes([size]) + inner

    def entry(kind: Any, field: str, key: bytes, value: bytes) -> bytes:
        held = kind.fields_by_name[field].message_type
        return wrap(kind, field, wrap(held, "key", key) + wrap(held, "value", value))

    model = Model_pb2.Model.DESCRIPTOR
    program = model.fields_by_name["mlProgram"].message_type
    function = program.fields_by_name["functions"].message_type.fields_by_name["value"].message_type
    block = function.fields_by_name["block_specializations"].message_type.fields_by_name["value"].message_type
    operation = block.fields_by_name["operations"].message_type
    content = b""
    for _ in range(depth):
        content = wrap(block, "operations", wrap(operation, "type", b"cond") + wrap(operation, "blocks", content))
    held = wrap(function, "opset", b"CoreML7") + entry(function, "block_specializations", b"CoreML7", content)
    # The program's field number takes two bytes.
    data, number = entry(program, "functions", b"main", held), model.fields_by_name["mlProgram"].number << 3 | 2
    head, size = bytes([number & 127 | 128, number >> 7]), len(data)
    return head + bytes([size & 127 | 128, size >> 7 & 127 | 128, size >> 14]) + data


@pytest.mark.parametrize("depth", [1, 20, 40, 100, 1000])
def test_blocks_in_blocks(depth: int, tmp_path: Path) -> None:
    (tmp_path / "deep.mlmodel").write_bytes(nested(depth))
    with pytest.raises(
        UnsupportedError if depth <= 40 else PackageError, match="lacks its input 'pred'" if depth <= 40 else "damaged"
    ):
        load(tmp_path / "deep.mlmodel")


def first(spec: Any, kind: str) -> Any:
    """The first argument of the first op of a type."""
    return op_of(spec, kind).inputs["x"].arguments[0]


def forward(spec: Any) -> None:
    first(spec, "relu").name = op_of(spec, "softmax").outputs[0].name


def itself(spec: Any) -> None:
    first(spec, "relu").name = op_of(spec, "relu").outputs[0].name


def twice(spec: Any) -> None:
    op_of(spec, "relu").outputs[0].name = op_of(spec, "softmax").outputs[0].name


def an_input_again(spec: Any) -> None:
    op_of(spec, "softmax").outputs[0].name = "x"


def output(spec: Any) -> None:
    body(spec).outputs[0] = "nowhere"


def input_gone(spec: Any) -> None:
    inputs = spec.mlProgram.functions["main"].inputs
    del inputs[[item.name for item in inputs].index("x")]


def no_functions(spec: Any) -> None:
    spec.mlProgram.functions.clear()


def no_blocks(spec: Any) -> None:
    spec.mlProgram.functions["main"].block_specializations.clear()


def unbound(spec: Any) -> None:
    first(spec, "relu").ClearField("name")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (forward, "read before it is defined"),
        (itself, "read before it is defined"),
        (twice, "defined twice"),
        (an_input_again, "defined twice"),
        (output, "nothing defines: nowhere"),
        (input_gone, "nothing defines: x"),
        (no_functions, "without functions"),
        (no_blocks, "no block for its opset"),
        (unbound, "bound to nothing"),
    ],
)
def test_references_that_lead_nowhere(change: Callable[[Any], Any], reason: str, package: Path) -> None:
    with pytest.raises(PackageError, match=reason):
        load(edit(package, change))


def test_a_name_of_an_inner_block_hides_that_of_an_outer_one(package: Path) -> None:
    wanted = load(package).predict(INPUTS)

    def change(spec: Any) -> None:
        inner = op_of(spec, "cond").blocks
        hidden = next(op.outputs[0].name for op in body(spec).operations if op.type == "const")
        for block in inner:
            last = block.operations[-1].outputs[0]
            assert block.outputs[0] == last.name
            last.name = block.outputs[0] = hidden

    found = load(edit(package, change)).predict(INPUTS)
    for name, value in wanted.items():
        np.testing.assert_array_equal(found[name], value)


@pytest.mark.parametrize("size", [1 << 40, 1 << 62, (1 << 64) - 1])
def test_absurd_shapes_that_are_declared_are_refused_at_load(size: int, package: Path) -> None:
    def output(spec: Any) -> None:
        op_of(spec, "relu").outputs[0].type.tensorType.dimensions[2].constant.size = size

    def given(spec: Any) -> None:
        spec.mlProgram.functions["main"].inputs[0].type.tensorType.dimensions[2].constant.size = size

    def constant(spec: Any) -> None:
        constant_of(op_of(spec, "conv"), "weight", spec).type.tensorType.dimensions[2].constant.size = size

    def immediate(spec: Any) -> None:
        kind = constant_of(op_of(spec, "tile"), "reps", spec).type.tensorType
        kind.dimensions[0].constant.size = size

    data = model_file(package).read_bytes()
    for change in (output, given, constant, immediate):
        model_file(package).write_bytes(data)
        with pytest.raises(PackageError) as caught:
            load(edit(package, change))
        assert str(size)[:4] in str(caught.value).replace(",", "") or "holds" in str(caught.value)


def test_a_state_of_no_fixed_shape(tmp_path: Path) -> None:
    def build(x: Any, total: Any) -> Any:
        return mb.coreml_update_state(state=total, value=mb.add(x=mb.read_state(input=total), y=x))

    path = save(build, {"x": np.ones(3, np.float16)}, tmp_path, since="iOS18", states={"total": ((3,), np.float16)})
    data = model_file(path).read_bytes()

    def wrapped(spec: Any) -> Any:
        return next(item for item in spec.mlProgram.functions["main"].inputs if item.name == "total").type.stateType.wrappedType

    for change in (
        lambda spec: wrapped(spec).tensorType.dimensions[0].unknown.SetInParent(),
        lambda spec: setattr(wrapped(spec).tensorType, "rank", -1),
        lambda spec: wrapped(spec).listType.SetInParent(),
    ):
        model_file(path).write_bytes(data)
        with pytest.raises(UnsupportedError):
            load(edit(path, change))
