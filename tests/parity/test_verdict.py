"""The verdict over made-up runs: right word, right numbers, right exit code, and a sentence that says n and margin."""

from __future__ import annotations

import json

import pytest
from scipy.stats import binomtest

import workbench as wb
from tests.parity.bundles import line, lines_of, make_run
from workbench.cli.main import main
from workbench.errors import BundleError, UsageError
from workbench.metrics.stats import tango


@pytest.fixture
def reference(tmp_path):
    return make_run(tmp_path, "torch:a", lines_of(300, 100))


def flipped(broke: int, fixed: int, right: int = 300, wrong: int = 100):
    """Lines in which ``broke`` of the right items are wrong and ``fixed`` of the wrong ones are right."""
    made = lines_of(right, wrong)
    for place in range(broke):
        made[place] = line(str(place), 0.0)
    for place in range(right, right + fixed):
        made[place] = line(str(place), 1.0)
    return made


def test_equal_runs_are_equivalent_and_every_rung_says_so(tmp_path, reference):
    found = wb.compare(reference, make_run(tmp_path, "mlx:a", lines_of(300, 100), backend__name="mlx"))
    assert found.verdict.name == "EQUIVALENT" and found.verdict.exit_code == 0
    assert "400 items" in found.verdict.sentence and "±2.0 points" in found.verdict.sentence
    assert [(rung.number, rung.status) for rung in found.rungs] == [
        (1, "same"),
        (2, "same"),
        (3, "not run"),
        (4, "not run"),
        (5, "same"),
        (6, "information"),
    ]
    assert found.first_broken is None and found.flips == [] and found.notes == ()


@pytest.mark.parametrize(
    ("broke", "fixed", "margin", "name"),
    [
        (3, 0, 2.0, "EQUIVALENT"),
        (4, 0, 2.0, "DIFFERENT"),
        (6, 2, 2.0, "INCONCLUSIVE"),
        (6, 2, 3.0, "EQUIVALENT"),
        (30, 0, 2.0, "DIFFERENT"),
    ],
)
def test_verdict_follows_the_intervals(tmp_path, reference, broke, fixed, margin, name):
    found = wb.compare(reference, make_run(tmp_path, "mlx:a", flipped(broke, fixed)), margin=margin)
    low, high = tango(broke, fixed, 400, 0.90)
    assert (found.overall.low90, found.overall.high90) == (low, high)
    assert (
        (found.overall.broke, found.overall.fixed)
        == (broke, fixed)
        == (
            sum(pair.change == "broke" for pair in found.pairs),
            sum(pair.change == "fixed" for pair in found.pairs),
        )
    )
    assert found.overall.p == pytest.approx(binomtest(broke, broke + fixed).pvalue)
    assert found.verdict.name == name
    assert (
        found.verdict.sentence.startswith(name)
        and "400 items" in found.verdict.sentence
        and f"±{margin} points" in found.verdict.sentence
    )


def test_inconclusive_says_how_many_items_settle_it(tmp_path, reference):
    found = wb.compare(reference, make_run(tmp_path, "mlx:a", flipped(6, 2)))
    needed = found.verdict.needed
    assert needed > 400 and f"{needed:,} items" in found.verdict.sentence
    grown = tango(6 * needed / 400, 2 * needed / 400, needed, 0.90)
    assert grown[0] > -0.02 and grown[1] < 0.02


def test_a_relative_margin_is_of_the_references_score(tmp_path):
    before = make_run(tmp_path, "torch:a", lines_of(40, 360))
    after = make_run(tmp_path, "mlx:a", flipped(2, 0, 40, 360))
    assert wb.compare(before, after, margin=2.0).verdict.name == "EQUIVALENT"
    relative = wb.compare(before, after, margin=2.0, relative=True)
    assert relative.verdict.name != "EQUIVALENT" and "±2.0 % of the reference's score" in relative.verdict.sentence
    assert "−5.00 % of the reference's score" in relative.verdict.sentence


