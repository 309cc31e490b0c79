"""The program section of a report: what a Core ML program's capture says, every string escaped, and no time of reference evidence."""

import csv
import json
import re

import pytest

from tests.report.bundles import compared, make_line, make_run, write_json
from tests.report.capture_bundles import ITEMS, make_capture, make_reference
from tests.report.test_page import HOSTILE, Reader
from workbench.errors import BundleError
from workbench.fingerprint import of_file
from workbench.parity.sides import read_sides
from workbench.report import write
from workbench.report.program import program_views
from workbench.run.bundle import Run
from workbench.run.summary import print_table

LAYERS = ("first", "second", "output.scores", "output.shares")
HALF = {"float16": 1e-3, "float64": 0.0, "emulate": 5e-4, "fp16-weights": 1e-5}
TIMES = ("123.456", "123456", "7.891", "7891", "0.0123", "42.42")
"""Numbers that only the times of these bundles have."""


def program(**more):
    weight = {"shape": [8, 8], "dtype": "fp16", "kind": "none", "dense_bytes": 128, "ops": []}
    found = {
        "path": "net.mlpackage",
        "function": "main",
        "functions": ["main"],
        "opset": "iOS17",
        "specification": 8,
        "precision": "fp16",
        "inputs": ["x: fp32[1, 6, 8]"],
        "outputs": ["scores: fp32[1, 6, 8]", "shares: fp32[1, 6, 8]"],
        "states": [],
        "ops": [
            {
                "type": "linear",
                "opset": "iOS17",
                "count": 3,
                "supported": True,
                "reason": None,
                "precisions": ["fp16"],
                "example": "a",
            },
            {
                "type": "odd_op",
                "opset": "iOS17",
                "count": 1,
                "supported": False,
                "reason": "no handler",
                "precisions": [],
                "example": "b",
            },
        ],
        "weights": [
            {**weight, "name": "kept", "compression": "fp16 as it is", "stored_bytes": 128, "skipped": True},
            {
                **weight,
                "name": "packed",
                "compression": "one table of 16 entries",
                "stored_bytes": 40,
                "kind": "palette4",
                "skipped": False,
            },
        ],
        "findings": [{"kind": "dynamic-shape", "text": "1 input of flexible shape", "ops": []}],
        "metadata": {"com.github.apple.coremltools.source": "torch==2.13.0"},
    }
    return found | more


def make_program(where, *, kinds=HALF, held=None, names=LAYERS, findings=(), **more):
    folder = make_capture(where, "coreml:net.mlpackage", kinds, names=names, evidence="reference", **more)
    write_json(folder / "artifact.json", {"bytes": 1000, "files": [], "tensors": {}, "program": held or program()})
    rewrite(
        folder, "samples.jsonl", lambda line: {**line, "timing": None, "capture": {"causality": None, "findings": list(findings)}}
    )
    return folder


def rewrite(folder, name, change):
    """Another content of a file of lines, and its checksum."""
    lines = [change(json.loads(line)) for line in (folder / name).read_text().splitlines()]
    (folder / name).write_text("".join(json.dumps(line) + "\n" for line in lines))
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["checksums"][name] = of_file(folder / name)
    write_json(folder / "manifest.json", manifest)


def make_twin(where, of, *, outputs=None, names=LAYERS, **more):
    folder = make_reference(where, "torch:net.pt2", names=names, **more)
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["key"]["task"]["twin_of"] = json.loads((of / "manifest.json").read_text())["run_key"][:12]
    write_json(folder / "manifest.json", manifest)
    matches = outputs or [
        {"output": "scores", "twin": "Identity", "how": "holds the same values: error 1e-4, the next best 1.0"},
        {"output": "shares", "twin": "shares", "how": "by its name"},
    ]
    write_json(
        folder / "artifact.json", {"bytes": 9, "files": [], "tensors": {}, "twin": {"of": "net.mlpackage", "outputs": matches}}
    )
    return folder


def read(folders, out):
    sides, comparisons = compared(*folders) if len(folders) > 1 else (read_sides(folders), [])
    source = write(sides, comparisons, out).read_text(encoding="utf-8")
    return source, Reader(source), (out / "report.md").read_text()


def test_a_program_beside_its_twin(tmp_path):
    mine = make_program(tmp_path)
    source, found, twin = read([make_twin(tmp_path, mine), mine], tmp_path / "out")
    assert "program" in found.ids and ("a", {"href": "#program"}) in found.elements
    text = found.text
    assert "Outputs, measured from torch:net.pt2" in text and "= Identity, holds the same values" in text and "by its name" in text
    for reading in ("fp16, as it is written", "emulate: fp32, each fp16 result rounded", "only the stored values are fp16"):
        assert reading in text and reading in twin
    assert "Reference execution on torch" in text and "It is no device" in text and "Reference execution on torch" in twin
    assert "✗ no handler" in text and "1 input of flexible shape" in text and "one table of 16 entries" in text
    assert "not compressed although others are: kept" in text and "not compressed although others are: kept" in twin
    assert source.count('<section id="program">') == 1


