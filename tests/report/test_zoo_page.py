"""The zoo's page: the story first, every row with its layers, foreign text inert, and readable on a telephone."""

import base64
import csv
import hashlib
import json
import re

import pytest

from tests.report.bundles import make_line, make_run
from tests.report.test_page import HOSTILE, Reader
from tests.report.zoo_bundles import FINDING, bare, hostile_zoo, make_row, make_zoo, some_rows
from workbench.errors import BundleError, UsageError
from workbench.report.text import error_text, share_text, times_text
from workbench.report.zoo import OWN_FILES, write_zoo_report
from workbench.report.zoo_rows import VERDICTS, Zoo
from workbench.run.bundle import Run


def written(tmp_path, rows, layers=(), **more):
    page = {name: more.pop(name) for name in ("title", "command") if name in more}
    path = write_zoo_report(make_zoo(tmp_path, rows, layers, **more), tmp_path / "out", **page)
    source = path.read_text(encoding="utf-8")
    return source, Reader(source)


def sheet(tmp_path, name):
    with open(tmp_path / "out" / name, encoding="utf-8-sig", newline="") as file:
        return list(csv.DictReader(file))


def test_the_story_comes_first(tmp_path):
    _, found = written(tmp_path, *some_rows())
    assert found.text.index("mlx-vlm 0.7.10 and mlx-lm against transformers 5.23.0") < found.text.index("2 of 8 families agree")
    said = "2 of 8 families agree with transformers 5.23.0 within 10 times torch's own float32 error, as published; 1 differs; 1 differs by a factor alone; 1 breaks on an input; 1 crashes; 1 ran out of time; 1 ran out of memory; 1 not measured."
    assert said in found.text
    assert "The same checkpoints as transformers 5 saves them: 0 of 3 agree; 2 load and differ; 1 does not load." in found.text
    parts = ["summary", "rows", "findings", "method", "environment", "reading"]
    assert [name for name in found.ids if name in parts] == parts and len(found.ids) == len(set(found.ids))


def test_different_families_come_first_then_broken_then_agreeing(tmp_path):
    rows, layers = some_rows()
    zoo = Zoo.of(make_zoo(tmp_path, rows, layers))
    assert [family.name for family in zoo.families] == [
        "beta",
        "delta",
        "gamma",
        "iota",
        "epsilon",
        "zeta",
        "eta",
        "alpha",
        "theta",
    ]
    assert [row.layout for row in zoo.families[0].rows] == ["hub", "v5"]


def test_findings_say_what_was_proven_and_what_was_not(tmp_path):
    _, found = written(tmp_path, *some_rows())
    assert "the window of the vision tower is ignored" in found.text and "vision.py: Attention.__call__" in found.text
    assert "beta hub: error 0.31, patched 1.3e−6 (torch's own 1.0e−6) ✓ it agrees then" in found.text
    assert "beta v5: error 0.40, patched 0.020 (torch's own 1.0e−6) ✗ not all of it" in found.text
    unproven = found.text[found.text.index("Without a proven cause") : found.text.index("How it is measured")]
    assert "gamma v5" in unproven and "delta hub" in unproven and "beta" not in unproven


def test_each_row_shows_its_numbers_inputs_layers_and_picture(tmp_path):
    source, found = written(tmp_path, *some_rows())
    row = source[source.index('data-verdict="differs"') :].partition("</details>\n</div>")[0]
    for text in (
        "0.31",
        "61.54 %",
        "yes / yes",
        "text.block.4.attention",
        "◀ first guilty",
        "300,000 ×",
        "0.999998",
        "130.0",
        "the port has no such layer",
        "projector.only_here",
    ):
        assert text in row, text
    pictures = [attributes for tag, attributes in found.elements if tag == "svg" and attributes.get("role") == "img"]
    assert len(pictures) == 6 and all("layers in order" in attributes["aria-label"] for attributes in pictures)
    assert "no / yes" in source and "0.7071" in source and "tall: IndexError" in source


def test_every_verdict_has_a_symbol_and_its_word_beside_the_colour(tmp_path):
    source, _ = written(tmp_path, *some_rows())
    for name, (symbol, _) in VERDICTS.items():
        assert re.search(
            rf'<span class="symbol" aria-hidden="true">{re.escape(symbol)}</span><bdi dir="auto">{name}</bdi>', source
        ), name