@pytest.mark.parametrize("margin", [0, -1, 100, float("nan")])
def test_a_margin_that_is_none_is_refused(reference, margin):
    with pytest.raises(UsageError, match="margin"):
        wb.compare(reference, reference, margin=margin)


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"generation__max_tokens": 8}, "generation.max_tokens: 16 and 8"),
        ({"data__fingerprint": "f2"}, "data.fingerprint: f1 and f2"),
        ({"task__version": "2"}, "task.version: 1 and 2"),
        ({"task__name": "other"}, "task.name: made and other"),
        ({"scorer": "rules-only"}, "task.scorer: official and rules-only"),
    ],
)
def test_what_was_asked_otherwise_is_incomparable_and_named(tmp_path, reference, change, field, capsys):
    other = make_run(tmp_path, "mlx:a", lines_of(300, 100), **change)
    found = wb.compare(reference, other)
    assert (found.verdict.name, found.verdict.exit_code) == ("INCOMPARABLE", 5)
    assert field in found.verdict.sentence and found.pairs == ()
    assert main(["parity", str(reference.folder), str(other.folder)]) == 5
    assert field in " ".join(capsys.readouterr().out.split())


def test_another_prompt_is_shown_in_words(tmp_path, reference):
    lines = lines_of(300, 100)
    lines[7] |= {"input_hash": "other", "input": {**lines[7]["input"], "text": "Question 7, please?"}}
    sentence = wb.compare(reference, make_run(tmp_path, "mlx:a", lines)).verdict.sentence
    assert "task.prompt (1 item 7): Question 7? and Question 7, please?" in sentence


def test_items_on_one_side_only_are_listed_and_not_compared(tmp_path, reference):
    found = wb.compare(reference, make_run(tmp_path, "mlx:a", lines_of(300, 100)[:390]))
    assert found.verdict.n == 390 and len(found.unpaired["reference"]) == 10 and found.unpaired["candidate"] == []
    assert any("10 items are only on the reference's side" in note and "made: 390" in note for note in found.notes)


def test_an_item_that_failed_counts_as_wrong_and_is_said(tmp_path, reference):
    lines = lines_of(300, 100)
    error = {
        "value": None,
        "tokens": None,
        "finish": "error",
        "error": {"reason": "image", "what": "no such file", "why": None, "fix": None},
    }
    lines[0] |= {
        "input_hash": "",
        "output": error,
        "score": {"value": 0.0, "answer": None, "reason": "error", "counts": {"correct": 0, "total": 1}},
    }
    found = wb.compare(reference, make_run(tmp_path, "mlx:a", lines))
    assert found.overall.broke == 1 and any("1 item of made failed and counts as wrong" in note for note in found.notes)


def test_strata_are_the_groups_of_the_task(tmp_path, reference):
    found = wb.compare(reference, make_run(tmp_path, "mlx:a", flipped(6, 0)))
    strata = {stratum.name: stratum.paired for stratum in found.strata}
    assert strata["all items"].n == 400 and (strata["first"].n, strata["second"].n) == (200, 200)
    assert strata["first"].broke + strata["second"].broke == 6
    assert strata["first"].low90 == tango(3, 0, 200, 0.90)[0]


def test_a_suite_is_pooled_and_each_task_is_shown(tmp_path):
    runs = {
        model: [make_run(tmp_path, model, lines_of(150, 50), task__name=task) for task in ("one", "two")]
        for model in ("torch:a", "mlx:a")
    }
    found = wb.compare(runs["torch:a"], runs["mlx:a"])
    assert found.verdict.n == 400 and [stratum.name for stratum in found.strata if stratum.axis == "task"] == ["one", "two"]
    assert found.verdict.name == "EQUIVALENT"


def test_several_candidates_use_holms_correction(tmp_path, reference, capsys):
    paths = [str(reference.folder)]
    for name, broke, fixed in (("mlx:a", 9, 1), ("mlx:b", 0, 0), ("mlx:c", 6, 2)):
        paths.append(str(make_run(tmp_path, name, flipped(broke, fixed)).folder))
    alone = wb.compare(paths[0], paths[1])
    assert alone.verdict.name == "DIFFERENT" and alone.overall.p < 0.05
    assert main(["parity", *paths, "--json"]) == 4
    found = json.loads(capsys.readouterr().out)["comparisons"]
    assert [each["verdict"]["name"] for each in found] == ["INCONCLUSIVE", "EQUIVALENT", "INCONCLUSIVE"]
    assert "Holm" in found[0]["verdict"]["sentence"] and f"{min(1, 3 * alone.overall.p):.3g}" in found[0]["verdict"]["sentence"]