def test_the_band_is_the_error_of_each_reading(tmp_path):
    mine = make_program(tmp_path)
    sides, _ = compared(make_twin(tmp_path, mine), mine)
    (view,) = program_views(sides)
    (scores, shares) = view.band
    assert [name for name, _ in scores.errors] == list(HALF) and scores.how.startswith("holds")
    for row in (scores, shares):
        for name, error in row.errors:
            assert error.relative_rms == pytest.approx(HALF[name], rel=0.3, abs=1e-6)
            assert error.n == len(ITEMS) * 48


def test_without_a_twin_the_band_is_measured_from_float64(tmp_path):
    _, found, twin = read([make_program(tmp_path)], tmp_path / "out")
    assert "measured from the program without rounding (float64)" in found.text
    rows = [row for row in twin.splitlines() if row.startswith("| scores")]
    assert len(rows) == len(HALF) - 1 and not any("no rounding" in row for row in rows)


def test_captures_of_models_have_no_program_section(tmp_path):
    _, found, twin = read([make_reference(tmp_path)], tmp_path / "out")
    assert "program" not in found.ids and "## Program" not in twin


def test_a_reference_that_is_no_twin_of_this_program_matches_by_layer_names_alone(tmp_path):
    mine = make_program(tmp_path)
    twin = make_twin(tmp_path, mine)
    manifest = json.loads((twin / "manifest.json").read_text())
    manifest["key"]["task"]["twin_of"] = "another"
    write_json(twin / "manifest.json", manifest)
    sides, _ = compared(twin, mine)
    (view,) = program_views(sides)
    assert [row.how for row in view.band] == [None, None] and view.against == "torch:net.pt2"


def test_outputs_that_were_not_matched_are_said(tmp_path):
    mine = make_program(tmp_path)
    matches = [{"output": "scores", "twin": None, "how": "no clear match among p, q"}]
    _, found, twin = read([make_twin(tmp_path, mine, outputs=matches, names=("first", "output.shares")), mine], tmp_path / "out")
    assert "not compared: no clear match among p, q" in found.text and "not compared" in twin


def test_findings_of_a_run_are_shown_once(tmp_path):
    finding = {"kind": "overflow", "text": "op 'exp_3' reaches 70,000", "ops": ["exp_3"]}
    _, found, _ = read([make_program(tmp_path, findings=[finding])], tmp_path / "out")
    assert found.text.count("op 'exp_3' reaches 70,000") == 1 and "range of fp16" in found.text


def test_every_string_is_escaped(tmp_path):
    held = program(
        path=HOSTILE,
        function=HOSTILE,
        opset=HOSTILE,
        precision=HOSTILE,
        inputs=[HOSTILE],
        outputs=[HOSTILE],
        states=[HOSTILE],
        ops=[{"type": HOSTILE, "opset": HOSTILE, "count": 1, "reason": HOSTILE, "precisions": [HOSTILE]}],
        weights=[{"name": HOSTILE, "compression": HOSTILE, "stored_bytes": 1, "dense_bytes": 2, "skipped": True}],
        findings=[{"kind": HOSTILE, "text": HOSTILE, "ops": [HOSTILE]}],
        metadata={"a.source": HOSTILE, HOSTILE: HOSTILE},
    )
    names = ("first", f"output.{HOSTILE}")
    mine = make_program(tmp_path, held=held, names=names, findings=[{"kind": HOSTILE, "text": HOSTILE + "2", "ops": []}])
    twin = make_twin(tmp_path, mine, names=names, outputs=[{"output": HOSTILE, "twin": HOSTILE + "3", "how": HOSTILE}])
    source, found, markdown = read([twin, mine], tmp_path / "out")
    scripts = [tag for tag, attributes in found.elements if tag == "script"]
    plain, _, _ = read([make_reference(tmp_path / "b")], tmp_path / "plain")
    assert "<img" not in source and "onerror=hacked" not in re.sub(r"&lt;[^<]*", "", source) and "\u202e" not in source
    assert not [attributes for _, attributes in found.elements if "onclick" in attributes or "onerror" in attributes]
    assert len(scripts) == len([tag for tag, _ in Reader(plain).elements if tag == "script"])
    assert "<script>" not in markdown and "<img" not in markdown and "\u202e" not in markdown


@pytest.mark.parametrize(
    "held",
    [
        program(ops="many"),
        program(ops=[{"type": 3}]),
        program(weights=[{"name": "a", "compression": "b", "stored_bytes": "x", "dense_bytes": 1}]),
        program(findings=[{"kind": None, "text": 1}]),
        program(metadata={"a": ["list"]}),
        ["no mapping"],
    ],
)
def test_a_damaged_program_is_an_error_with_a_name(tmp_path, held):
    with pytest.raises(BundleError, match="artifact.json") as caught:
        read([make_program(tmp_path, held=held)], tmp_path / "out")
    assert "program" in caught.value.why and not (tmp_path / "out").exists()


