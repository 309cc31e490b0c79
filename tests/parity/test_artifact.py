"""Rung 1 on made-up lists of weights: renamed, tied, packed, adapted."""

from __future__ import annotations

import pytest

import workbench as wb
from tests.parity.bundles import lines_of, make_run


def weight(content, dtype="F32", shape=(2, 2), rms=1.0):
    return {"dtype": dtype, "shape": list(shape), "hash": content, "sampled": False, "rms": rms}


def rung_of(tmp_path, first, second, quantisation=(None, None), **changes):
    held = [
        {"bytes": 1, "files": [], "tensors": tensors, "quantisation": each}
        for tensors, each in zip((first, second), quantisation, strict=True)
    ]
    return wb.compare(
        make_run(tmp_path, "torch:a", lines_of(3, 1), artifact=held[0]),
        make_run(tmp_path, "mlx:a", lines_of(3, 1), artifact=held[1], **{"model__weights": "w2", **changes}),
    ).rung(1)


def test_renamed_weights_are_paired_by_content_also_where_several_are_alike(tmp_path):
    first = {"a.norm": weight("ones"), "b.norm": weight("ones"), "head": weight("h")}
    second = {"x.norm": weight("ones"), "y.norm": weight("ones"), "out": weight("h")}
    rung = rung_of(tmp_path, first, second)
    assert rung.status == "same" and rung.facts["weights_compared"] == 3 and rung.facts["only_in"] == [0, 0]


def test_a_tied_weight_stored_once_is_said_to_be_a_copy(tmp_path):
    rung = rung_of(tmp_path, {"embed": weight("e"), "head": weight("e")}, {"embed": weight("e")})
    assert (
        "1 weights only in the reference, 0 only in the candidate (1 of them with the values of another weight there"
        in rung.finding
    )


def test_a_lost_weight_is_not_called_a_copy(tmp_path):
    rung = rung_of(tmp_path, {"embed": weight("e"), "head": weight("h")}, {"embed": weight("e")})
    assert (
        rung.status == "different" and "1 weights only in the reference" in rung.finding and "values of another" not in rung.finding
    )


def test_two_packed_alike_with_other_values_are_not_called_compressed(tmp_path):
    packed = [{"w.weight": weight(each, "U32"), "w.scales": weight("s"), "w.biases": weight("b")} for each in "ab"]
    bits = {"bits": 4, "group_size": 64}
    finding = rung_of(tmp_path / "a", *packed, quantisation=(bits, bits)).finding
    assert "has other values" in finding and "compressed" not in finding
    finding = rung_of(tmp_path / "b", *packed, quantisation=({**bits, "bits": 8}, bits)).finding
    assert "is compressed (8-bit, groups of 64 to 4-bit, groups of 64): w.weight" in finding


@pytest.mark.parametrize("weights", ["w1", "w2"])
def test_an_adapter_is_named_also_without_a_list_of_weights(tmp_path, weights):
    runs = [
        make_run(tmp_path, name, lines_of(3, 1), model__adapter=adapter, model__weights=held)
        for name, adapter, held in (("torch:a", None, "w1"), ("mlx:a", "lora-5f", weights))
    ]
    finding = wb.compare(*runs).rung(1).finding
    assert "adapter None and lora-5f" in finding and finding.startswith(
        "The same" if weights == "w1" else "The weight files differ"
    )
