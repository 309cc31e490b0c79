"""The capture of a Core ML program: what its bundle holds, and that it holds no time."""

import re

import numpy
import pytest

for runtime in ("torch", "coremltools"):
    pytest.importorskip(runtime)

from tests.capture.program_models import WIDTH, example, make, package, with_other_op  # noqa: E402
from workbench.capture.program import capture_program, open_package  # noqa: E402
from workbench.capture.program_inputs import ProgramItem, given_inputs, random_inputs, read_inputs  # noqa: E402
from workbench.capture.program_names import layer_names, normal, numbers  # noqa: E402
from workbench.capture.readings import Readings  # noqa: E402
from workbench.errors import BundleError, DataError, UsageError  # noqa: E402
from workbench.run.layer_records import LayerRecords  # noqa: E402
from workbench.run.verify import verify  # noqa: E402

TIMED = re.compile(r'"[a-z_]*(seconds|timing|_ms|latency|duration|per_second)[a-z_]*":(?! *null)', re.IGNORECASE)


@pytest.fixture(scope="module")
def packages(tmp_path_factory):
    folder = tmp_path_factory.mktemp("packages")
    return {half: package(folder / f"net{16 if half else 32}.mlpackage", half=half) for half in (False, True)}


@pytest.fixture(scope="module")
def item():
    return ProgramItem("one", {"x": example().numpy()}, "an example")


@pytest.fixture(scope="module")
def captured(packages, item, tmp_path_factory):
    runs = tmp_path_factory.mktemp("runs")
    return {half: capture_program(open_package(path), Readings(path), [item], runs=runs) for half, path in packages.items()}


def test_a_bundle_of_reference_evidence_that_is_whole(captured):
    for run in captured.values():
        assert (run.kind, run.manifest["evidence"], run.status) == ("capture", "reference", "complete")
        assert run.manifest["model"]["text"] == f"coreml:{run.manifest['identity']['source']}"
        assert not [each for each in verify(run) if each.level == "failed"]
        assert run.checked == []


def test_passes_begin_with_the_programs_own_precision(captured, item):
    passes = {half: list(LayerRecords(run).read(item.id).passes) for half, run in captured.items()}
    assert passes == {False: ["float32", "float64"], True: ["float16", "float64", "emulate", "fp16-weights"]}


def test_outputs_are_those_of_the_model(captured, item):
    wanted = [value.detach().numpy() for value in make()(example())]
    for half, limit in ((False, 1e-6), (True, 2e-2)):
        own = next(iter(LayerRecords(captured[half]).read(item.id).passes.values()))
        found = [record for layer, record in own.items() if layer.startswith("output.")]
        assert len(found) == len(wanted)
        for record, values in zip(found, wanted, strict=True):
            numpy.testing.assert_allclose(record.values.reshape(record.line["shape"]), values, atol=limit)


def test_float64_is_not_rounded_to_the_declared_type(captured, item):
    passes = LayerRecords(captured[True]).read(item.id).passes
    layer = next(name for name in passes["float64"] if name.startswith("output."))
    exact = passes["float64"][layer].values
    assert exact.dtype == numpy.float64 and (exact != exact.astype(numpy.float16)).any()
    own = passes["float16"][layer].values
    numpy.testing.assert_array_equal(own, own.astype(numpy.float16))


def test_layers_are_the_float_values_in_order_of_execution(captured, item):
    own = next(iter(LayerRecords(captured[False]).read(item.id).passes.values()))
    assert list(own) == ["linear", "gelu", "linear_2", "output.linear_1", "output.softmax"]
    half = next(iter(LayerRecords(captured[True]).read(item.id).passes.values()))
    assert "gelu" in half and half["gelu"].line["path"] == "gelu_cast_fp16"


def test_no_time_stands_in_any_file(captured):
    for run in captured.values():
        assert all(line["timing"] is None for line in run.items().values())
        for path in run.folder.rglob("*"):
            if path.suffix in (".json", ".jsonl"):
                assert not TIMED.search(path.read_text()), path.name


def test_artifact_lists_weights_and_the_program(captured):
    from workbench.capture.tensor_entries import tensor_entry

    artifact = captured[False].artifact
    wanted = tensor_entry(make().first.weight.detach().numpy())
    assert wanted["hash"] in {each["hash"] for each in artifact["tensors"].values()}
    program = artifact["program"]
    assert {row["type"] for row in program["ops"]} == {"linear", "gelu", "softmax"} and all(
        row["supported"] for row in program["ops"]
    )
    assert program["path"] == "net32.mlpackage" and program["precision"] == "fp32"
    assert captured[True].artifact["program"]["precision"] == "fp16"


