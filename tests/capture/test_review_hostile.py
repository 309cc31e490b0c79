"""Captures that somebody else made, or damaged: an error with a name, an item that failed; no traceback, no wild read, no waiting."""

from __future__ import annotations

import collections
import json
import shutil
from dataclasses import dataclass
from typing import Any

import numpy
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file, save

from workbench.capture.hooks import tapped
from workbench.capture.session import capture_layers
from workbench.capture.taps import Swapped
from workbench.cli.main import main
from workbench.errors import BundleError, UsageError
from workbench.parity.ladder import compare
from workbench.run.bundle import Run
from workbench.run.layer_records import problem


@pytest.fixture(scope="module")
def made(llava, pictures, tmp_path_factory) -> Run:
    return capture_layers(f"torch:{llava}", pictures[:1], prompt="what is here?", keep=True, runs=tmp_path_factory.mktemp("made"))


@pytest.fixture
def copied(made, tmp_path):
    return shutil.copytree(made.folder, tmp_path / "copies" / made.name)


def rewrite(folder, prefix, change):
    path = next((folder / "tensors").glob(f"{prefix}-*"))
    with safe_open(path, "numpy") as file:
        header = file.metadata()
    arrays = load_file(path)
    path.write_bytes(save(change(arrays), header))


LINE = {"id": "x", "pass": "float32", "order": 0, "layer": "a", "shape": [4], "n": 4, "non_finite": 0, "square": 1.0, "one_in": 1}


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *[
            ("n", 10**18),
            ("n", 10**400),
            ("n", True),
            ("square", 10**400),
            ("square", -1.0),
            ("min", -(10**400)),
            ("non_finite", 5),
        ],
        *[("shape", [5]), ("shape", [2**62] * 31), ("shape", [1] * 40), ("one_in", 2**40), ("one_in", True), ("one_in", 3)],
    ],
)
def test_a_line_that_no_capture_writes(field, value):
    assert problem(LINE) is None
    assert problem(LINE | {field: value})


@pytest.mark.parametrize(
    ("array", "change"),
    [
        ("sketch", lambda x: x[:512]),
        ("sketch", lambda x: x * numpy.nan),
        ("sketch", lambda x: x.astype(numpy.int64)),
        ("values", lambda x: x > 0),
        ("values", lambda x: x[:-3]),
    ],
)
def test_arrays_that_no_capture_writes(made, copied, array, change):
    def edit(arrays):
        name = next(name for name in arrays if name.endswith(array))
        return arrays | {name: numpy.ascontiguousarray(change(arrays[name]))}

    rewrite(copied, "layers", edit)
    with pytest.raises(BundleError, match="is damaged"):
        compare(made, Run(copied))


def test_a_line_that_is_nested_without_end_and_a_name_that_steers_the_terminal(made, copied):
    path = copied / "layers.jsonl"
    whole = path.read_text()
    path.write_text("[" * 100_000 + "]" * 100_000 + "\n")
    with pytest.raises(BundleError, match="is damaged") as found:
        compare(made, Run(copied))
    first, *rest = whole.splitlines()
    path.write_text("\n".join([json.dumps(json.loads(first) | {"layer": "\x1b[31mred\n"}), *rest]) + "\n")
    with pytest.raises(BundleError) as found:
        compare(made, Run(copied))
    assert "\x1b" not in str(found.value)


@pytest.mark.parametrize(
    "probe", [{"moved": 10**400, "largest": 1.0}, {"moved": -1.0, "largest": -1e-320}, {"moved": 1.0, "largest": 1e-320}]
)
def test_a_probe_that_no_model_gives(made, copied, probe):
    path = copied / "samples.jsonl"
    line = json.loads(path.read_text())
    line["capture"]["causality"] = probe
    path.write_text(json.dumps(line) + "\n")
    moved = compare(made, Run(copied)).rung(3).facts["causality"]
    assert moved is None or numpy.isfinite(moved["candidate"])


def test_inputs_that_were_not_recorded_are_not_taken_for_equal(made, copied):
    path = copied / "samples.jsonl"
    line = json.loads(path.read_text())
    line["input"]["seen"] = None
    path.write_text(json.dumps(line) + "\n")
    comparison = compare(made, Run(copied))
    assert comparison.verdict.name == "INCOMPARABLE" and "what was fed as wide" in comparison.verdict.sentence


