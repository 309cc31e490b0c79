"""An ONNX file of somebody else's: typed and held to itself, passed through, or refused in words."""

from __future__ import annotations

import numpy as np
import pytest

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnx_ir")
pytest.importorskip("onnxruntime")
from onnx import numpy_helper, parser  # noqa: E402

from workbench.backends.onnx import open_reference  # noqa: E402
from workbench.backends.onnx_file import read  # noqa: E402
from workbench.convert.onnx.file_feeds import random_arrays  # noqa: E402
from workbench.convert.onnx.foreign import build_from_file, ensure, file_subject, held_precision  # noqa: E402
from workbench.convert.onnx.recipe import Recipe  # noqa: E402
from workbench.convert.reload import DifferentModel  # noqa: E402
from workbench.errors import ModelError, UsageError  # noqa: E402
from workbench.models.converted import Converted  # noqa: E402

BODY = """hidden = MatMul(rows, weight) lifted = Add(hidden, bias) curved = Tanh(lifted)
    scores = Softmax<axis = -1>(curved) kept = Mul(scores, rows) total = MatMul(kept, weight)"""


def model(folder, body=BODY, opset=17, head="float[N, 16] rows) => (float[N, 16] total, float[N, 16] scores)", ir=8, **numbers):
    made = parser.parse_model(f'<ir_version: {ir}, opset_import: ["": {opset}]> net ({head} {{ {body} }}')
    drawn = np.random.default_rng(3)
    numbers = {"weight": drawn.normal(0, 0.3, (16, 16)), "bias": drawn.normal(0, 1, 16)} | numbers
    made.graph.initializer.extend(numpy_helper.from_array(np.asarray(value, np.float32), name) for name, value in numbers.items())
    path = folder / "net.onnx"
    path.write_bytes(made.SerializeToString())
    return path


@pytest.fixture
def path(tmp_path):
    return model(tmp_path)


def run(path, feed):
    program = open_reference(path, {})
    try:
        return program(feed)
    finally:
        program.close()


@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16"])
def test_a_file_becomes_an_artifact_of_one_stage(precision, path, tmp_path):
    done = build_from_file(path, tmp_path / "out", Recipe(precision=precision))
    artifact = Converted(tmp_path / "out")
    stage = artifact.stages["main"]
    assert not done.reused and artifact.family == "module" and artifact.runs_on == ("onnx", "tensorrt")
    assert artifact.label == precision and [each.name for each in stage.outputs] == ["total", "scores"]
    assert {each.dtype for each in (*stage.inputs, *stage.outputs)} == {"fp32"}
    feed = {"rows": np.random.default_rng(0).standard_normal((5, 16), np.float32)}
    right, given = run(path, feed), run(stage.path, feed)
    away = {name: np.linalg.norm(given[name] - right[name]) / np.linalg.norm(right[name]) for name in right}
    low, high = {"fp32": (0, 0), "fp16": (1e-5, 3e-3), "bf16": (1e-4, 3e-2)}[precision]
    assert all(low <= size <= high for size in away.values())
    check = artifact.check["main"]
    assert check["same"] and check["calls"] == 2 and check["outputs"]["total"]["relative_l2"] <= high
    kept = artifact.manifest["stages"]["main"]["kept_fp32"]
    assert [(row["value"], row["reason"]) for row in kept] == ([] if precision == "fp32" else [("scores", "a softmax")])
    weight = next(row for row in stage.weights if row["name"] == "weight")
    assert (weight["dtype"], weight["stored_bytes"]) == (precision, 1024 if precision == "fp32" else 512)
    assert (weight["error"] == 0) == (precision == "fp32") and weight["error"] < 1e-2
    assert artifact.source["name"] == "net.onnx"
    assert build_from_file(path, tmp_path / "out", Recipe(precision=precision)).reused
    with pytest.raises(UsageError, match="is another conversion"):
        build_from_file(path, tmp_path / "out", Recipe(precision="bf16" if precision != "bf16" else "fp16"))


def test_a_file_in_the_precision_asked_for_passes_through_and_another_is_refused(path, tmp_path):
    half = build_from_file(path, tmp_path / "half", Recipe(precision="fp16")).artifact.stages["main"].path
    assert held_precision(read(path)) == "fp32" and held_precision(read(half)) == "fp16"
    again = build_from_file(half, tmp_path / "again", Recipe(precision="fp16"))
    assert again.kept == {"main": []} and again.artifact.check["main"]["outputs"]["total"]["relative_l2"] == 0
    before, after = (onnx.load(each).graph for each in (half, again.artifact.stages["main"].path))
    assert [node.SerializeToString() for node in before.node] == [node.SerializeToString() for node in after.node]
    for precision in ("fp32", "bf16"):
        with pytest.raises(ModelError, match=f"main.onnx is in fp16 already, and {precision} was asked for") as caught:
            build_from_file(half, tmp_path / "other", Recipe(precision=precision))
        assert caught.value.fix == "--precision fp16, or the model in fp32"
    assert not (tmp_path / "other").exists()


