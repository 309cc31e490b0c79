"""Golden cases: scaled_dot_product_attention, against its formula in float64 and coremltools' value_inference."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.special
from coremltools.converters.mil import Builder as mb

from tests.mil.building import save
from tests.mil.cases import Case, check
from tests.mil.ops.test_convolution import noise
from workbench.mil import load

OP = "scaled_dot_product_attention"


def formula(query, key, value, attn_mask=None):
    scores = np.float64(query) @ np.swapaxes(np.float64(key), -1, -2) / np.sqrt(query.shape[-1])
    if attn_mask is not None:
        scores = np.where(attn_mask, scores, -np.inf) if attn_mask.dtype == bool else scores + attn_mask
    with np.errstate(invalid="ignore"):
        return scipy.special.softmax(scores, -1) @ value


def triple(*batch, length=5, sources=7, embedding=8, values=8):
    return {
        "query": noise(*batch, length, embedding),
        "key": noise(*batch, sources, embedding),
        "value": noise(*batch, sources, values),
    }


def flags(*shape, some=True):
    """Random flags; in each row at least one is set, if ``some``."""
    made = np.random.default_rng(3).random(shape) < 0.5
    made[..., 0] |= some
    return made


def case(label, given, mask=None, opset="iOS18"):
    """A boolean mask is a constant, for a program's inputs are numbers; a mask of floats comes from the run."""
    inputs = given if mask is None or mask.dtype == bool else given | {"attn_mask": mask}
    fixed = {"attn_mask": mask} if mask is not None and mask.dtype == bool else {}
    return Case(
        OP,
        opset,
        lambda **vars: mb.scaled_dot_product_attention(**vars, **fixed),
        inputs,
        lambda **arrays: formula(**arrays, **fixed),
        "definition",
        label,
    )


LOWEST = np.where(flags(5, 7, some=False), np.float32(0), np.finfo(np.float32).min)
LOWEST[2] = np.finfo(np.float32).min

CASES = [
    case("rank-3", triple(3)),
    case("rank-4", triple(2, 3)),
    case("rank-5", triple(2, 1, 3)),
    case("another-value-size", triple(2, 3, values=4)),
    case("another-value-size-rank-3", triple(2, values=11), noise(5, 7)),
    case("one-query", triple(2, 3, length=1), noise(1, 1, 1, 7)),
    case("float-full", triple(2, 3), noise(2, 3, 5, 7)),
    case("float-2d", triple(2, 3), noise(5, 7)),
    case("float-1d", triple(2, 3), noise(7)),
    case("float-1d-rank-3", triple(3), noise(7)),
    case("float-heads", triple(2, 3), noise(3, 5, 7)),
    case("float-batch", triple(2, 3), noise(2, 1, 1, 7)),
    case("float-rank-3", triple(3), noise(3, 5, 7)),
    case("float-rank-3-one-row", triple(3), noise(3, 1, 7)),
    case("float-rank-5", triple(2, 1, 3), noise(3, 5, 7)),
    case("float-infinite", triple(2, 3), np.where(flags(5, 7), np.float32(0), np.float32(-np.inf))),
    case("float-lowest", triple(2, 3), LOWEST),
    case("bool-full", triple(2, 3), flags(2, 3, 5, 7)),
    case("bool-2d", triple(2, 3), flags(5, 7)),
    case("bool-rank-3", triple(3), flags(3, 5, 7)),
    case("bool-1d", triple(3), flags(7)),
    case("bool-rank-5", triple(2, 1, 3), flags(2, 1, 1, 5, 7)),
    case("bool-row-shut", triple(2, 3), np.tri(5, 7, -1, dtype=bool)),
    case("float-row-shut", triple(3), np.where(np.tri(5, 7, -1), np.float32(0.5), np.float32(-np.inf))),
    Case(
        OP,
        "iOS18",
        lambda query, key, value, limit: mb.scaled_dot_product_attention(
            query=query, key=key, value=value, attn_mask=mb.less(x=np.arange(7, dtype=np.float32), y=limit)
        ),
        triple(2, 3) | {"limit": np.float32([4])},
        lambda query, key, value, limit: formula(query, key, value, np.arange(7) < limit),
        "definition",
        "bool-from-the-run",
    ),
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_golden(case, tmp_path):
    check(case, tmp_path)


@pytest.mark.parametrize("kind", ["none", "bool", "fp16", "fp32"])
@pytest.mark.parametrize("precision", ["native", "emulate", "fp16-weights", "float64"])
def test_fp16_in_every_reading(kind, precision, tmp_path):
    """A mask of float32's lowest number stays a number: a row full of it is a mean, not NaN."""
    given = {name: value.astype(np.float16) for name, value in triple(2, 3).items()}
    mask = {"none": None, "bool": flags(5, 7), "fp16": noise(5, 7, dtype=np.float16), "fp32": LOWEST}[kind]

    def build(**vars):
        halves = {name: mb.cast(x=value, dtype="fp16") for name, value in vars.items()}
        extra = {} if mask is None else {"attn_mask": mask}
        return mb.cast(x=mb.scaled_dot_product_attention(**halves, **extra), dtype="fp32")

    inputs = {name: value.astype(np.float32) for name, value in given.items()}
    program = load(save(build, inputs, tmp_path, since="iOS18"), precision=precision)
    (found,) = program.predict(inputs).values()
    limit = {"native": 1e-3, "emulate": 1e-3, "fp16-weights": 2e-6, "float64": 2e-7}[precision]
    np.testing.assert_allclose(found, formula(**given, attn_mask=mask), rtol=0, atol=limit * 3)


@pytest.mark.parametrize("mask", [None, flags(5, 7), noise(5, 7)], ids=["none", "bool", "float"])
def test_the_witness_is_the_formula_of_value_inference(mask):
    """coremltools' own evaluation of a program of constants."""
    from tests.mil.building import opset

    given = triple(2, 3, values=4) | ({} if mask is None else {"attn_mask": mask})
    theirs = []

    @mb.program(input_specs=[mb.TensorSpec((1,))], opset_version=opset("iOS18"))
    def program(x):
        theirs.append(mb.scaled_dot_product_attention(**given).val)
        return x

    np.testing.assert_allclose(theirs[0], formula(**given), atol=1e-6)


def test_a_wider_mask_widens_attention_where_halves_are_computed_in_halves(monkeypatch):
    """As on CUDA: float32's lowest number is infinite in fp16, and a row of it would have no mean."""
    import torch

    from workbench.mil.ops import attention

    monkeypatch.setattr(attention, "arithmetic", lambda x: x.dtype)
    given = {name: torch.from_numpy(value).half() for name, value in triple(2, 3).items()}
    found = attention.scaled_dot_product_attention(**given, attn_mask=torch.from_numpy(LOWEST))
    wanted = formula(**{name: value.numpy() for name, value in given.items()}, attn_mask=LOWEST)
    np.testing.assert_allclose(found, wanted, atol=1e-5)
