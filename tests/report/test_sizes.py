"""Size on disk against score: every model in the picture and the table, both families, and no foreign text but escaped."""

import csv
import json
import re
from xml.etree import ElementTree

import pytest

from tests.report.bundles import compared, make_line, make_run
from tests.report.size_bundles import HOSTILE, compressed_runs, compressed_speech, with_artifact
from workbench.report import write
from workbench.report.sizes import rounded_up, size_blocks, size_parts, steps


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    where = tmp_path_factory.mktemp("sizes")
    sides, comparisons = compared(*compressed_runs(where), *compressed_speech(where))
    return sides, comparisons, write(sides, comparisons, where / "out").parent


def test_each_family_has_its_rows_with_size_compression_score_and_verdict(made):
    sides, comparisons, _ = made
    pictures, speech = size_blocks(sides, comparisons)
    first, full, small, table, _ = pictures.rows
    assert (first.size_bytes, first.stored_as, first.weights, first.kind, first.difference) == (
        11_100_000,
        "F32",
        "–",
        "reference",
        "–",
    )
    assert (small.stored_as, small.weights, small.skipped) == ("fp16 int8 iOS18 stateful", "5 of 6", 1) and full.weights == "none"
    assert table.score == "71.67 %" and table.bounds == "59.2 to 81.5 %" and table.n == 60 and table.kind == "different"
    assert round(table.ratio, 3) == round(1.7 / 11.1, 3) and table.difference.startswith("−28.33 (")
    assert speech.of_speech and [row.score for row in speech.rows] == ["0.00 %", "8.33 %"] and speech.unit == "word error rate"
    assert speech.rows[1].low is not None, "the interval of the word error rate"


def test_the_picture_is_drawable_and_holds_no_foreign_text(made):
    for block in size_blocks(*made[:2]):
        drawn = str(block.picture)
        ElementTree.fromstring(drawn)
        assert "onerror" not in drawn and drawn.count('class="mark"') == len(block.rows)
        for place in re.findall(r'(?:[xy][12]?|c[xy])="(-?[\d.]+)%"', drawn):
            assert 0 <= float(place) <= 100


def test_page_markdown_and_sheet_say_the_same(made):
    sides, comparisons, folder = made
    page, twin = (folder / "index.html").read_text(), (folder / "report.md").read_text()
    assert 'id="sizes"' in page and "What compression costs" in page and HOSTILE not in page and "&lt;img src=x" in page
    assert "## What compression costs" in twin and HOSTILE not in twin
    assert "| 3 | coreml:int8 | fp16 int8 iOS18 stateful | 3.1 MB | 28 % | 5 of 6 | 98.33 % |" in twin
    assert list(size_parts(sides, comparisons))[0] in twin
    with open(folder / "sizes.csv", encoding="utf-8-sig", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 7 and rows[3]["size_bytes"] == "1700000" and rows[3]["verdict"] == "DIFFERENT"
    assert rows[6]["unit"] == "% WER" and float(rows[6]["score"]) == pytest.approx(8.3333, abs=1e-3)


def test_reference_evidence_has_no_timing_and_all_other_parts(made):
    page = (made[2] / "index.html").read_text()
    assert page.count("no timing: a reference executor says nothing about speed") == 5
    assert "it settles fidelity and has no timing" in page and "evidence" in page


def test_memory_of_reference_evidence_is_nowhere_whatever_the_bundle_says(tmp_path):
    folder = make_run(tmp_path, "coreml:a", [make_line(str(number)) for number in range(4)], evidence="reference")
    results = json.loads((folder / "results.json").read_text())
    results["performance"] |= {"peak_memory_bytes": 987_654_321, "load_seconds": 9.0}
    (folder / "results.json").write_text(json.dumps(results))
    sides, comparisons = compared(make_run(tmp_path, "torch:a", [make_line(str(number)) for number in range(4)]), folder)
    assert sides[1].all_runs[0].results["performance"]["peak_memory_bytes"] is None
    write(sides, comparisons, tmp_path / "out")
    assert not [each.name for each in (tmp_path / "out").iterdir() if re.search("987.?654|988 MB", each.read_text())]


def test_models_of_the_same_files_have_no_such_section(tmp_path):
    lines = [make_line(str(number)) for number in range(4)]
    found = compared(make_run(tmp_path, "torch:a", lines), make_run(tmp_path, "mlx:a", lines))
    assert size_blocks(*found) == [] and list(size_parts(*found)) == []
    write(*found, tmp_path / "out")
    assert not (tmp_path / "out" / "sizes.csv").exists() and 'id="sizes"' not in (tmp_path / "out" / "index.html").read_text()


def test_a_side_that_lacks_a_task_is_named_and_not_shown(tmp_path):
    lines = [make_line(str(number)) for number in range(4)]
    whole = [make_run(tmp_path, "torch:a", lines, task=task, weights="a" * 64) for task in ("one", "two")]
    other = [make_run(tmp_path, "coreml:b", lines, task=task, weights="b" * 64) for task in ("one", "two")]
    part = with_artifact(make_run(tmp_path, "coreml:c", lines, task="one", weights="c" * 64), {"bytes": 9, "tensors": {}})
    (block,) = size_blocks(*compared(*whole, *other, part))
    assert [row.label for row in block.rows] == ["torch:a", "coreml:b"] and block.left_out == ("coreml:c",)
    assert block.rows[0].n == 8, "both tasks"


@pytest.mark.parametrize(("low", "high"), [(0.0, 1.0), (98.2, 98.9), (0.0, 12.5), (3.0, 100.0)])
def test_ticks_are_round_and_inside(low, high):
    found = steps(low, high)
    assert 2 <= len(found) <= 6 and all(low <= tick <= high for tick in found)
    assert rounded_up(high) >= high
