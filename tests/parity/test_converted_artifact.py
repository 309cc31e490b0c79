"""Rung 1 of converted models on made-up lists of weights: what is the same, compressed, left alone, transposed, in a type nobody asked for."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest

import workbench as wb
from tests.parity.bundles import lines_of, make_run
from workbench.errors import BundleError
from workbench.models.artifact import described

A, B = (np.random.default_rng(seed).normal(size=(32, 32)).astype(np.float32) for seed in (1, 2))
NAMES = ("layers.0.weight", "layers.1.weight")


def entry(values, dtype="F32"):
    return described(np.ascontiguousarray(values).tobytes(), dtype, list(values.shape), False)


def stored(values, name, dtype="F32", **more):
    """A weight as a converted model's ``artifact.json`` lists it."""
    known = {"of": name, "how": "as it is", "kind": "none", "compression": None, "asked": None, "why_not": None, "error": 0.0}
    about = {"stored_bytes": 4096, "dense_bytes": 4096, "value": "w", "op": "linear", "module": "layers.0", "line": "model.py:12"}
    return {**entry(values, dtype), **known, **about, "stages": ["step"], **more}


def held(tensors, precision="fp32", quantize=None, **stage):
    about = {"computes": {"fp32": 9}, "others": 0, "other": [], **stage}
    recipe = {"precision": precision, "quantize": quantize}
    made = {"label": precision, "recipe": recipe, "stages": {"step": about}}
    return {"bytes": 1, "files": [], "tensors": tensors, "quantisation": None, "settings": {}, "converted": made}


def rung_of(tmp_path, tensors, reference=None, **recipe):
    before = {"bytes": 1, "files": [], "settings": {}, "tensors": reference or {NAMES[0]: entry(A), NAMES[1]: entry(B)}}
    return wb.compare(
        make_run(tmp_path, "torch:a", lines_of(3, 1), artifact=before),
        make_run(tmp_path, "coreml:a", lines_of(3, 1), artifact=held(tensors, **recipe), model__weights="w2", evidence="reference"),
    ).rung(1)


def test_the_same_values_under_the_checkpoints_names(tmp_path):
    own = stored(np.zeros(32, np.float32), None, how="added by the converter")
    folded = stored(A * B, None, how="folded", error=None)
    rung = rung_of(tmp_path, {NAMES[0]: stored(A, NAMES[0]), NAMES[1]: stored(B, NAMES[1]), "step/b": own, "step/f": folded})
    assert rung.status == "same" and rung.finding.startswith(
        "2 of 4 weights have the same values; 1 constant is the converter's own"
    )
    assert "1 constant stems from no single weight and is listed" in rung.finding
    assert rung.facts["weights_by_kind"]["same values"] == 2 and rung.facts["asked_not_compressed"] == []


def test_a_weight_that_no_program_needs_is_named(tmp_path):
    rung = rung_of(tmp_path, {NAMES[0]: stored(A, NAMES[0])})
    assert rung.status == "same" and f"1 weight of the reference is in no program: {NAMES[1]}" in rung.finding


def test_compression_names_how_how_far_and_what_was_left_out(tmp_path):
    step = np.float32(0.035) * A.std()  # uniform rounding: an error of a step / sqrt(12)
    small = stored(
        np.rint(A / step) * step, NAMES[0], kind="int8", compression="int8, a scale per channel", asked="int8", error=0.01
    )
    left = stored(B, NAMES[1], asked="int8", why_not="16 input channels are no multiple of the block of 32")
    rung = rung_of(tmp_path, {NAMES[0]: small, NAMES[1]: left}, quantize="int8")
    assert rung.status == "different"
    assert f"1 of 2 weights is compressed (int8, a scale per channel; largest error 1 %, in {NAMES[0]})" in rung.finding
    assert f"1 was to be compressed and was not: {NAMES[1]} (linear, layers.0, model.py:12) (16 input" in rung.finding
    assert rung.facts["asked_not_compressed"] == [NAMES[1]] and rung.tables[0].rows[0][0] == NAMES[1], (
        "what was skipped stands first"
    )


def test_what_is_stored_otherwise_and_larger_for_it_is_not_compressed(tmp_path):
    """A pruned weight of which every value was kept, as coremltools alone makes of a large one; and a constant computed from several."""
    kept = stored(A.astype(np.float16), NAMES[0], "F16", kind="sparse", compression="100.0 % of the values, the others 0")
    kept |= {"asked": "prune50", "stored_bytes": 2200, "dense_bytes": 2048, "error": 2e-4}
    odd = stored(A * B, None, how="computed", asked="prune50", why_not="no reason", error=1e-4)
    rung = rung_of(tmp_path, {NAMES[0]: kept, NAMES[1]: stored(B, NAMES[1]), "step/odd": odd}, precision="fp16", quantize="prune50")
    assert "compressed (" not in rung.finding and "1 weight is stored in float16, as asked" in rung.finding
    assert f"2 were to be compressed and were not: {NAMES[0]} (linear" in rung.finding and "larger for it)" in rung.finding
    assert rung.facts["asked_not_compressed"] == [NAMES[0], "step/odd"]


