"""The token set is Whisper's: the same ids and bytes as mlx-whisper's own tokenizer, a different implementation."""

import random

import pytest

from workbench.demo.recogniser import tokens

pytest.importorskip("mlx_whisper")


@pytest.fixture(scope="module")
def bundled():
    from transformers import WhisperTokenizerFast

    from workbench import locate

    return WhisperTokenizerFast.from_pretrained(locate.demo_model("stt"))


def test_every_token_has_the_bytes_of_the_reference(bundled):
    encoding = tokens.reference().encoding
    wrong = []
    for token in range(tokens.VOCABULARY):
        wanted = encoding.decode_single_token_bytes(token).decode("utf-8", "replace")
        if bundled.decode([token], decode_with_timestamps=token >= tokens.TIME_ID) != wanted:
            wrong.append(token)
    assert wrong == []
    assert len(bundled) == encoding.n_vocab == tokens.VOCABULARY


def test_text_is_encoded_and_decoded_as_the_reference_does(bundled):
    generator, encoding = random.Random(1), tokens.reference().encoding
    ranges = ((32, 127), (32, 127), (0xA0, 0x300), (0x400, 0x500), (0x4E00, 0x4F00), (0x1F600, 0x1F640))
    for _ in range(400):
        text = "".join(chr(generator.randrange(*generator.choice(ranges))) for _ in range(generator.randrange(1, 40)))
        wanted = encoding.encode(text, disallowed_special=())
        assert bundled(text, add_special_tokens=False).input_ids == wanted
        assert bundled.decode(wanted, clean_up_tokenization_spaces=False) == text


def test_named_ids_are_the_references():
    whisper = tokens.reference()
    assert whisper.sot_sequence_including_notimestamps == tokens.PROMPT
    assert (whisper.eot, whisper.no_speech, whisper.timestamp_begin) == (tokens.END_ID, tokens.NO_SPEECH_ID, tokens.TIME_ID)
    assert whisper.sot_prev == tokens.PREVIOUS_ID


def test_suppressed_tokens_hold_the_references_and_no_token_of_a_sentence():
    from workbench.demo.recogniser import sentences

    hidden = set(tokens.suppressed())
    assert set(tokens.reference().non_speech_tokens) < hidden
    for sentence in sentences.distinct("suppressed", 300):
        assert not hidden.intersection(tokens.encode(" " + sentence.written)), sentence.written
