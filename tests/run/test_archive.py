"""A zip of runs is the same bytes every time, and a hostile one writes nothing."""

import io
import json
import re
import stat
import struct
import time
import zipfile

import pytest

from workbench.errors import BundleError
from workbench.run import archive
from workbench.run.bundle import Run
from workbench.run.redact import is_redacted, key_of, marker, redact
from workbench.run.verify import verify


def packed(folder, target):
    archive.pack([Run(folder)], target)
    return target


def zip_of(path, *entries, method=zipfile.ZIP_DEFLATED):
    """A zip of (name or ZipInfo, bytes)."""
    with zipfile.ZipFile(path, "w", method) as out:
        for name, content in entries:
            out.writestr(name, content)
    return path


GOOD = ("run/manifest.json", json.dumps({"schema": 2, "status": "complete"}))


def test_packing_twice_gives_equal_bytes_and_the_same_run(make_run, tmp_path):
    folder = make_run(media=True)
    (folder / "notes.txt").write_text("mine")
    (folder / "media" / "evil.sh").write_text("#!")
    (folder / "events.jsonl.bak").write_text("")
    assert sorted(archive.pack([Run(folder)], tmp_path / "a.zip")) == [
        f"{folder.name}/{name}" for name in ("events.jsonl.bak", "media/evil.sh", "notes.txt")
    ]
    first = (tmp_path / "a.zip").read_bytes()
    time.sleep(0.01)
    for path in folder.rglob("*"):
        path.touch()
        path.chmod(0o700)
    assert packed(folder, tmp_path / "b.zip").read_bytes() == first
    packed(folder, tmp_path / "a.zip")  # the same content over itself is no conflict
    with zipfile.ZipFile(tmp_path / "a.zip") as found:
        names = found.namelist()
        assert names == sorted(names) and not any(".lock" in name or "draft" in name for name in names)
        assert {entry.date_time for entry in found.infolist()} == {(1980, 1, 1, 0, 0, 0)}
    run = Run(tmp_path / "a.zip")
    assert (run.name, run.items(), run.results) == (folder.name, Run(folder).items(), Run(folder).results)
    assert run.media(next(iter(run.items().values()))["input"]["media"][0]).is_file()
    assert [path.name for path in tmp_path.iterdir() if "draft" in path.name] == []


def test_links_are_never_packed(make_run, tmp_path):
    folder = make_run()
    (tmp_path / "secret").write_text("s3cret")
    (folder / "artifact.json").symlink_to(tmp_path / "secret")
    (folder / "media").mkdir()
    (folder / "media" / f"{'a' * 64}.png").symlink_to(tmp_path / "secret")
    with zipfile.ZipFile(packed(folder, tmp_path / "a.zip")) as found:
        assert not any("artifact" in name or "media" in name for name in found.namelist())
    assert Run(folder).media("a" * 64) is None


def test_several_runs_in_one_zip_are_read_by_name(make_run, tmp_path):
    folders = sorted([make_run(), make_run(max_tokens=7)])
    archive.pack([Run(folder) for folder in folders], tmp_path / "two.zip")
    assert [run.name for run in Run.open(tmp_path / "two.zip")] == [folder.name for folder in folders]
    assert Run(tmp_path / "two.zip" / folders[1].name).results == Run(folders[1]).results
    with pytest.raises(BundleError, match="holds 2 runs") as caught:
        Run(tmp_path / "two.zip")
    assert str(tmp_path / "two.zip") in caught.value.fix
    with pytest.raises(BundleError, match="holds no run 'other'"):
        Run(tmp_path / "two.zip" / "other")
    with pytest.raises(BundleError, match="same name"):
        archive.pack([Run(folders[0]), Run(folders[0])], tmp_path / "three.zip")


def test_the_temporary_folder_goes_with_the_last_run(make_run, tmp_path):
    run = Run(packed(make_run(), tmp_path / "a.zip"))
    folder = run.folder
    assert folder.is_dir() and stat.S_IMODE(folder.parent.stat().st_mode) == 0o700
    with pytest.raises(BundleError, match="is packed"):
        run.migrate()
    del run
    assert not folder.exists()


def test_an_unfinished_run_and_a_taken_name_are_refused(make_run, tmp_path):
    with pytest.raises(BundleError, match="is not complete"):
        packed(make_run(finish=False, max_tokens=3), tmp_path / "a.zip")
    (tmp_path / "b.zip").write_text("precious")
    with pytest.raises(BundleError, match="is there already"):
        packed(make_run(), tmp_path / "b.zip")
    assert (tmp_path / "b.zip").read_text() == "precious"
    with pytest.raises(BundleError, match="cannot write"):
        packed(make_run(), tmp_path / "no folder" / "b.zip")


def info(name, mode=0, flags=0):
    entry = zipfile.ZipInfo(name)
    entry.external_attr, entry.create_system = mode << 16, 3
    entry.flag_bits = flags
    return entry


