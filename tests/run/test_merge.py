"""Shards become the run that one machine would have made; what does not fit is refused before anything is written."""

import json

import pytest

from workbench.errors import BundleError, WorkbenchError
from workbench.run.archive import pack
from workbench.run.bundle import Run
from workbench.run.merge import merge_to
from workbench.run.rescore import merge
from workbench.run.verify import verify


def shards(make_run, **more):
    return [make_run(f"{number}/3", **more) for number in (1, 2, 3)]


def contents(folders):
    return {path: path.read_bytes() for folder in folders for path in folder.rglob("*") if path.is_file()}


def test_three_shards_make_the_whole_run(make_run, tmp_path):
    parts = shards(make_run, media=True)
    whole = make_run(media=True)
    before = contents(parts)
    merged = merge_to(parts, tmp_path / "merged" / whole.name)
    assert contents(parts) == before
    one, other = merged.manifest, Run(whole).manifest
    for name in ("run_key", "key", "asked", "task", "model", "evidence", "n", "status", "schema"):
        assert one[name] == other[name], name
    assert one["merged"] == [{"name": part.name, "run_key": Run(part).manifest["run_key"]} for part in parts]
    assert merged.items() == Run(whole).items() and list(merged.items()) == list(Run(whole).items())
    assert merged.results == {
        **Run(whole).results,
        "performance": {**Run(whole).results["performance"], **pooled(parts)},
    }
    assert [session["shard"] for session in merged.environment] == [part.name for part in parts]
    assert [event["event"] for event in merged.events()].count("session") == 3 and merged.events()[-1]["event"] == "merged"
    assert sorted(path.name for path in (merged.folder / "media").iterdir()) == sorted(
        path.name for path in (whole / "media").iterdir()
    )
    assert [each for each in verify(merged) if each.level != "ok"] == []
    assert [path.name for path in merged.folder.parent.iterdir()] == [whole.name]


def pooled(parts):
    items = sum(Run(part).results["n"] for part in parts)
    return {"load_seconds": None, "cold_start_seconds": None, "session_items": items, "session_seconds": 9.0}


def test_by_default_the_merged_run_lies_where_the_whole_would(make_run):
    parts = shards(make_run)
    merged = merge_to(parts)
    assert merged.folder == make_run()  # its writer finds it complete, under the same name
    with pytest.raises(BundleError, match="is there already"):
        merge_to(parts)


def test_reading_shards_together_still_writes_nothing(make_run, tmp_path):
    parts = shards(make_run)
    before = sorted(tmp_path.rglob("*"))
    found = merge(parts)
    assert sorted(tmp_path.rglob("*")) == before
    assert (found["n"], found["missing"], found["runs"]) == (Run(make_run()).results["n"], 0, [part.name for part in parts])


def test_a_missing_shard_is_counted(make_run, tmp_path):
    parts = shards(make_run)[:2]
    merged = merge_to(parts, tmp_path / "part")
    assert merged.results["missing"] == Run(make_run()).results["n"] - merged.results["n"] > 0
    assert merged.manifest["n"] == merged.results["n"] == sum(Run(part).results["n"] for part in parts)
    levels = {each.level for each in verify(merged) if each.what in ("results", "scores")}
    assert levels == {"ok"}


def test_times_of_different_hardware_are_left_out_and_that_is_said(make_run, tmp_path):
    parts = [make_run("1/2", hardware="h1"), make_run("2/2", hardware="h2")]
    merged = merge_to(parts, tmp_path / "mixed")
    speed = merged.results["performance"]
    assert speed["items_per_second"] is None and speed["n"] == 0 and speed["hardware_keys"] == ["h1", "h2"]
    assert "2 kinds of hardware" in speed["note"] and speed["peak_memory_bytes"] is None
    assert all(line["timing"] is None for line in merged.iter_items())
    assert merged.results["headline"] == merge(parts)["headline"]
    assert all(line["timing"] for part in parts for line in Run(part).iter_items())


