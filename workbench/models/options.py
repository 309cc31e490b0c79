"""The options a model may be given, with defaults: ``torch:ORG/NAME?dtype=float16&batch_size=8``.

    read("torch", {"batch_size": "8"})["batch_size"]                                      # 8
    read("mlx", {"temperatures": "0,0.2"}, family="speech-to-text")["temperatures"]       # (0.0, 0.2)

An option that is not in the table of its family and runtime is refused, so that a typing error never runs silently with a default.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from workbench.errors import UsageError
from workbench.models import options_converted as converted
from workbench.models.options_converted import YES_OR_NO
from workbench.models.speech_to_text import FAMILY as SPEECH

VISION = "vision-language"

EVERYWHERE: dict[str, tuple[str, str]] = {
    "dtype": ("auto", "float32, float16 or bfloat16; auto: float32 on a CPU, the checkpoint's own elsewhere"),
    "device": ("auto", "auto: the best one here"),
    "batch_size": ("1", "requests answered together"),
    "trust_remote_code": ("false", "let the model's folder run its own Python code"),
}

COMMON = EVERYWHERE | {
    "min_pixels": ("", "images are enlarged to at least so many pixels"),
    "max_pixels": ("", "images are shrunk to at most so many pixels"),
    "image_position": ("first", "images first or last, before or after the text"),
    "image_backend": ("pil", "pil: the same pixels on every machine; auto: torchvision where it is installed"),
}

TORCH = {
    "attention": ("", "eager, sdpa or flash_attention_2; empty: transformers' choice"),
    "allow_pickle": ("false", "read weights from .bin files (with weights_only=True)"),
    "threads": ("", "CPU threads"),
}

MLX = {
    "blas": ("", "torch or off: whose matrix multiplication MLX uses on Linux"),
    "dequantise": ("auto", "true, false; auto: on a CPU, where quantised matmul is slow"),
}

KNOWN: dict[str, dict[str, tuple[str, str]]] = {
    "torch": COMMON | TORCH | {"device_map": ("", "auto, or another map of transformers: spread a large model over devices")},
    "mlx": COMMON | MLX | {"preprocessing": ("shared", "shared: transformers' processor, as on torch; own: mlx-vlm's")},
    "server": {
        "concurrency": ("4", "requests under way at the same time"),
        "timeout": ("120", "seconds to wait for the next part of an answer"),
        "retries": ("5", "further attempts after a failure that may pass"),
        "stream": ("true", "true: the time to the first token is known; false: whole answers"),
        "api_key_env": ("", "environment variable with the key; empty: WORKBENCH_SERVER_KEY, then OPENAI_API_KEY"),
        "min_pixels": COMMON["min_pixels"],
        "max_pixels": COMMON["max_pixels"],
        "image_position": COMMON["image_position"],
        "image_detail": ("", "low, high or auto; empty: not sent"),
    },
} | {
    name: table | {each: COMMON[each] for each in ("min_pixels", "max_pixels", "image_position", "image_backend")}
    for name, table in converted.TABLES.items()
}

DECODES: dict[str, tuple[str, str]] = {
    "timestamps": ("false", "true: the model also says when; text is cut into segments"),
    "word_timestamps": ("false", "true: when each word is said, from the cross-attention"),
    "temperatures": ("0", "tried in turn while a window's text is too repetitive or too unlikely, such as 0,0.2,0.4"),
    "beam_size": ("", "beams at temperature 0; empty: greedy"),
    "best_of": ("", "samples at other temperatures; empty: one"),
    "patience": ("", "beams times patience candidates end a search; empty: 1"),
    "length_penalty": ("", "between 0 and 1, of Google's NMT paper; empty: divide by the length"),
    "suppress_tokens": ("default", "default: Whisper's own list; none; or ids such as 1,2,7"),
    "suppress_blank": ("true", "false: a window may begin with a blank or end at once"),
    "max_initial_timestamp": ("1.0", "seconds; none: no limit"),
    "no_speech_threshold": ("0.6", "a window above it and below logprob_threshold is silent; none: never"),
    "logprob_threshold": ("-1.0", "a window with a lower mean is tried again; none: never"),
    "compression_ratio_threshold": ("2.4", "a window above it is tried again; none: never"),
    "condition_on_previous_text": ("false", "true: a window is told the text before it"),
    "chunking": ("sequential", "of long audio: sequential, or overlap (windows overlap, their texts are stitched)"),
}
DECODING = tuple(DECODES)
"""Options that are fields of ``Decoding``; ``read`` gives them the field's type."""

SOUND = (
    EVERYWHERE
    | DECODES
    | {
        "loop": ("shared", "shared: the workbench's decoding, the same on every runtime; own: the library's"),
        "preprocessing": ("shared", "shared: the workbench's log-mel, the same on every runtime; own: the library's"),
        "chunk_seconds": ("30", "models that read sound of any length (CTC): seconds read at once"),
        "stride_seconds": ("5", "of those, read on either side for context and then left out"),
    }
)

