"""Captures as a user makes them: what is recorded, from which inputs, in which precisions, and what an interruption costs."""

from __future__ import annotations

import json

import numpy
import pytest

from workbench.capture import accumulate, names
from workbench.capture.session import capture_layers
from workbench.cli.main import main
from workbench.parity.ladder import compare
from workbench.run.input_records import read_inputs
from workbench.run.layer_records import LayerRecords
from workbench.run.verify import verify

COARSE = [
    *("text.embeddings", "vision.embeddings", "vision.input", "vision.block.0", "vision.block.1"),
    *("projector", "text.input", "text.block.0", "text.block.1", "text.norm", "logits"),
]


def records(run, item="wide"):
    return LayerRecords(run).read(item)


def test_what_is_recorded_by_default(llava, pictures, tmp_path):
    run = capture_layers(f"torch:{llava}", pictures, prompt="what is here?", runs=tmp_path)
    assert run.kind == "capture" and run.status == "complete" and run.results["n"] == 2
    item = records(run)
    assert list(item.passes) == ["float32", "float64"], "torch's own error is measured against float64"
    assert [name for name in item.passes["float32"] if name != "vision.norm"] == COARSE
    logits = item.passes["float32"]["logits"]
    assert logits.line["shape"][-1] == logits.line["n"] // logits.line["shape"][-2]
    assert not any(
        record.values is not None for record in item.passes["float32"].values() if record.line["n"] > accumulate.ALWAYS_WHOLE
    )
    assert all(record.sketch.shape == (1024,) for record in item.passes["float32"].values())
    assert not [finding for finding in verify(run) if finding.level == "failed"]
    again = capture_layers(f"torch:{llava}", pictures, prompt="what is here?", runs=tmp_path)
    assert again.was_complete and again.folder == run.folder


def test_statistics_are_those_of_the_values(llava, pictures, tmp_path):
    run = capture_layers(f"torch:{llava}", pictures, prompt="what is here?", keep=True, runs=tmp_path)
    for record in records(run).passes["float32"].values():
        values = record.values.astype(numpy.float64)
        assert record.one_in == 1 and values.size == record.line["n"] == numpy.prod(record.line["shape"])
        assert record.line["rms"] == pytest.approx(numpy.sqrt(numpy.mean(values**2)), rel=1e-12)
        assert record.line["mean"] == pytest.approx(values.mean(), abs=1e-12 * numpy.abs(values).max() * values.size)
        assert (record.line["min"], record.line["max"]) == (values.min(), values.max())


def test_values_beyond_the_limit_are_a_sample_that_says_so(llava, pictures, tmp_path, monkeypatch):
    whole = capture_layers(f"torch:{llava}", pictures, prompt="what is here?", keep=True, runs=tmp_path / "whole")
    monkeypatch.setattr(accumulate, "KEPT_VALUES", 5000)
    part = capture_layers(f"torch:{llava}?attention=eager", pictures, prompt="what is here?", keep=True, runs=tmp_path / "part")
    full, sample = (records(run).passes["float32"]["logits"] for run in (whole, part))
    assert full.one_in == 1 and sample.one_in > 1 and 1000 < sample.values.size <= 5000
    assert sample.line["one_in"] == sample.one_in
    rung = compare(whole, part).rung(3)
    row = next(row for row in rung.facts["layers"] if row["layer"] == "logits")
    assert rung.status in ("close", "same") and row["max_abs"] is not None and row["times_own"] < 10


def test_layers_by_name_and_by_module_path(llava, pictures, tmp_path):
    run = capture_layers(
        f"torch:{llava}", pictures[:1], prompt="x", layers=["text.block.1.*", "*.multi_modal_projector"], runs=tmp_path
    )
    found = set(records(run).passes["float32"])
    assert {"text.block.1.attention", "text.block.1.mlp.up_proj", "projector"} <= found
    assert "text.block.1" not in found and "logits" not in found


def test_the_same_arrays_are_replayed(llava, pictures, tmp_path):
    first = capture_layers(f"torch:{llava}", pictures, prompt="what is here?", runs=tmp_path / "one")
    second = capture_layers(f"torch:{llava}?max_pixels=256", first, runs=tmp_path / "two")
    assert second.items()["wide"]["capture"]["replayed"] == first.manifest["run_key"][:12]
    before, after = (dict(read_inputs(run.tensors, {"wide", "tall"})) for run in (first, second))
    for name in before:
        assert all(numpy.array_equal(before[name][array], after[name][array]) for array in before[name])
    assert compare(first, second).verdict.name == "AGREE"


