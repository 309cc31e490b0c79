"""Optional inputs of the elementwise and reduction ops that a program leaves out.

coremltools writes every default into the program; other producers need not.
"""

from __future__ import annotations

import numpy as np
import pytest
from coremltools.converters.mil import Builder as mb

from tests.mil.building import save
from workbench.mil import load

REDUCTIONS = ("l1_norm", "l2_norm", "log_sum", "log_sum_exp", "max", "mean", "min", "prod", "sum", "sum_square", "argmax", "argmin")
OPS = ("inverse", "log", "rsqrt", "gelu", "softmax", *(f"reduce_{name}" for name in REDUCTIONS))
X = np.array([[[0.0, 1e-3, 5.0]], [[2.0, 0.5, 0.0]]], np.float32)
"""At 0 the default epsilon is all there is; as values of fp16, those of log and rsqrt are 0."""


@pytest.mark.parametrize("since", ["iOS15", "iOS17"])
@pytest.mark.parametrize("kind", ["fp32", "fp16"])
def test_what_the_program_leaves_out_is_the_default(kind, since, tmp_path):
    import coremltools as ct

    def build(x):
        given = mb.cast(x=x, dtype=kind)
        results = [getattr(mb, op)(x=given) for op in OPS]
        return tuple(mb.cast(x=result, dtype="fp32") for result in results)

    path = save(build, {"x": X}, tmp_path, since=since)
    written = {mode: list(load(path, precision=mode).predict({"x": X}).values()) for mode in ("native", "emulate")}
    (model,) = path.rglob("*.mlmodel")
    spec = ct.utils.load_spec(str(model))
    (block,) = spec.mlProgram.functions["main"].block_specializations.values()
    removed = 0
    for item in block.operations:
        if item.type in OPS:
            for name in [name for name in item.inputs if name != "x"]:
                del item.inputs[name]
                removed += 1
    assert removed >= len(OPS)
    model.write_bytes(spec.SerializeToString())
    for mode, wanted in written.items():
        found = list(load(path, precision=mode).predict({"x": X}).values())
        for op, one, other in zip(OPS, found, wanted, strict=True):
            np.testing.assert_array_equal(one, other, err_msg=op)
