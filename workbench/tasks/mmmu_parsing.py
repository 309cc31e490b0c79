"""Reads answers as the MMMU authors do: an option letter, or the candidates of an open answer.

>>> choice_letter("The answer is (B).", ["cat", "dog"])
'B'
>>> open_candidates("The area is 1,234 m")     # the plain number rule also finds the last group of digits
['1,234 m', 1234.0, 234.0]

Rules of MMMU-Benchmark/MMMU at bb0b95a (``mmmu/utils/eval_utils.py``), in our own code.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"

# Stripped one after the other, in this order: "A,." loses only "." (the comma's turn is over), ".,A" loses both.
STRIPPED = ",.!?;:'"
BARE = frozenset(":,.!?;'")
INDICATORS = ("could be ", "so ", "is ", "thus ", "therefore ", "final ", "answer ", "result ")
NUMBERS = (
    re.compile(r"-?\b\d{1,3}(?:,\d{3})+\b"),
    re.compile(r"-?\d+(?:\.\d+)?[eE][+-]?\d+"),
    re.compile(r"-?(?:\d+\.\d+|\.\d+|\d+\b)(?![eE][+-]?\d+)(?![,\d])"),
)


def choice_letter(response: str, options: Sequence[str]) -> str | None:
    """The option letter that the response names, or None when the official rule would draw one at random.

    Tried in order: ``(B)``, `` B `` between spaces, and, in replies of more than five words, an option's text. Several
    candidates: the one that comes last.
    """
    for character in STRIPPED:
        response = response.strip(character)
    response = f" {response} "
    letters = LETTERS[: len(options)]
    lowered = response.lower()

    def candidates(position: Callable[[int], int]) -> list[tuple[int, int]]:
        return [(found, index) for index in range(len(options)) if (found := position(index)) >= 0]

    found = candidates(lambda index: response.rfind(f"({letters[index]})"))
    found = found or candidates(lambda index: response.rfind(f" {letters[index]} "))
    if not found and len(response.split()) > 5:
        found = candidates(lambda index: lowered.rfind(options[index].lower()))
    if not found:
        return None
    # Ties go to the earlier letter, as numpy.argmax does.
    return letters[max(found, key=lambda pair: (pair[0], -pair[1]))[1]]


def open_candidates(response: str) -> list[str | float]:
    """What an open response may be saying: tails after words like "answer ", and the numbers in them, normalised.

    Numbers are rounded to two decimals, text is lower-cased. The order is that of finding.
    """
    text = response.strip().strip(".").lower()
    # The authors also split at ". " before a capital, after lower-casing: it never fires, and so is left out.
    pieces = text.split("\n")
    tails = []
    for index, piece in enumerate(pieces):
        indicators = (*INDICATORS, "=") if index == len(pieces) - 1 else INDICATORS
        shortest = ""
        for indicator in indicators:
            if indicator in piece:
                tail = piece.rsplit(indicator, 1)[1].strip()
                # An empty tail is forgotten again as soon as a later indicator gives one.
                if not shortest or len(tail) < len(shortest):
                    shortest = tail
        if shortest and shortest not in BARE:
            tails.append(shortest)
    tails = tails or [text]
    numbers = [number for tail in tails for pattern in NUMBERS for number in pattern.findall(tail)]
    return list(dict.fromkeys(value for found in (*tails, *numbers) for value in normalise(found)))


def normalise(text: str) -> list[str | float]:
    """A number as a float of two decimals ("nan" and "inf" too), else lower-case text; one character is padded either side."""
    text = text.strip()
    try:
        return [round(float(text.replace(",", "")), 2)]
    except ValueError:
        lowered = text.lower()
        return [f" {lowered}", f"{lowered} "] if len(lowered) == 1 else [lowered]


def open_correct(candidates: Sequence[str | float], golds: Sequence[str]) -> bool:
    """Whether a text candidate contains a gold text, or a number equals a gold number."""
    wanted = [value for gold in golds for value in normalise(str(gold))]
    texts = [value for value in wanted if isinstance(value, str)]
    numbers = [value for value in wanted if isinstance(value, float)]
    return any(any(text in found for text in texts) if isinstance(found, str) else found in numbers for found in candidates)
