"""Whole models: converted here, run by the executor, and judged by the error that torch itself makes."""

from __future__ import annotations

import copy
import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from workbench.mil import load

PUBLISHED = bool(os.environ.get("WORKBENCH_WHOLE_TESTS"))
"""Whether models have their published depths and vocabularies (``make bench``). Converting takes the longest, a second for every five
million weights, and further layers and words are like the first: otherwise models have two layers or so, and few words."""
FP32 = 1e-5
"""Largest relative L2 error of an fp32 program, or twice torch's own fp32 error where that is larger."""
TIMES_HALF = 2.0
"""An fp16 program may err so many times as much as torch in fp16."""


def convert(
    model: Any,
    args: Sequence[torch.Tensor],
    path: Path,
    *,
    half: bool = False,
    since: str = "iOS17",
    export: bool = False,
    inputs: Sequence[Any] | None = None,
    **options: Any,
) -> Path:
    """A package of ``model`` (traced, or exported). ``inputs``: coremltools' descriptions; by default the arguments' shapes, as x0, x1, ..."""
    import coremltools as ct

    logging.getLogger("coremltools").setLevel(logging.ERROR)
    with torch.no_grad():
        program = torch.export.export(model, tuple(args)).run_decompositions({}) if export else torch.jit.trace(model, tuple(args))
    if inputs is None and not export:
        types = {torch.float32: np.float32, torch.int32: np.int32, torch.int64: np.int32}
        inputs = [ct.TensorType(f"x{n}", shape=tuple(each.shape), dtype=types[each.dtype]) for n, each in enumerate(args)]
    made = ct.convert(
        program,
        inputs=inputs,
        minimum_deployment_target=getattr(ct.target, since),
        compute_precision=ct.precision.FLOAT16 if half else ct.precision.FLOAT32,
        skip_model_load=True,
        **options,
    )
    made.save(str(path))
    return path


def relative(found: Any, wanted: Any) -> float:
    """Relative L2 error over all outputs, in float64."""
    found, wanted = ([np.asarray(each, np.float64).ravel() for each in side] for side in (found, wanted))
    assert [each.size for each in found] == [each.size for each in wanted]
    found, wanted = np.concatenate(found), np.concatenate(wanted)
    return float(np.linalg.norm(found - wanted) / np.linalg.norm(wanted))


def outputs(model: Any, args: Sequence[torch.Tensor], dtype: torch.dtype = torch.float32) -> list[Any]:
    """What torch gives in ``dtype``."""
    model = copy.deepcopy(model).to(dtype)
    with torch.inference_mode():
        made = model(*(each.to(dtype) if each.is_floating_point() else each for each in args))
    return [each.double().numpy() for each in (made if isinstance(made, tuple | list) else (made,))]


def ran(path: Path, args: Sequence[torch.Tensor], **options: Any) -> list[Any]:
    """What the executor gives: compiled, then replayed, which must agree."""
    program = load(path, **options)
    given: Mapping[str, Any] = {feature.name: each.numpy() for feature, each in zip(program.inputs, args, strict=True)}
    first, second = program.predict(given), program.predict(given)
    for name, value in first.items():
        np.testing.assert_array_equal(value, second[name])
    return list(first.values())


def judge(
    model: Any, args: Sequence[torch.Tensor], folder: Path, *, precisions: Sequence[bool] = (False, True), **options: Any
) -> None:
    """The fp32 package within `FP32` or twice torch's own error; the fp16 one within `TIMES_HALF` times torch's fp16 error."""
    exact, plain = outputs(model, args, torch.float64), outputs(model, args)
    if False in precisions:
        found = ran(convert(model, args, folder / "fp32.mlpackage", **options), args)
        assert relative(found, plain) <= max(FP32, 2 * relative(plain, exact))
    if True in precisions:
        path = convert(model, args, folder / "fp16.mlpackage", half=True, **options)
        allowed = TIMES_HALF * relative(outputs(model, args, torch.float16), exact)
        for reading in ("native", "emulate", "fp16-weights"):
            assert relative(ran(path, args, precision=reading), exact) <= allowed, reading
