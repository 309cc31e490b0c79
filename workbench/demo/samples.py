"""Writes the sample data sets: our toy pictures in the columns of MMMU, MMStar, OCRBench and MathVista.

    python -m workbench.demo.samples            # writes datasets/samples/<name>/<split>.parquet

They let every benchmark run end to end without a download.  The pictures and questions are our own; only the columns,
the names of categories and the wording of prompts follow the real data sets.  Seeds are never used in training, digit
strings and sums come from the held-out part, and a second run writes the same bytes.
"""

import argparse
import io
import random
from pathlib import Path

from workbench.demo import formats, questions
from workbench.demo.questions import Question
from workbench.demo.scenes import Scene
from workbench.demo.vocabulary import LETTERS

ITEMS = 400
SPLITS = {"mmmu": "validation", "mmstar": "val", "ocrbench": "test", "mathvista": "testmini"}

# MMMU: subject -> skills asked there.
_MMMU_SUBJECTS = {
    "Accounting": ("sum", "lines"),
    "Art": ("colour", "shape"),
    "Basic_Medical_Science": ("word", "count"),
    "Computer_Science": ("digits", "lines"),
    "Design": ("larger", "left"),
    "Economics": ("bar", "tallest"),
    "Electronics": ("digits", "bar"),
    "History": ("word", "lines"),
    "Math": ("sum", "count"),
    "Physics": ("larger", "sum"),
}
# MMStar: category -> axis -> skill.
_MMSTAR_AXES = {
    "coarse perception": {
        "image scene and topic": "word",
        "image style & quality": "colour",
        "image emotion": "shape",
    },
    "fine-grained perception": {"object counting": "count", "recognition": "digits", "localization": "left"},
    "instance reasoning": {
        "single-instance reasoning": "shape",
        "cross-instance attribute reasoning": "larger",
        "cross-instance relation reasoning": "left",
    },
    "logical reasoning": {
        "code & sequence reasoning": "lines",
        "diagram reasoning": "tallest",
        "common reasoning": "colour",
    },
    "math": {
        "geometry": "larger",
        "numeric commonsense and calculation": "sum",
        "statistical reasoning": "bar",
    },
    "science & technology": {
        "biology & chemistry & physics": "word",
        "electronics & energy & mechanical eng.": "bar",
        "geography & earth science & agriculture": "lines",
    },
}
# OCRBench: type -> (items of 400, skill or skills).
_OCR_TYPES = {
    "Regular Text Recognition": (20, ("word",)),
    "Irregular Text Recognition": (20, ("word",)),
    "Artistic Text Recognition": (20, ("word",)),
    "Handwriting Recognition": (20, ("word",)),
    "Digit String Recognition": (20, ("digits",)),
    "Non-Semantic Text Recognition": (20, ("digits",)),
    "Scene Text-centric VQA": (80, ("lines",)),
    "Doc-oriented VQA": (80, ("lines", "bar", "tallest")),
    "Key Information Extraction": (80, ("lines",)),
    "Handwritten Mathematical Expression Recognition": (40, ("expression",)),
}
# MathVista: skill -> (task, context, skills of the metadata).
_MATHVISTA_SKILLS = {
    "sum": ("math word problem", "synthetic scene", ["arithmetic reasoning"]),
    "count": ("visual question answering", "synthetic scene", ["arithmetic reasoning", "numeric commonsense"]),
    "digits": ("visual question answering", "document image", ["numeric commonsense"]),
    "lines": ("textbook question answering", "table", ["numeric commonsense"]),
    "bar": ("figure question answering", "bar chart", ["statistical reasoning"]),
    "tallest": ("figure question answering", "bar chart", ["statistical reasoning"]),
    "larger": ("geometry problem solving", "geometry diagram", ["geometry reasoning"]),
    "left": ("geometry problem solving", "geometry diagram", ["geometry reasoning"]),
    "decimal": ("figure question answering", "bar chart", ["statistical reasoning", "arithmetic reasoning"]),
    "list": ("figure question answering", "bar chart", ["statistical reasoning"]),
}
_NUMBER_NAMES = ("zero", "one", "two", "three", "four", "five", "six")


