"""Golden cases: the end of a classifier, as ``ClassifierConfig`` adds it to a model (coremltools saves the op in no other way)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import coremltools as ct
import numpy as np
import pytest
from coremltools.converters.mil import Builder as mb
from coremltools.converters.mil.mil import get_new_symbol

from tests.mil.building import opset
from workbench.mil import ExecutionError, InputError, load
from workbench.mil.graph import walk

ANIMALS = ["cat", "dog", "été"]
NUMBERS = [7, -2, 2**40]
SHARES = np.float32([0.2, 0.7, 0.1])


def classifier(build, shape, classes, folder, since="iOS15", pipeline=None, names=None):
    """(the loaded program, the model's description). ``build(x)`` gives the probabilities."""
    sizes = tuple(get_new_symbol() if size is None else size for size in shape)

    @mb.program(input_specs=[mb.TensorSpec(shape=sizes)], opset_version=opset(since))
    def source(x):
        return build(x)

    flexible = [ct.TensorType(name="x", shape=tuple(ct.RangeDim(1, 9) if size is None else size for size in shape))]
    model = ct.convert(
        source,
        convert_to="mlprogram",
        minimum_deployment_target=opset(since),
        classifier_config=ct.ClassifierConfig(classes, **(names or {})),
        pass_pipeline=pipeline,
        inputs=flexible if None in shape else None,
        skip_model_load=True,
    )
    model.save(str(folder / "classifier.mlpackage"))
    return load(folder / "classifier.mlpackage"), model.get_spec().description


@dataclass(frozen=True, eq=False)
class Labels:
    """One op's case, as `tests.mil.cases.Case`."""

    label: str
    classes: list[Any]
    shares: np.ndarray
    op: str = "classify"
    opset: str = "iOS15"

    def expected(self):
        """The definition: the label of the largest share, the first of equals; every label with its share."""
        pairs = zip(self.classes, self.shares.ravel(), strict=True)
        return self.classes[int(np.argmax(self.shares))], {label: float(share) for label, share in pairs}

    def __str__(self):
        return f"{self.op}-{self.opset}-{self.label}"


CASES = [
    Labels("strings", ANIMALS, SHARES),
    Labels("integers", NUMBERS, SHARES[::-1].copy()),
    Labels("rank-2", ANIMALS, SHARES[None]),
    Labels("rank-4", NUMBERS, SHARES.reshape(1, 3, 1, 1)),
    Labels("equals", ANIMALS, np.float32([0.1, 0.45, 0.45])),
    Labels("no-probabilities", ANIMALS, np.float32([-5, -1, np.inf])),
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_golden(case, tmp_path):
    program, _ = classifier(lambda x: mb.identity(x=x), case.shares.shape, case.classes, tmp_path, pipeline=ct.PassPipeline.EMPTY)
    assert case.op in {op.type for op in walk(program.function.block)}
    assert [feature.kind for feature in program.outputs] == ["label", "probabilities"]
    wanted = case.expected()
    for _ in range(2):
        label, shares = program.predict({"x": case.shares}).values()
        assert (label, shares) == wanted
        assert type(label) is type(wanted[0]) and all(type(key) is type(label) for key in shares)


@pytest.mark.parametrize("since", ["iOS15", "iOS18"])
@pytest.mark.parametrize(("classes", "names"), [(["no", "yes"], {}), ([4, 9], {"predicted_feature_name": "digit"})])
def test_a_model_saved_as_users_do(since, classes, names, tmp_path):
    """With coremltools' passes: probabilities computed in fp16 and cast, outputs named as the model describes them."""
    weight = np.float32([[1, -1, 0.5], [0.25, 2, -1]])
    program, described = classifier(
        lambda x: mb.softmax(x=mb.linear(x=x, weight=weight), axis=-1, name="shares"), (1, 3), classes, tmp_path, since, names=names
    )
    x = np.float32([[0.5, 1.5, -1]])
    exact = np.exp(x @ weight.T)[0]
    exact /= exact.sum()
    found = program.predict({"x": x})
    assert list(found) == [item.name for item in described.output]
    assert found[described.predictedFeatureName] == classes[int(exact.argmax())]
    shares = found[described.predictedProbabilitiesName]
    assert list(shares) == classes
    np.testing.assert_allclose(list(shares.values()), exact, atol=2e-3)


def test_nan_and_a_wrong_count(tmp_path):
    program, _ = classifier(lambda x: mb.identity(x=x), (None,), ANIMALS, tmp_path)
    with pytest.raises(InputError, match="NaN"):
        program.predict({"x": np.float32([0.5, np.nan, 0.5])})
    with pytest.raises(ExecutionError, match="3 classes for 2 probabilities"):
        program.predict({"x": np.float32([0.5, 0.5])})