def test_no_path_of_this_machine_is_in_a_bundle(captured, packages):
    for half, run in captured.items():
        for path in run.folder.rglob("*.json*"):
            assert str(packages[half].parent) not in path.read_text(), path.name


def test_a_complete_capture_is_returned_and_fresh_sets_it_aside(packages, item, tmp_path):
    path = packages[False]
    first = capture_program(open_package(path), Readings(path), [item], runs=tmp_path)
    again = capture_program(open_package(path), Readings(path), [item], runs=tmp_path)
    assert again.was_complete and again.folder == first.folder
    anew = capture_program(open_package(path), Readings(path), [item], runs=tmp_path, fresh=True)
    assert not anew.was_complete and (tmp_path / f"{first.name}~1").is_dir()


def test_an_interrupted_capture_goes_on_where_it_stopped(packages, item, tmp_path):
    path = packages[False]
    items = [item, ProgramItem("two", {"x": example(1).numpy()}, "another")]

    class Stopping(Readings):
        seen: list[str] = []

        def records(self, one):
            if one.id == "two" and not self.stopped:
                raise KeyboardInterrupt
            self.seen.append(one.id)
            return super().records(one)

    readings = Stopping(path)
    readings.stopped = False
    with pytest.raises(KeyboardInterrupt):
        capture_program(open_package(path), readings, items, runs=tmp_path)
    readings.stopped = True
    run = capture_program(open_package(path), readings, items, runs=tmp_path)
    assert readings.seen == ["one", "two"] and list(run.items()) == ["one", "two"] and run.status == "complete"


def test_another_package_of_the_same_name_is_another_capture(packages, captured, item, tmp_path):
    other = with_other_op(packages[False], tmp_path / "net32.mlpackage", "gelu", "relu")
    from workbench.capture.program import identity_of

    assert identity_of(other)["weights"] != captured[False].manifest["identity"]["weights"]


def test_random_inputs_are_seeded_and_said_to_be_random(packages):
    program = Readings(packages[False]).program
    first, second = random_inputs(program, 2)
    assert (first.id, second.id) == ("random-0", "random-1") and first.arrays["x"].shape == (2, WIDTH)
    numpy.testing.assert_array_equal(first.arrays["x"], random_inputs(program)[0].arrays["x"])
    assert first.input_hash != second.input_hash and "random numbers, seed 0" in first.text


