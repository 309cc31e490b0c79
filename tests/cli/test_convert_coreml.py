"""``workbench convert --to coreml`` as a user types it: what it prints, what it refuses, how it exits."""

import argparse
import json
import os
import shlex
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.convert import staged_models
from tests.convert.small_modules import small
from workbench.cli import convert, convert_coreml, main
from workbench.convert.coreml.recipe import Recipe
from workbench.convert.feeds import INPUTS_OF, feeds_of
from workbench.convert.subject import subject_of
from workbench.errors import EXIT_DIFFERENT, EXIT_OK, EXIT_USAGE, DataError, UsageError
from workbench.models.converted import Converted

pytest.importorskip("coremltools")
pytest.importorskip("torch")
numpy = pytest.importorskip("numpy")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A folder with small.py and its conversion, and what was said."""
    folder = tmp_path_factory.mktemp("made")
    small(folder)
    return folder


@pytest.fixture
def here(made, monkeypatch, tmp_path):
    monkeypatch.setenv("WORKBENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(made)
    return made


def run(*words):
    parser = argparse.ArgumentParser()
    convert.add_parser(parser.add_subparsers())
    args = parser.parse_args(["convert", *map(str, words)])
    return args.run(args)


def test_a_module_what_was_compressed_and_what_was_not(here, capsys):
    words = ["small.py:make", "--to", "coreml", "--quantize", "int4-block32", "--sensitivity", "1"]
    assert run(*words) == EXIT_OK
    said = capsys.readouterr()
    folder = Path("small-make-coreml-int4-block32")
    lines = said.out.splitlines()
    assert lines[0].startswith(f"{folder}: Small, fp32 int4-block32 iOS18, 1 stage, ") and "main.mlpackage" in lines[1]
    assert "int4-block32: main: 1 of " in said.out and "  not compressed: 1 × 16 input channels are no multiple" in said.out
    assert "    narrow.weight [160, 16]: 16 input channels are no multiple of the block of 32" in lines
    assert "check against torch, on seeded random inputs (relative L2 of the outputs; before compression)" in lines
    (row,) = [line for line in lines if line.startswith("  main: same, at most ")]
    assert "(scores), limit 2e-05; 2 calls; " in row and "ops fp32; compressed: " in row
    table = lines[lines.index(next(line for line in lines if line.startswith("sensitivity:"))) + 1 :]
    assert table[0].startswith("  main  ") and "saves" in table[0] and table[1] == "  main  and 1 more (--json lists all)"
    assert lines[-1] == f"next: workbench mil check {folder}/main.mlpackage --against small.py:make"
    assert "main (1 of 1)" in said.err and "measuring what each layer of main costs" in said.err
    assert run(*words, "--json") == EXIT_OK
    again = capsys.readouterr()
    found = json.loads(again.out)
    assert again.err == "" and found["reused"] and found["target"] == str(folder) and found["label"] == "fp32 int4-block32 iOS18"
    assert found["identity"] == Converted(folder).identity() and len(found["stages"]["main"]["weights"]) >= 2
    assert {row["layer"] for row in found["sensitivity"]} == {"(all)", "wide"} and found["next"] == lines[-1].removeprefix("next: ")


def test_what_the_printed_command_says_runs(here, capsys):
    run("small.py:make", "--to", "coreml", "--no-check")
    lines = capsys.readouterr().out.splitlines()
    assert "check: none was made (--no-check)" in lines
    words = shlex.split(lines[-1].removeprefix("next: workbench "))
    assert words[:2] == ["mil", "check"] and Path(words[2]).is_dir() and words[3:] == ["--against", "small.py:make"]


def test_own_inputs_and_ops_kept_in_fp32(here, capsys):
    numpy.savez("mine.npz", x=numpy.ones((2, 64), numpy.float32))
    words = ["small.py:make", "--to", "coreml", "--precision", "fp16", "--keep-fp32", "softmax", "--inputs", "mine.npz"]
    assert run(*words) == EXIT_OK
    said = capsys.readouterr().out
    assert "small-make-coreml-fp16: Small, fp16 iOS18 keep-fp32(softmax)" in said
    assert "kept in fp32: main: 1 op (softmax × 1)" in said and "on mine.npz" in said and "limit 4e-02; 1 call; " in said
    with pytest.raises(UsageError, match="another conversion") as caught:
        run("small.py:make", "--to", "coreml", "--precision", "fp16")
    assert "keep_fp32" in caught.value.why
    Path("bad.npz").write_text("x")
    for name in ("bad.npz", "missing.npz", "small.py"):
        with pytest.raises(DataError, match="cannot be read as named arrays"):
            run("small.py:make", "--to", "coreml", "--out", "new", "--inputs", name)


def test_a_conversion_that_differs_exits_1_names_the_op_and_writes_nothing(here, monkeypatch, capsys):
    from workbench.convert.coreml import programs

    convert_stage = programs.convert_stage

    def transposed(stage, recipe, **more):
        import torch

        weight = stage.module.narrow.weight
        kept = weight.detach().clone()
        with torch.no_grad():
            weight.copy_(kept.flip(0))
            found = convert_stage(stage, recipe, **more)
            weight.copy_(kept)
        return found

    monkeypatch.setattr(programs, "convert_stage", transposed)
    assert main.main(["convert", "small.py:make", "--to", "coreml", "--out", "wrong"]) == EXIT_DIFFERENT
    said = capsys.readouterr()
    assert "the conversion of small.py:make is not the model: main: scores is " in said.err
    assert "small.py:" in said.err and "narrow" in said.err and "--no-check" in said.err
    assert not Path("wrong").exists() and not [name for name in os.listdir() if name.startswith(".wrong")]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--to", "coreml", "--bits", "4"), "--bits does nothing for --to coreml"),
        (("--to", "coreml", "--trust-remote-code"), "--trust-remote-code does nothing for --to coreml"),
        (("--to", "hub-layout", "--precision", "fp16"), "--precision does nothing for --to hub-layout"),
        (("--to", "hub-layout", "--stateful-kv"), "--stateful-kv does nothing"),
        (("--to", "coreml", "--precision", "bf16"), "precision 'bf16' is not known"),
        (("--to", "coreml", "--quantize", "int5"), "quantize 'int5' is not known"),
        (("--to", "coreml", "--target", "iOS17", "--stateful-kv"), "cannot keep states"),
        (("--to", "coreml", "--target", "iOS17", "--quantize", "int4-block32"), "cannot be stored for iOS17"),
        (("--to", "coreml", "--keep-fp32", "softmax"), "means nothing in fp32"),
        (("--to", "coreml", "--context", "1"), "is no number of positions"),
        (("--to", "coreml", "--sensitivity"), "--sensitivity is about a compression"),
        (("--to", "coreml", "--quantize", "int8", "--sensitivity", "0"), "at least 1"),
        (("--to", "coreml", "--limit", "3"), "--limit is about --inputs"),
        (("--to", "coreml", "--no-check", "--inputs", "x.npz"), "--inputs are for the check"),
    ],
)
def test_options_that_do_nothing_or_do_not_go_together_are_refused(here, words, message):
    with pytest.raises(UsageError, match=message):
        run("small.py:make", *words)


def test_bad_models_end_with_a_message(here, capsys):
    for model, message in (
        ("nowhere.py:make", "nowhere.py"),
        ("small.py:missing", "holds no missing()"),
        ("demo:none", "there is no demo model 'none'"),
        ("gibberish", "cannot read model"),
    ):
        assert main.main(["convert", model, "--to", "coreml"]) == EXIT_USAGE
        assert message in capsys.readouterr().err


def test_names_of_results(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "models" / "mine").mkdir(parents=True)
    recipe = Recipe(precision="fp16", quantize="int8", target="iOS17", context=64)
    for model, name, expected in (
        ("demo:vlm", "demo:vlm", "demo-vlm-coreml-fp16-int8-iOS17-context64"),
        ("torch:org/whisper", "org/whisper", "whisper-coreml-fp16-int8-iOS17-context64"),
        ("models/mine", "mine", "models/mine-coreml-fp16-int8-iOS17-context64"),
        ("a/net.py:make", "net.py:make", "net-make-coreml-fp16-int8-iOS17-context64"),
    ):
        assert convert_coreml.default_out(model, SimpleNamespace(name=name), recipe) == Path(expected)
    assert convert_coreml.default_out("demo:stt", SimpleNamespace(name="demo:stt"), Recipe(stateful=True)) == Path(
        "demo-stt-coreml-stateful"
    )


def arguments(**given):
    return SimpleNamespace(**({"inputs": None, "limit": None, "no_check": False, "sensitivity": None} | given))


@pytest.mark.parametrize(("model", "calls"), [("demo:vlm", {"vision": 4, "prefill": 4, "step": 6}), ("demo:stt", {"encoder": 1})])
def test_bundled_models_are_checked_on_their_own_tasks(model, calls):
    subject = subject_of(model)
    stages = subject.stages(Recipe(context=192))
    feeds, words = feeds_of(subject, INPUTS_OF[model], 1)(stages)
    found = {name: len(given) for name, given in feeds.items()}
    assert found | calls == found and words.startswith(("4 inputs of demo", "1 input of stt"))
    last = feeds["step"][-1]
    logits = stages["step"].run(feeds["step"][-2])[0]["logits"]
    assert int(logits[0, -1].argmax()) == int(last["tokens"][0, 0]), "the tokens are torch's own"
    assert convert_coreml._feeds(arguments(no_check=True), subject) is None


def test_inputs_of_another_family_are_refused(tmp_path):
    subject = subject_of(str(staged_models.whisper(tmp_path / "tiny")))
    assert convert_coreml._feeds(arguments(), subject) is None
    feeds = feeds_of(subject, ["demo"], 1)
    with pytest.raises(UsageError, match="tiny is a speech-to-text model"):
        feeds(subject.stages(Recipe()))