def draw(generator: random.Random, skill: str) -> tuple[Scene, Question]:
    """A fresh scene of held-out values and a question of ``skill`` about it."""
    while True:
        scene = questions.sample_scene(generator, questions.SKILLS[skill][0], held_out=True)
        if skill in questions.skills_of(scene):
            return scene, questions.ask(generator, scene, skill, held_out=True)


def png(scene: Scene) -> dict:
    """The picture as the ``datasets`` image feature stores it."""
    buffer = io.BytesIO()
    scene.image.save(buffer, "PNG")
    return {"bytes": buffer.getvalue(), "path": None}


def mmmu_rows(generator: random.Random) -> list[dict]:
    """40 items of each of ten subjects; three of five are choices, one of ten shows two images."""
    rows = []
    each = ITEMS // len(_MMMU_SUBJECTS)
    for subject, skills in _MMMU_SUBJECTS.items():
        for number in range(1, each + 1):
            skill = skills[number % len(skills)]
            scene, question = draw(generator, skill)
            scenes, place = [scene], 1
            if number % 10 == 0:
                place = generator.randint(1, 2)
                scenes.insert(2 - place, draw(generator, generator.choice(skills))[0])
            style = "mmmu_open" if number % 5 in (1, 3) else "mmmu_choice"
            row = {
                "id": f"validation_{subject}_{number}",
                "question": formats.tag_images(question.text, style, generator, (place, len(scenes))),
                "options": "[]",
                "explanation": "",
                **{f"image_{k}": png(scenes[k - 1]) if k <= len(scenes) else None for k in range(1, 8)},
                "img_type": "['Plots and Charts']" if scene.kind == "bars" else "['Icons and Symbols']",
                "answer": question.bare,
                "topic_difficulty": ("Easy", "Medium", "Hard")[number % 3],
                "question_type": "open",
                "subfield": skill,
            }
            if style == "mmmu_choice":
                options = formats.shuffle_options(question, generator)
                letter = LETTERS[options.index(question.bare)]
                row |= {"options": str(list(options)), "answer": letter, "question_type": "multiple-choice"}
            elif skill == "count":
                row["answer"] = str([question.bare, _NUMBER_NAMES[int(question.bare)]])
            rows.append(row)
    return rows


