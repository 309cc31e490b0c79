"""Verdicts follow from the logits at every position and from torch's own error; greedy tokens decide nothing."""

from __future__ import annotations

import json
from math import inf

import numpy
import pytest

from workbench.capture.zoo.judge import MOVED, amount, judged
from workbench.capture.zoo.measure import LOGITS, CaseResult
from workbench.metrics.drift import LIMIT, Layer
from workbench.metrics.tensors import TensorError, tensor_error

OWN = TensorError(n=100, reference_square=100.0, error_square=1e-10, max_abs=1e-6, max_reference=1.0)
"""Relative RMS 1e-6: what torch itself is away from float64."""


def error(relative, n=100):
    return TensorError(n, 100.0, 100.0, 100.0 * (1 - relative**2 / 2), 100 * relative**2, relative, 1.0, relative)


def layer(name, relative=0.0, made=None):
    return Layer(name, error(relative), OWN, None if made is None else error(made))


def case(name, *layers, argmax=1.0, moved=(0.0, 0.0)):
    return CaseResult(name, list(layers), argmax, *moved)


def logits_of(reference, candidate):
    """A case of real logits, with the argmax agreement that they have."""
    own = tensor_error(reference.astype(numpy.float64), reference.astype(numpy.float32))
    agreement = float(numpy.mean(reference.argmax(-1) == candidate.argmax(-1)))
    return case("logits", Layer(LOGITS, tensor_error(reference, candidate), own), argmax=agreement)


@pytest.fixture
def logits():
    return numpy.random.default_rng(0).standard_normal((50, 200))


def test_equal_greedy_tokens_do_not_make_two_ports_agree(logits):
    other = logits + numpy.random.default_rng(1).standard_normal(logits.shape) * 0.3
    best = numpy.arange(50), logits.argmax(-1)
    other[best] = other.max(-1) + 1
    result = logits_of(logits, other)
    assert result.argmax_agreement == 1.0
    row = judged([result], [])
    assert row["verdict"] == "differs" and row["argmax_agreement"] == 1.0 and row["max_relative_error"] > 0.1


def test_other_greedy_tokens_do_not_make_two_ports_differ(logits):
    reference = logits.copy()
    first = logits.argmax(-1)
    reference[numpy.arange(50), (first + 1) % 200] = reference[numpy.arange(50), first]  # two tokens equally likely
    other = reference + numpy.random.default_rng(1).standard_normal(logits.shape) * 1e-8
    result = logits_of(reference, other)
    assert result.argmax_agreement < 0.8
    row = judged([result], [])
    assert row["verdict"] == "agrees" and row["argmax_agreement"] < 0.8


def test_the_verdict_is_the_same_whatever_the_greedy_tokens_did():
    for size in (0.5 * LIMIT * 1e-6, 2 * LIMIT * 1e-6):
        rows = [judged([case("a", layer(LOGITS, size), argmax=argmax)], []) for argmax in (0.0, 0.5, 1.0, None)]
        assert len({row["verdict"] for row in rows}) == 1
        assert [row["argmax_agreement"] for row in rows] == [0.0, 0.5, 1.0, None]


def test_the_limit_is_in_units_of_torchs_own_error():
    assert judged([case("a", layer(LOGITS, 0.99 * LIMIT * 1e-6))], [])["verdict"] == "agrees"
    row = judged([case("a", layer(LOGITS, 1.01 * LIMIT * 1e-6))], [])
    assert row["verdict"] == "differs" and row["times_own"] == pytest.approx(1.01 * LIMIT)


def test_a_factor_alone_is_scaled(logits):
    for factor in (0.25, 4.0):
        row = judged([logits_of(logits, logits * factor)], [])
        assert row["verdict"] == "scaled" and row["scale"] == pytest.approx(factor) and row["argmax_agreement"] == 1.0
        assert f"{factor:g}" in row["reason"] and row["first_layer"] == LOGITS
    uneven = [logits_of(logits, logits * 2), logits_of(logits, logits * 3)]
    assert judged(uneven, [])["verdict"] == "differs"
    assert judged([logits_of(logits, logits * 2 + 0.01)], [])["verdict"] == "differs"


def test_a_small_difference_is_not_taken_for_a_factor_of_one(logits):
    other = logits * (1 + 2e-5 * numpy.random.default_rng(1).standard_normal(logits.shape))
    assert judged([logits_of(logits, other)], [])["verdict"] == "differs"
    assert judged([logits_of(logits, logits * 1.00002)], [])["verdict"] == "scaled"


def test_the_guilty_layer_is_named_before_the_first_that_departs():
    row = judged(
        [case("a", layer("one", 1e-6, 1e-6), layer("two", 1e-3, 1e-6), layer("three", 1e-2, 1e-2), layer(LOGITS, 0.1))], []
    )
    assert row["first_layer"] == "three" and "10,000 times" in row["reason"] and "reference's activations" in row["reason"]
    row = judged([case("a", layer("one", 1e-6), layer("two", 1e-3), layer(LOGITS, 0.1))], [])
    assert row["first_layer"] == "two" and "first to depart" in row["reason"]
    row = judged([case("a", layer("one", 1e-6), layer(LOGITS, 0.1))], [])
    assert row["first_layer"] == LOGITS


