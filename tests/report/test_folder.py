"""A report's folder: whole or not at all, the same bytes every time, and never in place of something else."""

import csv
import json
import re

import pytest

from tests.report.bundles import compared, make_line, make_run
from tests.report.zoo_bundles import make_zoo, some_rows
from workbench.errors import BundleError, UsageError
from workbench.report import folder, write, write_report, write_zoo_report


@pytest.fixture
def two(tmp_path):
    lines = [
        make_line(str(number), number % 3 > 0, groups=[["kind", "even" if number % 2 == 0 else "odd"]]) for number in range(60)
    ]
    other = [make_line(str(number), number % 3 > 0 and number != 4, groups=line["groups"]) for number, line in enumerate(lines)]
    return compared(make_run(tmp_path, "demo:a", lines), make_run(tmp_path, "demo:b", other))


def rows(path):
    with open(path, encoding="utf-8-sig", newline="") as file:
        return list(csv.DictReader(file))


def test_it_holds_a_page_a_twin_and_five_tables(two, tmp_path):
    path = write(*two, tmp_path / "out")
    assert path == tmp_path / "out" / "index.html" and {each.name for each in path.parent.iterdir()} == folder.OWN_FILES - {
        "layers.csv",
        "sizes.csv",
    }
    strata = rows(path.parent / "strata.csv")
    assert [(row["axis"], row["n"], row["broke"], row["fixed"]) for row in strata] == [
        ("all", "60", "1", "0"),
        ("kind", "30", "1", "0"),
        ("kind", "30", "0", "0"),
    ]
    items = rows(path.parent / "items.csv")
    assert (
        len(items) == 60 and items[0]["change"] == "broke" and items[0]["id"] == "4" and items[0]["prompt"].startswith("<|user|>")
    )
    assert {row["rung"] for row in rows(path.parent / "rungs.csv")} == set("123456")
    assert [row["n"] for row in rows(path.parent / "scores.csv")] == ["60", "60"] and len(rows(path.parent / "timings.csv")) == 2
    assert not [each for each in tmp_path.iterdir() if each.name.startswith(".")]


def test_the_same_bundles_give_the_same_bytes_and_an_earlier_report_is_replaced(two, tmp_path):
    first = {each.name: each.read_bytes() for each in write(*two, tmp_path / "out").parent.iterdir()}
    second = {each.name: each.read_bytes() for each in write(*two, tmp_path / "out").parent.iterdir()}
    assert first == second


