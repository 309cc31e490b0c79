"""ONNX files that are whole, and every kind that is not: a clear error, never the end of the process."""

import hashlib
import os
import random
import subprocess
import sys

import numpy as np
import pytest

onnx = pytest.importorskip("onnx")

from onnx import helper  # noqa: E402

from tests.backends.onnx_graphs import (  # noqa: E402
    FLOAT,
    HALF,
    INT64,
    STRING,
    WEIGHT,
    array,
    chain,
    constant,
    model,
    node,
    outside,
    plain,
    quantized,
    saved,
)
from workbench.backends import onnx_file, onnx_trial  # noqa: E402
from workbench.backends.onnx_file import read  # noqa: E402
from workbench.errors import ModelError  # noqa: E402

BYTES = WEIGHT.tobytes()


def changed(change, made=None):
    made = made or plain()
    change(made)
    return made


def refused(path, made=None):
    if made is not None:
        saved(path, made)
    with pytest.raises(ModelError) as caught:
        read(path)
    assert path.name in caught.value.what or "there is no" in caught.value.what
    return caught.value


def test_what_a_file_says(tmp_path):
    made = plain()
    entry = made.metadata_props.add()
    entry.key, entry.value = onnx_file.RANGES, '{"batch": [1, 2, 8]}'
    path = saved(tmp_path / "plain.onnx", made)
    file = read(path)
    assert (file.opset, dict(file.domains), file.custom) == (20, {"ai.onnx": 20}, ())
    assert file.inputs[0].shape == (None, 4) and file.outputs[1].dtype == "int32"
    assert file.ranges == {"batch": (1, 2, 8)} and file.low == ()
    assert file.types == {"float": 4, "int32": 2}
    assert list(file.values.items()) == [("product", "MatMul"), ("rectified", "Relu"), ("y", "Add"), ("squared", "Mul")]
    assert file.sha256 == hashlib.sha256(path.read_bytes()).hexdigest() and file.bytes == file.size_bytes == path.stat().st_size
    assert read(saved(tmp_path / "low.onnx", chain(HALF))).low == ("float16",)


def test_weights_beside_it(tmp_path):
    file = read(outside(tmp_path, bytes_=BYTES))
    assert file.external == {"weights.data": (tmp_path / "weights.data").resolve()} and not file.linked
    assert file.size_bytes == file.bytes + 48
    np.testing.assert_array_equal(file.array(file.model.graph.initializer[0]), WEIGHT)


def test_an_output_without_a_shape_is_inferred(tmp_path):
    made = changed(lambda it: it.graph.output[0].type.tensor_type.ClearField("shape"))
    assert read(saved(tmp_path / "it.onnx", made)).outputs[0].shape == (None, 3)


