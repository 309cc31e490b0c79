"""Whisper on torch against transformers' own ``generate``, alone and in batches; teacher forcing; errors of one item."""

from __future__ import annotations

import json
import shutil

import numpy
import pytest

from tests.models.tiny_whisper import END, FIRST_TIMESTAMP, wave
from workbench.errors import ItemError, ModelError, UsageError
from workbench.models.loading import open_speech_to_text
from workbench.models.speech_to_text import Decoding
from workbench.models.stt import decoding_of
from workbench.types import Generation, Media, ModelSpec, Request

torch = pytest.importorskip("torch", reason="needs torch (pip install 'parity-workbench[torch]')")
pytest.importorskip("soundfile", reason="needs soundfile (pip install 'parity-workbench[speech]')")

TOKENS = 20
SHORT = Generation(max_tokens=TOKENS)
PLAIN = Decoding(max_tokens=TOKENS, no_speech_threshold=None)
"""Random weights believe nothing, so what they write would count as silent where they also see silence."""


@pytest.fixture(scope="module")
def model(tiny_whisper):
    return open_speech_to_text(ModelSpec.parse(f"torch:{tiny_whisper}?no_speech_threshold=none&batch_size=3"))


@pytest.fixture(scope="module")
def sounds(tmp_path_factory):
    """Three of equal and one of another length, as FLAC files."""
    import soundfile

    folder, found = tmp_path_factory.mktemp("sounds"), []
    for seed, seconds in enumerate((3.0, 3.0, 3.0, 1.3)):
        path = folder / f"{seed}.flac"
        soundfile.write(path, wave(seconds, seed), 16_000)
        found.append(Media(path=path, kind="audio"))
    return found


def ask(media, **more):
    return Request({"audio": media, "language": "en", "task": "transcribe", **more}, "test@1")


def theirs(model, samples, **settings):
    """transformers' own tokens."""
    from workbench.data.media import log_mel

    settings = {"language": "en", "task": "transcribe", "num_beams": 1, "max_new_tokens": TOKENS, **settings}
    mel = torch.from_numpy(log_mel(samples, 80, 3000))[None]
    return model.model.generate(mel, **settings)[0].tolist()


def until_end(tokens):
    return tokens[: tokens.index(END)] if END in tokens else tokens


def until_pair(tokens):
    """What follows two times in a row is decoded again by ``generate``, from there on."""
    pairs = [place for place in range(1, len(tokens)) if min(tokens[place - 1 : place + 1]) >= FIRST_TIMESTAMP]
    return tokens[: pairs[0]] if pairs else tokens


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize(
    ("ours", "settings"),
    [
        ({}, {}),
        ({"timestamps": True}, {"return_timestamps": True}),
        ({"task": "translate", "language": "de"}, {"task": "translate", "language": "de"}),
        ({"beam_size": 4}, {"num_beams": 4, "length_penalty": 1.0, "early_stopping": True}),
    ],
    ids=["greedy", "timestamps", "translate", "beams"],
)
def test_the_same_tokens_as_generate(model, seed, ours, settings):
    samples = wave(3.0, seed)
    found = model.transcribe(samples, Decoding(max_tokens=TOKENS, no_speech_threshold=None, **ours))
    expected = until_end(theirs(model, samples, **settings))
    tokens = until_end(list(found.tokens))
    if ours.get("timestamps"):
        tokens, expected = until_pair(tokens), until_pair(expected)
        assert tokens[0] >= FIRST_TIMESTAMP
    assert tokens == expected and len(set(tokens)) > 5


def test_a_prompt_is_read_as_generate_reads_it(model):
    prompt = "names: Ada, Grace"
    found = model.transcribe(wave(), Decoding(max_tokens=TOKENS, no_speech_threshold=None, prompt=prompt))
    ids = torch.tensor([model.tokens.start_of_previous, *model.tokens.encode(prompt)])
    assert until_end(list(found.tokens)) == until_end(
        [token for token in theirs(model, wave(), prompt_ids=ids) if token not in ids]
    )
    assert found.tokens != model.transcribe(wave(), PLAIN).tokens


