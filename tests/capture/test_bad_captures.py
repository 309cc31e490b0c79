"""Captures that must not be compared, or are damaged: INCOMPARABLE with the field, a finding, or an error; never a silent number."""

from __future__ import annotations

import json
import shutil

import pytest

from tests.models.conftest import build
from workbench.capture.session import capture_layers
from workbench.cli.main import main
from workbench.errors import EXIT_INCOMPARABLE, BundleError, UsageError
from workbench.parity.ladder import compare
from workbench.run.bundle import Run


@pytest.fixture(scope="module")
def plain(llava, pictures, tmp_path_factory) -> Run:
    return capture_layers(f"torch:{llava}", pictures, prompt="what is here?", runs=tmp_path_factory.mktemp("plain"))


def edited(folder, source, **files):
    """A copy of a model folder with fields of its JSON files changed."""
    shutil.copytree(source, folder)
    for name, change in files.items():
        path = folder / f"{name}.json"
        value = json.loads(path.read_text())
        change(value)
        path.write_text(json.dumps(value))
    return folder


def incomparable(reference, candidate, *words):
    comparison = compare(reference, candidate)
    assert comparison.verdict.name == "INCOMPARABLE" and comparison.verdict.exit_code == EXIT_INCOMPARABLE
    for word in words:
        assert word in comparison.verdict.sentence
    assert comparison.rung(3).status == comparison.rung(4).status == "not run"
    assert not comparison.rung(3).facts
    return comparison


def test_another_tokenizer(plain, llava, pictures, tmp_path):
    def swap(tokenizer):
        vocabulary = tokenizer["model"]["vocab"]
        vocabulary["a"], vocabulary["e"] = vocabulary["e"], vocabulary["a"]

    other = edited(tmp_path / "other", llava, tokenizer=swap)
    candidate = capture_layers(f"torch:{other}", pictures, prompt="what is here?", runs=tmp_path / "runs")
    incomparable(plain, candidate, "token ids", "tokenizer")


def test_other_image_sizes(plain, llava, pictures, tmp_path):
    candidate = capture_layers(f"torch:{llava}?max_pixels=256", pictures, prompt="what is here?", runs=tmp_path / "runs")
    incomparable(plain, candidate, "pixel_values of ")


def test_another_number_of_layers(plain, llava, tmp_path):
    from safetensors.numpy import load_file, save_file

    other = edited(tmp_path / "other", llava, config=lambda config: config["text_config"].update(num_hidden_layers=1))
    weights = load_file(other / "model.safetensors")
    kept = {name: value for name, value in weights.items() if "language_model.model.layers.1." not in name}
    assert len(kept) < len(weights)
    save_file(kept, other / "model.safetensors", metadata={"format": "pt"})
    candidate = capture_layers(f"torch:{other}", plain, runs=tmp_path / "runs")
    incomparable(plain, candidate, "text blocks: 2 and 1")


def test_other_inputs(plain, llava, pictures, tmp_path):
    asked = capture_layers(f"torch:{llava}", pictures, prompt="what else is here?", runs=tmp_path / "asked")
    incomparable(plain, asked, "token ids")
    from PIL import Image

    renamed = [tmp_path / f"other-{path.name}" for path in pictures]
    for path, target in zip(pictures, renamed, strict=True):
        Image.open(path).rotate(180).save(target)
    shown = capture_layers(f"torch:{llava}", renamed, prompt="what is here?", runs=tmp_path / "shown")
    incomparable(plain, shown, "inputs: ")
    for path, target in zip(pictures, renamed, strict=True):
        (target.parent / "same").mkdir(exist_ok=True)
        shutil.copy(target, target.parent / "same" / path.name)
    same_names = [target.parent / "same" / path.name for path, target in zip(pictures, renamed, strict=True)]
    turned = capture_layers(f"torch:{llava}", same_names, prompt="what is here?", runs=tmp_path / "turned")
    incomparable(plain, turned, "pixel_values of tall", "pixel_values of wide")


def test_missing_and_damaged_tensors(plain, llava, pictures, tmp_path, capsys):
    candidate = capture_layers(f"torch:{llava}", plain, runs=tmp_path / "runs")
    copy = shutil.copytree(candidate.folder, tmp_path / candidate.name)
    part = sorted((copy / "tensors").glob("layers-*"))[0]
    whole = part.read_bytes()
    part.unlink()
    with pytest.raises(BundleError, match="lacks the tensors of"):
        compare(plain, Run(copy))
    assert main(["verify", str(copy)]) == 1 and "lacks the tensors" in capsys.readouterr().out
    part.write_bytes(whole[:-64])
    with pytest.raises(BundleError, match="cannot be read|is damaged"):
        compare(plain, Run(copy))
    part.write_bytes(whole)
    assert compare(plain, Run(copy)).verdict.name == "AGREE"
    lines = (copy / "layers.jsonl").read_text().splitlines()
    (copy / "layers.jsonl").write_text("\n".join([lines[0].replace('"n":', '"n":-'), *lines[1:]]) + "\n")
    with pytest.raises(BundleError, match="damaged at line 1"):
        compare(plain, Run(copy))


