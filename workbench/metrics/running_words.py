"""The word error rate of a run that goes on: with an interval, from sums, so that nothing is kept and nothing resampled.

running = RunningWords()
running.add([{"words": 8, "substitutions": 1, "deletions": 0, "insertions": 0}, ...])
running.rate_text, running.errors, running.words        # "10.0 ± 6.9 %", 2, 20
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from workbench.metrics.wer import CONFIDENCE, errors


class RunningWords:
    """The corpus word error rate of what has come so far, for a progress line: sums, so that nothing is kept and nothing resampled."""

    def __init__(self):
        self.utterances = self.errors = self.words = 0
        self.squares = [0, 0, 0]  # of errors, of errors times words, of words

    def add(self, counts: Iterable[Mapping[str, int]]) -> None:
        for each in counts:
            if not each.get("utterances", 1):
                continue  # left out by its profile
            wrong, words = errors(each), each["words"]
            self.utterances, self.errors, self.words = self.utterances + 1, self.errors + wrong, self.words + words
            self.squares = [sum(pair) for pair in zip(self.squares, (wrong * wrong, wrong * words, words * words), strict=True)]

    @property
    def half(self) -> float | None:
        """Half of the 95 % t interval of the ratio (linearised); None for fewer than two utterances or no word."""
        from scipy.special import stdtrit

        from workbench.metrics.stats.paired import tango

        n = self.utterances
        if n < 2 or not self.words:
            return None
        if not self.errors:
            return tango(0, 0, n, CONFIDENCE)[1] * n / self.words  # as many errors as so many utterances may hide
        rate, (wrong, both, words) = self.errors / self.words, self.squares
        variance = n / (n - 1) * max(0.0, wrong - 2 * rate * both + rate * rate * words) / self.words**2
        return float(stdtrit(n - 1, (1 + CONFIDENCE) / 2)) * variance**0.5

    @property
    def rate_text(self) -> str:
        """``10.0 ± 6.9 %``; a dash without a word."""
        if not self.words:
            return "-"
        spread = "" if self.half is None else f" ± {100 * self.half:.1f}"
        return f"{100 * self.errors / self.words:.1f}{spread} %"
