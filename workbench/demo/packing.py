"""Packs several questions about one picture into one sequence without letting them see each other.

    prefix "USER: <image> x 64 \\n" | block 1 "What color ...? ASSISTANT: red</s>" | block 2 ...

Every block attends to the prefix and to itself only, and its positions restart after the prefix, so each block is
computed exactly as its own single prompt would be, while the picture is encoded once.  In the text-only stage the
prefix holds the scene in words instead of the picture.
"""

import functools
import random
from dataclasses import dataclass

import torch

from workbench.demo import formats, questions, tokenizer
from workbench.demo.architecture import IMAGE_TOKENS

ANSWER_WEIGHT, END_WEIGHT = 2.0, 0.3  # an answer of n tokens weighs ANSWER_WEIGHT * n ** 0.5
_KIND_SHARES: dict[str, float] = {}
for _kind, _share in questions.SKILLS.values():
    _KIND_SHARES[_kind] = _KIND_SHARES.get(_kind, 0.0) + _share


@functools.lru_cache(maxsize=1)
def _tokenizer():
    return tokenizer.build()


@functools.lru_cache(maxsize=200_000)
def encode(text: str) -> tuple[int, ...]:
    """Token ids of ``text``."""
    return tuple(_tokenizer().encode(text).ids)


@dataclass(frozen=True)
class Block:
    """One question: prompt ids, answer ids with the end token, is the answer a letter, and option marks.

    ``marks`` are (place of an option's last token in the prompt, option number, is it right): the language model is
    also asked at that place, through a head that is thrown away, which option this is and whether it is the right
    one.  Without this dense help even one-word options stayed at chance for 1,200 text-only steps; with it they were
    94 % right after 525 (one seed each).
    """

    prompt: tuple[int, ...]
    answer: tuple[int, ...]
    is_letter: bool
    marks: tuple[tuple[int, int, bool], ...] = ()


@dataclass(frozen=True)
class Pack:
    """One sequence: its pictures (none in text-only training), prefix ids and question blocks."""

    images: tuple
    prefix: tuple[int, ...]
    blocks: tuple["Block", ...]


@dataclass(frozen=True)
class Curriculum:
    """What may appear: longest digit string, largest summand, scene kinds and prompt styles with their shares."""

    longest: int = questions.LONGEST_DIGITS
    largest: int = questions.LARGEST_SUMMAND
    kinds: dict | None = None
    styles: dict | None = None
    budget: int = 130  # tokens of all blocks together


def prefix_ids(scenes, as_text: bool) -> tuple[int, ...]:
    """Ids of what stands before the blocks: image tokens, or the scenes in words."""
    if not as_text:
        return encode("USER: ") + (tokenizer.IMAGE_ID,) * (IMAGE_TOKENS * len(scenes)) + encode("\n")
    if len(scenes) == 1:
        return encode(f"USER: {questions.describe(scenes[0])}.\n")
    told = " ".join(f"<image {number}> {questions.describe(scene)}." for number, scene in enumerate(scenes, 1))
    return encode(f"USER: {told}\n")


def block_of(prompt: formats.Prompt) -> Block:
    """The token block of a rendered prompt."""
    marks = tuple(
        (len(encode(prompt.text[:end])) - 1, number, prompt.options[number] == prompt.right)
        for number, end in enumerate(prompt.ends())
    )
    answer = encode(f" {prompt.answer}") + (tokenizer.END_ID,)
    return Block(encode(f"{prompt.text} ASSISTANT:"), answer, prompt.is_letter, marks)


def sample_pack(generator: random.Random, curriculum: Curriculum, as_text: bool, images: int = 1) -> Pack:
    """One random scene (or two) with blocks up to the token budget; a letter question is paired with its open form."""
    shares = curriculum.kinds or _KIND_SHARES
    kinds = generator.choices(list(shares), list(shares.values()), k=images)
    scenes = [questions.sample_scene(generator, kind, False, curriculum.longest, curriculum.largest) for kind in kinds]
    styles = curriculum.styles or formats.STYLES
    names, style_weights = list(styles), list(styles.values())
    blocks, used = [], 0
    while used < curriculum.budget:
        place = generator.randrange(images)
        skills = questions.skills_of(scenes[place])
        skill = generator.choices(skills, [questions.SKILLS[name][1] for name in skills])[0]
        question = questions.ask(generator, scenes[place], skill)
        style = generator.choices(names, style_weights)[0]
        wanted = [style]
        if style in formats.LETTER_STYLES and generator.random() < 0.5:
            wanted.append("plain")
        if question.answer_type == "text" and style == "mathvista_free":
            wanted = ["plain"]
        for style in wanted:
            block = block_of(formats.render(question, style, generator, image=(place + 1, images)))
            blocks.append(block)
            used += len(block.prompt) + len(block.answer)
    pictures = () if as_text else tuple(scene.image for scene in scenes)
    return Pack(pictures, prefix_ids(scenes, as_text), tuple(blocks))


