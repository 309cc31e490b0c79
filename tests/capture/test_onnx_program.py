"""The capture of one ONNX file: every float of its graph by its own name, on named arrays, in the readings that there are."""

from __future__ import annotations

import json

import numpy as np
import pytest

onnx = pytest.importorskip("onnx", reason="pip install 'parity-workbench[onnx]'")
pytest.importorskip("onnxruntime", reason="pip install 'parity-workbench[onnx]'")
from onnx import TensorProto, helper, numpy_helper  # noqa: E402

from workbench.backends.onnx_file import read  # noqa: E402
from workbench.capture.onnx_program import artifact_of  # noqa: E402
from workbench.capture.session import capture_layers  # noqa: E402
from workbench.cli.main import main  # noqa: E402
from workbench.errors import ModelError, UsageError  # noqa: E402
from workbench.parity.ladder import compare  # noqa: E402
from workbench.run.layer_records import LayerRecords  # noqa: E402
from workbench.run.verify import verify  # noqa: E402

WIDTH, HIDDEN = 16, 48
drawn = np.random.default_rng(3)
WEIGHTS = {
    "up.weight": drawn.normal(size=(WIDTH, HIDDEN)).astype(np.float32) / 4,
    "down.weight": drawn.normal(size=(HIDDEN, WIDTH)).astype(np.float32) / 7,
    "bias": drawn.normal(size=(HIDDEN,)).astype(np.float32),
}


