"""Reports of captures, alone and beside runs: a verdict without a margin, the layers in order, and nothing empty or dumped."""

import csv
import json
import re

import matplotlib
import pytest

from tests.report.bundles import compared, make_line, make_run
from tests.report.capture_bundles import ITEMS, NAMES, make_candidate, make_reference
from tests.report.test_page import HOSTILE, Reader
from workbench.metrics.drift import LIMIT
from workbench.parity.ladder import compare
from workbench.report import folder, plot_differences, plot_drift, write
from workbench.report.layers import BULKY, Depth

matplotlib.use("Agg")
FAULT = "text.block.1"
AFTER = dict.fromkeys(("text.block.1", "text.block.2", "text.block.3", "logits"), 1e-2)


def read(sides, comparisons, tmp_path, **more):
    source = write(sides, comparisons, tmp_path / "out", **more).read_text(encoding="utf-8")
    return source, Reader(source)


def rows(path):
    with open(path, encoding="utf-8-sig", newline="") as file:
        return list(csv.DictReader(file))


def number(text):
    return float(text.removesuffix(" ×").replace(",", "").replace("−", "-"))


@pytest.fixture
def healthy(tmp_path):
    reference = make_reference(tmp_path)
    return compared(reference, make_candidate(tmp_path, made={}, reference=reference))


@pytest.fixture
def faulty(tmp_path):
    reference = make_reference(tmp_path)
    return compared(reference, make_candidate(tmp_path, errors=AFTER, made={FAULT: 1e-2}, reference=reference, moved=0.3))


def test_captures_that_agree(healthy, tmp_path):
    source, found = read(*healthy, tmp_path)
    assert healthy[1][0].verdict.name == "AGREE" and 'class="badge v-agree"' in source and "≅" in found.text
    assert "Layer report · what the layers of two models put out, on 2 inputs" in found.text
    assert "It says nothing about scores" in found.text
    for figure in (
        "inputs2",
        "layers compared9",
        "torch's own errorin float32",
        "first departing layernone",
        "first guilty layernone",
    ):
        assert figure in found.text
    assert (
        re.search(r"worst layer[\d.]+ × torch's own, ", found.text) and "first rung that differsnone of those judged" in found.text
    )


def test_sections_without_content_are_left_out_of_page_and_navigation(healthy, tmp_path):
    source, found = read(*healthy, tmp_path)
    parts = ["verdict", "ladder", "layers", "inputs", "environment", "reading"]
    sections = {"verdict", "ladder", "layers", "scores", "groups", "time", "reasons", "inputs", "environment", "items", "reading"}
    assert [name for name in found.ids if name in sections] == parts and len(found.ids) == len(set(found.ids))
    assert {attributes["href"] for tag, attributes in found.elements if tag == "a"} == {f"#{name}" for name in parts}
    assert "EQUIVALENT" not in found.text and "margin" not in found.text.lower() and "rows-0-0" not in found.blocks
    assert {each.name for each in (tmp_path / "out").iterdir()} == {"index.html", "report.md", "rungs.csv", "layers.csv"}
    assert "Beside this page: report.md, rungs.csv, layers.csv." in found.text
    twin = (tmp_path / "out" / "report.md").read_text()
    headings = re.findall(r"^## (.*)$", twin, re.MULTILINE)
    assert headings == ["Ladder", "Layers", "Inputs", "Environment: what differs"] and "**≅ AGREE**" in twin


def test_the_first_departing_layer_is_marked_wherever_layers_are_shown(faulty, tmp_path):
    source, found = read(*faulty, tmp_path)
    comparison = faulty[1][0]
    assert comparison.verdict.name == "DIFFERENT" and comparison.rung(3).facts["first_departing"] == FAULT
    marked = re.findall(r'<tr class="wrong"><th scope="row"><bdi dir="auto">([^<]*)</bdi>', source)
    assert marked == [FAULT] and "◀ first departing, first guilty" in found.text
    assert f"first guilty layer: {FAULT}" in found.text and 'class="guilty"' in source
    assert (
        "earlier logits moved, reference0 of the largest" in found.text
        and "earlier logits moved, candidate0.15 of the" in found.text
    )
    twin = (tmp_path / "out" / "report.md").read_text()
    assert f"| {FAULT} **◀ first departing; first guilty** |" in twin and "first guilty layer: " + FAULT in twin
    layers = rows(tmp_path / "out" / "layers.csv")
    assert [row["layer"] for row in layers] == list(NAMES) and {row["candidate"] for row in layers} == {"demo:b"}
    times = {row["layer"]: float(row["times_own"]) for row in layers}
    assert [name for name in NAMES if times[name] > LIMIT] == list(AFTER)


