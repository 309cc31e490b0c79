"""``workbench mil check`` and ``mil run``: what they print, write and return."""

import json

import numpy
import pytest

for runtime in ("torch", "coremltools"):
    pytest.importorskip(runtime)

from tests.capture import program_models  # noqa: E402
from tests.capture.program_models import example, make, onnx_file, package, with_other_op  # noqa: E402
from workbench.cli.main import main  # noqa: E402
from workbench.cli.mil_check import LINE, aligned  # noqa: E402

FACTORY = f"{program_models.__file__}:make"
DAMAGED = f"{program_models.__file__}:damaged"


@pytest.fixture(scope="module")
def packages(tmp_path_factory):
    folder = tmp_path_factory.mktemp("packages")
    return {half: package(folder / f"net{16 if half else 32}.mlpackage", half=half) for half in (False, True)}


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    numpy.savez("x.npz", x=example().numpy())
    return tmp_path


def call(capsys, *words):
    code = main(["mil", *map(str, words)])
    return code, *capsys.readouterr()


def test_check_against_a_factory_agrees_and_says_how(packages, here, capsys):
    code, out, _ = call(capsys, "check", packages[True], "--against", FACTORY, "--inputs", "x.npz")
    assert code == 0 and "AGREE: coreml:net16.mlpackage and torch:program_models.py:make" in out
    for words in (
        "op       count  opset  precision  support",
        "linear   3      iOS17  fp16       supported",
        "reference execution on torch",
    ):
        assert words in out
    for reading in ("fp16, as it is written", "emulate", "only the stored values are fp16", "no rounding (float64)"):
        assert reading in out
    assert "linear_1" in out and "by its name" in out and "arrays of x.npz" in out
    assert (
        out.index("supported")
        < out.index("outputs, measured from")
        < out.index("AGREE")
        < out.index("report: ")
        < out.index("next: ")
    )
    for claim in ("Neural Engine result", "on device", "milliseconds", " ms", "faster", "seconds"):
        assert claim not in out
    report = here / out.split("report: ")[1].split("\n")[0]
    assert report.is_file() and "Reference execution on torch" in report.read_text()


def test_what_check_wrote_compares_again_without_a_runtime(packages, here, capsys):
    code, out, _ = call(capsys, "check", packages[False], "--against", FACTORY, "--json")
    said = json.loads(out)
    assert code == 0 and main(["parity", said["twin_capture"], said["capture"]]) == 0
    assert main(["report", said["twin_capture"], said["capture"], "--json"]) == 0
    assert main(["verify", said["capture"]]) == 0 and main(["verify", said["twin_capture"]]) == 0
    code, again, _ = call(capsys, "check", packages[False], "--against", FACTORY, "--json")
    assert code == 0 and json.loads(again.splitlines()[-1])["was_complete"] is True


def test_check_against_a_damaged_twin_is_different(packages, here, capsys):
    code, out, _ = call(capsys, "check", packages[False], "--against", DAMAGED)
    assert code == 1 and "DIFFERENT" in out and "The error jumps in linear:" in out


def test_json_is_one_object_with_all_of_it(packages, here, capsys):
    code, out, _ = call(capsys, "check", packages[True], "--against", FACTORY, "--json")
    said = json.loads(out)
    assert code == said["exit_code"] == 0 and said["execution"] == "reference execution on torch"
    assert said["comparison"]["verdict"]["name"] == "AGREE" and said["unsupported"] == []
    (scores, _) = said["outputs"]
    assert (scores["output"], scores["twin"], scores["how"]) == ("linear_1", "linear_1", "by its name")
    assert set(scores["readings"]) == {"float16", "float64", "emulate", "fp16-weights"}
    exact, own = (scores["readings"][name]["snr_db"] for name in ("fp16-weights", "float16"))
    assert 40 < own < 120 and exact > 40
    assert {row["type"] for row in said["program"]["ops"]} >= {"linear", "gelu", "softmax"}
    assert "random numbers, seed 0" in said["inputs"][0]
    assert not [name for name in names_in(said) if "second" in name or "timing" in name]


def names_in(value):
    if isinstance(value, dict):
        for name, each in value.items():
            yield name
            yield from names_in(each)
    elif isinstance(value, list):
        for each in value:
            yield from names_in(each)


