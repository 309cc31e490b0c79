"""``workbench convert --to onnx`` and ``--to tensorrt`` as a user types them: what is printed, refused and judged, and how it exits."""

import argparse
import json
import os
from pathlib import Path
from types import SimpleNamespace

import pytest

pytest.importorskip("torch")
pytest.importorskip("onnxscript")
pytest.importorskip("onnxruntime")
numpy = pytest.importorskip("numpy")

from tests.convert.readiness_graphs import graph, node  # noqa: E402
from tests.convert.small_modules import small  # noqa: E402
from workbench.cli import check_onnx, convert, convert_onnx, main  # noqa: E402
from workbench.errors import EXIT_DIFFERENT, EXIT_OK, EXIT_USAGE, DataError, ModelError, UsageError  # noqa: E402
from workbench.models.converted import Converted  # noqa: E402


def arguments(*words):
    parser = argparse.ArgumentParser()
    convert.add_parser(parser.add_subparsers())
    return parser.parse_args(["convert", *map(str, words)])


def run(*words):
    args = arguments(*words)
    return args.run(args)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A folder with small.py, its conversion to fp16, and what was printed."""
    folder = tmp_path_factory.mktemp("made")
    small(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        args = arguments("small.py:make", "--to", "tensorrt", "--precision", "fp16")
        _, printed = convert_onnx.convert(args)
    return folder, printed


@pytest.fixture
def here(made, monkeypatch):
    monkeypatch.chdir(made[0])
    return made[0]


def test_a_module_in_fp16_its_types_what_stays_fp32_the_check_and_the_verdict(made):
    folder, lines = made
    assert lines[0].startswith("small-make-onnx-fp16: Small, fp16, 1 stage, ") and "  main.onnx" in lines[1]
    assert "weights.data" in lines[2] and lines[2].endswith("weights")
    text = "\n".join(lines)
    assert "types: main: 5 ops give fp16, 2 ops give fp32" in lines
    assert "kept in fp32: main: 1 op (Softmax × 1)" in lines and "  1 × a softmax" in lines
    assert "check against torch, on seeded random inputs (relative L2 of the outputs)" in lines
    assert "  main: same, at most " in text and ", torch itself " in text and "; 2 calls; " in text
    assert "readiness for TensorRT, by operators.md of onnx/onnx-tensorrt at 7c51a63, 2026-06-24, for TensorRT 11.1" in lines
    assert "  main: 7 of 7 nodes are listed for v11.1; opset 20 is in its 9 to 24" in lines and "will build" not in text
    assert lines[-1] == "next: workbench capture tensorrt:./small-make-onnx-fp16 --inputs random"
    assert not any("no op of it computes" in line for line in lines)
    readiness = Converted(folder / "small-make-onnx-fp16").manifest["stages"]["main"]["readiness"]
    assert readiness["ok"] and readiness["overflow"]["applies"] and readiness["overflow"]["calls"] == 2


def test_the_same_folder_again_for_the_other_runtime_as_json(here, capsys):
    assert run("small.py:make", "--to", "onnx", "--precision", "fp16", "--json") == EXIT_OK
    said = capsys.readouterr()
    found = json.loads(said.out)
    assert said.err == "" and found["reused"] and found["label"] == "fp16" and found["next"].startswith("workbench capture onnx:")
    assert found["identity"] == Converted(Path("small-make-onnx-fp16")).identity() and "weights.data" in found["shared"]
    main_stage = found["stages"]["main"]
    assert (
        main_stage["types"] == {"fp16": 5, "fp32": 2} and main_stage["readiness"]["nodes"] == 7 and main_stage["quantized"] is None
    )
    assert main_stage["kept_fp32"][0]["reason"] == "a softmax" and {row["compression"] for row in main_stage["weights"]}


def test_a_folder_or_a_file_is_judged_without_being_converted(here, capsys):
    before = sorted(os.listdir())
    assert run("small-make-onnx-fp16", "--to", "tensorrt", "--check", "--for", "10.3") == EXIT_OK
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].endswith("at 73f629e, 2024-06-18, for TensorRT 10.0")
    assert "  main: 7 of 7 nodes are listed for v10.0; opset 20 is in its 9 to 20" in lines
    assert any(line.startswith("    memory, estimated: ") for line in lines) and any("no workspace" in line for line in lines)
    assert "    range: 0 of 5 values over 65,504 (on 2 calls of seeded random inputs)" in lines
    assert "  note: asked for TensorRT 10.3: the newest list that is not newer is that for 10.0" in lines
    assert lines[-1] == "all 7 nodes are listed for v10.0; whether an engine is made of them, only TensorRT says"
    numpy.savez("calls.npz", x=numpy.full((2, 64), 2.0, "f4"))
    for model in ("small-make-onnx-fp16", "small-make-onnx-fp16/main.onnx"):
        assert run(model, "--to", "onnx", "--check", "--inputs", "calls.npz", "--json") == EXIT_OK
        (found,) = json.loads(capsys.readouterr().out)["readiness"].values()
        assert found["overflow"]["ran"] == "fp16" and found["overflow"]["inputs"] == "calls.npz"
    os.remove("calls.npz")
    assert sorted(os.listdir()) == before


def test_what_is_not_listed_exits_1(tmp_path, capsys):
    nodes = [node("Unique", ["x"], ["u", "", "", ""]), node("QuickGelu", ["x"], ["q"], domain="com.microsoft")]
    path = graph(tmp_path, nodes, {"x": ("FLOAT", [8])}, domains={"com.microsoft": 1})
    assert main.main(["convert", str(path), "--to", "tensorrt", "--check"]) == EXIT_DIFFERENT
    lines = capsys.readouterr().out.splitlines()
    assert "    not listed: Unique × 1 (u): is listed as not supported for v11.1" in lines
    assert any(line.startswith("    not listed: com.microsoft.QuickGelu × 1 (q): operators of the domain") for line in lines)
    assert "    depends on the data: Unique × 1: how many values it finds is known when it has run" in lines
    assert lines[-1] == "not all is listed for v11.1, or in range: graph.onnx"
    assert main.main(["convert", str(path), "--to", "tensorrt", "--check", "--json"]) == EXIT_DIFFERENT
    assert json.loads(capsys.readouterr().out)["failed"] is True


def test_a_value_over_its_range_exits_1(tmp_path, capsys):
    path = graph(tmp_path, [node("Mul", ["x", "x"], ["y"]), node("Abs", ["y"], ["z"])], {"x": ("FLOAT16", [2])})
    numpy.savez(tmp_path / "big.npz", x=numpy.array([300, 1], "f2"))
    words = [path, "--to", "tensorrt", "--check", "--inputs", tmp_path / "big.npz"]
    assert run(*words) == EXIT_DIFFERENT
    assert "    range: 2 of 2 values over 65,504: y (not finite), z (not finite) (on 1 call of big.npz)" in capsys.readouterr().out


def test_a_model_is_judged_and_nothing_is_written_and_calibration_is_shown(here, capsys, monkeypatch):
    before = sorted(os.listdir())
    numpy.savez("calibrate.npz", x=numpy.random.default_rng(2).standard_normal((2, 64)).astype("f4"))
    words = ["small.py:make", "--to", "tensorrt", "--precision", "int8-qdq", "--calibrate", "calibrate.npz"]
    kept = []
    build = convert_onnx.built
    monkeypatch.setattr(convert_onnx, "built", lambda *given: kept.append(found := build(*given)) or found)
    assert run(*words, "--check") == EXIT_OK
    said = capsys.readouterr()
    assert "nodes are listed for v11.1" in said.out and "calibrating main (max)" in said.err and "against torch" not in said.err
    report = kept[0].artifact.manifest["stages"]["main"]["quantized"]
    lines = list(convert_onnx.quantized("main", report))
    assert lines[0] == (
        "int8: main: max over 1 call of calibrate.npz: Q/DQ before 2 of 2 products, 2 weights per channel, 2 activations per tensor"
    )
    assert (
        lines[1] == "  Gemm wide: Q/DQ on x and its weight" and lines[2].startswith("  Gemm narrow: Q/DQ on ") and len(lines) == 3
    )
    left = {**report, "placement": [], "left": [{"reason": "no weight"}] * 2}
    assert list(convert_onnx.quantized("main", left))[1:] == ["  without Q/DQ: 2 × no weight"]
    os.remove("calibrate.npz")
    assert sorted(os.listdir()) == before and not kept[0].folder.exists()


def test_an_onnx_file_is_typed_and_judged(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    weights = {"w": numpy.random.default_rng(1).standard_normal((64, 64)).astype("f4")}
    graph(
        tmp_path,
        [node("MatMul", ["x", "w"], ["a"]), node("Softmax", ["a"], ["y"])],
        {"x": ("FLOAT", [2, 64])},
        weights,
        name="net.onnx",
    )
    assert run("net.onnx", "--to", "tensorrt", "--precision", "fp16") == EXIT_OK
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("net-onnx-fp16: graph, fp16, 1 stage") and "kept in fp32: main: 1 op (Softmax × 1)" in lines
    assert "check against the file in fp32, on seeded random inputs (relative L2 of the outputs)" in lines
    assert any(line.startswith("  main: same, at most ") for line in lines) and any(
        "nodes are listed for v11.1" in line for line in lines
    )
    numpy.savez("samples.npz", x=numpy.ones((2, 64), "f4"))
    assert run("net.onnx", "--to", "onnx", "--precision", "int8-qdq", "--calibrate", "samples.npz") == EXIT_OK
    lines = capsys.readouterr().out.splitlines()
    assert any(line.startswith("  main: measured alone; ") and "; compressed: " in line for line in lines)
    before = sorted(os.listdir())
    assert (
        run("net.onnx", "--to", "tensorrt", "--precision", "bf16", "--check", "--inputs", "samples.npz", "--for", "10.0") == EXIT_OK
    )
    said = capsys.readouterr().out
    assert "values over 3.39e+38 (on 1 call of samples.npz)" in said and sorted(os.listdir()) == before


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--for", "11.1"], "--for is about --check"),
        (["--check", "--out", "there"], "--check writes nothing"),
        (["--check", "--no-check"], "--check and --no-check are not asked for together"),
        (["--check", "--for", "8.6"], "no table for TensorRT 8.6"),
        (["--no-check", "--inputs", "a.npz"], "--inputs are for the check"),
        (["--limit", "3"], "--limit is about --inputs"),
        (["--precision", "fp8"], "fp8"),
        (["--calibrate", "demo"], "calibrate means nothing in fp32"),
        (["--precision", "int8-qdq"], "needs samples"),
        (["--dynamic", "width"], "width"),
        (["--quantize", "int8"], "--quantize does nothing for --to tensorrt"),
        (["--stateful-kv"], "--stateful-kv does nothing for --to tensorrt"),
        (["--bits", "4"], "--bits does nothing for --to tensorrt"),
    ],
)
def test_what_is_refused(here, words, message):
    with pytest.raises(UsageError, match=message) as caught:
        run("small.py:make", "--to", "tensorrt", *words)
    assert caught.value.exit_code == EXIT_USAGE


def test_options_of_onnx_are_refused_for_core_ml(here):
    for words in (["--opset", "20"], ["--dynamic", "batch"], ["--check"], ["--calibration", "max"]):
        with pytest.raises(UsageError, match="does nothing for --to coreml") as caught:
            run("small.py:make", "--to", "coreml", *words)
        assert "--to onnx, --to tensorrt" in caught.value.why


def test_a_folder_takes_no_options_of_a_conversion(here, monkeypatch, tmp_path):
    with pytest.raises(UsageError, match="--precision does nothing: small-make-onnx-fp16 is converted already"):
        run("small-make-onnx-fp16", "--to", "tensorrt", "--check", "--precision", "bf16")
    monkeypatch.setattr(check_onnx, "Converted", lambda folder: SimpleNamespace(runs_on=("coreml",), runtime="coreml"))
    with pytest.raises(UsageError, match="is of coreml programs"):
        run("small-make-onnx-fp16", "--to", "tensorrt", "--check")
    (tmp_path / "bad.onnx").write_bytes(b"\x08\x99 no model")
    with pytest.raises(ModelError, match="damaged, or no ONNX file"):
        run(tmp_path / "bad.onnx", "--to", "tensorrt", "--check")
    with pytest.raises(DataError, match="cannot be read as named arrays"):
        run("small-make-onnx-fp16/main.onnx", "--to", "tensorrt", "--check", "--inputs", "none.npz")


def test_where_it_goes_and_what_the_options_say(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    seen = []
    monkeypatch.setattr("workbench.convert.subject.subject_of", lambda text: SimpleNamespace(name=text, folder=None))
    monkeypatch.setattr("workbench.convert.onnx.build.build", lambda subject, out, recipe, **more: seen.append((out, recipe, more)))
    words = ["--precision", "int8-qdq", "--calibrate", "a.npz,b.npz", "--calibration", "entropy", "--calibrate-limit", "5"]
    for more in ([], ["--dynamic", "batch,seq", "--context", "64"], ["--dynamic", "none", "--opset", "21"], words):
        convert_onnx.built(arguments("ORG/tiny", "--to", "onnx", "--no-check", *more), None, print)
    assert [str(out) for out, _, _ in seen] == [
        *("tiny-onnx", "tiny-onnx-seq-batch-context64", "tiny-onnx-static-opset21"),
        "tiny-onnx-int8-qdq-entropy",
    ]
    assert seen[3][1].samples == ("a.npz", "b.npz") and seen[3][1].samples_limit == 5 and seen[1][1].dynamic == ("seq", "batch")
    assert all(more["feeds"] is None and more["check"] is False for _, _, more in seen)
