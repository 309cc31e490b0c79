"""Adversarial transcripts from a seed: numbers, currencies, contractions, titles, fillers, brackets, symbols and scripts, glued together."""

import random

from workbench.metrics.normalise import english, numbers, tables

SYMBOLS = list("'\"’.,;:!?()[]<>%$¢€£-–—/&+*#@°½…\n\t\u00a0\u2028")
DIGITS = [
    "0", "1", "1s", "007", "3.14", "1,000", "1,2,3", "$20", "£3.5", "€0.07", "$0.5", "$0", "-5", "+3", "2nd", "11th", "60s", "5g",
    "10mm", "m1", "٣", "１２", "²", "1.2.3", "3.", "00", "¢5", "20%", "1960s", "¢7",
]  # fmt: skip
PHRASES = ["12 s", "4 th", "$2 and ¢7", "two and a half", "and a half", "three million and a half", "per cent", "£ 5", "b b c", "a i", "wi-fi",
           "et cetera", "a.m.", "o.k.", "all right", "company's Q3", "she's been", "he'd gone", "they'd done", "who's got", "isn't", "i'm"]  # fmt: skip
LETTERS = ["naïve", "Œuvre", "ẞ", "Þorn", "łódź", "e\u0301", "ﬁ", "日本", "한국", "각", "İstanbul", "ǅ", "🙂", "👩‍👧", "\u200d", "Ⅷ", "①",
           "кот", "ก็", "ِ", "ſ", "K", "\ud800", "\u0600", "नमस्ते", "각"]  # fmt: skip
PLAIN = [
    "the", "a", "i", "of", "to", "and", "cat", "house", "point", "per", "double", "noise", "alan", "phillip", "colour", "archaeology",
    "travelogue", "flyer", "pummelled", "ok", "hmm",
]  # fmt: skip
SHORT = [*english.CONTRACTIONS, *english.TITLES, *english.LEADERBOARD_FILLERS]


def transcripts(seed: int, count: int) -> list[str]:
    draw = random.Random(seed)
    words = sorted(numbers.WORDS)
    kinds = [words, words, list(tables.spelling("whisper")), SYMBOLS, DIGITS, PHRASES, LETTERS, PLAIN, PLAIN, SHORT]
    found = []
    for _ in range(count):
        text = ""
        for _ in range(draw.choice([1, 2, 3, 5, 8, 12, 20])):
            word = draw.choice(draw.choice(kinds))
            text += draw.choice([word, word, word, word.upper(), word.title()]) + draw.choice([" ", " ", " ", "", "-", ", ", ". "])
        found.append(text)
    return found


def word_pairs(seed: int, count: int) -> list[tuple[list[str], list[str]]]:
    """Reference and hypothesis: few or many different words, copies with slips, empty ones, repeats, other scripts, one very long pair."""
    draw = random.Random(seed)
    found = [
        ([], []),
        ([], ["x"]),
        (["x"], []),
        (["x"] * 40, ["x"] * 37),
        (["a", "b"], ["b", "c"]),
        (["ß", "日本"], ["日本", "ss"]),
    ]
    found.append(([f"w{k % 50}" for k in range(1500)], [f"w{k % 49}" for k in range(1500)]))
    while len(found) < count:
        vocabulary = draw.choice([["x"], list("ab"), list("abcde"), [f"w{k}" for k in range(200)], ["né", "ne", "日", "🙂"]])
        reference = [draw.choice(vocabulary) for _ in range(draw.randrange(14))]
        heard = [draw.choice(vocabulary) if draw.random() < 0.2 else word for word in reference if draw.random() < 0.9]
        for _ in range(draw.randrange(3)):
            heard.insert(draw.randint(0, len(heard)), draw.choice(vocabulary))
        found.append((reference, heard if draw.random() < 0.8 else [draw.choice(vocabulary) for _ in range(draw.randrange(14))]))
    return found