def test_nothing_is_loaded_from_anywhere(tmp_path):
    source, found = written(tmp_path, *some_rows())
    for tag, attributes in found.elements:
        for name in ("src", "href", "action", "data", "srcset", "poster"):
            assert attributes.get(name, "#")[:1] == "#" or attributes[name] == "data:,", (tag, attributes)
        assert not [name for name in attributes if name.startswith("on") or name == "style"]
    policies = [
        attributes["content"] for _, attributes in found.elements if attributes.get("http-equiv") == "Content-Security-Policy"
    ]
    assert len(policies) == 1 and policies[0].startswith("default-src 'none'; img-src data:;") and "unsafe" not in policies[0]
    for tag, kind in (("style", "style-src"), ("script", "script-src")):
        content = re.search(rf"<{tag}>(.*?)</{tag}>", source, re.DOTALL)[1]
        assert f"{kind} 'sha256-{base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()}'" in policies[0]


def test_foreign_text_is_inert_wherever_it_stands(tmp_path):
    foreign = {
        "created": HOSTILE,
        "finished": HOSTILE,
        "evidence": HOSTILE,
        "workbench": HOSTILE,
        "mixed_fields": [HOSTILE],
        "status": HOSTILE,
    }
    source, found = written(
        tmp_path,
        *hostile_zoo(),
        libraries={HOSTILE: HOSTILE, "transformers": HOSTILE, "mlx-vlm": HOSTILE},
        title=HOSTILE,
        command=HOSTILE,
        **foreign,
    )
    assert [tag for tag, _ in found.elements].count("script") == 1
    assert not [tag for tag, _ in found.elements if tag in ("img", "iframe", "object", "embed", "base")]
    assert "\u202e" not in source and "⟨U+202E⟩" in found.text and "{{7*7}}" in found.text
    assert "<script>window" not in source and "<img" not in source
    for _, attributes in found.elements:
        assert not [name for name in attributes if name.startswith("on")]
        assert "hacked" not in attributes.get("class", "") + attributes.get("id", "")


@pytest.mark.parametrize("start", ["=", "+", "-", "@", "\t"])
def test_no_cell_of_a_sheet_is_a_formula(tmp_path, start):
    bad = f"{start}HYPERLINK(1)"
    row = make_row(
        bad, bad, first_layer=bad, reason=bad, counterfactual={"findings": [dict.fromkeys(FINDING, bad)], "max_relative_error": 1.0}
    )
    layer = {"id": f"{bad}/{bad}", "case": bad, "layer": bad, "reason": bad, "relative_rms": 0.5}
    written(tmp_path, [row], [layer])
    for name in ("rows.csv", "layers.csv"):
        (line,) = sheet(tmp_path, name)
        assert not [value for value in line.values() if value.startswith(start)]
        assert sum(value == f"'{bad}" for value in line.values()) >= 3


def test_the_sheets_hold_every_row_and_layer(tmp_path):
    rows, layers = some_rows()
    written(tmp_path, rows, layers)
    assert {path.name for path in (tmp_path / "out").iterdir()} == OWN_FILES
    found = sheet(tmp_path, "rows.csv")
    assert len(found) == len(rows) and found[0]["id"] == "beta/hub" and found[0]["findings"] == "vision-mask"
    assert float(found[0]["max_relative_error"]) == 0.31 and float(found[0]["error_after"]) == 1.3e-6
    assert len(sheet(tmp_path, "layers.csv")) == len(layers)


def test_the_same_bundle_gives_the_same_bytes_and_an_earlier_report_is_replaced(tmp_path):
    run = make_zoo(tmp_path, *some_rows())
    first, second = (
        {each.name: each.read_bytes() for each in write_zoo_report(run, tmp_path / "out").parent.iterdir()} for _ in range(2)
    )
    assert first == second
    assert not [each for each in tmp_path.iterdir() if each.name.startswith(".")]


def test_a_folder_of_something_else_is_never_replaced(tmp_path):
    run = make_zoo(tmp_path, *some_rows())
    out = write_zoo_report(run, tmp_path / "out").parent
    (out / "thesis.tex").write_text("years of work")
    with pytest.raises(UsageError, match="is no report"):
        write_zoo_report(run, out)
    assert (out / "thesis.tex").read_text() == "years of work"
    other = tmp_path / "other"
    other.mkdir()
    (other / "rows.csv").write_text("my own")
    with pytest.raises(UsageError, match="is no report"):
        write_zoo_report(run, other)
    assert (other / "rows.csv").read_text() == "my own"