def test_without_a_twin_the_band_is_measured_from_float64(packages, here, capsys):
    code, out, _ = call(capsys, "check", packages[True], "--random", "2")
    assert code == 0 and "outputs, measured from the program without rounding (float64)" in out
    assert "random numbers, seed 1" in out and "AGREE" not in out and "--against" in out
    assert main(["mil", "check", str(packages[True]), "--random", "0"]) == 2


def test_unknown_ops_are_all_listed_and_nothing_is_run(packages, here, capsys):
    path = with_other_op(packages[False], here / "odd.mlpackage", "gelu", "no_such_op")
    path = with_other_op(path, here / "odder.mlpackage", "softmax", "nor_this")
    code, out, _ = call(capsys, "check", path)
    assert code == 2 and "no_such_op" in out.split("not run")[1] and "nor_this" in out.split("not run")[1]
    assert not (here / "reports").exists()
    code, out, _ = call(capsys, "check", path, "--json")
    assert code == 2 and {row["type"] for row in json.loads(out)["unsupported"]} == {"no_such_op", "nor_this"}


def test_an_output_that_cannot_be_told_is_inconclusive_until_it_is_named(here, capsys):
    pytest.importorskip("onnxruntime")
    twins = here / "twins.py"
    twins.write_text(
        "import torch\nclass Twins(torch.nn.Module):\n    def __init__(self):\n        super().__init__()\n"
        "        self.first = torch.nn.Linear(12, 8)\n"
        "    def forward(self, x):\n        y = self.first(x)\n        return y + 1e-9, y * 1.0000001\n"
    )
    from workbench.models.factories import call_factory

    model = call_factory(f"{twins}:Twins").eval()
    import torch

    program = torch.export.export(model, (example(),)).run_decompositions({})
    path = package(here / "two.mlpackage", source=program)
    graph = two_outputs(here / "two.onnx", model)
    code, out, _ = call(capsys, "check", path, "--against", graph)
    assert code == 4 and "could not be matched; say which it is with --map" in out
    names = [each.split(":")[0].strip() for each in out.split("outputs: ")[1].split("\n")[0].split(";")]
    code, out, _ = call(capsys, "check", path, "--against", graph, "--map", f"{names[0]}=p", "--map", f"{names[1]}=q")
    assert code == 0 and "named by --map" in out


def two_outputs(path, model):
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    held = [numpy_helper.from_array(value.numpy(), name) for name, value in model.state_dict().items()]
    nodes = [helper.make_node("Gemm", ["x", "first.weight", "first.bias"], [name], transB=1) for name in "pq"]
    made = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [2, 8]) for name in "pq"]
    graph = helper.make_graph(nodes, "two", [helper.make_tensor_value_info("x", TensorProto.FLOAT, [2, 12])], made, held)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9), path)
    return path


def test_check_against_onnx(packages, here, capsys):
    pytest.importorskip("onnxruntime")
    code, out, _ = call(capsys, "check", packages[False], "--against", onnx_file(here / "net.onnx"))
    assert code == 0 and "= a, holds the same values" in out and "AGREE" in out


@pytest.mark.parametrize(
    "words",
    [
        ("check", "absent.mlpackage"),
        ("check", "PACKAGE", "--against", "absent.onnx"),
        ("check", "PACKAGE", "--map", "a=b"),
        ("check", "PACKAGE", "--against", FACTORY, "--map", "nonsense"),
        ("check", "PACKAGE", "--against", FACTORY, "--map", "absent=there"),
        ("check", "PACKAGE", "--inputs", "absent.npz"),
        ("check", "PACKAGE", "--inputs", "x.npz", "--random", "2"),
        ("check", "PACKAGE", "--function", "absent"),
        ("run", "absent.mlpackage"),
        ("run", "PACKAGE", "--steps", "0"),
        ("run", "PACKAGE", "--steps", "2"),
        ("run", "PACKAGE", "--out", "o.txt"),
        ("run", "PACKAGE", "--inputs", "x.npz", "--inputs", "x2.npz"),
    ],
)
def test_what_is_wrong_is_said_with_exit_code_2(packages, here, capsys, words):
    numpy.savez("x2.npz", x=example().numpy())
    code, _, err = call(capsys, *(packages[False] if word == "PACKAGE" else word for word in words))
    assert code == 2 and err.startswith("workbench: ") and "Traceback" not in err


