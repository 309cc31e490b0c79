"""The record of a kit: read back only when every field is of its type; its zip is as hostile as any other."""

import json
import stat
import zipfile

import pytest

from tests.report.bundles import make_line, make_run
from tests.run.kits import ABORT, make_kit, record
from workbench.errors import BundleError
from workbench.run import archive, kit
from workbench.run.bundle import Run
from workbench.run.kit_check import check_machine, check_record, open_record, step_text

LINES = [make_line(str(number), right=bool(number % 3)) for number in range(6)]


@pytest.fixture
def folders(tmp_path):
    """The reference's name sorts behind the candidate's: only the plan's order puts it first."""
    return [make_run(tmp_path / "runs", model, LINES) for model in ("torch:z", "coreml:a")]


def edited(path, target, change):
    """A copy of a zip with its kit.json changed; ``change`` gives a record, text, or more entries."""
    with zipfile.ZipFile(path) as found, zipfile.ZipFile(target, "w") as out:
        for entry in found.infolist():
            content = found.read(entry)
            if entry.filename == "kit.json":
                changed = change(json.loads(content))
                content = changed if isinstance(changed, str) else json.dumps(changed)
            out.writestr(entry.filename, content)
    return target


def test_a_record_is_the_same_after_writing_and_reading():
    made = record([])
    assert kit.parse(made.encode()) == made
    assert kit.parse(made.encode()).encode() == made.encode()
    assert (
        made.failed == (ABORT,)
        and ABORT.ended == "SIGABRT"
        and made.summary.startswith("0 of 1 steps complete; of each set 50 items (vlm), 140 items (stt)")
    )
    assert kit.parse(json.dumps({**json.loads(made.encode()), "evil": {"x": 1}}).encode()) == made, "unknown fields are dropped"


def changed(**fields):
    return {**json.loads(record([]).encode()), **fields}


STEP = json.loads(record([]).encode())["steps"][0]
BAD = {
    "no JSON": "{",
    "a list": [],
    "no format": changed(format=None),
    "a format that is no number": changed(format=True),
    "a format below one": changed(format=0),
    "no steps": changed(steps=[]),
    "a step that is a text": changed(steps=["x"]),
    "a status that is none": changed(steps=[{**STEP, "status": "<script>"}]),
    "a run that leads out": changed(steps=[{**STEP, "runs": ["../x"]}]),
    "a run that is hidden": changed(steps=[{**STEP, "runs": [".lock"]}]),
    "a text beyond belief": changed(steps=[{**STEP, "name": "x" * 10_000}]),
    "more lines than are kept": changed(steps=[{**STEP, "stderr": ["x"] * 1_000}]),
    "an exit code that is a text": changed(steps=[{**STEP, "exit_code": "1"}]),
    "an exit code beyond belief": changed(steps=[{**STEP, "exit_code": 10**40}]),
    "items that are a number": changed(items=50),
    "items that are a text": changed(items={"vlm": "50"}),
    "no items": changed(items={"vlm": 0}),
    "items of nothing": changed(items={}),
    "a machine that is a list": changed(machine=[]),
    "cores that are a text": changed(machine={"cores": "x"}),
    "a GPU that is a text": changed(machine={"gpus": ["x"]}),
    "libraries that are no texts": changed(libraries={"torch": 2}),
    "a runtime without a reason": changed(not_here=[{"name": "mlx"}]),
    "half a character": changed(workbench="\ud800"),
    "nesting": "[" * 100_000,
}


@pytest.mark.parametrize("found", BAD.values(), ids=BAD)
def test_a_record_of_another_shape_is_refused(found):
    content = found if isinstance(found, str) else json.dumps(found)
    with pytest.raises(BundleError, match="is no record of a kit"):
        kit.parse(content.encode())


def test_one_item_is_no_items():
    assert kit.items_text({"vlm": 1, "stt": 1}) == "of each set 1 item" and kit.items_text({"vlm": None}) == "of each set all items"
    assert kit.items_text({"vlm": 1, "stt": 140}) == "of each set 1 item (vlm), 140 items (stt)"


def test_a_newer_format_says_what_to_type():
    with pytest.raises(BundleError, match="newer workbench") as caught:
        kit.parse(json.dumps({"format": 2}).encode())
    assert "pip install --upgrade" in caught.value.fix