def sample_drill(generator: random.Random, curriculum: Curriculum) -> Pack:
    """A text-only pack in which every block tells its own scene in words, or asks for a sum outright.

    Ten different sums or look-ups fit where one picture does, which is what adding and binding (whose colour?) need.
    """
    shares = curriculum.kinds or _KIND_SHARES
    blocks, used = [], 0
    while used < curriculum.budget + 40:
        kind = generator.choices(list(shares), list(shares.values()))[0]
        scene = questions.sample_scene(generator, kind, False, curriculum.longest, curriculum.largest, shapes=2)
        skill = generator.choice(questions.skills_of(scene))
        question = questions.ask(generator, scene, skill)
        text = f" {questions.describe(scene)}.\n{question.text}"
        answer = question.answer
        if kind == "sum" and generator.random() < 0.8:
            first, second = scene.facts["first"], scene.facts["second"]
            written = generator.random() < 0.5
            text = f" What is {first}+{second}?" if written else f" What is the value of {first}+{second}?"
            answer = f"{first}+{second}={first + second}" if written else str(first + second)
        block = Block(encode(f"{text} ASSISTANT:"), encode(f" {answer}") + (tokenizer.END_ID,), False)
        blocks.append(block)
        used += len(block.prompt) + len(block.answer)
    return Pack((), encode("USER:"), tuple(blocks))


def collate(packs: list[Pack], dtype: torch.dtype = torch.float32, multiple: int = 32) -> dict:
    """Tensors of a batch of n sequences of t tokens.

    ``ids``, ``positions``, ``labels`` (the next token, -100 where it does not count), ``weights`` and ``option`` (-1, or
    twice the option number plus one if it is right), all (n, t); ``mask`` (n, 1, t, t), additive; ``images``, a list.
    """
    rows = [_row(pack) for pack in packs]
    # Few different lengths: oneDNN builds and keeps kernels for every new shape, which takes longer than some padding.
    length = -(-max(len(row[0]) for row in rows) // multiple) * multiple
    shape = (len(rows), length)
    ids = torch.full(shape, tokenizer.PAD_ID)
    positions, block = torch.zeros(shape, dtype=torch.long), torch.full(shape, -1)
    labels, weights, option = torch.full(shape, -100), torch.zeros(shape), torch.full(shape, -1)
    for place, columns in enumerate(rows):
        for target, values in zip((ids, positions, block, labels, weights, option), columns, strict=True):
            target[place, : len(values)] = torch.tensor(values, dtype=target.dtype)
    same = (block[:, :, None] == block[:, None, :]) | (block[:, None, :] == 0)
    allowed = same & torch.ones(length, length, dtype=torch.bool).tril()
    mask = torch.zeros((len(rows), length, length), dtype=dtype).masked_fill_(~allowed, torch.finfo(dtype).min)
    return {
        "ids": ids,
        "positions": positions,
        "mask": mask[:, None],
        "labels": labels,
        "weights": weights,
        "option": option,
        "images": [image for pack in packs for image in pack.images],
    }


def _row(pack: Pack) -> tuple[list, ...]:
    start = len(pack.prefix)
    ids, positions, block_of_token = list(pack.prefix), list(range(start)), [0] * start
    labels, weights, option = [-100] * start, [0.0] * start, [-1] * start
    for number, block in enumerate(pack.blocks, 1):
        sequence = block.prompt + block.answer
        marks = [-1] * len(sequence)
        for place, option_number, is_right in block.marks:
            marks[place] = 2 * option_number + is_right
        ids += sequence
        positions += range(start, start + len(sequence))
        block_of_token += [number] * len(sequence)
        option += marks
        # The token at each place predicts the next one; only answer tokens count.
        labels += [-100] * (len(block.prompt) - 1) + list(block.answer) + [-100]
        value = ANSWER_WEIGHT * (len(block.answer) - 1) ** -0.5
        weights += [0.0] * (len(block.prompt) - 1) + [value] * (len(block.answer) - 1) + [END_WEIGHT, 0.0]
    return ids, positions, block_of_token, labels, weights, option
