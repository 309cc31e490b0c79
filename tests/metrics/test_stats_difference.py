import time
from math import inf

import numpy as np
import pytest
from scipy import stats

from workbench.metrics.stats import (
    cluster_bootstrap,
    cluster_interval,
    items_needed,
    mcnemar,
    paired_difference,
    quality_of_inference,
    t_interval,
    tango,
)
from workbench.metrics.stats.clusters import design_effect


def right_or_wrong(broke, fixed, n, right=0.6):
    reference = np.zeros(n)
    reference[: int(right * n)] = 1
    candidate = reference.copy()
    candidate[:broke] = 0
    candidate[n - fixed :] = 1
    return reference, candidate


def test_right_or_wrong_items():
    reference, candidate = right_or_wrong(12, 5, 400)
    found = paired_difference(reference.tolist(), candidate.tolist(), [f"image-{i}" for i in range(400)])
    assert (found.n, found.clusters, found.broke, found.fixed, found.flips) == (400, 400, 12, 5, 17)
    assert (found.reference, found.candidate) == (0.6, pytest.approx(0.5825))
    assert found.difference == pytest.approx(-7 / 400) and found.flip_rate == 17 / 400
    assert (found.low90, found.high90) == found.interval90 == tango(12, 5, 400, 0.90)
    assert (found.low95, found.high95) == found.interval95 == tango(12, 5, 400, 0.95)
    assert found.method == "Tango score interval"
    assert found.p == mcnemar(12, 5)
    assert found.quality_of_inference == quality_of_inference(reference, candidate) == 388 / 400
    assert found.items_needed(0.02) == items_needed(12, 5, 400, 0.02)


def test_scores_on_a_scale():
    generator = np.random.default_rng(1)
    reference = generator.random(90)
    candidate = np.clip(reference + generator.normal(0.01, 0.05, 90), 0, 1)
    found = paired_difference(reference, candidate)
    assert found.interval90 == t_interval(candidate - reference) and found.method == "t interval"
    assert found.p == pytest.approx(stats.ttest_rel(candidate, reference).pvalue)
    assert found.broke == np.sum(candidate < reference) and found.fixed == np.sum(candidate > reference)
    low, high = found.interval90
    needed = found.items_needed(0.02)
    assert needed is None or needed >= 90


def test_groups_of_several_items_on_a_scale():
    generator = np.random.default_rng(2)
    for groups, expected in ((60, cluster_interval), (20, cluster_bootstrap)):
        names = [f"speaker-{i % groups}" for i in range(240)]
        reference = generator.random(240)
        candidate = np.clip(reference + generator.normal(0.01, 0.05, 240), 0, 1)
        found = paired_difference(reference, candidate, names)
        assert found.interval90 == pytest.approx(expected(candidate - reference, names, 0.90))
        assert found.clusters == groups and "cluster" in found.method


