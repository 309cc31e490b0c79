"""A bundle of the first schema reads as one of today, and is rewritten only when that is asked for."""

import json

import pytest

from workbench.errors import BundleError
from workbench.run import migrate, rescore, writer
from workbench.run.bundle import SCHEMA, Run, find_bundles, read_manifest


@pytest.fixture
def old(make_run, as_schema_1):
    return as_schema_1(make_run())


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def test_reading_an_old_bundle_gives_todays_shape_and_leaves_the_disk_alone(old):
    before = contents(old)
    run = Run(old)
    assert (run.manifest["schema"], run.manifest["migrated_from"]) == (SCHEMA, 1)
    assert "checksums" not in run.manifest
    lines = list(run.items().values())
    assert lines == list(run.iter_items()) and len(lines) == run.results["n"]
    assert all(line["groups"] == [] and line["input"] is None and line["output"]["finish"] for line in lines)
    assert [manifest["schema"] for _, manifest in find_bundles(old.parent)] == [SCHEMA]
    assert contents(old) == before and json.loads(before["manifest.json"])["schema"] == 1


def test_migrating_rewrites_lines_and_manifest_once(old):
    items = Run(old).items()
    run = Run(old)
    assert run.migrate() is True
    stored = json.loads((old / "manifest.json").read_bytes())
    assert (stored["schema"], stored["migrated_from"]) == (SCHEMA, 1) and run.manifest == stored
    assert set(stored["checksums"]) == {"samples.jsonl", "results.json"}
    assert json.loads((old / "samples.jsonl").read_text().splitlines()[0])["groups"] == []
    assert Run(old).items() == items
    before = contents(old)
    assert Run(old).migrate() is False and contents(old) == before


def test_a_writer_that_died_between_lines_and_manifest_leaves_a_readable_bundle(old, monkeypatch):
    items = Run(old).items()

    def die(path, value):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(migrate.journal, "write_json", die)
        with pytest.raises(KeyboardInterrupt):
            Run(old).migrate()
    assert json.loads((old / "manifest.json").read_bytes())["schema"] == 1
    assert "groups" in json.loads((old / "samples.jsonl").read_text().splitlines()[0])
    assert Run(old).items() == items
    assert Run(old).migrate() is True


def test_an_unfinished_old_run_goes_on_and_its_new_lines_keep_their_strata(make_run, as_schema_1):
    folder = as_schema_1(make_run(finish=False))
    first = json.loads((folder / "samples.jsonl").read_text().splitlines()[0])
    with writer.BundleWriter(folder, {}) as bundle:
        bundle.append([{**first, "id": "new", "groups": [["category", "math"]], "input": {"media": []}}])
        bundle.reopen()
    items = Run(folder).items()
    assert items["new"]["groups"] == [["category", "math"]] and items[first["id"]]["groups"] == []
    assert json.loads((folder / "manifest.json").read_bytes())["migrated_from"] == 1
    assert Run(folder).migrate() is False


def test_an_old_run_is_scored_again_into_todays_schema(old):
    before = Run(old).results["headline"]
    found = rescore.rescore(old)
    assert found["headline"] == before and found["changed"] == []
    assert read_manifest(old)["migrated_from"] == 1 and json.loads((old / "manifest.json").read_bytes())["schema"] == SCHEMA


def test_a_bundle_in_use_is_not_rewritten(old):
    held = writer.lock(old)
    with pytest.raises(BundleError, match="another process is writing"):
        Run(old).migrate()
    held.release()


@pytest.mark.parametrize("schema", [0, -1, 99, "x", None, 1e400])
def test_schemas_that_never_were_are_refused(old, edit, schema):
    edit(old / "manifest.json", lambda manifest: {**manifest, "schema": schema})
    with pytest.raises(BundleError, match=r"cannot be read|newer workbench"):
        Run(old)


def test_a_former_schema_that_is_none_is_refused(old, edit):
    edit(old / "manifest.json", lambda manifest: {**manifest, "schema": 2, "migrated_from": "x"})
    with pytest.raises(BundleError, match="cannot be read"):
        Run(old)
