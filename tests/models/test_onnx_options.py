"""Options of ONNX and TensorRT models: what is known, what is refused and with which hint, and what a converted folder answers to."""

from __future__ import annotations

import json
from dataclasses import fields

import pytest

from tests.models.staged_programs import write_artifact
from workbench.errors import ModelError, UsageError
from workbench.models import options
from workbench.models.options_converted import RECIPES, RUNNING
from workbench.models.source import identify, running_options
from workbench.types import ModelSpec

pytest.importorskip("onnx", reason="pip install 'parity-workbench[onnx]'")

SPEECH = "speech-to-text"
RECIPE = {
    "precision": "fp16",
    "keep_fp32": ["MatMul"],
    "calibration": None,
    "samples": [],
    "samples_limit": None,
    "dynamic": ["seq"],
    "context": None,
    "opset": None,
}


def artifact(folder, **recipe):
    """A folder that ``Converted`` takes for ONNX programs; its one graph is none."""
    made = write_artifact(folder)
    manifest = json.loads((made / "converted.json").read_text())
    graph = b"no graph"
    (made / "step.onnx").write_bytes(graph)
    import hashlib

    manifest |= {
        "runtime": "onnx",
        "recipe": {**RECIPE, **recipe},
        "stages": {"step": {"package": "step.onnx", "function": None, "inputs": [], "outputs": [], "states": []}},
        "packages": {"step.onnx": {"bytes": len(graph), "model": hashlib.sha256(graph).hexdigest(), "weights": None}},
    }
    (made / "converted.json").write_text(json.dumps(manifest))
    return made


@pytest.mark.parametrize("backend", ["onnx", "tensorrt"])
@pytest.mark.parametrize("family", [options.VISION, SPEECH])
def test_both_families_know_the_recipe_and_how_it_is_run(backend, family):
    given = {
        "precision": "int8-qdq",
        "calibration": "entropy",
        "calibrate": "demo",
        "calibrate_limit": "8",
        "opset": "22",
        "threads": "2",
    }
    found = options.read(backend, given, family)
    assert (found["precision"], found["calibration"], found["calibrate_limit"], found["opset"]) == ("int8-qdq", "entropy", 8, 22)
    assert (found["threads"], found["executor"], found["batch_size"]) == (2, "auto", 1)
    assert ("timestamps" in found) is (family == SPEECH) and ("image_position" in found) is (family == options.VISION)


@pytest.mark.parametrize(
    ("backend", "given", "words"),
    [
        ("onnx", {"dtype": "float16"}, "?precision=fp16"),
        ("onnx", {"quantize": "int8"}, "?precision=int8-qdq"),
        ("onnx", {"units": "ALL"}, "?provider=coreml"),
        ("onnx", {"target": "iOS18"}, "?opset=20"),
        ("onnx", {"stateful": "true"}, "the cache goes in and out as arrays"),
        ("onnx", {"device": "cuda"}, "?provider=cuda"),
        ("onnx", {"precision": "bfloat16"}, "?precision=bf16"),
        ("onnx", {"precision": "int8"}, "?precision=int8-qdq"),
        ("onnx", {"reading": "emulate"}, "optimised, pure"),
        ("onnx", {"reading": "optimized"}, "?reading=optimised"),
        ("onnx", {"executor": "engine"}, "onnxruntime, reference"),
        ("onnx", {"opset": "twenty"}, "whole number"),
        ("tensorrt", {"quantize": "int8"}, "?precision=int8-qdq"),
        ("tensorrt", {"provider": "cuda"}, "onnx:SOURCE?provider=cuda"),
        ("tensorrt", {"reading": "pure"}, "onnx:SOURCE?reading=pure"),
        ("tensorrt", {"stateful": "true"}, "the cache goes in and out as arrays"),
        ("tensorrt", {"cuda_graph": "yes"}, "true, false"),
        ("coreml", {"precision": "bf16"}, "fp32, fp16"),
        ("coreml", {"executor": "engine"}, "auto, reference"),
    ],
)
def test_what_another_runtime_calls_otherwise_is_refused_with_its_name_here(backend, given, words):
    with pytest.raises(UsageError) as caught:
        options.read(backend, given)
    assert words in str(caught.value)


