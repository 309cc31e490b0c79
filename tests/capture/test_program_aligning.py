"""Which inner value of a twin is which value of a program: names, put right by what the values hold."""

import numpy
import pytest

from workbench.capture.aligning import ALIKE, PROVEN, Print, align, pair

LEAST = 1e-4


def noise(seed, shape=(2, 8)):
    return numpy.random.default_rng(seed).standard_normal(shape)


A, B, C, D = (noise(seed) for seed in range(4))
READERS = {"first": {"second"}, "second": {"output.y"}}


def near(array, seed=9):
    return array + LEAST * noise(seed, array.shape)


def off(array, by=0.05, seed=8):
    """A damaged copy: too far for rounding, too near for another thing."""
    return array + by * noise(seed, array.shape)


def prints(values):
    return {name: Print.of(array) for name, array in values.items()}


def aligned(layers, twin, readers=READERS, ends=(), counted=False, trusted=False):
    found = {name: pair(Print.of(one), Print.of(other), LEAST) for name, (one, other) in dict(ends).items()}
    return align(prints(layers), prints(twin), readers, found, least=LEAST, counted=counted, trusted=trusted)


def test_values_align_by_their_normal_names():
    found, guessed = aligned({"first": A, "second": B}, {"second": near(B), "first:0": near(A), "other": C})
    assert found == {"first:0": "first", "second": "second"} and guessed == set()


def test_a_fault_is_kept_as_a_pair():
    layers, twin = {"first": A, "second": B}, {"first": noise(5), "second": noise(6)}
    for more in ({"counted": True}, {"trusted": True}):
        assert aligned(layers, twin, ends={"output.y": (A, noise(7))}, **more)[0] == {"first": "first", "second": "second"}


def test_a_name_that_means_another_value_is_no_pair():
    """What is computed from the program's value agrees with the twin, so the value is right and the name misleads."""
    found, _ = aligned({"first": A, "second": B}, {"first": noise(5), "second": near(B)}, trusted=True)
    assert found == {"second": "second"}
    found, _ = aligned({"first": A}, {"first": noise(5)}, {"first": {"output.y"}}, {"output.y": (B, near(B))}, trusted=True)
    assert found == {}


def test_names_that_number_all_values_need_the_first_of_them_to_agree():
    layers, twin = {"var_3": A, "var_4": B}, {"3": off(A), "4": off(B)}
    assert aligned(layers, twin, trusted=True)[0] == {}
    assert aligned(layers, twin, counted=True)[0] == {"3": "var_3", "4": "var_4"}
    assert aligned(layers, {"3": near(A), "4": off(B)}, trusted=True)[0] == {"3": "var_3", "4": "var_4"}


def test_other_names_are_aligned_by_what_they_hold():
    found, guessed = aligned({"first": A, "second": B}, {"7": near(B), "x.1": near(A), "x.2": C})
    assert found == {"7": "second", "x.1": "first"} and guessed == {"7", "x.1"}


def test_a_count_that_another_trace_shifted_condemns_nobody():
    """A saved and loaded TorchScript file numbers its values anew: each name stands for the value before."""
    layers = {"input_1": A, "input_3": off(A), "input_5": off(off(A), seed=7)}
    twin = {"input.3": near(layers["input_1"]), "input.5": near(layers["input_3"]), "input.7": near(layers["input_5"])}
    found, guessed = aligned(layers, twin)
    assert found == {"input.3": "input_1", "input.5": "input_3", "input.7": "input_5"} and guessed == set(twin)
    for more in ({"trusted": True}, {"counted": True}):  # a wrapper around the module shifts the counts of a trace made here too
        assert aligned(layers, twin, **more)[0] == found


def test_counting_names_that_depart_are_believed_only_from_one_exporter_or_with_proof():
    layers = {f"linear_{n}": noise(20 + n) for n in range(PROVEN + 1)}
    last = f"linear_{PROVEN}"
    twin = {name: near(array) for name, array in layers.items()} | {last: off(layers[last])}
    assert last in aligned(layers, twin)[0]  # as many as were asked for agree
    del layers["linear_0"], twin["linear_0"]
    assert last not in aligned(layers, twin)[0] and last in aligned(layers, twin, trusted=True)[0]


def test_a_path_is_a_name_whatever_it_holds():
    layers, twin = {"encoder_add_1": A, "other": B}, {"/encoder/add_1": off(A), "/x": near(B)}
    assert aligned(layers, twin)[0] == {"/encoder/add_1": "encoder_add_1", "/x": "other"}
    twin = {"/encoder/add_1": off(A), "/encoder/mul": near(A)}  # an op was left out: its name is not that of the op before
    assert aligned(layers, twin)[0] == {"/encoder/add_1": "encoder_add_1"}


def test_zeros_and_other_shapes_align_with_nothing():
    assert aligned({"first": A}, {"first": noise(1, (2, 9)), "x": noise(1, (4, 4))}) == ({}, set())
    assert aligned({"first": numpy.zeros((2, 8))}, {"x": numpy.zeros((2, 8))}) == ({}, set())
    assert aligned({"first": A}, {"x": near(A).reshape(4, 4)}) == ({}, set())


def test_masks_of_another_constant_are_no_fault_where_nobody_sees_it():
    low, infinite = numpy.where(A > 0, 0.0, -3e38), numpy.where(A > 0, 0.0, -numpy.inf)
    found, _ = aligned({"first": low, "second": B}, {"first": infinite, "second": near(B)}, trusted=True)
    assert found == {"second": "second"}


def test_a_gross_fault_whose_traces_fade_is_still_a_fault():
    """A transposed weight of attention: its scores depart, and what is added to the stream much later agrees again."""
    readers = {"key": {"softmax"}, "softmax": {"output.y"}}
    layers, twin = {"key": A, "softmax": B}, {"key": noise(5), "softmax": off(B)}
    found, _ = aligned(layers, twin, readers, {"output.y": (C, near(C))}, trusted=True)
    assert found == {"key": "key", "softmax": "softmax"}
    readers = {"mask": {"scores"}, "scores": {"softmax"}, "softmax": {"output.y"}}  # strange ones are looked through
    layers, twin = {"mask": A, "scores": B, "softmax": C}, {"mask": noise(5), "scores": noise(6), "softmax": near(C)}
    found, _ = aligned(layers, twin, readers, {"output.y": (D, near(D))}, trusted=True)
    assert found == {"softmax": "softmax"}


@pytest.mark.parametrize("own", [None, 1e-2])
def test_alike_is_within_what_rounding_makes(own):
    one = Print.of(A)
    other = Print(A.shape, Print.of(A * (1 + 1e-2)).moments, own)
    assert pair(one, other, LEAST).alike is (own is not None)
    assert not pair(one, Print.of(A * (1 + 2 * ALIKE * LEAST)), LEAST).alike
