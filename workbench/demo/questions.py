"""Which scenes are drawn, which questions are asked about them, and which values training never sees.

    >>> scene = sample_scene(random.Random(0), "sum", held_out=True)
    >>> question = ask(random.Random(0), scene, "sum")
    >>> question.text, question.answer, question.bare
    ('What is the sum of the two numbers?', '12+34=46', '46')

Held out by hash: one in ten digit strings of three or more digits, and one in ten unordered pairs of summands.
Evaluation and the sample data sets use only held-out values for these; everything else differs by seed.
"""

import hashlib
import random
from dataclasses import dataclass

from workbench.demo import scenes
from workbench.demo.scenes import Scene
from workbench.demo.vocabulary import COLOURS, SHAPES, WORDS

LARGEST_SUMMAND = 30
LONGEST_DIGITS = 6

# Skill -> (scene kind it is asked about, share among training questions).
SKILLS = {
    "digits": ("digits", 3.5),
    "word": ("word", 1.2),
    "lines": ("lines", 2.5),
    "sum": ("sum", 2.5),
    "expression": ("sum", 0.7),
    "colour": ("shapes", 1.0),
    "shape": ("shapes", 0.7),
    "left": ("shapes", 1.0),
    "larger": ("shapes", 1.0),
    "count": ("count", 1.7),
    "bar": ("bars", 1.5),
    "tallest": ("bars", 0.5),
    "decimal": ("bars", 0.5),
    "list": ("bars", 0.4),
}
KINDS = tuple(dict.fromkeys(kind for kind, _ in SKILLS.values()))


@dataclass(frozen=True)
class Question:
    """One question about one scene.

    ``answer`` is what a plain or open prompt is answered with, ``bare`` the final value alone (they differ for sums
    only), ``distractors`` wrong answers of the same kind, ``facts`` the answer's source in words, for text-only
    training.
    """

    skill: str
    text: str
    answer: str
    bare: str
    distractors: tuple[str, ...]
    answer_type: str = "text"
    precision: int | None = None


def is_held_out(value: str | tuple[int, int]) -> bool:
    """Whether a digit string, or a pair of summands in either order, is kept out of training."""
    if isinstance(value, str):
        if len(value) < 3:
            return False
        key = f"digits:{value}"
    else:
        key = f"sum:{min(value)}+{max(value)}"
    return hashlib.blake2b(key.encode(), digest_size=4).digest()[0] % 10 == 0


def sample_digits(generator: random.Random, length: int, held_out: bool) -> str:
    """A random digit string without leading zero, from the held-out or the training part."""
    while True:
        digits = str(generator.randint(1, 9)) + "".join(str(generator.randint(0, 9)) for _ in range(length - 1))
        if length < 3 or is_held_out(digits) == held_out:
            return digits


def sample_pair(generator: random.Random, largest: int, held_out: bool) -> tuple[int, int]:
    """Two summands between 1 and ``largest``."""
    while True:
        pair = (generator.randint(1, largest), generator.randint(1, largest))
        if is_held_out(pair) == held_out:
            return pair


def sample_scene(
    generator: random.Random,
    kind: str,
    held_out: bool,
    longest: int = LONGEST_DIGITS,
    largest: int = LARGEST_SUMMAND,
    shapes: int | None = None,
) -> Scene:
    """A random scene of ``kind``; ``longest`` and ``largest`` bound string length and summands (the curriculum)."""
    if kind == "digits":
        return scenes.draw_digits(generator, sample_digits(generator, generator.randint(1, longest), held_out))
    if kind == "word":
        return scenes.draw_word(generator, generator.choice(WORDS))
    if kind == "lines":
        digits = sample_digits(generator, generator.randint(1, min(4, longest)), held_out)
        return scenes.draw_lines(generator, generator.choice(WORDS), digits)
    if kind == "sum":
        return scenes.draw_sum(generator, *sample_pair(generator, largest, held_out))
    if kind == "shapes":
        return scenes.draw_shapes(generator, shapes or (2 if generator.random() < 0.75 else 1))
    if kind == "count":
        return scenes.draw_count(generator, generator.randint(1, 6))
    return scenes.draw_bars(generator, [generator.randint(1, 8) for _ in range(generator.choice((3, 4)))])


