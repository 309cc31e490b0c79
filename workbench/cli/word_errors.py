"""How a word error rate is printed: never without profile, normaliser, words, errors and intervals.

print_word_errors(results, console)
# WER       12.02 %   52 errors in 1,002 words (41 substituted, 7 deleted, 4 inserted)
# profile   whisper   normaliser whisper-english, version 1 (openai/whisper at c0d2f62)
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

SHOWN = 5


def word_error_lines(results: Mapping[str, Any]) -> list[tuple[str, str]]:
    """(name, text) of every line, in order; the profile comes before the number."""
    normaliser, sums = results["normaliser"], results
    lines = [
        ("profile", results["profile"]),
        ("normaliser", f"{normaliser['id']}, version {normaliser['version']} ({normaliser['source']})"),
        ("aligned by", results["aligner"]),
        ("WER", rate_text(results["wer"])),
    ]
    for name in ("utterance", "speaker"):
        if name in results["intervals"]:
            lines.append((f"  over {name}s", interval_text(results["intervals"][name], name)))
    lines += [
        ("words", f"{sums['words']:,} in {sums['utterances']:,} utterance{'s'[: sums['utterances'] != 1]}: {sums['hits']:,} right"),
        (
            "errors",
            f"{sums['errors']:,}: {sums['substitutions']:,} substituted, {sums['deletions']:,} deleted, {sums['insertions']:,} inserted",
        ),
        ("CER", rate_text(results["cer"])),
        ("MER, WIL", f"{rate_text(results['mer'])}, {rate_text(results['wil'])}"),
        ("sentence errors", rate_text(results["sentence_error_rate"])),
    ]
    if (empty := results["empty_references"])["n"]:
        more = f" and {empty['n'] - SHOWN} more" if empty["n"] > SHOWN else ""
        lines.append(("no reference words", f"{empty['n']} ({', '.join(empty['ids'][:SHOWN])}{more}); {empty['rule']}"))
    return lines


def rate_text(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.2f} %"


def interval_text(bounds: Mapping[str, Any] | None, resampled: str) -> str:
    if bounds is None:
        return f"no interval: fewer than two {resampled}s with words"
    return f"{rate_text(bounds['low'])} to {rate_text(bounds['high'])} ({100 * bounds['confidence']:.0f} %, {bounds['method']})"


def group_cells(group: Mapping[str, Any]) -> tuple[str, ...]:
    """The cells of one group's row: utterances, words, errors, WER, interval."""
    bounds = group["interval"]
    span = "-" if bounds is None else f"{rate_text(bounds['low'])} to {rate_text(bounds['high'])}"
    return str(group["n"]), f"{group['words']:,}", f"{group['errors']:,}", f"{group['value']:.2f} %", span


GROUP_TITLES = ("n", "words", "errors", "WER", "95 % interval")