def mmstar_rows(generator: random.Random) -> list[dict]:
    """Equal parts of the six categories; three of four questions list "Options:", the others "Choices:"."""
    rows = []
    categories = list(_MMSTAR_AXES)
    for index in range(ITEMS):
        category = categories[index * len(categories) // ITEMS]
        axes = list(_MMSTAR_AXES[category])
        axis = axes[index % len(axes)]
        scene, question = draw(generator, _MMSTAR_AXES[category][axis])
        style = "mmstar_choices" if index % 4 == 3 else "mmstar_options"
        prompt = formats.render(question, style, generator)
        rows.append(
            {
                "index": index,
                "question": prompt.text.removeprefix("Question: ").removesuffix("\n"),
                "image": png(scene),
                "answer": prompt.answer,
                "category": category,
                "l2_category": axis,
                "meta_info": {"source": "demo", "split": "val", "image_path": f"images/{index}.png"},
            }
        )
    return rows


def ocrbench_rows(generator: random.Random) -> list[dict]:
    """The ten types in the real set's proportions, asked in its words."""
    rows = []
    for kind, (count, skills) in _OCR_TYPES.items():
        for number in range(count):
            skill = skills[number % len(skills)]
            scene, question = draw(generator, skill)
            text = question.text
            if skill == "word" or kind.startswith("Non-Semantic"):
                text = "what is written in the image?"
            elif skill == "digits":
                text = "what is the number in the image?"
            elif skill == "expression":
                text = "Please write out the expression of the formula in the image using LaTeX format."
            elif kind == "Key Information Extraction":
                text = f"{text} {formats.TEXT_INSTRUCTION}"
            rows.append(
                {
                    "dataset": "HME100k" if skill == "expression" else f"demo-{skill}",
                    "question": text,
                    "question_type": kind,
                    "answer": [question.answer],
                    "image": png(scene),
                }
            )
    return rows


def mathvista_rows(generator: random.Random) -> list[dict]:
    """45 % choices; the others integers, one in ten a float of one or two decimals, a few lists."""
    rows = []
    choice_skills = ("sum", "count", "bar", "tallest", "larger", "left", "lines", "digits", "larger")
    integer_skills = ("sum", "count", "bar", "digits", "lines")
    for number in range(1, ITEMS + 1):
        place = number % 20
        if place < 9:
            style, skill = "mathvista_choice", choice_skills[place]
        elif place in (17, 18):
            style, skill = "mathvista_free", "decimal"
        elif number % 40 == 39:
            style, skill = "mathvista_free", "list"
        else:
            style, skill = "mathvista_free", generator.choice(integer_skills)
        while True:
            scene, question = draw(generator, skill)
            if style == "mathvista_choice" or question.answer_type != "text":
                break
        prompt = formats.render(question, style, generator)
        task, context, abilities = _MATHVISTA_SKILLS[skill]
        is_choice = style == "mathvista_choice"
        rows.append(
            {
                "pid": str(number),
                "question": question.text,
                "image": f"images/{number}.png",
                "decoded_image": png(scene),
                "choices": list(prompt.options) if is_choice else None,
                "unit": None,
                "precision": float(question.precision) if question.precision else None,
                "answer": question.bare,
                "question_type": "multi_choice" if is_choice else "free_form",
                "answer_type": "text" if is_choice else question.answer_type,
                "metadata": {
                    "category": "math-targeted-vqa" if skill in ("sum", "larger", "left") else "general-vqa",
                    "context": context,
                    "grade": "elementary school" if skill in ("sum", "count") else "not applicable",
                    "img_height": 64,
                    "img_width": 64,
                    "language": "english",
                    "skills": abilities,
                    "source": "demo",
                    "split": "testmini",
                    "task": task,
                },
                "query": prompt.text,
            }
        )
    return rows


def features(name: str):
    """The ``datasets.Features`` of the real data set."""
    from datasets import Features, Image, List, Value

    text, image = Value("string"), Image()
    if name == "mmmu":
        images = {f"image_{k}": image for k in range(1, 8)}
        columns = ("img_type", "answer", "topic_difficulty", "question_type", "subfield")
        first = {column: text for column in ("id", "question", "options", "explanation")}
        return Features(first | images | {column: text for column in columns})
    if name == "mmstar":
        info = {"source": text, "split": text, "image_path": text}
        names = {column: text for column in ("answer", "category", "l2_category")}
        return Features({"index": Value("int64"), "question": text, "image": image, **names, "meta_info": info})
    if name == "ocrbench":
        names = {column: text for column in ("dataset", "question", "question_type")}
        return Features({**names, "answer": List(text), "image": image})
    number = Value("int64")
    about = {column: text for column in ("category", "context", "grade")}
    about |= {"img_height": number, "img_width": number, "language": text, "skills": List(text)}
    about |= {"source": text, "split": text, "task": text}
    return Features(
        {
            "pid": text,
            "question": text,
            "image": text,
            "decoded_image": image,
            "choices": List(text),
            "unit": text,
            "precision": Value("float64"),
            "answer": text,
            "question_type": text,
            "answer_type": text,
            "metadata": about,
            "query": text,
        }
    )


_ROWS = {"mmmu": mmmu_rows, "mmstar": mmstar_rows, "ocrbench": ocrbench_rows, "mathvista": mathvista_rows}


def write(folder: Path, names=tuple(_ROWS)) -> list[Path]:
    """Write the sample sets under ``folder``; returns the files."""
    from datasets import Dataset

    written = []
    for name in names:
        path = folder / name / f"{SPLITS[name]}.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        rows = _ROWS[name](random.Random(f"samples-{name}"))
        Dataset.from_list(rows, features=features(name)).to_parquet(path)
        written.append(path)
    return written


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    default = Path(__file__).resolve().parents[2] / "datasets" / "samples"
    parser.add_argument("--out", type=Path, default=default)
    for path in write(parser.parse_args().out):
        print(path, path.stat().st_size)


if __name__ == "__main__":
    main()
