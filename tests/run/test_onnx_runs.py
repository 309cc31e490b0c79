"""ONNX Runtime, and TensorRT by reference, through every command: the answers of torch, each with its own evidence."""

from __future__ import annotations

import json

import pytest

import workbench as wb
from tests.convert.onnx_models import converted_onnx
from workbench.errors import ModelError, UsageError
from workbench.run.bundle import Run
from workbench.run.journal import read as read_lines
from workbench.run.libraries import libraries
from workbench.run.session import check_evidence
from workbench.run.summary import cells
from workbench.run.token_records import read_tokens
from workbench.run.verify import verify
from workbench.types import ModelSpec

for name in ("torch", "onnx", "onnxruntime", "onnxscript", "transformers", "soundfile", "soxr"):
    pytest.importorskip(name, reason="pip install 'parity-workbench[torch,onnx,speech]'")

TASK, SPEECH = "mmstar-sample", "asr-sample"
ITEMS = 4


@pytest.fixture(scope="module")
def vlm() -> str:
    return str(converted_onnx("demo:vlm"))


@pytest.fixture(scope="module")
def stt() -> str:
    return str(converted_onnx("demo:stt"))


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def answered(vlm, runs) -> dict[str, Run]:
    """Of the vision-language model by runtime: the same items, torch's tokens followed by the others."""
    torch = wb.evaluate(TASK, "demo:vlm@torch", runs=runs, limit=ITEMS)
    more = {"record": ("tokens", "inputs"), "follow": [torch.folder]}
    return {
        "torch": torch,
        "onnx": wb.evaluate(TASK, f"onnx:{vlm}", runs=runs, limit=ITEMS, **more),
        "tensorrt": wb.evaluate(TASK, f"tensorrt:{vlm}?executor=reference", runs=runs, limit=ITEMS, **more),
    }


@pytest.fixture(scope="module")
def spoken(stt, runs) -> dict[str, Run]:
    made = {"torch": "demo:stt@torch", "onnx": f"onnx:{stt}", "tensorrt": f"tensorrt:{stt}?executor=reference"}
    return {name: wb.evaluate(SPEECH, each, runs=runs, limit=2, record="tokens") for name, each in made.items()}


def answers(run: Run) -> dict:
    return {name: (line["input_hash"], line["input"], line["output"]) for name, line in run.items().items()}


@pytest.mark.parametrize("runtime", ["onnx", "tensorrt"])
def test_it_answers_and_hears_token_for_token_as_torch_does(answered, spoken, runtime):
    for held in (answered, spoken):
        assert answers(held[runtime]) == answers(held["torch"]) and held[runtime].results["item_errors"] == 0
        assert all(line["output"]["tokens"] for line in held[runtime].items().values())
        assert held[runtime].results["headline"] == held["torch"].results["headline"]


@pytest.mark.parametrize("runtime", ["onnx", "tensorrt"])
def test_followed_tokens_have_torchs_probabilities(answered, spoken, runtime):
    key = answered["torch"].manifest["run_key"][:12]
    records = read_tokens(answered[runtime].folder / "tensors", key)
    assert {name: record.tokens.tolist() for name, record in records.items()} == {
        name: line["output"]["tokens"] for name, line in answered["torch"].items().items()
    }
    own = [read_tokens(spoken[name].folder / "tensors", "own") for name in ("torch", runtime)]
    assert own[0] and all(abs(record.followed - own[1][name].followed).max() < 1e-3 for name, record in own[0].items())


def test_onnx_runtime_is_a_runtime_of_its_own_with_its_times(answered, spoken):
    for run in (answered["onnx"], spoken["onnx"]):
        assert run.manifest["evidence"] == "host" and run.manifest["device"]["kind"] == "cpu"
        assert all(line["timing"]["total"] > 0 for line in run.items().values())
        stored = json.loads((run.folder / "results.json").read_text())["performance"]
        assert stored["peak_memory_bytes"] > 0 and cells(run)["items/s"] != "-"
        assert stored["stages"]["step"]["steady_seconds"] > 0 < stored["stages"]["step"]["load_seconds"]
        assert not [each for each in verify(run) if each.level == "failed"]


def test_what_stands_in_for_tensorrt_holds_no_time_anywhere(answered, spoken):
    for run in (answered["tensorrt"], spoken["tensorrt"]):
        assert run.manifest["evidence"] == "reference" and run.manifest["device"]["kind"] == "reference"
        assert {line["timing"] for line in read_lines(run.folder / "samples.jsonl")} == {None}
        stored = json.loads((run.folder / "results.json").read_text())["performance"]
        assert set(stored) == {"evidence", "hardware_key", "session_items"}
        for event in read_lines(run.folder / "events.jsonl"):
            told = {name: value for name, value in event.get("model", {}).items() if name != "readiness"}  # estimates sizes
            flat = json.dumps({**event, "time": None, "model": told})
            assert not any(word in flat for word in ("second", "rtf", "memory")), event["event"]
        assert (cells(run)["items/s"], cells(run)["evidence"]) == ("-", "reference")
        assert not [each for each in verify(run) if each.level == "failed"]


