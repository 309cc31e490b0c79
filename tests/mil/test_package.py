"""Packages that are damaged, unsafe or of another kind are refused, by an error that names the file."""

from __future__ import annotations

import json
import os
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import coremltools as ct
import numpy as np
import pytest
from coremltools.converters.mil import Builder as mb
from coremltools.models import datatypes
from coremltools.models.neural_network import NeuralNetworkBuilder
from coremltools.models.pipeline import Pipeline

from tests.mil.building import save
from tests.mil.editing import edit, model_file, op_of, weight_file
from workbench.mil import PackageError, UnsupportedError, load

X = np.linspace(-1, 1, 64, dtype=np.float32).reshape(1, 64)
WEIGHT = np.random.default_rng(0).normal(size=(8, 64)).astype(np.float32)


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(lambda x: mb.linear(x=x, weight=WEIGHT, name="y"), {"x": X}, tmp_path_factory.mktemp("saved"))


@pytest.fixture
def package(saved: Path, tmp_path: Path) -> Path:
    return shutil.copytree(saved, tmp_path / "copy.mlpackage")


def test_the_package_itself_is_sound(package: Path) -> None:
    np.testing.assert_allclose(load(package).predict({"x": X})["y"], X @ WEIGHT.T, rtol=1e-5)


def test_a_path_given_as_text_or_through_a_link(package: Path, tmp_path: Path) -> None:
    (tmp_path / "link.mlpackage").symlink_to(package)
    for path in (str(package), tmp_path / "link.mlpackage"):
        assert load(path).predict({"x": X})["y"].shape == (1, 8)


def manifest(package: Path, change: Callable[[Any], Any]) -> None:
    path = package / "Manifest.json"
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def root_path(package: Path, entry: Any) -> None:
    manifest(package, lambda content: content["itemInfoEntries"][content["rootModelIdentifier"]].update(path=entry))


@pytest.mark.parametrize(
    ("entry", "reason"),
    [
        ("../outside.mlmodel", "points outside"),
        ("com.apple.CoreML/../../../outside.mlmodel", "points outside"),
        ("/etc/hostname", "points outside"),
        ("com.apple.CoreML/model\0.mlmodel", "points outside"),
        ("link.mlmodel", "points outside"),
        ("folder-link/outside.mlmodel", "points outside"),
        ("loop", "points outside"),
        ("com.apple.CoreML", "is no file"),
        ("com.apple.CoreML/absent.mlmodel", "is no file"),
        ("pipe", "is no file"),
        ("x" * 5000, "is no file"),
        ("", "is no file"),
        (None, "damaged"),
        (7, "damaged"),
        ([], "damaged"),
        ({}, "damaged"),
    ],
    ids=repr,
)
def test_manifests_that_name_no_model_inside(entry: Any, reason: str, package: Path) -> None:
    shutil.copy(model_file(package), package.parent / "outside.mlmodel")
    (package / "Data" / "link.mlmodel").symlink_to(package.parent / "outside.mlmodel")
    (package / "Data" / "folder-link").symlink_to(package.parent)
    (package / "Data" / "loop").symlink_to("loop")
    os.mkfifo(package / "Data" / "pipe")
    root_path(package, entry)
    with pytest.raises(PackageError, match=reason) as caught:
        load(package)
    assert "copy.mlpackage" in str(caught.value)


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"\xff\xfe\x00", b"[]", b"null", b"{}", b'{"itemInfoEntries": {}}', b"[" * 100_000, b'"' + b"a" * 1000, b"1e999"],
    ids=lambda content: repr(content[:20]),
)
def test_manifests_that_are_damaged(content: bytes, package: Path) -> None:
    (package / "Manifest.json").write_bytes(content)
    with pytest.raises(PackageError, match=r"Manifest\.json is damaged"):
        load(package)


def test_manifests_without_a_root(package: Path) -> None:
    manifest(package, lambda content: content.pop("rootModelIdentifier"))
    with pytest.raises(PackageError, match="rootModelIdentifier"):
        load(package)


