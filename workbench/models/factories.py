"""A factory that the user named: ``package.module:factory`` or ``file.py:factory``, called without arguments.

    call_factory("my_model.py:make")    # what make() returns

Calling it runs the user's code; nothing here loads a checkpoint or a pickle of its own.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

from workbench.errors import UsageError


def file_of(text: str) -> Path | None:
    """The file of the factory's code; None for what was imported from elsewhere than a file."""
    where, _, _ = text.rpartition(":")
    if where.endswith(".py"):
        return Path(where)
    found = getattr(sys.modules.get(where), "__file__", None)
    return Path(found) if found else None


USAGE = "--against package.module:factory or file.py:factory"
RETURNS = "a torch.nn.Module"


def call_factory(text: str, usage: str = USAGE, returns: str = RETURNS) -> Any:
    """What the factory returns. Raises UsageError where it cannot be found or fails; its words: ``usage``, what to type, and what a factory
    ``returns``."""
    where, _, name = text.rpartition(":")
    if not where or not name.isidentifier():
        raise UsageError(f"{text!r} names no factory", fix=usage)
    try:
        with redirect_stdout(sys.stderr):  # what it prints is none of our output
            module = load_file(Path(where), usage) if where.endswith(".py") else importlib.import_module(where)
    except UsageError:
        raise
    except (Exception, SystemExit) as error:  # importing runs the user's code, which may end as a script does
        raise UsageError(f"{where} cannot be imported", why=f"{type(error).__name__}: {error}"[:400]) from error
    factory = getattr(module, name, None)
    if not callable(factory):
        raise UsageError(f"{where} holds no {name}()", why=f"a factory takes no arguments and returns {returns}", fix=usage)
    try:
        with redirect_stdout(sys.stderr):
            return factory()
    except (Exception, SystemExit) as error:  # the user's code
        raise UsageError(f"{text} failed", why=f"{type(error).__name__}: {error}"[:400]) from error


def load_file(path: Path, usage: str = USAGE) -> Any:
    """Import one file; what stands beside it can be imported by it."""
    if not path.is_file():
        raise UsageError(f"there is no file {str(path)!r}", fix=usage)
    name = f"twin_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    folder = str(path.resolve().parent)
    sys.path.insert(0, folder)
    try:
        spec.loader.exec_module(module)
    finally:
        sys.path.remove(folder)
    return module
