"""The bundled clips: what the listing says is what the files hold."""

import json

import pytest

pytest.importorskip("torch")
soundfile = pytest.importorskip("soundfile")

from workbench import locate  # noqa: E402
from workbench.demo.recogniser import features, samples, voices  # noqa: E402
from workbench.errors import RuntimeMissing  # noqa: E402


@pytest.fixture(scope="module")
def listing():
    return locate.find("datasets/samples/asr/items.jsonl")


@pytest.fixture(scope="module")
def rows(listing):
    return [json.loads(line) for line in listing.read_text(encoding="utf-8").splitlines()]


def test_texts_and_speakers_are_the_scripts(rows):
    made = samples.held_out()
    for row in rows:
        place = int(row["id"].split("-")[1]) - 1
        assert row["text"] == made[place].written
        assert (row["speaker"], row["heard"]) == (samples.speaker_of(place).name, place < samples.HEARD_COUNT)
    assert len({row["id"] for row in rows}) == len(rows) == len(made) >= 400
    assert len({row["speaker"] for row in rows if row["heard"]}) == len(voices.HEARD) >= 12
    assert {row["speaker"] for row in rows if not row["heard"]} == {voices.UNHEARD.name}


def test_files_are_flac_of_the_listed_length(listing, rows):
    for row in rows:
        found = soundfile.info(listing.parent / row["audio"])
        assert (found.format, found.samplerate, found.channels) == ("FLAC", features.RATE, 1)
        assert row["duration"] == pytest.approx(found.frames / found.samplerate, abs=1e-4)
    assert sum(file.stat().st_size for file in listing.parent.rglob("*") if file.is_file()) < 12_000_000


def test_clips_without_speech_are_the_scripts(listing):
    listed = [json.loads(line) for line in (listing.parent / "nonspeech.jsonl").read_text().splitlines()]
    made = samples.quiet_clips()
    assert [row["id"] for row in listed] == [f"quiet-{kind}" for kind in made]
    for row, wave in zip(listed, made.values(), strict=True):
        stored, _ = soundfile.read(listing.parent / row["audio"], dtype="float32")
        assert abs(stored - wave).max() <= samples.STEP


def test_a_clip_made_again_is_the_stored_clip(listing, rows):
    try:
        voices.require()
    except RuntimeMissing as error:
        pytest.skip(str(error))
    row = rows[0]
    place = int(row["id"].split("-")[1]) - 1
    made = samples.dress(voices.speak(samples.speaker_of(place), samples.held_out()[place].spoken), place)
    stored, _ = soundfile.read(listing.parent / row["audio"], dtype="float32")
    assert len(made) == len(stored)
    assert abs(made - stored).mean() < 2 * samples.STEP
