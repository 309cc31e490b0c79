"""Which output of a twin is which output of a program: by name, by what it holds, and never by its shape or place alone."""

import numpy
import pytest

from workbench.capture.matching import distance, match_outputs
from workbench.errors import UsageError


def noise(seed, shape=(2, 8)):
    return numpy.random.default_rng(seed).standard_normal(shape)


A, B, C = (noise(seed) for seed in range(3))
ROUNDED = 1e-4


def near(array, seed=9):
    return array + ROUNDED * noise(seed, array.shape)


def told(matches):
    return {match.output: match.twin for match in matches}


def test_names_come_first_whatever_the_order_and_the_values():
    matches = match_outputs({"a": A, "b": B}, {"b": A, "a": B}, {})
    assert told(matches) == {"a": "a", "b": "b"} and {match.how for match in matches} == {"by its name"}


def test_names_that_converters_change_are_the_same_names():
    found = match_outputs({"encoder_out": A, "head_logits": B}, {"head/logits:0": B, "encoder/out:0": A}, {})
    assert told(found) == {"encoder_out": "encoder/out:0", "head_logits": "head/logits:0"}


def test_other_names_are_matched_by_what_they_hold_with_a_clear_factor():
    found = match_outputs(
        {"Identity": A, "Identity_1": B, "Identity_2": C},
        {"Call:2": near(A), "Call:1": near(B), "Call:0": near(C)},
        {},
    )
    assert told(found) == {"Identity": "Call:2", "Identity_1": "Call:1", "Identity_2": "Call:0"}
    assert f"holds the same values: error {distance(A, near(A)):.1e}" in found[0].how


def test_what_is_not_clear_is_not_matched():
    found = match_outputs({"x": A, "y": A + 1e-6}, {"p": near(A, 1), "q": near(A, 2)}, {})
    assert told(found) == {"x": None, "y": None} and "no clear match among p, q" in found[0].how


def test_an_order_that_a_conversion_keeps_settles_what_nothing_else_does():
    found = match_outputs({"x": A, "y": A + 1e-6}, {"p": near(A, 1), "q": near(A, 2)}, {}, ordered=True)
    assert told(found) == {"x": "p", "y": "q"} and found[0].how == "by its place among the outputs"
    assert told(match_outputs({"x": A, "y": B}, {"p": near(B), "q": near(A)}, {}, ordered=True)) == {"x": "q", "y": "p"}


def test_the_users_names_win_and_must_exist():
    found = match_outputs({"x": A, "y": B}, {"p": near(A), "q": near(B)}, {"x": "q"})
    assert told(found) == {"x": "q", "y": "p"} and found[0].how == "named by --map"
    with pytest.raises(UsageError, match="no output 'z'"):
        match_outputs({"x": A}, {"p": A}, {"x": "z"})


def test_an_output_of_another_shape_is_no_match():
    found = match_outputs({"x": A}, {"p": noise(1, (2, 9))}, {})
    assert told(found) == {"x": None} and found[0].how == "no output of this shape is left"


def test_names_that_only_count_are_believed_only_from_the_same_count():
    values = {"var_43": A, "var_49": B}, {"49": near(A), "43": near(B)}
    assert told(match_outputs(*values, {})) == {"var_43": "49", "var_49": "43"}
    assert told(match_outputs(*values, {}, counted=True)) == {"var_43": "43", "var_49": "49"}


def test_distance_is_relative_and_never_a_number_that_hides_something():
    assert distance(A, A) == 0 and distance(A, 2 * A) == pytest.approx(1)
    assert distance(numpy.zeros(3), numpy.ones(3)) == numpy.inf