def write(path, *, kind=TensorProto.FLOAT, damage=None):
    """x @ up + bias, relu, @ down, softmax; ``damage``: what is added to one weight. Of a low type the inputs and outputs stay float32."""
    numpy_kind = helper.tensor_dtype_to_np_dtype(kind)
    weights = {**WEIGHTS, **({"down.weight": WEIGHTS["down.weight"] + np.float32(damage)} if damage else {})}
    low = kind != TensorProto.FLOAT
    nodes = [
        *([helper.make_node("Cast", ["x"], ["x_low"], to=kind)] if low else []),
        helper.make_node("MatMul", ["x_low" if low else "x", "up.weight"], ["/mlp/up"]),
        helper.make_node("Add", ["/mlp/up", "bias"], ["sum"]),
        helper.make_node("Relu", ["sum"], ["active"]),
        helper.make_node("MatMul", ["active", "down.weight"], ["down"]),
        helper.make_node("Softmax", ["down"], ["shares_low" if low else "shares"], axis=-1),
        *([helper.make_node("Cast", ["shares_low"], ["shares"], to=TensorProto.FLOAT)] if low else []),
    ]
    graph = helper.make_graph(
        nodes,
        "mlp",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["rows", WIDTH])],
        [helper.make_tensor_value_info("shares", TensorProto.FLOAT, ["rows", WIDTH])],
        [numpy_helper.from_array(value.astype(numpy_kind), name) for name, value in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
    entry = model.metadata_props.add()
    entry.key, entry.value = "workbench.ranges", json.dumps({"rows": [1, 5, 9]})
    onnx.save(model, path)
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two graphs, plain and in float16, and arrays."""
    made = tmp_path_factory.mktemp("graphs")
    write(made / "model.onnx")
    write(made / "half.onnx", kind=TensorProto.FLOAT16)
    write(made / "wrong.onnx", damage=0.1)
    np.savez(made / "given.npz", x=np.random.default_rng(0).normal(size=(3, WIDTH)))
    return made


@pytest.fixture(scope="module")
def run(folder):
    return capture_layers(f"onnx:{folder}/model.onnx", folder / "given.npz", keep=True, runs=folder / "runs")


def values(run, which=None):
    passes = LayerRecords(run).read(next(iter(run.items()))).passes
    records = passes[which or next(iter(passes))]
    return {name: record.values.reshape(record.line["shape"]) for name, record in records.items()}, passes


def test_every_value_is_what_numpy_computes(run, folder):
    x = np.load(folder / "given.npz")["x"].astype(np.float32)
    total = x @ WEIGHTS["up.weight"] + WEIGHTS["bias"]
    found, passes = values(run)
    assert list(passes) == ["float32", "pure"], "the graph as it is written, beside what ONNX Runtime makes of it"
    assert set(found) == {"mlp_up", "sum", "active", "down", "output.shares"}
    assert passes["float32"]["mlp_up"].line["path"] == "/mlp/up"
    for name, wanted in (("sum", total), ("active", np.maximum(total, 0)), ("down", np.maximum(total, 0) @ WEIGHTS["down.weight"])):
        assert np.abs(found[name] - wanted).max() < 1e-5 and np.abs(values(run, "pure")[0][name] - wanted).max() < 1e-5


def test_the_bundle_says_what_ran_and_holds_no_times(run):
    assert run.manifest["evidence"] == "host" and run.manifest["key"]["backend"]["setup.provider"] == "CPUExecutionProvider"
    assert set(run.manifest["key"]["libraries"]) == {"onnxruntime", "numpy"}
    assert {line["timing"] for line in run.items().values()} == {None}
    assert any("keeps ONNX Runtime from fusing" in event.get("text", "") for event in run.events())
    assert set(run.artifact["tensors"]) == set(WEIGHTS) and run.artifact["bytes"] > 0
    assert not [each for each in verify(run) if each.level == "failed"]
    again = capture_layers(run.manifest["model"]["text"].replace("onnx:", f"onnx:{run.folder.parent.parent}/"), run.folder.parent.parent / "given.npz", keep=True, runs=run.folder.parent)  # fmt: skip
    assert again.was_complete


def test_two_runtimes_compare_and_a_wrong_weight_is_found(run, folder):
    reference = capture_layers(
        f"tensorrt:{folder}/model.onnx?executor=reference", folder / "given.npz", keep=True, runs=folder / "runs"
    )
    assert reference.manifest["evidence"] == "reference" and reference.manifest["device"]["kind"] == "reference"
    assert list(values(reference)[1]) == ["float32"]
    found = compare(run, reference)
    assert found.rung(1).status == "same" and found.rung(2).status == "same"
    assert max(row["relative_rms"] for row in found.rung(3).facts["layers"]) < 1e-6
    wrong = capture_layers(f"onnx:{folder}/wrong.onnx", folder / "given.npz", keep=True, runs=folder / "runs")
    rows = {row["layer"]: row for row in compare(run, wrong).rung(3).facts["layers"]}
    assert rows["active"]["relative_rms"] < 1e-6 and rows["down"]["relative_rms"] > 1e-2


def test_a_graph_in_float16_has_the_same_names(run, folder):
    half = capture_layers(f"onnx:{folder}/half.onnx", folder / "given.npz", keep=True, runs=folder / "runs")
    found, passes = values(half)
    assert list(passes) == ["float16", "pure"] and set(found) == set(values(run)[0])
    assert 0 < np.abs(found["down"] - values(run)[0]["down"]).max() < 1e-2


def test_a_file_is_typed_before_it_is_looked_into(run, folder, tmp_path, monkeypatch):
    pytest.importorskip("onnxscript", reason="pip install 'parity-workbench[onnx]'")
    monkeypatch.setenv("WORKBENCH_CACHE", str(tmp_path))
    given = f"tensorrt:{folder}/model.onnx?precision=fp16&executor=reference"
    half = capture_layers(given, folder / "given.npz", keep=True, runs=folder / "runs")
    found, passes = values(half)
    assert list(passes) == ["float16"] and set(found) == set(values(run)[0]) and half.manifest["evidence"] == "reference"
    assert 0 < np.abs(found["down"] - values(run)[0]["down"]).max() < 1e-2
    assert half.manifest["model"]["text"] == "tensorrt:model.onnx?executor=reference&precision=fp16"
    rows = {row["layer"]: row for row in compare(run, half).rung(3).facts["layers"]}
    assert set(rows) == set(found) and all(row["reason"] is None for row in rows.values())
    with pytest.raises(UsageError, match="keep_fp32=MatMul means nothing in fp32"):
        capture_layers(f"onnx:{folder}/model.onnx?keep_fp32=MatMul", folder / "given.npz", runs=tmp_path / "runs")
    assert "only in" not in compare(run, half).rung(1).finding, "indices that the converter adds are no weights"
    (made,) = (each for each in (tmp_path / "onnx").iterdir() if each.is_dir())
    whole = capture_layers(f"onnx:{made}", folder / "given.npz", keep=True, runs=folder / "runs")
    assert whole.manifest["model"]["text"] == f"onnx:{made.name}/main.onnx", "the folder of one program is that program"
    assert set(values(whole)[0]) == set(found) and list(values(whole)[1]) == ["float16", "pure"]
    with pytest.raises(UsageError, match="contradicts"):
        capture_layers(f"onnx:{made}?precision=bf16", folder / "given.npz", runs=folder / "runs")


def test_weights_in_constant_nodes_are_weights_and_indices_are_not(folder):
    model = onnx.load(folder / "model.onnx")
    held = next(each for each in model.graph.initializer if each.name == "bias")
    nodes = [
        helper.make_node("Constant", [], ["bias"], value=held),
        helper.make_node("Constant", [], ["axis"], value=numpy_helper.from_array(np.array([1]))),
    ]
    model.graph.initializer.remove(held)
    for node in nodes:
        model.graph.node.insert(0, node)
    onnx.save(model, folder / "constants.onnx")
    assert set(artifact_of(read(folder / "constants.onnx"))["tensors"]) == set(WEIGHTS)


def test_random_numbers_are_of_the_typical_size(folder, tmp_path):
    made = capture_layers(f"onnx:{folder}/model.onnx", "random", also=["none"], runs=tmp_path)
    (line,) = made.items().values()
    assert "seed 0" in line["input"]["text"] and f"x 5×{WIDTH}" in line["input"]["text"]
    assert list(values_of(made)) == ["float32"]


def values_of(run):
    return LayerRecords(run).read(next(iter(run.items()))).passes


def test_what_does_not_fit_is_said(folder, tmp_path, capsys):
    model, arrays = f"onnx:{folder}/model.onnx", folder / "given.npz"
    np.savez(tmp_path / "other.npz", y=np.zeros((3, WIDTH)))
    for spec, given, more, error, words in (
        (model, tmp_path / "other.npz", {}, UsageError, "it lacks x"),
        (model, "demo", {}, UsageError, "is no input of one program"),
        (f"{model}?units=ALL", arrays, {}, UsageError, "takes no option 'units'"),
        (f"{model}?batch_size=2", arrays, {}, UsageError, "takes no option 'batch_size'"),
        (model, arrays, {"also": ["float64"]}, UsageError, "'float64' is not to be had"),
        (f"coreml:{folder}/model.onnx", arrays, {}, UsageError, "is no program of coreml"),
        (f"onnx:{tmp_path}/none.onnx", arrays, {}, ModelError, "there is no none.onnx"),
    ):
        with pytest.raises(error) as caught:
            capture_layers(spec, given, runs=tmp_path / "runs", **more)
        assert words in str(caught.value)
    assert not (tmp_path / "runs").exists()
    assert main(["capture", model, "--inputs", str(arrays), "--runs", str(tmp_path / "cli"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["layers"] == 5