@pytest.mark.parametrize(
    ("content", "word"),
    [
        (None, "there is no"),
        (b"", "is empty"),
        (b"a text file, not a model at all\n" * 9, "damaged, or no ONNX file"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\n", "Git LFS"),
        (bytes(100), "damaged, or no ONNX file"),
        (b"\x08\x0a", "damaged, or no ONNX file"),
    ],
)
def test_files_that_hold_no_model(tmp_path, content, word):
    path = tmp_path / "it.onnx"
    if content is not None:
        path.write_bytes(content)
    assert word in refused(path).what
    (tmp_path / "folder.onnx").mkdir()
    assert "is a folder" in refused(tmp_path / "folder.onnx").what


def test_cut_off_anywhere(tmp_path):
    """A prefix of a file is never taken for the file."""
    whole, path = plain().SerializeToString(), tmp_path / "it.onnx"
    for end in range(1, len(whole) - 1, 7):
        path.write_bytes(whole[:end])
        refused(path)


def test_newer_than_what_is_installed(tmp_path):
    path = tmp_path / "it.onnx"
    error = refused(path, changed(lambda it: setattr(it.opset_import[0], "version", 4000)))
    assert "opset 4000 of ai.onnx" in error.what and "knows opset 1 to" in error.why and "--upgrade" in error.fix
    error = refused(path, changed(lambda it: setattr(it, "ir_version", 900)))
    assert "newer than what is installed" in error.what and "900" in error.why
    assert "no opset" in refused(path, changed(lambda it: it.ClearField("opset_import"))).why
    error = refused(path, changed(lambda it: setattr(it.graph.node[0], "op_type", "Frobnicate")))
    assert "Frobnicate" in error.what and "node_product" in error.why
    error = refused(path, model([node("Gelu", "x", "y")], [array("x", FLOAT, [1])], [array("y", FLOAT, [1])], opset=19))
    assert "opset 19 of ai.onnx has not: Gelu" in error.what


def test_newer_than_onnx_runtime_but_not_onnx(tmp_path):
    pytest.importorskip("onnxruntime")
    from workbench.registry import get_backend

    made = model([node("Neg", "x", "y")], [array("x", FLOAT, [1])], [array("y", FLOAT, [1])], opset=onnx.defs.onnx_opset_version())
    made.ir_version = onnx.IR_VERSION
    path = saved(tmp_path / "new.onnx", made)
    try:
        get_backend("onnx").open(path, {})
    except ModelError as error:  # ONNX Runtime follows ONNX by some months
        assert "ONNX Runtime cannot load new.onnx" in error.what and error.fix == "pip install --upgrade onnxruntime"  # noqa: PT017
        assert "onnxruntime_src" not in error.why and "version" in error.why.lower()  # noqa: PT017
    assert get_backend("onnx").open(path, {"executor": "reference"})({"x": [2.0]})["y"].tolist() == [-2]


def test_ops_of_somebody_else(tmp_path):
    made = changed(lambda it: setattr(it.graph.node[1], "domain", "trt.plugins"))
    path = saved(tmp_path / "it.onnx", made)
    assert "no version" in refused(path).why
    made.opset_import.add(domain="trt.plugins", version=1)
    error = refused(path, made)
    assert "not ONNX's own" in error.what and "Relu node 'node_rectified' is of the domain 'trt.plugins'" in error.why
    assert read(path, custom=True).custom == (("trt.plugins", "Relu", "node_rectified"),)


@pytest.mark.parametrize(
    ("change", "word"),
    [
        (lambda it: it.graph.ClearField("node"), "no nodes"),
        (lambda it: it.graph.ClearField("output"), "no outputs"),
        (lambda it: it.ClearField("graph"), "no graph"),
        (lambda it: setattr(it.graph.input[1], "name", "x"), "two of its inputs are named 'x'"),
        (lambda it: setattr(it.graph.output[1], "name", "y"), "two of its outputs are named 'y'"),
        (lambda it: it.graph.initializer.append(it.graph.initializer[0]), "two of its constants are named 'w'"),
        (lambda it: setattr(it.graph.input[0], "name", ""), "has no name"),
        (lambda it: it.graph.node[1].output.__setitem__(0, "product"), "'product' is computed twice"),
        (lambda it: it.graph.node[3].output.__setitem__(0, "w"), "'w' is an input or a constant"),
        (lambda it: it.graph.output.add(name="z"), "nothing computes its output 'z'"),
        (lambda it: it.graph.node.insert(0, it.graph.node.pop()), None),
        (lambda it: it.graph.node.insert(0, it.graph.node.pop(2)), "reads 'rectified', which nothing before it computes"),
        (lambda it: it.graph.node[0].input.pop(), "has 1 inputs; the op takes 2 to 2"),
        (lambda it: it.graph.node[1].attribute.add(name="alpha", type=1), "an attribute 'alpha', which the op has not"),
        (lambda it: it.graph.initializer[0].dims.append(5), "takes 240 bytes and has 48"),
        (lambda it: it.graph.initializer[0].dims.__setitem__(0, -4), "[-4, 3]"),
        (lambda it: setattr(it.graph.initializer[0], "data_type", 99), "is 99"),
        (lambda it: it.graph.initializer[0].ClearField("raw_data"), "has no values"),
        (lambda it: it.graph.input[0].type.tensor_type.ClearField("shape"), "has no shape"),
        (lambda it: it.graph.input[0].ClearField("type"), "has no type"),
        (lambda it: setattr(it.graph.input[0].type.tensor_type, "elem_type", STRING), "is string"),
        (lambda it: setattr(it.graph.input[0].type.tensor_type, "elem_type", 14), "is complex64"),
        (lambda it: setattr(it.graph.input[0].type.tensor_type.shape.dim[0], "dim_value", -2), "[-2, 4]"),
        (lambda it: it.graph.input[0].CopyFrom(helper.make_tensor_sequence_value_info("x", FLOAT, [1])), "is of the kind sequence"),
        (lambda it: it.graph.input[0].type.map_type.CopyFrom(onnx.TypeProto.Map(key_type=7)), "is of the kind map"),
        (lambda it: it.graph.input[0].type.optional_type.SetInParent(), "is of the kind optional"),
        (lambda it: it.metadata_props.add(key=onnx_file.RANGES, value='{"batch": [3, 2, 8]}'), "not [least, typical, most]"),
    ],
)
def test_graphs_that_cannot_be_computed(tmp_path, change, word):
    path = saved(tmp_path / "it.onnx", changed(change))
    if word is None:
        assert read(path).values
    else:
        assert word in str(refused(path))


def test_a_cast_that_says_no_type_and_a_function_that_calls_itself(tmp_path):
    path = tmp_path / "it.onnx"
    assert (
        "lacks its attribute 'to'" in refused(path, changed(lambda it: it.graph.node[0].ClearField("attribute"), chain(HALF))).why
    )
    one = helper.make_function(
        "own", "F", ["a"], ["b"], [helper.make_node("F", ["a"], ["b"], domain="own")], [helper.make_opsetid("own", 1)]
    )
    made = model(
        [helper.make_node("F", ["x"], ["y"], domain="own")],
        [array("x", FLOAT, [1])],
        [array("y", FLOAT, [1])],
        others=[("own", 1)],
        functions=[one],
    )
    assert "'F' calls itself" in refused(path, made).why


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({}, "there is no weights.data beside it"),
        ({"bytes_": BYTES[:40]}, "weights.data is too short for the constant 'w'"),
        ({"bytes_": BYTES, "offset": 4}, "too short"),
        ({"bytes_": BYTES, "offset": -4}, "offset of its constant 'w' is '-4'"),
        ({"bytes_": BYTES, "offset": "10" * 40}, "offset of its constant 'w'"),
        ({"bytes_": BYTES, "length": 44}, "takes 48 bytes; 44 are told"),
        ({"bytes_": BYTES, "location": ""}, "no location says where"),
        ({"bytes_": BYTES, "location": "/etc/passwd"}, "outside its folder"),
        ({"bytes_": BYTES, "location": "../weights.data"}, "outside its folder"),
        ({"bytes_": BYTES, "location": "a/../../weights.data"}, "outside its folder"),
        ({"bytes_": BYTES, "location": "C:\\weights.data"}, "outside its folder"),
        ({"bytes_": BYTES, "location": "..\\weights.data"}, "outside its folder"),
        ({"bytes_": BYTES, "location": "."}, "there is no ."),
    ],
)
def test_weights_that_are_not_beside_it(tmp_path, options, word):
    folder = tmp_path / "model"
    folder.mkdir()
    (tmp_path / "weights.data").write_bytes(BYTES)
    assert word in str(refused(outside(folder, **options)))


