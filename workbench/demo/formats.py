"""The prompt formats the demo model is trained on, worded as the benchmarks word them.

    >>> render(question, "mmmu_choice", random.Random(0))
    Prompt(text="What color is the star?\\n(A) red\\n...", answer="C", gold="C", options=("red", ...))

Sources: MMMU bb0b95a, MMStar 88f243a, MultimodalOCR 794c36d (OCRBench), MathVista 53d5258 (``data/query.json``).
"""

import random
from dataclasses import dataclass

from workbench.demo.questions import Question
from workbench.demo.vocabulary import LETTERS

OPEN_INSTRUCTION = "Answer the question using a single word or phrase."
CHOICE_INSTRUCTION = "Answer with the option's letter from the given choices directly."
TEXT_INSTRUCTION = "Answer this question using the text in the image directly."
HINTS = {
    "choice": "Hint: Please answer the question and provide the correct option letter, e.g., A, B, C, D, at the end.",
    "text": "Hint: Please answer the question and provide the correct option letter, e.g., A, B, C, D, at the end.",
    "integer": "Hint: Please answer the question requiring an integer answer and provide the final value, "
    "e.g., 1, 2, 3, at the end.",
    "float1": "Hint: Please answer the question requiring a floating-point number with one decimal place and provide "
    "the final value, e.g., 1.2, 1.3, 1.4, at the end.",
    "float2": "Hint: Please answer the question requiring a floating-point number with two decimal places and provide "
    "the final value, e.g., 1.23, 1.34, 1.45, at the end.",
    "list": "Hint: Please answer the question requiring a Python list as an answer and provide the final list, "
    "e.g., [1, 2, 3], [1.2, 1.3, 1.4], at the end.",
}

# Style -> share among training prompts.  Letter styles are answered with one letter.
STYLES = {
    "plain": 0.32,
    "mmmu_open": 0.08,
    "mmmu_choice": 0.20,
    "mmstar_options": 0.12,
    "mmstar_choices": 0.08,
    "mathvista_free": 0.08,
    "mathvista_choice": 0.12,
}
LETTER_STYLES = ("mmmu_choice", "mmstar_options", "mmstar_choices")


@dataclass(frozen=True)
class Prompt:
    """What the model is given, what it should answer, and (for choices) the options in order."""

    text: str
    answer: str
    options: tuple[str, ...] = ()
    right: str = ""
    is_letter: bool = False

    def ends(self) -> list[int]:
        """Where in ``text`` each option ends."""
        found, position = [], 0
        for name, option in zip(LETTERS, self.options, strict=False):
            wanted = (f"({name}) {option}", f"{name}: {option}")
            position, length = max((self.text.find(mark, position), len(mark)) for mark in wanted)
            position += length
            found.append(position)
        return found


def shuffle_options(question: Question, generator: random.Random) -> tuple[str, ...]:
    """The bare answer and three distractors in random order."""
    options = [question.bare, *question.distractors[:3]]
    generator.shuffle(options)
    return tuple(options)


def render(
    question: Question,
    style: str,
    generator: random.Random,
    options: tuple[str, ...] | None = None,
    image: tuple[int, int] = (1, 1),
) -> Prompt:
    """``question`` in one of the ``STYLES``; ``image`` says which image of how many is asked about."""
    text = tag_images(question.text, style, generator, image)
    if style == "plain":
        if question.skill == "lines" and text.endswith("?") and generator.random() < 0.3:
            text = f"{text} {TEXT_INSTRUCTION}"
        return Prompt(text, question.answer)
    if style == "mmmu_open":
        return Prompt(f"{text}\n{OPEN_INSTRUCTION}", question.answer)
    if style == "mathvista_free":
        return Prompt(f"{hint_of(question)}\nQuestion: {text}", question.bare)
    options = options or shuffle_options(question, generator)
    letter = LETTERS[options.index(question.bare)]
    lines = "\n".join(f"({name}) {option}" for name, option in zip(LETTERS, options, strict=True))
    if style == "mmmu_choice":
        return Prompt(f"{text}\n{lines}\n\n{CHOICE_INSTRUCTION}", letter, options, question.bare, True)
    if style == "mmstar_options":
        listed = ", ".join(f"{name}: {option}" for name, option in zip(LETTERS, options, strict=True))
        return Prompt(f"Question: {text}\nOptions: {listed}\n", letter, options, question.bare, True)
    if style == "mmstar_choices":
        return Prompt(f"Question: {text}\nChoices:\n{lines}\n", letter, options, question.bare, True)
    if style == "mathvista_choice":
        return Prompt(f"{HINTS['choice']}\nQuestion: {text}\nChoices:\n{lines}", question.bare, options, question.bare)
    raise ValueError(f"unknown prompt style {style!r}; known: {', '.join(STYLES)}")


def tag_images(text: str, style: str, generator: random.Random, image: tuple[int, int] = (1, 1)) -> str:
    """``text`` with MMMU's ``<image k>`` tags: always when there are several images, in MMMU's styles otherwise."""
    number, images = image
    if images > 1:
        tags = " ".join(f"<image {position}>" for position in range(1, images + 1))
        return f"{tags} For <image {number}>: {text}"
    if not style.startswith("mmmu"):
        return text
    return f"<image 1> {text}" if generator.random() < 0.5 else f"{text} <image 1>"


def hint_of(question: Question) -> str:
    """MathVista's hint for a free-form question."""
    kind = question.answer_type
    return HINTS[f"float{question.precision}" if kind == "float" else kind]
