"""Random ops: shapes, types, seeds, and the distributions themselves, by the tests of scipy on thousands of samples."""

from __future__ import annotations

import numpy as np
import pytest
from coremltools.converters.mil import Builder as mb
from scipy import stats

from tests.mil.building import save
from workbench.mil import ExecutionError, load
from workbench.mil.graph import walk

COUNT = np.zeros(1, np.float32)
MANY = np.int32([40, 100])
LOGITS = np.float32([[0.0, 1.0, 2.0, -1.0], [3.0, 3.0, 0.0, -np.inf]])
PROBABILITIES = np.exp(LOGITS.astype(np.float64)) / np.exp(LOGITS.astype(np.float64)).sum(axis=1, keepdims=True)


def fits(distribution, *parameters):
    """A Kolmogorov-Smirnov test that a right sample fails once in a thousand seeds; the seed is fixed."""

    def accepts(found):
        assert stats.kstest(found.ravel().astype(np.float64), distribution, parameters).pvalue > 1e-3
        assert len(np.unique(found)) > found.size // 2

    return accepts


def counts_as(probability):
    """Zeros and ones, the ones as often as they should be."""

    def accepts(found):
        assert set(np.unique(found)) <= {0.0, 1.0}
        assert stats.binomtest(int(found.sum()), found.size, probability).pvalue > 1e-3

    return accepts


def draws(probabilities):
    """Each row's numbers of draws by a chi-square test; a class without probability is never drawn."""

    def accepts(found):
        for row, wanted in zip(found.reshape(-1, found.shape[-1]), probabilities.reshape(-1, probabilities.shape[-1]), strict=True):
            seen = np.bincount(row.astype(int), minlength=len(wanted))
            assert (row == np.round(row)).all() and seen[wanted == 0].sum() == 0
            likely = wanted > 0
            assert stats.chisquare(seen[likely], wanted[likely] / wanted[likely].sum() * len(row)).pvalue > 1e-3

    return accepts


class Sample:
    """A case whose witness is a distribution. ``build(x)`` has the input and may ignore it."""

    def __init__(self, op, opset, build, shape, accepts, label, given=COUNT, kind=np.float32):
        self.op, self.opset, self.build, self.shape, self.accepts = op, opset, build, shape, accepts
        self.label, self.given, self.kind = label, given, kind

    def __str__(self):
        return f"{self.op}-{self.opset}-{self.label}"


def half(build):
    """The op in fp16, brought to fp32 so that any opset can give it out."""
    return lambda x: mb.cast(x=build(x), dtype="fp32")


