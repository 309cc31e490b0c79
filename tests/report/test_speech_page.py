"""The page, the Markdown twin and the sheets of recognisers: no bare word error rate, coloured words, players, foreign text inert."""

import csv
import hashlib
import json

import pytest

from tests.report.bundles import compared, make_line, make_run
from tests.report.speech_bundles import SENTENCES, make_speech_run, some_lines, spoken, tone
from tests.report.test_page import HOSTILE, read
from workbench.metrics import wer
from workbench.report import page, write
from workbench.report.items import Speech, Texts, item_view
from workbench.report.media import Thumbnails
from workbench.report.scores import group_rows
from workbench.report.words import Alignments, marked
from workbench.run.bundle import Run
from workbench.run.redact import redact
from workbench.types import Score


def sheet(path):
    with open(path, encoding="utf-8-sig", newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """Five flips, each with a recording; a hostile transcript, speaker and id among them."""
    where = tmp_path_factory.mktemp("speech")
    sounds = [tone(number) for number in range(40)]
    names = [hashlib.sha256(data).hexdigest() for data in sounds]
    before, after = some_lines(40, (3,)), some_lines(40, (3, 7, 8, 11))
    for lines in (before, after):
        lines[20] = spoken(HOSTILE, SENTENCES[0], SENTENCES[0], speaker=HOSTILE, voice=HOSTILE)
        for line, name in zip(lines, names, strict=True):
            line["input"]["media"] = [name]
    after[20] = spoken(
        HOSTILE, SENTENCES[0], f"turn the {HOSTILE} light", text=HOSTILE, speaker=HOSTILE, voice=HOSTILE, media=[names[20]]
    )
    after[30] = spoken("30", SENTENCES[0], None, speaker="speaker 2", voice="heard", media=[names[30]])
    files = {f"{name}.flac": data for name, data in zip(names, sounds, strict=True)}  # a name that lies: these are WAV
    runs = [make_speech_run(where, f"demo:stt@{name}", lines, media=files) for name, lines in (("torch", before), ("mlx", after))]
    sides, comparisons = compared(*runs)
    source, found = read(sides, comparisons, where)
    return sides, comparisons, source, found, where / "out"


def test_a_word_error_rate_never_stands_alone(two):
    sides, comparisons, _, found, folder = two
    for row in (side.runs["asr-made"][0].results for side in sides):
        for told in (
            f"{100 * row['wer']:.2f} %",
            f"{row['words']:,}",
            f"{row['errors']:,}",
            "whisper, normaliser whisper-english 1",
        ):
            assert told in found.text
        low, high = (100 * row["interval"][name] for name in ("low", "high"))
        assert f"{low:.2f} to {high:.2f} % (speakers)" in found.text
        low, high = (100 * row["intervals"]["utterance"][name] for name in ("low", "high"))
        assert f"{low:.2f} to {high:.2f} % (utterances)" in found.text
    assert comparisons[0].verdict.sentence.partition(": ")[2] in found.text
    for word in (
        "CER",
        "MER",
        "WIL",
        "S / D / I",
        "sentence errors",
        "RTF (processing / audio)",
        "candidate worse →",
        "Same log-mel",
    ):
        assert word in found.text
    twin = (folder / "report.md").read_text()
    assert "| WER | 95 % interval | profile | words | errors |" in twin and "whisper-english 1" in twin and "RTFx" in twin


def test_sheets_hold_words_and_errors(two):
    *_, folder = two
    first, second = sheet(folder / "scores.csv")
    assert (
        first["unit"] == "% WER" and first["profile"] == "whisper, normaliser whisper-english 1" and first["resampled"] == "speaker"
    )
    assert int(second["errors"]) == sum(int(second[name]) for name in ("substitutions", "deletions", "insertions"))
    items = sheet(folder / "items.csv")
    assert sum(int(row["candidate_substitutions"]) for row in items) == int(second["substitutions"])
    assert sum(int(row["reference_words"]) for row in items) == int(first["words"]) and items[0]["audio_seconds"] == "2.0"
    strata = sheet(folder / "strata.csv")
    assert strata[0]["candidate_errors"] == second["errors"]
    assert {row["profile"] for row in strata} == {"profile whisper, normaliser whisper-english 1"}
    assert float(sheet(folder / "timings.csv")[0]["rtfx"]) == pytest.approx(50)


def test_flips_come_first_with_their_words_and_sounds(two):
    _, comparisons, source, found, _ = two
    rows = found.rows()
    flips = len(comparisons[0].flips)
    assert flips == 5 and found.index()["change"][:flips] == [0] * flips
    for row in rows[:flips]:
        assert row[3] and set(row[3][0]) == {"sound"}
    by_id = dict(zip(found.index()["id"], rows, strict=True))
    reference, candidate = by_id["7"][4:]
    assert reference[5] == [[7, 0, 0, 0], ["the train leaves at half past 4"]]
    assert candidate[5] == [[7, 1, 0, 0], ["the", ["s", "train", "cat"], "leaves at half past 4"]]
    assert by_id["9"][5][5] == 1, "the same words as the reference's"
    assert by_id["30"][5][5] == [[5, 0, 5, 0], None] and by_id["30"][5][0] is None
    assert [name for name in found.blocks if name and name.startswith("sound-")] and "media-src data:; " in source
    assert all(
        block.startswith("data:audio/wav;base64,") for name, block in found.blocks.items() if name and name.startswith("sound-")
    )


def test_foreign_text_is_inert(two):
    _, _, source, found, folder = two
    assert "window.hacked=1</script><img" not in source and not [tag for tag, _ in found.elements if tag == "img"]
    assert "⟨U+202E⟩" in found.text and "\u202e" not in (folder / "report.md").read_text()
    assert "<script>" not in (folder / "report.md").read_text() and "<img" not in (folder / "report.md").read_text()


def test_no_media_leaves_sounds_out(two, tmp_path):
    sides, comparisons, *_ = two
    source, found = read(sides, comparisons, tmp_path, media="none")
    assert "media-src" not in source and not [name for name in found.blocks if name and name.startswith("sound-")]
    assert found.rows()[0][3][0][0] == "audio was left out of this report"


def test_the_same_bundles_give_the_same_bytes(two, tmp_path):
    sides, comparisons, *_, folder = two
    again = write(sides, comparisons, tmp_path / "again").parent
    assert {each.name: each.read_bytes() for each in folder.iterdir()} == {each.name: each.read_bytes() for each in again.iterdir()}


def test_one_page_of_two_families(tmp_path):
    seeing = [make_run(tmp_path, f"demo:vlm@{name}", [make_line(str(each)) for each in range(150)]) for name in ("torch", "mlx")]
    hearing = [make_speech_run(tmp_path, f"demo:stt@{name}", some_lines(20)) for name in ("torch", "mlx")]
    _, found = read(*compared(*seeing, *hearing), tmp_path)
    assert "demo:vlm@mlx against demo:vlm@torch · demo:stt@mlx against demo:stt@torch" in found.text
    for told in ("Reference: demo:vlm@torch.", "Reference: demo:stt@torch.", "difference of WER, points", "drawn at random"):
        assert told in found.text
    assert "INCOMPARABLE" not in found.text.partition("How to read this page")[0]
    config = json.loads(found.blocks["config"])
    assert [view.get("speech") for view in config["views"]] == [None, True]
    rows = sheet(tmp_path / "out" / "items.csv")
    assert [row["reference_words"] for row in rows if row["task"] == "colours"] == [""] * 150


def test_a_side_without_another_of_its_family_is_shown_and_named(tmp_path):
    seeing = [make_run(tmp_path, f"demo:vlm@{name}", [make_line(str(each)) for each in range(20)]) for name in ("torch", "mlx")]
    _, found = read(*compared(*seeing, make_speech_run(tmp_path, "demo:stt@torch", some_lines(20))), tmp_path)
    assert "Compared with nothing, since no other run here is of its family: demo:stt@torch" in found.text
    assert len(found.rows(1)) == 20 and len(sheet(tmp_path / "out" / "items.csv")) == 40
    assert "Compared with nothing" in (tmp_path / "out" / "report.md").read_text()


def test_a_run_alone_has_its_rates(tmp_path):
    sides, comparisons = compared(make_speech_run(tmp_path, "demo:stt@torch", some_lines(20, (3,))))
    _, found = read(sides, comparisons, tmp_path)
    assert "Word error rates (lower is better)" in found.text and "(speakers)" in found.text
    assert found.index()["change"][0] == page.CHANGES.index("wrong")


def test_a_group_of_a_run_has_words_errors_interval_and_profile(tmp_path):
    folder = make_speech_run(tmp_path, "demo:stt@torch", some_lines(20, (3,)))
    results = json.loads((folder / "results.json").read_bytes())
    lines = [line for line in Run(folder).items().values() if ["voice", "heard"] in line["groups"]]
    made = wer.WER.around([Score(None, None, "parsed", line["score"]["counts"]) for line in lines])
    results["groups"] = {"voice": {"heard": {"n": len(lines), "correct": None, "value": 2.0, **made}}}
    (folder / "results.json").write_text(json.dumps(results))
    [row] = group_rows(compared(folder)[0][0])
    assert row.told.startswith(f"{made['errors']} errors in {made['words']} words, ") and "% at 95 %, whisper" in row.told
    assert (row.low, row.high) == (100 * made["interval"]["low"], 100 * made["interval"]["high"])
    frame = Run(folder).to_frame()
    assert frame["words"].sum() == results["words"] and frame["deletions"].sum() == results["deletions"]


def test_half_a_character_in_a_transcript_is_shown(tmp_path):
    lines = some_lines(5)
    lines[2] = spoken("2", SENTENCES[2], "the \ud800 train", speaker="\ud800", text="The \ud800 train")
    _, found = read(*compared(make_speech_run(tmp_path, "demo:a", lines)), tmp_path)
    assert "U+D800" in json.dumps(found.text, ensure_ascii=False) + str(found.index()) + str(found.rows())


def test_shards_are_pooled_by_counts(tmp_path):
    runs = []
    for number, lines in enumerate((some_lines(20, (3,)), some_lines(40)[20:])):
        folder = make_speech_run(tmp_path / str(number), "demo:stt@torch", lines)
        manifest = json.loads((folder / "manifest.json").read_text())
        manifest["asked"]["shard"] = f"{number}/2"
        (folder / "manifest.json").write_text(json.dumps(manifest | {"run_key": f"{number}" * 64}))
        runs.append(folder)
    sides, comparisons = compared(*runs)
    _, found = read(sides, comparisons, tmp_path)
    assert len(sides) == 1 and "pooled over 2 shards" in found.text and "whisper-english 1" in found.text


def test_redacted_transcripts_are_not_aligned(two, tmp_path):
    runs = [redact(side.runs["asr-made"][0], tmp_path / side.label[-3:], b"key") for side in two[0]]
    source, found = read(*compared(*(Run(run.folder).folder for run in runs)), tmp_path)
    assert all(side[5] == 1 or side[5] is None or side[5][1] in (None, []) for row in found.rows() for side in row[4:])
    assert "kitchen" not in found.text and "media-src" not in source
    assert not [name for name in found.blocks if name and name.startswith("sound-")]


def test_what_does_not_give_the_counts_of_the_line_is_not_coloured(tmp_path):
    lines = some_lines(10, (3,))
    lines[3]["score"]["counts"] |= {"substitutions": 0, "insertions": 1}
    sides, _ = compared(make_speech_run(tmp_path, "demo:a", lines))
    found = Alignments(sides)
    assert found.of("demo:a", "asr-made", lines[3], 4_000) == [[6, 0, 0, 1], None] and found.not_aligned == {("asr-made", "3")}
    other, _ = compared(make_speech_run(tmp_path / "other", "demo:a", some_lines(10, (3,)), version="99"))
    assert Alignments(other).of("demo:a", "asr-made", some_lines(10, (3,))[3], 4_000)[1] is None


def test_compounds_are_aligned_as_they_were_counted(tmp_path):
    line = spoken("1", "the white paper is here", "the whitepaper was here", profile="oal-2026-08")
    sides, _ = compared(make_speech_run(tmp_path, "demo:a", [line, line | {"id": "2"}], profile="oal-2026-08"))
    found = Alignments(sides).of("demo:a", "asr-made", line, 4_000)
    assert found == [[5, 1, 0, 0], ["the", ["c", "white paper", "whitepaper"], ["s", "is", "was"], "here"]]
    assert marked(found[1]) == "the [white paper=whitepaper] [is→was] here"


def test_a_page_aligns_a_bounded_number(tmp_path):
    sides, _ = compared(make_speech_run(tmp_path, "demo:a", some_lines(40, range(40))))
    speech = Speech.of(sides)
    speech.alignments.most = 12
    view = item_view(sides[0], Texts(), Thumbnails([]), speech)
    assert view.speech and len(speech.alignments.aligned) == 12 and len(speech.alignments.not_aligned) == 28


def test_pages_without_speech_carry_nothing_of_it(tmp_path):
    source, _ = read(*compared(make_run(tmp_path, "demo:a", [make_line("1")])), tmp_path)
    assert "const SPEECH" not in source and ".aligned" not in source and "word error" not in source.lower()
