"""``workbench zoo`` as a user types it: the table, JSON, exit codes, what to type next."""

import json
from pathlib import Path

import pytest

from workbench.cli import zoo
from workbench.cli.main import build_parser, main
from workbench.run.bundle import Run

STUB = (Path(__file__).parents[1] / "capture" / "zoo" / "stub_families.py").read_text()


@pytest.fixture
def file(tmp_path, monkeypatch):
    """A file of one family that agrees and one that aborts; the working folder is beside it."""
    pytest.importorskip("torch", reason="the reference side: pip install 'parity-workbench[torch]'")
    pytest.importorskip("mlx_vlm", reason="the port's side: pip install 'parity-workbench[mlx]'")
    path = tmp_path / "mine.py"
    path.write_text(f"{STUB}\nFAMILIES = (family('good'), family('bad', config=aborts))\n")
    monkeypatch.chdir(tmp_path)
    return path


def test_json_is_one_object_and_nothing_else(file, capfd):
    assert main(["zoo", "--family", "mine.py", "--layout", "hub", "--json"]) == 6
    said = capfd.readouterr()
    found = json.loads(said.out)
    assert set(found) == {"rows", "bundle"}
    assert [(row["family"], row["layout"], row["modality"], row["kind"], row["verdict"]) for row in found["rows"]] == [
        ("good", "hub", "vision", "logits", "agrees"),
        ("bad", "hub", "vision", "logits", "crashed"),
    ]
    assert {"max_relative_error", "argmax_agreement", "causal", "first_layer", "reason"} <= set(found["rows"][0])
    assert Path(found["bundle"]).parent == Path("reports/runs") and Run(found["bundle"]).status == "complete"
    assert "zoo  2/2" in said.err


def test_the_table_fits_its_columns_and_says_what_to_type(file, capfd):
    command = ["zoo", "--family", "mine.py::good", "--layout", "hub"]
    assert main(command) == 0
    table = capfd.readouterr().out
    assert max(map(len, table.splitlines())) <= zoo.WIDTH
    assert "1 rows: 1 agrees" in table and "next: workbench report reports/runs/zoo-good-hub-" in table
    assert main(command) == 0
    assert "is complete already" in capfd.readouterr().err
    assert main(["zoo", "--family", "mine.py", "--layout", "hub"]) == 6
    table = capfd.readouterr().out
    assert "bad/hub crashed: killed by SIGABRT: about to abort" in table and "--fresh" in table


def test_a_page_is_written_on_request(file, capfd):
    assert main(["zoo", "--family", "mine.py::good", "--layout", "hub", "--html", "page", "--json"]) == 0
    page = json.loads(capfd.readouterr().out)["report"]
    assert "good" in Path(page).read_text()


def test_what_cannot_be_asked_is_a_usage_error(file, capsys):
    for words, said in (
        (["--family", "lava"], "did you mean llava"),
        (["--family", "nowhere.py"], "there is no family file nowhere.py"),
        (["--family", "mine.py", "--modality", "text"], "no row is left"),
        (["--family", "mine.py", "--jobs", "0"], "--jobs must be more than 0"),
        (["--family", "mine.py", "--timeout", "-1"], "--timeout must be more than 0"),
        (["--family", "mine.py", "--memory", "nan"], "--memory must be"),
    ):
        assert main(["zoo", *words]) == 2
        assert said in capsys.readouterr().err
    with pytest.raises(SystemExit) as stopped:
        build_parser("zoo").parse_args(["zoo", "--layout", "v6"])
    assert stopped.value.code == 2
    assert not Path("reports").exists()


def test_reasons_are_short_and_what_would_steer_the_terminal_is_shown(capsys):
    common = {"kind": "logits", "verdict": "differs", "max_relative_error": 0.5, "argmax_agreement": 0.9999, "causal": False}
    proof = {"findings": [{"name": "x", "title": "the scale is wrong"}], "max_relative_error": 2e-6}
    rows = [
        {
            **common,
            "family": "evil\x1b[2J",
            "layout": "hub",
            "reason": "because " * 99,
            "counterfactual": proof,
            "causal_reference": True,
        },
        {**common, "family": "two", "layout": "hub", "reason": "same", "causal_reference": False},
        {**common, "family": "two", "layout": "v5", "reason": "same", "causal_reference": False},
        {"family": "none", "layout": "hub", "kind": "no reference here", "verdict": "not run", "reason": "slow: add --slow"},
        {
            "family": "fine",
            "layout": "hub",
            "kind": "logits",
            "verdict": "agrees",
            "max_relative_error": 1e-6,
            "argmax_agreement": 1.0,
        },
    ]
    zoo.print_rows(rows)
    said = capsys.readouterr().out
    assert "\x1b" not in said and max(map(len, said.splitlines())) <= zoo.WIDTH
    assert "cause (error with it patched: 2.0e-06): the scale is wrong" in said
    assert "two/hub+v5 differs: same" in said and "none/hub not run: slow: add --slow" in said
    assert "5 rows: 3 differs, 1 not run, 1 agrees" in said and "fine/hub" not in said
    assert "99.9 %" in said and "100 %" in said and "NO, ref. too" in said
