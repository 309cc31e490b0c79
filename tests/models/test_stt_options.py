"""Options of speech models: typed as ``Decoding`` has them, and none is taken that would silently do nothing."""

from __future__ import annotations

from dataclasses import fields

import pytest

from workbench.errors import ModelError, RuntimeMissing, UsageError
from workbench.models import options
from workbench.models.loading import open_model, open_speech_to_text
from workbench.models.source import resolve
from workbench.models.speech_to_text import FAMILY, Decoding
from workbench.types import ModelSpec


def read(backend: str = "torch", **given: str):
    return options.read(backend, given, FAMILY)


@pytest.mark.parametrize("backend", ["torch", "mlx"])
def test_defaults_are_those_of_decoding(backend):
    found = read(backend)
    assert Decoding(**{name: found[name] for name in options.DECODING}) == Decoding()
    assert (found["dtype"], found["batch_size"], found["loop"], found["preprocessing"]) == ("auto", 1, "shared", "shared")


def test_every_option_of_decoding_is_a_field_and_the_rest_is_the_requests():
    rest = {each.name for each in fields(Decoding)} - set(options.DECODING)
    assert rest == {"language", "task", "prompt", "prefix", "max_tokens", "seed"}
    assert set(options.DECODING) <= {each.name for each in fields(Decoding)}


def test_values_get_the_fields_types():
    found = read(
        "mlx",
        beam_size="5",
        patience="1.5",
        temperatures="0,0.2,0.4",
        timestamps="true",
        suppress_tokens="1, 2,7",
        no_speech_threshold="none",
        logprob_threshold="-0.5",
        bits="4",
        group_size="64",
    )
    assert (found["beam_size"], found["patience"], found["temperatures"], found["timestamps"]) == (5, 1.5, (0.0, 0.2, 0.4), True)
    assert (found["suppress_tokens"], found["no_speech_threshold"], found["logprob_threshold"]) == ((1, 2, 7), None, -0.5)
    assert (found["bits"], found["group_size"]) == (4, 64)
    assert read(suppress_tokens="none")["suppress_tokens"] == ()


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"temperatures": "0.4,0.2"}, "rising"),
        ({"temperatures": "hot"}, "rising"),
        ({"timestamps": "yes"}, "true, false"),
        ({"beam_size": "0"}, "at least 1"),
        ({"no_speech_threshold": "1.5"}, "from 0 to 1"),
        ({"logprob_threshold": "nan"}, "number"),
        ({"suppress_tokens": "a,b"}, "token ids"),
        ({"patience": "2"}, "beam search"),
        ({"best_of": "5"}, "above 0"),
        ({"beam_size": "5", "temperatures": "0.4"}, "temperature 0"),
        ({"chunk_seconds": "8", "stride_seconds": "4"}, "twice"),
        ({"library": "mlx-whisper"}, "known: auto, transformers"),
        ({"bits": "4"}, "bits is for mlx models"),
        ({"min_pixels": "4"}, "min_pixels is for torch models of the vision-language family"),
        ({"dtyp": "float32"}, "unknown option 'dtyp'"),
    ],
)
def test_what_is_refused(given, words):
    with pytest.raises(UsageError) as caught:
        read("torch", **given)
    assert words in str(caught.value)


def test_group_size_needs_bits():
    with pytest.raises(UsageError, match="quantised on load"):
        read("mlx", group_size="64")


def test_vision_models_do_not_take_speech_options():
    with pytest.raises(UsageError, match="unknown option 'beam_size'"):
        options.read("torch", {"beam_size": "2"})


def test_an_unknown_demo_names_the_bundled_ones():
    with pytest.raises(ModelError) as caught:
        resolve(ModelSpec.parse("demo:tts@torch"))
    assert "demo:vlm" in str(caught.value) and "demo:stt" in str(caught.value)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("demo:stt@torch?chunk_seconds=20", "does nothing for Whisper"),
        ("demo:stt@mlx?loop=own&beam_size=2", "no beam search"),
        ("demo:stt@mlx?loop=own&dtype=bfloat16", "float32 or float16"),
        ("demo:stt@mlx?loop=own&chunking=overlap", "window after window"),
        ("demo:stt@mlx?library=mlx-audio&loop=own&preprocessing=shared", "its own log-mel"),
        ("demo:stt@torch?loop=own&preprocessing=own", "cannot have preprocessing=own"),
        ("demo:stt@torch?loop=own&word_timestamps=true", "cannot have word_timestamps=true"),
        ("demo:stt@torch?loop=own&suppress_tokens=none", "cannot have suppress_tokens=none"),
        ("demo:stt@torch?adapter=./lora", "adapters"),
        ("demo:stt@coreml?adapter=./lora", "takes no adapter"),
        ("demo:stt@coreml?precision=fp16&loop=own", "loop is for torch models"),
        ("server:http://127.0.0.1:9#m", "does not run speech-to-text"),
    ],
)
def test_the_door_refuses_in_words(text, words):
    if "@mlx" in text:
        pytest.importorskip("mlx_audio", reason="needs mlx-audio (pip install 'parity-workbench[mlx]')")
    with pytest.raises(UsageError) as caught:
        open_speech_to_text(ModelSpec.parse(text))
    assert words in str(caught.value)


def test_the_door_of_families():
    with pytest.raises(UsageError, match="cannot be opened"):
        open_model(ModelSpec.parse("demo:stt@torch"), "text-to-speech")
    with pytest.raises(ModelError, match="does not answer questions about images"):
        open_model(ModelSpec.parse("demo:stt@torch"), options.VISION)
    with pytest.raises(ModelError, match="does not write down speech"):
        open_model(ModelSpec.parse("demo:vlm@torch"), FAMILY)


def test_a_library_that_is_not_here_is_named(monkeypatch):
    pytest.importorskip("mlx", reason="needs mlx (pip install 'parity-workbench[mlx]')")
    from workbench.models import speech_kinds

    monkeypatch.setattr(speech_kinds, "find_spec", lambda name: None)
    with pytest.raises(RuntimeMissing) as caught:
        open_speech_to_text(ModelSpec.parse("demo:stt@mlx"))
    assert "mlx-whisper is not installed" in str(caught.value)


def test_the_runtime_is_prepared_before_anything_imports_it(monkeypatch):
    """MLX takes torch's BLAS only if it is imported after it."""
    from workbench.models import speech_kinds
    from workbench.registry import get_backend

    class Seen(Exception):
        pass

    def kind_of(*_):
        raise Seen

    calls: list[str] = []
    monkeypatch.setattr(type(get_backend("torch")), "prepare", lambda self, given: calls.append("prepare"))
    monkeypatch.setattr(speech_kinds, "kind_of", kind_of)
    with pytest.raises(Seen):
        open_speech_to_text(ModelSpec.parse("demo:stt@torch"))
    assert calls == ["prepare"]
