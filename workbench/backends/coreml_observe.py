"""A copy of a package whose function also puts out values from its inside, so that a device can be asked what it computed there.

    with_outputs(head, ["linear_3", "add_12"], folder)      # folder/observed.mlpackage

It is what coremltools' own ``MLModelInspector`` does (coremltools 9.0, models/ml_program/experimental/debugging_utils.py), for one
function of several too. Weights are linked, not copied, where the disk allows. Note that more outputs can change how a device fuses.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from workbench.backends import coreml_package
from workbench.backends.coreml_package import Head

FEATURE_TYPES = {"fp16": "FLOAT16", "fp32": "FLOAT32", "fp64": "DOUBLE", "int32": "INT32"}
"""MIL types that an output of a model may have -> ``ArrayFeatureType.ArrayDataType``."""
LEAST_SPECIFICATION = 7
"""fp16 outputs came with iOS16."""


def with_outputs(head: Head, names: Sequence[str], folder: Path) -> Path:
    """Write the copy. Raises ModelError for a value that is not there, or of a type that no output may have."""
    head.check_observed(list(names))
    unfit = [name for name in names if name in head.values and head.values[name] not in FEATURE_TYPES]
    if unfit:
        kind = head.values[unfit[0]] or "no tensor"
        raise coreml_package.not_seen(head, unfit, f"it is {kind}, and outputs are {', '.join(FEATURE_TYPES)}")
    spec = type(head.package.spec)()
    spec.CopyFrom(head.package.spec)
    function = spec.mlProgram.functions[head.function]
    block = function.block_specializations[function.opset]
    described = _description(spec, head.function)
    for name in names:
        if name in block.outputs:
            continue
        block.outputs.append(name)
        feature = described.output.add()
        feature.name = name
        array = feature.type.multiArrayType
        array.dataType = array.ArrayDataType.Value(FEATURE_TYPES[head.values[name]])
    spec.specificationVersion = max(LEAST_SPECIFICATION, spec.specificationVersion)
    return _copy(head, spec, folder / "observed.mlpackage")


def _description(spec: Any, function: str) -> Any:
    for item in spec.description.functions:
        if item.name == function:
            return item
    return spec.description


def _copy(head: Head, spec: Any, out: Path) -> Path:
    """The package's files, with ``spec`` in place of its model file; of a lone model file also the weights beside it."""
    root, model_file = Path(head.package.root), Path(head.package.model_file).resolve()
    if not head.path.is_dir():
        out = out.with_suffix(".mlmodel")
        out.write_bytes(spec.SerializeToString())
        if (root / "weights").is_dir():
            shutil.copytree(root / "weights", out.parent / "weights")
        return out

    def place(source: str, target: str) -> str:
        if Path(source).resolve() == model_file:
            Path(target).write_bytes(spec.SerializeToString())
            return target
        try:
            os.link(source, target)
        except OSError:  # another disk, or one without links
            shutil.copy2(source, target)
        return target

    shutil.copytree(root, out, copy_function=place)
    return out
