"""What was changed after a run was finished is named, with the number that its answers give."""

import json
import time

import pytest

from workbench.fingerprint import of_file
from workbench.run import journal, rederive
from workbench.run.bundle import Run, run_key
from workbench.run.verify import quick_check, verify


def failed(folder, task=None):
    return [f"{each.what}: {each.detail}" for each in verify(Run(folder), task) if each.level == "failed"]


def notes(folder):
    return [f"{each.what}: {each.detail}" for each in verify(Run(folder)) if each.level == "note"]


def mend_checksums(folder, edit):
    sums = {name: of_file(folder / name) for name in ("samples.jsonl", "results.json")}
    edit(folder / "manifest.json", lambda manifest: {**manifest, "checksums": sums})


def without_data(monkeypatch):
    """The task is known, and its data are not here."""

    def absent(run, name=None):
        raise rederive.WorkbenchError("the hub cannot be reached")

    monkeypatch.setattr(rederive, "task_and_samples", absent)


def test_an_untouched_run_is_all_right(make_run, monkeypatch):
    folder = make_run(media=True)
    assert {each.level for each in verify(Run(folder))} == {"ok"}
    assert any("scoring the answers again" in each.detail for each in verify(Run(folder)))
    assert quick_check(Run(folder)) == []
    without_data(monkeypatch)
    found = verify(Run(folder))
    assert [each.detail for each in found if each.level == "note"] == [
        "the answers were not scored again (the hub cannot be reached)"
    ]
    assert found[-1].level == "ok" and "scores of the lines" in found[-1].detail


def improve(results):
    results["headline"]["value"] += 2.5
    return results


def test_edited_results_are_named_with_what_the_answers_give(make_run, edit, monkeypatch):
    folder = make_run()
    true = Run(folder).results["headline"]["value"]
    edit(folder / "results.json", improve)
    sentence = f"headline.value: results.json says {true + 2.5:.2f} %, its answers give {true:.2f} %"
    assert failed(folder) == ["checksums: results.json changed after the run was finished", f"results: {sentence}"]
    assert quick_check(Run(folder)) == [
        f"{folder.name}: results.json changed after the run was finished",
        f"{folder.name}: {sentence}",
    ]
    mend_checksums(folder, edit)
    assert failed(folder) == [f"results: {sentence}"]
    assert quick_check(Run(folder)) == Run(folder).checked == [f"{folder.name}: {sentence}"]
    without_data(monkeypatch)
    assert failed(folder) == [f"results: {sentence}"]


@pytest.mark.parametrize(
    ("field", "change"),
    [
        ("n", lambda results: {**results, "n": results["n"] + 1}),
        ("correct", lambda results: {**results, "correct": 0}),
        ("interval.low", lambda results: {**results, "interval": {**results["interval"], "low": 99.0}}),
        ("reasons.parsed", lambda results: {**results, "reasons": {**results["reasons"], "parsed": 1}}),
        ("groups", lambda results: {**results, "groups": {}}),
        ("item_errors", lambda results: {**results, "item_errors": 0}),
        ("metrics.accuracy", lambda results: {**results, "metrics": {"accuracy": 12.0}}),
    ],
)
@pytest.mark.parametrize("with_data", [True, False])
def test_every_field_that_follows_from_the_lines_is_compared(make_run, edit, monkeypatch, field, change, with_data):  # noqa: PLR0917
    folder = make_run()
    edit(folder / "results.json", change)
    mend_checksums(folder, edit)
    if not with_data:
        without_data(monkeypatch)
    found = failed(folder)
    assert found and all(each.startswith(f"results: {field}") for each in found)


def test_edited_scores_are_found_by_scoring_again(make_run, edit):
    folder = make_run()
    first = next(
        line["id"] for line in Run(folder).iter_items() if line["score"]["value"] == 0 and line["output"]["finish"] == "stop"
    )

    def right(line):
        if line["id"] == first:
            line["score"] |= {"value": 1.0, "counts": {"correct": 1, "total": 1}}

    edit(folder / "samples.jsonl", right)
    edit(folder / "results.json", lambda results: {**results, "headline": {**results["headline"], "value": 0.0}})
    mend_checksums(folder, edit)
    assert any(each == f"scores: 1 items score differently: {first}" for each in failed(folder))
    found = quick_check(Run(folder))
    assert len(found) == 1 and "headline.value: results.json says 0.00 %" in found[0]