def test_numbers_of_the_table_are_those_of_the_comparison(faulty, tmp_path):
    source, _ = read(*faulty, tmp_path)
    table = re.search(r'<table class="data layers">(.*?)</table>', source, re.DOTALL)[1]
    row = next(each for each in re.findall(r"<tr.*?</tr>", table, re.DOTALL) if FAULT in each)
    cells = re.findall(r'<td class="number">([^<]*)</td>', row)
    fact = next(each for each in faulty[1][0].rung(3).facts["layers"] if each["layer"] == FAULT)
    assert number(cells[0]) == pytest.approx(fact["relative_rms"], rel=0.06)
    assert number(cells[1]) == pytest.approx(fact["times_own"], rel=0.06)
    assert number(cells[5]) == pytest.approx(fact["snr_db"], abs=0.06)


def test_a_layer_that_departs_but_was_not_localised_is_marked_as_that(tmp_path):
    sides, comparisons = compared(make_reference(tmp_path), make_candidate(tmp_path, errors=AFTER))
    source, found = read(sides, comparisons, tmp_path)
    assert f"first departing layer: {FAULT}" in found.text and "first guilty layernot localised" in found.text
    assert (
        "made here" not in found.text
        and f"first departing layer {FAULT}" in re.search(r'aria-label="([^"]*largest[^"]*)"', source)[1]
    )


def test_without_torchs_own_error_the_page_says_so(tmp_path):
    sides, comparisons = compared(make_reference(tmp_path, own=False), make_candidate(tmp_path))
    assert comparisons[0].verdict.name == "INCONCLUSIVE"
    _, found = read(sides, comparisons, tmp_path)
    assert "torch's own errornot recorded" in found.text and "first departing layernot judged" in found.text
    assert re.search(r"worst layerSNR 1[23]\d dB, ", found.text)


def test_values_that_are_not_finite_have_no_error(tmp_path):
    sides, comparisons = compared(
        make_reference(tmp_path), make_candidate(tmp_path, errors={FAULT: float("nan"), "logits": float("nan")})
    )
    source, found = read(sides, comparisons, tmp_path)
    depth = Depth.of(comparisons[0])
    row, cells = next(each for each in depth.cells if each[0]["layer"] == FAULT)
    assert set(dict(cells).values()) == {"–"} and "not finite: reference 0, candidate 96" in found.text
    assert source.count('class="lost"') == 3  # two layers, and the key
    assert "  -" in str(comparisons[0]) and "not finite" in str(comparisons[0])


def test_layers_of_one_side_are_listed_with_the_reason(tmp_path):
    sides, comparisons = compared(make_reference(tmp_path), make_candidate(tmp_path, names=[*NAMES[1:], "extra"]))
    _, found = read(sides, comparisons, tmp_path)
    assert "Not aligned (the candidate has no such layer): vision.embeddings." in found.text
    assert "Not aligned (the reference has no such layer): extra." in found.text and "layers compared8 of 10" in found.text
    assert "Not aligned (the reference has no such layer): extra." in (tmp_path / "out" / "report.md").read_text()


def test_long_lists_are_nowhere_dumped(faulty, tmp_path):
    source, found = read(*faulty, tmp_path)
    twin, lines = (tmp_path / "out" / "report.md").read_text(), rows(tmp_path / "out" / "rungs.csv")
    for text in (source, twin):
        assert "relative_rms" not in text and "{'" not in text and "needed_tolerance" not in text
    facts = [row["title"] for row in lines if row["rung"] == "3" and row["kind"] == "fact"]
    assert not set(facts) & set(BULKY) and "earlier_logits_moved_candidate" in facts and "first_guilty" in facts
    assert max(len(row["value"]) for row in lines) < 1_000