def skills_of(scene: Scene) -> list[str]:
    """Skills that can be asked about this very scene."""
    found = [skill for skill, (kind, _) in SKILLS.items() if kind == scene.kind]
    if scene.kind == "shapes" and len(scene.facts["shapes"]) == 1:
        found = ["colour", "shape"]
    if scene.kind == "bars" and scene.facts["values"].count(max(scene.facts["values"])) > 1:
        found.remove("tallest")
    return found


def describe(scene: Scene) -> str:
    """The scene in words: stands in for the picture while the language model is trained on text alone."""
    facts = scene.facts
    if scene.kind == "digits":
        return f"The image says {facts['digits']}"
    if scene.kind == "word":
        return f"The image says {facts['word']}"
    if scene.kind == "lines":
        return f"The image says {facts['word']} above {facts['digits']}"
    if scene.kind == "sum":
        return f"The image says {facts['first']}+{facts['second']}"
    if scene.kind == "count":
        return f"There are {facts['count']} shapes"
    if scene.kind == "bars":
        return ", ".join(f"{colour} bar {value}" for colour, value in zip(facts["colours"], facts["values"], strict=True))
    parts = [f"{colour} {shape}" for colour, shape in zip(facts["colours"], facts["shapes"], strict=True)]
    if len(parts) == 2:
        parts = [f"{side} {part}" for side, part in zip(("left", "right"), parts, strict=True)]
        parts[facts["larger"]] += " larger"
    return ", ".join(parts)


def ask(generator: random.Random, scene: Scene, skill: str, held_out: bool = False) -> Question:
    """A random question of ``skill`` about ``scene`` in plain words, with its answer and three or more distractors."""
    return _ASK[skill](generator, scene.facts, held_out)


def _other(generator: random.Random, answer: str, pool) -> tuple[str, ...]:
    return tuple(generator.sample([value for value in pool if value != answer], 3))


def _other_digits(generator: random.Random, digits: str, held_out: bool) -> tuple[str, ...]:
    found: list[str] = []
    while len(found) < 3:
        value = sample_digits(generator, len(digits), held_out)
        if value != digits and value not in found:
            found.append(value)
    return tuple(found)


def _digits(generator, facts, held_out):
    text = generator.choice(
        (
            "what is the number in the image?",
            "What is the number in the image?",
            "What number is shown?",
            "what is written in the image?",
        )
    )
    digits = facts["digits"]
    return Question("digits", text, digits, digits, _other_digits(generator, digits, held_out), "integer")


def _word(generator, facts, held_out):
    text = generator.choice(("what is written in the image?", "What is the word in the image?", "Which word is shown?"))
    return Question("word", text, facts["word"], facts["word"], _other(generator, facts["word"], WORDS))


def _lines(generator, facts, held_out):
    word, digits = facts["word"], facts["digits"]
    if generator.random() < 0.4:
        text = generator.choice(("What is the word above the number?", "Which word is shown?"))
        return Question("lines", text, word, word, _other(generator, word, WORDS))
    text = generator.choice(
        (
            f"What is the number under {word}?",
            "What is the number in the image?",
            f"What is the value of {word}?",
            f"what is the price of {word}?",
        )
    )
    return Question("lines", text, digits, digits, _other_digits(generator, digits, held_out), "integer")


def _sum(generator, facts, held_out):
    text = generator.choice(("What is the sum of the two numbers?", "What is the sum?"))
    first, second = facts["first"], facts["second"]
    total = first + second
    near = [str(total + step) for step in range(-9, 10) if step and total + step > 1]
    return Question("sum", text, f"{first}+{second}={total}", str(total), tuple(generator.sample(near, 3)), "integer")


def _expression(generator, facts, held_out):
    text = generator.choice(("Please write out the expression of the formula in the image using LaTeX format.", "What is written?"))
    answer = f"{facts['first']}+{facts['second']}"
    others = ["+".join(map(str, sample_pair(generator, LARGEST_SUMMAND, held_out))) for _ in range(6)]
    others = list(dict.fromkeys(other for other in others if other != answer))[:3]
    return Question("expression", text, answer, answer, tuple(others))