def test_links_that_leave_the_folder(tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()
    (tmp_path / "secret").write_bytes(BYTES)
    path = outside(folder)
    (folder / "weights.data").symlink_to("../secret")
    assert "is a link that leaves the folder" in refused(path).why
    (folder / "weights.data").unlink()
    (folder / "other").write_bytes(BYTES)
    (folder / "weights.data").symlink_to("other")
    assert read(path).external["weights.data"] == (folder / "other").resolve()


def contradicting():
    """Padding takes more away than there is, and a Slice follows: ONNX's shape inference ends the process that asks it."""
    return model(
        [node("Pad", "x pads", "less"), node("Slice", "less from to", "y")],
        [array("x", FLOAT, [4])],
        [array("y", FLOAT, [None])],
        [constant("pads", np.int64([-3, -3])), constant("from", np.int64([0])), constant("to", np.int64([2]))],
    )


def test_what_ends_a_process_ends_another_one(tmp_path):
    path = saved(tmp_path / "it.onnx", contradicting())
    code = "import sys, onnx; onnx.shape_inference.infer_shapes(onnx.load(sys.argv[1]))"
    ended = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, check=False).returncode
    if ended == 0:
        assert read(path).values  # an onnx that has learnt it
        return
    error = refused(path)
    assert "do not survive opening it" in error.why and f"signal {-ended}" in error.why
    assert read(saved(path, quantized())).values  # the next file gets a new worker


def test_our_own_files_are_not_tried(tmp_path, monkeypatch):
    monkeypatch.setattr(onnx_trial, "survives", lambda *_: pytest.fail("tried"))
    made = plain()
    made.producer_name = onnx_file.OURS
    assert read(saved(tmp_path / "it.onnx", made)).values


SEEDS = int(os.environ.get("WORKBENCH_FUZZ_SEEDS", "120"))


def test_random_edits_end_in_a_model_or_a_clear_error(tmp_path):
    """Whatever the bytes: a file that reads, or a ModelError. A crash would end this very process."""
    pytest.importorskip("onnxruntime")
    from workbench.registry import get_backend

    wholes = [each.SerializeToString() for each in (plain(), quantized(), chain(HALF))]
    path, opened = tmp_path / "it.onnx", 0
    for seed in range(SEEDS):
        rng = random.Random(seed)
        data = bytearray(wholes[seed % 3])
        for _ in range(rng.choice((1, 1, 2, 5))):
            where = rng.randrange(len(data))
            if rng.random() < 0.7:
                data[where] = rng.randrange(256)
            else:
                del data[where : where + rng.randrange(1, 4)]
        path.write_bytes(bytes(data))
        try:
            program = get_backend("onnx").open(path, {"reading": "pure"})
        except ModelError as error:
            assert error.what and error.why  # noqa: PT017
            continue
        opened += 1
        program.close()
    assert 0 < opened < SEEDS


def test_sizes_that_vary_and_whole_numbers(tmp_path):
    made = model([node("Abs", "n", "y")], [array("n", INT64, [None, "b", 3])], [array("y", INT64, [None, "b", 3])])
    assert read(saved(tmp_path / "it.onnx", made)).inputs[0].shape == (None, None, 3)