def test_inputs_that_failed_or_are_on_one_side_only_are_said(tmp_path):
    reference = make_reference(tmp_path, items=[*ITEMS, "dark", "small"])
    sides, comparisons = compared(reference, make_candidate(tmp_path, items=[*ITEMS, "dark"], failing=["dark"]))
    _, found = read(sides, comparisons, tmp_path)
    assert "What is in wide?" in found.text and "pixel_values 1×3×8×8" in found.text
    assert "✗ failed, demo:b: the model ran out of memory" in found.text and "not captured: demo:b" in found.text
    twin = (tmp_path / "out" / "report.md").read_text()
    assert "failed, demo:b: the model ran out of memory" in twin and "not captured: demo:b" in twin


def test_captures_that_may_not_be_compared_name_the_field(tmp_path):
    sides, comparisons = compared(make_reference(tmp_path), make_candidate(tmp_path, tokens="e" * 16))
    assert comparisons[0].verdict.name == "INCOMPARABLE"
    source, found = read(sides, comparisons, tmp_path)
    assert "What makes demo:b incomparable" in found.text and "token ids" in found.text and "layers" not in found.ids
    assert "first rung that differsnot judged" in found.text


def test_several_candidates(tmp_path):
    reference = make_reference(tmp_path)
    good, bad = make_candidate(tmp_path, "demo:b"), make_candidate(tmp_path, "demo:c", errors=AFTER)
    sides, comparisons = compared(reference, good, bad)
    _, found = read(sides, comparisons, tmp_path, command="workbench report")
    assert [each.verdict.name for each in comparisons] == ["AGREE", "DIFFERENT"]
    assert "2 candidates against demo:a" in found.text and "on the same inputs" in found.text
    assert [row["candidate"] for row in rows(tmp_path / "out" / "layers.csv")] == ["demo:b"] * 9 + ["demo:c"] * 9
    twin = (tmp_path / "out" / "report.md").read_text()
    assert "## Layers: demo:b" in twin and "## Layers: demo:c" in twin and "| DIFFERENT | – | – | – | 2 |" in twin


def test_a_capture_alone_shows_its_layers(tmp_path):
    sides, comparisons = compared(make_reference(tmp_path, failing=["tall"]))
    _, found = read(sides, comparisons, tmp_path)
    assert comparisons == [] and "A capture without a reference" in found.text and "no verdict" in found.text
    assert [name for name in found.ids if name in ("layers", "inputs", "scores", "items", "ladder")] == ["layers", "inputs"]
    assert "text.block.3model.text.block.31×6×81" in found.text.replace(" ", "")


def runs_and_captures(tmp_path, **more):
    lines = [make_line(str(number), number % 4 > 0, groups=[["kind", f"k{number % 3}"]]) for number in range(60)]
    found = []
    for model in ("demo:a", "demo:b"):
        found.append(make_run(tmp_path / "runs", model, lines))
    reference = make_reference(tmp_path / "runs")
    return [*found, reference, make_candidate(tmp_path / "runs", reference=reference, **more)]


def test_runs_with_captures_beside_them(tmp_path):
    sides, comparisons = compared(*runs_and_captures(tmp_path, errors=AFTER), margin=10.0)
    assert len(sides) == 2 and comparisons[0].verdict.name == "EQUIVALENT" and comparisons[0].rung(3).status == "different"
    source, found = read(sides, comparisons, tmp_path)
    ladder = source[source.index('id="ladder"') : source.index('id="scores"')]
    assert 'class="drift-figure"' in ladder and '<tr class="wrong">' in ladder and source.count('class="drift-figure"') == 1
    assert "layers" not in found.ids and "inputs" not in found.ids and "Parity report · colours" in found.text
    assert {each.name for each in (tmp_path / "out").iterdir()} == folder.OWN_FILES - {"sizes.csv"}
    for sheet in ("scores.csv", "timings.csv", "strata.csv", "items.csv"):
        found_rows = rows(tmp_path / "out" / sheet)
        assert found_rows and "capture" not in json.dumps(found_rows)
    assert [row["task"] for row in rows(tmp_path / "out" / "scores.csv")] == ["colours", "colours"]
    assert "first rung that differs3 tensors" in found.text and "captures11" in found.text.replace(" ", "")
    assert len(found.rows()) == 60