def test_arrays_from_a_file(llava, pictures, tmp_path):
    first = capture_layers(f"torch:{llava}", pictures[:1], prompt="what is here?", runs=tmp_path / "one")
    (_, arrays), *_ = read_inputs(first.tensors, {"wide"})
    numpy.savez(tmp_path / "wide.npz", **arrays)
    second = capture_layers(f"torch:{llava}", tmp_path / "wide.npz", runs=tmp_path / "two")
    assert compare(first, second).rung(3).status == "same"


def test_acceptance_follows_the_precision(llava, pictures, tmp_path):
    """The same bfloat16 candidate: judged by torch's own bfloat16 error it agrees, and without that nothing is judged."""
    informed = capture_layers(f"torch:{llava}", pictures, prompt="what is here?", also=["auto", "bfloat16"], runs=tmp_path / "a")
    assert list(records(informed).passes) == ["float32", "float64", "bfloat16"]
    candidate = capture_layers(f"torch:{llava}?dtype=bfloat16", informed, also=["none"], runs=tmp_path / "b")
    judged = compare(informed, candidate)
    assert judged.verdict.name == "AGREE" and judged.rung(3).facts["precision"] == "bfloat16"
    uninformed = capture_layers(f"torch:{llava}", pictures, prompt="what is here?", also=["float64"], runs=tmp_path / "c")
    assert compare(uninformed, candidate).verdict.name == "INCONCLUSIVE"
    double = next(row for row in judged.rung(3).facts["layers"] if row["layer"] == "logits")
    assert double["relative_rms"] > 1e-3, "as far from float32 as bfloat16 is, which no float32 tolerance would accept"


def test_other_precisions_leave_the_model_as_it_was(llava):
    import torch

    from workbench.capture.precision import in_precision
    from workbench.models.loading import open_vision_language
    from workbench.types import ModelSpec

    model = open_vision_language(ModelSpec.parse(f"torch:{llava}")).model
    before = {name: (each.data_ptr(), each.clone()) for name, each in model.state_dict().items()}
    with pytest.raises(RuntimeError, match="stop"), in_precision(model, "bfloat16"):
        assert {each.dtype for each in model.parameters()} == {torch.bfloat16}
        raise RuntimeError("stop")
    for name, each in model.state_dict().items():
        assert each.data_ptr() == before[name][0] and torch.equal(each, before[name][1])


def test_an_interrupted_capture_goes_on(llava, pictures, tmp_path, monkeypatch):
    from workbench.capture import session

    real, calls = session.one, []

    def stop_at_the_second(*arguments):
        calls.append(arguments[-1].id)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return real(*arguments)

    monkeypatch.setattr(session, "one", stop_at_the_second)
    with pytest.raises(KeyboardInterrupt):
        capture_layers(f"torch:{llava}", pictures, prompt="what is here?", runs=tmp_path)
    monkeypatch.setattr(session, "one", real)
    run = capture_layers(f"torch:{llava}", pictures, prompt="what is here?", runs=tmp_path)
    assert calls == ["wide", "tall"] and list(run.items()) == ["wide", "tall"]
    assert not [finding for finding in verify(run) if finding.level == "failed"]
    whole = capture_layers(f"torch:{llava}", pictures, prompt="what is here?", runs=tmp_path / "whole")
    assert compare(whole, run).rung(3).status == "same"


def test_the_command(llava, pictures, tmp_path, capsys):
    typed = ["capture", f"torch:{llava}", "--inputs", str(pictures[0]), "--prompt", "what is here?", "--runs", str(tmp_path)]
    assert main([*typed, "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["n"] == 1 and said["layers"] == len(COARSE) + 1 and not said["was_complete"]
    assert main(typed) == 0
    assert "is complete already" in (out := capsys.readouterr().out) and "next: workbench capture" in out
    assert main(["parity", said["capture"], said["capture"]]) in (0, 2)
    assert main(["list", "runs", "--runs", str(tmp_path)]) == 0
    assert "layers of 1 inputs" in capsys.readouterr().out


def test_everything_can_be_asked_for(llava, pictures, tmp_path):
    run = capture_layers(f"torch:{llava}", pictures[:1], prompt="x", layers=["*"], also=["none"], runs=tmp_path)
    assert len(records(run).passes["float32"]) > 60 > len(COARSE)
    assert names.matches("text.block.11.mlp", names.FINE) and not names.matches("text.block.11.mlp.up_proj", names.FINE)


def test_a_precision_that_would_fill_the_memory_is_left_out_and_said(llava, pictures, tmp_path, monkeypatch):
    from workbench.backends import hardware

    monkeypatch.setattr(hardware, "memory_bytes", lambda: 1_000_000)
    run = capture_layers(f"torch:{llava}", pictures[:1], prompt="x", runs=tmp_path)
    assert list(records(run).passes) == ["float32"]
    assert any("not measured" in event.get("text", "") and "--also float64" in event["text"] for event in run.events())
