"""Inputs and outputs as the model description has them: flexible shapes, defaults, labels, several functions."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import coremltools as ct
import numpy as np
import pytest
from coremltools.converters.mil import Builder as mb

from tests.mil.building import save
from tests.mil.editing import edit, op_of
from tests.mil.interfaces import converted
from workbench.mil import InputError, MilError, PackageError, UnsupportedError, load


def flexible(folder: Path, shape: Any, default: Any = None) -> Path:
    return converted(
        lambda x: mb.mul(x=x, y=np.float32(2), name="y"),
        {"x": ct.TensorType("x", shape, np.float32, default_value=default)},
        folder,
    )


def unbounded(spec: Any) -> None:
    """No upper end of the last axis; coremltools writes none for a program."""
    spec.description.input[0].type.multiArrayType.shapeRange.sizeRanges[-1].upperBound = -1


def test_ranges(tmp_path: Path) -> None:
    path = flexible(tmp_path, ct.Shape((1, ct.RangeDim(2, 5), ct.RangeDim(1, 9, default=7))))
    program = load(edit(path, unbounded))
    assert str(program.inputs[0]) == "x: fp32[1, 2..5, 1..]" and program.inputs[0].shape == (1, None, None)
    for sizes in ((2, 1), (5, 3), (3, 1000), (2, 1)):
        given = np.ones((1, *sizes), np.float32)
        np.testing.assert_array_equal(program.predict({"x": given})["y"], 2 * given)
    for wrong in ((1, 1, 1), (1, 6, 1), (2, 2, 1), (1, 2, 0), (2, 1), (1, 1, 2, 1)):
        with pytest.raises(InputError, match=r"input 'x' has the shape") as caught:
            program.predict({"x": np.ones(wrong)})
        assert "fp32[1, 2..5, 1..]" in str(caught.value.why)


def test_enumerated_shapes(tmp_path: Path) -> None:
    program = load(flexible(tmp_path, ct.EnumeratedShapes([(1, 4), (2, 8), (3, 4)], default=(2, 8))))
    assert str(program.inputs[0]) == "x: fp32[2, 8] or [1, 4] or [3, 4]"
    for shape in ((1, 4), (2, 8), (3, 4)):
        assert program.predict({"x": np.ones(shape)})["y"].shape == shape
    for wrong in ((1, 8), (2, 4), (4, 4), (4,)):
        with pytest.raises(InputError, match="input 'x' has the shape"):
            program.predict({"x": np.ones(wrong)})


@pytest.mark.parametrize(
    ("shape", "usual"),
    [
        ((2, 3), (2, 3)),
        (ct.Shape((1, ct.RangeDim(2, 9, default=4))), (1, 4)),
    ],
    ids=["fixed", "range"],
)
@pytest.mark.parametrize("value", [0.0, 2.5, -1.0])
def test_default_values_have_the_default_shape(shape: Any, usual: tuple[int, ...], value: float, tmp_path: Path) -> None:
    program = load(flexible(tmp_path, shape, np.full(usual, value, np.float32)))
    assert program.inputs[0].optional and program.inputs[0].default == value
    np.testing.assert_array_equal(program.predict({})["y"], np.full(usual, 2 * value))
    np.testing.assert_array_equal(program.predict({"x": None})["y"], np.full(usual, 2 * value))
    np.testing.assert_array_equal(program.predict({"x": np.full(usual, 3)})["y"], np.full(usual, 6))


def test_a_default_among_enumerated_shapes(tmp_path: Path) -> None:
    def change(spec: Any) -> None:
        kind = spec.description.input[0].type
        kind.isOptional, kind.multiArrayType.floatDefaultValue = True, 1.5

    program = load(edit(flexible(tmp_path, ct.EnumeratedShapes([(1, 4), (2, 8)], default=(2, 8))), change))
    np.testing.assert_array_equal(program.predict({})["y"], np.full((2, 8), 3))


def test_default_values_of_integers(tmp_path: Path) -> None:
    given = {"x": ct.TensorType("x", (3,), np.int32, default_value=np.full(3, 7, np.int32))}
    program = load(converted(lambda x: mb.add(x=x, y=np.int32(1), name="y"), given, tmp_path))
    found = program.predict({})["y"]
    assert found.dtype == np.int32 and found.tolist() == [8, 8, 8]


def test_a_default_of_absurd_shape_is_refused(tmp_path: Path) -> None:
    path = flexible(tmp_path, ct.Shape((1, ct.RangeDim(2, 9, default=4))), np.zeros((1, 4), np.float32))

    def change(spec: Any) -> None:
        spec.description.input[0].type.multiArrayType.shape[1] = 1 << 40

    with pytest.raises(PackageError, match="'x'.*1099511627776"):
        load(edit(path, change))


def test_output_types_and_order_follow_the_description(tmp_path: Path) -> None:
    def build(x: Any) -> Any:
        return mb.mul(x=x, y=np.float32(2), name="first"), mb.cast(x=mb.greater(x=x, y=np.float32(0)), dtype="int32", name="second")

    path = save(build, {"x": np.ones(3, np.float32)}, tmp_path)

    def swap(spec: Any) -> None:
        last = spec.description.output.pop()
        spec.description.output.insert(0, last)
        kind = spec.description.output[1].type.multiArrayType
        kind.dataType = kind.ArrayDataType.Value("FLOAT16")

    program = load(edit(path, swap))
    assert [item.name for item in program.outputs] == ["second", "first"]
    found = program.predict({"x": [1, 7e4, -1]})
    assert list(found) == ["second", "first"] and found["second"].dtype == np.int32 and found["first"].dtype == np.float16
    np.testing.assert_array_equal(found["first"], np.array([2, np.inf, -2], np.float16))


# Classifiers.


@pytest.mark.parametrize("labels", [["cat", "dog", "owl"], [7, 5, 2**40]], ids=["text", "numbers"])
def test_labels(labels: list[Any], tmp_path: Path) -> None:
    program = load(
        converted(
            lambda x: mb.softmax(x=x, axis=-1, name="p"),
            {"x": ct.TensorType("x", (1, 3), np.float32)},
            tmp_path,
            classifier_config=ct.ClassifierConfig(labels),
        )
    )
    kinds = {item.kind: item.name for item in program.outputs}
    assert set(kinds) == {"label", "probabilities"}
    given = np.array([[0.1, 2.0, 1.0]])
    for _ in range(2):
        found = program.predict({"x": given})
        assert found[kinds["label"]] == labels[1] and type(found[kinds["label"]]) is type(labels[1])
        share = np.exp(given[0]) / np.exp(given[0]).sum()
        assert list(found[kinds["probabilities"]]) == labels
        np.testing.assert_allclose(list(found[kinds["probabilities"]].values()), share, rtol=1e-6)


def test_a_number_of_labels_that_is_not_that_of_probabilities(tmp_path: Path) -> None:
    path = converted(
        lambda x: mb.softmax(x=x, axis=-1, name="p"),
        {"x": ct.TensorType("x", (1, 3), np.float32)},
        tmp_path,
        classifier_config=ct.ClassifierConfig(["a", "b", "c"]),
    )

    def change(spec: Any) -> None:
        op_of(spec, "classify").inputs["classes"].arguments[0].value.immediateValue.list.values.pop()

    with pytest.raises(MilError, match="2 classes for 3 probabilities"):
        load(edit(path, change)).predict({"x": np.ones((1, 3))})


# Descriptions that do not fit the program.


@pytest.mark.parametrize(
    ("change", "error", "reason"),
    [
        (lambda d: d.input.add(name="other").type.multiArrayType.shape.append(1), PackageError, "an? input 'other'|input 'other'"),
        (lambda d: d.output.add(name="other").type.multiArrayType.shape.append(1), PackageError, "output 'other'"),
        (lambda d: d.state.add(name="other").type.stateType.arrayType.shape.append(1), PackageError, "state 'other'"),
        (lambda d: setattr(d, "predictedProbabilitiesName", "other"), PackageError, "probabilities 'other'"),
        (lambda d: setattr(d.input[0].type.multiArrayType, "dataType", 7), UnsupportedError, "ArrayDataType 7"),
        (lambda d: setattr(d.input[0].type.imageType, "colorSpace", 77), UnsupportedError, "ColorSpace 77"),
        (lambda d: setattr(d.input[0].type.imageType, "width", 3), PackageError, "colour"),
        (lambda d: d.input[0].type.multiArrayType.enumeratedShapes.shapes.add().shape.append(3), PackageError, "1 dimensions"),
    ],
    ids=range(8),
)
def test_descriptions_that_do_not_fit(change: Callable[[Any], Any], error: type, reason: str, tmp_path: Path) -> None:
    path = save(lambda x: mb.relu(x=x, name="y"), {"x": np.ones((1, 3), np.float32)}, tmp_path)
    with pytest.raises(error, match=reason):
        load(edit(path, lambda spec: change(spec.description)))


def test_a_model_without_a_description_of_its_inputs(tmp_path: Path) -> None:
    path = save(lambda x: mb.relu(x=x, name="y"), {"x": np.ones((1, 3), np.float32)}, tmp_path)
    program = load(edit(path, lambda spec: spec.ClearField("description")))
    assert str(program.inputs[0]) == "x: fp32[1, 3]"
    assert program.predict({"x": [[-1, 0, 2]]})["y"].tolist() == [[0, 0, 2]]


# Functions.


def test_functions_by_name(tmp_path: Path) -> None:
    described = ct.utils.MultiFunctionDescriptor()
    for name, factor in (("double", 2), ("triple", 3)):
        (tmp_path / name).mkdir()
        path = save(
            lambda x, factor=factor: mb.mul(x=x, y=np.float32(factor), name="y"),
            {"x": np.ones(3, np.float32)},
            tmp_path / name,
            since="iOS18",
        )
        described.add_function(str(path), "main", name)
    described.default_function_name = "triple"
    ct.utils.save_multifunction(described, str(tmp_path / "both.mlpackage"))
    path = tmp_path / "both.mlpackage"
    given = {"x": np.arange(3)}
    for name, factor in ((None, 3), ("double", 2), ("triple", 3)):
        program = load(path, name)
        assert sorted(program.functions) == ["double", "triple"]
        assert program.predict(given)["y"].tolist() == [0, factor, 2 * factor]
    with pytest.raises(MilError, match="there is no function 'quadruple'") as caught:
        load(path, "quadruple")
    assert "double" in str(caught.value.why) and "triple" in str(caught.value.why)
    with pytest.raises(MilError, match="there is no function 'gone'"):
        load(edit(path, lambda spec: setattr(spec.description, "defaultFunctionName", "gone")))


@pytest.mark.parametrize(
    "options",
    [{"precision": "fp8"}, {"precision": None}, {"device": "toaster"}, {"device": "meta"}, {"function": "absent"}],
    ids=str,
)
def test_options_that_are_not_known_name_those_that_are(options: dict[str, Any], tmp_path: Path) -> None:
    path = save(lambda x: mb.relu(x=x, name="y"), {"x": np.ones((1, 3), np.float32)}, tmp_path)
    with pytest.raises(MilError) as caught:
        load(path, **options)
    known = {"precision": "native, emulate, fp16-weights, float64", "device": "device='cpu'", "function": "functions: main"}
    (option,) = options
    assert known[option] in str(caught.value) and str(options[option]) in caught.value.what


def test_an_op_that_lacks_an_input_is_named(tmp_path: Path) -> None:
    path = save(lambda x: mb.softmax(x=x, axis=-1, name="last"), {"x": np.ones((1, 3), np.float32)}, tmp_path)
    with pytest.raises(UnsupportedError, match="'softmax'") as caught:
        load(edit(path, lambda spec: op_of(spec, "softmax").inputs.pop("x")))
    assert "'last'" in str(caught.value) and "'x'" in str(caught.value)