@pytest.mark.parametrize("seed", [0, 2])
def test_the_language_that_generate_detects(model, seed):
    from workbench.data.media import log_mel

    samples = wave(3.0, seed)
    mel = torch.from_numpy(log_mel(samples, 80, 3000))[None]
    expected = model.model.detect_language(mel).item()
    found = model.transcribe(samples, Decoding(language=None, max_tokens=2)).language
    assert model.tokens.languages[found] == expected


def test_the_library_s_own_loop_is_named_and_says_the_same(tiny_whisper, model):
    own = open_speech_to_text(ModelSpec.parse(f"torch:{tiny_whisper}?loop=own"))
    found = own.transcribe(wave(), PLAIN)
    assert found.loop == own.describe()["loop"] == "transformers.WhisperForConditionalGeneration.generate"
    assert until_end(list(found.tokens)) == until_end(list(model.transcribe(wave(), PLAIN).tokens))
    (output,) = own.answer([ask(Media(data=b"no sound", kind="audio"))], SHORT)
    assert output.error["reason"] == "audio"


def test_its_own_log_mel_changes_little(tiny_whisper, model, sounds):
    own = open_speech_to_text(ModelSpec.parse(f"torch:{tiny_whisper}?preprocessing=own"))
    ours, library = (each.prepare(ask(sounds[0])).arrays["input_features"] for each in (model, own))
    assert ours.shape == library.shape == (1, 80, 3000)
    assert 0 < numpy.abs(ours - library).max() < 1e-4
    assert own.describe()["preprocessing"] == "own"


def test_batches_give_what_each_item_gets_alone(tiny_whisper, model, sounds):
    alone = open_speech_to_text(ModelSpec.parse(f"torch:{tiny_whisper}?no_speech_threshold=none"))
    requests = [ask(each) for each in sounds] + [ask(sounds[0], language=None), ask(sounds[1], prompt="Ada")]
    together, singly = model.answer(requests, SHORT), alone.answer(requests, SHORT)
    assert [each.tokens for each in together] == [each.tokens for each in singly]
    assert [each.value for each in together] == [each.value for each in singly]
    assert [each.seen for each in together] == [each.seen for each in singly]
    assert [each.timing.batch for each in together] == [3, 3, 3, 2, 2, 1]
    for output in singly:
        assert 0 < output.timing.prepare < output.timing.first <= output.timing.total
        assert output.timing.n_out == len(output.tokens) and output.finish == ("stop" if END in output.tokens else "length")
    assert together[0].timing.first is None and together[0].timing.n_in == 4


def test_a_bad_item_spoils_its_own_answer_only(model, sounds):
    bad = [
        Media(data=b"", kind="audio"),
        Media(path="nowhere.wav", kind="audio"),
        Media(data=b"plain text, not sound at all", kind="audio"),
    ]
    requests = [ask(sounds[0]), *map(ask, bad), ask(sounds[0], language="xx"), Request({"text": "hm"}, "test@1"), ask(sounds[1])]
    found = model.answer(requests, SHORT)
    assert [each.finish == "error" for each in found] == [False, True, True, True, True, True, False]
    assert [each.error["reason"] for each in found[1:4]] == ["audio"] * 3
    assert "no language 'xx'" in found[4].error["what"] and "no audio" in found[5].error["what"]
    assert [found[0].tokens, found[6].tokens] == [each.tokens for each in model.answer([requests[0], requests[6]], SHORT)]


def test_the_seed_decides_what_is_drawn(model, sounds):
    def draw(seed):
        return model.answer([ask(each) for each in sounds[:2]], Generation(max_tokens=8, temperature=1.0, seed=seed))

    assert [each.tokens for each in draw(3)] == [each.tokens for each in draw(3)] != [each.tokens for each in draw(4)]


def test_followed_tokens_are_predicted_by_the_logits_that_chose_them(model, sounds):
    (output,) = model.answer([ask(sounds[0])], SHORT)
    for _ in range(2):  # step by step first, then in one pass
        logits = model.follow(ask(sounds[0]), output.tokens)
        assert logits.shape == (len(output.tokens), 51865) and logits.dtype == numpy.float32
        logits[:, [*model.tokens.non_speech, *model.tokens.never_written]] = -numpy.inf
        logits[0, [*model.tokens.pieces(" "), END]] = -numpy.inf
        assert tuple(logits.argmax(-1)) == output.tokens
    assert list(model._following.one_pass.values()) == [True]
    with pytest.raises(ItemError, match="holds the token"):
        model.follow(ask(sounds[0]), [51865])


