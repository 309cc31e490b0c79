"""Converted models through every command: the answers of torch, evidence without a single time, and clear words for what cannot be."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

import workbench as wb
from tests.convert.converted_models import converted
from tests.convert.converted_models import folder as converted_cache
from workbench.cli.main import main
from workbench.errors import ModelError, UsageError
from workbench.run.bundle import Run
from workbench.run.journal import read as read_lines
from workbench.run.libraries import libraries, system_libraries
from workbench.run.summary import cells
from workbench.run.token_records import read_tokens
from workbench.run.verify import verify
from workbench.tasks.catalogue import load_task
from workbench.types import ModelSpec

for name in ("torch", "coremltools", "transformers", "soundfile", "soxr"):
    pytest.importorskip(name, reason="pip install 'parity-workbench[torch,coreml,speech]'")

REFERENCE = "executor=reference"  # on a Mac too
TASK, SPEECH = "mmstar-sample", "asr-sample"


@pytest.fixture(scope="module")
def vlm() -> str:
    return f"coreml:{converted('demo:vlm', stateful=True)}?{REFERENCE}"


@pytest.fixture(scope="module")
def stt() -> str:
    return f"coreml:{converted('demo:stt', stateful=True)}?{REFERENCE}"


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def pair(vlm, runs) -> tuple[Run, Run]:
    """(torch, Core ML) on the same three items, the one's tokens followed by the other."""
    first = wb.evaluate(TASK, "demo:vlm@torch", runs=runs, limit=3)
    return first, wb.evaluate(TASK, vlm, runs=runs, limit=3, record=("tokens", "inputs", "media"), follow=[first.folder])


@pytest.fixture(scope="module")
def spoken(stt, runs) -> tuple[Run, Run]:
    return tuple(wb.evaluate(SPEECH, each, runs=runs, limit=2, record="tokens") for each in ("demo:stt@torch", stt))


def answers(run: Run) -> dict:
    return {name: (line["input_hash"], line["input"], line["output"]) for name, line in run.items().items()}


def test_it_answers_and_hears_as_torch_does(pair, spoken):
    for torch, coreml in (pair, spoken):
        assert answers(coreml) == answers(torch) and coreml.results["item_errors"] == 0
        assert coreml.results["headline"] == torch.results["headline"]


def test_followed_tokens_and_inputs_are_recorded(pair, spoken):
    torch, coreml = pair
    key = torch.manifest["run_key"][:12]
    records = read_tokens(coreml.folder / "tensors", key)
    assert {name: record.tokens.tolist() for name, record in records.items()} == {
        name: line["output"]["tokens"] for name, line in torch.items().items()
    }
    own = [read_tokens(run.folder / "tensors", "own") for run in spoken]
    for name, record in own[0].items():
        assert abs(record.followed - own[1][name].followed).max() < 1e-3
    assert (coreml.folder / "tensors" / "inputs-00000.safetensors").exists() and len(list((coreml.folder / "media").iterdir())) == 3


def test_reference_evidence_holds_no_time_anywhere(pair, spoken):
    for _, run in (pair, spoken):
        assert run.manifest["evidence"] == "reference" and run.manifest["device"]["kind"] == "reference"
        assert {line["timing"] for line in read_lines(run.folder / "samples.jsonl")} == {None}
        stored = json.loads((run.folder / "results.json").read_text())["performance"]
        assert set(stored) == {"evidence", "hardware_key", "session_items"}
        for event in read_lines(run.folder / "events.jsonl"):
            flat = json.dumps({name: value for name, value in event.items() if name != "time"})
            assert not any(word in flat for word in ("second", "rtf", "memory")), event["event"]
        row = cells(run)
        assert (row["items/s"], row["RTFx"], row["evidence"]) == ("-", "-", "reference")
        assert not [each for each in verify(run) if each.level == "failed"]


def test_the_key_says_what_made_the_answers(pair):
    key = pair[1].manifest["key"]
    assert key["model"]["source"] == "demo:vlm" and key["model"]["format"] == "coreml"
    assert key["model"]["recipe"] == {
        "precision": "fp32",
        "quantize": None,
        "target": "iOS18",
        "stateful": True,
        "keep_fp32": [],
        "context": None,
    }
    assert key["backend"]["setup.executor"].startswith("workbench.mil") and key["backend"]["setup.reading"] == "native"
    assert {"coremltools", "torch", "numpy", "transformers", "tokenizers"} <= set(key["libraries"])
    assert json.loads((pair[1].folder / "artifact.json").read_text())["bytes"] == key["model"]["size_bytes"]


def test_a_run_goes_on_where_it_stopped_and_does_nothing_when_complete(pair, vlm, runs, tmp_path):
    assert wb.evaluate(TASK, vlm, runs=runs, limit=3).was_complete
    task = load_task(TASK)
    asked = []

    def ask(sample):
        asked.append(sample.id)
        if len(asked) == 2 + 3:  # the first three are asked for the key
            raise KeyboardInterrupt
        return task.ask(sample)

    with pytest.raises(KeyboardInterrupt):
        wb.evaluate(replace(task, ask=ask), vlm, runs=tmp_path, limit=3)
    done = wb.evaluate(task, vlm, runs=tmp_path, limit=3)
    assert answers(done) == answers(pair[1])
    sessions = [event for event in read_lines(done.folder / "events.jsonl") if event["event"] == "session"]
    assert [(each["done"], each["pending"]) for each in sessions] == [(0, 3), (1, 2)]


def test_a_device_would_be_keyed_by_its_system(monkeypatch):
    class Device:
        distributions = ("coremltools", "torch", "numpy")

        def evidence(self, given):
            return "reference" if "executor" in given else "device"

    monkeypatch.setattr("workbench.run.libraries.macos_version", lambda: (15, 5))
    device, reference = (ModelSpec.parse(f"demo:stt@coreml{end}") for end in ("", "?executor=reference"))
    assert system_libraries(Device(), device) == {"macOS": "15.5"} and system_libraries(Device(), reference) == {}
    assert "torch" not in libraries("speech-to-text", Device(), device) and "torch" in libraries(
        "speech-to-text", Device(), reference
    )


def test_a_model_in_the_cache_transcribes(spoken, capsys, monkeypatch):
    monkeypatch.setenv("WORKBENCH_CACHE", str(converted_cache()))
    sample = load_task(SPEECH).load(1).samples[0]
    assert main(["transcribe", str(sample.inputs["audio"].path), "--model", f"demo:stt@coreml?{REFERENCE}"]) == 0
    shown = capsys.readouterr()
    assert shown.out.strip() == spoken[0].items()[sample.id]["output"]["value"] and "converting" not in shown.err


def test_what_cannot_be_is_said_before_anything_is_written(vlm, stt, tmp_path):
    for text, error, words in (
        ("demo:vlm@coreml?quantize=int3", UsageError, "int4-block32"),
        ("demo:vlm@coreml?dtype=float16", UsageError, "unknown option 'dtype'"),
        (f"{vlm}&quantize=int8", UsageError, "quantize=int8 contradicts"),
        (f"{vlm}&units=ALL", UsageError, "units=ALL would do nothing here"),
        (f"coreml:{stt.partition(':')[2].partition('?')[0]}/step.mlpackage", ModelError, "one program, not a model"),
    ):
        with pytest.raises(error) as caught:
            wb.evaluate(TASK, text, runs=tmp_path, limit=1)
        assert words in str(caught.value)
    assert not list(tmp_path.iterdir())
    with pytest.raises(ModelError, match="is a speech-to-text model"):
        wb.evaluate(TASK, stt, runs=tmp_path, limit=1)