def test_an_edited_answer_changes_the_checksum(make_run, edit):
    folder = make_run()
    edit(folder / "samples.jsonl", lambda line: line["output"].update(value="(A)"))
    assert failed(folder)[0] == "checksums: samples.jsonl changed after the run was finished"


LINES = {
    "no JSON": "{",
    "nested too deeply": "[" * 100_000,
    "no item with an id": "[]",
    "input_hash or group is missing": {"input_hash": 5},
    "groups is no list": {"groups": [["axis"]]},
    "input holds no list of media": {"input": {"text": "x"}},
    "output.finish is none of": {"output": {"value": "x", "finish": ["stop"]}},
    "output.value is null": {"output": {"value": None, "finish": "stop"}},
    "output.value is no text": {"output": {"value": 5, "finish": "stop"}},
    "score.value 1.5 is not in 0..1": {"score": {"value": 1.5, "reason": "parsed", "counts": {}}},
    "score.value nan is not in 0..1": {"score": {"value": float("nan"), "reason": "parsed", "counts": {}}},
    "score.reason is none of": {"score": {"value": 1.0, "reason": "lucky", "counts": {}}},
    "score.counts holds what is no count": {"score": {"value": 1.0, "reason": "parsed", "counts": {"correct": -1}}},
    "more correct than there are": {"score": {"value": 1.0, "reason": "parsed", "counts": {"correct": 2, "total": 1}}},
    "timing.total is no number": {"timing": {"total": -1}},
    "extraction holds no value": {"extraction": {"model": "x"}},
    "is there twice": {},
}


@pytest.mark.parametrize("text", LINES)
def test_damaged_lines_are_named_by_number(make_run, text):
    folder = make_run()
    path = folder / "samples.jsonl"
    lines = path.read_text().splitlines()
    bad = LINES[text]
    if isinstance(bad, dict):
        bad = json.dumps(json.loads(lines[0]) | bad)
        lines = lines if text == "is there twice" else lines[1:]
    path.write_text("\n".join([*lines, bad]) + "\n")
    expected = "no JSON" if text == "nested too deeply" else text
    assert any(each.startswith(f"samples.jsonl: line {len(lines) + 1}: ") and expected in each for each in failed(folder)), failed(
        folder
    )
    assert quick_check(Run(folder))


def test_a_line_too_few_and_a_torn_one(make_run):
    folder = make_run()
    path = folder / "samples.jsonl"
    content = path.read_bytes()
    path.write_bytes(content[: content[:-1].rindex(b"\n") + 1])
    n = Run(folder).manifest["n"]
    assert any(each == f"samples.jsonl: the manifest says n = {n}, it holds {n - 1} items" for each in failed(folder))
    assert any(f"its manifest says n = {n}" in each for each in quick_check(Run(folder)))
    path.write_bytes(content[:-5])
    assert any("it is cut off" in each or "no JSON" in each for each in failed(folder))


def test_images_are_checked_by_their_bytes(make_run):
    folder = make_run(media=True)
    first, second, third = sorted((folder / "media").iterdir())[:3]
    first.write_bytes(b"another picture")
    second.unlink()
    third.rename(third.with_name("picture.png"))
    found = failed(folder)
    assert f"media: other bytes than their names say: {first.name}" in found
    assert "media: no media file of a bundle: picture.png" in found
    assert any(each.startswith("media: 2 of ") and second.stem in each for each in found)
    for path in (folder / "media").iterdir():
        path.unlink()
    (folder / "media").rmdir()
    assert failed(folder) == [] and any("not recorded" in each for each in notes(folder))


