import subprocess
import sys

import pytest

from workbench import registry
from workbench.errors import UsageError
from workbench.tasks.catalogue import BUILT_IN_TASKS, load_task, task_names
from workbench.tasks.scoring import score_responses
from workbench.types import Response, Task

ONE = """
from workbench import Score, Task, Request, task
from workbench.data.rows import Rows
from workbench.metrics.accuracy import ACCURACY

def make(name):
    return Task(name, "1", "vision-language", Rows([]), None, None, (ACCURACY,), "accuracy")

@task
def first_one():
    return make("first-one")
"""
TWO = ONE + "\n@task\ndef second():\n    return make('second')\n"


@pytest.mark.parametrize("name", BUILT_IN_TASKS)
def test_every_built_in_task_loads_under_its_name(name):
    task = load_task(name)
    assert isinstance(task, Task)
    assert task.name == name
    assert task.description
    assert task.generation.temperature == 0
    if name != "asr":  # scores files only
        assert task.card.card.revision or task.card.card.files


def test_names_are_those_of_the_catalogue():
    assert set(BUILT_IN_TASKS) <= set(task_names())
    for module in set(BUILT_IN_TASKS.values()):
        __import__(module)
    registered = {name for name, function in registry.TASKS.items() if function.__module__.startswith("workbench.tasks.")}
    assert registered == set(BUILT_IN_TASKS)


def test_an_unknown_task_is_answered_with_those_that_are_like_it():
    with pytest.raises(UsageError, match="unknown task 'mmmuu'") as caught:
        load_task("mmmuu")
    assert "mmmu" in caught.value.why
    assert caught.value.exit_code == 2
    assert caught.value.fix == "workbench list tasks"


def test_tasks_in_files(tmp_path):
    before = dict(registry.TASKS)
    (tmp_path / "one.py").write_text(ONE)
    (tmp_path / "two.py").write_text(TWO)
    assert load_task(str(tmp_path / "one.py")).name == "first-one"
    assert load_task(f"{tmp_path}/two.py::second").name == "second"
    assert load_task(f"{tmp_path}/two.py::first_one").name == "first-one"
    assert before == registry.TASKS


@pytest.mark.parametrize(
    ("code", "name", "message"),
    [
        (TWO, "", "holds 2 tasks"),
        (TWO, "::third", "has no task 'third'"),
        ("x = 1", "", "holds no task"),
        ("import nothing_of_the_kind", "", "cannot be run"),
        ("def (", "", "cannot be run"),
        (ONE.replace('return make("first-one")', "return 3"), "", "is not a Task"),
        (ONE.replace('return make("first-one")', "return 1 / 0"), "", "cannot be built"),
        (ONE.replace('(ACCURACY,), "accuracy"', '(ACCURACY,), "wer"'), "", "has no metric 'wer'"),
    ],
)
def test_mistakes_in_task_files_are_named(tmp_path, code, name, message):
    path = tmp_path / "mine.py"
    path.write_text(code)
    with pytest.raises(UsageError, match=message):
        load_task(f"{path}{name}")


def test_a_missing_file():
    with pytest.raises(UsageError, match="no task file 'nowhere.py'"):
        load_task("nowhere.py")


def test_the_template_is_an_eval_in_25_lines():
    task = load_task("evals/template_eval.py")
    loaded = task.load()
    assert [sample.id for sample in loaded.samples] == ["red", "green", "blue"]
    assert task.ask(loaded.samples[0]).inputs["images"][0].image().size == (64, 64)
    results = score_responses(
        task, loaded.samples, {"red": Response("Red."), "green": Response("blue"), "blue": Response("blue")}
    ).results
    assert results["correct"] == 2
    from workbench import locate

    assert len(locate.find("evals/template_eval.py").read_text().splitlines()) <= 25


def test_tasks_load_no_heavy_library():
    code = (
        "import sys; from workbench.tasks.catalogue import *; [load_task(name) for name in task_names()]; "
        "print({'torch', 'mlx', 'datasets', 'pandas', 'numpy', 'PIL', 'pyarrow', 'transformers'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
