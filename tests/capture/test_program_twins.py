"""Twins of a Core ML program: ONNX, exported programs, TorchScript and factories, on the same arrays, and what is refused."""

import pickle
import zipfile
from types import SimpleNamespace

import numpy
import pytest

for runtime in ("torch", "coremltools"):
    pytest.importorskip(runtime)

import torch  # noqa: E402

from tests.capture import program_models  # noqa: E402
from tests.capture.program_models import damaged, example, make, onnx_file, package, traced_package  # noqa: E402
from workbench.capture.program import capture_program, open_package  # noqa: E402
from workbench.capture.program_inputs import ProgramItem  # noqa: E402
from workbench.capture.readings import Readings  # noqa: E402
from workbench.capture.twin_session import Names, capture_twin, sparse, usable  # noqa: E402
from workbench.capture.twins import Values, matched_inputs, open_twin  # noqa: E402
from workbench.errors import UsageError  # noqa: E402
from workbench.parity.ladder import compare  # noqa: E402
from workbench.run.layer_records import LayerRecords  # noqa: E402
from workbench.run.verify import verify  # noqa: E402

FACTORY = f"{program_models.__file__}:make"
DAMAGED = f"{program_models.__file__}:damaged"
DIALECT = "com.github.apple.coremltools.source_dialect"


class Case:
    """A package, captured once."""

    def __init__(self, path, runs):
        self.path, self.runs = path, runs
        self.package = open_package(path)
        self.readings = Readings(path)
        self.items = [
            ProgramItem("one", {"x": example().numpy()}, "an example"),
            ProgramItem("two", {"x": example(1).numpy()}, "more"),
        ]
        self.run = capture_program(self.package, self.readings, self.items, runs=runs)

    def against(self, text, **renamed):
        twin = open_twin(text, self.items[0].arrays, self.package.program["metadata"][DIALECT])
        twin.renamed.update(renamed)
        return capture_twin(twin, self.readings, self.run, self.items, renamed=renamed, runs=self.runs)


@pytest.fixture(scope="module")
def cases(tmp_path_factory):
    folder = tmp_path_factory.mktemp("twins")
    return {
        "export32": Case(package(folder / "export32.mlpackage"), folder / "runs"),
        "export16": Case(package(folder / "export16.mlpackage", half=True), folder / "runs"),
        "trace32": Case(traced_package(folder / "trace32.mlpackage"), folder / "runs"),
    }


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("files")
    torch.export.save(torch.export.export(make(), (example(),)), folder / "net.pt2")
    torch.jit.save(torch.jit.trace(make(), example()), str(folder / "net.pt"))
    found = {"pt2": str(folder / "net.pt2"), "script": str(folder / "net.pt"), "module": FACTORY}
    try:
        found["onnx"] = str(onnx_file(folder / "net.onnx"))
        found["damaged onnx"] = str(onnx_file(folder / "damaged.onnx", damaged()))
    except ImportError:
        pass
    return found


def layers_of(comparison):
    return {row["layer"] for row in comparison.rung(3).facts["layers"] if "relative_rms" in row}


@pytest.mark.parametrize("kind", ["pt2", "script", "module", "onnx"])
@pytest.mark.parametrize("name", ["export32", "export16", "trace32"])
def test_a_faithful_conversion_agrees_with_every_kind_of_twin(cases, files, name, kind):
    if kind == "onnx":
        pytest.importorskip("onnxruntime")
    twin = cases[name].against(files[kind])
    comparison = compare(twin, cases[name].run)
    assert comparison.verdict.name == "AGREE", comparison.verdict.sentence
    outputs = {f"output.{feature.name}" for feature in cases[name].readings.program.outputs}
    assert outputs <= layers_of(comparison) and comparison.rung(2).status == "same"
    assert not [each for each in verify(twin) if each.level == "failed"]
    assert twin.manifest["evidence"] == "host" and all(line["timing"] is None for line in twin.items().values())


@pytest.mark.parametrize(("name", "layer"), [("export32", "linear"), ("trace32", None), ("export16", "gelu")])
def test_one_changed_weight_is_different_and_its_layer_is_named(cases, name, layer):
    comparison = compare(cases[name].against(DAMAGED), cases[name].run)
    first = comparison.rung(3).facts["first_departing"]
    assert comparison.verdict.name == "DIFFERENT"
    if layer is None:  # the traced graph counts its values: the first one that both hold is the damaged layer's
        layer = next(iter(next(iter(LayerRecords(cases[name].run).read("one").passes.values()))))
    assert first == layer and layer in comparison.verdict.sentence


