"""``workbench pack``, ``merge`` and ``verify`` as a user types them: what they print, and how they exit."""

import argparse
import json
from importlib import util
from pathlib import Path

import pytest

from workbench.cli import merge, pack, verify
from workbench.errors import BundleError, UsageError
from workbench.run.bundle import Run
from workbench.run.redact import is_redacted

made = util.spec_from_file_location("bundles_of_tests", Path(__file__).parents[1] / "run" / "conftest.py")
bundles = util.module_from_spec(made)
made.loader.exec_module(bundles)


def run(*words):
    parser = argparse.ArgumentParser()
    parsers = parser.add_subparsers()
    for verb in (pack, merge, verify):
        verb.add_parser(parsers)
    args = parser.parse_args([str(word) for word in words])
    return args.run(args)


@pytest.fixture
def make_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return lambda shard=None, **more: bundles.make(Path("runs"), shard, **more)


def test_a_run_is_packed_verified_and_read(make_run, capsys):
    folder = make_run(media=True)
    assert run("pack", folder) == 0
    said = capsys.readouterr()
    assert said.out.startswith(f"{folder.name}.zip: 1 run, ") and said.err == ""
    assert run("verify", folder, f"{folder.name}.zip") == 0
    text = capsys.readouterr().out
    assert text.count(f"{folder.name}: ok") == 2 and text.count("scoring the answers again") == 2
    (folder / "notes.txt").write_text("x")
    assert run("pack", folder, make_run(max_tokens=3), "--json", "--out", "two.zip") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["left_out"] == [f"{folder.name}/notes.txt"] and found["warnings"] == [] and len(found["runs"]) == 2
    assert run("pack", "two.zip", "--out", "again.zip") == 0
    assert Path("again.zip").read_bytes() == Path("two.zip").read_bytes()


def test_redacted_zips_hold_no_text_and_can_be_compared_by_key(make_run, capsys):
    folder = make_run(media=True)
    for name, more in (("a", ["--redact-key", "ours"]), ("b", ["--redact-key", "ours"]), ("c", []), ("d", [])):
        assert run("pack", folder, "--redact", "--out", f"{name}.zip", *more) == 0
    contents = {name: Path(f"{name}.zip").read_bytes() for name in "abcd"}
    assert contents["a"] == contents["b"] and len(set(contents.values())) == 3
    copy = Run("a.zip")
    assert all(is_redacted(line["input"]["text"]) for line in copy.iter_items()) and copy.results == Run(folder).results
    capsys.readouterr()
    assert run("verify", "a.zip") == 0
    assert "is redacted" in (text := capsys.readouterr().out) and "removed by redaction" in text
    with pytest.raises(UsageError, match="--redact-key"):
        run("pack", folder, "--redact-key", "x")


def test_shards_are_merged_and_the_result_verifies(make_run, capsys):
    parts = [make_run(f"{number}/3") for number in (1, 2, 3)]
    assert run("merge", *parts, "--out", "runs/whole", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["run"] == "runs/whole" and found["missing"] == 0 and len(found["merged"]) == 3
    assert run("merge", *parts[:2], "--out", "part") == 0
    assert "items of the data are in no shard" in capsys.readouterr().out
    assert run("verify", "runs/whole", "part") == 0
    assert "merged from 3 runs" in capsys.readouterr().out
    assert run("pack", *parts, "--out", "parts.zip") == 0 and run("merge", "parts.zip", "--out", "from-zip") == 0
    assert Run("from-zip").items() == Run("runs/whole").items()
    with pytest.raises(BundleError, match="another run holds too"):
        run("merge", parts[0], parts[0], "--out", "twice")
    assert not Path("twice").exists()


def test_verify_names_what_was_edited_and_exits_1(make_run, capsys):
    good, bad = make_run(), make_run(max_tokens=3)
    true = Run(bad).results["headline"]["value"]
    bundles.edit(bad / "results.json", lambda results: results["headline"].update(value=99.0))
    assert run("verify", good, bad) == 1
    text = capsys.readouterr().out
    assert f"{good.name}: ok" in text and f"{bad.name}: FAILED" in text
    assert f"results.json says 99.00 %, its answers give {true:.2f} %" in text
    assert run("verify", good, bad, "--json") == 1
    rows = json.loads(capsys.readouterr().out)["runs"]
    assert [row["ok"] for row in rows] == [True, False]
    assert {"level": "failed", "what": "checksums", "detail": "results.json changed after the run was finished"} in rows[1][
        "findings"
    ]
    assert run("pack", bad) == 0 and "warning: " in capsys.readouterr().err


def test_what_cannot_be_read_exits_2_and_the_others_are_still_checked(make_run, capsys):
    good = make_run()
    Path("text.zip").write_text("no zip")
    Path("newer").mkdir()
    Path("newer/manifest.json").write_text('{"schema": 99}')
    assert run("verify", "nowhere", "text.zip", "newer", good) == 2
    text = capsys.readouterr().out
    assert text.count("cannot be read\n") == 3 and f"{good.name}: ok" in text and "pip install --upgrade" in text
    assert run("verify", "nowhere", "--json") == 2
    (row,) = json.loads(capsys.readouterr().out)["runs"]
    assert row["ok"] is False and "is no run bundle" in row["error"]


def test_an_old_run_is_migrated_when_asked(make_run, capsys):
    folder = bundles.as_schema_1(make_run())
    assert run("verify", folder) == 0 and "first written in schema 1" in capsys.readouterr().out
    assert json.loads((folder / "manifest.json").read_text())["schema"] == 1
    assert run("verify", folder, "--migrate") == 0 and "rewritten in the newest schema" in capsys.readouterr().out
    assert json.loads((folder / "manifest.json").read_text())["schema"] == 2
    assert run("verify", folder, "--migrate") == 0 and "rewritten" not in capsys.readouterr().out


def test_nothing_from_a_bundle_reaches_the_terminal_as_a_command(make_run, capsys):
    folder = make_run()
    (folder / "a\x1b[2Jb.txt").write_text("x")
    bundles.edit(folder / "results.json", lambda results: {**results, "correct": "\x1b]0;owned\x07\n"})
    assert run("verify", folder) == 1
    text = capsys.readouterr().out
    assert "\x1b" not in text and "\x07" not in text and "no part of a bundle" in text
