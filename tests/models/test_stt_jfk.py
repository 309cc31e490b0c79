"""A real recording (11 s, 1961) runs through every wrapper, with the shared loop and with the libraries' own. The models are tiny and
random: what counts is that text comes back, not which."""

from __future__ import annotations

from importlib.util import find_spec

import pytest

from tests.models import tiny_speech
from workbench.models.loading import open_speech_to_text
from workbench.types import Generation, Media, ModelSpec, Request

pytest.importorskip("torch", reason="needs torch (pip install 'parity-workbench[torch]')")
pytest.importorskip("soundfile", reason="needs soundfile (pip install 'parity-workbench[speech]')")

SMALL = {"d_model": 16, "encoder_ffn_dim": 64, "decoder_ffn_dim": 64, "encoder_layers": 1, "decoder_layers": 1}
HEADS = {"encoder_attention_heads": 1, "decoder_attention_heads": 1}
WRAPPERS = [
    "torch:whisper",
    "torch:whisper?loop=own",
    "torch:whisper?preprocessing=own",
    "torch:wav2vec2",
    "torch:moonshine",
    "mlx:whisper",
    "mlx:whisper?loop=own",
    "mlx:whisper?preprocessing=own",
    "mlx:whisper?bits=8&group_size=32&dtype=float16",
    "mlx:whisper?library=mlx-audio",
    "mlx:whisper?library=mlx-audio&loop=own",
    "mlx:wav2vec2",
    "mlx:moonshine",
]


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    base = tmp_path_factory.mktemp("jfk")
    tiny_speech.whisper(
        base / "whisper", alignment=[[0, 0]], **SMALL | {"d_model": 32, "encoder_ffn_dim": 128, "decoder_ffn_dim": 128}, **HEADS
    )
    tiny_speech.ctc(base / "wav2vec2")
    tiny_speech.moonshine(base / "moonshine")
    return base


@pytest.mark.parametrize("text", WRAPPERS)
def test_jfk(shared_data, folders, text):
    runtime, _, rest = text.partition(":")
    if runtime == "mlx" and (find_spec("mlx_audio") is None or find_spec("mlx_whisper") is None):
        pytest.skip("needs mlx-whisper and mlx-audio (pip install 'parity-workbench[mlx]')")
    recording = shared_data / "speech" / "jfk.flac"
    if not recording.is_file():
        pytest.skip("the shared data holds no speech/jfk.flac")
    model = open_speech_to_text(ModelSpec.parse(f"{runtime}:{folders}/{rest}"))
    request = Request({"audio": Media(path=recording, kind="audio"), "language": "en", "task": "transcribe"}, "asr-1")
    output = model.answer([request], Generation(max_tokens=3))[0]
    model.close()
    assert output.error is None and isinstance(output.value, str) and output.finish in ("stop", "length")
    assert output.seen["audio"]["seconds"] == pytest.approx(11.0, abs=0.01)
    assert output.timing.total >= output.timing.prepare > 0