def test_the_prompt_s_logits_are_transformers(model, sounds):
    prepared = model.prepare(ask(sounds[0]))
    assert prepared.prompt == "<|startoftranscript|><|en|><|transcribe|><|notimestamps|>" and prepared.length == 4
    with torch.inference_mode():
        expected = model.model(
            input_features=torch.from_numpy(prepared.arrays["input_features"]),
            decoder_input_ids=torch.from_numpy(prepared.arrays["input_ids"]),
        ).logits[0]
    assert numpy.abs(model.logits(prepared) - expected.numpy()).max() <= 1e-5 * float(expected.abs().max())


def test_longer_audio_is_cut_into_windows_but_not_followed(model):
    samples = numpy.concatenate([wave(20.0, 0), wave(20.0, 1)])
    for chunking in ("sequential", "overlap"):
        found = model.transcribe(samples, Decoding(max_tokens=4, chunking=chunking, no_speech_threshold=None))
        assert found.windows == 2 and len(found.tokens) == 8 and found.audio_seconds == 40.0 and found.finish == "length"
    media = Media(data=flac(samples), kind="audio")
    (output,) = model.answer([ask(media)], Generation(max_tokens=4))
    assert len(output.segments) == 2 and output.segments[1]["start"] == 30.0 and output.seen["audio"]["seconds"] == 40.0
    assert output.seen["arrays"]["input_features"]["shape"] == [1, 80, 7000]
    with pytest.raises(ItemError, match=r"40\.0 s is longer than one window") as caught:
        model.follow(ask(media), output.tokens)
    assert caught.value.reason == "context"


def test_bundled_samples_one_after_another_are_cut_both_ways():
    """Both ways hear the same first window, of which stitching keeps the beginning; how well it is heard is the demo model's affair."""
    from workbench.data.media import load_audio
    from workbench.locate import find

    folder = find("datasets/samples/asr")
    samples = numpy.concatenate([load_audio(path).samples for path in sorted((folder / "audio").glob("*.flac"))[:14]])
    assert 32 * 16_000 < len(samples) < 54 * 16_000
    demo = open_speech_to_text(ModelSpec.parse("demo:stt@torch?batch_size=2"))
    whole, stitched = (demo.transcribe(samples, Decoding(max_tokens=60, chunking=each)) for each in ("sequential", "overlap"))
    assert whole.windows == stitched.windows == 2
    first = [each.segments[0] for each in (whole, stitched)]
    assert first[0].tokens[: len(first[1].tokens)] == first[1].tokens and first[1].text
    assert "".join(each.text for each in stitched.segments) == stitched.text
    assert all(before.end <= after.start for before, after in zip(stitched.segments, stitched.segments[1:], strict=False))


def flac(samples):
    import io

    import soundfile

    stream = io.BytesIO()
    soundfile.write(stream, samples, 16_000, format="FLAC")
    return stream.getvalue()


def test_words_have_times(model):
    found = model.transcribe(wave(4.0), Decoding(max_tokens=TOKENS, no_speech_threshold=None, word_timestamps=True))
    words = [word for segment in found.segments for word in segment.words]
    assert "".join(word.text for word in words) == found.text and len(words) > 3
    times = [time for word in words for time in (word.start, word.end)]
    assert times == sorted(times) and times[0] >= 0 and times[-1] <= 4.0
    assert all(0 <= word.probability <= 1 for word in words)
    assert model.model.config._attn_implementation == model.describe()["attention"]  # as it was


def test_cross_attention_is_a_distribution_over_positions(model):
    encoded = model.runtime.encode(model.prepare(ask(Media(data=flac(wave()), kind="audio"))).arrays["input_features"])
    found = model.runtime.cross_attention(encoded, numpy.asarray([[50258, 50259, 50359, 50363, 400]]))
    assert found.shape == (2, 2, 5, 1500) and numpy.allclose(found.sum(-1), 1, atol=1e-5)


