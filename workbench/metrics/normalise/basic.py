"""Whisper's basic normaliser, for every language but English: lower case, no brackets, no symbols.

    basic("Ça va, (rires) très bien !")               # "ça va très bien "
    basic("今日は", split_letters=True)                 # "今 日 は"

Rules: openai/whisper at c0d2f62, ``whisper/normalizers/basic.py``; letters are split for languages written without spaces, so that the
"word" error rate there is one of characters (A. Radford et al., arXiv 2212.04356, section 4.4 and appendix C).
"""

from __future__ import annotations

import re

from workbench.metrics.normalise.symbols import SPACES, without_brackets, without_diacritics, without_symbols

WRITTEN_WITHOUT_SPACES = ("zh", "ja", "th", "lo", "my", "yue")

# Extended grapheme clusters (UAX #29) of text that has no marks, symbols or punctuation left: what remains to be kept together are Korean
# syllables, letters joined by format characters, and the prepended ones.
JOINED = "\u034f\u180b-\u180d\u200c\u200d\U000e0020-\U000e007f"
PREPENDED = "\u0600-\u0605\u06dd\u070f\u0890\u0891\u08e2\u0d4e\U000110bd\U000110cd\U000111c2\U000111c3\U0001193f\U00011941\U00011a3a\U00011a84-\U00011a89\U00011d46\U00011f02"
LEADING, VOWEL, TRAILING = "\u1100-\u115f\ua960-\ua97c", "\u1160-\u11a7\ud7b0-\ud7c6", "\u11a8-\u11ff\ud7cb-\ud7fb"
OPEN = "".join(chr(code) for code in range(0xAC00, 0xD7A4, 28))
CONTROLS = "\x00-\x1f\x7f-\x9f\xad\u061c\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff0-\ufffb\U00013430-\U0001343f\U000e0000-\U000e001f\U000e0080-\U000e0fff\U0001bca0-\U0001bca3"
CLUSTER = re.compile(
    rf"\r\n|[{CONTROLS}]|[{PREPENDED}]*(?:[{LEADING}]*(?:[{OPEN}][{VOWEL}]*|[\uac00-\ud7a3]|[{VOWEL}]+)[{TRAILING}]*|[{LEADING}]+|[{TRAILING}]+"
    rf"|[^{CONTROLS}{PREPENDED}{JOINED}])[{JOINED}]*|[{PREPENDED}{JOINED}]+"
)


def basic(text: str, remove_diacritics: bool = False, split_letters: bool = False) -> str:
    """The normalised text. As in the original, spaces at the ends may stay: split into words, they mean nothing."""
    clean = without_diacritics if remove_diacritics else without_symbols
    text = clean(without_brackets(text.lower())).lower()
    if split_letters:
        text = " ".join(CLUSTER.findall(text))
    return SPACES.sub(" ", text)
