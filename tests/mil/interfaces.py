"""Packages whose description says more than the program: images, labels, defaults, flexible shapes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import coremltools as ct
import numpy as np
from coremltools.converters.mil import Builder as mb
from coremltools.converters.mil.mil import get_new_symbol, types

from tests.mil.building import freeze_imports, opset


def converted(build: Callable[..., Any], inputs: Mapping[str, Any], folder: Path, *, since: str = "iOS15", **options: Any) -> Path:
    """A package whose inputs are described by coremltools' ``TensorType`` and ``ImageType``; ``options`` go to ``ct.convert``."""
    freeze_imports()
    symbols: dict[Any, Any] = {}

    def size(value: Any) -> Any:
        return value if isinstance(value, int) else symbols.setdefault(id(value), get_new_symbol())

    def spec(described: Any) -> Any:
        shape = described.shape
        if isinstance(shape, ct.EnumeratedShapes):
            columns = list(zip(*(one.shape for one in shape.shapes), strict=True))
            sizes = [column[0] if len(set(column)) == 1 else get_new_symbol() for column in columns]
        else:
            sizes = [size(value) for value in shape.shape]
        kind = types.numpy_type_to_builtin_type(np.float32) if isinstance(described, ct.ImageType) else described.dtype
        return mb.TensorSpec(tuple(sizes), kind)

    names = list(inputs)
    body = eval(f"lambda {', '.join(names)}: build({', '.join(f'{name}={name}' for name in names)})", {"build": build})
    program = mb.program(input_specs=[spec(value) for value in inputs.values()], opset_version=opset(since))(body)
    options.setdefault("pass_pipeline", ct.PassPipeline.DEFAULT)
    model = ct.convert(
        program,
        convert_to="mlprogram",
        minimum_deployment_target=opset(since),
        compute_precision=ct.precision.FLOAT32,
        skip_model_load=True,
        inputs=list(inputs.values()),
        **options,
    )
    path = folder / "program.mlpackage"
    model.save(str(path))
    return path