def test_tensor_files_must_open(make_run):
    numpy = pytest.importorskip("safetensors.numpy", reason="pip install safetensors")
    import numpy as np

    folder = make_run()
    (folder / "tensors").mkdir()
    numpy.save_file({"a": np.zeros(3)}, folder / "tensors" / "tokens-own-00000.safetensors")
    assert "cannot be read" in failed(folder)[0], "it lists no items"
    (folder / "tensors" / "tokens-own-00000.safetensors").rename(folder / "tensors" / "other.safetensors")
    assert failed(folder) == []
    content = (folder / "tensors" / "other.safetensors").read_bytes()
    (folder / "tensors" / "cut.safetensors").write_bytes(content[:-4])
    (folder / "tensors" / "code.pkl").write_bytes(b"x")
    (found,) = failed(folder)
    assert "cut.safetensors" in found and "code.pkl" in found and "other" not in found


def test_manifest_and_files(make_run, edit):
    folder = make_run()
    renamed = folder.rename(folder.with_name("mine"))
    assert any("the folder was renamed" in each for each in notes(renamed)) and failed(renamed) == []
    (renamed / "notes.txt").write_text("x")
    assert any("no part of a bundle: notes.txt" in each for each in notes(renamed))
    edit(renamed / "manifest.json", lambda manifest: manifest["key"]["model"].update(weights="better"))
    assert "manifest: run_key is not the hash of key: one of them was changed" in failed(renamed)
    edit(renamed / "manifest.json", lambda manifest: {**manifest, "run_key": run_key(manifest["key"])})
    assert failed(renamed) == []
    edit(renamed / "manifest.json", lambda manifest: {name: value for name, value in manifest.items() if name != "checksums"})
    assert failed(renamed) == ["checksums: the manifest lacks them: it was changed"]
    (renamed / "results.json").unlink()
    assert "files: missing: results.json" in failed(renamed)


@pytest.mark.parametrize("name", ["status", "key", "task", "model", "n", "run_key", "asked", "checksums", "merged"])
@pytest.mark.parametrize("value", [None, 5, "x", [], {}, [[]], {"name": []}])
def test_a_manifest_of_any_shape_is_a_finding_and_no_crash(make_run, edit, name, value):
    folder = make_run()
    edit(folder / "manifest.json", lambda manifest: {**manifest, name: value, "migrated_from": None})
    assert isinstance(failed(folder), list)
    assert isinstance(quick_check(Run(folder)), list)


def test_an_unfinished_run_is_noted_and_not_failed(make_run):
    folder = make_run(finish=False)
    (folder / "samples.jsonl").write_bytes((folder / "samples.jsonl").read_bytes() + b'{"id": "torn')
    assert failed(folder) == [] and any("not complete" in each for each in notes(folder))
    assert quick_check(Run(folder)) == []


def test_an_old_run_is_checked_without_checksums_and_with_them_once_migrated(make_run, as_schema_1, edit):
    folder = as_schema_1(make_run())
    assert failed(folder) == [] and any("--migrate" in each for each in notes(folder)) and quick_check(Run(folder)) == []
    Run(folder).migrate()
    assert failed(folder) == [] and not any("--migrate" in each for each in notes(folder))
    edit(folder / "results.json", improve)
    assert failed(folder)[0].startswith("checksums: results.json changed")


OWN = """
from workbench import Request, Score, Task, task
from workbench.data.rows import Rows
from workbench.metrics.accuracy import ACCURACY

with open({marker!r}, "a") as ran:
    ran.write("ran ")
rows = lambda: ({{"id": str(n), "question": "?", "answer": "a"}} for n in range(4))

@task
def mine():
    ask = lambda sample: Request({{"text": "?", "images": []}}, "1")
    score = lambda sample, response, rng: Score.of(response.text == "a", response.text)
    return Task("mine", "1", "vision-language", Rows(rows), ask, score, (ACCURACY,), "accuracy")
"""


