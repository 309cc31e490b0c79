"""Small ML Programs for tests: built with coremltools' MIL builder, saved without any optimisation pass, loaded by ours."""

from __future__ import annotations

import gc
import logging
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

logging.getLogger("coremltools").setLevel(logging.ERROR)


@cache
def freeze_imports() -> None:
    """``ct.convert`` collects garbage at every call, which walks all that torch and coremltools have made: nine tenths of a small
    conversion. What exists now is left out of that from here on."""
    import coremltools  # noqa: F401
    import torch  # noqa: F401

    gc.collect()
    gc.freeze()


def opset(name: str) -> Any:
    """coremltools' target of an opset name such as ``iOS17``."""
    import coremltools as ct

    return getattr(ct.target, name)


def save(
    build: Callable[..., Any],
    inputs: Mapping[str, Any],
    folder: Path,
    *,
    since: str = "iOS15",
    states: Mapping[str, Any] | None = None,
) -> Path:
    """A package of one function. ``build(**vars)`` returns the output Var or several.

    ``inputs``: name -> array (its shape and type become the input's) or (shape, numpy type) with None where a size is known at
    run time only. ``states``: name -> (shape, numpy type).
    """
    import coremltools as ct
    from coremltools.converters.mil import Builder as mb
    from coremltools.converters.mil.mil import get_new_symbol, types

    freeze_imports()

    def spec(value: Any, maker: Any) -> Any:
        shape, kind = (value.shape, value.dtype) if isinstance(value, np.ndarray) else value
        sizes = tuple(get_new_symbol() if size is None else size for size in shape)
        return maker(sizes, types.numpy_type_to_builtin_type(np.dtype(kind).type))

    specs = [spec(value, mb.TensorSpec) for value in inputs.values()]
    specs += [spec(value, mb.StateTensorSpec) for value in (states or {}).values()]
    names = [*inputs, *(states or {})]
    body = eval(f"lambda {', '.join(names)}: build({', '.join(f'{name}={name}' for name in names)})", {"build": build})
    program = mb.program(input_specs=specs, opset_version=opset(since))(body)
    flexible = any(not isinstance(value, np.ndarray) and None in value[0] for value in inputs.values())
    described = None
    if flexible:
        described = [
            ct.TensorType(
                name=name,
                shape=tuple(
                    ct.RangeDim(1, 64) if size is None else size
                    for size in (value.shape if isinstance(value, np.ndarray) else value[0])
                ),
                dtype=value.dtype.type if isinstance(value, np.ndarray) else value[1],
            )
            for name, value in inputs.items()
        ]
    model = ct.convert(
        program,
        convert_to="mlprogram",
        minimum_deployment_target=opset(since),
        compute_precision=ct.precision.FLOAT32,
        pass_pipeline=ct.PassPipeline.EMPTY,
        skip_model_load=True,
        inputs=described,
    )
    path = folder / "program.mlpackage"
    model.save(str(path))
    return path


def run(
    build: Callable[..., Any], inputs: Mapping[str, Any], folder: Path, *, since: str = "iOS15", again: bool = True, **options: Any
) -> list[Any]:
    """Save, load and predict twice (the run that compiles, then the replayed plan; both must agree); the outputs in order.

    ``again=False`` where the values are random or the program keeps a state. ``options`` go to ``load``.
    """
    from workbench.mil import load

    program = load(save(build, inputs, folder, since=since), **options)
    first = list(program.predict(inputs).values())
    if again:
        for one, other in zip(first, program.predict(inputs).values(), strict=True):
            np.testing.assert_array_equal(one, other)
    return first
