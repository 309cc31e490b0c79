"""Numbers in English words as digits, the way openai/whisper reads them: "two point five million dollars" -> "$2500000".

    as_digits("nineteen ninety nine")        # "1999"
    as_digits("one of the ones")             # "one of the ones": 1 and 1s are written out again

Rules: openai/whisper at c0d2f62, ``whisper/normalizers/english.py``. One number is built up at a time; while it has a decimal
point, a leading zero or digits that were put side by side it is a text, otherwise an integer, and the two grow differently. Every
oddity of the rules is part of the number that the profile stands for ("twenty twenty one" is 2021, "one hundred and" loses "and"
before a number, "point million" loses its "point"). One difference: digits beyond ``LONGEST`` are a word, where the original raises.
"""

from __future__ import annotations

import re
from fractions import Fraction

UNITS = [
    "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve", "thirteen", "fourteen",
    "fifteen", "sixteen", "seventeen", "eighteen", "nineteen",
]  # fmt: skip
THOUSANDS = [
    "thousand", "million", "billion", "trillion", "quadrillion", "quintillion", "sextillion", "septillion", "octillion", "nonillion",
    "decillion",
]  # fmt: skip
ONES = {word: number for number, word in enumerate(UNITS, start=1)}
TENS = {"twenty": 20, "thirty": 30, "forty": 40, "fifty": 50, "sixty": 60, "seventy": 70, "eighty": 80, "ninety": 90}
MULTIPLIERS = {"hundred": 100} | {word: 1000**power for power, word in enumerate(THOUSANDS, start=1)}
ZEROS = {"o", "oh", "zero"}
IRREGULAR = {"zeroth": 0, "first": 1, "second": 2, "third": 3, "fifth": 5, "twelfth": 12}
ENDINGS = {1: "st", 2: "nd", 3: "rd"}
SIGNS = {"minus": "-", "negative": "-", "plus": "+", "positive": "+"}
CURRENCIES = {
    name: sign
    for sign, names in {"£": "pound pounds", "€": "euro euros", "$": "dollar dollars", "¢": "cent cents"}.items()
    for name in names.split()
}
PREFIXES = {*SIGNS.values(), *CURRENCIES.values()}
LONGEST = 1000


def inflected() -> dict[str, tuple[str, int, str]]:
    """word -> (what it grows like, number, suffix): plurals and ordinals end a number."""
    found = {"sixes" if word == "six" else word + "s": ("ones", number, "s") for word, number in ONES.items()}
    found |= {word: ("ones", number, ENDINGS.get(number, "th")) for word, number in IRREGULAR.items()}
    for word, number in ONES.items():
        if number > 3 and number not in IRREGULAR.values():
            found[word + ("h" if word.endswith("t") else "th")] = ("ones", number, "th")
    for word, number in TENS.items():
        found[word[:-1] + "ies"] = ("tens", number, "s")
        found[word[:-1] + "ieth"] = ("tens", number, "th")
    for word, number in MULTIPLIERS.items():
        found[word + "s"] = ("multiplier", number, "s")
        found[word + "th"] = ("multiplier", number, "th")
    return found


INFLECTED = inflected()
SPECIAL = {"and", "double", "triple", "point"}
DECIMALS = {*ONES, *TENS, *ZEROS}
WORDS = {*DECIMALS, *INFLECTED, *MULTIPLIERS, *SIGNS, *CURRENCIES, "per", "percent", *SPECIAL}
STARTING = WORDS - {"and", "double", "triple", "per", "percent", *CURRENCIES}
"""Words without which, and without a digit, a text has no number in it and stays as it is."""

DIGIT = re.compile(r"\d")
NUMERAL = re.compile(r"^\d+(\.\d+)?$")
HALF = re.compile(r"\band\s+a\s+half\b")
LETTER_DIGIT, DIGIT_LETTER = re.compile(r"([a-z])([0-9])"), re.compile(r"([0-9])([a-z])")
SUFFIX = re.compile(r"([0-9])\s+(st|nd|rd|th|s)\b")
AND_CENTS = re.compile(r"([€£$])([0-9]+) (?:and )?¢([0-9]{1,2})\b")
ONLY_CENTS = re.compile(r"[€£$]0.([0-9]{1,2})\b")  # any character where the point is, as in the original
ONE = re.compile(r"\b1(s?)\b")


def as_digits(text: str) -> str:
    """The text with its numbers in digits, words joined by single spaces."""
    words = text.split()
    if STARTING.isdisjoint(words) and not DIGIT.search(text) and "half" not in words:
        return " ".join(words)
    if "half" in text:
        text = halves(text)
    text = DIGIT_LETTER.sub(r"\1 \2", LETTER_DIGIT.sub(r"\1 \2", text))
    text = " ".join(Reader(SUFFIX.sub(r"\1\2", text).split()).read())
    text = AND_CENTS.sub(lambda found: f"{found[1]}{found[2]}.{int(found[3]):02d}", text)
    text = ONLY_CENTS.sub(lambda found: f"¢{int(found[1])}", text)
    return ONE.sub(r"one\1", text)


def halves(text: str) -> str:
    """ "two and a half" -> "two point five"; after other words the half stays, and at the start of a text it is lost."""
    parts = HALF.split(text)
    found = []
    for part in parts[:-1]:
        if part.strip():
            last = part.split()[-1]
            found += [part, "point five" if last in DECIMALS or last in MULTIPLIERS else "and a half"]
    if parts[-1].strip():
        found.append(parts[-1])
    return " ".join(found)