def test_a_layer_that_departs_does_not_condemn_logits_that_agree():
    row = judged([case("a", layer("vision.block.0", 1e-3, 1e-3), layer(LOGITS, 1e-6))], [])
    assert row["verdict"] == "agrees" and "first_layer" not in row


def test_over_several_inputs_the_earliest_layer_counts_and_the_worst_numbers():
    late = case("late", layer("one", 1e-6, 1e-6), layer("two", 1e-2, 1e-2), layer(LOGITS, 0.5), argmax=0.25)
    early = case("early", layer("one", 1e-3, 1e-3), layer("two", 1e-3, 1e-6), layer(LOGITS, 0.1), argmax=0.75)
    row = judged([late, early, case("fine", layer("one"), layer(LOGITS, 1e-6))], [])
    assert row["first_layer"] == "one" and row["worst_case"] == "early" and "(on 'early')" in row["reason"]
    assert "most on 'late'" in row["reason"] and "2 of 3 inputs" in row["reason"]
    assert row["max_relative_error"] == pytest.approx(0.5) and row["argmax_agreement"] == 0.25
    assert [line["case"] for line in row["cases"]] == ["late", "early", "fine"]


def test_the_logits_are_named_only_where_no_layer_of_any_input_is():
    """Text alone has fewer layers, so its logits come earlier."""
    alone = case("text alone", layer("text.block.0", 1e-6, 1e-6), layer(LOGITS, 0.1))
    shown = case("image", *(layer(name, 1e-6, 1e-6) for name in "abc"), layer("projector", 0.1, 0.1), layer(LOGITS, 0.1))
    assert judged([alone, shown], [])["first_layer"] == judged([shown, alone], [])["first_layer"] == "projector"
    assert judged([alone], [])["first_layer"] == LOGITS


def test_values_that_are_not_finite_differ_whatever_the_others_do():
    broken = Layer("text.block.0", TensorError(n=90, reference_square=90.0, candidate_square=90.0, non_finite_candidate=10), OWN)
    row = judged([case("a", broken, Layer(LOGITS, TensorError(non_finite_candidate=100), OWN), argmax=0.0)], [])
    assert row["verdict"] == "differs" and row["first_layer"] == "text.block.0"
    json.dumps(row, allow_nan=False)


def test_another_number_of_positions_differs_and_says_where_the_shapes_part():
    shaped = Layer("text.input", own=OWN, reason="shapes (1, 9, 8) and (1, 12, 8)")
    ends = Layer(LOGITS, own=OWN, reason="shapes (9, 50) and (12, 50)")
    row = judged([case("a", layer("vision.block.0", 1e-6), shaped, ends, argmax=None)], [])
    assert row["verdict"] == "differs" and row["first_layer"] == "text.input" and "(1, 12, 8)" in row["reason"]
    assert row["max_relative_error"] is None and row["argmax_agreement"] is None
    json.dumps(row, allow_nan=False)


def test_inputs_that_break_are_counted():
    fine = case("fine", layer(LOGITS, 1e-6))
    row = judged([fine], ["on 'two images' the port breaks: IndexError"])
    assert row["verdict"] == "failed" and "1 of 2 inputs" in row["reason"] and "IndexError" in row["reason"]
    row = judged([case("off", layer(LOGITS, 0.1))], ["on 'two images' the port breaks: IndexError"])
    assert row["verdict"] == "differs" and "IndexError" in row["reason"]
    row = judged([], ["on 'all' the port breaks: IndexError"])
    assert row["verdict"] == "failed" and "no input could be compared" in row["reason"]


def test_causality_is_judged_on_both_sides():
    assert judged([case("a", layer(LOGITS, 1e-6), moved=(0.0, 0.9 * MOVED))], [])["causal"] is True
    row = judged([case("a", layer(LOGITS, 1e-6), moved=(0.0, 0.2))], [])
    assert row["verdict"] == "differs" and row["causal"] is False and "not causal" in row["reason"]
    row = judged([case("a", layer(LOGITS, 1e-6), moved=(0.2, 0.2))], [])
    assert row["verdict"] == "agrees" and row["causal_reference"] is False, "a model that is not causal is no fault of the port"
    row = judged([case("a", layer(LOGITS, 1e-6), moved=(None, None))], [])
    assert row["causal"] is None and row["verdict"] == "agrees"


def test_amounts_are_short():
    assert [amount(each) for each in (3.21, 12.3, 1_234, 1_700_000, inf)] == [
        "3.2 times",
        "12 times",
        "1,200 times",
        "1,700,000 times",
        "beyond all measure",
    ]
