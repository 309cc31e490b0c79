"""Real-time factors of speech: seconds of processing a second of audio, and the paired ratio of two runs over the same utterances.

    real_time_of(lines)      # {"rtf": 0.031, "rtfx": 32.3, "audio_seconds": 1204.5}
    paired_ratio(pairs)      # {"ratio": 1.62, "low95": 1.55, "high95": 1.70, "n": 400}

RTF is sum(processing) / sum(audio), RTFx sum(audio) / sum(processing): pooled, never means of utterances' factors. In a batch each item
has its share of the batch's time. A pair shares its audio, so the ratio of the factors is that of the times.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from workbench.metrics.stats import paired_bootstrap
from workbench.parity.comparison import Pair
from workbench.run.summary import speech_speed

SPEECH_ROWS = (
    ("real-time factor (RTF: processing / audio)", "", "rtf"),
    ("RTFx (audio / processing)", "×", "rtfx"),
    ("audio", "s", "audio_seconds"),
)


def real_time_of(lines: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Over the utterances that have both a time and a length; factors are None where none has."""
    return {"rtf": None, "rtfx": None, "audio_seconds": None} | speech_speed(list(lines))


def times_of(line: Mapping[str, Any]) -> tuple[float, float] | None:
    """(seconds of processing, seconds of audio) of one utterance; None where one is not recorded, or the item failed."""
    processing = (line.get("timing") or {}).get("total")
    audio = (line.get("input") or {}).get("audio_seconds")
    if processing is None or not audio or line["output"]["finish"] == "error":
        return None
    return float(processing), float(audio)


def paired_ratio(pairs: Sequence[Pair]) -> dict[str, Any] | None:
    """Candidate's over reference's time on the same utterances, with a 95 % interval from a paired bootstrap; None with fewer than two."""
    times = [(before, after) for pair in pairs if (before := times_of(pair.reference)) and (after := times_of(pair.candidate))]
    first, second = ([each[place][0] for each in times] for place in (0, 1))
    if len(times) < 2 or not all(first):
        return None
    low, high = paired_bootstrap([[each] for each in first], [[each] for each in second], ratio, None, 0.95)
    return {"ratio": sum(second) / sum(first), "low95": low, "high95": high, "n": len(times)}


def ratio(reference: Any, candidate: Any) -> Any:
    """Of sums (draws, 1)."""
    return candidate[:, 0] / reference[:, 0]


def ratio_text(found: Mapping[str, Any] | None) -> str:
    if found is None:
        return ""
    interval = f"{found['low95']:.2f} to {found['high95']:.2f}"
    return f"; candidate's RTF {found['ratio']:.2f} times the reference's over the same {found['n']:,} utterances (95 % interval {interval})"
