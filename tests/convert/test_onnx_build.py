"""A conversion to ONNX as a folder: whole or not there, checked, the same every time, in every precision."""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")
torch = pytest.importorskip("torch")

from tests.convert import staged_models  # noqa: E402
from tests.convert.onnx_stages import alone  # noqa: E402
from tests.convert.small_modules import SMALL, small  # noqa: E402
from workbench.convert.building import random_feeds  # noqa: E402
from workbench.convert.onnx import build as builder  # noqa: E402
from workbench.convert.onnx import checking, describing, saving  # noqa: E402
from workbench.convert.onnx.build import build  # noqa: E402
from workbench.convert.onnx.recipe import Recipe  # noqa: E402
from workbench.convert.onnx.sizes import ONE_SEQUENCE, fitted, sized  # noqa: E402
from workbench.convert.reload import DifferentModel  # noqa: E402
from workbench.convert.subject import subject_of  # noqa: E402
from workbench.errors import DataError, ModelError, UsageError  # noqa: E402
from workbench.models.converted import Converted  # noqa: E402
from workbench.models.program_stages import open_stages  # noqa: E402
from workbench.registry import get_backend  # noqa: E402


@pytest.fixture(scope="module")
def module(tmp_path_factory):
    """(the factory, its artifact)."""
    folder = tmp_path_factory.mktemp("module")
    factory = small(folder)
    return factory, build(subject_of(factory), folder / "out", Recipe()).artifact


def run(path, given):
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return session.run(None, given)


def test_a_module_is_converted_and_checked(module):
    _, found = module
    assert (found.runtime, found.family, found.architecture, list(found.stages)) == ("onnx", "module", "Small", ["main"])
    assert found.runs_on == ("onnx", "tensorrt") and found.label == "fp32"
    stage = found.stages["main"]
    assert [each.name for each in stage.inputs] == ["x"] and stage.outputs[0].shape == (2, 160)
    line = next(number for number, text in enumerate(SMALL.splitlines(), 1) if "self.wide(x)" in text)
    assert stage.ops["Gemm"] == 2 and stage.origins[stage.layers["wide"]]["line"] == f"small.py:{line}"
    seen = found.check["main"]
    assert seen["same"] and seen["calls"] == 2 and seen["outputs"]["scores"]["relative_l2"] < 1e-6
    assert found.manifest["opset"] == 20 and found.manifest["inputs"] == "seeded random inputs"
    assert {path.name for path in found.folder.iterdir()} == {"converted.json", "main.onnx", "weights.data"}
    entry = found.manifest["stages"]["main"]
    assert entry["quantized"] is None and entry["readiness"]["nodes"] == sum(entry["ops"].values())
    assert sum(entry["types"].values()) == sum(entry["ops"].values())
    assert str(found.folder.parent) not in (found.folder / "converted.json").read_text()


