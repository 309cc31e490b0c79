"""Rung 2 with the arrays themselves: largest differences, in any order of the parts, without holding a run's pixels."""

from __future__ import annotations

import numpy
import pytest

import workbench as wb
from tests.parity.bundles import line, make_run
from workbench.errors import BundleError
from workbench.parity.inputs import side_by_side
from workbench.run.input_records import write_inputs


def compared(tmp_path, first, second, orders=(range(3), range(3))):
    runs = []
    for name, arrays, order in (("torch:a", first, orders[0]), ("mlx:a", second, orders[1])):
        lines = [line(str(place), 1.0, **{"input.seen.arrays.pixel_values.hash": f"{name}{place}"}) for place in range(3)]
        run = make_run(tmp_path, name, lines, backend__name=name[:-2])
        for place in order:
            write_inputs(run.folder / "tensors", {str(place): {"pixel_values": arrays[place]}})
        runs.append(run)
    return runs


def arrays_of(value=0.0):
    found = [numpy.full((1, 3, 2, 2), place, numpy.float32) for place in range(3)]
    found[1][0, 0, 0, 0] += value
    return found


def test_the_largest_difference_in_any_order(tmp_path):
    rung = wb.compare(*compared(tmp_path, arrays_of(), arrays_of(0.5), (range(3), (2, 0, 1)))).rung(2)
    assert rung.facts["largest_difference"] == {"pixel_values": {"max_abs": 0.5, "rms_reference": 2.0, "n": 3}}


def test_no_number_is_no_small_difference(tmp_path):
    rung = wb.compare(*compared(tmp_path, arrays_of(), arrays_of(numpy.nan))).rung(2)
    assert rung.facts["largest_difference"]["pixel_values"]["max_abs"] == numpy.inf


def test_a_damaged_part_is_named(tmp_path):
    first, second = compared(tmp_path, arrays_of(), arrays_of())
    path = next(second.tensors.glob("inputs-*"))
    path.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(BundleError, match="inputs-0000"):
        wb.compare(first, second)


def test_arrays_go_as_soon_as_both_are_there():
    alive = 0

    class Array:
        def __init__(self):
            nonlocal alive
            alive += 1

        def __del__(self):
            nonlocal alive
            alive -= 1

    def parts(order):
        for place in order:
            yield place, Array()

    most = 0
    for _ in side_by_side(parts(range(50)), parts(range(50))):
        most = max(most, alive)
    assert most <= 6
