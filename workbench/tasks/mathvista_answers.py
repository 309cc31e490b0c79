"""MathVista's deterministic rules: extract an answer from a response, normalise it, and the hint of each answer type.

>>> normalise("(b)", "multi_choice", "text", ["yes", "no"])
'no'
>>> normalise("3.96", "free_form", "float", [], 1.0)
'4.0'

Rules of lupantech/MathVista at 53d5258, in our own code.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from workbench.tasks.mmmu_parsing import LETTERS

IN_BRACKETS = re.compile(r"\(([a-zA-Z])\)")
HINTS = {
    "choice": "Please answer the question and provide the correct option letter, e.g., A, B, C, D, at the end.",
    "integer": "Please answer the question requiring an integer answer and provide the final value, e.g., 1, 2, 3, at the end.",
    "float1": "Please answer the question requiring a floating-point number with one decimal place and provide the final value, "
    "e.g., 1.2, 1.3, 1.4, at the end.",
    "float2": "Please answer the question requiring a floating-point number with two decimal places and provide the final value, "
    "e.g., 1.23, 1.34, 1.45, at the end.",
    "list": "Please answer the question requiring a Python list as an answer and provide the final list, "
    "e.g., [1, 2, 3], [1.2, 1.3, 1.4], at the end.",
}


def hint(question_type: str, answer_type: str, precision: float | None) -> str:
    """The "Hint: ..." line. Raises ValueError for an answer type that has none."""
    kind = "choice" if question_type == "multi_choice" else answer_type
    if kind == "float":
        kind = f"float{int(precision or 0)}"
    if kind not in HINTS:
        raise ValueError(f"MathVista has no hint for answer type {answer_type!r} with precision {precision!r}")
    return f"Hint: {HINTS[kind]}"


def extract(response: str, question_type: str, answer_type: str, choices: Sequence[str]) -> str:
    """What the official extraction gets without an LLM: an exact choice, integer or float; otherwise "".

    The authors' ``--quick_extract`` pattern is off, as it is by default.
    """
    if question_type == "multi_choice" and response in choices:
        return response
    kinds: dict[str, Callable] = {"integer": int, "float": float}
    if answer_type in kinds:
        try:
            return str(kinds[answer_type](response))
        except ValueError:
            pass
    return ""


def normalise(
    extraction: str, question_type: str, answer_type: str, choices: Sequence[str], precision: float | None = None
) -> str | None:
    """The text that is compared with the gold, or None when the extraction is not of the answer's type.

    A choice that is not a valid letter becomes the choice at the smallest edit distance (the first of equals), so an
    empty extraction becomes the shortest choice. ``precision`` arrives as a float (the data set's dtype).
    """
    if question_type == "multi_choice":
        letter = extraction.strip()
        if bracketed := IN_BRACKETS.search(letter):
            letter = bracketed[1].upper()
        letters = LETTERS[: len(choices)]
        if len(letter) == 1 and letter in letters:
            return choices[letters.index(letter)]
        return min(choices, key=lambda choice: edit_distance(letter, choice), default=None)
    try:
        if answer_type == "integer":
            return str(int(float(extraction)))
        if answer_type == "float":
            return str(round(float(extraction), int(precision)))
    except (ValueError, OverflowError, TypeError):
        return None
    return extraction if answer_type == "list" else None


def edit_distance(first: str, second: str) -> int:
    """Levenshtein distance: insertions, deletions and substitutions cost one each; case counts."""
    row = list(range(len(second) + 1))
    for index, left in enumerate(first, 1):
        diagonal, row[0] = row[0], index
        for column, right in enumerate(second, 1):
            diagonal, row[column] = row[column], min(row[column] + 1, row[column - 1] + 1, diagonal + (left != right))
    return row[-1]