def test_a_constant_that_is_computed_otherwise_than_by_torch_has_other_values(tmp_path):
    wrong = stored(A * B, None, how="computed", error=0.3)
    rung = rung_of(tmp_path, {NAMES[0]: stored(A, NAMES[0]), NAMES[1]: stored(B, NAMES[1]), "step/c": wrong})
    assert rung.status == "different" and "1 of 3 weights is of other values: step/c (linear" in rung.finding


def test_float16_is_the_rounding_of_the_same_values_or_it_is_not(tmp_path):
    half = {name: stored(each.astype(np.float16), name, "F16") for name, each in zip(NAMES, (A, B), strict=True)}
    asked = rung_of(tmp_path / "asked", half, precision="fp16")
    assert asked.status == "different" and "2 weights are stored in float16, as asked" in asked.finding
    op = {"value": "linear_3", "op": "linear", "dtype": "fp16", "module": "layers.0.q_proj", "line": "model.py:7"}
    rung = rung_of(tmp_path / "not", half, others=24, other=[op])
    assert rung.finding.startswith(
        "float32 was asked for, and 24 ops compute in float16: the first is linear_3 of step (linear, layers.0.q_proj, model.py:7) "
        f"and 2 weights are stored in float16: {NAMES[0]} (linear"
    )
    wrong = {NAMES[0]: stored((A + 0.1).astype(np.float16), NAMES[0], "F16", error=0.1), NAMES[1]: half[NAMES[1]]}
    assert f"1 of 2 weights is of other values: {NAMES[0]}" in rung_of(tmp_path / "wrong", wrong, precision="fp16").finding


def test_a_transposed_square_weight_is_told_from_other_values(tmp_path):
    turned = stored(A.T, NAMES[0], turned=entry(A)["hash"], error=1.4)
    rung = rung_of(tmp_path, {NAMES[0]: turned, NAMES[1]: stored(B * 2, NAMES[1], error=1.0)})
    assert rung.status == "different"
    assert f"is stored transposed, which its op does not undo: {NAMES[0]} (linear, layers.0, model.py:12)" in rung.finding
    assert f"1 of 2 weights is of other values: {NAMES[1]} (linear, layers.0, model.py:12), 1e+02 % away" in rung.finding


def test_a_checkpoint_in_half_precision_has_the_same_values_in_float32(tmp_path):
    reference = {NAMES[0]: entry(A.astype(np.float16), "F16")}
    same = stored(A.astype(np.float16).astype(np.float32), NAMES[0])
    assert rung_of(tmp_path / "same", {NAMES[0]: same}, reference).status == "same"
    assert rung_of(tmp_path / "other", {NAMES[0]: stored(A, NAMES[0])}, reference).status == "different"


def test_a_weight_too_large_to_be_hashed_whole_is_believed_as_the_conversion_measured_it(tmp_path):
    """Half as large in the checkpoint, it is hashed whole there: the two hashes are of other bytes."""
    half = A.astype("<f2")
    reference = {NAMES[0]: entry(half, "F16")}
    for error, status in ((0.0, "same"), (0.3, "different")):
        sampled = {**stored(half.astype(np.float32), NAMES[0], error=error), "sampled": True, "hash": "of some blocks"}
        assert rung_of(tmp_path / str(error), {NAMES[0]: sampled}, reference).status == status


def test_two_converted_models_are_compared_by_the_same_names(tmp_path):
    first = held({NAMES[0]: stored(A, NAMES[0])})
    second = held(
        {NAMES[0]: stored(A * 1.01, NAMES[0], kind="palette4", compression="one table of 16 entries", asked="palette4", error=0.02)}
    )
    runs = [
        make_run(tmp_path, f"coreml:{name}", lines_of(3, 1), artifact=each, model__weights=name, evidence="reference")
        for name, each in (("w1", first), ("w2", second))
    ]
    assert "1 of 1 weights is compressed (one table of 16 entries" in wb.compare(*runs).rung(1).finding


def test_a_damaged_list_is_an_error_with_a_name(tmp_path):
    bad = stored(A, NAMES[0], error="much")
    with pytest.raises(BundleError, match="artifact.json of made-coreml") as raised:
        rung_of(tmp_path, {NAMES[0]: bad})
    assert "error is no finite number" in raised.value.why


def test_hashes_in_the_other_precisions():
    assert entry(A)["half"] == hashlib.sha256(A.astype("<f2").tobytes()).hexdigest()[:16] and "single" not in entry(A)
    brain = (A.view(np.uint32) >> 16).astype(np.uint16)
    wide = (brain.astype(np.uint32) << 16).view(np.float32)
    assert entry(brain, "BF16")["single"] == hashlib.sha256(wide.tobytes()).hexdigest()[:16]
