"""What an ONNX file says of itself, read and checked before any runtime sees it.

    file = read("step.onnx")
    file.inputs            # (TensorSpec("tokens", "int32", (1, 1)), ...); sizes that may vary are None
    file.opset             # 20
    "bfloat16" in file.types

Every part that opens an ONNX file opens it here, so all refuse the same ones in the same words: what is damaged or cut off, newer than
the installed libraries, made of ops that are nobody's here, without shapes, or asking for files outside its folder.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from workbench.backends import onnx_checks, onnx_external, onnx_trial
from workbench.backends.base import TensorSpec
from workbench.errors import ModelError, RuntimeMissing

FIX = "pip install 'parity-workbench[onnx]'"
FIX_SHAPE = "export it with the number of its inputs' dimensions (no tool can find that out from the graph)"
FIX_SHAPES = (
    """export it with shapes, or: python -c 'import onnx.shape_inference as s; s.infer_shapes_path("IN.onnx", "OUT.onnx")'"""
)
RANGES = "workbench.ranges"
"""The metadata entry that says, by the name of a size that varies, ``[least, typical, most]``."""
OURS = "parity-workbench"
"""The producer that our converter writes. Such files were opened when they were made, and their manifest has their hash."""
LARGEST_BYTES = 2**31 - 1
"""Of one file: protobuf's own limit; larger weights lie outside."""


@dataclass(frozen=True, eq=False)
class OnnxFile:
    """A file that was read. ``model`` is the parsed ``onnx.ModelProto``, whose external constants stay on disk."""

    path: Path
    model: Any
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    opset: int
    domains: Mapping[str, int]
    """Domain (``ai.onnx`` for ONNX's own) -> version."""
    types: Mapping[str, int]
    """Element type, as ONNX calls it in small letters -> how many constants, arrays and casts of the graph are of it."""
    ranges: Mapping[str, tuple[int, int, int]]
    sha256: str
    bytes: int
    external: Mapping[str, Path]
    """Files beside it that hold weights: location as written -> the file."""
    custom: tuple[tuple[str, str, str], ...]
    """(domain, op, node name) of nodes in other domains than ONNX's own."""

    @cached_property
    def values(self) -> dict[str, str]:
        """What the graph computes: name -> op. Values of inner graphs and constants are not among them."""
        return {name: node.op_type for node in self.model.graph.node for name in node.output if name and node.op_type != "Constant"}

    @property
    def low(self) -> tuple[str, ...]:
        """Which of ``float16`` and ``bfloat16`` the graph computes in."""
        return tuple(name for name in ("float16", "bfloat16") if name in self.types)

    @property
    def linked(self) -> bool:
        """Do its weights lie behind links that leave the folder (the hub's cache)?"""
        return onnx_external.is_linked(self.path, self.external)

    @property
    def size_bytes(self) -> int:
        """With the weights beside it."""
        return self.bytes + sum(place.stat().st_size for place in set(self.external.values()))

    def array(self, tensor: Any) -> np.ndarray:
        """The values of one constant of ``model``."""
        try:
            return onnx_external.array_of(tensor, self.path)
        except (ValueError, TypeError, OSError) as error:
            raise ModelError(f"{self.path.name}: its constant {tensor.name!r} cannot be read", why=str(error)[:300]) from error

    def check_observed(self, names: list[str]) -> None:
        """Raises ModelError naming values that the graph does not compute."""
        known = self.values.keys() | {spec.name for spec in self.outputs}
        unknown = [name for name in names if name not in known]
        if unknown:
            raise ModelError(
                f"{self.path.name} computes no value {unknown[0]!r}",
                why=f"{len(unknown)} of {len(names)} names are not among its {len(self.values)} values (constants cannot be seen)",
                fix="name values of its graph, as its manifest's layers do",
            )


def import_onnx() -> Any:
    """The onnx module. Raises RuntimeMissing."""
    try:
        import onnx
        import onnx.numpy_helper
    except (ImportError, OSError) as error:
        raise RuntimeMissing("ONNX files cannot be read here", why=str(error).splitlines()[0], fix=FIX) from error
    return onnx


def read(path: str | Path, *, custom: bool = False) -> OnnxFile:
    """Read and check the file at ``path``. ``custom``: ops of any domain will do, and are listed.

    Raises ModelError (not there, damaged, too new, ops that are not known, no shapes, weights that are missing or elsewhere) and
    RuntimeMissing.
    """
    path = Path(path)
    onnx = import_onnx()
    data = _bytes(path)
    model = _parsed(onnx, data, path)
    _check_version(onnx, model, path)
    others = onnx_checks.check(model, path, custom=custom)
    external = onnx_external.locate(model, path)
    sha256 = hashlib.sha256(data).hexdigest()
    ranges = _ranges(model, path)
    if (
        model.producer_name != OURS
        and len(data) + sum(place.stat().st_size for place in external.values()) <= onnx_trial.LARGEST_BYTES
    ):
        onnx_trial.survives(path, sha256)
    domains = {each.domain or "ai.onnx": each.version for each in model.opset_import}
    held = {each.name for each in model.graph.initializer}
    return OnnxFile(
        path,
        model,
        tuple(_spec(each, path, "input") for each in model.graph.input if each.name not in held),
        tuple(_spec(each, path, "output") for each in _described(onnx, model)),
        domains.get("ai.onnx", 0),
        domains,
        _types(model),
        ranges,
        sha256,
        len(data),
        external,
        others,
    )


