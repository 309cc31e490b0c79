"""The picture: every point where its number says, whatever the numbers are."""

import re
from xml.etree import ElementTree

import pytest

from workbench.metrics.stats import Margin, paired_difference
from workbench.report.blocks import finite
from workbench.report.forest import Scale, axis_svg, margin_bounds, row_svg, share_svg


def paired(broke, fixed, n=400):
    reference = [1.0] * broke + [0.0] * fixed + [1.0] * (n - broke - fixed)
    candidate = [0.0] * broke + [1.0] * fixed + [1.0] * (n - broke - fixed)
    return paired_difference(reference, candidate)


@pytest.mark.parametrize(("broke", "fixed", "n"), [(0, 0, 1), (3, 0, 400), (0, 9, 800), (200, 0, 400), (1, 1, 2)])
def test_every_row_is_drawable(broke, fixed, n):
    found = finite(paired(broke, fixed, n))
    scale = Scale.of([found], -0.02, 0.02)
    drawn = ElementTree.fromstring(str(row_svg(found, scale)))
    for place in re.findall(r'[xc]x?[12]?="(-?[\d.]+)%"', ElementTree.tostring(drawn, encoding="unicode")):
        assert 0 <= float(place) <= 100
    assert scale.at(found.low90) <= scale.at(found.difference) <= scale.at(found.high90)
    ElementTree.fromstring(str(axis_svg(scale)))


def test_the_axis_shows_the_margin_and_the_whole_of_all_items():
    scale = Scale.of([paired(40, 0), *[paired(1, 0, 4) for _ in range(30)]], -0.02, 0.02)
    assert scale.limit >= abs(paired(40, 0).low90)
    assert scale.limit < 0.5  # thirty tiny groups do not flatten the rest
    assert scale.at(0) == 50 and scale.at(-0.02) < 50 < scale.at(0.02)


def test_an_interval_that_leaves_the_axis_ends_in_an_arrow():
    small = paired(1, 0, 4)
    scale = Scale.of([paired(3, 3)], -0.02, 0.02)
    assert 'class="arrow"' in row_svg(small, scale) and 'class="arrow"' not in row_svg(paired(3, 3), scale)


def test_a_relative_margin_is_one_of_the_references_score():
    low, high = margin_bounds(Margin(2.0, "relative"), 0.5)
    assert high == pytest.approx(0.01) and low == pytest.approx(0.5 * (1 / 1.02 - 1))
    assert margin_bounds(Margin(2.0), 0.5) == (-0.02, 0.02)


def test_ticks_are_round_numbers():
    assert ">+12<" in axis_svg(Scale(0.12, -0.02, 0.02)) and ">−6<" in axis_svg(Scale(0.12, -0.02, 0.02))
    assert ">+0.5<" in axis_svg(Scale(0.01, -0.002, 0.002))


def test_scores_stay_on_their_rail():
    for value in (0.0, 50.0, 100.0, 140.0):
        place = float(re.search(r'cx="([\d.]+)%"', share_svg(value, None, None))[1])
        assert 0 < place < 100