def test_parts_of_recordings_are_numbered_anew_and_other_files_must_agree(make_run, tmp_path):
    parts = shards(make_run)
    for number, part in enumerate(parts):
        (part / "tensors").mkdir()
        for place in (0, 1):
            (part / "tensors" / f"tokens-own-{place:05d}.safetensors").write_bytes(bytes([number, place]))
        (part / "tensors" / "shared.safetensors").write_bytes(b"same")
        (part / "artifact.json").write_text('{"bytes": 1}')
    merged = merge_to(parts, tmp_path / "merged")
    found = {path.name: path.read_bytes() for path in merged.tensors.iterdir()}
    assert found.pop("shared.safetensors") == b"same" and merged.artifact == {"bytes": 1}
    assert sorted(found) == [f"tokens-own-{place:05d}.safetensors" for place in range(6)]
    assert set(found.values()) == {bytes([number, place]) for number in range(3) for place in (0, 1)}
    (parts[1] / "tensors" / "shared.safetensors").write_bytes(b"other")
    with pytest.raises(BundleError, match=r"tensors/shared\.safetensors"):
        merge_to(parts, tmp_path / "again")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["merged", "runs"]


def test_shards_that_do_not_fit_are_refused(make_run, tmp_path, edit):
    parts = shards(make_run)
    other = make_run("2/3", max_tokens=5)
    host = make_run("3/3", seed=9)
    cases = {
        "generation.max_tokens": [parts[0], other],
        "holds an item that another run holds too": [parts[0], parts[0]],
        "generation.seed": [parts[0], parts[1], host],
        "is not complete": [parts[0], make_run("2/3", finish=False, max_tokens=6)],
    }
    for text, folders in cases.items():
        with pytest.raises(BundleError) as caught:
            merge_to(folders, tmp_path / "merged")
        assert text in str(caught.value)
    edit(parts[1] / "manifest.json", lambda manifest: {**manifest, "evidence": "device"})
    with pytest.raises(BundleError, match="different kinds of evidence"):
        merge_to(parts, tmp_path / "merged")
    edit(parts[0] / "manifest.json", lambda manifest: {**manifest, "redacted": True})
    with pytest.raises(BundleError, match="is redacted"):
        merge_to(parts, tmp_path / "merged")
    assert [path.name for path in tmp_path.iterdir()] == ["runs"]


def test_other_data_and_unknown_items_are_said(make_run, tmp_path, edit):
    part = make_run("1/3")
    edit(part / "samples.jsonl", lambda line: {**line, "id": f"x{line['id']}"})
    with pytest.raises(BundleError, match="an item that its data do not have"):
        merge_to([part], tmp_path / "merged")
    edit(part / "manifest.json", lambda manifest: manifest["key"]["data"].update(fingerprint="0" * 64))
    with pytest.raises(BundleError, match="is not the data that is here now"):
        merge_to([part], tmp_path / "merged")


def test_a_task_file_that_came_with_a_run_is_not_run(make_run, tmp_path, edit, monkeypatch):
    monkeypatch.chdir(tmp_path)
    part = make_run("1/3")
    (part / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    places = [str((part / "evil.py").relative_to(tmp_path)), str(part / "evil.py"), f"{part / 'evil.py'}::x"]
    for path in places:
        edit(part / "manifest.json", lambda manifest, path=path: manifest["task"].update(path=path))
        with pytest.raises(BundleError, match="names a task file that is not run"):
            merge_to([part], tmp_path / "merged")
    edit(part / "manifest.json", lambda manifest: manifest["task"].update(path=None, name=places[0]))
    with pytest.raises(WorkbenchError, match="names a task file that is not run"):
        merge([part])
    assert all(each.level != "failed" or "run_key" not in each.what for each in verify(Run(part)))
    assert not (tmp_path / "ran").exists()


def test_packed_shards_are_merged_too(make_run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    pack([Run(part) for part in shards(make_run)], tmp_path / "shards.zip")
    merged = merge_to(Run.open(tmp_path / "shards.zip"))
    assert merged.folder.parent.resolve() == tmp_path.resolve()
    assert json.loads((merged.folder / "results.json").read_text())["missing"] == 0


def test_the_manifest_names_the_scorer_of_the_whole(make_run, tmp_path, edit):
    parts = [make_run("1/2"), make_run("2/2")]
    entry = {"value": "A", "model": "llm", "prompt": "0" * 32, "by": "model"}
    edit(parts[1] / "samples.jsonl", lambda line: {**line, "extraction": entry} if line["output"]["value"] else line)
    merged = merge_to(parts, tmp_path / "whole")
    assert "extractions by llm" in merged.results["scorer"]
    assert merged.manifest["task"]["scorer"] == merged.results["scorer"]