class Reader:
    """One pass over the words of a text. ``value`` is the number so far (int or text), ``prefix`` its sign or currency."""

    def __init__(self, words: list[str]):
        self.words, self.found = words, []
        self.value: int | str | None = None
        self.prefix: str | None = None

    def read(self) -> list[str]:
        place, words = 0, self.words
        while place < len(words):
            word = words[place]
            if self.value is None and self.prefix is None and word not in WORDS and word.isalpha():
                self.found.append(word)  # most words: nothing is being built up, and this one starts nothing
                place += 1
            else:
                place += self.step(place)
        self.flush()
        return self.found

    def emit(self, text: int | str) -> None:
        self.found.append(f"{self.prefix or ''}{text}")
        self.value = self.prefix = None

    def flush(self) -> None:
        if self.value is not None:
            self.emit(self.value)

    def step(self, place: int) -> int:
        """Read the word at ``place``; how many words that took."""
        word = self.words[place]
        if word[0] in PREFIXES or word[0].isdecimal():
            prefixed = word[0] in PREFIXES
            if NUMERAL.match(word[prefixed:]) and len(word) <= LONGEST:
                self.numeral(word, prefixed)
                return 1
        if word not in WORDS:
            self.flush()
            self.emit(word)
            return 1
        before = self.words[place - 1] if place else None
        after = self.words[place + 1] if place + 1 < len(self.words) else None
        if word in ZEROS:
            self.value = f"{self.value or ''}0"
        elif word in ONES:
            self.value = self.with_ones(ONES[word], before)
        elif word in TENS:
            self.value = self.with_tens(TENS[word])
        elif word in INFLECTED:
            self.inflected(*INFLECTED[word], before)
        elif word in MULTIPLIERS:
            self.multiply(MULTIPLIERS[word])
        elif word in SIGNS:
            self.flush()
            if after in WORDS or numeric(after):
                self.prefix = SIGNS[word]
            else:
                self.emit(word)
        elif word in CURRENCIES:
            if self.value is None:
                self.emit(word)
            else:
                self.prefix = CURRENCIES[word]
                self.flush()
        elif word in SPECIAL:
            return self.special(word, before, after)
        else:
            return self.percent(word, after)
        return 1

    def numeral(self, word: str, prefixed: bool) -> None:
        """Digits that were there already, perhaps with a sign and a decimal part."""
        if isinstance(self.value, str) and self.value.endswith("."):
            self.value += word
            return
        self.flush()
        if prefixed:
            self.prefix = word[0]
        digits = word[prefixed:]
        if "." in digits:
            number = Fraction(digits)
            self.value = number.numerator if number.denominator == 1 else digits
        else:
            self.value = int(digits)

    def with_ones(self, number: int, before: str | None) -> int | str:
        """The number so far with 1 to 19 after it: added where there is room, else put beside it."""
        value = self.value
        if value is None:
            return number
        if isinstance(value, str) or before in ONES:
            return f"{value[:-1] if before in TENS and number < 10 else value}{number}"
        return value + number if value % (10 if number < 10 else 100) == 0 else f"{value}{number}"

    def with_tens(self, number: int) -> int | str:
        value = self.value
        if value is None:
            return number
        return value + number if isinstance(value, int) and value % 100 == 0 else f"{value}{number}"

    def inflected(self, kind: str, number: int, suffix: str, before: str | None) -> None:
        """A plural or an ordinal: the number ends here."""
        if kind == "ones":
            self.emit(f"{self.with_ones(number, before)}{suffix}")
        elif kind == "tens":
            self.emit(f"{self.with_tens(number)}{suffix}")
        elif self.value is None:
            self.emit(f"{number}{suffix}")
        elif isinstance(self.value, int):
            self.emit(f"{times(self.value, number)}{suffix}")
        else:
            product = exact_product(self.value, number)
            if product is None:
                self.flush()
                product = number
            self.emit(f"{product}{suffix}")

    def multiply(self, number: int) -> None:
        if self.value is None:
            self.value = number
        elif isinstance(self.value, int):
            self.value = times(self.value, number)
        else:
            product = exact_product(self.value, number)
            if product is None:
                self.flush()
                product = number
            self.value = product

    def percent(self, word: str, after: str | None) -> int:
        """ "percent" and "per cent" after a number; without one both are words."""
        if self.value is None:
            self.emit(word)
        elif word == "percent":
            self.emit(f"{self.value}%")
        elif after == "cent":
            self.emit(f"{self.value}%")
            return 2
        else:
            self.flush()
            self.emit(word)
        return 1

    def special(self, word: str, before: str | None, after: str | None) -> int:
        """Words that mean something only before what may be a number."""
        if after not in WORDS and not numeric(after):
            self.flush()
            self.emit(word)
        elif word == "and":
            if before not in MULTIPLIERS:
                self.flush()
                self.emit(word)
        elif word == "point":
            if after in DECIMALS or numeric(after):
                self.value = f"{self.value or ''}."
        elif after in ONES or after in ZEROS:
            self.value = f"{self.value or ''}{str(ONES.get(after, 0)) * (2 if word == 'double' else 3)}"
            return 2
        else:
            self.flush()
            self.emit(word)
        return 1


def numeric(word: str | None) -> bool:
    return word is not None and NUMERAL.match(word) is not None


def times(value: int, number: int) -> int:
    """What stands below a thousand is multiplied: "two thousand three" hundred."""
    return value // 1000 * 1000 + value % 1000 * number


def exact_product(value: str, number: int) -> int | None:
    """``value * number`` where it is whole; None for what is not a number ("3.", "0.5" hundred is 50, "1.2.3" none)."""
    if len(value) > LONGEST:
        return None
    try:
        product = Fraction(value) * number
    except ValueError:
        return None
    return product.numerator if product.denominator == 1 else None
