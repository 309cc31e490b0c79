"""Sound to text in one call, with any model.

transcribe("talk.flac", "demo:stt@torch", timestamps=True).segments
"""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

from workbench.errors import UsageError
from workbench.models import options
from workbench.models.speech_to_text import FAMILY, Decoding, Transcript
from workbench.models.stt import decoding_of
from workbench.types import ModelSpec


def transcribe(
    audio: Any, model: str | ModelSpec = "demo:stt@torch", decoding: Decoding | None = None, **settings: Any
) -> Transcript:
    """Audio of any length (a path, a Media, or samples at 16 kHz) as text.

    ``settings`` are fields of ``Decoding`` (``language=None`` detects it) and win over ``decoding`` and the model's own options. The
    model is loaded for this call; ``workbench.models.loading.open_speech_to_text`` keeps one. Raises ItemError for audio that cannot be
    used, UsageError for an unknown setting, ModelError.
    """
    from workbench.models.loading import open_speech_to_text

    unknown = sorted(set(settings) - {each.name for each in fields(Decoding)})
    if unknown:
        known = ", ".join(each.name for each in fields(Decoding))
        raise UsageError(f"unknown setting {unknown[0]!r}", why=f"known: {known}")
    spec = model if isinstance(model, ModelSpec) else ModelSpec.parse(model)
    wanted = replace(decoding or decoding_for(spec), **settings)
    opened = open_speech_to_text(spec)
    try:
        return opened.transcribe(audio, wanted)
    finally:
        opened.close()


def decoding_for(spec: ModelSpec) -> Decoding:
    """The decoding that the options in a model's text ask for. Raises UsageError."""
    return decoding_of(options.read(spec.backend, spec.options, family=FAMILY), None, None)
