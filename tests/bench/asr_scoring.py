"""Normalise and score 100,000 pairs of transcripts: ours against transformers' normaliser and jiwer, interleaved; and the intervals.

normalise  ours 13,000 texts/s, transformers 3,000: 4.3 x as fast (target at least 2)
align      ours 0.9 s, jiwer 3.1 s for 100,000 pairs: 3.4 x as fast (target at least 1)

Texts are made from the bundled utterances with a slip here and there, so that one pair in three is without an error.
"""

from __future__ import annotations

import gc
import json
import random
import sys
import time
from collections.abc import Callable
from statistics import median
from typing import Any

PAIRS = 100_000
TRIALS = 5
NORMALISED = 3_000
ALIGNED = 10_000
TARGETS = {"normalise": 2.0, "align": 1.0}


def transcripts(count: int) -> tuple[list[str], list[str]]:
    """(references, transcripts): two bundled sentences each, words of the transcript dropped, repeated or swapped at 4 %."""
    from workbench.tasks.catalogue import load_task

    draw = random.Random(0)
    sentences = [sample.target for sample in load_task("asr-sample").load().samples]
    words = [word for sentence in sentences for word in sentence.split()]
    references, heard = [], []
    for _ in range(count):
        reference = f"{draw.choice(sentences)} {draw.choice(sentences)}"
        references.append(reference)
        slips = [(draw.random(), word) for word in reference.lower().split()]
        heard.append(" ".join(draw.choice(words) if chance < 0.02 else word for chance, word in slips if chance < 0.98))
    return references, heard


def interleaved(ours: Callable[[], Any], theirs: Callable[[], Any]) -> tuple[float, float, list[float]]:
    """(median seconds of ours, of theirs, ratios theirs / ours of each trial); who goes first alternates."""
    taken: dict[Any, list[float]] = {ours: [], theirs: []}
    for trial in range(TRIALS + 1):
        for run in (ours, theirs) if trial % 2 else (theirs, ours):
            gc.collect()
            began = time.perf_counter()
            run()
            taken[run].append(time.perf_counter() - began)
    first, second = taken[ours][1:], taken[theirs][1:]  # the first trial warms up
    return median(first), median(second), [b / a for a, b in zip(first, second, strict=True)]


def main() -> int:
    import jiwer
    from transformers.models.whisper.english_normalizer import EnglishTextNormalizer

    from workbench.metrics import wer
    from workbench.metrics.alignment import count_words
    from workbench.metrics.normalise import english, tables
    from workbench.metrics.transcripts import word_error_rate

    references, heard = transcripts(PAIRS)
    ours, theirs = english.whisper_english(), EnglishTextNormalizer(tables.spelling("whisper"))
    some = references[: NORMALISED // 2] + heard[: NORMALISED // 2]
    if [ours(text) for text in some] != [theirs(text) for text in some]:
        raise SystemExit("the normalisers differ")
    left, right = ([ours(text) for text in texts[:ALIGNED]] for texts in (references, heard))

    def aligned() -> int:
        pairs = zip(left, right, strict=True)
        return sum(sum(count_words(one.split(), other.split())[2:]) for one, other in pairs)

    def jiwered() -> int:
        found = jiwer.process_words(left, right)
        return found.substitutions + found.deletions + found.insertions

    if aligned() != jiwered():
        raise SystemExit("the totals differ")
    races = {
        "normalise": (NORMALISED, lambda: [ours(text) for text in some], lambda: [theirs(text) for text in some]),
        "align": (ALIGNED, aligned, jiwered),
    }
    failed = False
    for name, (count, mine, other) in races.items():
        fast, slow, ratios = interleaved(mine, other)
        ratio, target = median(ratios), TARGETS[name]
        failed |= ratio < target
        print(
            f"{name:<10} ours {count / fast:,.0f}/s, theirs {count / slow:,.0f}/s: {ratio:.1f} x as fast (target at least {target:g})"
        )
        print(json.dumps({name: {"ratio": round(ratio, 2), "ratios": [round(each, 2) for each in sorted(ratios)]}}))
    began = time.perf_counter()
    found = word_error_rate(references, heard, speakers=[str(place % 40) for place in range(PAIRS)], processes=None)
    taken = time.perf_counter() - began
    print(
        f"whole      {PAIRS:,} pairs, characters and both intervals in {taken:.1f} s, all cores: WER {100 * found['wer']:.2f} % (whisper)"
    )
    rows = found["per_item"]
    began = time.perf_counter()
    wer.paired(rows, rows[1:] + rows[:1])
    print(f"paired     bootstrap of {PAIRS:,} utterances in {time.perf_counter() - began:.1f} s")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
