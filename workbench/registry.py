"""Where tasks and backends are found by name, without importing them before they are used.

Built-in names map to ``module:attribute``; third parties add theirs with the entry-point group ``workbench.plugins``
(each entry point is a module that registers by decorator when imported)::

    @task                       # a function that returns a Task
    def my_eval() -> Task: ...

    @backend("mlx")             # a class that follows workbench.backends.base.Backend
    class MLXBackend: ...
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from importlib.metadata import entry_points

from workbench.errors import UsageError

TASKS: dict[str, Callable] = {}
BACKENDS: dict[str, type] = {}

BUILT_IN_BACKENDS = {
    "torch": "workbench.backends.torch",
    "mlx": "workbench.backends.mlx",
    "coreml": "workbench.backends.coreml",
    "onnx": "workbench.backends.onnx",
    "tensorrt": "workbench.backends.tensorrt",
    "server": "workbench.backends.server",
}


BUILT_IN_CONVERTERS = {
    "coreml": "workbench.convert.coreml.cache:ensure",
    "onnx": "workbench.convert.onnx.cache:ensure",
    "tensorrt": "workbench.convert.onnx.cache:ensure",
}
"""Runtimes that run what is converted for them: ``ensure(spec)`` gives the converted folder, made on first use."""


ITEM_READER = "workbench.capture.inputs:read_items"
"""Requests of tasks, suites and files, as captures and conversions are given them."""


def task(function: Callable) -> Callable:
    """Register a function that returns a Task, under the function's name with dashes for underscores."""
    TASKS[function.__name__.replace("_", "-")] = function
    return function


def backend(name: str) -> Callable[[type], type]:
    """Register a backend class under ``name``."""

    def register(cls: type) -> type:
        BACKENDS[name] = cls
        return cls

    return register


def load_plugins() -> list[tuple[str, str]]:
    """Import every plugin once. Returns (name, error) of those that failed; they break nothing else."""
    failed = []
    for point in entry_points(group="workbench.plugins"):
        try:
            point.load()
        except Exception as error:  # noqa: BLE001  a third party's module may raise anything
            failed.append((point.name, f"{type(error).__name__}: {error}"))
    return failed


def backend_names() -> list[str]:
    return sorted({*BUILT_IN_BACKENDS, *BACKENDS})


def get_backend(name: str):
    """An instance of the backend ``name``; the module behind it is imported now. Raises UsageError when unknown."""
    if name not in BACKENDS and name in BUILT_IN_BACKENDS:
        import_module(BUILT_IN_BACKENDS[name])
    if name not in BACKENDS:
        load_plugins()
    if name not in BACKENDS:
        raise UsageError(f"unknown runtime {name!r}", why=f"known: {', '.join(backend_names())}", fix="workbench doctor")
    return BACKENDS[name]()


def get_converter(backend: str) -> Callable | None:
    """``ensure(spec) -> Path`` of a runtime that runs converted models, None of one that reads checkpoints as they are.

    The models' layer lies below the converters' and calls them through this name.
    """
    if backend not in BUILT_IN_CONVERTERS:
        return None
    return _named(BUILT_IN_CONVERTERS[backend])


def get_item_reader() -> Callable:
    """``read_items(sources, limit=...)``: it lies above the converters, which call it through this name."""
    return _named(ITEM_READER)


def _named(text: str) -> Callable:
    module, _, name = text.partition(":")
    return getattr(import_module(module), name)
