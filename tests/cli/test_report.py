"""``workbench report`` and ``workbench view``: what they write, print and open."""

import argparse
import json
import webbrowser
from pathlib import Path

import pytest

from tests.report.bundles import make_line, make_run
from tests.report.capture_bundles import make_candidate, make_reference
from tests.report.speech_bundles import make_speech_run, some_lines
from tests.report.zoo_bundles import make_zoo, some_rows
from workbench.cli import report, view
from workbench.errors import BundleError, UsageError
from workbench.run.bundle import Run
from workbench.run.redact import redact


@pytest.fixture
def runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folders = []
    for name, wrong in (("a", ()), ("b", (3,)), ("c", range(30))):
        lines = [make_line(str(number), number not in wrong) for number in range(60)]
        folders.append(str(make_run(tmp_path / "reports" / "runs", f"demo:{name}", lines)))
    return folders


@pytest.fixture
def opened(monkeypatch):
    found = []
    monkeypatch.setattr(webbrowser, "open", lambda address: found.append(address) or True)
    return found


def call(module, *words):
    parser = argparse.ArgumentParser()
    module.add_parser(parser.add_subparsers(dest="verb"))
    name = module.__name__.rpartition(".")[2]
    return module.run(parser.parse_args([name, *words]))


def test_it_prints_the_verdicts_and_the_page(runs, capsys, tmp_path):
    assert call(report, *runs) == 0
    *sentences, path = capsys.readouterr().out.splitlines()
    assert len(sentences) == 2 and sentences[1].startswith("DIFFERENT: demo:c ")
    page = tmp_path / path
    assert page.name == "index.html" and path.startswith("reports/report-") and "demo:c" in page.read_text()
    assert str(tmp_path) not in page.read_text()  # a path may name a user


def test_the_same_runs_go_to_the_same_folder(runs, capsys):
    call(report, *runs)
    call(report, *runs)
    call(report, *runs, "--margin", "1")
    redacted = [str(redact(Run(run), Path("hidden") / str(place), b"key").folder) for place, run in enumerate(runs)]
    call(report, *redacted)
    first, second, *others = [line for line in capsys.readouterr().out.splitlines() if line.endswith("index.html")]
    assert first == second and len({first, *others}) == 3, "another margin and a redacted copy are other reports"