def test_a_layer_that_one_side_lacks_is_listed(plain, llava, tmp_path):
    candidate = capture_layers(
        f"torch:{llava}", plain, layers=["*.block.#", "logits", "projector.linear_1"], runs=tmp_path / "runs"
    )
    rung = compare(plain, candidate).rung(3)
    unaligned = {row["layer"]: row["reason"] for row in rung.facts["unaligned"]}
    assert unaligned["text.norm"] == "the candidate has no such layer"
    assert unaligned["projector.linear_1"] == "the reference has no such layer"
    assert "could not be aligned" in rung.finding
    assert {row["layer"] for row in rung.facts["layers"]} >= {"text.norm", "projector.linear_1", "text.block.0"}


def test_without_torchs_own_error_nothing_is_judged(llava, plain, tmp_path):
    reference = capture_layers(f"torch:{llava}", plain, also=("none",), runs=tmp_path / "reference")
    candidate = capture_layers(f"torch:{llava}?attention=eager", plain, also=("none",), runs=tmp_path / "candidate")
    comparison = compare(reference, candidate)
    assert comparison.rung(3).status == "unclear" and comparison.verdict.name == "INCONCLUSIVE"
    assert "not recorded" in comparison.rung(3).finding and comparison.rung(3).fix


def test_runs_and_captures_do_not_mix(plain, tmp_path):
    from tests.parity.bundles import lines_of, make_run

    run = make_run(tmp_path, "torch:a", lines_of(20, 10))
    assert compare(run, plain).verdict.name == "INCOMPARABLE"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--inputs", "nothing-here"], "nothing-here"),
        (["--inputs", "PICTURE"], "--prompt"),
        (["--inputs", "missing.png", "--prompt", "x"], "there is no file"),
        (["--inputs", "PICTURE", "--prompt", "x", "--layers", "nothing.*"], "no layer matches"),
        (["--inputs", "PICTURE", "--prompt", "x", "--also", "int8"], "unknown precision"),
        (["--inputs", "PICTURE", "--prompt", "x", "--limit", "0"], "--limit"),
        (["--inputs", "PICTURE", "--prompt", "x", "--localise"], "reference's capture"),
        (["--inputs", "PLAIN", "--localise"], "--keep"),
        (["--inputs", "BROKEN.npz"], "cannot be read"),
        (["--inputs", "EMPTY.npz"], "input_ids"),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_bad_arguments(plain, llava, pictures, tmp_path, capsys, monkeypatch, arguments, words):
    import numpy

    (tmp_path / "BROKEN.npz").write_bytes(b"PK no zip")
    numpy.savez(tmp_path / "EMPTY.npz", pixel_values=numpy.zeros((1, 3, 32, 32)))
    monkeypatch.chdir(tmp_path)
    known = {"PICTURE": str(pictures[0]), "PLAIN": str(plain.folder)}
    typed = [known.get(each, each) for each in arguments]
    assert main(["capture", f"torch:{llava}", *typed, "--runs", "runs"]) == 2
    assert words in " ".join(capsys.readouterr().err.split())
    assert not list((tmp_path / "runs").glob("*/samples.jsonl")) or not any(
        json.loads((folder / "manifest.json").read_text())["status"] == "complete" for folder in (tmp_path / "runs").iterdir()
    )


def test_a_server_cannot_be_looked_into(plain, tmp_path):
    with pytest.raises(UsageError, match="cannot be looked into"):
        capture_layers("server:http://127.0.0.1:1#m", plain, runs=tmp_path)


def test_an_item_that_fails_is_recorded_and_the_others_are_captured(llava, pictures, tmp_path):
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no picture")
    run = capture_layers(f"torch:{llava}", [pictures[0], broken], prompt="what is here?", runs=tmp_path / "runs")
    lines = run.items()
    assert lines["broken"]["output"]["finish"] == "error" and lines[pictures[0].stem]["output"]["finish"] == "stop"
    assert run.results["item_errors"] == 1
    comparison = compare(run, capture_layers(f"torch:{llava}", run, runs=tmp_path / "again"))
    assert comparison.verdict.name == "AGREE" and comparison.verdict.n == 1
    assert comparison.unpaired["reference"] == ["broken"]


def test_a_tiny_model_of_another_seed_departs_at_the_first_layer(plain, tmp_path):
    other = build(tmp_path / "other", seed=7)
    comparison = compare(plain, capture_layers(f"torch:{other}", plain, runs=tmp_path / "runs"))
    assert comparison.rung(1).status == "different" and comparison.verdict.name == "DIFFERENT"
    assert comparison.rung(3).facts["first_departing"] in ("vision.embeddings", "text.embeddings")


@pytest.mark.parametrize(
    "typed",
    ["score {0}", "merge {0} {0} --out merged", "extract {0} --with server:http://127.0.0.1:1#m", "pack {0} --redact --out z.zip"],
)
def test_a_capture_holds_no_answers(plain, tmp_path, monkeypatch, capsys, typed):
    monkeypatch.chdir(tmp_path)
    assert main(typed.format(plain.folder).split()) == 2
    said = capsys.readouterr().err
    assert "is a capture" in said and "no answers" in said
    assert not list(tmp_path.iterdir())