def test_one_candidate_may_have_captures_alone(tmp_path):
    runs = runs_and_captures(tmp_path)
    third = make_candidate(tmp_path, "demo:c", errors=AFTER)
    sides, comparisons = compared(*runs, third, margin=10.0)
    assert [each.verdict.name for each in comparisons] == ["EQUIVALENT", "DIFFERENT"]
    source, found = read(sides, comparisons, tmp_path)
    assert source.count('class="drift-figure"') == 2 and "rows-1-0" not in found.blocks and len(found.rows()) == 60
    assert "no group to show" not in found.text
    twin = (tmp_path / "out" / "report.md").read_text()
    assert twin.count("## Flipped items") == 1


def test_foreign_text_is_inert(tmp_path):
    names = [*NAMES[:3], HOSTILE, *NAMES[3:]]
    reference = make_reference(tmp_path, names=names, items=[HOSTILE, "b"], asked=HOSTILE)
    candidate = make_candidate(
        tmp_path,
        names=[*names, f"only {HOSTILE}"],
        items=[HOSTILE, "b"],
        asked=HOSTILE,
        errors={HOSTILE: 1e-2},
        made={HOSTILE: 1e-2},
        reference=reference,
    )
    comparison = compare(reference, candidate)
    assert comparison.rung(3).facts["first_guilty"] == HOSTILE
    for sides, comparisons in (compared(reference, candidate), compared(reference)):
        source, found = read(sides, comparisons, tmp_path, command=HOSTILE)
        assert [attributes.get("type") for tag, attributes in found.elements if tag == "script"].count(None) == 1
        assert not [tag for tag, _ in found.elements if tag in ("img", "iframe", "object", "embed", "base")]
        assert not [name for _, attributes in found.elements for name in attributes if name.startswith("on") or name == "style"]
        assert "\u202e" not in source and "⟨U+202E⟩" in found.text and "{{7*7}}" in found.text and "<script>window" not in source
        twin = (tmp_path / "out" / "report.md").read_text()
        assert "<img" not in twin and "<script" not in twin and "\u202e" not in twin
    assert "\u202e" not in str(comparison) and "<script" not in comparison._repr_html_()
    assert all("\u202e" not in cell for row in rows(tmp_path / "out" / "rungs.csv") for cell in row.values())


def test_very_long_names_and_many_layers_are_bounded(tmp_path):
    names = [f"text.block.{number}" for number in range(650)] + ["x" * 100_000]
    sides, comparisons = compared(
        make_reference(tmp_path, names=names, items=["a"]),
        make_candidate(tmp_path, names=names, items=["a"], errors={"text.block.400": 1e-2}),
    )
    source, found = read(sides, comparisons, tmp_path)
    assert "151 more are in layers.csv" in found.text and "x" * 1_000 not in source
    twin = (tmp_path / "out" / "report.md").read_text()
    assert "551 more are in layers.csv" in twin and "text.block.400 **◀ first departing**" in twin
    text = str(comparisons[0])
    assert "x" * 200 not in text and len(re.findall(r"^  text\.block\.\d+", text, re.MULTILINE)) == 12


def test_the_terminal_shows_the_layers_around_the_finding(faulty):
    text = str(faulty[1][0])
    assert re.search(r"layers around the finding \(9 of 9\) +RMS error +SNR dB +× own +makes\n", text)
    assert re.search(rf"  {FAULT} .*< first departing, first guilty$", text, re.MULTILINE)
    assert max(map(len, text.splitlines())) <= 118


def test_the_terminal_shows_the_worst_layers_where_none_departs(healthy):
    text = str(healthy[1][0])
    assert "layers with the largest errors (6 of 9)" in text and "first departing" not in text


def test_pictures_for_notebooks(faulty):
    comparison = faulty[1][0]
    with pytest.raises(ValueError, match="captures hold no answers"):
        plot_differences(comparison)
    ax = plot_drift(comparison.rung(3).facts["layers"], guilty=FAULT, side="the candidate's error", mark="first departing layer")
    assert any(each.get_label() == f"first departing layer: {FAULT}" for each in ax.lines)
    matplotlib.pyplot.close("all")


def test_the_same_captures_give_the_same_bytes(faulty, tmp_path):
    first = {each.name: each.read_bytes() for each in write(*faulty, tmp_path / "out").parent.iterdir()}
    assert first == {each.name: each.read_bytes() for each in write(*faulty, tmp_path / "out").parent.iterdir()}
