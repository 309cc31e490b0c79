import pytest

from workbench.metrics.stats import wilson

CASES = [(0, 1), (1, 1), (0, 10), (10, 10), (1, 10), (71, 100), (330, 900), (158, 530), (632, 1000), (50_000, 100_000)]


@pytest.mark.parametrize("confidence", [0.9, 0.95, 0.99])
@pytest.mark.parametrize(("correct", "total"), CASES)
def test_wilson_equals_scipy(correct, total, confidence):
    stats = pytest.importorskip("scipy.stats")
    expected = stats.binomtest(correct, total).proportion_ci(confidence, method="wilson")
    assert wilson(correct, total, confidence) == pytest.approx((expected.low, expected.high), abs=1e-12)


def test_wilson_published_value():
    # R: prop.test(15, 50, correct = FALSE)$conf.int is 0.1910 to 0.4375 (Wilson without continuity correction).
    assert wilson(15, 50) == pytest.approx((0.1910, 0.4375), abs=5e-5)


def test_wilson_with_nothing_counted_says_nothing():
    assert wilson(0, 0) == (0.0, 1.0)


@pytest.mark.parametrize(("correct", "total", "confidence"), [(2, 1, 0.95), (-1, 5, 0.95), (1, 5, 1.0), (1, 5, 0.0)])
def test_wilson_refuses_what_is_no_share(correct, total, confidence):
    with pytest.raises(ValueError):
        wilson(correct, total, confidence)
