"""The workbench: is the model I ship still the model I evaluated?

Runs vision-language models on several runtimes, scores them as each benchmark's authors do, and keeps every run as a
folder (the run bundle) that anybody can read later::

    import workbench as wb
    run = wb.evaluate("mmmu-sample", model="demo:vlm@torch", limit=20)
    run.to_frame()
    wb.compare(run, wb.evaluate("mmmu-sample", model="demo:vlm@mlx", limit=20)).verdict

Names are resolved when first used, so that ``import workbench`` loads no runtime.
"""

from __future__ import annotations

from importlib import import_module

__version__ = "0.1.0"

_LAZY = {
    "evaluate": "workbench.run.runner",
    "capture_layers": "workbench.capture.session",
    "check_program": "workbench.capture.check",
    "run_zoo": "workbench.capture.zoo.run",
    "Run": "workbench.run.bundle",
    "compare": "workbench.parity.ladder",
    "Comparison": "workbench.parity.comparison",
    "transcribe": "workbench.models.transcribing",
    "write_report": "workbench.report.folder",
    "task": "workbench.registry",
    "load_task": "workbench.tasks.catalogue",
    "ModelSpec": "workbench.types",
    "Media": "workbench.types",
    "Sample": "workbench.types",
    "Request": "workbench.types",
    "Response": "workbench.types",
    "Score": "workbench.types",
    "Task": "workbench.types",
    "Metric": "workbench.types",
}

__all__ = ["__version__", *sorted(_LAZY)]


def __getattr__(name: str):
    if name in _LAZY:
        return getattr(import_module(_LAZY[name]), name)
    raise AttributeError(f"module 'workbench' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
