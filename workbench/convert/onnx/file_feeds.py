"""Arrays for an ONNX file whose inputs nobody gave: seeded noise in the shapes and types that it declares.

    random_arrays(read("detector.onnx"))[0]["images"].shape      # (1, 3, 640, 640)

Whole numbers are 0 and 1, which are an index of any table; a size that varies is the typical one where the file says it
(``workbench.ranges``), else 1 for the first axis of an input and ``SIZE`` for others, the same for all axes of one name.
"""

from __future__ import annotations

from typing import Any

from workbench.backends.onnx_file import OnnxFile
from workbench.errors import UsageError

SEED, CALLS, SIZE = 20, 2, 8
LARGEST = 2**26
"""Values of one input; a file that declares more is not meant to be filled with noise."""


def random_arrays(file: OnnxFile) -> list[dict[str, Any]]:
    """``CALLS`` calls. Raises UsageError for an input that noise cannot stand for."""
    import numpy

    drawn = numpy.random.default_rng(SEED)
    sizes: dict[str, int] = {}
    held = {each.name for each in file.model.graph.initializer}
    declared = {each.name: each.type.tensor_type.shape.dim for each in file.model.graph.input if each.name not in held}
    shapes = {}
    for spec in file.inputs:
        shape = tuple(_size(dim, axis, sizes, file) for axis, dim in enumerate(declared[spec.name]))
        if numpy.prod(shape, dtype=float) > LARGEST or numpy.dtype(spec.dtype).kind not in "fiub":
            raise UsageError(
                f"input {spec.name!r} of {file.path.name} cannot be random",
                why=f"{spec.dtype} of {list(shape)}",
                fix="--inputs arrays.npz",
            )
        shapes[spec] = shape
    return [{spec.name: _filled(drawn, spec.dtype, shape) for spec, shape in shapes.items()} for _ in range(CALLS)]


def _size(dim: Any, axis: int, sizes: dict[str, int], file: OnnxFile) -> int:
    if dim.HasField("dim_value"):
        return int(dim.dim_value)
    usual = 1 if axis == 0 else SIZE
    if not dim.dim_param:
        return usual
    if dim.dim_param in file.ranges:
        return int(file.ranges[dim.dim_param][1])
    return sizes.setdefault(dim.dim_param, usual)


def _filled(drawn: Any, dtype: str, shape: tuple[int, ...]) -> Any:
    import numpy

    kind = numpy.dtype(dtype)
    if kind.kind == "f":
        return drawn.standard_normal(shape).astype(kind)
    return drawn.integers(0, 2, shape).astype(kind)
