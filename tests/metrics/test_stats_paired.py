from math import sqrt
from statistics import NormalDist

import numpy as np
import pytest
from scipy import optimize, special, stats

from workbench.metrics.stats import mcnemar, tango

TABLES = [(0, 0, 100), (3, 0, 400), (0, 1, 12), (5, 5, 200), (12, 3, 60), (40, 20, 160), (7, 1, 21), (30, 60, 100), (1, 0, 1)]


def test_tango_published_values():
    # Fagerland, Lydersen and Laake, Statistical Analysis of Contingency Tables (2017), chapter 8, complete response before and
    # after consolidation therapy (Cavo et al. 2012: 59, 6, 16, 80), as the authors' R package contingencytables prints it.
    assert tango(16, 6, 161, 0.95) == pytest.approx((-0.1240, -0.0054), abs=5e-5)
    # R's PropCIs::scoreci.mp(25, 28, 618, conf.level = 0.90).
    assert tango(25, 28, 618, 0.90) == pytest.approx((-0.0148, 0.0247), abs=5e-5)


def test_tango_without_a_flip():
    assert tango(0, 0, 100) == pytest.approx((-0.0263, 0.0263), abs=5e-5)
    for n in (1, 133, 10**9):
        z = NormalDist().inv_cdf(0.95)
        assert tango(0, 0, n) == pytest.approx((-z * z / (n + z * z), z * z / (n + z * z)), rel=1e-9)


def score(broke, fixed, n, difference):
    """The score statistic from its definition: the trinomial likelihood, maximised numerically under the null."""

    def log_likelihood(share):
        return -(
            special.xlogy(broke, share)
            + special.xlogy(fixed, share + difference)
            + special.xlogy(n - broke - fixed, max(1 - 2 * share - difference, 0))
        )

    low, high = max(0.0, -difference), (1 - difference) / 2
    share = optimize.minimize_scalar(log_likelihood, bounds=(low, high), method="bounded", options={"xatol": 1e-13}).x
    return (fixed - broke - n * difference) / sqrt(n * (2 * share + difference - difference**2))


@pytest.mark.parametrize("confidence", [0.90, 0.95])
@pytest.mark.parametrize(("broke", "fixed", "n"), TABLES)
def test_tango_bounds_are_where_the_score_test_stops_rejecting(broke, fixed, n, confidence):
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    low, high = tango(broke, fixed, n, confidence)
    assert -1 <= low <= (fixed - broke) / n <= high <= 1
    if low > -1:
        assert score(broke, fixed, n, low) == pytest.approx(z, rel=1e-4)
    if high < 1:
        assert score(broke, fixed, n, high) == pytest.approx(-z, rel=1e-4)


@pytest.mark.parametrize(("broke", "fixed", "n"), TABLES)
def test_tango_holds_exactly_the_grid_that_the_score_test_keeps(broke, fixed, n):
    z = NormalDist().inv_cdf(0.95)
    grid = np.linspace(-0.995, 0.995, 200)  # never exactly 0, where the score of no flips is 0 / 0
    low, high = tango(broke, fixed, n)
    clear = grid[(abs(grid - low) > 1e-5) & (abs(grid - high) > 1e-5)]
    assert [low <= d <= high for d in clear] == [abs(score(broke, fixed, n, d)) <= z for d in clear]


def test_tango_at_the_edges():
    assert tango(0, 0, 0) == (-1, 1)
    assert tango(100, 0, 100)[0] == -1 and tango(100, 0, 100)[1] < -0.9
    assert tango(0, 100, 100) == (-tango(100, 0, 100)[1], 1)
    low, high = tango(50, 50, 100)
    assert low == pytest.approx(-high) and 0.16 < high < 0.17
    assert tango(0.5, 0.0, 20.5)[1] > 0  # counts that a design effect has shrunk


@pytest.mark.parametrize("seed", range(5))
def test_tango_is_symmetric_nested_and_never_without_width(seed):
    generator = np.random.default_rng(seed)
    for _ in range(40):
        n = int(generator.integers(1, 3000))
        broke, fixed, _ = generator.multinomial(n, generator.dirichlet((0.3, 0.3, 3)))
        low, high = tango(broke, fixed, n)
        assert tango(fixed, broke, n) == (-high, -low)
        wide_low, wide_high = tango(broke, fixed, n, 0.95)
        assert wide_low <= low < high <= wide_high


@pytest.mark.parametrize("counts", [(-1, 0, 5), (3, 3, 5), (0, -1, 5), (1, 0, 0), (float("nan"), 0, 5)])
def test_tango_refuses_what_are_no_counts(counts):
    with pytest.raises(ValueError):
        tango(*counts)


def test_tango_95_leaves_0_out_exactly_when_the_score_form_of_mcnemar_rejects():
    for broke in range(12):
        for fixed in range(12):
            low, high = tango(broke, fixed, 500, 0.95)
            rejects = broke + fixed > 0 and (broke - fixed) ** 2 > stats.chi2.ppf(0.95, 1) * (broke + fixed)
            assert (not low <= 0 <= high) == rejects


@pytest.mark.parametrize(("broke", "fixed"), [(0, 0), (3, 0), (5, 5), (16, 6), (200, 150), (1, 9)])
def test_mcnemar_equals_statsmodels(broke, fixed):
    from statsmodels.stats.contingency_tables import mcnemar as witness

    assert mcnemar(broke, fixed) == pytest.approx(witness([[50, broke], [fixed, 30]], exact=True).pvalue)