def test_a_damaged_onnx_twin_is_found_in_its_first_layer(cases, files):
    pytest.importorskip("onnxruntime")
    comparison = compare(cases["export32"].against(files["damaged onnx"]), cases["export32"].run)
    assert comparison.verdict.name == "DIFFERENT" and comparison.rung(3).facts["first_departing"] == "linear"


def test_outputs_in_another_order_and_of_one_shape_are_matched_by_what_they_hold(cases, files):
    pytest.importorskip("onnxruntime")
    matches = cases["export32"].against(files["onnx"]).artifact["twin"]["outputs"]
    assert {match["output"]: match["twin"] for match in matches} == {"linear_1": "a", "softmax": "b"}
    assert any("holds the same values" in match["how"] for match in matches)


def test_torch_twins_also_run_in_float64(cases, files):
    for kind in ("pt2", "script", "module"):
        passes = LayerRecords(cases["export32"].against(files[kind])).read("one").passes
        assert list(passes) == ["float32", "float64"]


def test_a_traced_factory_has_the_names_of_a_traced_package(cases):
    comparison = compare(cases["trace32"].against(FACTORY), cases["trace32"].run)
    inner = {name for name in layers_of(comparison) if not name.startswith("output.")}
    assert len(inner) >= 3 and any(name.startswith("var_") for name in inner)


def test_a_module_that_cannot_be_traced_is_compared_by_its_outputs(cases, tmp_path):
    code = tmp_path / "odd.py"
    code.write_text(
        "import torch\nfrom tests.capture.program_models import Net\n"
        "class Odd(torch.nn.Module):\n"
        "    def __init__(self):\n        super().__init__()\n        self.net = Net()\n"
        "    def forward(self, x):\n"
        "        if torch.jit.is_tracing() or torch.compiler.is_compiling():\n            raise RuntimeError('not this one')\n"
        "        a, b = self.net(x)\n        return {'scores': a, 'shares': b}\n"
        "def make():\n    return Odd().eval()\n"
    )
    twin = cases["export32"].against(f"{code}:make")
    notes = [event["text"] for event in twin.events() if event["event"] == "note"]
    assert any("cannot be traced" in text for text in notes)
    comparison = compare(twin, cases["export32"].run)
    assert comparison.verdict.name == "AGREE" and layers_of(comparison) == {"output.linear_1", "output.softmax"}


class Bomb:
    def __reduce__(self):
        return (pytest.fail, ("a pickle was run",))


def test_pickles_are_refused_unread(tmp_path):
    (tmp_path / "raw.pt").write_bytes(pickle.dumps(Bomb()))
    with zipfile.ZipFile(tmp_path / "zipped.pt", "w") as file:
        file.writestr("archive/data.pkl", pickle.dumps(Bomb()))
    torch.save(make().state_dict(), tmp_path / "state.pt")
    for name in ("raw.pt", "zipped.pt", "state.pt"):
        with pytest.raises(UsageError, match="no TorchScript file") as caught:
            open_twin(str(tmp_path / name), {})
        assert "pickle is code" in caught.value.why and "factory" in caught.value.fix


@pytest.mark.parametrize(
    "text", ["absent.onnx", "absent.pt2", "no_such_package.module:make", "json:no_such_function", "words", "json:"]
)
def test_twins_that_are_not_there(text):
    with pytest.raises(UsageError):
        open_twin(text, {})


def test_a_factory_must_return_a_module():
    with pytest.raises(UsageError, match="returned dict"):
        open_twin(f"{program_models.__file__}:weights", {})


def test_files_that_are_not_what_their_names_say(tmp_path):
    for name in ("junk.onnx", "junk.pt2"):
        if name.endswith("onnx"):
            pytest.importorskip("onnxruntime")
        (tmp_path / name).write_bytes(b"no model")
        with pytest.raises(UsageError, match="cannot be"):
            open_twin(str(tmp_path / name), {})


def test_inputs_are_matched_by_name_and_the_rest_must_be_named():
    x = numpy.zeros(2)
    assert matched_inputs(["mask", "ids"], {"ids": x, "mask": x}, {}) == {"ids": "ids", "mask": "mask"}
    assert matched_inputs(["serving_default_input_2:0"], {"input_2": x}, {}) == {"input_2": "serving_default_input_2:0"}
    assert matched_inputs(["mask", "tokens"], {"ids": x, "mask": x}, {}) == {"ids": "tokens", "mask": "mask"}
    assert matched_inputs(["p", "q"], {"a": x, "b": x}, {"a": "q"}) == {"a": "q", "b": "p"}
    with pytest.raises(UsageError) as caught:
        matched_inputs(["p", "q"], {"a": x, "b": x}, {})
    assert "a, b" in caught.value.why and "--map a=p" in caught.value.fix