def test_bundles_of_a_kit_come_in_the_order_of_its_plan(folders, tmp_path):
    path = make_kit(tmp_path / "kit.zip", folders)
    runs = Run.open(path)
    assert [run.name for run in runs] == [folder.name for folder in folders] != sorted(folder.name for folder in folders)
    assert runs[0].kit == runs[1].kit == archive.read_kit(path) and Run(folders[0]).kit is None
    assert Run(path / folders[1].name).kit == runs[0].kit
    first = path.read_bytes()
    path.unlink()
    assert make_kit(path, folders).read_bytes() == first, "the same kit gives the same bytes"
    # A browser may unpack what it fetches: the folder is read as the zip is.
    with zipfile.ZipFile(path) as found:
        found.extractall(tmp_path / "folder")
    unpacked = Run.open(tmp_path / "folder")
    assert [run.name for run in unpacked] == [run.name for run in runs] and unpacked[0].kit == runs[0].kit


def test_files_beside_bundles_are_a_kits_alone(folders, tmp_path):
    plain = tmp_path / "plain.zip"
    archive.pack([Run(folders[0])], plain)
    assert archive.read_kit(plain) is None and open_record(plain) is None
    with zipfile.ZipFile(plain, "a") as more:
        more.writestr("README.txt", "hello")
    with pytest.raises(BundleError, match=r"refused: 'README\.txt'"):
        Run.open(plain)
    path = make_kit(tmp_path / "kit.zip", folders)
    for name, why in (
        ("install.sh", "no name of a run|no bundle holds"),
        ("KIT.JSON", "no bundle holds"),
        ("../kit.json", "out of the folder"),
    ):
        evil = tmp_path / "evil.zip"
        evil.write_bytes(path.read_bytes())
        with zipfile.ZipFile(evil, "a") as more:
            more.writestr(name, "x")
        with pytest.raises(BundleError, match=why):
            Run.open(evil)


def test_hostile_files_beside_bundles_are_refused(tmp_path, folders):
    good = record([Run(folders[0])]).encode()
    link = zipfile.ZipInfo("kit.json")
    link.external_attr, link.create_system = (stat.S_IFLNK | 0o777) << 16, 3
    cases = {
        "a link or a device": [(link, "/etc/passwd")],
        "unpacks to too much": [("kit.json", good + b" " * (kit.MAX_RECORD_BYTES + 1))],
        "unpacks to too much ": [("kit.json", good), ("README.txt", b"x" * (kit.MAX_README_BYTES + 1))],
        "cannot be read as a zip of runs": [("kit.json", good), ("README.txt", b"\xff\xfe\xff")],
        "is no record of a kit": [("kit.json", "null")],
    }
    for why, entries in cases.items():
        with zipfile.ZipFile(tmp_path / "evil.zip", "w") as out:
            for name, content in entries:
                out.writestr(name, content)
            out.write(folders[0] / "manifest.json", f"{folders[0].name}/manifest.json")
        with pytest.raises(BundleError, match=why.strip()):
            archive.unpack(tmp_path / "evil.zip", tmp_path / "out")
    assert not (tmp_path / "out").exists()
    (tmp_path / "huge").mkdir()
    (tmp_path / "huge" / "kit.json").write_bytes(good + b" " * kit.MAX_RECORD_BYTES)
    with pytest.raises(BundleError, match="is larger than"):
        archive.read_kit(tmp_path / "huge")


def test_a_kit_whose_every_step_failed_is_still_evidence(tmp_path):
    path = make_kit(tmp_path / "kit.zip", [])
    with pytest.raises(BundleError, match="holds no run bundle") as caught:
        Run.open(path)
    assert caught.value.why == "none of its 1 steps made one" and "workbench verify" in caught.value.fix
    found, names = open_record(path)
    assert names == [] and any("SIGABRT" in each.detail for each in check_record(found, names))


def test_what_the_record_names_must_be_there_and_nothing_else(folders, tmp_path):
    path = make_kit(tmp_path / "kit.zip", folders)
    findings = check_record(*open_record(path))
    assert [each.level for each in findings] == ["ok", "ok", "note", "note"]
    assert findings[2].detail == step_text(ABORT) and "aborted (SIGABRT): E5RT" in findings[2].detail
    names = [folder.name for folder in folders]
    short = check_record(archive.read_kit(path), names[:1])
    more = check_record(archive.read_kit(path), [*names, "other"])
    assert [each.detail for each in short if each.level == "failed"] == [f"1 of 2 are missing: {names[1]}"]
    assert [each.detail for each in more if each.level == "failed"] == ["of no step of the kit: other"]


def test_a_bundle_of_another_machine_is_noted(folders, tmp_path):
    path = make_kit(tmp_path / "kit.zip", folders)
    assert [check_machine(run) for run in Run.open(path)] == [[], []]
    other = edited(path, tmp_path / "other.zip", lambda found: {**found, "machine": {**found["machine"], "hardware_key": "f" * 16}})
    (noted,) = check_machine(Run.open(other)[0])
    assert noted.level == "note" and "its kit on ffffffffffffffff" in noted.detail