def test_the_keys_say_what_made_the_answers(answered):
    keys = {name: run.manifest["key"] for name, run in answered.items()}
    assert keys["onnx"]["model"] == keys["tensorrt"]["model"] and keys["onnx"]["model"]["format"] == "onnx"
    assert keys["onnx"]["model"]["source"] == "demo:vlm" and keys["onnx"]["model"]["recipe"]["precision"] == "fp32"
    assert keys["onnx"]["backend"] == {
        "name": "onnx",
        "device": "cpu",
        "setup.executor": "onnxruntime",
        "setup.provider": "CPUExecutionProvider",
        "setup.reading": "optimised",
    }
    assert keys["tensorrt"]["backend"]["setup.reading"] == "pure" and keys["tensorrt"]["backend"]["name"] == "tensorrt"
    assert {"onnxruntime", "numpy", "transformers", "tokenizers"} <= set(keys["onnx"]["libraries"])
    assert not {"torch", "onnx"} & set(keys["onnx"]["libraries"])
    assert not {"torch", "tensorrt"} & set(keys["tensorrt"]["libraries"])
    loaded = next(event for event in answered["onnx"].events() if event["event"] == "loaded")["model"]
    assert loaded["stages"]["step"]["session"]["graph_optimization_level"] == "ORT_ENABLE_ALL" and loaded["dtype"] == "float32"


def test_rung_1_finds_every_weight_of_the_checkpoint(answered):
    found = wb.compare(answered["torch"], answered["onnx"])
    first = found.rung(1)
    assert first.status == "same" and set(first.facts["weights_by_kind"]) <= {"same values", "of no single weight"}
    assert first.facts["weights_by_kind"]["same values"] > 100
    assert found.rung(2).status == "same" and found.rung(5).status == "same"
    twice = wb.compare(answered["onnx"], answered["tensorrt"]).rung(1)
    assert twice.status == "same"


def test_a_run_of_another_evidence_than_was_planned_is_refused():
    class Model:
        class stages:
            evidence = "reference"

    with pytest.raises(ModelError, match="are reference evidence, and the run was begun as device"):
        check_evidence(Model, "device")
    check_evidence(Model, "reference")
    check_evidence(object(), "host")


def test_the_libraries_are_those_of_what_ran():
    class Backend:
        distributions = ("onnx", "onnxruntime", "tensorrt", "torch", "numpy")

        def evidence(self, given):
            return given["is"]

    for runtime, evidence, wanted in (
        ("onnx", "host", {"onnxruntime", "tensorrt", "torch", "numpy"}),
        ("onnx", "reference", {"onnx", "tensorrt", "torch", "numpy"}),
        ("tensorrt", "device", {"tensorrt", "torch", "numpy"}),
        ("tensorrt", "reference", {"onnx", "onnxruntime", "numpy"}),
    ):
        found = libraries("speech-to-text", Backend(), ModelSpec.parse(f"demo:stt@{runtime}"), {"is": evidence})
        assert set(found) - {"tokenizers", "soundfile", "soxr", "av"} == wanted


def test_what_cannot_be_is_said_before_anything_is_written(vlm, stt, tmp_path):
    for text, error, words in (
        ("demo:vlm@onnx?precision=int4", UsageError, "int8-qdq"),
        ("demo:vlm@tensorrt?quantize=int8", UsageError, "?precision=int8-qdq"),
        (f"onnx:{vlm}?precision=fp16", UsageError, "precision=fp16 contradicts"),
        (f"tensorrt:{vlm}/step.onnx", ModelError, "one program, not a model"),
        (f"coreml:{vlm}", ModelError, "was converted for onnx and tensorrt"),
        (f"tensorrt:{vlm}?executor=reference&cuda_graph=true", UsageError, "cuda_graph=true would do nothing here"),
    ):
        with pytest.raises(error) as caught:
            wb.evaluate(TASK, text, runs=tmp_path, limit=1)
        assert words in str(caught.value)
    assert not list(tmp_path.iterdir())
    with pytest.raises(ModelError, match="is a speech-to-text model"):
        wb.evaluate(TASK, f"onnx:{stt}", runs=tmp_path, limit=1)