def test_json_reference_margin_and_out(runs, capsys, tmp_path):
    assert call(report, *runs[:2], "--reference", "demo:b", "--relative-margin", "50", "--out", "mine", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["report"] == "mine/index.html" and (tmp_path / "mine" / "items.csv").is_file()
    assert [(each["reference"], each["candidate"], each["n"]) for each in found["verdicts"]] == [("demo:b", "demo:a", 60)]
    assert "50.0 %" in found["verdicts"][0]["margin"] and found["verdicts"][0]["verdict"] == "EQUIVALENT"


def test_two_families_have_a_verdict_and_a_reference_each(runs, capsys, tmp_path):
    spoken = [str(make_speech_run(tmp_path / "reports" / "runs", f"demo:stt@{name}", some_lines(20))) for name in ("torch", "mlx")]
    references = ["--reference", "demo:stt@mlx", "--reference", "demo:b"]
    assert call(report, *runs[:2], *spoken, *references, "--no-media", "--json") == 0
    found = json.loads(capsys.readouterr().out)["verdicts"]
    assert {(each["reference"], each["candidate"]) for each in found} == {("demo:stt@mlx", "demo:stt@torch"), ("demo:b", "demo:a")}
    assert all(each["verdict"] != "INCOMPARABLE" for each in found)


def test_one_run_has_no_verdict(runs, capsys):
    assert call(report, runs[0]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 1


@pytest.mark.parametrize("words", [["--margin", "0"], ["--margin", "-1"], ["--relative-margin", "nan"], ["--reference", "demo:z"]])
def test_what_cannot_be_meant_is_refused(runs, words):
    with pytest.raises(UsageError):
        call(report, *runs, *words)


def test_an_unfinished_run_needs_partial(runs):
    from pathlib import Path

    manifest = Path(runs[1]) / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"complete"', '"running"'))
    with pytest.raises(BundleError, match="not complete"):
        call(report, *runs[:2])
    assert call(report, *runs[:2], "--partial") == 0


def test_open_shows_the_page_or_says_that_it_cannot(runs, capsys, monkeypatch, opened):
    call(report, *runs[:2], "--open")
    assert len(opened) == 1 and opened[0].startswith("file://") and opened[0].endswith("/index.html")
    monkeypatch.setattr(webbrowser, "open", lambda address: False)
    assert call(report, *runs[:2], "--open") == 0
    assert "no browser could be started here; open this file: " in capsys.readouterr().err


def test_view_opens_a_report_by_folder_page_or_age(runs, capsys, opened):
    call(report, *runs[:2], "--out", "reports/one")
    call(report, *runs, "--out", "reports/two")
    capsys.readouterr()
    for words, expected in (([], "two"), (["reports/one"], "one"), (["reports/one/index.html"], "one")):
        assert call(view, *words) == 0
        assert capsys.readouterr().out.strip() == f"reports/{expected}/index.html"
    assert len(opened) == 3


def test_view_passes_over_a_draft_that_a_killed_report_left(runs, capsys, tmp_path):
    call(report, *runs[:2], "--out", "reports/one")
    draft = tmp_path / "reports" / ".two.draft-x1"
    draft.mkdir()
    (draft / "index.html").write_text("<!doctype html>half a")
    capsys.readouterr()
    assert call(view, "--no-open") == 0 and capsys.readouterr().out.strip() == "reports/one/index.html"


def test_view_builds_a_report_of_runs(runs, capsys, opened, tmp_path):
    assert call(view, *runs[:2], "--no-open") == 0
    assert (tmp_path / capsys.readouterr().out.strip()).is_file() and opened == []


def test_view_of_nothing_says_what_to_type(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match="no report") as caught:
        call(view)
    assert caught.value.fix.startswith("workbench report")


def test_view_shows_one_report_at_a_time(runs, opened):
    call(report, *runs[:2], "--out", "reports/one")
    with pytest.raises(UsageError, match="one report"):
        call(view, "reports/one", runs[0])


@pytest.fixture
def zoo(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return make_zoo(tmp_path / "reports" / "runs", *some_rows())


@pytest.mark.parametrize("module", [report, view])
def test_a_zoo_has_a_page_of_its_own(zoo, capsys, opened, tmp_path, module):
    assert call(module, str(zoo.folder)) == 0
    path = capsys.readouterr().out.strip()
    assert path == f"reports/zoo-report-{zoo.manifest['run_key'][:10]}/index.html"
    page = (tmp_path / path).read_text()
    assert "Zoo report" in page and f"workbench report {zoo.name}" in page and len(opened) == (module is view)


def test_a_zoo_in_a_zip_and_alone_in_a_folder(zoo, capsys, tmp_path):
    from workbench.run.archive import pack

    pack([zoo], tmp_path / "packed.zip")
    for source in ("packed.zip", "reports/runs"):
        assert call(report, source, "--out", "mine", "--json") == 0
        assert json.loads(capsys.readouterr().out) == {"report": "mine/index.html", "verdicts": []}
        assert "Zoo report" in (tmp_path / "mine" / "index.html").read_text()


def test_a_zoo_in_a_folder_of_runs_is_left_out_and_named(runs, zoo, capsys, tmp_path):
    assert call(report, "reports/runs") == 0
    found = capsys.readouterr()
    assert found.err == f"{zoo.name} is a table of the zoo and is left out; it has a page of its own: workbench report {zoo.name}\n"
    assert len(found.out.splitlines()) == 3 and "Parity report" in (tmp_path / found.out.splitlines()[-1]).read_text()


@pytest.mark.parametrize("words", [["RUN"], ["ZOO"], ["--margin", "1"], ["--relative-margin", "5"], ["--reference", "demo:a"]])
def test_a_zoo_is_given_alone_and_has_no_margin(runs, zoo, words):
    known = {"RUN": runs[0], "ZOO": str(zoo.folder)}
    with pytest.raises(UsageError, match="zoo"):
        call(report, str(zoo.folder), *(known.get(word, word) for word in words))


def test_a_hostile_run_key_is_no_path(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    bad = make_zoo(tmp_path / "runs", *some_rows(), run_key="/../../../")
    assert call(report, str(bad.folder)) == 0 and capsys.readouterr().out.startswith("reports/zoo-report-/index.html")


def test_captures_have_a_verdict_without_a_margin(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    reference = make_reference(tmp_path)
    candidate = make_candidate(tmp_path, reference=reference)
    assert call(report, str(reference), str(candidate), "--json") == 0
    found = json.loads(capsys.readouterr().out)
    (verdict,) = found["verdicts"]
    assert verdict["verdict"] == "AGREE" and verdict["margin"] is None and verdict["n"] == 2
    assert "Layer report" in (tmp_path / found["report"]).read_text()
    assert call(report, str(reference)) == 0
    assert "A capture without a reference" in (tmp_path / capsys.readouterr().out.strip()).read_text()
