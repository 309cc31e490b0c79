"""The files that an ONNX file keeps its weights in, checked before any library opens them.

    external = locate(model, Path("step.onnx"))      # {"weights.data": Path("/.../weights.data")}
    array_of(tensor, Path("step.onnx"))              # numpy, memory-mapped where the data lie outside

ONNX stores them as ``location`` (a relative path), ``offset`` and ``length`` (onnx/onnx, docs/ExternalData.md). A location is read only
from the file's own folder: an absolute one, one with ``..`` and a link that leaves the folder could name any file of this machine.
Folders of the hub's cache are links by design; there a link may lead to the same repository's blobs.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from math import prod
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

import numpy as np

from workbench.errors import ModelError

NUMPY = {
    "FLOAT": "float32",
    "DOUBLE": "float64",
    "FLOAT16": "float16",
    "BOOL": "bool",
    **{f"{sign}INT{bits}": f"{sign}int{bits}".lower() for sign in ("", "U") for bits in (8, 16, 32, 64)},
}
"""ONNX element types that numpy has too."""


def every_tensor(model: Any) -> Iterator[Any]:
    """Constants of the graph, of its inner graphs, of attributes and of functions."""
    yield from _of_graph(model.graph)
    for function in model.functions:
        for node in function.node:
            yield from _of_node(node)


def _of_graph(graph: Any) -> Iterator[Any]:
    yield from graph.initializer
    for sparse in graph.sparse_initializer:
        yield from (sparse.values, sparse.indices)
    for node in graph.node:
        yield from _of_node(node)


def _of_node(node: Any) -> Iterator[Any]:
    for attribute in node.attribute:
        if attribute.HasField("t"):
            yield attribute.t
        yield from attribute.tensors
        for sparse in (*([attribute.sparse_tensor] if attribute.HasField("sparse_tensor") else ()), *attribute.sparse_tensors):
            yield from (sparse.values, sparse.indices)
        for graph in (*([attribute.g] if attribute.HasField("g") else ()), *attribute.graphs):
            yield from _of_graph(graph)


def type_name(number: int) -> str:
    """``FLOAT16`` of 10; the number where the installed onnx knows no such type."""
    import onnx

    try:
        return onnx.TensorProto.DataType.Name(number)
    except ValueError:
        return str(number)


def dense_bytes(tensor: Any, path: Path) -> int:
    """How many bytes a tensor of its type and shape has. Raises ModelError for a negative size or an unknown type."""
    kind = type_name(tensor.data_type)
    found = re.search(r"\d+", kind)
    bits = {"FLOAT": 32, "DOUBLE": 64, "BOOL": 8}.get(kind) or (int(found.group()) if found and not kind.isdigit() else 0)
    if not bits or any(size < 0 for size in tensor.dims):
        raise ModelError(f"{path.name} is damaged", why=f"its constant {tensor.name!r} is {kind} of the shape {list(tensor.dims)}")
    return (prod(tensor.dims) * bits + 7) // 8


def is_external(tensor: Any) -> bool:
    return tensor.data_location == 1


def locate(model: Any, path: Path) -> dict[str, Path]:
    """Every external file by its location as written; all of what is asked of them is there. Raises ModelError naming the constant."""
    found: dict[str, Path] = {}
    for tensor in every_tensor(model):
        if is_external(tensor):
            location, offset, length = entries(tensor, path)
            if location not in found:
                found[location] = _place(location, tensor.name, path)
            held = found[location].stat().st_size
            if offset + length > held:
                raise ModelError(
                    f"{path.name}: {location} is too short for the constant {tensor.name!r}",
                    why=f"its {length:,} bytes begin at {offset:,}; the file has {held:,}",
                    fix=f"copy {location} again, whole, beside {path.name}",
                )
    return found


def entries(tensor: Any, path: Path) -> tuple[str, int, int]:
    """Location, offset and length of one external constant. Raises ModelError where they are not right."""
    held = {entry.key: entry.value for entry in tensor.external_data}
    location = held.get("location", "")
    if not location or "\0" in location:
        raise ModelError(f"{path.name} is damaged", why=f"its constant {tensor.name!r} lies outside, and no location says where")
    wanted = dense_bytes(tensor, path)
    numbers = {name: held.get(name) or default for name, default in (("offset", "0"), ("length", str(wanted)))}
    for name, text in numbers.items():
        if not re.fullmatch(r"[0-9]{1,18}", text):
            raise ModelError(f"{path.name} is damaged", why=f"{name} of its constant {tensor.name!r} is {text[:40]!r}")
    if int(numbers["length"]) != wanted:
        raise ModelError(
            f"{path.name} is damaged",
            why=f"its constant {tensor.name!r} of the shape {list(tensor.dims)} takes {wanted:,} bytes; {numbers['length']} are told",
        )
    return location, int(numbers["offset"]), wanted


def _place(location: str, constant: str, path: Path) -> Path:
    posix, windows = PurePosixPath(location), PureWindowsPath(location)
    if posix.is_absolute() or windows.is_absolute() or windows.drive or ".." in posix.parts or ".." in windows.parts:
        raise ModelError(
            f"{path.name} asks for a file outside its folder",
            why=f"the constant {constant!r} is said to lie in {location!r}; only files in the model's own folder are read",
            fix='python -c \'import onnx; onnx.save(onnx.load("IN.onnx"), "OUT.onnx", save_as_external_data=True)\'',
        )
    wanted = path.parent / location
    resolved, folder = wanted.resolve(), path.parent.resolve()
    if not resolved.is_relative_to(folder) and not _in_the_same_hub_repository(path, resolved):
        raise ModelError(
            f"{path.name} asks for a file outside its folder",
            why=f"{location} is a link that leaves the folder",
            fix=f"put {Path(location).name} itself beside {path.name}",
        )
    if not resolved.is_file():
        raise ModelError(
            f"{path.name} lacks its weights: there is no {location} beside it",
            why=f"the constant {constant!r} lies there",
            fix=f"copy {location} beside {path.name}",
        )
    return resolved


def _in_the_same_hub_repository(path: Path, resolved: Path) -> bool:
    """``models--ORG--NAME/snapshots/REVISION/...`` is made of links to ``models--ORG--NAME/blobs/...``."""
    for parent in path.absolute().parents:
        if parent.name == "snapshots" and parent.parent.name.startswith("models--"):
            return resolved.is_relative_to(parent.parent.resolve() / "blobs")
    return False


def is_linked(path: Path, external: dict[str, Path]) -> bool:
    """Do links lead out of the folder, or is the file itself one (hub cache)? ONNX Runtime opens no such weights by itself."""
    folder = path.parent.resolve()
    return bool(external) and (path.is_symlink() or any(not place.is_relative_to(folder) for place in external.values()))


def array_of(tensor: Any, path: Path) -> np.ndarray:
    """The values; those outside are mapped, not read. Types that numpy lacks come as ml_dtypes' (bfloat16).

    Raises ModelError for a constant whose data and shape do not fit.
    """
    from onnx import numpy_helper

    if not is_external(tensor):
        return numpy_helper.to_array(tensor)
    location, offset, length = entries(tensor, path)
    kind, place = type_name(tensor.data_type), _place(location, tensor.name, path)
    if kind in NUMPY or kind == "BFLOAT16":
        if kind == "BFLOAT16":
            import ml_dtypes

            dtype = np.dtype(ml_dtypes.bfloat16)
        else:
            dtype = np.dtype(NUMPY[kind])
        if not length:
            return np.zeros(tuple(tensor.dims), dtype)
        return np.memmap(place, dtype=dtype.newbyteorder("<"), mode="r", offset=offset, shape=tuple(tensor.dims))
    with open(place, "rb") as file:
        file.seek(offset)
        inside = type(tensor)(name=tensor.name, data_type=tensor.data_type, dims=tensor.dims, raw_data=file.read(length))
    return numpy_helper.to_array(inside)
