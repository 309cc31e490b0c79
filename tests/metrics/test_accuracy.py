import math

from workbench.metrics.accuracy import ACCURACY, correct_count
from workbench.types import Score

SCORES = [Score.of(True, "A"), Score.of(False, "B"), Score.of(True, "C")]


def test_accuracy_is_the_micro_average_in_per_cent():
    assert math.isclose(ACCURACY.reduce(SCORES), 200 / 3)
    assert math.isnan(ACCURACY.reduce([]))


def test_counts_are_integers_on_a_fixed_scale():
    metric = correct_count(1000)
    assert (metric.reduce(SCORES), metric.of, metric.unit) == (2, 1000, "items")
    assert isinstance(metric.reduce(SCORES), int)