def test_int8_is_calibrated_with_files_of_arrays(path, tmp_path):
    with pytest.raises(UsageError, match="int8-qdq needs samples"):
        build_from_file(path, tmp_path / "out", Recipe(precision="int8-qdq"))
    scales = []
    for size in (1, 4):
        samples = tmp_path / f"samples{size}.npz"
        np.savez(samples, rows=size * np.random.default_rng(1).standard_normal((4, 16)).astype(np.float32))
        recipe = Recipe(precision="int8-qdq", samples=(str(samples),))
        artifact = build_from_file(path, tmp_path / f"int8-{size}", recipe).artifact
        entry = artifact.manifest["stages"]["main"]
        scales.append(next(row["scale"] for row in entry["quantized"]["activations"] if row["value"] == "rows"))
        assert 1e-4 < artifact.check["main"]["compressed"]["total"]["relative_l2"] < 0.2 and not artifact.check["main"]["outputs"]
        assert next(row for row in artifact.stages["main"].weights if row["parameter"] == "weight")["compression"] == "int8"
        assert not (artifact.folder / "int8").exists()
    assert scales[1] == pytest.approx(4 * scales[0])
    assert artifact.manifest["inputs"] == "samples4.npz, which the calibration saw too"
    again = build_from_file(artifact.stages["main"].path, tmp_path / "again", Recipe(precision="int8-qdq"))
    assert again.artifact.check["main"]["same"] and again.artifact.identity()["weights"] == artifact.identity()["weights"]
    with pytest.raises(ModelError, match="is in int8-qdq already"):
        build_from_file(artifact.stages["main"].path, tmp_path / "twice", Recipe(precision="fp16"))


def test_numbers_beyond_the_range_are_found_and_nothing_is_written(tmp_path):
    path = model(
        tmp_path, "a = Mul(rows, large) b = Mul(a, large) total = Mul(b, small) scores = Tanh(rows)", large=3000, small=1e-7
    )
    with pytest.raises(DifferentModel, match=r"net.onnx in fp16 computes something else: main: total .* finite on one side only"):
        build_from_file(path, tmp_path / "out", Recipe(precision="fp16"))
    assert not (tmp_path / "out").exists()
    build_from_file(path, tmp_path / "out", Recipe(precision="bf16"))
    build_from_file(path, tmp_path / "kept", Recipe(precision="fp16", keep_fp32=("Mul",)))
    unchecked = build_from_file(path, tmp_path / "unchecked", Recipe(precision="fp16"), check=False)
    assert not unchecked.artifact.check and not unchecked.artifact.manifest["inputs"]


@pytest.mark.parametrize(("more", "said"), [
    ({"context": 9}, "--context means nothing for net.onnx"),
    ({"dynamic": ("batch",)}, "--dynamic means nothing for net.onnx"),
    ({"opset": 20}, "net.onnx is of operator set 17"),
    ({"keep_fp32": ("Conv",)}, "--keep-fp32 'Conv' keeps nothing"),
])  # fmt: skip
def test_what_means_nothing_for_a_file_is_said(more, said, path, tmp_path):
    with pytest.raises(UsageError, match=said):
        build_from_file(path, tmp_path / "out", Recipe(precision="fp16", **more))


def test_files_that_cannot_be_typed_are_refused(tmp_path):
    old = model(tmp_path, "total = MatMul(rows, weight) scores = Tanh(rows)", opset=9, ir=4)
    with pytest.raises(ModelError, match="net.onnx is of operator set 9") as caught:
        file_subject(old)
    assert "export it again" in caught.value.fix
    old.write_bytes(old.read_bytes()[:60])
    with pytest.raises(ModelError):
        file_subject(old)
    with pytest.raises(ModelError, match="there is no "):
        file_subject(tmp_path / "nowhere.onnx")


def test_a_file_is_typed_once_into_the_cache(path, tmp_path, monkeypatch):
    monkeypatch.setenv("WORKBENCH_CACHE", str(tmp_path / "cache"))
    said = []
    first = ensure(path, Recipe(precision="fp16"), said.append)
    assert Converted(first).label == "fp16" and first.is_relative_to(tmp_path / "cache")
    count = len(said)
    assert ensure(path, Recipe(precision="fp16"), said.append) == first and len(said) == count
    model(tmp_path, bias=np.ones(16))
    assert ensure(path, Recipe(precision="fp16"), said.append) != first


def test_random_arrays_fit_what_the_file_declares(tmp_path):
    head = "float[B, 3, S] x, int64[B, S] ids, bool[S] mask, float16[2] h) => (float[B, 3, S] y)"
    made = parser.parse_model(f'<ir_version: 8, opset_import: ["": 17]> net ({head} {{ y = Tanh(x) }}')
    made.metadata_props.add(key="workbench.ranges", value='{"S": [1, 5, 9]}')
    path = tmp_path / "net.onnx"
    path.write_bytes(made.SerializeToString())
    one, other = random_arrays(read(path))
    assert {name: (each.dtype.name, each.shape) for name, each in one.items()} == {
        "x": ("float32", (1, 3, 5)), "ids": ("int64", (1, 5)), "mask": ("bool", (5,)), "h": ("float16", (2,)),
    }  # fmt: skip
    assert set(np.unique([one["ids"], other["ids"]])) == {0, 1} and (one["x"] != other["x"]).any()
    assert (random_arrays(read(path))[0]["x"] == one["x"]).all()


def test_weights_beside_the_file_are_read_and_end_up_in_the_artifact(path, tmp_path):
    made = onnx.load(path)
    (tmp_path / "wide").mkdir()
    onnx.save(made, tmp_path / "wide" / "net.onnx", save_as_external_data=True, location="net.bin", size_threshold=0)
    beside = build_from_file(tmp_path / "wide" / "net.onnx", tmp_path / "one", Recipe(precision="fp16")).artifact
    inside = build_from_file(path, tmp_path / "two", Recipe(precision="fp16")).artifact
    assert beside.identity()["weights"] == inside.identity()["weights"]
    (tmp_path / "wide" / "net.bin").unlink()
    with pytest.raises(ModelError, match=r"net\.bin"):
        build_from_file(tmp_path / "wide" / "net.onnx", tmp_path / "three", Recipe(precision="fp16"))
