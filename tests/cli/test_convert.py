"""``workbench convert`` as a user types it: what it prints, where the result is, and how it exits."""

import argparse
import json
import shutil
from importlib import util
from pathlib import Path

import pytest

from workbench.cli import convert
from workbench.errors import EXIT_OK, ModelError, UsageError

made = util.spec_from_file_location("folders_of_tests", Path(__file__).parents[1] / "convert" / "conftest.py")
folders = util.module_from_spec(made)
made.loader.exec_module(folders)


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    folder = tmp_path_factory.mktemp("saved") / "my-finetune"
    folders.llava().save_pretrained(folder)
    return folder


@pytest.fixture
def here(original, tmp_path, monkeypatch):
    """The current folder, with ``my-finetune`` in it."""
    monkeypatch.setenv("WORKBENCH_CACHE", str(tmp_path / ".cache"))
    shutil.copytree(original, tmp_path / "my-finetune")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(*words):
    parser = argparse.ArgumentParser()
    convert.add_parser(parser.add_subparsers())
    args = parser.parse_args(["convert", *map(str, words)])
    return args.run(args)


def test_a_folder_is_converted_checked_and_then_there_is_nothing_to_do(here, capsys):
    (here / "my-finetune" / "train.py").write_text("x")
    assert run("./my-finetune", "--to", "hub-layout") == EXIT_OK
    said = capsys.readouterr()
    assert said.out.startswith("my-finetune-hub: llava, 64 weights (39 renamed)\n")
    assert "config.json: text_config.rope_theta: (absent) -> 50000.0" in said.out and "left out: train.py (Python code" in said.out
    assert "check: 67 parameters and buffers and the configuration are the same" in said.out
    assert said.out.rstrip().endswith("--model mlx:my-finetune-hub") and "writing model.safetensors (1 of 1)" in said.err
    before = (here / "my-finetune-hub" / "config.json").stat().st_mtime_ns
    assert run("my-finetune-hub", "--to", "hub-layout") == EXIT_OK
    assert "already: nothing to do" in capsys.readouterr().out
    assert run("my-finetune-hub", "--to", "hub-layout", "--json") == EXIT_OK
    assert json.loads(capsys.readouterr().out) == {"source": "my-finetune-hub", "target": None, "already": True}
    assert (here / "my-finetune-hub" / "config.json").stat().st_mtime_ns == before and not Path("my-finetune-hub-hub").exists()
    with pytest.raises(UsageError, match="my-finetune-hub is there already") as caught:
        run("my-finetune", "--to", "hub-layout")
    assert "--out" in caught.value.fix


def test_json_is_all_that_is_printed(here, capsys):
    (here / "my-finetune" / "train.py").write_text("x")
    words = ["torch:./my-finetune", "--to", "hub-layout", "--out", "new/place", "--json", "--no-check", "--trust-remote-code"]
    assert run(*words) == EXIT_OK
    said = capsys.readouterr()
    found = json.loads(said.out)
    assert said.err == "" and found["target"] == "new/place" and found["renamed"] == 39 and found["remade"] == 0
    assert found["checked"] is False and found["check"] == "not checked" and found["left_out"] == []
    assert {"field": "text_config.rope_theta", "before": "(absent)", "after": 50000.0} in found["changes"]
    assert Path("new/place/train.py").read_text() == "x" and found["copied"] == ["generation_config.json", "train.py"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("my-finetune", "my-finetune-hub"),
        ("./my-finetune/", "my-finetune-hub"),
        ("torch:my-finetune", "my-finetune-hub"),
        ("models/../my-finetune", "models/../my-finetune-hub"),
        ("hub/models--org--name/snapshots/abc", "name-hub"),
    ],
)
def test_the_result_lies_beside_the_model_and_never_in_the_hubs_cache(text, expected, here):
    Path("models").mkdir()
    Path("hub/models--org--name/snapshots/abc").mkdir(parents=True)
    assert convert.find(text, "-hub")[1] == Path(expected)


def test_the_current_folder_gets_its_result_beside_itself(here, monkeypatch):
    monkeypatch.chdir("my-finetune")
    assert convert.find(".", "-hub") == (Path("."), here / "my-finetune-hub")


@pytest.mark.parametrize(
    ("text", "error", "match"),
    [
        ("nowhere", ModelError, "does not exist"),
        ("org/name", ModelError, "does not exist"),
        ("my-finetune/config.json", ModelError, "is a file"),
        ("torch:./nowhere", ModelError, "does not exist"),
        ("mlx:my-finetune", UsageError, "is not converted"),
        ("server:http://127.0.0.1:1#x", UsageError, "is not converted"),
        ("torch:my-finetune?dtype=float16", UsageError, "options of a model"),
        ("torch:my-finetune?adapter=x", UsageError, "options of a model"),
    ],
)
def test_what_is_no_folder_of_transformers_is_refused(text, error, match, here):
    with pytest.raises(error) as caught:
        run(text, "--to", "hub-layout")
    assert match in str(caught.value) and caught.value.exit_code == 2
    assert sorted(path.name for path in here.iterdir() if path.name != ".cache") == ["my-finetune"]


def test_a_hub_id_is_offered_as_one(here):
    with pytest.raises(ModelError) as caught:
        run("org/name", "--to", "hub-layout")
    assert "torch:org/name" in caught.value.fix


def test_the_demo_model_is_published_already(here, capsys):
    assert run("demo:vlm@torch", "--to", "hub-layout") == EXIT_OK
    assert "already: nothing to do" in capsys.readouterr().out


def test_only_what_exists_can_be_asked_for(here, capsys):
    for words in (["my-finetune"], ["my-finetune", "--to", "executorch"]):
        with pytest.raises(SystemExit) as stop:
            run(*words)
        assert stop.value.code == 2
    assert "hub-layout" in capsys.readouterr().err


def test_nothing_from_a_folder_reaches_the_terminal_as_a_command(here, capsys):
    (here / "my-finetune" / "a\x1b[2Jb.py").write_text("x")
    config = json.loads((here / "my-finetune" / "config.json").read_text())
    config["text_config"]["rope_parameters"]["\x1b]0;owned\x07"] = "\x1b[2J"
    (here / "my-finetune" / "config.json").write_text(json.dumps(config))
    assert run("my-finetune", "--to", "hub-layout", "--no-check") == EXIT_OK
    said = capsys.readouterr()
    assert "\x1b" not in said.out + said.err and "\x07" not in said.out + said.err