def _colour(generator, facts, held_out):
    place = generator.randrange(len(facts["shapes"]))
    spelling = generator.choice(("color", "colour"))
    text = f"What {spelling} is the {facts['shapes'][place]}?"
    if len(facts["shapes"]) == 1 and generator.random() < 0.3:
        text = f"What {spelling} is the shape?"
    return _named_colour(generator, "colour", text, facts["colours"][place], facts["colours"])


def _named_colour(generator, skill, text, answer, present):
    shown = [colour for colour in present if colour != answer]
    rest = [colour for colour in COLOURS if colour not in present]
    others = (generator.sample(shown, min(len(shown), 3)) + generator.sample(rest, 3))[:3]
    return Question(skill, text, answer, answer, tuple(others))


def _named_shape(generator, skill, text, answer, present):
    shown = [shape for shape in present if shape != answer]
    rest = [shape for shape in SHAPES if shape not in present]
    return Question(skill, text, answer, answer, tuple((shown + generator.sample(rest, 3))[:3]))


def _shape(generator, facts, held_out):
    place = generator.randrange(len(facts["shapes"]))
    text = f"What shape is {facts['colours'][place]}?"
    if len(facts["shapes"]) == 1 and generator.random() < 0.3:
        text = "What shape is in the image?"
    return _named_shape(generator, "shape", text, facts["shapes"][place], facts["shapes"])


def _placed(generator, facts, skill, place, words):
    if generator.random() < 0.5:
        text = f"Which shape is {words}?"
        return _named_shape(generator, skill, text, facts["shapes"][place], facts["shapes"])
    return _named_colour(generator, skill, f"Which color is {words}?", facts["colours"][place], facts["colours"])


def _left(generator, facts, held_out):
    place = generator.randrange(2)
    return _placed(generator, facts, "left", place, ("on the left", "on the right")[place])


def _larger(generator, facts, held_out):
    larger = generator.random() < 0.5
    place = facts["larger"] if larger else 1 - facts["larger"]
    return _placed(generator, facts, "larger", place, "larger" if larger else "smaller")


def _count(generator, facts, held_out):
    text = generator.choice(("How many shapes are there?", "How many shapes are in the image?"))
    answer = str(facts["count"])
    return Question("count", text, answer, answer, _other(generator, answer, "123456"), "integer")


def _bar(generator, facts, held_out):
    place = generator.randrange(len(facts["values"]))
    answer = str(facts["values"][place])
    text = f"What is the value of the {facts['colours'][place]} bar?"
    return Question("bar", text, answer, answer, _other(generator, answer, "12345678"), "integer")


def _tallest(generator, facts, held_out):
    answer = facts["colours"][facts["values"].index(max(facts["values"]))]
    return _named_colour(generator, "tallest", "Which bar is the tallest?", answer, facts["colours"])


def _decimal(generator, facts, held_out):
    place = generator.randrange(len(facts["values"]))
    precision, step = generator.choice(((1, 0.5), (2, 0.25)))
    answer = str(round(facts["values"][place] * step, precision))
    text = f"Each step is {step}. What is the value of the {facts['colours'][place]} bar?"
    pool = [str(round(value * step, precision)) for value in range(1, 9)]
    return Question("decimal", text, answer, answer, _other(generator, answer, pool), "float", precision)


def _list(generator, facts, held_out):
    first, second = generator.sample(range(len(facts["values"])), 2)
    text = f"What are the values of the {facts['colours'][first]} bar and the {facts['colours'][second]} bar?"
    answer = str([facts["values"][first], facts["values"][second]])
    pool = {str([generator.randint(1, 8), generator.randint(1, 8)]) for _ in range(9)} - {answer}
    return Question("list", text, answer, answer, tuple(sorted(pool))[:3], "list")


_ASK = {
    "digits": _digits,
    "word": _word,
    "lines": _lines,
    "sum": _sum,
    "expression": _expression,
    "colour": _colour,
    "shape": _shape,
    "left": _left,
    "larger": _larger,
    "count": _count,
    "bar": _bar,
    "tallest": _tallest,
    "decimal": _decimal,
    "list": _list,
}