def test_the_tables_are_the_converters_and_the_backends_own():
    """Every option that a part reads is known, and no table names one that nothing reads."""
    from workbench.backends import tensorrt
    from workbench.convert.coreml.recipe import Recipe as CoreMLRecipe
    from workbench.convert.onnx.recipe import CALIBRATIONS, OPTIONS, PRECISIONS
    from workbench.models.options_converted import CHOICES

    assert set(RECIPES["onnx"]) == set(RECIPES["tensorrt"]) == set(OPTIONS)
    assert set(RECIPES["coreml"]) == {field.name for field in fields(CoreMLRecipe)}
    assert set(RUNNING["tensorrt"]) == {"executor", "threads", *tensorrt.OF_ENGINE}
    assert CHOICES["onnx", "precision"] == CHOICES["tensorrt", "precision"] == PRECISIONS
    assert CHOICES["onnx", "calibration"][1:] == CALIBRATIONS


def test_every_choice_of_the_tables_is_one_that_the_backend_takes():
    from workbench.backends import onnx, tensorrt
    from workbench.models.options_converted import CHOICES

    assert CHOICES["onnx", "reading"][1:] == onnx.READINGS and CHOICES["onnx", "executor"] == onnx.EXECUTORS
    assert CHOICES["tensorrt", "executor"] == tensorrt.EXECUTORS


def test_what_cannot_change_an_answer_is_not_in_the_key():
    given = {"timeout": "9", "timing_cache": "off", "cuda_graph": "true"}
    assert options.in_key("tensorrt", given) == {"cuda_graph": "true"}
    assert options.in_key("onnx", {"threads": "2", "reading": "pure"}) == {"reading": "pure", "threads": "2"}


def test_one_folder_is_opened_by_both_runtimes_and_only_as_it_was_made(tmp_path):
    folder = artifact(tmp_path / "made")
    fitting = "precision=fp16&keep_fp32=MatMul&dynamic=seq&context=8&calibrate="
    found = [identify(ModelSpec.parse(f"{runtime}:{folder}?{fitting}")) for runtime in ("onnx", "tensorrt")]
    assert found[0] == found[1] and found[0]["format"] == "onnx" and found[0]["recipe"]["precision"] == "fp16"
    for option, words in (
        ("precision=fp32", "precision=fp16"),
        ("keep_fp32=Softmax", "keep_fp32=MatMul"),
        ("dynamic=none", "dynamic=seq"),
        ("calibration=max", "calibration=none"),
        ("calibrate=demo", "calibrate="),
    ):
        with pytest.raises(UsageError, match=f"{option} contradicts 'made'") as caught:
            identify(ModelSpec.parse(f"onnx:{folder}?{option}"))
        assert words in caught.value.why


def test_a_runtime_is_told_the_precision_of_a_folder(tmp_path):
    folder = artifact(tmp_path / "made", precision="bf16", keep_fp32=[])
    from workbench.registry import get_backend

    for runtime in ("onnx", "tensorrt"):
        chosen = {"executor": "reference"} if runtime == "tensorrt" else {}  # where there is a GPU too
        spec = ModelSpec.parse(f"{runtime}:{folder}").with_options(**chosen)
        running = running_options(spec)
        assert running == {**chosen, "precision": "bf16"} and get_backend(runtime).evidence(running) == "reference"
        assert get_backend(runtime).device(running)["kind"] == "reference"
    assert running_options(ModelSpec.parse("demo:vlm@torch?dtype=float16")) == {"dtype": "float16"}


def test_one_graph_is_no_model(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    artifact(tmp_path / "made")
    with pytest.raises(ModelError, match=r"'step\.onnx' is one program, not a model") as caught:
        identify(ModelSpec.parse("tensorrt:./made/step.onnx?precision=fp16"))
    assert caught.value.fix == "--model tensorrt:made, or workbench capture tensorrt:./made/step.onnx"


def test_a_folder_of_another_runtime_is_told_apart(tmp_path):
    from workbench.models.converted import Converted
    from workbench.models.program_stages import check

    made = Converted(artifact(tmp_path / "made"))
    with pytest.raises(ModelError, match="was converted for onnx and tensorrt") as caught:
        check(made, "coreml", "vision-language")
    assert "onnx:FOLDER" in caught.value.fix
