"""Statistics and sketches in one pass, against the errors that whole tensors have."""

import hashlib
import math

import numpy
import pytest

from workbench.metrics import sketch
from workbench.metrics.sketch import PERIOD, WIDTH, Moments, add_to_sketch, estimated_error, signs
from workbench.metrics.tensors import tensor_error

KNOWN = "d0af3cf958db03c56daf3cb07b1c0798a0faa3585aeeda33a7a80b04dcf08e7d"
"""Of a sketch that was also made in plain Python, place by place."""


def record(array, cuts=()):
    moments = Moments()
    for piece in numpy.split(array, cuts):
        moments.add(piece)
    return moments.record()


def estimate(before, after):
    return estimated_error(record(before), record(after))


def test_the_statistics_equal_numpys():
    array = numpy.random.default_rng(0).standard_normal((7, 33)).astype(numpy.float32)
    found = record(array)
    exact = array.astype(numpy.float64)
    assert (found["n"], found["non_finite"], found["min"], found["max"]) == (array.size, 0, array.min(), array.max())
    assert found["mean"] == pytest.approx(exact.mean(), abs=1e-12)
    assert found["rms"] == pytest.approx(numpy.sqrt(numpy.mean(exact**2)), rel=1e-12)
    assert found["square"] == pytest.approx((exact**2).sum(), rel=1e-12)


def test_estimates_have_no_bias_and_the_spread_that_is_promised():
    """400 tensors: the mean ratio to the exact energy within 4 standard errors of 1, the spread sqrt(2 / 1024)."""
    random = numpy.random.default_rng(1)
    promised = math.sqrt(2 / WIDTH)
    ratios = []
    for _ in range(400):
        before = random.standard_normal(20_000) * random.uniform(0.1, 10)
        after = before + random.standard_normal(20_000) * 10 ** random.uniform(-7, 0)
        ratios.append(estimate(before, after).error_square / tensor_error(before, after).error_square)
    assert abs(numpy.mean(ratios) - 1) < 4 * promised / math.sqrt(400)
    assert numpy.std(ratios) == pytest.approx(promised, rel=0.15)
    assert numpy.abs(numpy.array(ratios) - 1).max() < 5 * promised


@pytest.mark.parametrize("share", [1e-3, 1e-2, 0.1, 1.0])
def test_sparse_errors_are_estimated_as_well(share):
    random = numpy.random.default_rng(2)
    ratios = []
    for _ in range(100):
        before = random.standard_normal(100_000)
        after = before + numpy.where(random.random(100_000) < share, random.standard_normal(100_000), 0)
        ratios.append(estimate(before, after).error_square / tensor_error(before, after).error_square)
    promised = math.sqrt(2 / WIDTH)
    assert abs(numpy.mean(ratios) - 1) < 4 * promised / 10 and numpy.std(ratios) < 1.4 * promised


@pytest.mark.parametrize("place", [0, 1, 1023, 1024, 777_777, 999_999])
def test_one_wrong_value_in_a_million_is_seen_exactly(place):
    before = numpy.random.default_rng(3).standard_normal(1_000_000)
    after = before.copy()
    after[place] += 0.5
    found = estimate(before, after)
    assert found.error_square == pytest.approx(0.25, rel=1e-9)
    assert found.relative_rms == pytest.approx(tensor_error(before, after).relative_rms, rel=1e-9)


def test_structured_errors_do_not_cancel():
    """A constant, a channel, a row and a transposed grid: what real faults look like."""
    random = numpy.random.default_rng(4)
    before = random.standard_normal((64, 64, 32))
    for after in (
        before + 0.1,
        before + numpy.where(numpy.arange(32) == 5, 0.1, 0),
        before + numpy.where(numpy.arange(64) == 9, 0.1, 0)[:, None, None],
        before.swapaxes(0, 1).copy(),
        -before,
    ):
        assert estimate(before, after).relative_rms == pytest.approx(tensor_error(before, after).relative_rms, rel=0.15)


def test_known_exactly_are_norms_counts_and_extremes():
    random = numpy.random.default_rng(5)
    before, after = random.standard_normal(5000), random.standard_normal(5000)
    found, exact = estimate(before, after), tensor_error(before, after)
    assert (found.n, found.max_reference) == (exact.n, exact.max_reference)
    assert found.reference_square == pytest.approx(exact.reference_square, rel=1e-12)
    assert found.candidate_square == pytest.approx(exact.candidate_square, rel=1e-12)
    assert found.cosine == pytest.approx(exact.cosine, abs=0.2)
    assert found.max_abs is found.needed_tolerance is found.max_relative is found.max_over_rms is None


