"""Small packages for the tests of the Core ML backend: a linear layer with a residual, a stateful counter, two functions in one."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from tests.mil.building import save

WEIGHT = (np.arange(12).reshape(3, 4) / 8 - 0.5).astype(np.float32)


def plain(folder: Path) -> Path:
    """y = relu(x W^T) + 1, with x (1 to 64, 4) float32; the fp16 value ``half`` and the bool value ``positive`` are inside."""
    from coremltools.converters.mil import Builder as mb

    def build(x):
        product = mb.linear(x=x, weight=WEIGHT, name="product")
        mb.cast(x=product, dtype="fp16", name="half")
        mb.greater(x=product, y=np.float32(0), name="positive")
        return mb.add(x=mb.relu(x=product, name="rectified"), y=np.float32(1), name="y")

    return save(build, {"x": ((None, 4), np.float32)}, folder, since="iOS17")


def counter(folder: Path) -> Path:
    """total (2, 3) fp16 += x; y = total + 0, count int32 = n + 1 (n is int32)."""
    from coremltools.converters.mil import Builder as mb

    def build(x, n, total):
        new = mb.coreml_update_state(
            state=total, value=mb.add(x=mb.read_state(input=total), y=mb.cast(x=x, dtype="fp16"), name="sum")
        )
        return mb.cast(x=new, dtype="fp32", name="y"), mb.add(x=n, y=np.int32(1), name="count")

    inputs = {"x": np.zeros((2, 3), np.float32), "n": np.zeros((1,), np.int32)}
    return save(build, inputs, folder, since="iOS18", states={"total": ((2, 3), np.float16)})


def both(folder: Path, *parts: Path) -> Path:
    """One package with the functions ``first`` and ``second``."""
    import coremltools as ct

    described = ct.utils.MultiFunctionDescriptor()
    for name, path in zip(("first", "second"), parts, strict=True):
        described.add_function(str(path), "main", name)
    described.default_function_name = "first"
    made = folder / "both.mlpackage"
    ct.utils.save_multifunction(described, str(made))
    return made


def wide(folder: Path) -> Path:
    """y = -x, 32 MiB of float32: far more than a socket holds."""
    from coremltools.converters.mil import Builder as mb

    return save(lambda x: mb.mul(x=x, y=np.float32(-1), name="y"), {"x": np.zeros((4096, 2048), np.float32)}, folder)
