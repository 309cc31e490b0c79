"""Whisper on MLX, with the layers of mlx-audio, decoded by the workbench's own loop.

    model = open_speech_to_text(ModelSpec.parse("demo:stt@mlx?library=mlx-audio"))

mlx-audio's own loader casts every Whisper to float16, takes a folder that lacks weights, and may choose the architecture by words in
the folder's name; here config.json decides, the precision is the one asked for, and every weight must be there.
"""

from __future__ import annotations

import types
from collections.abc import Mapping
from typing import Any

from workbench.errors import UsageError
from workbench.models.source import Resolved
from workbench.models.speech_to_text import Decoding, Transcript
from workbench.models.stt_mlx import MLXWhisper, assembled
from workbench.models.stt_mlx_own import own_mel, own_settings, refuse_own_loop, transcript_of
from workbench.types import ModelSpec

OWN_LOOP = "mlx_audio.stt.models.whisper.Model.generate"


def open_whisper(
    spec: ModelSpec, found: Resolved, config: Mapping[str, Any], generation: Mapping[str, Any], options: Mapping[str, Any]
) -> Any:
    """The loaded model, with mlx-audio's layers. Raises ModelError, UsageError."""
    from mlx_audio.stt.models import whisper

    refuse_own_loop(spec, options, OWN_LOOP)
    runtime = MLXWhisper(found, config, generation, options, whisper.Model, whisper.ModelConfig)
    # The library asks its processor for a tokenizer alone.
    runtime.model._processor = types.SimpleNamespace(tokenizer=_tokenizer(found)) if options["loop"] == "own" else None

    def own(samples: Any, decoding: Decoding) -> Transcript:
        settings = own_settings(decoding)
        timed = not settings.pop("without_timestamps")
        result = runtime.model.generate(samples, return_timestamps=timed, fp16=runtime.dtype == "float16", **settings)
        return transcript_of(vars(result), samples, OWN_LOOP, decoding.max_tokens)

    return assembled(spec, found, runtime, options, own_mel("mlx_audio.stt.models.whisper.audio"), own, OWN_LOOP)


def _tokenizer(found: Resolved) -> Any:
    """transformers' tokenizer of the folder. Raises UsageError where it has none."""
    from transformers import AutoTokenizer

    if not (found.folder / "tokenizer.json").is_file():
        raise UsageError(
            f"loop=own needs a tokenizer in {found.source!r}",
            why="mlx-audio reads transformers' tokenizer from the model's folder, and there is no tokenizer.json",
            fix="?loop=shared, or ?library=mlx-whisper&loop=own",
        )
    return AutoTokenizer.from_pretrained(str(found.folder))
