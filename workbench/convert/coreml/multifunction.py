"""Several stages in one package, with the weights they share stored once (from iOS18 on).

    merge({"prefill": Path("prefill.mlpackage"), "step": Path("step.mlpackage")}, Path("decoder.mlpackage"))
    # Merged(bytes=6_800_000, apart_bytes=13_600_000, shared_bytes=6_700_000, functions=("prefill", "step"))

Compress before merging: coremltools compresses packages of one function only.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from workbench.convert.coreml.exporting import import_coremltools, quiet
from workbench.convert.coreml.saving import settle_bytes
from workbench.errors import ModelError, UsageError


@dataclass(frozen=True)
class Merged:
    """``bytes`` of the weight file, ``apart_bytes`` of the weight files it replaces, ``shared_bytes`` that more than one function reads."""

    functions: tuple[str, ...]
    bytes: int
    apart_bytes: int
    shared_bytes: int


def merge(packages: Mapping[str, Path], target: Path) -> Merged:
    """Write ``target`` with one function for each of ``packages`` (function name -> package of one function); the first is the default.

    The result is read back: every function must be there with its own inputs. Raises ModelError where coremltools cannot merge or a
    function is lost, UsageError for fewer than two packages. Packages that share nothing are merged all the same: see ``shared_bytes``.
    """
    if len(packages) < 2:
        raise UsageError(f"{len(packages)} packages are nothing to merge", why="a package of several functions needs at least two")
    coremltools = import_coremltools()
    try:
        with quiet():
            described = coremltools.utils.MultiFunctionDescriptor()
            for name, path in packages.items():
                described.add_function(str(path), "main", name)
            described.default_function_name = next(iter(packages))
            coremltools.utils.save_multifunction(described, str(target))
    except Exception as error:  # coremltools raises many kinds
        said = " ".join(str(error).split())[:400]
        raise ModelError(f"coremltools cannot merge {', '.join(packages)}", why=f"{type(error).__name__}: {said}") from error
    settle_bytes(target)
    return _read_back(packages, target)


def _read_back(packages: Mapping[str, Path], target: Path) -> Merged:
    from workbench.mil.graph import read_functions
    from workbench.mil.package import read_package

    functions = read_functions(read_package(target))
    apart = 0
    for name, path in packages.items():
        (alone,) = read_functions(read_package(path)).values()
        merged = functions.get(name)
        if merged is None or [each for each, _ in merged.inputs] != [each for each, _ in alone.inputs]:
            raise ModelError(f"{target.name} has lost function {name!r}", why=f"functions: {', '.join(functions)}")
        apart += sum(_stored(alone.block).values())
    held = [_stored(function.block) for function in functions.values()]
    places = {place: size for each in held for place, size in each.items()}
    shared = sum(size for place, size in places.items() if sum(place in each for each in held) > 1)
    return Merged(tuple(packages), sum(places.values()), apart, shared)


def _stored(block: Any) -> dict[Any, int]:
    """``{place in a weight file: bytes}`` of all that a block's constants and the inputs of its ops store."""
    from workbench.mil.graph import Constant, all_constants, walk

    constants = [constant for _, constant in all_constants(block)]
    constants += [each for op in walk(block) for given in op.inputs.values() for each in given if isinstance(each, Constant)]
    return {constant.place: constant.stored_bytes for constant in constants if constant.stored_bytes}