SPEECH_TABLES: dict[str, dict[str, tuple[str, str]]] = {
    "torch": SOUND | TORCH | {"library": ("auto", "transformers")},
    "mlx": SOUND
    | MLX
    | {
        "library": ("auto", "mlx-whisper or mlx-audio; auto: mlx-whisper for Whisper, mlx-audio for others"),
        "bits": ("", "4 or 8: quantise on load"),
        "group_size": ("32", "weights that share a scale when quantised on load: 32, 64 or 128"),
    },
} | {name: table | DECODES for name, table in converted.TABLES.items()}

TABLES = {VISION: KNOWN, SPEECH: SPEECH_TABLES}

NOT_IN_KEY = {"server": ("timeout", "retries", "api_key_env"), **converted.NOT_IN_KEY}
"""Options that cannot change an answer: another value continues the same run."""

CHOICES = {
    "dtype": ("auto", "float32", "float16", "bfloat16"),
    "image_position": ("first", "last"),
    "image_backend": ("pil", "auto"),
    "attention": ("", "eager", "sdpa", "flash_attention_2", "flash_attention_3"),
    "blas": ("", "torch", "off"),
    "preprocessing": ("shared", "own"),
    "dequantise": ("auto", "true", "false"),
    "trust_remote_code": YES_OR_NO,
    "allow_pickle": YES_OR_NO,
    "stream": YES_OR_NO,
    "image_detail": ("", "low", "high", "auto"),
    "loop": ("shared", "own"),
    "bits": ("", "4", "8"),
    "group_size": ("32", "64", "128"),
    "chunking": ("sequential", "overlap"),
    "timestamps": YES_OR_NO,
    "word_timestamps": YES_OR_NO,
    "suppress_blank": YES_OR_NO,
    "condition_on_previous_text": YES_OR_NO,
}
LIBRARIES = {"torch": ("auto", "transformers"), "mlx": ("auto", "mlx-whisper", "mlx-audio")}

NUMBERS = ("batch_size", "min_pixels", "max_pixels", "threads", "concurrency", "timeout", "retries", *converted.NUMBERS)
FROM_ZERO = ("retries",)
COUNTS = ("beam_size", "best_of", "bits", "group_size")
"""Whole numbers of at least 1 of the speech family; ``NUMBERS`` are every family's."""

LIMITS: dict[str, tuple[float, float]] = {
    "patience": (1e-6, math.inf),
    "length_penalty": (0.0, 1.0),
    "max_initial_timestamp": (0.0, 30.0),
    "no_speech_threshold": (0.0, 1.0),
    "logprob_threshold": (-math.inf, 0.0),
    "compression_ratio_threshold": (0.0, math.inf),
    "chunk_seconds": (1.0, 600.0),
    "stride_seconds": (0.0, 300.0),
}
"""Least and largest value of options that are fractions or seconds; ``none`` or nothing is None."""


def read(backend: str, given: Mapping[str, str], family: str = VISION) -> dict[str, Any]:
    """``given`` with defaults filled in and numbers as ``int`` (None where empty); of speech, ``DECODING`` as ``Decoding`` has it.

    Raises UsageError for an unknown name, a value that is not among the choices, or a number out of its range. A runtime of
    a plugin, which has no table here, gets ``given`` as it is.
    """
    table = TABLES.get(family, {}).get(backend)
    if table is None:
        return dict(given)
    for name in given:
        if name not in table:
            raise UsageError(
                f"unknown option {name!r} for {backend} models",
                why=_known(name, backend, family, table),
                fix=converted.INSTEAD.get((backend, name)),
            )
    found: dict[str, Any] = {}
    for name, (default, _) in table.items():
        value = str(given.get(name, default)).strip()
        allowed = LIBRARIES[backend] if name == "library" else converted.CHOICES.get((backend, name), CHOICES.get(name))
        if allowed is not None and value not in allowed:
            choices = ", ".join(choice for choice in allowed if choice)
            near = nearest(value, allowed)
            raise UsageError(f"option {name} cannot be {value!r}", why=f"known: {choices}", fix=f"?{name}={near}")
        found[name] = _typed(name, value, family)
    if family == VISION and found["min_pixels"] and found["max_pixels"] and found["min_pixels"] > found["max_pixels"]:
        raise UsageError("min_pixels is larger than max_pixels", why=f"{found['min_pixels']} > {found['max_pixels']}")
    if family == SPEECH:
        _refuse_contradictions(found, given)
    return found


def in_key(backend: str, given: Mapping[str, str]) -> dict[str, str]:
    """``given`` without the options that cannot change an answer, sorted: what the run key holds."""
    return {name: value for name, value in sorted(given.items()) if name not in NOT_IN_KEY.get(backend, ())}


