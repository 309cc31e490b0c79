"""Finds tasks: built-in ones by name, your own by the path of a Python file, plugins' by name.

load_task("mmmu-sample")
load_task("evals/template_eval.py")        # a file with one function decorated with workbench.task
load_task("my_evals.py::colours")          # or one of several
"""

from __future__ import annotations

import difflib
import hashlib
import sys
from collections.abc import Callable
from importlib import import_module, util
from pathlib import Path

from workbench import locate, registry
from workbench.errors import UsageError, WorkbenchError
from workbench.types import Task

BUILT_IN_TASKS = {
    "mmmu": "workbench.tasks.mmmu",
    "mmmu-sample": "workbench.tasks.mmmu",
    "mmstar": "workbench.tasks.mmstar",
    "mmstar-sample": "workbench.tasks.mmstar",
    "ocrbench": "workbench.tasks.ocrbench",
    "ocrbench-sample": "workbench.tasks.ocrbench",
    "mathvista": "workbench.tasks.mathvista",
    "mathvista-sample": "workbench.tasks.mathvista",
    "mathvista-solution": "workbench.tasks.mathvista",
    "asr": "workbench.tasks.asr",
    "asr-sample": "workbench.tasks.asr",
    "librispeech-clean": "workbench.tasks.asr_sets",
    "librispeech-other": "workbench.tasks.asr_sets",
    "voxpopuli": "workbench.tasks.asr_sets",
    "ami": "workbench.tasks.asr_sets",
    "earnings22": "workbench.tasks.asr_sets",
    "gigaspeech": "workbench.tasks.asr_sets",
    "spgispeech": "workbench.tasks.asr_sets",
    "fleurs-en": "workbench.tasks.asr_sets",
    "common-voice-en": "workbench.tasks.asr_sets",
}


def task_names() -> list[str]:
    """Built-in tasks and those registered so far (plugins: after ``registry.load_plugins()``), sorted."""
    return sorted({*BUILT_IN_TASKS, *registry.TASKS})


def load_task(name: str) -> Task:
    """The task called ``name``, or the one in the Python file ``name``. Raises UsageError."""
    if ".py" in name and (name.endswith(".py") or ".py::" in name):
        return load_file(name)
    if name in BUILT_IN_TASKS:
        import_module(BUILT_IN_TASKS[name])
    if name not in registry.TASKS:
        registry.load_plugins()
    if name not in registry.TASKS:
        close = difflib.get_close_matches(name, task_names(), n=3)
        why = f"did you mean {' or '.join(close)}?" if close else f"tasks: {', '.join(task_names())}"
        raise UsageError(f"unknown task {name!r}", why=why, fix="workbench list tasks")
    return build(registry.TASKS[name], name)


def load_file(text: str) -> Task:
    """The task in ``file.py`` or ``file.py::name``. The file's code runs now; its tasks are not registered by name."""
    file, _, wanted = text.partition("::")
    path = Path(file) if Path(file).is_file() else locate.find(file)
    if path is None:
        raise UsageError(
            f"there is no task file {file!r}",
            why=f"looked in {Path.cwd().name}/ and beside the package",
            fix="workbench list tasks",
        )
    path = path.resolve()
    module_name = f"workbench_task_{path.stem}_{hashlib.sha256(str(path).encode()).hexdigest()[:8]}"
    specification = util.spec_from_file_location(module_name, path)
    module = util.module_from_spec(specification)
    before = dict(registry.TASKS)
    registry.TASKS.clear()
    sys.modules[module_name] = module
    try:
        specification.loader.exec_module(module)
        found = {name: function for name, function in registry.TASKS.items() if function.__module__ == module_name}
    except WorkbenchError:
        raise
    except Exception as error:  # noqa: BLE001  the user's own file may raise anything
        sys.modules.pop(module_name, None)
        raise UsageError(f"task file {path.name!r} cannot be run", why=f"{type(error).__name__}: {error}") from error
    finally:
        # What other modules registered while the file was imported stays; the file's own tasks do not.
        others = {name: function for name, function in registry.TASKS.items() if function.__module__ != module_name}
        registry.TASKS.clear()
        registry.TASKS.update({**before, **others})
    if not found:
        raise UsageError(f"task file {path.name!r} holds no task", why="no function in it is decorated with @workbench.task")
    if wanted and wanted.replace("_", "-") not in found:
        raise UsageError(f"task file {path.name!r} has no task {wanted!r}", why=f"it has: {', '.join(sorted(found))}")
    if not wanted and len(found) > 1:
        names = sorted(found)
        raise UsageError(f"task file {path.name!r} holds {len(found)} tasks", why=", ".join(names), fix=f"{file}::{names[0]}")
    name = wanted.replace("_", "-") or next(iter(found))
    return build(found[name], name)


def build(function: Callable[[], Task], name: str) -> Task:
    """Call a task function and check what it returns, so that a mistake is named here and not in the middle of a run."""
    try:
        made = function()
    except WorkbenchError:
        raise
    except Exception as error:  # noqa: BLE001  the user's own function may raise anything
        raise UsageError(
            f"task {name!r} cannot be built", why=f"{type(error).__name__}: {error}", fix="see evals/template_eval.py"
        ) from error
    if not isinstance(made, Task):
        raise UsageError(
            f"task {name!r} is not a Task", why=f"its function returned {type(made).__name__}", fix="see evals/template_eval.py"
        )
    if made.headline not in [metric.name for metric in made.metrics]:
        names = ", ".join(metric.name for metric in made.metrics)
        raise UsageError(f"task {name!r} has no metric {made.headline!r}", why=f"its headline must be one of: {names}")
    return made
