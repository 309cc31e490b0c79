"""What a Core ML package says about itself before anything runs it: functions, arrays, states, and the systems that can load it.

    head = read("decoder.mlpackage", "step")
    head.inputs           # (TensorSpec("tokens", "int32", (1, 1)), ...)
    head.check_system()   # raises ModelError where this Mac is too old for it

Both executors read packages here, so both refuse the same ones in the same words.
"""

from __future__ import annotations

import platform
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from workbench.backends.base import TensorSpec
from workbench.errors import ItemError, ModelError, RuntimeMissing, UsageError

FIX = "pip install 'parity-workbench[coreml]'"

LEAST_MACOS = {6: (12, 0), 7: (13, 0), 8: (14, 0), 9: (15, 0), 10: (26, 0)}
"""Specification version of an ML Program -> the first macOS that loads it (apple/coremltools 9.0, mlmodel/format/Model.proto, comment
of message Model: "Specification Versions : OS Availability")."""

TARGETS = {6: "iOS15", 7: "iOS16", 8: "iOS17", 9: "iOS18", 10: "iOS26"}
"""The same versions as the converter's ``--target`` names them (coremltools 9.0, converters/mil/_deployment_compatibility.py)."""


@contextmanager
def told() -> Iterator[None]:
    """Errors of reading a package, which come from the reference executor's own classes, as ModelError."""
    from workbench.mil.errors import MilError

    try:
        yield
    except MilError as error:
        raise ModelError(error.what, why=error.why, fix=_command(error.fix)) from error


@contextmanager
def told_of_item() -> Iterator[None]:
    """Errors of one call as ItemError."""
    from workbench.mil.errors import MilError

    try:
        yield
    except MilError as error:
        raise ItemError(error.what, reason="model", why=error.why, fix=_command(error.fix)) from error


def _command(fix: str | None) -> str | None:
    """A call of the executor is nothing to type in a shell."""
    return None if fix is None or "(" in fix else fix


@dataclass(frozen=True, eq=False)
class Head:
    """One function of a package, read but not loaded. ``features`` and ``kinds`` are the executor's (workbench.mil)."""

    path: Path
    package: Any
    function: str
    several: bool
    opset: str
    specification: int
    features: tuple[Any, ...]
    kinds: Mapping[str, Any]
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    states: tuple[TensorSpec, ...]
    values: Mapping[str, str]
    """Values computed in the function's outer block: name -> MIL type name; those of constants are not among them."""

    def tensor(self, name: str, given: Any) -> Any:
        """One input as a torch tensor of the declared type. Raises ItemError naming it."""
        import torch

        from workbench.mil.arrays import to_tensor

        feature = next(item for item in self.features if item.name == name)
        with told_of_item():
            return to_tensor(feature, self.kinds[name], given, torch.float16, torch.device("cpu"), False)

    def check_names(self, arrays: Mapping[str, Any]) -> None:
        """Raises ItemError for an input that is missing or unknown."""
        wanted = [item.name for item in self.features]
        lost = [item.name for item in self.features if item.name not in arrays and not item.optional and item.default is None]
        extra = [name for name in arrays if name not in wanted]
        if lost or extra:
            what = f"there is no input {extra[0]!r}" if extra else f"input {lost[0]!r} is missing"
            raise ItemError(what, reason="model", why=f"inputs: {'; '.join(map(str, self.features)) or 'none'}")

    def check_observed(self, names: list[str]) -> None:
        """Raises ModelError naming values that the function does not compute."""
        outputs = {item.name for item in self.outputs}
        unknown = [name for name in names if name not in self.values and name not in outputs]
        if unknown:
            raise ModelError(
                f"{self.path.name}: function {self.function!r} computes no value {unknown[0]!r}",
                why=f"{len(unknown)} of {len(names)} names are not among its {len(self.values)} values (constants cannot be seen)",
                fix=f"workbench mil check {self.path.name}",
            )

    @property
    def least_macos(self) -> tuple[int, int]:
        """The first macOS that loads it, for comparing with `macos_version`."""
        least = LEAST_MACOS[self.specification]
        # macOS went from 15 to 26; a Python built before that is told 16. No release of 16 to 25 exists.
        return (16, 0) if least == (26, 0) else least

    def check_system(self) -> None:
        """Raises ModelError where this macOS is older than the package's specification asks for."""
        here, least = macos_version(), LEAST_MACOS[self.specification]
        if here is not None and here < self.least_macos:
            raise ModelError(
                f"{self.path.name} was made for macOS {_dotted(least)} and newer, this is macOS {_dotted(here)}",
                why=f"its specification is version {self.specification} ({TARGETS[self.specification]})",
                fix=self._older(here),
            )

    def _older(self, here: tuple[int, ...]) -> str:
        fits = [TARGETS[version] for version, least in LEAST_MACOS.items() if least <= here]
        if "iOS17" in fits:
            return "workbench convert MODEL --to coreml --target iOS17"
        return "?executor=reference"


