"""Captures of models converted to ONNX: the values of their graphs under the names that a torch capture gives its layers."""

from __future__ import annotations

from pathlib import Path

import pytest

for name in ("torch", "onnx", "onnxruntime", "onnxscript", "transformers"):
    pytest.importorskip(name, reason="pip install 'parity-workbench[torch,onnx]'")

from onnx import TensorProto, helper, save  # noqa: E402

from tests.convert.onnx_models import converted_onnx  # noqa: E402
from workbench.capture.session import capture_layers  # noqa: E402
from workbench.capture.stage_graph import stage_graph  # noqa: E402
from workbench.errors import UsageError  # noqa: E402
from workbench.models.converted import ConvertedStage  # noqa: E402
from workbench.parity.ladder import compare  # noqa: E402
from workbench.run.layer_records import LayerRecords  # noqa: E402
from workbench.run.verify import verify  # noqa: E402

TASK = "mmstar-sample"


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("captures")


@pytest.fixture(scope="module")
def reference(runs):
    return capture_layers("demo:vlm@torch", TASK, limit=1, keep=True, runs=runs)


@pytest.fixture(scope="module")
def folder() -> str:
    return str(converted_onnx("demo:vlm"))


@pytest.fixture(scope="module")
def run(folder, reference, runs):
    return capture_layers(f"onnx:{folder}", reference, keep=True, runs=runs)


def passes(run):
    records = LayerRecords(run)
    return records.read(next(iter(records.lines))).passes


def layers(found) -> dict:
    return {row["layer"]: row for row in found.rung(3).facts["layers"]}


def test_the_layers_have_the_projects_names_and_agree_with_torch(reference, run):
    found = compare(reference, run)
    assert found.verdict.name == "AGREE" and found.rung(1).status == "same" and found.rung(2).status == "same"
    compared = {name for name, row in layers(found).items() if row["times_own"] is not None}
    assert {"vision.block.0", "vision.input", "projector", "text.input", "text.block.1", "text.norm", "logits"} <= compared
    assert found.rung(3).status == "close" and max(row["times_own"] or 0 for row in layers(found).values()) < 10
    assert found.rung(4).status in ("same", "close") and found.rung(5).status == found.rung(6).status == "not run"


def test_both_readings_are_recorded_and_that_looking_changes_one_is_said(run, reference):
    assert list(passes(run)) == ["float32", "pure"] and set(passes(run)["pure"]) == set(passes(run)["float32"])
    assert any("keeps ONNX Runtime from fusing" in event.get("text", "") for event in run.events())
    assert run.manifest["evidence"] == "host" and {line["timing"] for line in run.items().values()} == {None}
    for line in run.items().values():
        assert line["capture"]["causality"]["moved"] <= 1e-5 * line["capture"]["causality"]["largest"]
        assert line["capture"]["replayed"] == reference.manifest["run_key"][:12]
    assert not [each for each in verify(run) if each.level == "failed"]


def test_every_layer_says_where_the_graph_computes_it(run):
    block = passes(run)["float32"]["text.block.1"].line
    assert block["origin"]["stage"] == "prefill" and block["path"] == f"prefill/{block['origin']['value']}"
    assert block["origin"]["module"].endswith("layers.1") and block["origin"]["line"].startswith("modeling_llama.py:")
    assert "half" not in block


def test_what_stands_in_for_tensorrt_is_the_pure_reading(folder, reference, run, runs):
    made = capture_layers(f"tensorrt:{folder}?executor=reference", reference, keep=True, runs=runs)
    assert made.manifest["evidence"] == "reference" and list(passes(made)) == ["float32"]
    assert compare(reference, made).verdict.name == "AGREE"
    pure, here = passes(run)["pure"], passes(made)["float32"]
    assert all((pure[name].values == here[name].values).all() for name in here), "one graph, read as it is written"
    with pytest.raises(UsageError, match="'pure' is not to be had here") as caught:
        capture_layers(f"tensorrt:{folder}?executor=reference", reference, also=["pure"], runs=runs)
    assert "of tensorrt there is one reading only" in caught.value.why


def test_what_cannot_be_asked_for_is_refused(folder, reference, tmp_path):
    for given, more, words in (
        ("", {"localise": True}, "cannot be localised"),
        ("", {"also": ["bfloat16"]}, "unknown reading 'bfloat16'"),
        ("", {"also": ["emulate"]}, "'emulate' is not to be had"),
        ("?reading=pure", {"also": ["pure"]}, "'pure' is not to be had"),
        ("", {"layers": ["nothing"]}, "no layer matches nothing"),
    ):
        with pytest.raises(UsageError, match=words):
            capture_layers(f"onnx:{folder}{given}", reference, runs=tmp_path, **more)


def test_a_decoder_that_reads_a_token_a_call_compares_with_one_pass(runs):
    for library in ("soundfile", "soxr"):
        pytest.importorskip(library, reason="pip install 'parity-workbench[speech]'")
    before = capture_layers("demo:stt@torch", "asr-sample", limit=1, keep=True, runs=runs)
    after = capture_layers(f"onnx:{converted_onnx('demo:stt')}", before, keep=True, also=["none"], runs=runs)
    found = compare(before, after)
    assert found.verdict.name == "AGREE" and found.rung(4).status in ("same", "close")
    compared = {name for name, row in layers(found).items() if row["times_own"] is not None}
    assert {"audio.input", "audio.block.1", "audio.norm", "text.input", "text.block.0", "text.norm", "logits"} <= compared
    assert passes(after)["float32"]["text.block.1"].line["calls"] > 4


def test_a_graph_is_read_with_what_its_branches_read(tmp_path):
    inner = helper.make_graph(
        [helper.make_node("Add", ["half", "half"], ["inside"])],
        "then",
        [],
        [helper.make_tensor_value_info("inside", TensorProto.FLOAT16, [2])],
    )
    nodes = [
        helper.make_node("Cast", ["x"], ["half"], to=TensorProto.FLOAT16),
        helper.make_node("Neg", ["constant"], ["folded"]),
        helper.make_node("If", ["which"], ["chosen"], then_branch=inner, else_branch=inner),
        helper.make_node("Cast", ["chosen"], ["y"], to=TensorProto.FLOAT),
    ]
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [2]) for name in ("x", "y")]
    constants = [
        helper.make_tensor("constant", TensorProto.FLOAT, [2], [1, 2]),
        helper.make_tensor("which", TensorProto.BOOL, [], [1]),
    ]
    graph = helper.make_graph(nodes, "graph", ends[:1], ends[1:], constants)
    save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9), tmp_path / "graph.onnx")
    found = stage_graph(ConvertedStage("main", tmp_path / "graph.onnx", None, (), ()))
    assert list(found.order) == ["half", "chosen", "y"] and found.half == {"half", "chosen", "y"}
    assert found.ops[2].inner[:2] == ("half", "half")
