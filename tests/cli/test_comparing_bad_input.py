"""Bad bundles through the command line: what, why, the next command; an exit code; nothing half-written."""

from __future__ import annotations

import json
import zipfile

import pytest

from tests.parity.bundles import line, lines_of, make_run
from workbench.cli.main import main


@pytest.fixture
def reference(tmp_path):
    return make_run(tmp_path / "runs", "torch:a", lines_of(150, 50))


def said_by(capsys):
    return " ".join(("".join(capsys.readouterr())).split())


def other(tmp_path, **changes):
    return make_run(tmp_path / "runs", "mlx:a", lines_of(150, 50), **changes)


def test_bundles_of_different_tasks(tmp_path, reference, capsys):
    assert main(["parity", str(reference.folder), str(other(tmp_path, task__name="other").folder)]) == 5
    assert "INCOMPARABLE" in (said := said_by(capsys)) and "task.name: made and other" in said
    target = tmp_path / "page"
    assert main(["report", str(reference.folder), str(tmp_path / "runs"), "--out", str(target), "--reference", "torch:a"]) == 0
    assert "INCOMPARABLE" in (target / "index.html").read_text(encoding="utf-8")


@pytest.mark.parametrize("verb", ["parity", "report"])
def test_an_incomplete_bundle(tmp_path, reference, capsys, verb):
    run = other(tmp_path, status="running")
    target = tmp_path / "page"
    extra = ["--out", str(target)] if verb == "report" else []
    assert main([verb, str(reference.folder), str(run.folder), *extra]) == 2
    said = said_by(capsys)
    assert "is not complete" in said and "--partial" in said and not target.exists()
    assert main([verb, str(reference.folder), str(run.folder), "--partial", *extra]) in (0, 4)


def test_a_missing_media_file(tmp_path, reference, capsys):
    missing = "ab" * 32
    lines = [line(str(place), float(place < 140), **{"input.media": [missing]}) for place in range(200)]
    run = make_run(tmp_path / "runs", "mlx:a", lines)
    (run.folder / "media").mkdir()
    target = tmp_path / "page"
    assert main(["report", str(reference.folder), str(run.folder), "--out", str(target)]) == 0
    assert (target / "index.html").is_file()
    capsys.readouterr()
    assert main(["verify", str(run.folder)]) == 1 and missing[:12] in said_by(capsys)


@pytest.mark.parametrize(
    "name", ["../../outside.json", "/outside.json", "a/../../outside.json", "C:\\outside.json", "run/..\\outside"]
)
@pytest.mark.parametrize("verb", ["parity", "report", "verify"])
def test_a_zip_with_path_traversal(tmp_path, reference, capsys, name, verb):
    path = tmp_path / "zips" / "evil.zip"
    path.parent.mkdir()
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("run/manifest.json", json.dumps({"schema": 2}))
        archive.writestr(name, "{}")
    before = set(tmp_path.rglob("*"))
    arguments = [verb, *([str(reference.folder)] if verb != "verify" else []), str(path)]
    arguments += ["--out", str(tmp_path / "page")] if verb == "report" else []
    assert main(arguments) == 2
    said = said_by(capsys)
    assert "outside" in said and "evil.zip" in said
    assert set(tmp_path.rglob("*")) == before, "nothing was written"


def test_a_hand_edited_results_file(tmp_path, reference, capsys):
    run = other(tmp_path)
    results = json.loads((run.folder / "results.json").read_text())
    results["headline"]["value"] = 99.0
    (run.folder / "results.json").write_text(json.dumps(results))
    assert main(["verify", str(run.folder)]) == 1
    assert "results.json" in (said := said_by(capsys)) and "99" in said and "75" in said
    assert main(["parity", str(reference.folder), str(run.folder), "--gate"]) == 1
    assert "results.json" in said_by(capsys).split("gate:")[1]
    assert main(["report", str(reference.folder), str(run.folder), "--out", str(tmp_path / "page")]) == 0
    assert "results.json" in (tmp_path / "page" / "index.html").read_text(encoding="utf-8")


@pytest.mark.parametrize("damage", ["manifest.json", "samples.jsonl"])
def test_a_damaged_file(tmp_path, reference, capsys, damage):
    run = other(tmp_path)
    path = run.folder / damage
    path.write_bytes(b"\x00\x01 not json\n" + path.read_bytes())
    assert main(["parity", str(reference.folder), str(run.folder)]) == 2
    assert damage.split(".")[0] in said_by(capsys)


def test_a_file_that_is_no_zip(tmp_path, reference, capsys):
    path = tmp_path / "notes.zip"
    path.write_text("hello")
    assert main(["parity", str(reference.folder), str(path)]) == 2
    assert "notes.zip" in said_by(capsys)


def test_a_report_that_cannot_be_written(tmp_path, reference, capsys):
    blocked = tmp_path / "file"
    blocked.write_text("")
    assert main(["report", str(reference.folder), str(other(tmp_path).folder), "--out", str(blocked / "page")]) == 2
    assert said_by(capsys)


def test_a_large_comparison_says_that_it_takes_a_while(tmp_path, reference, capsys, monkeypatch):
    arguments = ["parity", str(reference.folder), str(other(tmp_path).folder), "--json"]
    assert main(arguments) == 0 and capsys.readouterr().err == ""
    monkeypatch.setattr("workbench.cli.comparing.MANY_ITEMS", 300)
    assert main(arguments) == 0
    said = capsys.readouterr()
    assert said.err == "comparing 400 items of 2 runs; this takes a while\n" and json.loads(said.out)["exit_code"] == 0
