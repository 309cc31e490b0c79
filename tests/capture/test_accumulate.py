"""The tap of a real capture: as exact as if whole tensors were kept, while at most a limit of values is."""

from __future__ import annotations

import tracemalloc

import numpy
import pytest

from workbench.capture import accumulate
from workbench.capture.accumulate import ALWAYS_WHOLE, Accumulating, Layer, Swapping
from workbench.metrics.sketch import Moments, signs
from workbench.run.layer_records import sampled

LIMIT = ALWAYS_WHOLE + 1904
"""6,000 values: just large enough to be no small limit."""


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setattr(accumulate, "KEPT_VALUES", LIMIT)


def of(*pieces, keep=True, name="layer"):
    accumulating = Accumulating(keep)
    for piece in pieces:
        assert accumulating(name, piece) is None
    return accumulating.records("item", "float32", {name: "model.layer"})[name]


def random(n, seed=0):
    return numpy.random.default_rng(seed).standard_normal(n).astype(numpy.float32)


def test_a_record_has_the_statistics_of_the_whole():
    array = random(6000).reshape(2, 30, 100)
    found = of(array)
    moments = Moments()
    moments.add(array)
    expected = moments.record()
    assert found.sketch.tobytes() == expected.pop("sketch").tobytes()
    assert {name: found.line[name] for name in expected} == expected
    assert found.line["shape"] == [2, 30, 100] and found.line["path"] == "model.layer" and found.line["calls"] == 1
    assert (found.line["id"], found.line["pass"], found.line["layer"], found.line["order"]) == ("item", "float32", "layer", 0)
    assert found.line["one_in"] == 1 and numpy.array_equal(found.values, array.ravel())


def test_without_keep_only_small_tensors_are_kept():
    small, large = of(random(ALWAYS_WHOLE), keep=False), of(random(ALWAYS_WHOLE + 1), keep=False)
    assert numpy.array_equal(small.values, random(ALWAYS_WHOLE)) and small.line["values"] == ALWAYS_WHOLE
    assert large.values is None and large.line["values"] == 0 and large.line["one_in"] is None
    grown = of(random(4000), random(97), keep=False)
    assert grown.values is None and grown.line["n"] == 4097


@pytest.mark.parametrize("n", [LIMIT, LIMIT + 1, 2 * LIMIT, 50_000, 200_001])
def test_above_the_limit_a_sample_is_kept_the_same_for_any_pieces(small, n):
    array = random(n)
    whole = of(array)
    one_in = whole.line["one_in"]
    assert whole.values.size <= LIMIT and (n <= LIMIT) == (one_in == 1)
    assert one_in == 1 or whole.values.size > LIMIT / 3, "no coarser than it must be"
    assert numpy.array_equal(whole.values, array[sampled(n, one_in)])
    for seed in range(5):
        cuts = numpy.sort(numpy.random.default_rng(seed).integers(0, n + 1, 7))
        pieces = of(*numpy.split(array, cuts))
        assert pieces.line["one_in"] == one_in and numpy.array_equal(pieces.values, whole.values)
        assert pieces.line["n"] == n and pieces.line["square"] == pytest.approx(whole.line["square"], rel=1e-12)
    assert of(array).values.tobytes() == whole.values.tobytes()


def test_two_sides_with_other_limits_share_the_coarser_places(monkeypatch):
    array = random(100_000)
    monkeypatch.setattr(accumulate, "KEPT_VALUES", 50_000)
    fine = of(array)
    monkeypatch.setattr(accumulate, "KEPT_VALUES", LIMIT)
    coarse = of(array)
    assert 1 < fine.one_in < coarse.one_in
    held = numpy.isin(sampled(100_000, fine.one_in), sampled(100_000, coarse.one_in))
    assert numpy.array_equal(fine.values[held], coarse.values)


def test_shapes_of_several_calls_join_along_the_first_axis_or_become_flat():
    one = of(numpy.ones((2, 3, 4), numpy.float32), numpy.zeros((5, 3, 4), numpy.float32))
    assert one.line["shape"] == [7, 3, 4] and one.line["calls"] == 2 and one.line["n"] == 84
    mixed = of(numpy.ones((2, 3, 4), numpy.float32), numpy.zeros((1, 4), numpy.float32))
    assert mixed.line["shape"] == [28] and mixed.values.tolist() == [1] * 24 + [0] * 4


def test_what_is_kept_is_a_copy():
    array = numpy.ones((2, 3), numpy.float32)
    layer = Layer(100)
    layer.add(array)
    array[:] = 7
    assert layer.record("item", "float32", "layer", 0, None).values.tolist() == [1] * 6


def test_layers_stand_in_the_order_in_which_they_were_finished():
    accumulating = Accumulating(keep=False)
    for name in ("vision.input", "vision.block.0", "vision.input", "text.input", "logits"):
        accumulating(name, numpy.ones((1, 2), numpy.float32))
    found = accumulating.records("item", "float32", {"vision.input": "a"})
    assert list(found) == ["vision.input", "vision.block.0", "text.input", "logits"]
    assert [each.line["order"] for each in found.values()] == [0, 1, 2, 3]
    assert [each.line["path"] for each in found.values()] == ["a", None, None, None]
    assert found["vision.input"].line["calls"] == 2


def test_values_that_are_not_finite_are_counted_and_kept():
    found = of(numpy.array([1, numpy.nan, numpy.inf, 2], numpy.float32))
    assert found.line["non_finite"] == 2 and found.line["max"] == 2 and numpy.isnan(found.values[1])


def test_an_empty_tensor_has_a_record():
    found = of(numpy.zeros((0, 8), numpy.float32))
    assert found.line["n"] == 0 and found.line["shape"] == [0, 8] and found.line["min"] is None and found.values.size == 0


def test_swapping_records_what_was_made_and_returns_the_reference():
    reference = random(24, 1).reshape(2, 3, 4)
    swapping = Swapping(True, {"layer": reference})
    made = random(24, 2).reshape(2, 3, 4)
    returned = [swapping("layer", made[:1]), swapping("layer", made[1:]), swapping("other", made)]
    assert numpy.array_equal(numpy.concatenate(returned[:2]), reference) and returned[2] is None
    found = swapping.records("item", "localised", {})
    assert numpy.array_equal(found["layer"].values, made.ravel()) and list(found) == ["layer", "other"]


@pytest.mark.parametrize("keep", [False, True])
def test_memory_grows_neither_with_the_number_of_calls_nor_with_their_size(small, keep):
    """One call of 4 MB, 20 more of them, and one of 64 MB: at most a piece and what is kept are held at a time."""
    signs()
    piece, large = random(2**20), numpy.tile(random(2**20), 16)
    accumulating = Accumulating(keep)

    def peak(array, calls=1):
        tracemalloc.start()
        try:
            for _ in range(calls):
                accumulating("layer", array)
            return tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()

    _, first = peak(piece)
    for held, most in (peak(piece, 20), peak(large)):
        assert held < 2**20, "nothing but the sample is held between calls"
        assert most < 1.5 * first
