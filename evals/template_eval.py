"""Your own eval in one file. Copy it, change it, and run it: workbench eval my_eval.py --model demo:vlm@torch"""

from workbench import Request, Score, Task, task
from workbench.data.rows import Rows
from workbench.metrics.accuracy import ACCURACY


def rows():  # or Rows.read("questions.jsonl"), one {"id", "question", "image": "cat.png", "answer"} a line
    from PIL import Image, ImageDraw

    for colour in ("red", "green", "blue"):
        picture = Image.new("RGB", (64, 64), "white")
        ImageDraw.Draw(picture).ellipse((16, 16, 48, 48), fill=colour)
        yield {"id": colour, "question": "What color is the shape?", "image": picture, "answer": colour}


def score(sample, response, rng):
    return Score.of(sample.target in response.text.lower(), response.text)


@task
def my_eval():
    ask = lambda sample: Request(sample.inputs, "my-eval-1")  # noqa: E731
    return Task("my-eval", "1", "vision-language", Rows(rows), ask, score, (ACCURACY,), "accuracy")
