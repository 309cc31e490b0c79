"""Numbers that were wrong without a word once: several inputs of different kinds, values that are finite on one side only, other layouts."""

from __future__ import annotations

import json
from pathlib import Path

import numpy
import pytest

from workbench.capture.accumulate import Accumulating
from workbench.capture.session import capture_layers
from workbench.metrics.drift import Layer, first_departing
from workbench.metrics.sketch import Moments, estimated_error
from workbench.metrics.tensors import TensorError, tensor_error
from workbench.parity.ladder import compare
from workbench.parity.tensors import merged, pool, torch_error
from workbench.run.layer_records import ItemRecords, Record

OWN = TensorError(n=100, reference_square=100.0, candidate_square=100.0, error_square=1e-12)


def error(relative: float, **counts) -> TensorError:
    return TensorError(n=100, reference_square=100.0, candidate_square=100.0, error_square=100 * relative**2, **counts)


def test_as_many_values_that_are_not_finite_but_other_ones():
    before, after = numpy.ones(100), numpy.ones(100)
    before[3], after[5] = numpy.nan, numpy.inf
    found = tensor_error(before, after)
    assert (found.non_finite_reference, found.non_finite_candidate, found.one_sided) == (1, 1, 2) and found.error_square == 0
    assert Layer("a", found, OWN).departs
    after[3], after[5] = numpy.nan, 1.0
    assert not Layer("a", tensor_error(before, after), OWN).departs, "the same ones on both sides"


def test_one_input_is_broken_on_one_side_and_another_on_the_other():
    first, second = error(0, non_finite_reference=3, one_sided=3), error(0, non_finite_candidate=3, one_sided=3)
    assert Layer("a", first + second, OWN).departs
    sides = [Moments(), Moments()]
    for side, broken in zip(sides, (2, 0), strict=True):
        values = numpy.ones(100)
        values[:broken] = numpy.nan
        side.add(values)
    assert estimated_error(*(side.record() for side in sides)).one_sided == 2


def test_an_exact_zero_is_no_yardstick():
    nothing = TensorError(n=100, reference_square=0.0, candidate_square=1e-18, error_square=1e-18)
    assert nothing.relative_rms == numpy.inf
    assert Layer("a", error(0.5), nothing).times_own is None and Layer("a", error(0.5), nothing).departs is None
    assert Layer("a", error(0.0), nothing).times_own == 0


def test_layers_of_a_later_input_stand_where_they_ran():
    text, image = (
        ["text.embeddings", "text.input", "logits"],
        ["text.embeddings", "vision.input", "projector", "text.input", "logits"],
    )
    assert merged(text, image) == image
    assert merged(image, text) == image and merged([], text) == text
    assert merged(text, ["new.first", *text, "new.last"]) == ["new.first", *text, "new.last"]


def test_torchs_own_error_is_of_the_inputs_that_were_compared():
    missing = Layer("a", own=error(1.0), reason="the candidate has no such layer")
    compared = Layer("a", error(1e-6), error(1e-7))
    for pooled in (pool(missing, compared), pool(compared, missing)):
        assert pooled.own == compared.own and pooled.reason == missing.reason
        assert pooled.times_own == pytest.approx(1e-6 / 2**-23)
    unknown = pool(compared, Layer("a", error(1.0)))
    assert unknown.own is None and unknown.departs is None, "of one input torch's own error is not known"


def records(**passes: float) -> ItemRecords:
    """One layer of ones, each pass off by its rounding."""

    def record(off: float) -> Record:
        values = numpy.ones(64) * (1 + off)
        moments = Moments()
        moments.add(values)
        found = moments.record()
        sketch = found.pop("sketch")
        return Record({"layer": "a", "shape": [64], "one_in": 1, **found}, sketch, values)

    return ItemRecords("x", {name: {"a": record(off)} for name, off in passes.items()})


def test_one_half_precision_is_no_truth_for_the_other_and_bfloat16_is_the_coarser():
    plain = records(bfloat16=2e-3, float16=2e-4)
    assert torch_error(plain, records(float16=3e-4)) == (None, {})
    known = records(bfloat16=2e-3, float32=0.0, float16=2e-4)
    precision, own = torch_error(known, records(float16=3e-4))
    assert precision == "bfloat16" and own["a"].relative_rms == pytest.approx(2e-3)


def test_calls_of_several_sizes_keep_their_last_axis_and_scalars_join():
    def shape(*arrays):
        tap = Accumulating(True)
        for each in arrays:
            tap("a", numpy.zeros(each, numpy.float32))
        return tap.records("x", "float32", {})["a"].line["shape"]

    assert shape((1, 5, 8), (1, 7, 8)) == [12, 8] and shape((1, 5, 8), (1, 7, 8), (1, 5, 8)) == [17, 8]
    assert shape((1, 8, 4, 4), (1, 8, 4, 6)) == [8 * 16 + 8 * 24], "channels first: no rows"
    assert shape((), ()) == [2] and shape(()) == []