def test_an_own_evals_code_runs_only_when_it_is_named(make_run, edit, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text(OWN.format(marker=str(tmp_path / "ran")))
    folder = make_run()
    edit(folder / "manifest.json", lambda manifest: manifest["task"].update(name="mine", path="mine.py"))
    assert failed(folder) == [] and any("--task mine.py" in each for each in notes(folder))
    assert quick_check(Run(folder)) == [] and not (tmp_path / "ran").exists()
    edit(folder / "results.json", improve)
    assert any("headline.value" in each for each in failed(folder)) and any(
        "headline.value" in each for each in quick_check(Run(folder))
    )
    verify(Run(folder), "mine.py")
    assert (tmp_path / "ran").read_text() == "ran "


def test_a_hundred_thousand_lines_take_seconds(make_run, edit):
    folder = make_run()
    (line, *_) = [line for line in Run(folder).iter_items() if line["score"]["reason"] == "parsed" and line["score"]["value"] == 1]
    count = 100_000
    journal.write_atomically(folder / "samples.jsonl", (journal.encode({**line, "id": f"item-{n}"}) for n in range(count)))
    edit(folder / "manifest.json", lambda manifest: {**manifest, "n": count})
    edit(folder / "results.json", lambda results: {**results, "n": count, "headline": {**results["headline"], "value": 100.0}})
    mend_checksums(folder, edit)
    began = time.process_time()
    assert quick_check(Run(folder)) == []
    quick = time.process_time() - began
    verify(Run(folder))
    whole = time.process_time() - began - quick
    print(f"\n{(folder / 'samples.jsonl').stat().st_size / 1e6:.0f} MB: quick_check {quick:.1f} s, verify {whole:.1f} s")
    assert quick < 15 and whole < 20, "several times what a slow machine takes"


def records(tokens, positions=None):
    import numpy

    from workbench.run.token_records import record_of

    return record_of(tokens, numpy.random.default_rng(0).standard_normal((positions or len(tokens), 16)).astype("float32"))


def test_token_records_are_of_the_runs_own_answers(make_run):
    pytest.importorskip("safetensors.numpy", reason="pip install safetensors")
    from workbench.run.token_records import write_tokens

    folder = make_run()
    ids = list(Run(folder).items())
    write_tokens(folder / "tensors", "own", {ids[0]: records([5, 6, 7])})
    write_tokens(folder / "tensors", "0123456789ab", {ids[0]: records([1, 2])})
    assert failed(folder) == []
    write_tokens(folder / "tensors", "own", {ids[1]: records([5, 6, 8])})
    assert failed(folder) == [f"tensors: 1 token records are of other answers: {ids[1]}"]


@pytest.mark.parametrize("kind", ["tokens-own", "tokens-0123456789ab", "inputs"])
def test_records_of_unknown_items_fail(make_run, kind):
    pytest.importorskip("safetensors.numpy", reason="pip install safetensors")
    import numpy

    from workbench.run.input_records import write_inputs
    from workbench.run.token_records import write_tokens

    folder = make_run()
    if kind == "inputs":
        write_inputs(folder / "tensors", {"nobody": {"pixel_values": numpy.zeros(3)}})
    else:
        write_tokens(folder / "tensors", kind.partition("-")[2], {"nobody": records([5])})
    assert failed(folder) == [f"tensors: {kind}-00000.safetensors (the run has no item 'nobody')"]


def test_a_token_part_without_its_arrays_fails(make_run):
    numpy = pytest.importorskip("safetensors.numpy", reason="pip install safetensors")
    import numpy as np

    folder = make_run()
    (folder / "tensors").mkdir()
    items = {"items": json.dumps([[next(iter(Run(folder).items())), 3]])}
    path = folder / "tensors" / "tokens-own-00000.safetensors"
    whole = {"tokens": np.zeros(3, np.int32), "followed": np.zeros(3, np.float32), "logprobs": np.zeros((3, 4), np.float32)}
    for arrays, words in (
        ({name: whole[name] for name in ("tokens", "followed")}, "not tokens"),
        (whole | {"logprobs": np.zeros((2, 4), np.float32)}, "shape"),
        ({name: array[:2] for name, array in whole.items()}, "differ in length"),
    ):
        numpy.save_file(arrays, path, items)
        assert words in failed(folder)[0]


@pytest.mark.parametrize("name", ["extractions.jsonl", "judge-0123456789ab.json", "judge-0123456789ab.jsonl", "events.jsonl"])
def test_every_file_of_a_bundle_must_be_json(make_run, name):
    folder = make_run()
    (folder / name).write_text("no JSON\n")
    assert any(name in each for each in failed(folder))
