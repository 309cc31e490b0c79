"""The error of one tensor against another, with numpy, scipy and torch as witnesses."""

import math

import numpy
import pytest
from scipy.spatial import distance

from workbench.metrics.tensors import TensorError, tensor_error


@pytest.fixture(params=[0, 1, 2], ids=["float64", "float32", "float16"])
def pair(request):
    random = numpy.random.default_rng(request.param)
    dtype = (numpy.float64, numpy.float32, numpy.float16)[request.param]
    reference = (random.standard_normal((3, 40, 16)) * random.uniform(0.1, 5, 16)).astype(dtype)
    return reference, (reference + random.standard_normal(reference.shape) * 0.01).astype(dtype)


def exactly(*arrays):
    return [array.astype(numpy.float64).ravel() for array in arrays]


def test_numbers_equal_numpys_and_scipys(pair):
    before, after = exactly(*pair)
    error = tensor_error(*pair)
    assert error.n == before.size and error.finite
    assert error.snr_db == pytest.approx(10 * numpy.log10(numpy.mean(before**2) / numpy.mean((after - before) ** 2)), rel=1e-12)
    assert error.cosine == pytest.approx(1 - distance.cosine(before, after), abs=1e-12)
    assert error.relative_rms == pytest.approx(numpy.linalg.norm(after - before) / numpy.linalg.norm(before), rel=1e-12)
    assert error.max_abs == numpy.abs(after - before).max()
    assert error.max_relative == numpy.abs(after - before).max() / numpy.abs(before).max()
    assert error.max_over_rms == pytest.approx(numpy.abs(after - before).max() / numpy.sqrt(numpy.mean(before**2)), rel=1e-12)
    slope = numpy.linalg.lstsq(before[:, None], after, rcond=None)[0][0]
    assert error.scale == pytest.approx(slope, rel=1e-12)
    assert error.beyond_scale == pytest.approx(numpy.linalg.norm(after - slope * before) / numpy.linalg.norm(after), rel=1e-6)


def test_the_needed_tolerance_passes_numpy_and_a_smaller_one_fails(pair):
    before, after = exactly(*pair)
    needed = tensor_error(*pair).needed_tolerance
    rms = math.sqrt(numpy.mean(before**2))

    def passes(tolerance):
        return numpy.isclose(after, before, rtol=tolerance, atol=tolerance * rms).all()

    assert passes(needed * (1 + 1e-9)) and not passes(needed * (1 - 1e-6))


def test_the_needed_tolerance_passes_torch_and_a_smaller_one_fails(pair):
    torch = pytest.importorskip("torch", reason="needs torch (pip install 'parity-workbench[torch]')")
    before, after = map(torch.from_numpy, exactly(*pair))
    needed = tensor_error(*pair).needed_tolerance
    rms = before.square().mean().sqrt().item()

    def check(tolerance):
        torch.testing.assert_close(after, before, rtol=tolerance, atol=tolerance * rms)

    check(needed * (1 + 1e-9))
    with pytest.raises(AssertionError):
        check(needed * (1 - 1e-6))


@pytest.mark.parametrize("seed", range(20))
def test_the_errors_of_pieces_add_up_to_the_whole(seed):
    random = numpy.random.default_rng(seed)
    n = int(random.integers(1, 5000))
    before, after = random.standard_normal(n), random.standard_normal(n)
    before[random.random(n) < 0.01] = numpy.nan
    after[random.random(n) < 0.01] = numpy.inf
    cuts = numpy.sort(random.integers(0, n + 1, int(random.integers(0, 9))))
    pieces = [tensor_error(*each) for each in zip(numpy.split(before, cuts), numpy.split(after, cuts), strict=True)]
    whole, pooled = tensor_error(before, after), sum(pieces, TensorError())
    for name in ("n", "max_abs", "max_reference", "non_finite_reference", "non_finite_candidate"):
        assert getattr(pooled, name) == getattr(whole, name), name
    for name in ("snr_db", "relative_rms", "cosine", "scale", "beyond_scale", "max_relative", "max_over_rms"):
        assert getattr(pooled, name) == pytest.approx(getattr(whole, name), rel=1e-9, abs=1e-12), name


