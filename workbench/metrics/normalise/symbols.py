"""Punctuation, symbols and diacritics, character by character: what both Whisper normalisers begin with.

    without_brackets("yes [noise] (laughs) no")     # "yes   no"
    without_symbols("naïve, l'œuvre!")              # "naïve  l œuvre "
    without_diacritics("naïve, l'œuvre!")           # "naive  l oeuvre "

Rules: openai/whisper at c0d2f62, ``whisper/normalizers/basic.py``.
"""

from __future__ import annotations

import re
import unicodedata

ANGLED = re.compile(r"[<\[][^>\]]*[>\]]")
ROUND = re.compile(r"\(([^)]+?)\)")
SPACES = re.compile(r"\s+")
WITHOUT_DECOMPOSITION = {
    "œ": "oe", "Œ": "OE", "ø": "o", "Ø": "O", "æ": "ae", "Æ": "AE", "ß": "ss", "ẞ": "SS",
    "đ": "d", "Đ": "D", "ð": "d", "Ð": "D", "þ": "th", "Þ": "th", "ł": "l", "Ł": "L",
}  # fmt: skip
"""Letters that NFKD leaves whole."""


class Characters(dict):
    """A table for ``str.translate`` that is filled in as characters turn up: marks, symbols and punctuation become a space."""

    def __init__(self, keep: str = "", plain: bool = False):
        super().__init__()
        self.keep, self.plain = keep, plain

    def __missing__(self, code: int) -> str:
        character = chr(code)
        category = unicodedata.category(character)
        if character in self.keep:
            found = character
        elif self.plain and character in WITHOUT_DECOMPOSITION:
            found = WITHOUT_DECOMPOSITION[character]
        elif self.plain and category == "Mn":
            found = ""
        else:
            found = " " if category[0] in "MSP" else character
        self[code] = found
        return found


SYMBOLS = Characters()
SYMBOLS_AND_DIACRITICS = Characters(plain=True)
ALL_BUT_NUMERIC = Characters(keep=".%$¢€£", plain=True)


def without_brackets(text: str) -> str:
    """Without ``<...>``, ``[...]`` and ``(...)``; the first two close with either of ``>`` and ``]``."""
    if "<" in text or "[" in text:
        text = closed(ANGLED, text, max(text.rfind(">"), text.rfind("]")) + 1)
    return closed(ROUND, text, text.rfind(")") + 1) if "(" in text else text


def closed(brackets: re.Pattern, text: str, end: int) -> str:
    """Nothing opens for good behind the last closing bracket: looking for its end from each of 100,000 would take minutes."""
    return brackets.sub("", text[:end]) + text[end:]


def without_symbols(text: str) -> str:
    return unicodedata.normalize("NFKC", text).translate(SYMBOLS)


def without_diacritics(text: str, keep_numeric: bool = False) -> str:
    """Decomposed, with marks dropped and symbols turned into spaces; ``keep_numeric`` keeps ``.%$¢€£``."""
    return unicodedata.normalize("NFKD", text).translate(ALL_BUT_NUMERIC if keep_numeric else SYMBOLS_AND_DIACRITICS)