def test_damaged_findings_and_matches_are_errors_too(tmp_path):
    with pytest.raises(BundleError, match="samples.jsonl"):
        read([make_program(tmp_path, findings=[{"kind": 1, "text": "x"}])], tmp_path / "out")
    mine = make_program(tmp_path / "b")
    with pytest.raises(BundleError, match="artifact.json"):
        read([make_twin(tmp_path / "b", mine, outputs=[{"output": 3, "how": "x"}]), mine], tmp_path / "out")


def test_300_layers_without_a_counterpart_are_folded(tmp_path):
    names = ("first", *(f"value_{n}" for n in range(300)), "output.scores")
    mine = make_program(tmp_path, names=names, items=ITEMS[:1], kinds={"float16": 1e-4, "float64": 0.0}, keep=False)
    twin = make_twin(tmp_path, mine, names=("first", "output.scores"), items=ITEMS[:1])
    source, found, markdown = read([twin, mine], tmp_path / "out")
    assert "300 layers not aligned: the reference has no such layer" in found.text
    folded = re.search(r"<details><summary[^>]*>300 layers not aligned.*?</details>", source, re.DOTALL)[0]
    assert "value_99" in folded and "value_100" not in source and "and 200 more, in layers.csv" in folded
    assert "value_200" not in markdown
    with open(tmp_path / "out" / "layers.csv", encoding="utf-8-sig", newline="") as file:
        assert "value_299" in {row["layer"] for row in csv.DictReader(file)}


def timed(folder):
    """The same bundle with times written into it by hand, wherever a bundle of a run has any."""
    timing = {"prepare": 0.0123, "first": 7.891, "total": 123.456, "n_in": 80, "n_out": 5, "batch": 1}
    rewrite(folder, "samples.jsonl", lambda line: {**line, "timing": timing})
    spread = {"median": 123.456, "p90": 123.456}
    results = json.loads((folder / "results.json").read_text())
    results["performance"] = {
        "n": 20,
        "items_per_second": 42.42,
        "tokens_per_second": 42.42,
        "item_seconds": spread,
        "first_token_seconds": {"median": 7.891},
        "cold_start_seconds": 123.456,
        "load_seconds": 7.891,
        "peak_memory_bytes": None,
    }
    write_json(folder / "results.json", results)
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["checksums"]["results.json"] = of_file(folder / "results.json")
    write_json(folder / "manifest.json", manifest)
    return folder


def times_in(out):
    """(file, number) for each of ``TIMES`` in any file of a report."""
    texts = {path.name: path.read_text(encoding="utf-8-sig") for path in out.iterdir()}
    assert {"index.html", "report.md", "rungs.csv"} <= set(texts)
    return [
        (name, number)
        for name, text in texts.items()
        for number in TIMES
        if any(re.search(rf"(?<![\d.]){number}", body) for body in (text, text.replace(",", "")))  # 123,456 is one number
    ]


@pytest.fixture
def answers():
    return [make_line(str(number), right=number % 3 > 0) for number in range(20)]


def test_no_report_shows_a_time_of_reference_evidence(tmp_path, answers):
    """The bundles hold times, which an honest writer never puts there: pages, Markdown, CSV and text show none of them."""
    mine = make_program(tmp_path)
    both = [make_twin(tmp_path, mine), timed(mine)]
    runs = [timed(make_run(tmp_path, f"demo:{name}", answers, evidence="reference")) for name in "ab"]
    for place, folders in enumerate(([mine], both, runs[:1], runs, [*runs[:1], mine])):
        out = tmp_path / f"out{place}"
        source, _, _ = read(folders, out)
        assert times_in(out) == [], place
        sides, comparisons = compared(*folders) if len(folders) > 1 else ([], [])
        assert not any(number in str(each) for each in comparisons for number in TIMES)
    assert "no timing: a reference executor" in (tmp_path / "out3" / "index.html").read_text()


@pytest.mark.parametrize("evidence", ["reference", "host"])
def test_frames_and_tables_hold_no_time_of_reference_evidence(tmp_path, answers, capsys, evidence):
    """``host``: so that this can fail."""
    pandas = pytest.importorskip("pandas")
    runs = [timed(make_run(tmp_path, f"demo:{name}", answers, evidence=evidence)) for name in "ab"]
    _, (comparison,) = compared(*runs)
    frames = [Run(runs[0]).to_frame(), comparison.to_frame()]
    seconds = [frame[name] for frame in frames for name in frame.columns if name.endswith("seconds")]
    assert len(seconds) == 4 and {bool(each.notna().any()) for each in seconds} == {evidence == "host"}
    assert isinstance(frames[0], pandas.DataFrame) and len(frames[0]) == len(answers)
    print_table([Run(runs[0])])
    shown = capsys.readouterr().out + json.dumps(Run(runs[0]).results)
    assert any(number in shown for number in TIMES) is (evidence == "host")


def test_the_same_times_of_host_evidence_are_shown(tmp_path, answers):
    """So that the test above can fail."""
    runs = [timed(make_run(tmp_path, f"demo:{name}", answers, evidence="host")) for name in "ab"]
    read(runs, tmp_path / "out")
    assert {"index.html", "report.md", "timings.csv", "items.csv", "rungs.csv"} <= {name for name, _ in times_in(tmp_path / "out")}