@pytest.mark.parametrize(
    "change",
    [
        lambda ids: ids.astype(numpy.float32),
        lambda ids: ids[0],
        lambda ids: numpy.concatenate([ids, ids]),
        lambda ids: ids[:, :0],
    ],
    ids=["floats", "one axis", "two rows", "none"],
)
def test_token_ids_that_are_none(llava, made, copied, tmp_path, change):
    rewrite(copied, "inputs", lambda arrays: arrays | {"0/input_ids": numpy.ascontiguousarray(change(arrays["0/input_ids"]))})
    with pytest.raises(BundleError, match="lacks the inputs of 'wide'"):
        capture_layers(f"torch:{llava}", Run(copied), runs=tmp_path / "runs")


@pytest.mark.parametrize("runtime", ["torch", "mlx"])
@pytest.mark.parametrize("token", [10**9, -(10**9)])
def test_token_ids_beyond_the_vocabulary_fail_as_an_item(llava, copied, tmp_path, runtime, token):
    """MLX checks no index: it would read memory that is not the table's, or die."""
    if runtime == "mlx":
        pytest.importorskip("mlx_vlm", reason="needs mlx-vlm (pip install 'parity-workbench[mlx]')")

    def edit(arrays):
        ids = arrays["0/input_ids"].copy()
        ids[0, 3] = token
        return arrays | {"0/input_ids": ids}

    rewrite(copied, "inputs", edit)
    run = capture_layers(f"{runtime}:{llava}", Run(copied), runs=tmp_path / "runs")
    assert "none of this model's" in run.items()["wide"]["output"]["error"]["what"]


def test_a_manifest_without_its_key(llava, copied, tmp_path):
    manifest = json.loads((copied / "manifest.json").read_text())
    (copied / "manifest.json").write_text(
        json.dumps({name: value for name, value in manifest.items() if name not in ("key", "run_key")})
    )
    for localise in (False, True):
        with pytest.raises(UsageError):
            capture_layers(f"torch:{llava}", Run(copied), localise=localise, runs=tmp_path / "runs")


def test_an_image_at_the_very_end_is_captured_without_a_probe(llava, made, tmp_path):
    """Another last token would be one piece of the image less than it has features."""
    (arrays,) = [load_file(path) for path in (made.folder / "tensors").glob("inputs-*")]
    ids = arrays["0/input_ids"]
    image = ids == 2
    last = numpy.concatenate([ids[~image], ids[image]])[None]
    numpy.savez(tmp_path / "last.npz", input_ids=last, pixel_values=arrays["0/pixel_values"], attention_mask=numpy.ones_like(last))
    line = capture_layers(f"torch:{llava}", tmp_path / "last.npz", runs=tmp_path / "runs").items()["last"]
    assert line["output"]["finish"] == "stop" and line["capture"]["causality"] is None


def test_what_to_type_fits_a_capture(llava, pictures, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    typed = ["capture", f"torch:{llava}", "--inputs", str(pictures[0]), "--prompt", "x", "--runs", "runs"]
    assert main(typed) == 0
    (path,) = (tmp_path / "runs").glob("*/manifest.json")
    from workbench.run.bundle import run_key

    manifest = json.loads(path.read_text())
    manifest["key"]["libraries"]["torch"] = "1.0"
    path.write_text(json.dumps(manifest | {"status": "running", "run_key": run_key(manifest["key"])}))
    capsys.readouterr()
    assert main(typed) == 2
    said = capsys.readouterr().err
    assert "libraries.torch" in said and "--fresh" in said and "--allow-mixed" not in said
    assert main(["capture", f"torch:{llava}", "--inputs", "reports/nothing-there"]) == 2
    assert "no such task, file or folder" in capsys.readouterr().err
    assert main(["capture", f"torch:{llava}", "--inputs", "demo", "--prompt", "x"]) == 2
    assert "--prompt asks about images" in capsys.readouterr().err


Pair = collections.namedtuple("Pair", "first second")


@dataclass
class Output:
    logits: Any


@pytest.mark.parametrize("kind", [lambda x: Pair(x, "cache"), Output], ids=["named tuple", "dataclass"])
def test_outputs_of_any_kind_are_replaced_and_the_reference_is_left_alone(kind):
    torch = pytest.importorskip("torch", reason="needs torch (pip install 'parity-workbench[torch]')")

    class Part(torch.nn.Module):
        def forward(self, x):
            return kind(x + 1)

    model = torch.nn.Module()
    model.part = Part()
    reference = {"part": numpy.full((1, 2), 9.0, numpy.float32)}
    with tapped(model, {"part": "part"}, {}, Swapped(reference)):
        made = model.part(torch.zeros(1, 2))
    assert type(made) is type(kind(0))
    values = made[0] if isinstance(made, tuple) else made.logits
    assert values.tolist() == [[9.0, 9.0]]
    values += 1
    assert reference["part"].tolist() == [[9.0, 9.0]], "what a model does in place changes no reference"
