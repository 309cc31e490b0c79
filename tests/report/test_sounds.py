"""Sounds of a page: by content, within the budget, those of flips first; whatever is wrong is said and ends nothing."""

import base64
import hashlib

import pytest

from tests.report.bundles import compared, make_line, make_run, picture
from tests.report.speech_bundles import make_speech_run, some_lines, tone
from workbench.report import sounds
from workbench.report.embedding import Missing
from workbench.run.bundle import Run
from workbench.run.redact import redact

HTML = b"<!doctype html><script>alert(1)</script>"


def sha(data):
    return hashlib.sha256(data).hexdigest()


def of_files(tmp_path, files, **more):
    return sounds.Sounds([Run(make_run(tmp_path, "demo:a", [make_line("1")], media=files))], **more)


@pytest.mark.parametrize(
    ("data", "kind"),
    [(tone(1), "wav"), (b"fLaC" + bytes(40), "flac"), (b"OggS" + bytes(40), "ogg"), (b"ID3\x04" + bytes(40), "mpeg")],
)
def test_the_kind_is_what_the_bytes_are_and_not_the_name(tmp_path, data, kind):
    found = of_files(tmp_path, {f"{sha(data)}.bin": data})
    assert found.find("asr-made", "1", sha(data)) == 0 == found.find("asr-made", "2", sha(data)) and len(found.kept) == 1
    head, _, body = found.kept[0].url.partition(",")
    assert head == f"data:audio/{kind};base64" and base64.b64decode(body) == data


@pytest.mark.parametrize("data", [HTML, picture(1), b"", b"RIFF\x00\x00\x00\x00AVI "])
def test_what_is_no_sound_is_not_embedded(tmp_path, data):
    found = of_files(tmp_path, {f"{sha(data)}.wav": data})
    said = found.find("asr-made", "1", sha(data))
    assert isinstance(said, Missing) and "no audio format" in said.reason and not found.kept


def test_a_changed_file_an_unknown_hash_and_an_absent_one_are_said(tmp_path):
    found = of_files(tmp_path, {f"{'0' * 64}.wav": tone(1)})
    assert "does not match its hash" in found.find("asr-made", "1", "0" * 64).reason
    assert "no valid hash for this audio" in found.find("asr-made", "1", "../../etc/passwd").reason
    assert "audio not in the bundle" in found.find("asr-made", "1", "b" * 64).reason


def test_the_budget_holds_and_a_long_sound_stays_in_the_bundle(tmp_path, monkeypatch):
    files = {f"{sha(data)}.wav": data for data in (tone(number) for number in range(6))}
    found = of_files(tmp_path, files, budget=6_000)
    for name in files:
        found.find("asr-made", "1", name.removesuffix(".wav"))
    assert found.bytes <= 6_000 and 0 < len(found.kept) < 6 and found.left_out == 6 - len(found.kept)
    monkeypatch.setattr(sounds, "LARGEST_BYTES", 100)
    assert "larger than" in of_files(tmp_path / "long", files).find("asr-made", "1", next(iter(files)).removesuffix(".wav")).reason


def test_flips_of_every_candidate_come_before_anything_else(tmp_path):
    data = [tone(number) for number in range(20)]
    files = {f"{sha(each)}.wav": each for each in data}
    runs = []
    for name, wrong in (("a", ()), ("b", (3,)), ("c", (17,))):
        lines = some_lines(20, wrong)
        for line, each in zip(lines, data, strict=True):
            line["input"]["media"] = [sha(each)]
        runs.append(make_speech_run(tmp_path, f"demo:{name}", lines, media=files))
    sides, comparisons = compared(*runs)
    found = sounds.Sounds([run for side in sides for run in side.all_runs])
    found.reserve(comparisons)
    assert [each.sha256 for each in found.kept] == [sha(data[3]), sha(data[17])]


def test_what_was_redacted_is_not_brought_back(tmp_path):
    run = Run(make_run(tmp_path, "demo:a", [make_line("1")], media={f"{sha(tone(1))}.wav": tone(1)}))
    hidden = redact(run, tmp_path / "hidden", b"key")
    assert sounds.Sounds([hidden]).find("asr-sample", "1", sha(tone(1))).reason == "audio removed by redaction"


def test_sounds_come_from_the_tasks_own_data_where_they_are_here():
    from workbench.tasks.catalogue import load_task

    task = load_task("asr-sample")
    sample = task.load(1).samples[0]
    found = sounds.Sounds([])
    assert found.find("asr-sample", sample.id, task.ask(sample).inputs["audio"].sha256) == 0
    assert found.kept[0].url.startswith("data:audio/")