@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize("factory", ["masked_small", "masked_infinite"])
def test_a_mask_that_fp16_cannot_hold_is_no_fault(tmp_path, factory, half):
    """-3e38 is -inf in fp16, and both are 0 after the softmax: where what follows agrees, the layer between is no finding."""
    x = numpy.random.default_rng(0).standard_normal((4, program_models.WIDTH)).astype(numpy.float32)
    model = getattr(program_models, factory)()
    source = torch.export.export(model, (torch.from_numpy(x),)).run_decompositions({})
    path = package(tmp_path / "masked.mlpackage", source=source, half=half)
    readings, items = Readings(path), [ProgramItem("one", {"x": x}, "an example")]
    run = capture_program(open_package(path), readings, items, runs=tmp_path / "runs")
    twin = open_twin(f"{program_models.__file__}:{factory}", items[0].arrays, "TorchExport::ATEN")
    made = capture_twin(twin, readings, run, items, renamed={}, runs=tmp_path / "runs")
    comparison = compare(made, run)
    assert comparison.verdict.name == "AGREE", comparison.verdict.sentence
    assert any(layer.startswith("output.") for layer in layers_of(comparison))


class Shifting:
    """A twin whose graph numbers its values otherwise in float64."""

    label, precisions, notes, counted = "torch:net.pt", ["float32", "float64"], [], False

    def __init__(self, other):
        self.other = other

    def run(self, arrays, precision):
        inner = {self.other: numpy.ones(3)} if precision == "float64" else {"input.3": numpy.ones(3)}
        return Values({"y": numpy.ones(2)}, inner)


def test_a_precision_in_which_names_mean_other_values_is_left_out():
    item = ProgramItem("one", {}, "")
    assert usable(Shifting("input.3"), item) == (["float32", "float64"], [])
    found, notes = usable(Shifting("input.5"), item)
    assert found == ["float32"] and "not run in float64: its graph has other values there" in notes[0]


def test_few_aligned_values_are_said():
    readings = SimpleNamespace(names={f"v{n}": f"v{n}" for n in range(9)})
    names = [Names([], {}, {f"t{n}": f"v{n}" for n in range(count)}) for count in (2, 3)]
    (note,) = sparse(readings, Shifting(""), names[0])
    assert note.startswith("of 9 inner values of the program 2 were found in torch:net.pt") and "factory" in note
    assert sparse(readings, Shifting(""), names[1]) == []


def test_a_named_input_must_be_one_of_the_twins():
    with pytest.raises(UsageError, match="no input 'z'"):
        matched_inputs(["x"], {"x": 1}, {"x": "z"})


def test_an_output_that_another_module_returns_elsewhere_is_no_fault(cases, tmp_path):
    """A wrapper that swaps two outputs shifts what a trace counts."""
    code = tmp_path / "swapped.py"
    code.write_text(
        "import torch\nfrom tests.capture.program_models import make as inner\n"
        "class Swapped(torch.nn.Module):\n"
        "    def __init__(self):\n        super().__init__()\n        self.net = inner()\n"
        "    def forward(self, x):\n        a, b = self.net(x)\n        return b, a\n"
        "def make():\n    return Swapped().eval()\n"
    )
    comparison = compare(cases["trace32"].against(f"{code}:make"), cases["trace32"].run)
    assert comparison.verdict.name == "AGREE", comparison.verdict.sentence


def test_relu_in_place_is_no_fault(tmp_path):
    """What follows nearly every convolution of torchvision: values are what an op put out, not what was written into them later."""
    torch.manual_seed(0)
    parts = [torch.nn.Linear(12, 16), torch.nn.ReLU(inplace=True), torch.nn.Linear(16, 8)]
    model = torch.nn.Sequential(*parts).eval()
    import coremltools

    traced = torch.jit.trace(model, example())
    path = package(tmp_path / "net.mlpackage", source=traced, inputs=[coremltools.TensorType(name="x", shape=(2, 12))])
    case = Case(path, tmp_path / "runs")
    comparison = compare(case.against(model), case.run)
    assert comparison.verdict.name == "AGREE" and len(layers_of(comparison)) == 3
