"""The options a model may be given, with defaults: ``torch:ORG/NAME?dtype=float16&batch_size=8``.

An option that is not in the runtime's table is refused, so that a typing error never runs silently with a default.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from workbench.errors import UsageError

COMMON: dict[str, tuple[str, str]] = {
    "dtype": ("auto", "float32, float16 or bfloat16; auto: float32 on a CPU, the checkpoint's own elsewhere"),
    "device": ("auto", "auto: the best one here"),
    "batch_size": ("1", "requests answered together"),
    "min_pixels": ("", "images are enlarged to at least so many pixels"),
    "max_pixels": ("", "images are shrunk to at most so many pixels"),
    "trust_remote_code": ("false", "let the model's folder run its own Python code"),
    "image_position": ("first", "images first or last, before or after the text"),
    "image_backend": ("pil", "pil: the same pixels on every machine; auto: torchvision where it is installed"),
}

KNOWN: dict[str, dict[str, tuple[str, str]]] = {
    "torch": COMMON
    | {
        "device_map": ("", "auto, or another map of transformers: spread a large model over devices"),
        "attention": ("", "eager, sdpa or flash_attention_2; empty: transformers' choice"),
        "allow_pickle": ("false", "read weights from .bin files (with weights_only=True)"),
        "threads": ("", "CPU threads"),
    },
    "mlx": COMMON
    | {
        "blas": ("", "torch or off: whose matrix multiplication MLX uses on Linux"),
        "preprocessing": ("shared", "shared: transformers' processor, as on torch; own: mlx-vlm's"),
        "dequantise": ("auto", "true, false; auto: on a CPU, where quantised matmul is slow"),
    },
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
}

NOT_IN_KEY = {"server": ("timeout", "retries", "api_key_env")}
"""Options that cannot change an answer: another value continues the same run."""

CHOICES = {
    "dtype": ("auto", "float32", "float16", "bfloat16"),
    "image_position": ("first", "last"),
    "image_backend": ("pil", "auto"),
    "attention": ("", "eager", "sdpa", "flash_attention_2", "flash_attention_3"),
    "blas": ("", "torch", "off"),
    "preprocessing": ("shared", "own"),
    "dequantise": ("auto", "true", "false"),
    "trust_remote_code": ("true", "false"),
    "allow_pickle": ("true", "false"),
    "stream": ("true", "false"),
    "image_detail": ("", "low", "high", "auto"),
}

NUMBERS = ("batch_size", "min_pixels", "max_pixels", "threads", "concurrency", "timeout", "retries")
FROM_ZERO = ("retries",)


def read(backend: str, given: Mapping[str, str]) -> dict[str, Any]:
    """``given`` with defaults filled in and numbers as ``int`` (None where empty).

    Raises UsageError for an unknown name, a value that is not among the choices, or a number below 1. A runtime of a
    plugin, which has no table here, gets ``given`` as it is.
    """
    table = KNOWN.get(backend)
    if table is None:
        return dict(given)
    for name in given:
        if name not in table:
            raise UsageError(f"unknown option {name!r} for {backend} models", why=f"known: {', '.join(sorted(table))}")
    found: dict[str, Any] = {}
    for name, (default, _) in table.items():
        value = str(given.get(name, default)).strip()
        if name in CHOICES and value not in CHOICES[name]:
            choices = ", ".join(choice for choice in CHOICES[name] if choice)
            raise UsageError(f"option {name} cannot be {value!r}", why=f"known: {choices}", fix=f"?{name}={CHOICES[name][1]}")
        if name in NUMBERS:
            found[name] = _number(name, value) if value else None
        else:
            found[name] = value
    if found["min_pixels"] and found["max_pixels"] and found["min_pixels"] > found["max_pixels"]:
        raise UsageError("min_pixels is larger than max_pixels", why=f"{found['min_pixels']} > {found['max_pixels']}")
    return found


def in_key(backend: str, given: Mapping[str, str]) -> dict[str, str]:
    """``given`` without the options that cannot change an answer, sorted: what the run key holds."""
    return {name: value for name, value in sorted(given.items()) if name not in NOT_IN_KEY.get(backend, ())}


def flag(options: Mapping[str, str], name: str) -> bool:
    """Is the yes-or-no option ``name`` switched on?"""
    return str(options.get(name, "false")).lower() == "true"


def _number(name: str, value: str) -> int:
    least = 0 if name in FROM_ZERO else 1
    if not value.isdecimal() or int(value) < least:
        raise UsageError(f"option {name} must be a whole number of at least {least}, not {value!r}")
    return int(value)
