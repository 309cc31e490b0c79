"""Captures of converted models: the values of Core ML programs under the names that a torch capture gives its layers."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

pytest.importorskip("torch")
pytest.importorskip("coremltools")

from tests.capture.converted_models import converted  # noqa: E402
from workbench.capture.session import capture_layers  # noqa: E402
from workbench.cli.main import main  # noqa: E402
from workbench.errors import UsageError  # noqa: E402
from workbench.parity.ladder import compare  # noqa: E402
from workbench.run.layer_records import LayerRecords  # noqa: E402
from workbench.run.verify import verify  # noqa: E402


@pytest.fixture(scope="module")
def artifact(llava, tmp_path_factory) -> Path:
    return converted(llava, tmp_path_factory.mktemp("converted") / "tiny")


@pytest.fixture(scope="module")
def run(artifact, reference, tmp_path_factory):
    return capture_layers(f"coreml:{artifact}", reference, keep=True, runs=tmp_path_factory.mktemp("coreml"))


def test_the_layers_have_the_projects_names_and_agree_with_torch(reference, run):
    found = compare(reference, run)
    assert found.verdict.name == "AGREE" and found.rung(1).status == "same" and found.rung(2).status == "same"
    third = found.rung(3)
    compared = [row["layer"] for row in third.facts["layers"] if row["times_own"] is not None]
    assert {"vision.block.0", "vision.input", "projector", "text.input", "text.block.1", "text.norm", "logits"} <= set(compared)
    assert third.status == "close" and max(row["times_own"] or 0 for row in third.facts["layers"]) < 10
    assert found.rung(4).status in ("same", "close") and found.rung(5).status == found.rung(6).status == "not run"


def test_the_bundle_is_reference_evidence_without_times(run, reference):
    assert run.manifest["evidence"] == "reference" and run.manifest["key"]["backend"]["name"] == "coreml"
    lines = run.items()
    assert len(lines) == len(reference.items()) == 2 and all(line["timing"] is None for line in lines.values())
    for line in lines.values():
        assert line["capture"]["causality"]["moved"] <= 1e-5 * line["capture"]["causality"]["largest"]
        assert line["capture"]["replayed"] == reference.manifest["run_key"][:12]
    assert not [each for each in verify(run) if each.level == "failed"]


def test_every_layer_says_where_the_program_computes_it(run):
    records = LayerRecords(run)
    passes = records.read(next(iter(records.lines))).passes
    assert list(passes) == ["float32", "float64"], "the program without any rounding, beside the program"
    block = passes["float32"]["text.block.1"].line
    assert block["origin"]["stage"] == "prefill" and block["path"] == f"prefill/{block['origin']['value']}"
    assert block["origin"]["module"].endswith("layers.1") and block["origin"]["line"].startswith("modeling_llama.py:")
    assert passes["float32"]["vision.block.0"].line["shape"][0] == 1 and "half" not in block


def test_the_artifact_lists_every_weight_once(run, llava):
    held = run.artifact
    shared = [entry for entry in held["tensors"].values() if entry["stages"] == ["prefill", "step"]]
    assert shared and held["converted"]["label"].startswith("fp32") and held["converted"]["stages"]["vision"]["others"] == 0
    named = [entry["of"] for entry in held["tensors"].values() if entry["of"]]
    assert len(named) == len(set(named)), "a weight that two functions read is one entry"
    assert {"kind", "asked", "why_not", "error", "stored_bytes", "op", "module", "line"} <= set(shared[0])


def test_what_cannot_be_asked_for_is_refused(artifact, reference, tmp_path):
    with pytest.raises(UsageError, match="cannot be localised"):
        capture_layers(f"coreml:{artifact}", reference, localise=True, runs=tmp_path)
    with pytest.raises(UsageError, match="unknown reading 'bfloat16'"):
        capture_layers(f"coreml:{artifact}", reference, also=["bfloat16"], runs=tmp_path)
    with pytest.raises(UsageError, match="'emulate' is not to be had"):
        capture_layers(f"coreml:{artifact}", reference, also=["emulate"], runs=tmp_path)
    with pytest.raises(UsageError, match="no layer matches nothing"):
        capture_layers(f"coreml:{artifact}", reference, layers=["nothing"], runs=tmp_path)


def test_from_the_command_line_on_chosen_layers(artifact, reference, tmp_path, capsys):
    given = ["capture", f"coreml:{artifact}", "--inputs", str(reference.folder), "--layers", "text.block.*", "--also", "none"]
    assert main([*given, "--runs", str(tmp_path), "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["item_errors"] == 0 and said["layers"] == len({"text.block.0", "text.block.1"}) + len(inner(artifact))


def inner(artifact: Path) -> set[str]:
    """The parts of text blocks that the manifest names."""
    layers = json.loads((artifact / "converted.json").read_text())["stages"]["prefill"]["layers"]
    return {name for name in layers if name.startswith("text.block.") and name.count(".") > 2}


@pytest.fixture(scope="module")
def spoken(tmp_path_factory):
    """(torch's capture, that of the converted recogniser with states)"""
    for name in ("soundfile", "soxr"):
        pytest.importorskip(name, reason="pip install 'parity-workbench[speech]'")
    from tests.models.tiny_speech import whisper

    folder = whisper(tmp_path_factory.mktemp("models") / "tiny-whisper", max_source_positions=250)
    runs = tmp_path_factory.mktemp("runs")
    made = converted(folder, tmp_path_factory.mktemp("converted") / "whisper", stateful=True)
    before = capture_layers(f"torch:{folder}", "stt", limit=1, keep=True, runs=runs)
    return before, capture_layers(f"coreml:{made}", before, keep=True, runs=runs)


def test_a_decoder_that_reads_a_token_a_call_compares_with_one_pass(spoken):
    before, after = spoken
    ((item, _),) = after.items().items()
    mine, theirs = (next(iter(LayerRecords(each).read(item).passes.values())) for each in (before, after))
    assert mine["text.block.1"].line["shape"] == theirs["text.block.1"].line["shape"]
    assert theirs["text.block.1"].line["calls"] == mine["text.block.1"].line["shape"][1] > 4
    found = compare(before, after)
    assert found.verdict.name == "AGREE" and found.rung(1).status == "same" and found.rung(4).status in ("same", "close")
    names = [row["layer"] for row in found.rung(3).facts["layers"] if row["times_own"] is not None]
    assert {"audio.input", "audio.block.1", "audio.norm", "text.input", "text.block.0", "text.norm", "logits"} <= set(names)


def test_float16_states_are_measured_and_said(spoken):
    """The states round what the decoder remembers: its layers are judged by that, the encoder's by torch's own error."""
    third = compare(*spoken).rung(3)
    rows = {row["layer"]: row for row in third.facts["layers"]}
    assert rows["text.block.1"]["of_float16_states"] and not rows["audio.block.1"]["of_float16_states"]
    assert rows["text.block.1"]["own_relative_rms"] > 10 * rows["audio.block.1"]["own_relative_rms"]
    assert "depend on float16 states" in third.finding