@pytest.mark.slow
def test_another_process_writes_the_same_bytes(module, tmp_path):
    """Whatever its hash seed, and after a conversion that failed there."""
    factory, found = module
    code = """if True:
        import sys
        from pathlib import Path
        from tests.convert.onnx_stages import Decomposed, alone
        from workbench.convert.onnx.build import build, graph_of
        from workbench.convert.onnx.recipe import Recipe
        from workbench.convert.subject import subject_of
        from workbench.errors import ModelError
        try:
            graph_of(alone(Decomposed()), 20)
        except ModelError:
            build(subject_of(sys.argv[1]), Path(sys.argv[2]), Recipe())
    """
    command = [sys.executable, "-c", code, factory, str(tmp_path / "out")]
    paths = os.pathsep.join(filter(None, [str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH")]))
    subprocess.run(command, check=True, env={**os.environ, "PYTHONHASHSEED": "4", "PYTHONPATH": paths})
    for name in ("main.onnx", "weights.data"):
        assert (tmp_path / "out" / name).read_bytes() == (found.folder / name).read_bytes()
    assert Converted(tmp_path / "out").identity() == found.identity()


def test_a_folder_that_is_there_is_used_or_refused(module, tmp_path):
    factory, found = module
    assert build(subject_of(factory), found.folder, Recipe()).reused
    with pytest.raises(UsageError, match="another conversion") as told:
        build(subject_of(factory), found.folder, Recipe(precision="fp16"))
    assert "its precision is 'fp32'" in told.value.why
    (tmp_path / "taken").mkdir()
    with pytest.raises(UsageError, match="is there already"):
        build(subject_of(factory), tmp_path / "taken", Recipe())
    damaged = shutil.copytree(found.folder, tmp_path / "damaged")
    (damaged / "weights.data").write_bytes(b"x")
    with pytest.raises(ModelError, match="damaged"):
        build(subject_of(factory), damaged, Recipe())


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_a_typed_graph_is_half_the_size_and_says_what_stayed(module, tmp_path, precision):
    factory, dense = module
    done = build(subject_of(factory), tmp_path / "out", Recipe(precision=precision))
    entry = done.artifact.manifest["stages"]["main"]
    assert [row["op"] for row in done.kept["main"]] == ["Softmax"] == [row["op"] for row in entry["kept_fp32"]]
    assert entry["types"][precision] > entry["types"]["fp32"] and done.artifact.size_bytes < 0.75 * dense.size_bytes
    row = done.artifact.check["main"]["outputs"]["scores"]
    assert row["same"] and row["own_error"] > 1e-5 and done.artifact.check["main"]["before"]["scores"]["relative_l2"] < 1e-6
    weights = {row["parameter"]: row for row in entry["weights"]}
    assert weights["wide.weight"]["dtype"] == precision and 1e-5 < weights["wide.weight"]["error"] < 1e-2
    assert done.artifact.manifest["opset"] == (22 if precision == "bf16" else 20)
    assert [each["dtype"] for each in entry["inputs"] + entry["outputs"]] == ["fp32", "fp32"]
    assert not (done.folder / "fp32").exists()


def test_int8_is_measured_on_samples(module, tmp_path):
    factory, dense = module
    drawn = np.random.default_rng(3)
    for name, times in (("a", 1.0), ("b", 5.0)):
        np.savez(tmp_path / f"{name}.npz", x=times * drawn.standard_normal((2, 64)).astype(np.float32))
    entries = {}
    for name in "ab":
        recipe = Recipe(precision="int8-qdq", samples=(str(tmp_path / f"{name}.npz"),))
        done = build(subject_of(factory), tmp_path / name, recipe)
        entries[name] = done.artifact.manifest["stages"]["main"]
        assert done.artifact.manifest["recipe"]["samples"][0].startswith(f"{name}.npz ")
        assert str(tmp_path) not in (done.folder / "converted.json").read_text()
    one = entries["a"]
    assert one["ops"]["QuantizeLinear"] == 2 and one["ops"]["DequantizeLinear"] == 4 and one["types"]["int8"] == 2
    assert one["quantized"]["samples"]["count"] == 1 and one["quantized"]["samples"]["words"] == "a.npz"
    scales = {name: [row["scale"] for row in entry["quantized"]["activations"]] for name, entry in entries.items()}
    assert scales["b"][0] > 3 * scales["a"][0]
    rows = {row["parameter"]: row for row in one["weights"]}
    assert rows["wide.weight"]["compressed"] and rows["wide.weight"]["words"] == "int8, symmetric, 64 scales along axis 0"
    assert 1e-3 < rows["wide.weight"]["error"] < 2e-2
    assert not rows["wide.bias"]["compressed"] and rows["wide.bias"]["why_not"]
    seen = done.artifact.check["main"]
    assert seen["outputs"]["scores"]["relative_l2"] < 1e-6 < seen["compressed"]["scores"]["relative_l2"] < 0.2
    assert done.artifact.manifest["inputs"] == "b.npz, which the calibration saw too" and seen["calls"] == 1


def test_int8_is_checked_on_what_the_calibration_did_not_see(module, tmp_path, monkeypatch):
    """As ``ensure`` builds: without inputs of anybody's."""
    for name, value in (("a", 1.0), ("b", 2.0), ("c", 3.0)):
        np.savez(tmp_path / f"{name}.npz", x=np.full((2, 64), value, np.float32))
    given = {}
    honest = checking.check_stage
    monkeypatch.setattr(
        checking,
        "check_stage",
        lambda stage, path, feeds, *more: given.update({path.name: feeds}) or honest(stage, path, feeds, *more),
    )
    names = tuple(str(tmp_path / f"{name}.npz") for name in "abc")
    recipe = Recipe(precision="int8-qdq", samples=names, samples_limit=1).check()
    found = builder.CONVERTER.build(subject_of(module[0]), tmp_path / "out", recipe, say=str, elsewhere="").artifact.manifest
    assert found["inputs"] == "b.npz, c.npz, unseen by the calibration"
    assert found["stages"]["main"]["quantized"]["samples"]["words"] == "a.npz"
    assert [float(call["x"][0, 0]) for call in given["main.onnx"]] == [2.0, 3.0]


def test_inputs_of_another_shape_are_refused(module, tmp_path):
    def feeds(plain):
        return {"main": [{"x": np.zeros((2, 63), np.float32)}]}, "zeros"

    with pytest.raises(DataError, match=r"input 'x' of stage 'main' has the shape \[2, 63\]") as told:
        build(subject_of(module[0]), tmp_path / "out", Recipe(), feeds=feeds)
    assert told.value.why == "it takes [2, 64]" and not (tmp_path / "out").exists()


def test_an_int8_model_in_which_nothing_is_int8_is_refused(module, tmp_path):
    np.savez(tmp_path / "a.npz", x=np.ones((2, 64), np.float32))
    recipe = Recipe(precision="int8-qdq", samples=(str(tmp_path / "a.npz"),), keep_fp32=("Gemm",))
    with pytest.raises(UsageError, match="quantises nothing of small.py:make") as told:
        build(subject_of(module[0]), tmp_path / "out", recipe, check=False)
    assert told.value.why.startswith("2 × ") and not (tmp_path / "out").exists()


def test_int8_without_samples_or_with_wrong_ones(module, tmp_path):
    subject = subject_of(module[0])
    with pytest.raises(UsageError, match="needs samples") as told:
        build(subject, tmp_path / "out", Recipe(precision="int8-qdq"))
    assert "--calibrate" in told.value.fix
    np.savez(tmp_path / "wrong.npz", x=np.zeros((3, 64), np.float32))
    with pytest.raises(DataError, match="shape"):
        build(subject, tmp_path / "out", Recipe(precision="int8-qdq", samples=(str(tmp_path / "wrong.npz"),)), check=False)
    assert not (tmp_path / "out").exists()


def test_a_pattern_that_keeps_nothing_is_refused(module, tmp_path):
    with pytest.raises(UsageError, match="keeps nothing") as told:
        build(subject_of(module[0]), tmp_path / "out", Recipe(precision="fp16", keep_fp32=("wid",)), check=False)
    assert "wide" in told.value.why and not (tmp_path / "out").exists()


def test_a_wrong_graph_is_not_written(module, tmp_path, monkeypatch):
    def wrong(stage, opset):
        found = graph_of(stage, opset)
        value = found.model.graph.initializers["wide.weight"]
        value.const_value = onnx_tensor(value.const_value.numpy() * 1.02)
        return found

    def onnx_tensor(array):
        import onnx_ir

        return onnx_ir.tensor(array.astype(np.float32), name="wide.weight")

    graph_of = builder.graph_of
    monkeypatch.setattr(builder, "graph_of", wrong)
    for recipe in (Recipe(), Recipe(precision="fp16")):
        with pytest.raises(DifferentModel, match="is not the model") as told:
            build(subject_of(module[0]), tmp_path / "out", recipe)
        assert "layer wide" in told.value.why and not (tmp_path / "out").exists()
    assert build(subject_of(module[0]), tmp_path / "out", Recipe(), check=False).artifact.check == {}


def test_a_layer_whose_value_a_pass_took_away_is_left_out_and_told(module, tmp_path, monkeypatch):
    """Another op's value is not recorded under its name."""
    lost = module[1].stages["main"].layers["wide"]
    monkeypatch.setattr(describing, "values_of", lambda proto, before=describing.values_of: before(proto) - {lost})
    said = []
    found = build(subject_of(module[0]), tmp_path / "out", Recipe(), check=False, say=said.append).artifact.stages["main"]
    assert set(found.layers) == {"narrow"} and lost not in found.origins
    assert "main has no value of its own for wide: captures leave it out" in said


def test_no_space_is_told_and_leaves_nothing(module, tmp_path, monkeypatch):
    def full(self, content):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(saving._Weights, "_append", full)
    with pytest.raises(ModelError, match="no space left") as told:
        build(subject_of(module[0]), tmp_path / "out", Recipe())
    assert "--out" in told.value.fix and list(tmp_path.iterdir()) == []


def test_a_batch_of_a_module_varies(module, tmp_path):
    done = build(subject_of(module[0]), tmp_path / "out", Recipe(dynamic=("batch",)))
    entry = done.artifact.manifest["stages"]["main"]
    assert entry["inputs"][0]["shape"] == [None, 64] and entry["inputs"][0]["range"] == [[1, 16], [64, 64]]
    assert entry["outputs"][0]["shape"] == [None, 160] and done.artifact.check["main"]["calls"] == 3
    given = np.random.default_rng(4).standard_normal((7, 64)).astype(np.float32)
    together = run(done.folder / "main.onnx", {"x": given})[0]
    apart = np.concatenate([run(done.folder / "main.onnx", {"x": given[at : at + 1]})[0] for at in range(7)])
    assert np.allclose(together, apart, rtol=1e-5, atol=1e-7)


def test_a_module_without_a_batch_axis_is_refused():
    stages = subject_stages(alone(torch.nn.Linear(6, 3)))
    stage = stages["main"]
    stages.stages = (replace(stage, example={**stage.example, "mask": torch.zeros(3, 3)}),)
    with pytest.raises(UsageError, match="no batch axis"):
        sized(stages, Recipe(dynamic=("batch",)).check())


def subject_stages(stage):
    from workbench.convert.stages.stage import StageSet

    return StageSet("module", "Linear", (stage,), {}, (), lambda *given: {})


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """A tiny LLaVA whose batch of pictures varies and whose prompt has one length."""
    folder = tmp_path_factory.mktemp("llava")
    subject = subject_of(str(staged_models.llava(folder / "model")))
    recipe = Recipe(dynamic=("batch",), context=16).check()
    said = []
    return subject, build(subject, folder / "out", recipe, say=said.append).artifact, said


@pytest.mark.slow
def test_pictures_together_are_pictures_alone(pictures):
    subject, found, said = pictures
    given = np.random.default_rng(5).standard_normal((3, 3, 16, 16)).astype(np.float32)
    path = found.stages["vision"].path
    together = run(path, {"pixel_values": given})[0]
    apart = np.concatenate([run(path, {"pixel_values": given[at : at + 1]})[0] for at in range(3)])
    assert together.shape == apart.shape and np.allclose(together, apart, rtol=1e-4, atol=1e-6)
    expected = subject.stages(Recipe())["vision"].run({"pixel_values": given[1:2]})[0]["image_features"]
    assert np.allclose(apart[len(expected) : 2 * len(expected)], expected, rtol=1e-4, atol=1e-5)
    assert found.manifest["one_sequence"] == {"prefill": ONE_SEQUENCE, "step": ONE_SEQUENCE}
    assert any(line.startswith("step holds one sequence") for line in said)


@pytest.mark.slow
def test_a_prompt_of_one_length_is_padded_behind(pictures):
    subject, found, _ = pictures
    assert found.sizes["prompt"] == found.sizes["context"] == 16
    assert found.stages["prefill"].inputs[0].shape == (1, 16)
    plain = subject.stages(Recipe(context=16))
    feeds = random_feeds(plain)[0]
    short = feeds["prefill"][0]
    length = short["tokens"].shape[1]
    assert length < 16
    (long,) = fitted(sized(plain, Recipe(dynamic=()).check()), feeds)["prefill"]
    assert long["tokens"].shape == (1, 16)
    stages = open_stages(found, get_backend("onnx"), {}, "vision-language")
    program = stages["prefill"]
    given, expected = program(short), plain["prefill"].run(short)[0]
    assert {name: value.shape for name, value in given.items()} == {name: value.shape for name, value in expected.items()}
    assert all(np.allclose(given[name], expected[name], rtol=1e-4, atol=1e-5) for name in expected)
    with pytest.raises(ModelError, match="17 tokens"):
        program({**short, "tokens": np.zeros((1, 17), np.int32)})
    with pytest.raises(ModelError, match="not recorded"):
        program.observe(short, ["logits"])
    stages.close()


@pytest.mark.slow
def test_stages_share_their_weights(pictures):
    _, found, _ = pictures
    held = {}
    for name in ("prefill", "step"):
        proto = onnx.load(found.stages[name].path, load_external_data=False)
        held[name] = {(each.value) for tensor in proto.graph.initializer for each in tensor.external_data if each.key == "offset"}
    assert held["prefill"] == held["step"] != set()
    assert json.loads((found.folder / "converted.json").read_text())["shared"]["weights.data"]["bytes"] > 0


@pytest.mark.slow
def test_windows_of_sound_together_are_windows_alone(tmp_path):
    """Keys and values lie layer by layer, (layers x windows, heads, frames, head size)."""
    subject = subject_of(str(staged_models.whisper(tmp_path / "model")))
    found = build(subject, tmp_path / "out", Recipe(dynamic=("seq", "batch"))).artifact
    path = found.stages["encoder"].path
    names = [each.name for each in found.stages["encoder"].outputs]
    given = np.random.default_rng(6).standard_normal((3, 80, 40)).astype(np.float32)
    together = dict(zip(names, run(path, {"mel": given}), strict=True))
    for at in range(3):
        apart = dict(zip(names, run(path, {"mel": given[at : at + 1]}), strict=True))
        assert np.allclose(together["encoded"][at : at + 1], apart["encoded"], rtol=1e-4, atol=1e-5)
        keys = together["cross_keys"].reshape(found.sizes["layers"], 3, *together["cross_keys"].shape[1:])[:, at]
        assert np.allclose(keys, apart["cross_keys"], rtol=1e-4, atol=1e-5)
    assert list(found.manifest["one_sequence"]) == ["step"]
