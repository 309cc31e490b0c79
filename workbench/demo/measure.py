"""Measures the demo model, skill by skill, on fresh items: other seeds and held-out values, exact match.

    python -m workbench.demo.measure --items 500        # the table of the model card

``measure_packed`` is the quick form used while training: an item is right if every answer token is the most likely
one given the answer so far, which is the same as greedy decoding giving exactly the answer.
"""

import argparse
import random
import time
from dataclasses import dataclass
from pathlib import Path

from workbench.demo import formats, packing, questions, vlm_folder
from workbench.demo.scenes import Scene
from workbench.metrics.stats import wilson

LETTER_SKILLS = ("digits", "word", "lines", "sum", "colour", "shape", "left", "larger", "count", "bar", "tallest")


@dataclass(frozen=True)
class Group:
    """A row of the table: skills and prompt styles that its items are drawn from, and the floor it should reach."""

    skills: tuple[str, ...]
    styles: tuple[str, ...] = ("plain", "mmmu_open")
    images: int = 1
    floor: float | None = None


@dataclass(frozen=True)
class Item:
    """One fresh question: its scenes, in image order, and the rendered prompt."""

    scenes: tuple[Scene, ...]
    prompt: formats.Prompt
    skill: str


GROUPS = {
    "digits": Group(("digits",), floor=0.95),
    "word": Group(("word",), floor=0.95),
    "lines": Group(("lines",)),
    "sum": Group(("sum",), floor=0.50),
    "sum, bare": Group(("sum",), ("mathvista_free",)),
    "expression": Group(("expression",), ("plain",)),
    "colour": Group(("colour",), floor=0.97),
    "shape": Group(("shape",)),
    "left": Group(("left",), floor=0.90),
    "larger": Group(("larger",), floor=0.85),
    "count": Group(("count",), floor=0.85),
    "bar": Group(("bar",), floor=0.55),
    "tallest": Group(("tallest",)),
    "decimal": Group(("decimal",), ("plain", "mathvista_free")),
    "list": Group(("list",), ("plain", "mathvista_free")),
    "letter, MMMU": Group(LETTER_SKILLS, ("mmmu_choice",), floor=0.60),
    "letter, MMStar": Group(LETTER_SKILLS, ("mmstar_options", "mmstar_choices"), floor=0.60),
    "choice text, MathVista": Group(LETTER_SKILLS, ("mathvista_choice",), floor=0.60),
    "integer, MathVista": Group(("digits", "lines", "count", "bar"), ("mathvista_free",)),
    "two images": Group(("digits", "word", "colour", "count"), ("plain", "mmmu_choice"), images=2),
}


def fresh_items(name: str, count: int, seed: int = 0) -> list[Item]:
    """``count`` items of a group; the same for the same seed, never drawn in training."""
    group = GROUPS[name]
    generator = random.Random(f"measure-{name}-{seed}")
    items = []
    while len(items) < count:
        skill = generator.choice(group.skills)
        drawn = []
        number = generator.randint(1, group.images)
        for place in range(1, group.images + 1):
            kind = questions.SKILLS[skill if place == number else generator.choice(group.skills)][0]
            drawn.append(questions.sample_scene(generator, kind, held_out=True))
        if skill not in questions.skills_of(drawn[number - 1]):
            continue
        question = questions.ask(generator, drawn[number - 1], skill, held_out=True)
        style = generator.choice(group.styles)
        if style == "mathvista_free" and question.answer_type == "text":
            style = "plain"
        prompt = formats.render(question, style, generator, image=(number, group.images))
        items.append(Item(tuple(drawn), prompt, skill))
    return items


def measure_packed(model, count: int = 60, seed: int = 1, names=tuple(GROUPS), batch: int = 60) -> dict[str, float]:
    """Accuracy of each group on ``count`` fresh items, in one forward pass an item."""
    import torch

    from workbench.demo import train

    found = {}
    for name in names:
        items = fresh_items(name, count, seed)
        right = 0
        for start in range(0, count, batch):
            packs = [pack_of(item) for item in items[start : start + batch]]
            tensors = packing.collate(packs, torch.bfloat16)
            with torch.no_grad(), torch.autocast(model.device.type, torch.bfloat16):
                logits, _ = train.forward(model, tensors)
            known = tensors["labels"] >= 0
            wrong = logits.argmax(-1) != tensors["labels"][known]
            rows = known.nonzero()[:, 0]
            right += len(packs) - len(set(rows[wrong].tolist()))
        found[name] = round(right / count, 3)
    return found


def pack_of(item: Item) -> packing.Pack:
    """The item as a pack of one block."""
    pictures = tuple(scene.image for scene in item.scenes)
    return packing.Pack(pictures, packing.prefix_ids(item.scenes, False), (packing.block_of(item.prompt),))


class Answerer:
    """Answers items with transformers alone: chat template, processor, batched greedy ``generate``."""

    def __init__(self, folder: Path):
        from transformers import AutoModelForImageTextToText

        from workbench.models import options
        from workbench.models.processors import load_processor

        # Not AutoProcessor itself: mlx-vlm, once imported, replaces it in the whole process.
        self.processor = load_processor(Path(folder), options.read("torch", {}))
        self.processor.tokenizer.padding_side = "left"
        self.model = AutoModelForImageTextToText.from_pretrained(folder).eval()

    def answer(self, items: list[Item]) -> list[str]:
        import torch

        texts = []
        for item in items:
            content = [{"type": "image"}] * len(item.scenes) + [{"type": "text", "text": item.prompt.text}]
            message = [{"role": "user", "content": content}]
            texts.append(self.processor.apply_chat_template(message, add_generation_prompt=True))
        images = [[scene.image for scene in item.scenes] for item in items]
        inputs = self.processor(images=images, text=texts, padding=True, return_tensors="pt")
        with torch.inference_mode():
            tokens = self.model.generate(**inputs, max_new_tokens=16, do_sample=False)
        new = tokens[:, inputs["input_ids"].shape[1] :]
        return [text.strip() for text in self.processor.batch_decode(new, skip_special_tokens=True)]


def measure(folder: Path, count: int, seed: int = 2, names=tuple(GROUPS), batch: int = 50, log=None) -> dict[str, int]:
    """Number of exactly right answers of each group on ``count`` fresh items."""
    answerer = Answerer(folder)
    found = {}
    for name in names:
        items = fresh_items(name, count, seed)
        given = []
        for start in range(0, count, batch):
            given += answerer.answer(items[start : start + batch])
        found[name] = sum(text == item.prompt.answer for text, item in zip(given, items, strict=True))
        if log:
            log(table_row(name, found[name], count))
    return found


def table_row(name: str, right: int, count: int) -> str:
    """One row of the model card's table."""
    low, high = wilson(right, count)
    floor = GROUPS[name].floor
    wanted = "" if floor is None else f"{floor:.0%}"
    return f"| {name} | {right / count:.1%} | {low:.1%} to {high:.1%} | {count} | {wanted} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, default=None, help="default: the bundled model")
    parser.add_argument("--items", type=int, default=500)
    parser.add_argument("--seed", type=int, default=2)
    arguments = parser.parse_args()
    started = time.time()
    print("| skill | exact | 95 % interval | items | floor |\n|---|---|---|---|---|")
    measure(arguments.folder or vlm_folder(), arguments.items, arguments.seed, log=lambda row: print(row, flush=True))
    print(f"\n{time.time() - started:.0f} s")


if __name__ == "__main__":
    main()