def test_a_folder_of_something_else_is_never_replaced(two, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.tex").write_text("years of work")
    with pytest.raises(UsageError, match="is no report"):
        write(*two, tmp_path / "out")
    with pytest.raises(UsageError, match="not a folder"):
        write(*two, tmp_path / "out" / "thesis.tex")
    assert (tmp_path / "out" / "thesis.tex").read_text() == "years of work"


@pytest.mark.parametrize("names", [["report.md"], ["report.md", "items.csv", "index.html"]])
def test_files_of_the_same_names_that_are_no_report_are_never_replaced(two, tmp_path, names):
    (tmp_path / "out").mkdir()
    for name in names:
        (tmp_path / "out" / name).write_text("my own words")
    with pytest.raises(UsageError, match="is no report"):
        write(*two, tmp_path / "out")
    assert all((tmp_path / "out" / name).read_text() == "my own words" for name in names)


def test_a_report_of_runs_and_one_of_a_zoo_never_replace_each_other(two, tmp_path):
    rows_and_layers = some_rows()
    zoo = make_zoo(tmp_path, *rows_and_layers)
    for first, second, kept in (
        (lambda out: write(*two, out), zoo, "report.md"),
        (lambda out: write_report([zoo], out), two, "rows.csv"),
    ):
        out = tmp_path / kept
        page = first(out).read_bytes()
        with pytest.raises(UsageError, match="no report of this kind"):
            write_report([second], out) if second is zoo else write(*second, out)
        assert (out / "index.html").read_bytes() == page and (out / kept).is_file()
    assert write_zoo_report(zoo, tmp_path / "rows.csv").is_file()  # the same kind is replaced


def test_a_zoo_is_reported_alone(tmp_path):
    zoo, run = make_zoo(tmp_path / "zoo", *some_rows()), make_run(tmp_path, "demo:a", [make_line("1")])
    assert "Zoo report" in write_report([str(zoo.folder)], tmp_path / "out").read_text()
    with pytest.raises(UsageError, match="table of the zoo") as caught:
        write_report([zoo, run], tmp_path / "both")
    assert "not put beside other runs" in caught.value.why and not (tmp_path / "both").exists()


def test_nothing_half_written_stays_when_writing_fails(two, tmp_path, monkeypatch):
    earlier = write(*two, tmp_path / "out").read_bytes()

    def full(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(folder, "write_sheets", full)
    with pytest.raises(BundleError, match="No space left") as caught:
        write(*two, tmp_path / "out")
    assert "--out" in caught.value.fix
    assert (tmp_path / "out" / "index.html").read_bytes() == earlier
    assert not [each for each in tmp_path.iterdir() if each.name.startswith(".")]


@pytest.mark.parametrize(
    ("file", "field", "value", "why"),
    [
        ("results.json", "headline", None, "headline is no mapping"),
        ("results.json", "headline", {"metric": "accuracy", "unit": "%"}, "headline.value is missing"),
        ("results.json", "interval", {"low": "all"}, "interval.low is no finite number"),
        ("results.json", "chance", "a quarter", "chance is no finite number"),
        ("results.json", "groups", "even", "groups is no mapping"),
        ("results.json", "item_errors", [], "item_errors is no whole number"),
        ("environment.json", "memory_bytes", "much", "0.memory_bytes is no finite number"),
        ("environment.json", "device", "cpu", "0.device is no mapping"),
    ],
)
def test_a_bundle_edited_by_hand_is_a_clear_error(tmp_path, file, field, value, why):
    bundle = make_run(tmp_path, "demo:a", [make_line("1")])
    found = json.loads((bundle / file).read_text())
    (found[0] if isinstance(found, list) else found)[field] = value
    (bundle / file).write_text(json.dumps(found))
    with pytest.raises(BundleError, match=re.escape(file)) as caught:
        write(*compared(bundle), tmp_path / "out")
    assert why in caught.value.why and not (tmp_path / "out").exists()


def test_results_that_contradict_themselves_still_have_a_report(tmp_path):
    bundle = make_run(tmp_path, "demo:a", [make_line("1", groups=[["kind", "even"]])])
    found = json.loads((bundle / "results.json").read_text())
    found["groups"]["kind"]["even"] |= {"n": -1, "correct": 7}
    found |= {"score_range_over_seeds": [1], "scored": None, "item_errors": None}
    (bundle / "results.json").write_text(json.dumps(found))
    assert "results.json changed" in write(*compared(bundle), tmp_path / "out").read_text()


def test_a_report_of_nothing_is_refused(tmp_path):
    with pytest.raises(UsageError, match="nothing to report"):
        write([], [], tmp_path / "out")


def test_formulas_and_long_texts_in_the_items_table(tmp_path):
    lines = [make_line("=cmd()", text="=HYPERLINK(1)"), make_line("2", text="z" * 50_000)]
    sides, _ = compared(make_run(tmp_path, "demo:a", lines))
    found = rows(write(sides, [], tmp_path / "out").parent / "items.csv")
    assert {row["id"] for row in found} == {"'=cmd()", "2"}
    texts = {row["id"]: row["reference_response"] for row in found}
    assert texts["'=cmd()"] == "'=HYPERLINK(1)" and texts["2"].endswith("50,000 characters in all") and len(texts["2"]) < 32_767


def test_the_markdown_twin_says_the_same(two, tmp_path):
    sides, comparisons = two
    twin = (write(sides, comparisons, tmp_path / "out", command="workbench report a b").parent / "report.md").read_text()
    assert twin.startswith("# demo:b against demo:a\n")
    assert comparisons[0].verdict.name in twin and "| 5 | answers |" in twin and "No speed-up is claimed" in twin
    assert "| broke | colours | 4 | A | A (parsed) | B (parsed) |" in twin
    columns = [line.count("|") - line.count("\\|") for line in twin.splitlines() if line.startswith("|")]
    assert min(columns) > 3


def test_hostile_text_in_the_markdown_twin(tmp_path):
    bad = "x | y\n\n<img src=x onerror=alert(1)> [a](javascript:alert(1)) ```"
    sides, comparisons = compared(
        make_run(tmp_path, "demo:a", [make_line(bad, True, groups=[[bad, bad]])]),
        make_run(tmp_path, "demo:b", [make_line(bad, False, answer=bad)]),
    )
    comparisons[0].pairs[0].candidate["score"]["reason"] = bad  # a bundle with such a reason is refused when it is read
    twin = (write(sides, comparisons, tmp_path / "out").parent / "report.md").read_text()
    assert "<img" not in twin and not re.search(r"(?<!\\)[\[\]`]", twin)
    assert json.dumps(bad) not in twin
