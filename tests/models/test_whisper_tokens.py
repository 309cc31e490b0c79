"""Whisper's tokens against mlx-whisper's tokenizer and the lists of published checkpoints."""

import json

import pytest

from tests.models.tiny_whisper import END, VOCABULARY, demo_folder, small_tokens
from workbench.errors import ItemError, ModelError
from workbench.models.whisper_tokens import WhisperTokens

TEXTS = (
    " Set a timer for ten minutes, please.",
    ' "Wait" - he said (twice)... 3.5% of it\'s gone!',
    " naïve café, señor — 漢字かな交じり 🎉 done",
    " お元気ですか。はい",
    "",
)


@pytest.fixture(scope="module")
def tokens():
    pytest.importorskip("tokenizers", reason="needs tokenizers (pip install 'parity-workbench[torch]')")
    return WhisperTokens.from_folder(demo_folder(), VOCABULARY)


@pytest.fixture(scope="module")
def theirs():
    tokenizer = pytest.importorskip("mlx_whisper.tokenizer", reason="needs mlx-whisper (pip install 'parity-workbench[mlx]')")
    return tokenizer.get_tokenizer(True, num_languages=99, language="en", task="transcribe")


def test_suppressed_by_default_is_what_published_checkpoints_suppress(tokens, theirs):
    published = json.loads((demo_folder() / "generation_config.json").read_text())["suppress_tokens"]
    assert sorted({*tokens.non_speech, *tokens.never_written}) == published
    assert tokens.non_speech == theirs.non_speech_tokens


@pytest.mark.parametrize("task", ["transcribe", "translate"])
@pytest.mark.parametrize("language", ["en", "de", "ja", "yi"])
def test_prompts_are_those_of_mlx_whisper(tokens, language, task):
    tokenizer = pytest.importorskip("mlx_whisper.tokenizer").get_tokenizer(True, num_languages=99, language=language, task=task)
    assert tokens.start(language, task, timestamps=True) == tokenizer.sot_sequence
    assert tokens.start(language, task, timestamps=False) == tokenizer.sot_sequence_including_notimestamps


def test_a_folder_without_a_tokenizer_has_the_standard_token_set(tokens, theirs):
    standard = WhisperTokens.standard(VOCABULARY)
    assert standard.languages == tokens.languages
    assert standard.never_written == tokens.never_written and standard.non_speech == tokens.non_speech
    for text in TEXTS:
        assert standard.encode(text) == tokens.encode(text) == theirs.encode(" " + text.strip())
        assert tokens.decode(tokens.encode(text)) == " " + text.strip()
    english = WhisperTokens.standard(51864)
    assert english.languages == {} and english.start("en", "transcribe", timestamps=False) == (50257, 50362)
    assert len(WhisperTokens.standard(51866).languages) == 100


@pytest.mark.parametrize("language", ["en", "ja"])
@pytest.mark.parametrize("text", TEXTS)
def test_words_are_those_of_mlx_whisper(tokens, text, language):
    tokenizer = pytest.importorskip("mlx_whisper.tokenizer").get_tokenizer(
        True, num_languages=99, language=language, task="transcribe"
    )
    pieces = tokens.pieces(text)
    words, parts = tokenizer.split_to_word_tokens(pieces)
    assert tokens.words(pieces, language) == list(zip(words, parts, strict=True))


def test_a_character_that_was_cut_off_stays_one_word(tokens):
    pieces = tokens.pieces(" 🎉")[:-1]
    assert [part for _, parts in tokens.words(pieces, "en") for part in parts] == pieces


def test_special_tokens_are_not_text(tokens):
    assert tokens.decode([50258, 50259, 50359, 50364, *tokens.encode("ten"), 50464, END]) == " ten"


def test_an_unknown_language_is_named():
    with pytest.raises(ItemError, match="no language 'xx'"):
        small_tokens().start("xx", "transcribe", timestamps=False)


def test_english_only_cannot_translate():
    with pytest.raises(ItemError, match="English-only"):
        WhisperTokens.standard(51864).start("de", "translate", timestamps=False)


def test_other_tokenizers_are_refused(tmp_path):
    with pytest.raises(ModelError, match=r"no tokenizer\.json"):
        WhisperTokens.from_folder(tmp_path, VOCABULARY)
    with pytest.raises(ModelError, match="startoftranscript"):
        WhisperTokens.of({"<|endoftext|>": 0}, 10, list, str, "none")
