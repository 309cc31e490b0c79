"""How fast speech was processed, by definition: RTF is processing time over audio time, RTFx its inverse over everything pooled.

    speed([(3.2, 0.11), (7.5, 0.20)], machine="Apple M3 Max, 48 GB")
    # {"rtf": 0.029, "rtfx": 34.5, "audio_seconds": 10.7, "processing_seconds": 0.31, "items": 2, "machine": "Apple M3 Max, 48 GB", ...}

Pooled means the sum of all audio over the sum of all time, never a mean of ratios (huggingface/open_asr_leaderboard at d1e99b2,
``normalizer/eval_utils.py``). The time of a batch is shared out among its items, so RTFx is a throughput: it says nothing about how long
one utterance takes. A number without its machine is not comparable with anything.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any


def rtf(audio_seconds: float, processing_seconds: float) -> float | None:
    """Processing time / audio time, lower is faster; None without audio."""
    return processing_seconds / audio_seconds if audio_seconds > 0 else None


def rtfx(audio_seconds: float, processing_seconds: float) -> float | None:
    """Audio time / processing time, higher is faster; None without a time."""
    return audio_seconds / processing_seconds if processing_seconds > 0 else None


def shared_out(batch_seconds: float, items: int) -> float:
    """One item's part of a batch's time. Raises ValueError for a batch of none."""
    if items < 1:
        raise ValueError(f"a batch has at least one item, not {items}")
    return batch_seconds / items


def speed(times: Iterable[tuple[float | None, float | None]], machine: str) -> dict[str, Any]:
    """Pooled figures of (audio seconds, processing seconds) of every item; pairs with a None are left out and counted as ``untimed``.

    Raises ValueError without a machine, or for negative seconds.
    """
    if not machine.strip():
        raise ValueError("name the machine: a speed without it cannot be compared")
    pairs = list(times)
    timed = [(audio, taken) for audio, taken in pairs if audio is not None and taken is not None]
    if any(audio < 0 or taken < 0 for audio, taken in timed):
        raise ValueError("seconds must not be negative")
    audio, taken = sum(pair[0] for pair in timed), sum(pair[1] for pair in timed)
    return {
        "rtf": rtf(audio, taken),
        "rtfx": rtfx(audio, taken),
        "audio_seconds": audio,
        "processing_seconds": taken,
        "items": len(timed),
        "untimed": len(pairs) - len(timed),
        "machine": machine,
    }