CASES = [
    Sample("random_uniform", "iOS15", lambda x: mb.random_uniform(shape=MANY), (40, 100), fits("uniform"), "default"),
    Sample(
        "random_uniform",
        "iOS15",
        lambda x: mb.random_uniform(shape=MANY, low=np.float32(-3), high=np.float32(5), seed=np.int32(7)),
        (40, 100),
        fits("uniform", -3, 8),
        "range",
    ),
    Sample(
        "random_uniform",
        "iOS15",
        lambda x: mb.random_uniform(shape=MANY, low=np.float32(2), high=np.float32(2)),
        (40, 100),
        lambda found: np.testing.assert_array_equal(found, 2),
        "empty-range",
    ),
    Sample("random_normal", "iOS15", lambda x: mb.random_normal(shape=MANY), (40, 100), fits("norm"), "default"),
    Sample(
        "random_normal",
        "iOS15",
        lambda x: mb.random_normal(shape=np.int32([5, 20, 40]), mean=np.float32(4), stddev=np.float32(0.5), seed=np.int32(3)),
        (5, 20, 40),
        fits("norm", 4, 0.5),
        "moments",
    ),
    Sample("random_bernoulli", "iOS15", lambda x: mb.random_bernoulli(shape=MANY), (40, 100), counts_as(0.5), "default"),
    Sample(
        "random_bernoulli",
        "iOS15",
        lambda x: mb.random_bernoulli(shape=MANY, prob=np.float32(0.1), seed=np.int32(3)),
        (40, 100),
        counts_as(0.1),
        "rare",
    ),
    *(
        Sample(
            "random_bernoulli",
            "iOS15",
            lambda x, always=always: mb.random_bernoulli(shape=MANY, prob=np.float32(always)),
            (40, 100),
            lambda found, always=always: np.testing.assert_array_equal(found, always),
            f"always-{always}",
        )
        for always in (0, 1)
    ),
    Sample(
        "random_categorical",
        "iOS15",
        lambda x: mb.random_categorical(x=x, size=np.int32(3000)),
        (2, 3000),
        draws(PROBABILITIES),
        "logits",
        LOGITS,
    ),
    Sample(
        "random_categorical",
        "iOS15",
        lambda x: mb.random_categorical(x=x, mode="probs", size=np.int32(3000), seed=np.int32(5)),
        (2, 1, 3000),
        draws(PROBABILITIES),
        "probs",
        PROBABILITIES[:, None].astype(np.float32),
    ),
    Sample(
        "random_categorical",
        "iOS15",
        lambda x: mb.random_categorical(x=x, mode="probs", size=np.int32(3000)),
        (3000,),
        draws(PROBABILITIES[0] * 2),
        "rank-1-unnormalised",
        np.float32(PROBABILITIES[0] * 2),
    ),
    Sample(
        "random_categorical",
        "iOS15",
        lambda x: mb.random_categorical(x=x),
        (2, 1),
        lambda found: np.testing.assert_array_equal(found[0], 1),
        "one",
        np.float32([[-90, 90], [0, 0]]),
    ),
    Sample(
        "random_uniform",
        "iOS17",
        half(lambda x: mb.random_uniform(shape=MANY, low=np.float16(0), high=np.float16(1))),
        (40, 100),
        lambda found: (counts_as(0.25)((found < 0.25).astype(float)), found.max() < 1 or pytest.fail("reached the bound")),
        "fp16",
    ),
    Sample(
        "random_normal",
        "iOS17",
        half(lambda x: mb.random_normal(shape=MANY, mean=np.float16(0), stddev=np.float16(1))),
        (40, 100),
        lambda found: counts_as(stats.norm.cdf(0.5))((found < 0.5).astype(float)),
        "fp16",
    ),
    Sample(
        "random_bernoulli",
        "iOS17",
        half(lambda x: mb.random_bernoulli(shape=MANY, prob=np.float16(0.75))),
        (40, 100),
        counts_as(0.75),
        "fp16",
    ),
    Sample(
        "random_categorical",
        "iOS17",
        lambda x: mb.random_categorical(x=x, size=np.int32(3000)),
        (2, 3000),
        draws(PROBABILITIES),
        "fp16",
        LOGITS.astype(np.float16),
        np.float16,
    ),
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_distribution(case, tmp_path):
    """Two predictions and two loads give the same numbers, drawn from the distribution."""
    path = save(case.build, {"x": case.given}, tmp_path, since=case.opset)
    program = load(path)
    assert case.op in {op.type for op in walk(program.function.block)}
    (found,) = program.predict({"x": case.given}, allow_nan=True).values()
    assert found.shape == case.shape and found.dtype == case.kind
    case.accepts(found)
    for again in (program, load(path)):
        np.testing.assert_array_equal(next(iter(again.predict({"x": case.given}).values())), found)


def two(first, second):
    return lambda x: (mb.random_normal(shape=MANY, **first), mb.random_normal(shape=MANY, **second))


def results(build, tmp_path, **options):
    program = load(save(build, {"x": COUNT}, tmp_path, since="iOS17"), **options)
    return list(program.predict({"x": COUNT}).values())


def test_ops_without_a_seed_draw_on_and_seeds_tell_ops_apart(tmp_path):
    one, other = results(two({}, {}), tmp_path)
    assert not np.array_equal(one, other)
    one, other = results(two({"seed": np.int32(1)}, {"seed": np.int32(2)}), tmp_path)
    assert not np.array_equal(one, other)
    one, other = results(two({"seed": np.int32(9)}, {"seed": np.int32(9)}), tmp_path)
    np.testing.assert_array_equal(one, other)


def test_every_reading_sees_the_same_samples(tmp_path):
    def build(x):
        return mb.random_normal(shape=MANY, mean=np.float16(0), stddev=np.float16(1))

    native, emulated, exact = (results(build, tmp_path, precision=name)[0] for name in ("native", "emulate", "fp16-weights"))
    np.testing.assert_array_equal(native, emulated)
    np.testing.assert_array_equal(native.astype(np.float32), exact.astype(np.float16).astype(np.float32))


@pytest.mark.parametrize("precision", ["native", "emulate"])
def test_fp16_samples_stay_below_the_upper_bound(tmp_path, precision):
    """Without care one sample in 4,096 would round up to the bound."""

    def build(x):
        return mb.random_uniform(shape=np.int32([200_000]), low=np.float16(0), high=np.float16(1))

    (found,) = results(build, tmp_path, precision=precision)
    assert found.max() == np.nextafter(np.float16(1), np.float16(0)) and found.min() >= 0


@pytest.mark.parametrize(
    "build",
    [
        lambda x: mb.random_uniform(shape=mb.cast(x=x, dtype="int32")),
        lambda x: mb.random_normal(shape=mb.cast(x=x, dtype="int32")),
        lambda x: mb.random_bernoulli(shape=mb.cast(x=x, dtype="int32")),
    ],
    ids=("uniform", "normal", "bernoulli"),
)
def test_a_shape_known_at_run_time_only(build, tmp_path):
    program = load(save(build, {"x": np.zeros(2, np.float32)}, tmp_path), memory_bytes=1 << 20)
    for shape in ((3, 4), (2, 1), (3, 4)):
        (found,) = program.predict({"x": np.float32(shape)}).values()
        assert found.shape == shape
    with pytest.raises(ExecutionError, match=r"\[100000, 100000\]"):
        program.predict({"x": np.float32([1e5, 1e5])})
    with pytest.raises(ExecutionError, match="negative"):
        program.predict({"x": np.float32([-1, 2])})
