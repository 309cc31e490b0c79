import numpy as np
import pytest
from scipy import special, stats

from workbench.metrics.divergence import (
    cluster_mean_interval,
    kl_divergence,
    kl_lower_bound,
    log_softmax,
    perplexity_ratio,
    top_k,
)
from workbench.metrics.stats import cluster_interval


def distributions(seed, positions=40, vocabulary=50, noise=0.5, scale=3.0):
    generator = np.random.default_rng(seed)
    logits = generator.normal(0, scale, (positions, vocabulary))
    return log_softmax(logits), log_softmax(logits + generator.normal(0, noise, logits.shape))


def test_log_softmax_equals_scipy_and_survives_large_logits():
    logits = np.random.default_rng(0).normal(0, 5, (7, 30)).astype(np.float32)
    assert log_softmax(logits).dtype == np.float64
    assert log_softmax(logits) == pytest.approx(special.log_softmax(logits.astype(np.float64), axis=-1), abs=1e-13)
    assert log_softmax(np.array([[1e4, 1e4 - 1, -np.inf]]))[0, :2] == pytest.approx([-0.31326169, -1.31326169])


def test_kl_divergence_equals_scipy():
    p, q = distributions(1)
    expected = stats.entropy(np.exp(p), np.exp(q), axis=1)
    assert kl_divergence(p, q) == pytest.approx(expected, rel=1e-10)
    assert (kl_divergence(p, p) == 0).all()


def test_kl_divergence_of_impossible_tokens():
    with np.errstate(divide="ignore"):
        half, sure = np.log([[0.5, 0.5]]), np.log([[1.0, 0.0]])
    assert kl_divergence(sure, half) == pytest.approx([np.log(2)])
    assert kl_divergence(half, sure).tolist() == [np.inf]
    with pytest.raises(ValueError):
        kl_divergence(half, np.zeros((1, 3)))


def test_top_k_keeps_the_likeliest_and_all_the_mass():
    p, _ = distributions(2)
    ids, logprobs, residual = top_k(p, 8)
    expected = np.argsort(-p, axis=1)[:, :8]
    assert (ids == expected).all() and (logprobs == np.take_along_axis(p, expected, 1)).all()
    assert np.exp(logprobs).sum(1) + residual == pytest.approx(np.ones(len(p)))
    ids, _, residual = top_k(p, 1000)
    assert ids.shape == p.shape and (residual == 0).all()
    assert top_k(np.log([[0.25, 0.25, 0.25, 0.25]]), 4)[0].tolist() == [[0, 1, 2, 3]]
    tiny = log_softmax(np.array([[0.0, -60.0]]))
    assert top_k(tiny, 1)[2] == pytest.approx([np.exp(-60.0)], rel=1e-9)  # 1 - sum would be 0
    with pytest.raises(ValueError):
        top_k(p, 0)


@pytest.mark.parametrize("noise", [0.0, 0.01, 0.5, 4.0])
@pytest.mark.parametrize("k", [1, 2, 8, 30, 49])
def test_the_lower_bound_is_never_above_the_divergence(k, noise):
    for seed in range(5):
        p, q = distributions(seed, noise=noise)
        bound, full = kl_lower_bound(*top_k(p, k), *top_k(q, k)), kl_divergence(p, q)
        assert (bound <= full * (1 + 1e-12) + 1e-15).all() and (bound >= 0).all()
        other = kl_lower_bound(*top_k(p, k), *top_k(q, 50))
        assert (other <= full * (1 + 1e-12) + 1e-15).all()


def test_the_lower_bound_is_the_divergence_when_everything_is_recorded():
    p, q = distributions(3)
    assert kl_lower_bound(*top_k(p, 50), *top_k(q, 50)) == pytest.approx(kl_divergence(p, q), rel=1e-12)


def test_more_record_proves_more_and_64_tokens_prove_most():
    p, q = distributions(4, vocabulary=4096)
    means = [kl_lower_bound(*top_k(p, k), *top_k(q, k)).mean() for k in (1, 8, 64, 512, 4096)]
    assert means == sorted(means)
    assert means[2] > 0.5 * means[-1]


def test_the_lower_bound_against_a_loop():
    p, q = distributions(5, positions=12)
    first, second = top_k(p, 6), top_k(q, 9)
    expected = []
    for row in range(12):
        common = sorted(set(first[0][row]) & set(second[0][row]))
        coarse_p = [*np.exp(p[row, common]), 1 - np.exp(p[row, common]).sum()]
        coarse_q = [*np.exp(q[row, common]), 1 - np.exp(q[row, common]).sum()]
        expected.append(stats.entropy(coarse_p, coarse_q))
    assert kl_lower_bound(*first, *second) == pytest.approx(expected, abs=1e-12)


def test_the_lower_bound_of_records_without_a_common_token_is_0():
    one = np.array([[0, 1]]), np.log([[0.5, 0.5]]), np.array([0.0])
    other = np.array([[2, 3]]), np.log([[0.5, 0.5]]), np.array([0.0])
    assert kl_lower_bound(*one, *other).tolist() == [0.0]
    assert kl_lower_bound(*(part[:0] for part in one), *(part[:0] for part in other)).shape == (0,)


def test_a_residual_rounded_to_0_stays_a_finite_lower_bound():
    p = np.array([[0]]), np.log([[0.9]]), np.array([0.1])
    q = np.array([[0]]), np.log([[1.0]]), np.array([0.0])
    bound = kl_lower_bound(*p, *q)[0]
    assert np.isfinite(bound) and bound > 5


def test_records_that_do_not_fit_are_refused():
    ids, logprobs, residual = top_k(distributions(6)[0], 4)
    with pytest.raises(ValueError, match="do not fit"):
        kl_lower_bound(ids, logprobs[:, :3], residual, ids, logprobs, residual)
    with pytest.raises(ValueError, match="do not fit"):
        kl_lower_bound(ids, logprobs, residual, ids[:5], logprobs[:5], residual[:5])
    with pytest.raises(ValueError, match="twice"):
        kl_lower_bound(np.zeros_like(ids), logprobs, residual, ids, logprobs, residual)
    far = ids.copy()
    far[0, 0] = np.iinfo(np.int64).max
    with pytest.raises(ValueError, match="vocabulary"):
        kl_lower_bound(far, logprobs, residual, ids, logprobs, residual)


def test_intervals_count_items_not_positions():
    generator = np.random.default_rng(7)
    items = np.repeat(np.arange(50), 20)
    values = generator.gamma(1, 0.01, 50)[items] + generator.gamma(1, 0.001, 1000)
    low, high = cluster_mean_interval(values, items)
    assert (low, high) == cluster_interval(values, items, 0.95)
    alone = cluster_interval(values, None, 0.95)
    assert high - low > 3 * (alone[1] - alone[0])


def test_perplexity_ratio():
    generator = np.random.default_rng(8)
    items = np.repeat([f"item-{i}" for i in range(60)], 10)
    reference = -generator.gamma(1, 1, 600)
    candidate = reference - 0.05 + generator.normal(0, 0.1, 600)
    mean, low, high = perplexity_ratio(reference, candidate, items)
    expected = np.log(np.exp(-candidate.mean()) / np.exp(-reference.mean()))
    assert mean == pytest.approx(expected) and low < mean < high and low > 0
    assert perplexity_ratio(reference, reference, items) == (0, 0, 0)
    with pytest.raises(ValueError):
        perplexity_ratio(reference, candidate[:5], items)