def not_seen(head: Head, names: list[str], why: str) -> ModelError:
    """The error of values that exist and cannot be observed."""
    return ModelError(f"{head.path.name}: value {names[0]!r} cannot be observed", why=f"{why} ({len(names)} such names)")


def refuse_stateless(head: Head) -> None:
    """Raises UsageError where there is no state to make."""
    if not head.states:
        raise UsageError(f"function {head.function!r} of {head.path.name} has no states", why="its caches, if any, are inputs")


def read(path: str | Path, function: str | None = None) -> Head:
    """Read the head of ``path``. Raises ModelError (not there, compiled, damaged, of another kind, too new) and RuntimeMissing."""
    import_coremltools()
    with told():
        from workbench.mil.graph import read_functions
        from workbench.mil.interface import describe_function
        from workbench.mil.package import read_package

        package = read_package(path)
        specification = int(package.spec.specificationVersion)
        _known(Path(path), specification)
        functions = read_functions(package)
        name = _chosen(package, functions, function)
        chosen = functions[name]
        inputs, outputs, states = describe_function(package, chosen)
    values = {value: getattr(kind, "dtype", "") for op in chosen.block.ops for value, kind in op.outputs}
    return Head(
        Path(path),
        package,
        name,
        len(functions) > 1,
        chosen.opset,
        specification,
        tuple(inputs),
        dict(chosen.inputs),
        _specs(path, inputs),
        _specs(path, outputs),
        _specs(path, states),
        values,
    )


def _known(path: Path, specification: int) -> None:
    if specification > max(LEAST_MACOS):
        raise ModelError(
            f"{path.name} was made for a newer Core ML than this release knows",
            why=f"its specification is version {specification}; known: {min(LEAST_MACOS)} to {max(LEAST_MACOS)} (iOS26, macOS 26)",
            fix="pip install --upgrade parity-workbench coremltools",
        )


def _chosen(package: Any, functions: Mapping[str, Any], wanted: str | None) -> str:
    name = wanted or package.spec.description.defaultFunctionName or ("main" if "main" in functions else None)
    if name is None and len(functions) == 1:
        (name,) = functions
    if name not in functions:
        what = f"there is no function {name!r}" if name else "there are several functions and no default"
        raise ModelError(f"{package.path.name}: {what}", why=f"functions: {', '.join(sorted(functions))}")
    return name


def _specs(path: str | Path, features: list[Any]) -> tuple[TensorSpec, ...]:
    from workbench.mil.types import NUMPY

    found = []
    for item in features:
        if item.kind not in ("array", "state", "scalar") or item.dtype not in NUMPY or item.shape is None:
            raise ModelError(
                f"{Path(path).name}: {item} is no array",
                why="a model is made of programs with arrays in and out; pictures, labels and dictionaries belong to an app",
                fix=f"workbench mil run {Path(path).name} --inputs INPUTS.npz",
            )
        shape = item.shape
        if item.ranges:
            shape = tuple(low if low == high else None for low, high in item.ranges)
        elif item.enumerated:
            shape = tuple(sizes[0] if len(set(sizes)) == 1 else None for sizes in zip(*item.enumerated, strict=True))
        found.append(TensorSpec(item.name, np.dtype(NUMPY[item.dtype]).name, tuple(shape)))
    return tuple(found)


def import_coremltools() -> None:
    """Raises RuntimeMissing when it or torch, which both executors need, is not here."""
    from workbench.mil.errors import UnsupportedError
    from workbench.mil.package import protocol

    try:
        protocol()
        import torch  # noqa: F401
    except (UnsupportedError, ImportError, OSError) as error:
        why = str(error).splitlines()[0]
        raise RuntimeMissing("Core ML packages cannot be read here", why=why, fix=FIX) from error


@lru_cache(maxsize=1)
def macos_version() -> tuple[int, ...] | None:
    """(15, 5) on a Mac with macOS 15.5; None elsewhere and where the system does not tell."""
    if platform.system() != "Darwin":
        return None
    try:
        asked = subprocess.run(["sw_vers", "-productVersion"], capture_output=True, text=True, timeout=10, check=True)
        text = asked.stdout.strip()
    except (OSError, subprocess.SubprocessError):
        text = platform.mac_ver()[0]
    parts = tuple(int(part) for part in text.split(".")[:2] if part.isdigit())
    return parts or None


def _dotted(version: tuple[int, ...]) -> str:
    return ".".join(map(str, version[:1] if version[1:] == (0,) else version))