def test_flips_that_come_in_groups_widen_the_interval():
    groups = [i // 5 for i in range(1000)]
    together = np.ones(1000), np.array([0.0 if group in (3, 50) else 1.0 for group in groups])
    apart = np.ones(1000), np.array([0.0 if i % 100 == 0 else 1.0 for i in range(1000)])
    one, other = paired_difference(*together, groups), paired_difference(*apart, groups)
    assert one.difference == other.difference == -0.01 and one.clusters == 200
    # Ten flips in two groups say what two flips in 200 items would.
    assert one.low90 == pytest.approx(tango(2, 0, 200)[0], rel=0.01)
    assert other.low90 == pytest.approx(tango(10, 0, 1000)[0], rel=0.01)
    for found, alone in ((one, tango(10, 0, 1000)), (other, tango(10, 0, 1000))):
        robust = cluster_interval(*[(together if found is one else apart)[1] - 1], groups)
        assert found.low90 <= min(alone[0], robust[0]) + 1e-12 and found.high90 >= max(robust[1], alone[1]) - 1e-12


def test_the_design_effect_of_flips_by_whole_groups_is_the_size_of_a_group():
    sizes = np.array([1, 2, 3, 4, 10, 20])
    codes = np.repeat(np.arange(6), sizes)
    change = -(codes == 2).astype(float)  # one small group flips; the variance alone would say less
    assert design_effect(change, codes) == pytest.approx((sizes**2).sum() / sizes.sum())
    assert design_effect(np.zeros(40), codes) == design_effect(change, None) == 1
    alternating = np.where(np.arange(40) % 2, 1.0, -1.0)
    assert design_effect(alternating, codes) == 1


@pytest.mark.parametrize("groups", [None, [0] * 30 + [1] * 30, list(range(30)) * 2, [0] * 60])
def test_no_change_is_never_an_interval_without_width(groups):
    for values in (np.tile([0.0, 1.0], 30), np.linspace(0, 1, 60), np.full(60, 0.5), np.linspace(0, 3, 60)):
        found = paired_difference(values, values, groups)
        scale = max(1.0, values.max())
        assert found.interval90 == pytest.approx(tuple(scale * bound for bound in tango(0, 0, 60)))
        assert found.difference == 0 and found.flips == 0 and found.quality_of_inference == 1
        assert found.p in (None, 1.0)


def test_one_item_and_one_group():
    assert paired_difference([1.0], [0.0]).interval90 == tango(1, 0, 1)
    assert paired_difference([0.2], [0.4]).interval90 == (-1, 1)
    assert paired_difference([0.2], [1.4]).interval90 == (-inf, inf)
    assert paired_difference([0.2], [0.4]).p is None
    assert paired_difference([0.2, 0.3], [0.4, 0.9], ["a", "a"]).interval95 == (-1, 1)
    found = paired_difference([1.0, 1.0, 0.0, 1.0], [0.0, 1.0, 1.0, 1.0], ["a"] * 4)
    assert found.interval90 == (-1, 1) and found.items_needed(0.02) is not None
    assert paired_difference([0.2], [1.4]).items_needed(0.02) is None


def test_bounds_stay_where_scores_can_be():
    generator = np.random.default_rng(3)
    for _ in range(30):
        n = int(generator.integers(1, 12))
        values = generator.integers(0, 3, (2, n)) / 2
        found = paired_difference(*values, generator.integers(0, 4, n))
        assert -1 <= found.low95 <= found.low90 <= found.difference + 1e-12
        assert found.difference - 1e-12 <= found.high90 <= found.high95 <= 1


@pytest.mark.parametrize(
    ("reference", "candidate", "groups"),
    [([], [], None), ([1.0], [1.0, 0.0], None), ([1.0, float("nan")], [1.0, 0.0], None), ([1.0, 0.0], [1.0, 0.0], ["a"])],
)
def test_what_cannot_be_paired(reference, candidate, groups):
    with pytest.raises(ValueError):
        paired_difference(reference, candidate, groups)


def test_a_hundred_thousand_items_are_quick():
    generator = np.random.default_rng(4)
    reference = (generator.random(100_000) < 0.7).astype(float)
    candidate = np.where(generator.random(100_000) < 0.03, 1 - reference, reference)
    images = [f"image-{i // 3}" for i in range(100_000)]
    paired_difference(reference[:10], candidate[:10])
    for groups in (None, images):
        times = []
        for _ in range(3):
            began = time.process_time()
            paired_difference(reference, candidate, groups)
            times.append(time.process_time() - began)
        assert min(times) < 0.1


@pytest.mark.parametrize("n", [2, 5, 100])
def test_hardly_any_spread_on_a_scale_is_no_certainty(n):
    """One item of five that moves by 1e-9 says no more than none that moves; a common shift says no more either."""
    before = np.linspace(0.2, 0.8, n)
    still = paired_difference(before, before)
    assert still.interval90 == tango(0, 0, n, 0.90)
    moved = before.copy()
    moved[0] += 1e-9
    assert paired_difference(before, moved).high90 > 0.7 * still.high90 * (n - 1) / n
    shifted = paired_difference(before, before - 0.01)
    assert shifted.high90 - shifted.low90 == pytest.approx(still.high90 - still.low90)


def test_scores_that_all_move_keep_the_t_interval():
    before = np.linspace(0.2, 0.8, 30)
    change = 0.01 * np.sin(np.arange(30.0))
    found = paired_difference(before, before + change)
    assert found.interval90 == pytest.approx(t_interval(change, 0.90)) and found.method == "t interval"


def test_items_needed_without_a_change_on_a_scale():
    assert paired_difference([0.5, 0.25, 0.3], [0.5, 0.25, 0.3]).items_needed(0.02) == 133