def _bytes(path: Path) -> bytes:
    if path.is_dir():
        raise ModelError(f"{path.name} is a folder", why="an ONNX model is one file", fix=f"{path.name}/MODEL.onnx")
    try:
        size = path.stat().st_size
        if size > LARGEST_BYTES:
            raise ModelError(
                f"{path.name} has {size:,} bytes",
                why="an ONNX file ends at 2 GB; larger weights lie in a file beside it",
                fix="export it with external data",
            )
        data = path.read_bytes()
    except FileNotFoundError as error:
        raise ModelError(f"there is no {path.name}", why=f"looked in {path.parent}", fix=f"ls {path.parent}") from error
    except OSError as error:
        raise ModelError(f"{path.name} cannot be read", why=str(error)) from error
    if not data:
        raise ModelError(f"{path.name} is empty", why="a download or a copy that was cut off looks so", fix="copy it again")
    if data.startswith(b"version https://git-lfs"):
        raise ModelError(f"{path.name} is a pointer of Git LFS, not the model", fix="git lfs pull")
    return data


def _parsed(onnx: Any, data: bytes, path: Path) -> Any:
    from google.protobuf.message import DecodeError

    try:
        model = onnx.ModelProto.FromString(data)
    except (DecodeError, RuntimeError, ValueError) as error:
        raise ModelError(
            f"{path.name} is damaged, or no ONNX file", why=str(error)[:200], fix="copy it again, and compare its size and hash"
        ) from error
    if not model.HasField("graph") or not model.opset_import:
        what = "graph" if not model.HasField("graph") else "opset"
        raise ModelError(f"{path.name} is damaged, or no ONNX file", why=f"no {what} is in it", fix="copy or export it again")
    return model


def _check_version(onnx: Any, model: Any, path: Path) -> None:
    if model.ir_version > onnx.IR_VERSION:
        raise ModelError(
            f"{path.name} is newer than what is installed",
            why=f"it is of ONNX IR version {model.ir_version}; onnx {onnx.__version__} knows up to {onnx.IR_VERSION}",
            fix="pip install --upgrade onnx onnxruntime",
        )
    if model.ir_version < 3:
        raise ModelError(
            f"{path.name} is damaged, or older than 2017", why=f"its IR version is {model.ir_version}", fix="export it again"
        )


def _described(onnx: Any, model: Any) -> list[Any]:
    """The outputs; where the file gives one no shape, what ONNX's own shape inference finds."""
    outputs = list(model.graph.output)
    if all(each.type.tensor_type.HasField("shape") or not each.type.HasField("tensor_type") for each in outputs):
        return outputs
    try:
        inferred = onnx.shape_inference.infer_shapes(model)
    except (RuntimeError, ValueError, onnx.shape_inference.InferenceError):
        return outputs
    return list(inferred.graph.output)


def _spec(described: Any, path: Path, role: str) -> TensorSpec:
    name = f"{role} {described.name!r}"
    kind = described.type.WhichOneof("value")
    if kind != "tensor_type":
        told = "has no type" if kind is None else f"is of the kind {kind.removesuffix('_type')}"
        raise ModelError(f"{path.name}: its {name} {told}", why="a model is made of programs with arrays in and out")
    tensor = described.type.tensor_type
    element = onnx_external.type_name(tensor.elem_type)
    dtype = {**onnx_external.NUMPY, "BFLOAT16": "float32"}.get(element)
    if dtype is None:
        raise ModelError(
            f"{path.name}: its {name} is {element.lower()}",
            why=f"arrays in and out are of {', '.join(kind.lower() for kind in onnx_external.NUMPY)} or bfloat16",
        )
    if not tensor.HasField("shape"):
        raise ModelError(
            f"{path.name}: its {name} has no shape",
            why="not even the number of its dimensions is told; sizes may vary, their number may not",
            fix=FIX_SHAPE if role == "input" else FIX_SHAPES,
        )
    sizes = [each.dim_value if each.HasField("dim_value") else None for each in tensor.shape.dim]
    if any(size is not None and size < 0 for size in sizes):
        raise ModelError(f"{path.name} is damaged", why=f"its {name} has the sizes {sizes}", fix="export it again")
    return TensorSpec(described.name, dtype, tuple(sizes))


def _types(model: Any) -> dict[str, int]:
    """Of constants, described arrays, and what Cast and its like are told to make."""
    found: Counter[int] = Counter(tensor.data_type for tensor in onnx_external.every_tensor(model))
    graph = model.graph
    described = (*graph.input, *graph.output, *graph.value_info)
    found.update(each.type.tensor_type.elem_type for each in described if each.type.HasField("tensor_type"))
    for node in onnx_checks.every_node(model):
        found.update(each.i for each in node.attribute if each.name in ("to", "dtype", "output_dtype") and each.i)
    return {onnx_external.type_name(kind).lower(): count for kind, count in sorted(found.items()) if kind}


def _ranges(model: Any, path: Path) -> dict[str, tuple[int, int, int]]:
    text = next((entry.value for entry in model.metadata_props if entry.key == RANGES), None)
    if text is None:
        return {}
    try:
        found = {str(name): tuple(sizes) for name, sizes in json.loads(text).items()}
        right = all(
            len(sizes) == 3 and all(type(size) is int for size in sizes) and 0 <= sizes[0] <= sizes[1] <= sizes[2]
            for sizes in found.values()
        )
    except (ValueError, TypeError, AttributeError):
        right = False
    if not right:
        raise ModelError(
            f"{path.name} is damaged",
            why=f"its metadata {RANGES} is {text[:80]!r}, not [least, typical, most] by size",
            fix="convert it again",
        )
    return found