HOSTILE = [
    (("../evil/manifest.json", "{}"), "out of the folder"),
    (("run/../../manifest.json", "{}"), "out of the folder"),
    (("run/media/../../x/manifest.json", "{}"), "out of the folder"),
    (("/etc/manifest.json", "{}"), "absolute"),
    (("C:/run/manifest.json", "{}"), "absolute"),
    (("C:manifest.json", "{}"), "absolute"),
    (("run\\manifest.json", "{}"), "backslash"),
    ((info("run/events.jsonl", stat.S_IFLNK | 0o777), "/etc/passwd"), "link or a device"),
    ((info("run/events.jsonl", stat.S_IFIFO | 0o777), ""), "link or a device"),
    (("run/evil.py", "import os"), "no bundle holds such a file"),
    (("run/.lock", ""), "no bundle holds such a file"),
    (("run/media/picture.html", "<script>"), "no bundle holds such a file"),
    (("run/media/deep/manifest.json", "{}"), "no bundle holds such a file"),
    (("run/tensors/a.pkl", "x"), "no bundle holds such a file"),
    (("run/other/", ""), "no bundle holds such a folder"),
    (("manifest.json", "{}"), "no bundle holds such a file"),
    ((".hidden/manifest.json", "{}"), "no name of a run"),
    (("RUN/MANIFEST.json", "{}"), "no bundle holds such a file"),
    (("RUN/manifest.json", "{}"), "twice"),
    (("other/events.jsonl", ""), "other/manifest.json is missing"),
]


@pytest.mark.parametrize(("entry", "why"), HOSTILE)
def test_hostile_entries_are_named_and_nothing_is_written(tmp_path, entry, why):
    path = zip_of(tmp_path / "evil.zip", GOOD, entry)
    with pytest.raises(BundleError) as caught:
        archive.unpack(path, tmp_path / "out")
    assert why in str(caught.value)
    assert not (tmp_path / "out").exists() and sorted(each.name for each in tmp_path.iterdir()) == ["evil.zip"]


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_a_name_twice_an_encrypted_entry_and_a_strange_compression_are_refused(tmp_path):
    cases = {
        "twice": zip_of(tmp_path / "a.zip", GOOD, GOOD),
        "neither stored nor deflate": zip_of(tmp_path / "b.zip", GOOD, method=zipfile.ZIP_LZMA),
    }
    raw = bytearray(zip_of(tmp_path / "c.zip", GOOD).read_bytes())
    for signature, place in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        raw[raw.index(signature) + place] |= 1
    (tmp_path / "c.zip").write_bytes(raw)
    cases["encrypted"] = tmp_path / "c.zip"
    for why, path in cases.items():
        with pytest.raises(BundleError) as caught:
            archive.unpack(path, tmp_path / "out")
        assert why in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_a_bomb_is_stopped_by_what_comes_out_and_not_by_what_its_header_says(tmp_path, monkeypatch):
    path = zip_of(tmp_path / "bomb.zip", GOOD, ("run/samples.jsonl", bytes(64 * 2**20)))
    with pytest.raises(BundleError, match=r"run/samples\.jsonl") as caught:
        archive.unpack(path, tmp_path / "out")
    assert "250 times" in caught.value.why
    raw = bytearray(path.read_bytes())  # the header now says 10 bytes
    place = raw.rindex(b"PK\x01\x02")
    raw[place + 24 : place + 28] = struct.pack("<I", 10)
    path.write_bytes(raw)
    with pytest.raises(BundleError):
        archive.unpack(path, tmp_path / "out")
    incompressible = zip_of(tmp_path / "big.zip", GOOD, ("run/samples.jsonl", b'{"id": "1"}\n' * 1000))
    with pytest.raises(BundleError, match="unpacks to too much"):
        archive.unpack(incompressible, tmp_path / "out", max_bytes=5000)
    monkeypatch.setattr(archive, "MAX_ENTRIES", 1)
    with pytest.raises(BundleError, match="holds 2 entries"):
        archive.unpack(incompressible, tmp_path / "out")
    assert list(tmp_path.glob("out/*")) == [] and list(tmp_path.glob("out/.*")) == []


def test_entries_that_share_bytes_are_refused(tmp_path):
    path = zip_of(
        tmp_path / "a.zip", GOOD, ("run/events.jsonl", b"x" * 5000), ("run/samples.jsonl", b"y"), method=zipfile.ZIP_STORED
    )
    with zipfile.ZipFile(path) as found:
        entries = {entry.filename: entry for entry in found.infolist()}
        content = path.read_bytes()
        start = found.start_dir
    directory = bytearray(content[start:])
    places = [match.start() for match in re.finditer(b"PK\x01\x02", directory)]
    sizes = struct.pack("<II", 5000, 5000)
    directory[places[2] + 20 : places[2] + 28] = sizes  # samples.jsonl claims the bytes of events.jsonl too
    directory[places[2] + 42 : places[2] + 46] = struct.pack("<I", entries["run/events.jsonl"].header_offset)
    path.write_bytes(content[:start] + bytes(directory))
    with pytest.raises(BundleError):
        archive.unpack(path, tmp_path / "out")
    assert list(tmp_path.glob("out/*")) == []


