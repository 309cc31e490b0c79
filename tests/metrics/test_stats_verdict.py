import pytest

from workbench.metrics.stats import (
    DIFFERENT,
    EQUIVALENT,
    INCONCLUSIVE,
    Margin,
    decide,
    equivalence_power,
    holm,
    items_for_width,
    items_needed,
    items_planned,
    tango,
)


def verdict(broke, fixed, n, margin=0.02):
    return decide(tango(broke, fixed, n), tango(broke, fixed, n, 0.95), -margin, margin)


@pytest.mark.parametrize(("n", "allowed"), [(200, 0), (400, 3), (800, 9)])
def test_flips_in_one_direction_that_two_points_allow(n, allowed):
    assert [flips for flips in range(20) if verdict(flips, 0, n) == EQUIVALENT] == list(range(allowed + 1))
    assert [flips for flips in range(20) if verdict(0, flips, n) == EQUIVALENT] == list(range(allowed + 1))


def test_equivalent_is_asked_before_different():
    inside = (-0.012, -0.002)
    assert decide(inside, (-0.013, -0.001), -0.02, 0.02) == EQUIVALENT
    assert decide((-0.03, -0.01), (-0.032, -0.008), -0.02, 0.02) == DIFFERENT
    assert decide((-0.03, 0.001), (-0.032, 0.003), -0.02, 0.02) == INCONCLUSIVE
    assert decide((-0.02, 0.0), (-0.021, 0.001), -0.02, 0.02) == INCONCLUSIVE  # strictly inside
    assert decide((0.99, 1.01), (0.98, 1.015), *Margin(2, "relative").bounds, null=1) == EQUIVALENT
    assert decide((1.03, 1.09), (1.02, 1.10), *Margin(2, "relative").bounds, null=1) == DIFFERENT


def test_a_margin_says_what_it_is_of():
    assert Margin(2.0, "absolute").text == "±2.0 points"
    assert Margin(2, "relative").text == "±2.0 % of the reference's score"
    assert Margin(0.25).text == "±0.25 points"
    assert Margin(2.0).bounds == (-0.02, 0.02) and Margin(2.0).null == 0
    assert Margin(2.0, "relative").bounds == pytest.approx((1 / 1.02, 1.02)) and Margin(2.0, "relative").null == 1


@pytest.mark.parametrize("bad", [0, -1, float("nan"), float("inf")])
def test_a_margin_is_above_0(bad):
    with pytest.raises(ValueError):
        Margin(bad, "absolute")


def test_a_margin_is_of_a_known_kind():
    with pytest.raises(ValueError):
        Margin(2.0, "percent")


@pytest.mark.parametrize(("flip_rate", "items"), [(0.02, 429), (0.05, 1071), (0.10, 2141), (0.20, 4282)])
def test_items_planned_for_80_per_cent_power(flip_rate, items):
    assert items_planned(flip_rate, 0.02) == items
    assert equivalence_power(flip_rate, items, 0.02) >= 0.80 > equivalence_power(flip_rate, items - 1, 0.02)


def test_no_plan_is_below_what_an_interval_without_flips_needs():
    assert items_planned(0.0, 0.02) == items_planned(0.001, 0.02) == items_needed(0, 0, 1, 0.02) == 133
    assert (equivalence_power(0.0, 132, 0.02), equivalence_power(0.0, 133, 0.02)) == (0.0, 1.0)
    assert verdict(0, 0, 132) == INCONCLUSIVE and verdict(0, 0, 133) == EQUIVALENT


@pytest.mark.parametrize("margin", [0.01, 0.02, 0.05])
@pytest.mark.parametrize(("broke", "fixed", "n"), [(0, 0, 40), (5, 5, 200), (3, 1, 100), (2, 0, 90), (0, 6, 300), (20, 12, 400)])
def test_items_needed_is_the_first_number_that_settles_it(broke, fixed, n, margin):
    needed = items_needed(broke, fixed, n, margin)
    assert verdict(broke * needed / n, fixed * needed / n, needed, margin) != INCONCLUSIVE
    if needed > n:
        before = needed - 1
        assert verdict(broke * before / n, fixed * before / n, before, margin) == INCONCLUSIVE


def test_items_needed_can_be_out_of_reach():
    assert items_needed(5, 5, 200, 1e-6) is None
    assert items_needed(4, 0, 200, 0.02) == 200  # settled already: different, by exactly the margin
    assert items_needed(0, 0, 10, 1.0) == 10
    for arguments in ((0, 0, 0, 0.02), (0, 0, 10, 0.0)):
        with pytest.raises(ValueError):
            items_needed(*arguments)


def test_items_for_width():
    assert items_for_width(100, 0.0, 0.04, 0.05, 0.02) == 401
    assert items_for_width(100, 0.02, 0.04, 0.05, 0.02) == 626
    assert items_for_width(100, 0.0, 0.01, 0.02, 0.02) == 100
    assert items_for_width(100, 0.0, float("inf"), float("inf"), 0.02) is None


def test_holm_against_the_definition():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    values = [0.2, 0.001, 0.013, 0.04, 0.9]
    running, expected = 0.0, {}
    for rank, p in enumerate(sorted(values)):
        running = max(running, min(1.0, p * (len(values) - rank)))
        expected[p] = running
    assert holm(values) == pytest.approx([expected[p] for p in values])
    assert holm([]) == []
    with pytest.raises(ValueError):
        holm([0.1, float("nan")])
