"""Draws the demo model's 64 x 64 pictures and says, patch by patch, what is in them.

A scene is one of seven kinds: ``digits``, ``word``, ``lines`` (a word above a number), ``sum`` (``12+34``), ``shapes``
(one or two), ``count`` (one to six shapes) and ``bars``.  Its ``facts`` are what questions are asked about; its
``labels`` (64 patches x heads) are what the vision tower is pre-trained on.

    >>> scene = draw_digits(random.Random(0), "4821")
    >>> scene.image.size, scene.facts["digits"], scene.labels.shape
    ((64, 64), '4821', (64, 10))
"""

import functools
import math
import random
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from workbench.demo.vocabulary import COLOURS, SHAPES, WORDS

SIZE, PATCH = 64, 8
GRID = SIZE // PATCH
GLYPHS = "0123456789abcdefghijklmnopqrstuvwxyz+"
COLOUR_NAMES = tuple(COLOURS)

# Heads of the dense labels and their number of classes; class 0 is "nothing of the kind here".
HEADS = {
    "glyph": len(GLYPHS) + 1,
    "index": 8,
    "length": 8,
    "word": len(WORDS) + 1,
    "shape": len(SHAPES) + 1,
    "colour": len(COLOURS) + 1,
    "left": 3,
    "larger": 3,
    "count": 7,
    "value": 9,
}
_COLUMN = {name: position for position, name in enumerate(HEADS)}


@dataclass(frozen=True)
class Scene:
    """One picture: its kind, the image, the facts to ask about, and dense labels (64, heads) of int64."""

    kind: str
    image: Image.Image
    facts: dict
    labels: np.ndarray


@functools.lru_cache(maxsize=64)
def _font(size: int):
    return ImageFont.load_default(size)


@functools.lru_cache(maxsize=8192)
def _measure(text: str, size: int) -> tuple[float, float, float, float]:
    return _font(size).getbbox(text)


