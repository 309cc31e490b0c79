"""Write a package so that the same model is the same bytes, whichever process converted it.

    save_package(converted.mlmodel, Path("vision.mlpackage"))

coremltools writes the program's maps (inputs, attributes) in an order that follows the process's hash seed; here they are sorted. The
identifiers in ``Manifest.json`` alone are random.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from workbench.convert.coreml.exporting import quiet

LEFTOVER = "executorch_debug_handle_mapping.json"
"""What coremltools keeps for its own debugger when a model was exported by torch."""


def save_package(mlmodel: Any, path: Path) -> Path:
    """``path``, written anew. Raises OSError where the disk does not take it."""
    with quiet():
        mlmodel.save(str(path))
    settle_bytes(path)
    return path


def settle_bytes(path: Path) -> None:
    """Sort the maps of a saved package's program, and remove what only coremltools' debugger reads."""
    from workbench.mil.package import read_package

    (path / LEFTOVER).unlink(missing_ok=True)
    package = read_package(path)
    package.model_file.write_bytes(package.spec.SerializeToString(deterministic=True))