def test_silence_gives_no_text_when_the_model_says_so(tiny_whisper):
    """The random model's thresholds are moved so that both conditions hold; either alone is tested in test_whisper_fallback."""
    silent = open_speech_to_text(ModelSpec.parse(f"torch:{tiny_whisper}?no_speech_threshold=0.0&logprob_threshold=-0.01"))
    (output,) = silent.answer([ask(Media(data=flac(numpy.zeros(16_000, numpy.float32)), kind="audio"))], SHORT)
    assert output.value == "" and output.error is None and output.tokens


def test_what_does_not_fit_is_said(model, sounds):
    (output,) = model.answer([ask(sounds[0])], Generation(max_tokens=446))
    assert output.error["reason"] == "context" and output.error["fix"] == "--max-tokens 444"


@pytest.mark.parametrize("change", ["missing", "extra", "shape"])
def test_weights_that_do_not_fit_are_refused(tiny_whisper, tmp_path, change):
    from safetensors.torch import load_file, save_file

    broken = shutil.copytree(tiny_whisper, tmp_path / "broken")
    weights = load_file(broken / "model.safetensors")
    name = "model.decoder.layers.1.encoder_attn.k_proj.weight"
    if change == "missing":
        del weights[name]
    elif change == "extra":
        weights[name := "model.decoder.layers.7.fc1.weight"] = torch.zeros(2, 2)
    else:
        weights[name] = torch.zeros(3, 3)
    save_file(weights, broken / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match=name.replace(".", r"\.")):
        open_speech_to_text(ModelSpec.parse(f"torch:{broken}"))


def test_the_request_the_generation_and_the_options_each_have_their_say():
    options = {"beam_size": 5, "temperatures": (0.0,), "timestamps": True, "batch_size": 4, "max_initial_timestamp": None}
    request = Request({"audio": None, "language": None, "task": "translate", "prompt": "Ada"}, "test@1")
    found = decoding_of(options, request, Generation(max_tokens=7, seed=3, temperature=0.5))
    assert (found.language, found.task, found.prompt, found.max_tokens, found.seed) == (None, "translate", "Ada", 7, 3)
    assert (found.beam_size, found.timestamps, found.max_initial_timestamp, found.temperatures) == (5, True, None, (0.5,))
    assert decoding_of(options | {"temperatures": (0.0, 0.2)}, None, Generation(temperature=0.5)).temperatures == (0.0, 0.2)


@pytest.mark.parametrize(
    "wrong", [{"beam_size": 0}, {"temperatures": ()}, {"length_penalty": 2.0}, {"patience": 0.0}, {"task": "sing"}]
)
def test_decoding_that_cannot_be_meant_is_refused(wrong):
    with pytest.raises(UsageError):
        Decoding(**wrong)


def test_what_was_loaded_is_described(model):
    found = model.describe()
    assert found["dtype"] == "float32" and found["loop"] == "shared" and found["library"] == "transformers"
    assert found["parameters"] == sum(each.numel() for each in model.model.parameters())
    assert found["decoding"]["temperatures"] == [0.0] and found["decoding"]["no_speech_threshold"] is None
    assert found["alignment_heads"] == [[1, 0], [1, 1]] and found["stop_ids"] == [END]
    json.dumps(found, allow_nan=False)


def test_nonsense_in_one_request_is_its_own_error(model, sounds):
    first, second, third = model.answer([ask(sounds[3], task="sing"), ask(sounds[3]), ask(sounds[3], language=["en"])], SHORT)
    assert "task cannot be 'sing'" in first.error["what"] and third.error["reason"] == "model"
    assert second.error is None and second.tokens


def test_what_its_own_loop_raises_is_an_item_error(tiny_whisper):
    own = open_speech_to_text(ModelSpec.parse(f"torch:{tiny_whisper}?loop=own"))
    with pytest.raises(ItemError, match="the model failed on this item"):
        own.transcribe(wave(), Decoding(language="tlh", max_tokens=2))


def test_a_few_samples_more_than_a_window_are_no_second_one(model):
    for samples, windows in ((480_000, 1), (480_001, 1), (480_159, 1), (480_160, 2)):
        recording = model._recording(model._sound(numpy.zeros(samples, numpy.float32)), PLAIN)
        starts = recording.ready()
        assert starts == [0] and (recording.length > 3000) == (windows == 2)
