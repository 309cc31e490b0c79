"""The MLX libraries' own Whisper loops and log-mels, for ``loop=own`` and ``preprocessing=own``: settings in, transcript out.

    transcribe(samples, path_or_hf_repo=..., **own_settings(Decoding(timestamps=True)))

Both loops are openai/whisper's, so one table serves mlx-whisper and mlx-audio. What a last window lacks they fill with zeros of the
log-mel, where the shared loop fills the sound with silence: short audio may get other words from the same weights.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

from workbench.errors import UsageError
from workbench.models.speech_to_text import Decoding, Segment, Transcript, Word
from workbench.types import ModelSpec

RATE = 16_000
HOP = 160


def refuse_own_loop(spec: ModelSpec, options: Mapping[str, Any], name: str) -> None:
    """Raises UsageError for options that the library's own loop does not have."""
    if options["loop"] != "own":
        return
    for option, bad, why in (
        ("dtype", options["dtype"] == "bfloat16", "it computes in float32 or float16"),
        ("beam_size", (options["beam_size"] or 1) > 1, "it has no beam search"),
        ("chunking", options["chunking"] == "overlap", "it reads window after window"),
        ("preprocessing", spec.options.get("preprocessing") == "shared", "it makes its own log-mel"),
    ):
        if bad:
            raise UsageError(f"loop=own cannot have {option}={options[option]}", why=f"{name}: {why}", fix="?loop=shared")


def own_settings(decoding: Decoding) -> dict[str, Any]:
    """A ``Decoding`` as the keywords that both libraries' loops share with openai/whisper."""
    from mlx import core

    core.random.seed(decoding.seed)
    suppress = "-1" if decoding.suppress_tokens == "default" else list(decoding.suppress_tokens)
    return {
        "language": decoding.language,
        "task": decoding.task,
        "temperature": decoding.temperatures,
        "compression_ratio_threshold": decoding.compression_ratio_threshold,
        "logprob_threshold": decoding.logprob_threshold,
        "no_speech_threshold": decoding.no_speech_threshold,
        "condition_on_previous_text": decoding.condition_on_previous_text,
        "initial_prompt": decoding.prompt,
        "word_timestamps": decoding.word_timestamps,
        "without_timestamps": not (decoding.timestamps or decoding.word_timestamps),
        "sample_len": decoding.max_tokens,
        "best_of": decoding.best_of,
        "length_penalty": decoding.length_penalty,
        "prefix": decoding.prefix,
        "suppress_tokens": suppress,
        "suppress_blank": decoding.suppress_blank,
        "max_initial_timestamp": decoding.max_initial_timestamp,
    }


def transcript_of(result: Mapping[str, Any], samples: Any, loop: str, max_tokens: int) -> Transcript:
    """What a library's loop returned (``text``, ``language``, ``segments`` of openai/whisper's fields).

    It does not say how a window ended: one with ``max_tokens`` tokens was cut off.
    """
    segments = tuple(_segment(each) for each in result["segments"])
    lengths = Counter()
    for given, each in zip(result["segments"], segments, strict=True):
        lengths[given["seek"]] += len(each.tokens)
    return Transcript(
        text=result["text"].strip(),
        language=result["language"],
        segments=segments,
        tokens=tuple(token for each in segments for token in each.tokens),
        windows=max(1, len(lengths)),
        audio_seconds=len(samples) / RATE,
        finish="length" if any(count >= max_tokens for count in lengths.values()) else "stop",
        loop=loop,
    )


def _segment(given: Mapping[str, Any]) -> Segment:
    words = given.get("words")
    return Segment(
        start=float(given["start"]),
        end=float(given["end"]),
        text=given["text"],
        tokens=tuple(int(token) for token in given["tokens"]),
        average_logprob=float(given["avg_logprob"]),
        no_speech_probability=float(given["no_speech_prob"]),
        compression_ratio=float(given["compression_ratio"]),
        temperature=float(given["temperature"]),
        words=None
        if words is None
        else tuple(Word(each["word"], float(each["start"]), float(each["end"]), float(each["probability"])) for each in words),
    )


def own_mel(module: str) -> Callable[[Any, int, int | None], Any]:
    """A library's log-mel as (mels, frames) float32; ``frames`` None keeps the audio's own length."""

    def log_mel(samples: Any, mels: int, frames: int | None) -> Any:
        from importlib import import_module

        import numpy

        sound = numpy.asarray(samples, dtype=numpy.float32)
        if frames is not None:
            sound = numpy.pad(sound[: frames * HOP], (0, max(0, frames * HOP - len(sound))))
        made = numpy.array(import_module(module).log_mel_spectrogram(sound, n_mels=mels), dtype=numpy.float32)
        return numpy.ascontiguousarray(made.T)

    return log_mel