def recipe(backend: str, given: Mapping[str, str]) -> dict[str, str]:
    """The options of ``given`` that say how a model is converted for ``backend``."""
    return {name: str(value) for name, value in given.items() if name in converted.RECIPES.get(backend, {})}


def nearest(value: str, allowed: Sequence[str]) -> str:
    """What a user who typed ``value`` may have meant: the same but for case and dashes, or what it begins; else the first beside the default."""
    plain = [(choice, choice.lower().replace("-", "_")) for choice in allowed if choice]
    typed = converted.SHORT.get(value.lower(), value.lower()).replace("-", "_")
    same = [choice for choice, name in plain if name == typed] or [
        choice for choice, name in plain if typed and name.startswith(typed)
    ]
    return (same or [choice for choice, _ in plain][1:] or [choice for choice, _ in plain])[0]


def flag(options: Mapping[str, str], name: str) -> bool:
    """Is the yes-or-no option ``name`` switched on?"""
    return str(options.get(name, "false")).lower() == "true"


def _known(name: str, backend: str, family: str, table: Mapping[str, Any]) -> str:
    """The known names; first, whether the name belongs to another family or runtime."""
    others = [
        f"{each} models of the {kind} family"
        for kind, tables in TABLES.items()
        for each, other in tables.items()
        if name in other and (kind, each) != (family, backend)
    ]
    return f"known: {', '.join(sorted(table))}" + (f"; {name} is for {', '.join(others)}" if others else "")


def _typed(name: str, value: str, family: str) -> Any:
    if family == SPEECH:
        if name in DECODING and CHOICES.get(name) == YES_OR_NO:
            return value == "true"
        if name in COUNTS:
            return _number(name, value) if value else None
        if name in LIMITS:
            return _fraction(name, value)
        if name == "temperatures":
            return _temperatures(value)
        if name == "suppress_tokens":
            return _token_ids(value)
    if name in NUMBERS:
        return _number(name, value) if value else None
    return value


def _number(name: str, value: str) -> int:
    least = 0 if name in FROM_ZERO else 1
    if not value.isdecimal() or int(value) < least:
        raise UsageError(f"option {name} must be a whole number of at least {least}, not {value!r}")
    return int(value)


def _fraction(name: str, value: str) -> float | None:
    if value.lower() in ("", "none"):
        return None
    least, most = LIMITS[name]
    try:
        number = float(value)
    except ValueError:
        number = math.nan
    if not (least <= number <= most and math.isfinite(number)):
        raise UsageError(f"option {name} must be a number from {least:g} to {most:g}, or none, not {value!r}")
    return number


def _temperatures(value: str) -> tuple[float, ...]:
    try:
        found = tuple(float(part) for part in value.split(","))
    except ValueError:
        found = ()
    if not found or not all(0 <= each <= 10 for each in found) or list(found) != sorted(set(found)):
        raise UsageError(f"option temperatures must be rising numbers from 0 on, not {value!r}", fix="?temperatures=0,0.2,0.4")
    return found


def _token_ids(value: str) -> Any:
    if value == "default":
        return value
    if value in ("", "none"):
        return ()
    parts = [part.strip() for part in value.split(",")]
    if not all(part.isdecimal() for part in parts):
        raise UsageError(
            f"option suppress_tokens cannot be {value!r}", why="known: default, none, or token ids", fix="?suppress_tokens=1,2,7"
        )
    return tuple(int(part) for part in parts)


def _refuse_contradictions(found: Mapping[str, Any], given: Mapping[str, str]) -> None:
    """Raises UsageError for options of which one would silently do nothing."""
    if found["beam_size"] and found["beam_size"] > 1 and 0.0 not in found["temperatures"]:
        raise UsageError("beam_size searches at temperature 0", why=f"temperatures are {given.get('temperatures')}")
    if found["patience"] and not found["beam_size"]:
        raise UsageError("patience is for a beam search", fix="?beam_size=5&patience=1")
    if found["best_of"] and max(found["temperatures"]) == 0.0:
        raise UsageError("best_of is for temperatures above 0", fix="?temperatures=0,0.2,0.4&best_of=5")
    if "chunk_seconds" not in found:
        return  # a runtime with one kind of model
    if found["stride_seconds"] is None or found["chunk_seconds"] is None or 2 * found["stride_seconds"] >= found["chunk_seconds"]:
        raise UsageError(
            "chunk_seconds must be more than twice stride_seconds",
            why=f"{found['chunk_seconds']} and {found['stride_seconds']}",
            fix="?chunk_seconds=30&stride_seconds=5",
        )
    if given.get("group_size") and not found.get("bits"):
        raise UsageError("group_size is for weights quantised on load", fix="?bits=4&group_size=32")