def test_manifests_that_are_no_file_of_the_package(package: Path) -> None:
    path = package / "Manifest.json"
    path.rename(package.parent / "Manifest.json")
    for make in (lambda: None, path.mkdir, lambda: os.mkfifo(path), lambda: path.symlink_to(package.parent / "Manifest.json")):
        make()
        with pytest.raises(PackageError, match=r"has no Manifest\.json"):
            load(package)
        if path.is_dir():
            path.rmdir()
        else:
            path.unlink(missing_ok=True)


def test_a_manifest_of_absurd_size_is_not_read(package: Path) -> None:
    os.truncate(package / "Manifest.json", 1 << 40)
    with pytest.raises(PackageError, match=r"Manifest\.json has 1,099,511,627,776 bytes"):
        load(package)


def test_a_model_file_of_absurd_size_is_not_read(package: Path) -> None:
    os.truncate(model_file(package), 1 << 40)
    with pytest.raises(PackageError, match=r"model\.mlmodel has 1,099,511,627,776 bytes"):
        load(package)


# Weights.


def weights_named(package: Path, name: str) -> Path:
    def change(spec: Any) -> None:
        for op in spec.mlProgram.functions["main"].block_specializations["CoreML5"].operations:
            if op.type == "const" and op.attributes["val"].WhichOneof("value") == "blobFileValue":
                op.attributes["val"].blobFileValue.fileName = name

    return edit(package, change)


@pytest.mark.parametrize(
    "name",
    [
        "@model_path/../../../outside.bin",
        "@model_path/weights/../../../../outside.bin",
        "/etc/hostname",
        "@model_path//etc/hostname",
        "weights/weight.bin",
        "@other/weights/weight.bin",
        "@model_path/weights\\weight.bin",
        "@model_path/weights/weight.bin\0",
        "@model_path/link.bin",
        "@model_path/away/outside.bin",
        "@model_path/loop",
        "",
    ],
)
def test_weights_outside_the_package_are_refused(name: str, package: Path) -> None:
    shutil.copy(weight_file(package), package.parent / "outside.bin")
    (model_file(package).parent / "link.bin").symlink_to(package.parent / "outside.bin")
    (model_file(package).parent / "away").symlink_to(package.parent)
    (model_file(package).parent / "loop").symlink_to("loop")
    with pytest.raises(PackageError, match="refused") as caught:
        load(weights_named(package, name))
    assert "names a weight file" in caught.value.what


@pytest.mark.parametrize(
    "name", ["@model_path/", "@model_path/.", "@model_path/weights", "@model_path/pipe", "@model_path/weights/" + "n" * 400]
)
def test_weights_that_are_no_file(name: str, package: Path) -> None:
    os.mkfifo(model_file(package).parent / "pipe")
    with pytest.raises(PackageError, match="is unusable|is missing"):
        load(weights_named(package, name))


def test_the_weights_folder_or_its_file_is_missing(package: Path) -> None:
    weight_file(package).unlink()
    with pytest.raises(PackageError, match=r"the weights file 'Data/com.apple.CoreML/weights/weight.bin' is missing"):
        load(package)
    weight_file(package).parent.rmdir()
    with pytest.raises(PackageError, match=r"the weights folder 'Data/com.apple.CoreML/weights' is missing"):
        load(package)
    weight_file(package).parent.write_bytes(b"")
    with pytest.raises(PackageError, match="is unusable"):
        load(package)


@pytest.mark.parametrize("offset", [0, 1, 63, 128, 1 << 20, 1 << 63, (1 << 64) - 64])
def test_weights_at_an_offset_that_is_none(offset: int, package: Path) -> None:
    def change(spec: Any) -> None:
        for op in spec.mlProgram.functions["main"].block_specializations["CoreML5"].operations:
            if op.type == "const" and op.attributes["val"].WhichOneof("value") == "blobFileValue":
                op.attributes["val"].blobFileValue.offset = offset

    with pytest.raises(
        PackageError, match=rf"weight\.bin, offset {offset}: there is no record|weight\.bin, offset {offset}: the record"
    ):
        load(edit(package, change))


# Other kinds of model, and what is none.