def test_equal_tensors_have_no_error_at_all():
    array = numpy.random.default_rng(6).standard_normal(10_000)
    found = estimate(array, array)
    assert found.error_square == 0 and found.snr_db == math.inf and found.cosine == pytest.approx(1, abs=1e-15)


@pytest.mark.parametrize("seed", range(10))
def test_pieces_make_the_sketch_of_the_whole(seed):
    """Bit by bit where sums are exact (small whole numbers), to rounding elsewhere."""
    random = numpy.random.default_rng(seed)
    n = int(random.integers(1, 30_000))
    cuts = numpy.sort(random.integers(0, n + 1, 6))
    whole_numbers = random.integers(-50, 50, n).astype(numpy.float32)
    one, many = record(whole_numbers), record(whole_numbers, cuts)
    assert one.pop("sketch").tobytes() == many.pop("sketch").tobytes() and one == many
    values = random.standard_normal(n)
    one, many = record(values), record(values, cuts)
    assert numpy.allclose(one.pop("sketch"), many.pop("sketch"), rtol=0, atol=1e-11)
    assert all(many[name] == one[name] for name in ("n", "non_finite", "min", "max"))
    assert many["square"] == pytest.approx(one["square"], rel=1e-12)


def test_large_tensors_are_worked_on_in_pieces(monkeypatch):
    values = numpy.random.default_rng(7).integers(-9, 9, 10_000).astype(numpy.float32)
    whole = record(values)["sketch"]
    monkeypatch.setattr(sketch, "PIECE", 999)
    assert record(values)["sketch"].tobytes() == whole.tobytes()


def test_signs_repeat_after_the_period():
    values = numpy.random.default_rng(8).integers(-9, 9, 3000).astype(numpy.float64)
    for offset in (PERIOD - 1000, PERIOD - 1, PERIOD, 3 * PERIOD - 1500):
        found = numpy.zeros(WIDTH)
        add_to_sketch(found, values, offset)
        places = offset + numpy.arange(values.size)
        expected = numpy.zeros(WIDTH)
        numpy.add.at(expected, places % WIDTH, values * signs()[places % PERIOD])
        assert found.tobytes() == expected.tobytes()


def test_signs_are_balanced_and_the_same_on_every_machine():
    known = signs()
    assert known.shape == (PERIOD,) and set(numpy.unique(known)) == {-1, 1}
    assert abs(known.mean(dtype=numpy.float64)) < 4 / math.sqrt(PERIOD)
    words = numpy.random.Philox(key=sketch.SEED).random_raw(2).tolist()
    assert known[:128].tolist() == [1 if words[place // 64] >> (place % 64) & 1 else -1 for place in range(128)]


def test_a_known_vector_has_a_known_sketch():
    """Whole numbers, so no rounding: another machine, library or byte order must find these very bytes."""
    values = (numpy.arange(100_000) * 7919 % 1009 - 504).astype(numpy.float32)
    found = record(values)["sketch"]
    assert found.dtype == numpy.float64 and found.shape == (WIDTH,)
    assert hashlib.sha256(found.astype("<f8").tobytes()).hexdigest() == KNOWN


def test_values_that_are_not_finite_are_counted_and_taken_for_zero():
    array = numpy.array([1.0, numpy.nan, -3.0, numpy.inf, -numpy.inf])
    found = record(array)
    assert (found["n"], found["non_finite"], found["min"], found["max"]) == (5, 3, -3.0, 1.0)
    assert found["mean"] == -1.0 and found["square"] == 10.0
    assert found["sketch"].tobytes() == record(numpy.nan_to_num(array, nan=0, posinf=0, neginf=0))["sketch"].tobytes()
    other = estimated_error(record(numpy.zeros(5)), found)
    assert (other.non_finite_reference, other.non_finite_candidate, other.n) == (0, 3, 2)


def test_nothing_at_all():
    for empty in (record(numpy.zeros(0)), Moments().record(), record(numpy.full(3, numpy.nan))):
        assert empty["min"] is empty["max"] is empty["mean"] is empty["rms"] is None and empty["square"] == 0
    found = estimate(numpy.zeros(0), numpy.zeros(0))
    assert found.n == 0 and found.relative_rms == 0


def test_records_of_other_sizes_are_refused():
    with pytest.raises(ValueError, match="5 and 6"):
        estimate(numpy.zeros(5), numpy.zeros(6))


def test_lower_precision_and_strides():
    array = numpy.random.default_rng(9).standard_normal((20, 30)).astype(numpy.float16)
    assert record(array)["sketch"].tobytes() == record(array.astype(numpy.float64))["sketch"].tobytes()
    assert record(array.T)["sketch"].tobytes() == record(numpy.ascontiguousarray(array.T))["sketch"].tobytes()
