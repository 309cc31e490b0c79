from math import inf

import numpy as np
import pytest
from scipy import stats

from workbench.metrics.stats import cluster_bootstrap, cluster_interval, mean_interval, t_interval, tost_paired
from workbench.metrics.stats.resampling import cluster_codes, lower_tail, resampled_sums


def clustered(seed, groups=25):
    generator = np.random.default_rng(seed)
    codes = np.repeat(np.arange(groups), generator.integers(1, 9, groups))
    return generator.normal(0.1, 1, groups)[codes] + generator.normal(0, 1, len(codes)), codes


@pytest.mark.parametrize("confidence", [0.90, 0.95])
def test_cluster_interval_equals_statsmodels(confidence):
    import statsmodels.api as sm

    values, codes = clustered(1)
    fit = sm.OLS(values, np.ones(len(values))).fit(cov_type="cluster", cov_kwds={"groups": codes}, use_t=True)
    # statsmodels' small-sample factor is C/(C-1) (n-1)/(n-k); with one coefficient the second part is 1.
    assert cluster_interval(values, codes, confidence) == pytest.approx(tuple(fit.conf_int(1 - confidence)[0]), rel=1e-10)
    assert cluster_interval(values, [f"speaker {code}" for code in codes], confidence) == cluster_interval(
        values, codes, confidence
    )


def test_t_interval_equals_scipy():
    values, _ = clustered(2)
    expected = stats.ttest_1samp(values, 0).confidence_interval(0.90)
    assert t_interval(values) == pytest.approx((expected.low, expected.high))
    assert cluster_interval(values, range(len(values))) == t_interval(values)
    assert t_interval([0.3]) == (-inf, inf)
    assert cluster_interval([1.0, 2.0], ["one", "one"]) == (-inf, inf) == cluster_bootstrap([1.0, 2.0], ["one", "one"])


def test_cluster_bootstrap_draws_as_scipy_does():
    values, codes = clustered(3, 30)
    sums, sizes = np.bincount(codes, values), np.bincount(codes)
    drawn = stats.bootstrap(
        (sums, sizes),
        lambda s, m, axis=-1: s.sum(axis) / m.sum(axis),
        paired=True,
        n_resamples=40_000,
        rng=np.random.default_rng(0),
    ).bootstrap_distribution
    effective = len(codes) ** 2 / (sizes**2).sum()
    tail = lower_tail(0.90, effective)
    width = np.ptp(np.quantile(drawn, [tail, 1 - tail]))
    found = cluster_bootstrap(values, codes, 0.90, draws=40_000)
    assert found == pytest.approx(tuple(np.quantile(drawn, [tail, 1 - tail])), abs=0.03 * width)
    assert cluster_bootstrap(values, codes, 0.90, draws=500) == cluster_bootstrap(values, codes, 0.90, draws=500)


def test_the_expanded_percentile_matches_the_t_interval_for_equal_groups():
    generator = np.random.default_rng(4)
    codes = np.repeat(np.arange(12), 5)
    values = generator.normal(0, 1, 12)[codes] + generator.normal(0, 1, 60)
    low, high = cluster_interval(values, codes)
    assert np.diff(cluster_bootstrap(values, codes, draws=50_000))[0] == pytest.approx(high - low, rel=0.08)
    assert lower_tail(0.90, 1e7) == pytest.approx(0.05, abs=1e-6)


def test_few_distinct_rows_and_many_draw_the_same_distribution():
    generator = np.random.default_rng(5)
    few = generator.integers(-1, 2, (400, 1)).astype(float)
    many = few + 1e-9 * generator.random((400, 1))
    one, other = resampled_sums(few, 20_000, 0)[:, 0], resampled_sums(many, 20_000, 1)[:, 0]
    assert one.mean() == pytest.approx(other.mean(), abs=5 * one.std() / 20_000**0.5)
    assert one.std() == pytest.approx(other.std(), rel=0.03)
    assert one.std() == pytest.approx(few.std() * 20, rel=0.03)


def test_mean_interval_says_which_it_took():
    values, _ = clustered(6)
    n = len(values)
    assert mean_interval(values)[2] == "t interval"
    for groups, method in (
        (40, "cluster-robust t interval"),
        (39, "cluster bootstrap"),
        (7, "cluster bootstrap and cluster-robust"),
    ):
        low, high, found = mean_interval(values, [i % groups for i in range(n)])
        assert found.startswith(method) and low < values.mean() < high
    robust = cluster_interval(values, [i % 2 for i in range(n)])
    low, high, _ = mean_interval(values, [i % 2 for i in range(n)])
    assert low <= robust[0] and high >= robust[1]


def test_groups_of_any_kind_are_numbered_by_appearance():
    assert cluster_codes(["b", "a", "b"], 3).tolist() == [0, 1, 0]
    assert cluster_codes(np.array([7, -3, 7]), 3).tolist() == [0, 1, 0]
    assert cluster_codes(np.array([0, 1, 1]), 3).tolist() == [0, 1, 1]
    assert cluster_codes(["a", "b"], 2) is None and cluster_codes(None, 2) is None and cluster_codes(np.arange(4), 4) is None
    with pytest.raises(ValueError):
        cluster_codes(["a"], 2)


@pytest.mark.parametrize("values", [[], [1.0, float("nan")], [float("inf")], [[1.0], [2.0]]])
def test_values_must_be_finite_numbers(values):
    with pytest.raises(ValueError):
        cluster_interval(values)


def test_tost_paired_agrees_with_the_interval_and_with_scipy():
    generator = np.random.default_rng(7)
    reference = generator.random(80)
    candidate = reference + generator.normal(0.004, 0.05, 80)
    p = tost_paired(reference, candidate, 0.02)
    change = candidate - reference
    one_sided = [
        stats.ttest_1samp(change, -0.02, alternative="greater").pvalue,
        stats.ttest_1samp(change, 0.02, alternative="less").pvalue,
    ]
    assert p == pytest.approx(max(one_sided))
    low, high = t_interval(change, 0.90)
    assert (p < 0.05) == (low > -0.02 and high < 0.02)
    assert np.isnan(tost_paired([0.5, 0.5], [0.5, 0.5], 0.02))
    with pytest.raises(ValueError):
        tost_paired([0.5], [0.5, 0.5], 0.02)