def network(path: Path) -> Path:
    builder = NeuralNetworkBuilder([("x", datatypes.Array(3))], [("y", datatypes.Array(3))])
    builder.add_activation("relu", "RELU", "x", "y")
    ct.models.utils.save_spec(builder.spec, str(path))
    return path


def test_a_neural_network_of_the_older_kind(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedError, match="older kind") as caught:
        load(network(tmp_path / "old.mlmodel"))
    assert "old.mlmodel" in caught.value.what and "mlprogram" in str(caught.value.fix)


def test_a_pipeline(tmp_path: Path) -> None:
    pipeline = Pipeline([("x", datatypes.Array(3))], [("y", datatypes.Array(3))])
    pipeline.add_model(ct.models.utils.load_spec(str(network(tmp_path / "part.mlmodel"))))
    ct.models.utils.save_spec(pipeline.spec, str(tmp_path / "pipe.mlmodel"))
    with pytest.raises(UnsupportedError, match="pipeline of several models"):
        load(tmp_path / "pipe.mlmodel")


def test_a_compiled_model(tmp_path: Path) -> None:
    (tmp_path / "model.mlmodelc").mkdir()
    with pytest.raises(UnsupportedError, match="compiled model"):
        load(tmp_path / "model.mlmodelc")
    (tmp_path / "renamed").mkdir()
    (tmp_path / "renamed" / "coremldata.bin").write_bytes(b"x")
    with pytest.raises(UnsupportedError, match="compiled model"):
        load(tmp_path / "renamed")


@pytest.mark.parametrize("content", [b"", b"hello, world\n", b"\0" * 100, bytes(range(256)), b"\x08\x09"], ids=repr)
def test_files_that_are_no_model(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "file.mlmodel").write_bytes(content)
    with pytest.raises(PackageError, match=r"file\.mlmodel"):
        load(tmp_path / "file.mlmodel")


def test_a_packed_package_says_so(package: Path) -> None:
    with zipfile.ZipFile(package.parent / "packed.mlpackage", "w") as packed:
        packed.write(model_file(package))
    with pytest.raises(PackageError, match="unpack it"):
        load(package.parent / "packed.mlpackage")


@pytest.mark.parametrize("name", ["absent.mlpackage", "n" * 400, "nul\0"])
def test_what_is_not_there(name: str, tmp_path: Path) -> None:
    with pytest.raises(PackageError, match="there is no"):
        load(tmp_path / name)


def test_pipes_and_devices_are_not_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.mlmodel")
    for path in (tmp_path / "pipe.mlmodel", "/dev/zero"):
        with pytest.raises(PackageError, match="neither a folder nor a regular file"):
            load(path)


def test_a_plain_model_file_is_loaded_too(tmp_path: Path) -> None:
    package = save(lambda x: mb.relu(x=x, name="y"), {"x": X}, tmp_path)
    shutil.copy(model_file(package), tmp_path / "plain.mlmodel")
    np.testing.assert_array_equal(load(tmp_path / "plain.mlmodel").predict({"x": X})["y"], np.maximum(X, 0))


def test_an_opset_that_is_not_known(package: Path) -> None:
    def change(spec: Any) -> None:
        function = spec.mlProgram.functions["main"]
        function.block_specializations["CoreML99"].CopyFrom(function.block_specializations["CoreML5"])
        function.opset = "CoreML99"

    with pytest.raises(UnsupportedError, match="'CoreML99'"):
        load(edit(package, change))


def test_every_op_type_that_is_not_known_is_listed(package: Path) -> None:
    def change(spec: Any) -> None:
        block = spec.mlProgram.functions["main"].block_specializations["CoreML5"]
        for number in range(40):
            op = block.operations.add()
            op.CopyFrom(op_of(spec, "linear"))
            op.type, op.outputs[0].name = f"invented_{number // 2}", f"z{number}"
            op.attributes["name"].immediateValue.tensor.strings.values[0] = f"op{number}\x1b[31m"

    with pytest.raises(UnsupportedError, match="20 op types cannot be run") as caught:
        load(edit(package, change))
    text = str(caught.value)
    for number in range(20):
        assert f"'invented_{number}', 2 times, first in op 'op{2 * number}\\x1b[31m'" in text
    assert all(line.isprintable() for line in text.split("\n"))
