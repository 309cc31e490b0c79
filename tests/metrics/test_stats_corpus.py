from math import inf

import numpy as np
import pytest
from scipy import stats

from workbench.metrics.stats import paired_bootstrap, ratio_interval, resampling, tango


def utterances(seed, n=120):
    generator = np.random.default_rng(seed)
    words = 4 + generator.poisson(9, n)
    hard = generator.gamma(2, 0.5, n)
    return [np.stack([generator.poisson(rate * hard * words), words], axis=1) for rate in (0.08, 0.1)]


def wer_difference(a, b):
    return b[..., 0] / b[..., 1] - a[..., 0] / a[..., 1]


def scipy_bootstrap(reference, candidate, method):
    def statistic(index, axis=-1):
        rows = index.astype(int)
        return wer_difference(reference[rows].sum(-2), candidate[rows].sum(-2))

    indices = (np.arange(len(reference)),)
    made = stats.bootstrap(
        indices, statistic, confidence_level=0.9, n_resamples=30_000, method=method, batch=2000, rng=np.random.default_rng(3)
    )
    return made.confidence_interval, made.bootstrap_distribution


def test_bca_equals_scipy_within_the_noise_of_the_draws():
    reference, candidate = utterances(1)
    expected, draws = scipy_bootstrap(reference, candidate, "BCa")
    found = paired_bootstrap(reference, candidate, wer_difference, draws=30_000, method="BCa")
    assert found == pytest.approx((expected.low, expected.high), abs=0.06 * draws.std())
    skewed = np.exp(2 * np.random.default_rng(2).normal(size=(60, 1)))  # where the correction is large
    zeros = np.zeros_like(skewed)
    mean = stats.bootstrap((skewed[:, 0],), np.mean, confidence_level=0.9, n_resamples=30_000, rng=np.random.default_rng(0))
    found = paired_bootstrap(zeros, skewed, lambda a, b: (b - a)[:, 0] / 60, draws=30_000, method="BCa")
    assert found == pytest.approx((mean.confidence_interval.low, mean.confidence_interval.high), abs=0.12 * mean.standard_error)


def test_percentile_equals_scipy_up_to_the_expansion():
    reference, candidate = utterances(2)
    expected, draws = scipy_bootstrap(reference, candidate, "percentile")
    low, high = paired_bootstrap(reference, candidate, wer_difference, draws=30_000)
    assert (low, high) == pytest.approx((expected.low, expected.high), abs=0.08 * draws.std())


def test_both_models_get_the_same_resample():
    reference, _ = utterances(3)
    assert paired_bootstrap(reference, reference, wer_difference) == (0, 0)
    worse = reference + np.array([1, 0])
    low, high = paired_bootstrap(reference, worse, lambda a, b: (b - a)[:, 0] / len(reference))
    assert low == high == 1


def test_groups_are_drawn_whole():
    reference, candidate = utterances(4, 60)
    doubled = [np.concatenate([counts, counts]) for counts in (reference, candidate)]
    alone = paired_bootstrap(reference, candidate, wer_difference)
    assert paired_bootstrap(*doubled, wer_difference, groups=[*range(60), *range(60)]) == pytest.approx(alone)
    low, high = paired_bootstrap(*doubled, wer_difference)
    assert high - low < 0.85 * (alone[1] - alone[0])
    assert paired_bootstrap(reference, candidate, wer_difference, groups=["one"] * 60) == (-inf, inf)


def test_a_statistic_that_is_no_number_is_an_error():
    reference, candidate = utterances(5, 5)
    empty = reference * np.array([1, 0])
    with np.errstate(all="ignore"), pytest.raises(ValueError, match="denominator"):
        paired_bootstrap(empty, candidate, wer_difference)
    with pytest.raises(ValueError):
        paired_bootstrap(reference, candidate[:4], wer_difference)
    with pytest.raises(ValueError):
        paired_bootstrap(reference, candidate, wer_difference, method="bca")


def test_ratio_interval_against_the_delta_method():
    generator = np.random.default_rng(6)
    reference = generator.gamma(2, 0.5, 2000)
    candidate = reference * generator.gamma(30, 1.01 / 30, 2000)
    ratio = candidate.mean() / reference.mean()
    error = np.std(candidate / candidate.mean() - reference / reference.mean(), ddof=1) / 2000**0.5
    z = stats.norm.ppf(0.95)
    expected = np.exp(np.log(ratio) + np.array([-z, z]) * error)
    assert ratio_interval(reference, candidate) == pytest.approx(tuple(expected), abs=0.08 * error)


def test_ratio_interval_of_right_or_wrong_is_never_narrower_than_tango():
    reference = np.array([1.0] * 30 + [0.0] * 20)
    low, high = ratio_interval(reference, reference)
    assert (low, high) == pytest.approx(tuple(1 + bound / 0.6 for bound in tango(0, 0, 50)))
    candidate = reference.copy()
    candidate[:4] = 0
    low, high = ratio_interval(reference, candidate)
    bounds = tango(4, 0, 50)
    assert low <= 1 + bounds[0] / 0.6 and high >= 1 + bounds[1] / 0.6


def test_ratio_interval_where_a_side_scores_nothing():
    assert ratio_interval([0.0, 0.0], [1.0, 0.0]) is None
    low, high = ratio_interval([0.5, 0.7, 0.6, 0.2, 0.1, 0.3], [0.0] * 6)
    assert (low, high) == (0, 0)
    low, high = ratio_interval([0.5, 0.0, 0.0], [0.4, 0.3, 0.2])
    assert low >= 0 and high == inf  # some draws hold only items on which the reference scores 0
    with pytest.raises(ValueError):
        ratio_interval([-0.1, 0.2], [0.1, 0.2])
    with pytest.raises(ValueError):
        ratio_interval([0.1], [0.1, 0.2])


def test_a_ratio_on_a_scale_is_not_certain_of_five_equal_items():
    low, high = ratio_interval([0.5, 0.6, 0.7, 0.4, 0.3], [0.5, 0.6, 0.7, 0.4, 0.3])
    bounds = tango(0, 0, 5, 0.90)
    assert (low, high) == pytest.approx((1 + bounds[0] / 0.5, 1 + bounds[1] / 0.5))


def test_draws_in_parts_are_the_draws_of_one_piece(monkeypatch):
    generator = np.random.default_rng(7)
    rows = np.stack([generator.integers(0, 5, 4000), generator.integers(1, 20, 4000)], axis=1)
    whole = resampling.resampled_sums(rows, 500, 0)
    monkeypatch.setattr(resampling, "CHUNK_CELLS", 1000)
    assert (resampling.resampled_sums(rows, 500, 0) == whole).all()