@pytest.mark.parametrize("part", [0.0, 0.1, 0.5, 0.9, 0.999])
def test_a_truncated_zip_is_a_clear_error(make_run, tmp_path, part):
    content = packed(make_run(), tmp_path / "a.zip").read_bytes()
    (tmp_path / "cut.zip").write_bytes(content[: int(len(content) * part)])
    with pytest.raises(BundleError, match="cannot be read as a zip of runs"):
        Run(tmp_path / "cut.zip")


def test_a_flipped_byte_is_noticed_and_leaves_nothing(make_run, tmp_path):
    path = packed(make_run(), tmp_path / "a.zip")
    content = bytearray(path.read_bytes())
    with zipfile.ZipFile(io.BytesIO(content)) as found:
        entry = found.getinfo(next(name for name in found.namelist() if name.endswith("samples.jsonl")))
        content[entry.header_offset + 200] ^= 0xFF
    path.write_bytes(content)
    with pytest.raises(BundleError, match="cannot be read as a zip of runs"):
        archive.unpack(path, tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == []


def test_no_zip_no_manifest_and_nothing_at_all(tmp_path):
    (tmp_path / "text.zip").write_text("hello")
    zip_of(tmp_path / "empty.zip")
    zip_of(tmp_path / "none.zip", ("run/events.jsonl", ""))
    zip_of(tmp_path / "newer.zip", ("run/manifest.json", '{"schema": 99}'))
    said = {"text": "cannot be read as a zip", "empty": "no run bundle", "none": "no run bundle", "newer": "newer workbench"}
    for name, text in said.items():
        with pytest.raises(BundleError, match=text):
            Run(tmp_path / f"{name}.zip")
    with pytest.raises(BundleError, match="no run bundle") as caught:
        Run(tmp_path / "absent.zip")
    assert caught.value.why == "there is no such folder"


def test_unpacking_over_a_run_is_refused(make_run, tmp_path):
    path = packed(make_run(), tmp_path / "a.zip")
    (made,) = archive.unpack(path, tmp_path / "out")
    assert Run(made).status == "complete"
    with pytest.raises(BundleError, match="is there already"):
        archive.unpack(path, tmp_path / "out")


SECRETS = ("secret", "USER:", "none of them", "(A)", "(B)", "(C)", "(D)")


def test_a_redacted_run_holds_no_text_and_still_verifies(make_run, tmp_path):
    folder = make_run(media=True)
    run = Run(folder)
    copy = redact(run, tmp_path / "safe" / folder.name, key_of("k"))
    everything = b"".join(path.read_bytes() for path in copy.folder.rglob("*") if path.is_file()).decode()
    questions = [line["input"]["text"] for line in run.items().values()]
    assert [text for text in (*SECRETS, *questions) if text in everything] == []
    assert not (copy.folder / "media").exists() and copy.manifest["redacted"] is True
    assert copy.results == run.results
    assert [each for each in verify(copy) if each.level == "failed"] == []
    for before, after in zip(run.iter_items(), copy.iter_items(), strict=True):
        assert after["output"]["tokens"] is None
        assert is_redacted(after["output"]["value"]) == (before["output"]["value"] is not None)
        for name in ("id", "group", "groups", "input_hash", "timing"):
            assert after[name] == before[name]
        for name in ("value", "reason", "counts"):
            assert after["score"][name] == before["score"][name]
    again = redact(copy, tmp_path / "again" / folder.name, key_of(None))
    assert again.items() == copy.items(), "a marker is not redacted again"


def test_what_an_own_eval_names_after_its_gold_is_hidden_too(make_run, tmp_path, edit):
    folder = make_run()
    secret = "Zanzibar"
    edit(folder / "manifest.json", lambda manifest: manifest["task"].update(name="mine.py", path="mine.py"))
    edit(
        folder / "samples.jsonl",
        lambda line: (
            line
            | {"groups": [["label", secret]], "group": secret, "notes": secret, "extraction": {"value": secret, "said": secret}}
            | {"output": line["output"] | {"raw": secret, "value": f"[redacted {secret}]"}}
        ),
    )
    everyone = {"n": 1, "correct": None, "value": 1.0}
    edit(folder / "results.json", lambda results: results | {"groups": {"label": {secret: everyone}}, "confusion": {secret: 3}})
    edit(folder / "results.json", lambda results: results | {"floor": {"most common": secret}})
    copy = redact(Run(folder), tmp_path / "safe", key_of(None))
    files = [path for path in copy.folder.rglob("*") if path.is_file()]
    assert [path.name for path in files if secret in path.read_text()] == []
    (stratum,) = {each["groups"][0][1] for each in copy.iter_items()}
    assert copy.results["groups"]["label"] == {stratum: everyone}, "lines and results still name the same strata"


def test_markers_are_keyed_and_equal_for_equal_texts():
    assert marker("B", key_of("k")) == marker("B", key_of("k")) != marker("C", key_of("k"))
    assert len({marker("B", key_of(None)) for _ in range(5)} | {marker("B", key_of("other")), marker("B", key_of("k"))}) == 7
    assert marker(None, b"") is None and marker(["a"], b"k").endswith(" 5 characters]")
    assert marker("\ud800", b"k").endswith(" 1 characters]")