def test_whole_numbers_are_0_or_1_and_shapes_are_those_of_the_conversion(tmp_path):
    import coremltools
    import torch

    class Embedding(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.table = torch.nn.Embedding(50, 8)

        def forward(self, ids):
            return self.table(ids).sum(1)

    traced = torch.jit.trace(Embedding().eval(), torch.ones(1, 6, dtype=torch.int32))
    inputs = [coremltools.TensorType(name="ids", shape=(1, coremltools.RangeDim(1, 32, default=6)), dtype=numpy.int32)]
    path = package(tmp_path / "ids.mlpackage", source=traced, inputs=inputs)
    (item,) = random_inputs(Readings(path).program)
    assert item.arrays["ids"].shape == (1, 6) and item.arrays["ids"].dtype == numpy.int64
    assert set(item.arrays["ids"].ravel().tolist()) <= {0, 1} and "whole numbers 0 or 1" in item.text


def test_inputs_from_files_must_have_the_programs_names(packages, tmp_path):
    program = Readings(packages[False]).program
    numpy.savez(tmp_path / "good.npz", x=example().numpy())
    numpy.savez(tmp_path / "bad.npz", y=example().numpy())
    (item,) = read_inputs(program, [tmp_path / "good.npz"])
    assert item.id == "good" and item.text == "arrays of good.npz"
    with pytest.raises(UsageError, match="do not fit") as caught:
        read_inputs(program, [tmp_path / "bad.npz"])
    assert "lacks x" in caught.value.why and "no input y" in caught.value.why and "fp32[2, 12]" in caught.value.fix
    (tmp_path / "junk.npz").write_bytes(b"PK\x03\x04 no zip at all")
    for name in ("junk.npz", "absent.npz", "net.txt"):
        with pytest.raises(DataError):
            read_inputs(program, [tmp_path / name])
    with pytest.raises(UsageError, match="no input"):
        numpy.save(tmp_path / "x.npy", example().numpy())
        read_inputs(program, [f"z={tmp_path / 'x.npy'}"])


def test_pictures_are_fed_in_the_inputs_size_and_colour(tmp_path):
    import coremltools
    import torch
    from PIL import Image

    traced = torch.jit.trace(torch.nn.Sequential(torch.nn.Conv2d(3, 2, 1)).eval(), torch.zeros(1, 3, 4, 6))
    inputs = [coremltools.ImageType(name="image", shape=(1, 3, 4, 6), color_layout=coremltools.colorlayout.BGR)]
    path = package(tmp_path / "image.mlpackage", source=traced, inputs=inputs)
    Image.new("RGB", (6, 4), (10, 20, 30)).save(tmp_path / "small.png")
    Image.new("RGB", (60, 40), (10, 20, 30)).save(tmp_path / "large.png")
    readings = Readings(path)
    for name in ("small", "large"):
        (item,) = read_inputs(readings.program, [f"image={tmp_path / name}.png"])
        assert item.arrays["image"].shape == (1, 3, 4, 6) and item.arrays["image"][0, :, 0, 0].tolist() == [30, 20, 10]
    found = readings.records(item)["float32"]["output." + readings.program.outputs[0].name]
    conv = traced.state_dict()["0.weight"][:, :, 0, 0].numpy() @ [30, 20, 10] + traced.state_dict()["0.bias"].numpy()
    numpy.testing.assert_allclose(found.values.reshape(2, -1)[:, 0], conv, rtol=1e-4)


def test_a_bad_package_is_an_error_with_a_reason(tmp_path):
    (tmp_path / "bad.mlpackage").mkdir()
    for name in ("bad.mlpackage", "absent.mlpackage"):
        with pytest.raises(UsageError):
            open_package(tmp_path / name)


def test_unknown_ops_are_all_named_before_anything_is_run(packages, tmp_path):
    path = with_other_op(packages[False], tmp_path / "odd.mlpackage", "gelu", "no_such_op")
    path = with_other_op(path, tmp_path / "odder.mlpackage", "softmax", "nor_this")
    found = open_package(path)
    assert {row["type"] for row in found.unsupported} == {"no_such_op", "nor_this"}
    assert all(row["reason"] for row in found.unsupported)


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("encoder/layer_0/add_1:0", "encoder_layer_0_add_1"),
        ("encoder_layer_0_add_1_cast_fp16", "encoder_layer_0_add_1"),
        ("input.3", "input_3"),
        ("input_3_cast_fp16", "input_3"),
        ("26", "var_26"),
        ("/layer.0/Add_output_0", "layer_0_Add_output_0"),
        ("logits", "value_logits"),
    ],
)
def test_names_are_compared_without_what_converters_add(name, wanted):
    assert normal(name) == wanted


def test_layer_names_are_unique_and_counted_names_are_known():
    found = layer_names(["x", "x_cast_fp16", "x.1", "x_1"])
    assert len(set(found.values())) == len(found) and found["x"] == "x"
    assert numbers("26") and numbers("var_26") and not numbers("input_26")


def test_a_capture_of_a_program_is_no_input_of_a_language_model(captured):
    from workbench.capture.inputs import read_items

    with pytest.raises((UsageError, BundleError)) as caught:
        read_items([captured[False]])
    assert "input_ids" in str(caught.value)


@pytest.mark.parametrize(
    ("array", "word"),
    [(numpy.array(["a"]), "holds <U1"), (numpy.ones(3, complex), "complex128"), (numpy.full(3, 1e300), "beyond float32")],
)
def test_inputs_that_are_no_numbers_are_refused(packages, array, word):
    with pytest.raises(UsageError, match=word):
        given_inputs(Readings(packages[False]).program, {"x": array})


def test_a_file_that_is_no_zip_is_not_called_a_pickle(tmp_path, packages):
    (tmp_path / "x.npz").write_bytes(b"nonsense")
    with pytest.raises(DataError) as caught:
        read_inputs(Readings(packages[False]).program, [tmp_path / "x.npz"])
    assert "no zip" in str(caught.value) and "pickle" not in str(caught.value)
