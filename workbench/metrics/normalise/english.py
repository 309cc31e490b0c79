"""Whisper's English normaliser, and the Open ASR Leaderboard's extension of it: one pipeline, two sets of word lists.

    whisper_english()("Mr. Smith's colour TV costs $20 million")        # "mister smith is color tv costs $20000000"
    leaderboard_english()("The B.B.C.'s Wi-Fi, uh, isn't all right")    # "the bbcs wifi is not alright"

Rules: openai/whisper at c0d2f62, ``whisper/normalizers/english.py``; huggingface/open_asr_leaderboard at d1e99b2,
``normalizer/normalizer.py`` and ``normalizer/english_abbreviations.py``. Every rule is tried only where its letters occur, which changes
nothing but the time. Defects are kept, since they are part of the number: in Whisper ``archaeology`` becomes ``archeology</span>``; in
the leaderboard's ``10mm`` becomes ``10 hmm`` (``mm`` is spelt ``hmm``) and ``company's Q3`` becomes ``company sq3`` (the possessive's s
joins the letter after it like an acronym).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from functools import cache

from workbench.metrics.normalise import tables
from workbench.metrics.normalise.numbers import as_digits
from workbench.metrics.normalise.symbols import SPACES, without_brackets, without_diacritics

Rule = tuple[str, re.Pattern, str]

CONTRACTIONS = {
    "won't": "will not", "can't": "can not", "let's": "let us", "ain't": "aint", "y'all": "you all", "wanna": "want to",
    "gotta": "got to", "gonna": "going to", "i'ma": "i am going to", "imma": "i am going to", "woulda": "would have",
    "coulda": "could have", "shoulda": "should have", "ma'am": "madam",
}  # fmt: skip
TITLES = {
    "mr": "mister", "mrs": "missus", "st": "saint", "dr": "doctor", "prof": "professor", "capt": "captain", "gov": "governor",
    "ald": "alderman", "gen": "general", "sen": "senator", "rep": "representative", "pres": "president", "rev": "reverend",
    "hon": "honorable", "asst": "assistant", "assoc": "associate", "lt": "lieutenant", "col": "colonel", "jr": "junior",
    "sr": "senior", "esq": "esquire",
}  # fmt: skip
PERFECT = {
    "'d been": "had been",
    "'s been": "has been",
    "'d gone": "had gone",
    "'s gone": "has gone",
    "'d done": "had done",
    "'s got": "has got",
}
BEFORE_S = {"n't": "not", "'re": "are"}
AFTER_S = {"'d": "would", "'ll": "will", "'t": "not", "'ve": "have", "'m": "am"}
WHISPER_IS = ("'s", re.compile(r"'s\b"), " is")
LEADERBOARD_IS = ("'s", re.compile(r"\b(it|he|she|what|that|who|here|there|how|when|where|why|this)'s\b"), r"\1 is")

WHISPER_FILLERS = ["hmm", "mm", "mhm", "mmm", "uh", "um"]
LEADERBOARD_FILLERS = [
    *WHISPER_FILLERS, "ah", "aha", "ahh", "ahm", "eh", "ehehe", "em", "hm", "huh", "hum", "mhum", "uhm", "umm", "uhuh",
]  # fmt: skip
LEADERBOARD_COMPOUNDS = {
    ("et", "cetera"): "etc", ("al", "right"): "alright", ("all", "right"): "alright", ("how", "ever"): "however", ("wi", "fi"): "wifi",
    ("hi", "fi"): "hifi", ("lo", "fi"): "lofi", ("sci", "fi"): "scifi", ("e", "mail"): "email", ("e", "book"): "ebook",
    ("e", "commerce"): "ecommerce", ("x", "ray"): "xray", ("t", "shirt"): "tshirt", ("a", "m"): "am", ("p", "m"): "pm", ("o", "k"): "okay",
}  # fmt: skip

SPACE_APOSTROPHE = re.compile(r"\s+'")
COMMA_IN_DIGITS = re.compile(r"(\d),(\d)")
FULL_STOP = re.compile(r"\.([^0-9]|$)")
SYMBOL_BEFORE_WORD = re.compile(r"[.$¢€£]([^0-9])")
PERCENT_AFTER_WORD = re.compile(r"([^0-9])%")


def rules(is_rule: Rule) -> list[Rule]:
    """(letters without which it cannot apply, pattern, replacement), in the order in which they are applied."""
    found = [(short, rf"\b{short}\b", long) for short, long in CONTRACTIONS.items()]
    found += [(short, rf"\b{short}\b", long + " ") for short, long in TITLES.items()]
    found += [(short, rf"{short}\b", f" {long}") for short, long in (PERFECT | BEFORE_S).items()]
    last = [(short, rf"{short}\b", f" {long}") for short, long in AFTER_S.items()]
    compiled = [(needle, re.compile(pattern), text) for needle, pattern, text in [*found, *last]]
    return [*compiled[: len(found)], is_rule, *compiled[len(found) :]]


def shortest(words: Iterable[str]) -> list[str]:
    """Those that hold none of the others: a text without any of them holds no word of the list."""
    words = list(words)
    return [word for word in words if not any(other != word and other in word for other in words)]


class English:
    """The pipeline. ``compounds`` are joined before numbers are read, ``after`` works on the words at the end."""

    def __init__(
        self,
        fillers: list[str],
        is_rule: Rule,
        spelling: dict[str, str],
        compounds: dict[tuple[str, str], str] | None = None,
        after: Callable[[list[str]], list[str]] | None = None,
    ):
        self.fillers, self.traces = re.compile(rf"\b({'|'.join(fillers)})\b"), shortest(fillers)
        every = rules(is_rule)
        self.plain_rules = [rule for rule in every if "'" not in rule[0]]
        self.rules = every
        self.spelling, self.after = spelling, after
        self.compounds = [
            (first, second, re.compile(rf"\b{first}\s+{second}\b"), joined) for (first, second), joined in (compounds or {}).items()
        ]

    def __call__(self, text: str) -> str:
        text = without_brackets(text.lower())
        if any(trace in text for trace in self.traces):
            text = self.fillers.sub("", text)
        if "'" in text:
            text = SPACE_APOSTROPHE.sub("'", text)
        for needle, pattern, replacement in self.rules if "'" in text else self.plain_rules:
            if needle in text:
                text = pattern.sub(replacement, text)
        if "," in text:
            text = COMMA_IN_DIGITS.sub(r"\1\2", text)
        if "." in text:
            text = FULL_STOP.sub(r" \1", text)
        text = without_diacritics(text, keep_numeric=True)
        for first, second, pattern, joined in self.compounds:
            if second in text and first in text:
                text = pattern.sub(joined, text)
        words = [self.spelling.get(word, word) for word in as_digits(text).split()]
        text = " ".join(self.after(words) if self.after else words)
        if "." in text or "$" in text or "%" in text or not text.isascii():
            text = PERCENT_AFTER_WORD.sub(r"\1 ", SYMBOL_BEFORE_WORD.sub(r" \1", text))
            text = SPACES.sub(" ", text)
        return text


def joined_acronyms(words: list[str]) -> list[str]:
    """Runs of single letters or digits as one word: two or more, but three or more where "a" or "i" is among them."""
    found: list[str] = []
    run: list[str] = []
    for word in [*words, ""]:
        if len(word) == 1 and word.isalnum():
            run.append(word)
            continue
        found += ["".join(run)] if len(run) >= (3 if "a" in run or "i" in run else 2) else run
        run = []
        found.append(word)
    return found[:-1]


@cache
def whisper_english() -> English:
    return English(WHISPER_FILLERS, WHISPER_IS, tables.spelling("whisper"))


@cache
def leaderboard_english() -> English:
    names = tables.names()
    return English(
        LEADERBOARD_FILLERS,
        LEADERBOARD_IS,
        tables.spelling("oal"),
        LEADERBOARD_COMPOUNDS,
        lambda words: joined_acronyms([names.get(word, word) for word in words]),
    )
