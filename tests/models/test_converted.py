"""An artifact's folder as it is opened: whole and unchanged, or an error that names the file. No runtime is needed."""

import hashlib
import json
import shutil
import subprocess
import sys

import pytest

from workbench.errors import ModelError
from workbench.models.converted import MODEL_FILE, WEIGHT_FILE, Converted, is_converted, recipe_words

RECIPE = {"precision": "fp16", "quantize": "int8", "target": "iOS18", "stateful": True, "keep_fp32": ["softmax"], "context": 64}


def digest(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Two stages in one package, of bytes that nothing reads."""
    monkeypatch.setenv("WORKBENCH_CACHE", str(tmp_path / "cache"))
    made = tmp_path / "small-coreml"
    package = made / "decoder.mlpackage"
    for name in (MODEL_FILE, WEIGHT_FILE):
        (package / name).parent.mkdir(parents=True, exist_ok=True)
        (package / name).write_bytes(name.encode() * 100)
    item = {"rootModelIdentifier": "A", "itemInfoEntries": {"A": {"path": "com.apple.CoreML/model.mlmodel"}}}
    (package / "Manifest.json").write_text(json.dumps(item))
    (made / "config.json").write_text('{"model_type": "llava"}')
    tokens = {"name": "tokens", "dtype": "int32", "shape": [1, None], "range": [[1, 1], [2, 64]]}
    stage = {
        "package": "decoder.mlpackage",
        "inputs": [tokens],
        "outputs": [{"name": "logits", "dtype": "fp32", "shape": [1, None, 9]}],
    }
    manifest = {
        "format": 1,
        "runtime": "coreml",
        "family": "vision-language",
        "architecture": "llava",
        "source": {"name": "small", "revision": None, "weights": "0", "config": "1"},
        "recipe": RECIPE,
        "versions": {"converter": 1},
        "sizes": {"context": 64},
        "stages": {
            "prefill": stage | {"function": "prefill", "layers": {"text.block.0": "add_1"}, "ops": {"linear": 3}},
            "step": stage | {"function": "step", "states": [{"name": "keys", "dtype": "fp16", "shape": [1, 2, 64, 4]}]},
        },
        "packages": {
            package.name: {
                "bytes": sum(path.stat().st_size for path in package.rglob("*") if path.is_file()),
                "model": digest(package / MODEL_FILE),
                "weights": digest(package / WEIGHT_FILE),
            }
        },
        "files": {"config.json": {"bytes": 23, "sha256": digest(made / "config.json")}},
    }
    (made / "converted.json").write_text(json.dumps(manifest))
    return made


def edit(folder, change):
    path = folder / "converted.json"
    manifest = json.loads(path.read_text())
    change(manifest)
    path.write_text(json.dumps(manifest))


def test_stages_arrays_and_identity_are_read(folder):
    found = Converted(folder)
    assert is_converted(folder) and not is_converted(folder.parent)
    assert list(found.stages) == ["prefill", "step"] and found.stage("step").path == folder / "decoder.mlpackage"
    prefill = found.stages["prefill"]
    assert (prefill.function, prefill.package, prefill.layers["text.block.0"]) == ("prefill", "decoder.mlpackage", "add_1")
    (tokens,) = prefill.inputs
    assert (tokens.shape, tokens.range, prefill.states) == ((1, None), ((1, 1), (2, 64)), ())
    assert found.stages["step"].states[0].shape == (1, 2, 64, 4)
    identity = found.identity()
    assert identity["quantisation"] == "fp16 int8 iOS18 stateful keep-fp32(softmax) context64" and identity["format"] == "coreml"
    assert identity["size_bytes"] == found.size_bytes > 0 and len(identity["weights"]) == len(identity["config"]) == 64
    with pytest.raises(ModelError, match="no stage 'vision'") as caught:
        found.stage("vision")
    assert "prefill, step" in caught.value.why


def test_the_label_is_the_recipes_own():
    from workbench.convert.coreml.recipe import Recipe

    recipe = Recipe.from_json(RECIPE)
    assert recipe_words(recipe.to_json()) == recipe.label
    assert recipe_words(Recipe().to_json()) == Recipe().label == "fp32 iOS18"


def test_a_copy_has_the_same_identity_and_other_contents_another(folder, tmp_path):
    before = Converted(folder).identity()
    copy = shutil.copytree(folder, tmp_path / "elsewhere" / "named-otherwise")
    manifest = copy / "decoder.mlpackage" / "Manifest.json"
    manifest.write_text(manifest.read_text().replace('"A"', '"B"'))  # identifiers are random in every package
    assert Converted(copy).identity() == before
    weights = copy / "decoder.mlpackage" / WEIGHT_FILE
    weights.write_bytes(weights.read_bytes()[::-1])
    edit(copy, lambda manifest: manifest["packages"]["decoder.mlpackage"].update(weights=digest(weights)))
    changed = Converted(copy).identity()
    assert changed["weights"] != before["weights"] and changed["config"] == before["config"]
    edit(copy, lambda manifest: manifest["sizes"].update(context=32))
    assert Converted(copy).identity()["config"] != before["config"]


def flip(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("name", [f"decoder.mlpackage/{MODEL_FILE}", f"decoder.mlpackage/{WEIGHT_FILE}", "config.json"])
def test_one_changed_bit_is_noticed_also_after_the_folder_was_opened(folder, name):
    Converted(folder)
    flip(folder / name)
    with pytest.raises(ModelError, match="was changed since it was converted") as caught:
        Converted(folder)
    assert name in str(caught.value) and "workbench convert" in caught.value.fix


@pytest.mark.parametrize(
    "name",
    [f"decoder.mlpackage/{MODEL_FILE}", f"decoder.mlpackage/{WEIGHT_FILE}", "config.json", "decoder.mlpackage/Manifest.json"],
)
def test_a_missing_file_is_named(folder, name):
    (folder / name).unlink()
    with pytest.raises(ModelError, match=name.replace(".", r"\.")) as caught:
        Converted(folder)
    assert "missing" in str(caught.value) and "not copied whole" in caught.value.why


def test_a_package_that_points_to_another_program_or_holds_more_is_refused(folder):
    package = folder / "decoder.mlpackage"
    (package / "extra.bin").write_bytes(b"x")
    with pytest.raises(ModelError, match="package decoder.mlpackage .* was changed") as caught:
        Converted(folder)
    assert "bytes instead of" in caught.value.why
    (package / "extra.bin").unlink()
    manifest = package / "Manifest.json"
    text = manifest.read_text()
    manifest.write_text(text.replace("model.mlmodel", "other.mlmodel"))
    with pytest.raises(ModelError, match="was changed") as caught:
        Converted(folder)
    assert "other.mlmodel" in caught.value.why
    manifest.write_text(text[:40])
    with pytest.raises(ModelError, match=r"Manifest\.json .* is damaged"):
        Converted(folder)


def test_a_link_out_of_the_folder_is_refused(folder, tmp_path):
    inside = folder / "config.json"
    inside.rename(tmp_path / "config.json")
    inside.symlink_to(tmp_path / "config.json")
    with pytest.raises(ModelError, match="a link out of the folder"):
        Converted(folder)


def test_an_interrupted_conversion_is_no_model(folder):
    (folder / "converted.json").unlink()
    with pytest.raises(ModelError, match="no converted model") as caught:
        Converted(folder)
    assert "interrupted" in caught.value.why


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda manifest: manifest.pop("stages"), "it lacks 'stages'"),
        (lambda manifest: manifest.update(stages={}), "it lists no stages"),
        (lambda manifest: manifest["stages"]["step"].pop("inputs"), "it lacks 'inputs'"),
        (lambda manifest: manifest["stages"]["step"].update(package="other.mlpackage"), "not among the packages"),
        (
            lambda manifest: manifest["stages"]["step"].update(inputs=[{"name": "x", "dtype": "fp32", "shape": ["1"]}]),
            "a number is '1'",
        ),
        (lambda manifest: manifest["stages"]["step"].update(layers={"a": None}), "a name is None"),
        (lambda manifest: manifest.update(stages=[1]), "AttributeError"),
        (lambda manifest: manifest["recipe"].update(keep_fp32=1), "not iterable"),
        (lambda manifest: manifest["packages"].update({"../up.mlpackage": {}}), "no file of its folder"),
        (lambda manifest: manifest["packages"].update({"/etc": {}}), "no file of its folder"),
        (lambda manifest: manifest["files"].update({"C:\\x.json": {}}), "no file of its folder"),
        (lambda manifest: manifest["files"].update({"a\nb": {}}), "no file of its folder"),
        (lambda manifest: manifest.update(format=True), "it names no format"),
    ],
)
def test_a_damaged_manifest_says_what_is_wrong(folder, change, why):
    edit(folder, change)
    with pytest.raises(ModelError, match=r"converted\.json of 'small-coreml' is damaged") as caught:
        Converted(folder)
    assert why in caught.value.why


@pytest.mark.parametrize("text", ["", "{", "[]", '{"format": ' + "[" * 100_000, "\xff"])
def test_what_is_no_json_object_is_damaged(folder, text):
    (folder / "converted.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(ModelError, match="is damaged"):
        Converted(folder)


def test_another_versions_format_is_told_apart(folder):
    edit(folder, lambda manifest: manifest.update(format=2))
    with pytest.raises(ModelError, match="a newer version of the workbench") as caught:
        Converted(folder)
    assert "pip install -U" in caught.value.fix
    edit(folder, lambda manifest: manifest.update(format=0))
    with pytest.raises(ModelError, match="an older version") as caught:
        Converted(folder)
    assert "workbench convert" in caught.value.fix


def test_reading_imports_no_runtime():
    code = "import sys, workbench.models.converted; print([n for n in ('torch', 'coremltools', 'transformers', 'numpy') if n in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"