def test_gate(tmp_path, reference, capsys):
    def code(name, lines, *flags, **changes):
        return main(["parity", str(reference.folder), str(make_run(tmp_path, name, lines, **changes).folder), "--gate", *flags])

    assert code("mlx:a", lines_of(300, 100)) == 0 and "passed" in capsys.readouterr().out
    assert code("mlx:b", flipped(6, 2)) == 1 and "INCONCLUSIVE" in capsys.readouterr().out.split("gate:")[1]
    assert code("mlx:c", lines_of(300, 100, **{"input.seen.prompt": "another"})) == 1
    assert "different inputs" in capsys.readouterr().out.split("gate:")[1]
    assert code("mlx:d", lines_of(300, 100), generation__max_tokens=8) == 5
    capsys.readouterr()
    assert code("mlx:e", lines_of(300, 100)[1:]) == 1
    assert (
        "1 of the items of the reference were not run on the candidate, for example made: 0"
        in capsys.readouterr().out.split("gate:")[1]
    )


def test_equal_texts_that_were_scored_otherwise_are_not_the_same(tmp_path, reference):
    lines = lines_of(300, 100)
    for each in lines[:40]:
        each["score"] = {**each["score"], "value": 0.0, "counts": {"correct": 0, "total": 1}}
    found = wb.compare(reference, make_run(tmp_path, "mlx:a", lines))
    assert found.rung(5).status == "different" and "every answer is the same text" in found.rung(5).finding


def test_hand_edited_results_are_said(tmp_path, reference):
    other = make_run(tmp_path, "mlx:a", lines_of(300, 100))
    results = json.loads((other.folder / "results.json").read_text())
    results["headline"]["value"] = 99.0
    (other.folder / "results.json").write_text(json.dumps(results))
    assert any("results.json" in note for note in wb.compare(reference, other).notes)


def test_unfinished_runs_are_refused_unless_partial(tmp_path, reference):
    other = make_run(tmp_path, "mlx:a", lines_of(300, 100), status="running")
    with pytest.raises(BundleError, match="not complete"):
        wb.compare(reference, other)
    assert any("not complete" in note for note in wb.compare(reference, other, partial=True).notes)


def test_frames_and_displays(tmp_path, reference):
    lines = lines_of(300, 100)
    lines[0] = line("0", 0.0, **{"output.value": "<script>alert(1)</script>"})
    found = wb.compare(reference, make_run(tmp_path, "mlx:<b>a</b>", lines))
    frame = found.to_frame()
    assert len(frame) == 400 and list(frame.query("change == 'broke'")["id"]) == ["0"]
    assert set(found.strata_frame()["axis"]) == {"all", "half"}
    assert "<b>" not in found._repr_html_() and "&lt;b&gt;" in found._repr_html_()
    assert found.verdict.sentence.split()[0] in str(found) and "artifact" in str(found)


def test_one_task_of_several_that_may_not_be_compared_is_named(tmp_path):
    runs = {
        model: [
            make_run(tmp_path, model, lines_of(150, 50), task__name=task, data__fingerprint=model if task == "two" else "f1")
            for task in ("one", "two", "three")
        ]
        for model in ("torch:a", "mlx:a")
    }
    found = wb.compare(runs["torch:a"], runs["mlx:a"])
    assert found.verdict.name == "INCOMPARABLE" and [each.field for each in found.verdict.fields] == ["data.fingerprint of two"]
    assert "data.fingerprint of two: torch:a and mlx:a" in found.verdict.sentence


def test_a_missing_hash_of_an_answered_item_is_no_pass(tmp_path, reference):
    blank = lines_of(300, 100, input_hash="")
    assert wb.compare(reference, make_run(tmp_path, "mlx:a", blank)).verdict.name == "INCOMPARABLE"


def test_items_without_a_score_count_as_0_and_are_said(tmp_path, reference):
    lines = lines_of(300, 100)
    lines[0]["score"] |= {"value": None, "reason": "missing"}
    found = wb.compare(reference, make_run(tmp_path, "mlx:a", lines))
    assert found.overall.broke == 1 and "mlx:a: 1 item of made has no score and counts as 0" in found.notes