class _Canvas:
    """A picture being drawn together with its patch labels."""

    def __init__(self, generator: random.Random):
        self.generator = generator
        background = tuple(generator.randint(228, 255) for _ in range(3))
        self.image = Image.new("RGB", (SIZE, SIZE), background)
        self.draw = ImageDraw.Draw(self.image)
        self.labels = np.zeros((GRID, GRID, len(HEADS)), np.int64)
        self.cover = np.zeros((GRID, GRID))

    def mark(self, box: tuple[float, float, float, float], **classes: int) -> None:
        """Label the patches that ``box`` (left, top, right, bottom) covers more than what was there before."""
        left, top, right, bottom = box
        for row in range(max(0, int(top // PATCH)), min(GRID, int(bottom // PATCH) + 1)):
            height = min(bottom, (row + 1) * PATCH) - max(top, row * PATCH)
            for column in range(max(0, int(left // PATCH)), min(GRID, int(right // PATCH) + 1)):
                width = min(right, (column + 1) * PATCH) - max(left, column * PATCH)
                area = width * height
                if height > 1 and width > 1 and area > max(5.0, self.cover[row, column]):
                    self.cover[row, column] = area
                    for name, value in classes.items():
                        self.labels[row, column, _COLUMN[name]] = value

    def text(self, text: str, largest: int, top: int, bottom: int, word: int = 0) -> None:
        """Write ``text`` at a random size (13 to ``largest``) and place between rows ``top`` and ``bottom``."""
        generator = self.generator
        while largest > 12 and _measure(text, largest)[2] > SIZE - 4:
            largest -= 1
        size = generator.randint(min(13, largest), largest)
        left, upper, right, lower = _measure(text, size)
        x = generator.uniform(2 - left, SIZE - 2 - right)
        y = generator.uniform(top - upper, max(top - upper, bottom - lower))
        x, y = round(x), round(y)
        colour = tuple(generator.randint(0, 110) for _ in range(3))
        self.draw.text((x, y), text, fill=colour, font=_font(size))
        start = x + left
        for position, character in enumerate(text):
            end = x + _measure(text[: position + 1], size)[2]
            self.mark(
                (start, y + upper, end, y + lower),
                glyph=GLYPHS.index(character) + 1,
                index=position + 1,
                length=len(text),
                word=word,
            )
            start = end

    def shape(self, shape: str, colour: str, centre: tuple[float, float], radius: float, **classes: int) -> None:
        """Draw one filled shape; ``radius`` is half its width in pixels."""
        x, y = centre
        fill = COLOURS[colour]
        box = (x - radius, y - radius, x + radius, y + radius)
        if shape == "circle":
            self.draw.ellipse(box, fill=fill)
        elif shape == "square":
            inner = radius * 0.9
            self.draw.rectangle((x - inner, y - inner, x + inner, y + inner), fill=fill)
        elif shape == "cross":
            arm = radius * 0.36
            self.draw.rectangle((x - radius, y - arm, x + radius, y + arm), fill=fill)
            self.draw.rectangle((x - arm, y - radius, x + arm, y + radius), fill=fill)
        else:
            self.draw.polygon(_corners(shape, x, y, radius), fill=fill)
        self.mark(box, shape=SHAPES.index(shape) + 1, colour=COLOUR_NAMES.index(colour) + 1, **classes)

    def scene(self, kind: str, **facts) -> Scene:
        return Scene(kind, self.image, facts, self.labels.reshape(GRID * GRID, len(HEADS)))


def _corners(shape: str, x: float, y: float, radius: float) -> list[tuple[float, float]]:
    if shape == "triangle":
        return [(x, y - radius), (x + radius, y + radius * 0.9), (x - radius, y + radius * 0.9)]
    if shape == "diamond":
        return [(x, y - radius), (x + radius * 0.8, y), (x, y + radius), (x - radius * 0.8, y)]
    points = []
    for corner in range(10):  # star
        reach = radius * (1.1 if corner % 2 == 0 else 0.45)
        angle = math.pi * corner / 5 - math.pi / 2
        points.append((x + reach * math.cos(angle), y + reach * math.sin(angle)))
    return points


def draw_digits(generator: random.Random, digits: str) -> Scene:
    """A string of one to six digits."""
    canvas = _Canvas(generator)
    canvas.text(digits, largest=26, top=3, bottom=SIZE - 3)
    return canvas.scene("digits", digits=digits)


def draw_word(generator: random.Random, word: str) -> Scene:
    """One word of the closed vocabulary."""
    canvas = _Canvas(generator)
    canvas.text(word, largest=24, top=3, bottom=SIZE - 3, word=WORDS.index(word) + 1)
    return canvas.scene("word", word=word)


def draw_lines(generator: random.Random, word: str, digits: str) -> Scene:
    """A word above a number of up to four digits."""
    canvas = _Canvas(generator)
    canvas.text(word, largest=20, top=3, bottom=31, word=WORDS.index(word) + 1)
    canvas.text(digits, largest=20, top=34, bottom=SIZE - 3)
    return canvas.scene("lines", word=word, digits=digits)


def draw_sum(generator: random.Random, first: int, second: int) -> Scene:
    """An expression ``first+second``."""
    canvas = _Canvas(generator)
    canvas.text(f"{first}+{second}", largest=22, top=3, bottom=SIZE - 3)
    return canvas.scene("sum", first=first, second=second)


def draw_shapes(generator: random.Random, number: int) -> Scene:
    """One shape, or two of different kind, colour and size side by side, listed from left to right."""
    canvas = _Canvas(generator)
    kinds = generator.sample(SHAPES, number)
    colours = generator.sample(COLOUR_NAMES, number)
    if number == 1:
        radius = generator.uniform(9, 20)
        centre = (generator.uniform(radius + 3, 61 - radius), generator.uniform(radius + 3, 61 - radius))
        canvas.shape(kinds[0], colours[0], centre, radius)
        return canvas.scene("shapes", shapes=kinds, colours=colours, larger=None)
    small = generator.uniform(6, 9.5)
    sizes = [small, small * generator.uniform(1.45, 1.7)]
    larger = generator.randrange(2)
    if larger == 0:
        sizes.reverse()
    middle = sizes[0] / sum(sizes) * (SIZE - 4)  # where the two columns meet
    spans = ((2, middle), (middle + 3, SIZE - 2))
    for place in range(2):
        radius, (low, high) = sizes[place], spans[place]
        x = generator.uniform(low + radius, max(low + radius, high - radius))
        y = generator.uniform(radius + 3, 61 - radius)
        canvas.shape(kinds[place], colours[place], (x, y), radius, left=place + 1, larger=1 + (place == larger))
    return canvas.scene("shapes", shapes=kinds, colours=colours, larger=larger)


def draw_count(generator: random.Random, number: int) -> Scene:
    """One to six shapes of one kind, each of any colour, in different cells of a 3 x 3 grid."""
    canvas = _Canvas(generator)
    kind = generator.choice(SHAPES)
    radius = generator.uniform(5.5, 8)
    for cell in generator.sample(range(9), number):
        x = 11 + 21 * (cell % 3) + generator.uniform(-2, 2)
        y = 11 + 21 * (cell // 3) + generator.uniform(-2, 2)
        canvas.shape(kind, generator.choice(COLOUR_NAMES), (x, y), radius, count=number)
    return canvas.scene("count", shape=kind, count=number)


def draw_bars(generator: random.Random, values: list[int]) -> Scene:
    """Three or four bars of different colours and heights (1 to 8) over a grid with one line a unit."""
    canvas = _Canvas(generator)
    base = SIZE - 3 + generator.randint(-1, 1)
    colours = generator.sample(COLOUR_NAMES, len(values))
    for step in range(1, 9):
        shade = 150 if step % 4 == 0 else 205
        canvas.draw.line((3, base - 7 * step, SIZE - 2, base - 7 * step), fill=(shade, shade, shade))
    canvas.draw.line((3, base, SIZE - 2, base), fill=(60, 60, 60))
    canvas.draw.line((3, base, 3, base - 57), fill=(60, 60, 60))
    pitch = 56 / len(values)
    width = generator.uniform(0.55, 0.75) * pitch
    for place, (value, colour) in enumerate(zip(values, colours, strict=True)):
        left = round(6 + pitch * place + (pitch - width) / 2 + generator.uniform(-1, 1))
        box = (left, base - 7 * value, round(left + width), base - 1)
        canvas.draw.rectangle(box, fill=COLOURS[colour])
        canvas.mark(box, colour=COLOUR_NAMES.index(colour) + 1, value=value, index=place + 1)
    return canvas.scene("bars", values=list(values), colours=colours)
