"""The normalisers against openai/whisper's published cases, transformers' on adversarial texts, and the leaderboard's own outputs."""

import json
import random
import re
import time
from pathlib import Path

import pytest

from tests.metrics.spoken import transcripts
from workbench.errors import UsageError
from workbench.metrics import normalise
from workbench.metrics.normalise import PROFILES, normalise_many, numbers, profile_named, tables
from workbench.metrics.normalise.basic import basic
from workbench.metrics.normalise.english import leaderboard_english, whisper_english
from workbench.metrics.normalise.symbols import without_brackets

TEXTS = 2500


@pytest.fixture(scope="module")
def theirs():
    return pytest.importorskip("transformers.models.whisper.english_normalizer", reason="needs transformers as a witness")


def test_whispers_own_cases(shared_data):
    cases = json.loads((shared_data / "speech" / "whisper_normalizer_cases.json").read_text())
    assert len(cases) == 60
    wrong = [case for case in cases if profile_named("whisper").normalise(case["input"]) != case["expected"]]
    assert wrong == []


def test_english_equals_transformers_on_adversarial_texts(theirs):
    reference, ours = theirs.EnglishTextNormalizer(tables.spelling("whisper")), whisper_english()
    assert [text for text in transcripts(1, TEXTS) if reference(text) != ours(text)] == []


@pytest.mark.parametrize("remove_diacritics", [False, True])
@pytest.mark.parametrize("split_letters", [False, True])
def test_basic_equals_transformers_on_adversarial_texts(theirs, remove_diacritics, split_letters):
    reference = theirs.BasicTextNormalizer(remove_diacritics, split_letters)
    texts = transcripts(2, TEXTS // 2)
    assert [text for text in texts if reference(text) != basic(text, remove_diacritics, split_letters)] == []


def test_every_spelling_and_number_word_equals_transformers(theirs):
    reference, ours = theirs.EnglishTextNormalizer(tables.spelling("whisper")), whisper_english()
    words = [*tables.spelling("whisper"), *numbers.WORDS]
    pairs = [f"{first} {second}" for first in sorted(numbers.WORDS)[::3] for second in sorted(numbers.WORDS)[::2]]
    assert [text for text in [*words, *pairs] if reference(text) != ours(text)] == []


def test_the_leaderboards_own_outputs():
    found = json.loads((Path(__file__).parent / "oal_cases.json").read_text())
    assert len(found["cases"]) == 260
    ours = leaderboard_english()
    assert [(text, ours(text), expected) for text, expected in found["cases"] if ours(text) != expected] == []


@pytest.mark.parametrize(
    ("text", "whisper", "leaderboard"),
    [
        ("archaeology", "archeology</span>", "archeology"),
        ("10mm", "10 mm", "10 hmm"),
        ("company's Q3", "company is q 3", "company sq3"),
        ("the b b c", "the b b c", "the bbc"),
        ("Phillip's e-mail", "phillip is e mail", "philip s email"),
        ("ah, that's all right", "ah that is all right", "that is alright"),
        ("cancelation", "cancellation", "cancelation"),
    ],
)
def test_known_quirks_are_kept(text, whisper, leaderboard):
    assert profile_named("whisper").normalise(text) == whisper
    assert profile_named("oal-2026-08").normalise(text) == leaderboard


def test_none_only_lowers_and_splits():
    assert PROFILES["none"].normalise(" Mr. Smith's\tTV,  100 % ") == "mr. smith's tv, 100 %"


def test_texts_on_which_the_original_gives_up(theirs):
    digits = "9" * 5000
    with pytest.raises(ValueError):
        theirs.EnglishTextNormalizer({})(digits)
    assert whisper_english()(f"{digits} million") == f"{digits} 1000000"
    assert len(whisper_english()("zero " * 6000 + "million")) > 6000


def test_the_language_chooses_the_normaliser():
    whisper = profile_named("whisper")
    ids = {language: whisper.normaliser(language).id for language in ("en", None, "English", "en_US", "de", "zh-CN")}
    assert ids == {
        "en": "whisper-english", None: "whisper-english", "English": "whisper-english", "en_US": "whisper-english",
        "de": "whisper-basic", "zh-CN": "whisper-basic-letters",
    }  # fmt: skip
    assert whisper.normalise("今日は。", "ja") == "今 日 は"
    assert whisper.normalise('fünf, nicht "5"', "de") == "fünf nicht 5"
    with pytest.raises(UsageError, match="English"):
        profile_named("oal-2026-08").normalise("fünf", "de")


def test_an_unknown_profile_names_those_there_are():
    with pytest.raises(UsageError) as caught:
        profile_named("wisper")
    assert all(name in caught.value.why for name in PROFILES)


def test_dropped_references():
    leaderboard = profile_named("oal-2026-08")
    assert [leaderboard.drops(leaderboard.normalise(text)) for text in ("", "uh, hmm", "Ignore time segment in scoring.", "yes")] == [
        True, True, True, False,
    ]  # fmt: skip
    assert not profile_named("whisper").drops("")


def test_processes_give_the_same_and_results_are_remembered(monkeypatch):
    texts = [f"{text} {k % 7}" for k, text in enumerate(transcripts(3, 60))]
    whisper = profile_named("whisper")
    monkeypatch.setattr(normalise, "KNOWN", {})
    apart = normalise_many(texts, whisper, processes=2)
    assert apart == normalise_many(texts, whisper, processes=1)
    monkeypatch.setattr(normalise, "KNOWN", {})
    monkeypatch.setattr(normalise, "CACHED", 3)
    assert [whisper.normalise(text) for text in texts] == apart
    assert len(normalise.KNOWN) == 3


def test_tables_name_source_and_licence():
    files = sorted(tables.FOLDER.glob("*.json"))
    assert [path.stem for path in files] == ["oal_names", "oal_spelling", "whisper_spelling"]
    assert all({"source", "licence", "table"} <= set(json.loads(path.read_text())) for path in files)
    assert (len(tables.spelling("whisper")), len(tables.spelling("oal")), len(tables.names())) == (1739, 1743, 152)


@pytest.mark.parametrize(
    "text", ["(" * 100_000, "<[" * 50_000, "a) " + "(b" * 50_000], ids=["round", "angled", "after a closed one"]
)
def test_brackets_that_never_close_take_no_time(text):
    began = time.perf_counter()
    without_brackets(text)
    assert time.perf_counter() - began < 5  # some 100 ms; looking for each one's end took minutes


def test_brackets_are_taken_out_as_the_two_patterns_do():
    letters = random.Random(1)
    for _ in range(3000):
        text = "".join(letters.choice("<[](>) ab\n") for _ in range(letters.randrange(14)))
        assert without_brackets(text) == re.sub(r"\(([^)]+?)\)", "", re.sub(r"[<\[][^>\]]*[>\]]", "", text))