def test_strata_come_from_the_side_that_has_them_and_hold_an_item_once(tmp_path):
    old = make_run(tmp_path, "torch:a", lines_of(150, 50, groups=[]))
    new = make_run(tmp_path, "mlx:a", lines_of(150, 50, groups=[["half", "first"], ["half", "first"]]))
    assert {(each.name, each.paired.n) for each in wb.compare(old, new).strata} == {("all items", 200), ("first", 200)}


def test_what_is_incomparable_is_no_claim_for_holm(tmp_path, reference, capsys):
    paths = [str(reference.folder), str(make_run(tmp_path, "mlx:a", flipped(4, 0)).folder)]
    assert main(["parity", *paths, "--json"]) == 1
    paths.append(str(make_run(tmp_path, "mlx:b", lines_of(300, 100), generation__max_tokens=8).folder))
    capsys.readouterr()
    assert main(["parity", *paths, "--json"]) == 1
    found = json.loads(capsys.readouterr().out)["comparisons"]
    assert [each["verdict"]["name"] for each in found] == ["DIFFERENT", "INCOMPARABLE"]


def test_a_gate_does_not_pass_edited_answers_whose_sum_is_the_same(tmp_path, reference, capsys):
    other = make_run(tmp_path, "mlx:a", lines_of(300, 100))
    path = other.folder / "samples.jsonl"
    path.write_text(path.read_text().replace('"value":"A"', '"value":"A."', 1))
    assert main(["parity", str(reference.folder), str(other.folder), "--gate"]) == 1
    assert "samples.jsonl changed after the run was finished" in " ".join(capsys.readouterr().out.split("gate:")[1].split())


@pytest.mark.parametrize(
    ("lines", "options", "words"),
    [
        ([line("0", 1.0)], {}, "1 item is too few"),
        ([line(str(place), 1.0, group="one") for place in range(50)], {}, "all of one group, and only items of other groups"),
        (lines_of(40, 10), {"margin": 1e-7}, "no number of items up to a billion"),
        (lines_of(90, 10), {"relative": True}, "about 151 items"),
    ],
)
def test_inconclusive_says_what_would_help(tmp_path, lines, options, words):
    other = [*lines[:-1], {**lines[-1], "score": {**lines[-1]["score"], "value": 0.0}}] if "group" in words else lines
    found = wb.compare(make_run(tmp_path, "torch:a", lines), make_run(tmp_path, "mlx:a", other), **options)
    assert found.verdict.name == "INCONCLUSIVE" and words in found.verdict.sentence


def test_json_is_json_where_an_interval_has_no_end(tmp_path, capsys):
    runs = [make_run(tmp_path, name, [line("0", 1.0)]) for name in ("torch:a", "mlx:a")]
    assert main(["parity", *(str(run.folder) for run in runs), "--json"]) == 4

    def refuse(constant):
        raise AssertionError(constant)

    json.loads(capsys.readouterr().out, parse_constant=refuse)


def test_names_do_not_steer_the_terminal(tmp_path, reference, capsys):
    other = make_run(tmp_path, "mlx:\x1b[2J\x07a", lines_of(300, 100))
    assert main(["parity", str(reference.folder), str(other.folder), "--gate"]) == 0
    assert not {"\x1b", "\x07"} & set(capsys.readouterr().out)


def test_each_line_is_read_once(tmp_path, reference, monkeypatch):
    """At 100,000 items a second reading costs seconds: the check of the results uses the lines that are there."""
    from workbench.run import journal

    other, read = make_run(tmp_path, "mlx:a", lines_of(300, 100)), []
    real = journal.read
    monkeypatch.setattr(journal, "read", lambda path: read.append(path.name) or real(path))
    found = wb.compare(reference.folder, other.folder)
    assert found.notes == () and read.count("samples.jsonl") == 2


def test_a_task_may_be_called_as_a_fact_of_rung_6_is(tmp_path):
    runs = [make_run(tmp_path, name, lines_of(3, 1), task__name="evidence") for name in ("torch:a", "mlx:a")]
    facts = wb.compare(*runs).rung(6).facts
    assert facts["evidence"] == ["host", "host"] and facts["tasks"]["evidence"][0]["item_median"] == 10