def test_an_empty_bundle_and_one_row(tmp_path):
    _, found = written(tmp_path / "a", [])
    assert "The bundle holds no row." in found.text and "There are no rows to show." in found.text
    _, found = written(tmp_path / "b", [make_row("alpha")])
    assert "1 of 1 family agrees with transformers" in found.text and "No difference was traced" in found.text
    _, found = written(tmp_path / "c", [bare("alpha", "hub", "not run", "slow: add --slow")])
    assert "No family was measured as published." in found.text


@pytest.mark.parametrize("missing", ["absent", "null"])
def test_rows_that_hold_only_what_they_must(tmp_path, missing):
    whole = make_row(
        "alpha", verdict="differs", counterfactual={"findings": None, "max_relative_error": None}, scale=None, parameters=None
    )
    kept = {"family", "layout", "title", "modality", "kind"}
    row = (
        {name: value for name, value in whole.items() if name in kept}
        if missing == "absent"
        else {name: value if name in kept else None for name, value in whole.items()}
    )
    layers = [
        {"id": "alpha/hub", "case": "wide", "layer": "text.norm"},
        {"id": "alpha/hub", "case": "wide", "layer": "logits", "relative_rms": 0.0},
    ]
    _, found = written(tmp_path, [row], layers)
    assert "alpha" in found.text and "None" not in found.text
    assert sheet(tmp_path, "rows.csv")[0]["max_relative_error"] == ""


def test_an_unfinished_run_says_so(tmp_path):
    rows, layers = some_rows()
    run = make_zoo(tmp_path, rows[:3], layers, status="running", n=12)
    with open(run.folder / "layers.jsonl", "a") as file:
        file.write(json.dumps({"id": "beta/hub", "case": "wide", "layer": "logits", "relative_rms": 0.5}) + '\n{"id": "torn')
    text = Reader(write_zoo_report(run, tmp_path / "out").read_text()).text
    assert "This run is not finished: 3 of 12 rows are here." in text


@pytest.mark.parametrize(
    ("change", "file", "why"),
    [
        ({"max_relative_error": "large"}, "samples.jsonl", "line 1: row: max_relative_error is no finite number"),
        ({"max_relative_error": float("inf")}, "samples.jsonl", "max_relative_error is no finite number"),
        ({"family": None}, "samples.jsonl", "family is missing"),
        ({"layout": 7}, "samples.jsonl", "layout is no text"),
        ({"cases": {"a": 1}}, "samples.jsonl", "cases is no list"),
        ({"cases": ["wide"]}, "samples.jsonl", "cases.0 is no mapping"),
        ({"counterfactual": [1]}, "samples.jsonl", "counterfactual is no mapping"),
        ({"counterfactual": {"findings": [{"name": 3}]}}, "samples.jsonl", "counterfactual.findings.0.name is no text"),
    ],
)
def test_a_damaged_row_is_a_clear_error(tmp_path, change, file, why):
    with pytest.raises(BundleError, match=re.escape(file)) as caught:
        write_zoo_report(make_zoo(tmp_path, [make_row("alpha") | change]), tmp_path / "out")
    assert why in caught.value.why and not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ([], "it is no mapping"),
        ({"id": "a"}, "case is missing"),
        ({"id": "a", "case": "b", "layer": "c", "relative_rms": "x"}, "relative_rms is no finite number"),
    ],
)
def test_a_damaged_layer_is_a_clear_error(tmp_path, line, why):
    with pytest.raises(BundleError, match=r"layers\.jsonl") as caught:
        write_zoo_report(make_zoo(tmp_path, [make_row("alpha")], [line]), tmp_path / "out")
    assert why in caught.value.why


def test_another_kind_of_run_is_refused(tmp_path):
    with pytest.raises(UsageError, match="is no zoo"):
        write_zoo_report(Run(make_run(tmp_path, "demo:a", [make_line("1")])), tmp_path / "out")


def test_numbers_as_they_are_read():
    assert [error_text(each) for each in (None, 0, 1.1e-6, 0.0123, 0.31, 1.03, 42.4, 99.7, 640, 123456, 9.96e-7)] == [
        "–",
        "0",
        "1.1e−6",
        "0.012",
        "0.31",
        "1.0",
        "42",
        "100",
        "640",
        "1.2e5",
        "1.0e−6",
    ]
    assert [times_text(each) for each in (None, 1.153, 43_210, 3e9)] == ["–", "1.2 ×", "43,000 ×", "3.0e9 ×"]
    assert [share_text(each) for each in (None, 1.0, 0.99999, 0.6154, 0)] == ["–", "100 %", "99.99 %", "61.54 %", "0 %"]