def test_inputs_of_a_wrong_shape_or_with_nan_are_refused(packages, here, capsys):
    numpy.savez("wide.npz", x=numpy.zeros((2, 13), numpy.float32))
    numpy.savez("nan.npz", x=numpy.full((2, 12), numpy.nan, numpy.float32))
    for name in ("wide.npz", "nan.npz"):
        code, _, err = call(capsys, "check", packages[False], "--inputs", name)
        assert code == 2 and "'x'" in err


@pytest.mark.parametrize("library", ["coremltools", "torch"])
def test_a_missing_library_is_exit_code_3_with_what_to_type(packages, library, here):
    import subprocess
    import sys

    program = f"import sys; sys.modules[{library!r}] = None; from workbench.cli.main import main; sys.exit(main(['mil', 'check', {str(packages[False])!r}]))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, env=environment())
    assert done.returncode == 3 and "pip install" in done.stderr and "Traceback" not in done.stderr


def environment():
    import os
    from pathlib import Path

    import workbench

    return {**os.environ, "PYTHONPATH": str(Path(workbench.__file__).parent.parent)}


def test_run_gives_the_models_outputs(packages, here, capsys):
    code, out, _ = call(capsys, "run", packages[False], "--inputs", "x.npz", "--out", "o.npz")
    assert code == 0 and "reference execution on torch" in out and "linear_1  float32[2, 8]" in out
    wanted = make()(example())
    with numpy.load("o.npz") as found:
        for array, value in zip(found.values(), wanted, strict=True):
            numpy.testing.assert_allclose(array, value.detach().numpy(), atol=1e-6)


def test_run_in_every_reading_and_as_json(packages, here, capsys):
    found = {}
    for reading in ("native", "emulate", "fp16-weights", "float64"):
        code, out, _ = call(capsys, "run", packages[True], "--inputs", "x.npz", "--precision", reading, "--json")
        said = json.loads(out)
        assert code == 0 and said["precision"] == reading and said["outputs"][0]["shape"] == [2, 8]
        found[reading] = said["outputs"][0]["mean"]
    assert max(found.values()) - min(found.values()) < 1e-2


def test_a_stateful_program_keeps_its_state_over_steps(here, capsys):
    import coremltools
    import torch

    class Counter(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("total", torch.zeros(3))

        def forward(self, x):
            self.total.add_(x)
            return self.total * 1.0

    traced = torch.jit.trace(Counter(), torch.ones(3))
    model = coremltools.convert(
        traced,
        inputs=[coremltools.TensorType(name="x", shape=(3,))],
        states=[coremltools.StateType(coremltools.TensorType(shape=(3,), dtype=numpy.float16), name="total")],
        minimum_deployment_target=coremltools.target.iOS18,
        skip_model_load=True,
    )
    model.save("counter.mlpackage")
    numpy.savez("ones.npz", x=numpy.ones(3, numpy.float32))
    for steps in (1, 4):
        code, out, _ = call(capsys, "run", "counter.mlpackage", "--inputs", "ones.npz", "--steps", steps, "--json")
        assert code == 0 and json.loads(out)["outputs"][0]["max"] == steps
    code, out, _ = call(capsys, "check", "counter.mlpackage")
    assert code == 0 and "states: total" in out


def test_compressed_weights_are_named_and_their_share_of_the_error_is_said(here, capsys):
    pytest.importorskip("sklearn")
    import coremltools.optimize.coreml as compressing

    settings = compressing.OpPalettizerConfig(mode="uniform", nbits=2, weight_threshold=0)
    model = compressing.palettize_weights(program_models.converted(), compressing.OptimizationConfig(settings))
    model.save("small.mlpackage")
    code, out, err = call(capsys, "check", "small.mlpackage", "--against", FACTORY)
    assert code == 1 and "3 of 3 weights are compressed: " in out and "100 % of the error's energy is in the stored values" in out
    assert "items/s" not in out + err and "1/1" in err


def test_names_that_steer_a_terminal_are_shown_and_bounded(packages, here, capsys):
    name = "net\u202e\x1b[2J.mlpackage"
    (here / name).symlink_to(packages[False])
    numpy.savez("\x1b[31m.npz", x=example().numpy())
    code, out, err = call(capsys, "check", name, "--inputs", "\x1b[31m.npz")
    assert code == 0 and "\x1b" not in out + err and "\u202e" not in out + err
    aligned(("a", "b"), [("n" * 10_000, "m" * 10_000)])
    assert max(map(len, capsys.readouterr().out.splitlines())) < 2 * LINE