def test_the_needed_tolerance_of_pieces_is_the_largest_of_theirs():
    """Each against the RMS of its own piece, as an item's tensors are checked one by one."""
    one = tensor_error(numpy.array([1.0, 1.0]), numpy.array([1.1, 1.0]))
    other = tensor_error(numpy.array([100.0, 100.0]), numpy.array([101.0, 100.0]))
    assert (one + other).needed_tolerance == one.needed_tolerance > other.needed_tolerance
    assert (one + TensorError(max_abs=None, needed_tolerance=None)).needed_tolerance is None


def test_order_and_shape_do_not_matter_but_the_number_of_values_does():
    before, after = numpy.arange(12.0), numpy.arange(12.0) + 1
    assert tensor_error(before.reshape(3, 4), after.reshape(2, 6)) == tensor_error(before, after)
    with pytest.raises(ValueError, match="12 and 11"):
        tensor_error(before, after[:-1])


def test_values_that_are_not_finite_are_counted_and_left_out():
    before = numpy.array([1.0, numpy.nan, 3.0, numpy.inf, 5.0])
    after = numpy.array([1.0, 2.0, -numpy.inf, numpy.inf, 5.5])
    error = tensor_error(before, after)
    assert (error.n, error.non_finite_reference, error.non_finite_candidate) == (2, 2, 2)
    assert not error.finite
    assert error.max_abs == 0.5 and error.max_reference == 5.0 and error.reference_square == 26.0
    nothing = tensor_error(numpy.array([numpy.nan]), numpy.array([1.0]))
    assert nothing.n == 0 and nothing.non_finite_reference == 1 and nothing.non_finite_candidate == 0


def test_zeros():
    zeros, ones = numpy.zeros(4), numpy.ones(4)
    same = tensor_error(zeros, zeros)
    assert same.snr_db == math.inf and same.relative_rms == same.max_relative == same.max_over_rms == same.needed_tolerance == 0
    assert same.cosine is None and same.scale is None
    gone = tensor_error(ones, zeros)
    assert gone.snr_db == 0 and gone.relative_rms == 1 and gone.cosine is None and gone.scale == 0
    new = tensor_error(zeros, ones)
    assert new.snr_db == -math.inf and new.relative_rms == new.max_relative == new.max_over_rms == new.needed_tolerance == math.inf
    assert new.cosine is None and new.beyond_scale == math.inf


def test_nothing_at_all():
    empty = tensor_error(numpy.zeros((0, 8)), numpy.zeros((8, 0)))
    assert empty == TensorError() == sum([], TensorError())
    assert empty.snr_db == math.inf and empty.relative_rms == 0 and empty.cosine is None and empty.finite


def test_opposite_and_scaled_tensors():
    before = numpy.random.default_rng(0).standard_normal(500)
    assert tensor_error(before, -before).cosine == -1 and tensor_error(before, -before).scale == -1
    quarter = tensor_error(before, before / 4)
    assert (
        quarter.scale == 0.25
        and quarter.cosine == 1
        and quarter.beyond_scale < 1e-7
        and quarter.relative_rms == pytest.approx(0.75)
    )


def test_values_near_zero_make_no_infinite_error():
    before = numpy.array([1.0, 0.0, 1e-30])
    error = tensor_error(before, before + 1e-7)
    assert error.needed_tolerance < 2e-7 and error.max_over_rms < 2e-7


def test_large_and_small_values_are_summed_in_float64():
    before = numpy.full(10, 3e4, numpy.float16)
    error = tensor_error(before, before)
    assert error.reference_square == pytest.approx(10 * float(before[0]) ** 2) and error.snr_db == math.inf
    tiny = numpy.full(10, 6e-8, numpy.float16)
    assert tensor_error(tiny, tiny * 2).relative_rms == 1
