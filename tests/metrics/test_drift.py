"""Layers in order, judged by torch's own error: where the error arrives, which layer makes it, and what cannot be judged."""

import json
import math

import numpy
import pytest

from workbench.metrics.drift import LIMIT, UNITS, Layer, alignable, first_departing, first_guilty, growth
from workbench.metrics.tensors import TensorError, tensor_error

OWN = 1e-6


def error(relative, **counts):
    return TensorError(n=100, reference_square=100.0, candidate_square=100.0, error_square=100 * relative**2, **counts)


def layer(name="layer", relative=OWN, made=None, own=OWN, unit=UNITS["float32"]):
    return Layer(name, error(relative), own and error(own), made and error(made), unit=unit)


def test_a_layer_departs_beyond_the_limit_in_units_of_torchs_own_error():
    below, above = layer(relative=0.999 * LIMIT * OWN), layer(relative=1.001 * LIMIT * OWN)
    assert below.departs is False and above.departs is True
    assert above.times_own == pytest.approx(1.001 * LIMIT) and above.made_times_own is None and above.guilty is None
    assert layer(relative=0).departs is False


def test_error_that_was_passed_on_departs_and_error_that_was_made_is_guilty():
    layers = [
        layer("embeddings", made=OWN),
        layer("block.0", relative=1e-3, made=2 * OWN),
        layer("block.1", relative=2e-3, made=1e-3),
        layer("block.2", relative=2e-2, made=1e-3),
    ]
    assert first_departing(layers).name == "block.0" and first_guilty(layers).name == "block.1"
    assert [each.guilty for each in layers] == [False, False, True, True]


def test_a_layer_may_be_guilty_whose_own_error_is_hidden():
    """Two faults that cancel: nothing departs, and still a layer makes an error."""
    layers = [layer("block.0", made=1e-3), layer("block.1", made=OWN)]
    assert first_departing(layers) is None and first_guilty(layers).name == "block.0"


def test_nothing_is_named_where_nothing_departs_or_can_be_judged():
    healthy = [layer(str(number), relative=3 * OWN, made=2 * OWN) for number in range(5)]
    unknown = [layer(relative=1.0, made=1.0, own=None), Layer("gone", reason="the port has no such layer")]
    for layers in (healthy, unknown, []):
        assert first_departing(layers) is None and first_guilty(layers) is None
    assert unknown[0].departs is None and unknown[0].guilty is None and unknown[1].departs is None


def test_the_yardstick_is_at_least_two_units_of_rounding():
    for name, unit in UNITS.items():
        lucky = layer(relative=2 * LIMIT * unit, own=0, unit=unit)
        lucky = Layer(lucky.name, lucky.error, error(0.0), unit=unit)
        assert lucky.yardstick == 2 * unit and lucky.departs is False, name
        assert Layer("x", error(2.01 * LIMIT * unit), error(0.0), unit=unit).departs is True
        assert Layer("x", error(0.0), error(5 * unit), unit=unit).yardstick == pytest.approx(5 * unit)


def test_units_are_numpys_and_bfloat16s():
    for name in ("float64", "float32", "float16"):
        assert UNITS[name] == numpy.finfo(name).eps / 2
    torch = pytest.importorskip("torch", reason="needs torch (pip install 'parity-workbench[torch]')")
    assert UNITS["bfloat16"] == torch.finfo(torch.bfloat16).eps / 2


def test_the_limit_lets_other_kernels_pass_and_no_other_formula():
    """A matrix product summed in another order stays within the limit; the tanh approximation of GELU does not."""
    from scipy import special

    random = numpy.random.default_rng(0)
    x = random.standard_normal((64, 256)).astype(numpy.float32)
    weight = random.standard_normal((256, 256)).astype(numpy.float32) / 16
    exact = x.astype(numpy.float64) @ weight.astype(numpy.float64)
    reference = x @ weight
    order = random.permutation(256)
    pieces = sum(x[:, part] @ weight[part] for part in numpy.array_split(order, 8))
    own = tensor_error(exact, reference)
    assert Layer("product", tensor_error(reference, pieces), own).departs is False
    gelu = exact * special.ndtr(exact)
    tanh = 0.5 * exact * (1 + numpy.tanh(math.sqrt(2 / math.pi) * (exact + 0.044715 * exact**3)))
    own = tensor_error(gelu, gelu.astype(numpy.float32))
    assert Layer("activation", tensor_error(gelu, tanh), own).departs is True


def test_values_that_are_not_finite_on_one_side_depart_whatever_the_rest_does():
    for counts in ({"non_finite_candidate": 1}, {"non_finite_reference": 1}):
        assert Layer("x", error(0.0, **counts), error(OWN)).departs is True
        assert Layer("x", error(0.0, **counts)).departs is True, "even without a yardstick"
        assert Layer("x", error(0.0), error(OWN), error(0.0, **counts)).guilty is True
    assert Layer("x", error(0.0, non_finite_reference=3, non_finite_candidate=3), error(OWN)).departs is False
    nothing = TensorError(non_finite_reference=5, non_finite_candidate=5)
    assert Layer("x", nothing, error(OWN)).departs is True, "no value is left to compare"


def test_growth_is_the_ratio_to_the_compared_layer_before():
    layers = [
        layer(relative=2.0),
        Layer("gone", reason="no such layer"),
        layer(relative=6.0),
        layer(relative=0.0),
        layer(relative=1.0),
    ]
    assert growth(layers) == [None, None, pytest.approx(3.0), 0.0, None]
    assert growth([]) == []


def test_shapes_that_hold_the_same_values_in_the_same_order():
    assert alignable((1, 16, 8), (16, 8)) and alignable((2, 4, 8), (8, 8)) and alignable((), ())
    assert not alignable((16, 8), (8, 16)) and not alignable((1, 17, 8), (1, 16, 8))
    assert not alignable((1, 8, 4, 4), (1, 4, 4, 8)), "channels first and last hold their values in another order"


def test_a_layer_as_json_has_every_number_that_json_can_hold():
    row = layer("vision.block.0", relative=1e-3, made=1e-5).to_json()
    assert row["layer"] == "vision.block.0" and row["reason"] is None
    assert row["relative_rms"] == pytest.approx(1e-3) and row["own_relative_rms"] == pytest.approx(OWN)
    assert row["times_own"] == pytest.approx(1000) and row["made_times_own"] == pytest.approx(10)
    assert row["snr_db"] == pytest.approx(60) and row["n"] == 100
    exact = Layer("same", tensor_error(numpy.ones(3), numpy.ones(3)), error(OWN)).to_json()
    assert exact["snr_db"] is None and exact["relative_rms"] == 0
    zero = Layer("zero", tensor_error(numpy.zeros(3), numpy.ones(3)), error(OWN)).to_json()
    assert zero["relative_rms"] is zero["times_own"] is None
    gone = Layer("gone", reason="the port has no such layer").to_json()
    assert "relative_rms" not in gone and gone["times_own"] is None
    json.dumps([row, exact, zero, gone], allow_nan=False)