@pytest.fixture
def mlx():
    pytest.importorskip("mlx_vlm", reason="needs mlx-vlm (pip install 'parity-workbench[mlx]')")


def test_another_layout_is_not_swapped_in_and_nobody_is_blamed(mlx, llava, pictures, tmp_path):
    """Every module, the patch embedding too: channels first in torch, last in MLX, as many values."""
    settings = {"layers": ["*"], "keep": True}
    reference = capture_layers(f"torch:{llava}", pictures[:1], prompt="what is here?", runs=tmp_path / "a", **settings)
    candidate = capture_layers(f"mlx:{llava}?blas=off", reference, localise=True, runs=tmp_path / "b", **settings)
    comparison = compare(reference, candidate)
    facts = comparison.rung(3).facts
    assert facts["first_guilty"] is None and comparison.verdict.name == "AGREE"
    assert any("patch_embedding" in row["layer"] for row in facts["unaligned"])
    assert sum(row["made_times_own"] is not None for row in facts["layers"]) > 50


def test_one_name_for_two_inputs(llava, pictures, tmp_path):
    """The same image under two prompts of equally many tokens: the layers of what was fed alike are compared, the rest is named."""
    wanted = capture_layers(f"torch:{llava}", pictures[:1], prompt="what is here?", also=["auto"], runs=tmp_path / "a")
    other = capture_layers(f"torch:{llava}", pictures[:1], prompt="what is hers?", also=["auto", "bfloat16"], runs=tmp_path / "b")
    candidate = capture_layers(f"torch:{llava}?attention=eager", wanted, runs=tmp_path / "c")
    for side in ([wanted, other], [other, wanted]):
        comparison = compare(side, candidate)
        assert comparison.verdict.name == "AGREE" and comparison.rung(4).status != "different"
        assert any(other.name in note and "not compared" in note for note in comparison.notes)
    assert compare(other, candidate).verdict.name == "INCOMPARABLE"


def test_logits_that_were_not_compared_are_no_agreement(llava, pictures, tmp_path):
    reference = capture_layers(f"torch:{llava}", pictures[:1], prompt="x", runs=tmp_path / "a")
    candidate = capture_layers(f"torch:{llava}?attention=eager", reference, layers=["*embeddings"], runs=tmp_path / "b")
    comparison = compare(reference, candidate)
    assert comparison.verdict.name == "INCONCLUSIVE" and "logits were not compared" in comparison.rung(3).finding


def test_what_to_type_names_the_precision_that_is_missing(llava, pictures, tmp_path):
    reference = capture_layers(f"torch:{llava}", pictures[:1], prompt="x", runs=tmp_path / "a")
    candidate = capture_layers(f"torch:{llava}?dtype=bfloat16", reference, also=["none"], runs=tmp_path / "b")
    assert "--also bfloat16" in compare(reference, candidate).rung(3).fix


def test_an_order_is_found_whatever_the_first_input_was():
    """What a text alone gives first must not put the vision tower behind the logits."""
    healthy, wrong = Layer("logits", error(1e-3), OWN), Layer("vision.block.0", error(1e-2), OWN)
    order = merged(["text.input", "logits"], ["vision.block.0", "text.input", "logits"])
    by_name = {layer.name: layer for layer in (healthy, wrong)}
    assert first_departing(by_name[name] for name in order if name in by_name).name == "vision.block.0"


def test_a_sample_is_called_an_estimate(llava, pictures, tmp_path, monkeypatch):
    from workbench.capture import accumulate

    monkeypatch.setattr(accumulate, "KEPT_VALUES", 5000)
    reference = capture_layers(f"torch:{llava}", pictures[:1], prompt="x", keep=True, runs=tmp_path / "a")
    candidate = capture_layers(f"torch:{llava}?attention=eager", reference, keep=True, runs=tmp_path / "b")
    assert compare(reference, candidate).rung(3).facts["estimated_from_sketches"]


def lines_of(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "layers.jsonl").read_text().splitlines()]


def test_an_input_without_layers_is_named(llava, pictures, tmp_path):
    reference = capture_layers(f"torch:{llava}", pictures, prompt="x", runs=tmp_path / "a")
    candidate = capture_layers(f"torch:{llava}?attention=eager", reference, runs=tmp_path / "b")
    kept = [line for line in lines_of(candidate.folder) if line["id"] != "tall"]
    (candidate.folder / "layers.jsonl").write_text("".join(json.dumps(line) + "\n" for line in kept))
    comparison = compare(reference, candidate)
    assert comparison.verdict.name == "INCONCLUSIVE" and "holds no layer: tall" in comparison.rung(3).finding
