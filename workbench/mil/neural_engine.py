"""Ops and shapes that tend to leave the Neural Engine: a table of public reports, each with its source.

Apple documents no list, and where an op runs depends on the chip, the system, the shapes and the ops around it (apple/coremltools
issue 1780). So each rule says "tends to", and a device's own performance report decides.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from workbench.mil.facts import Facts, computes, floats, shapes
from workbench.mil.findings import Finding, counted, listed
from workbench.mil.graph import Op
from workbench.mil.interface import Feature
from workbench.mil.types import TensorType

LONGEST = 16384
MOST_RANK = 5
WIDEST_KERNEL = 13


@dataclass(frozen=True)
class Rule:
    """``why`` completes "... tend to leave the Neural Engine: "."""

    why: str
    source: str
    matches: Callable[[Op, Facts], bool]


def _is(*types: str) -> Callable[[Op, Facts], bool]:
    return lambda op, facts: op.type in types


def _in_fp32(op: Op, facts: Facts) -> bool:
    return computes(op) and not op.blocks and bool(floats(op) & {"fp32", "fp64"})


def _integer_arithmetic(op: Op, facts: Facts) -> bool:
    kinds = {kind.dtype for _, kind in op.outputs if isinstance(kind, TensorType)}
    return op.type in ("add", "sub", "mul", "floor_div", "mod", "pow", "cumsum", "reduce_sum", "reduce_prod") and "int32" in kinds


def _dilated(op: Op, facts: Facts) -> bool:
    return op.type in ("conv", "conv_transpose") and any(step > 1 for step in facts.numbers(op, "dilations"))


def _wide_kernel(op: Op, facts: Facts) -> bool:
    if op.type in ("avg_pool", "max_pool", "l2_pool"):
        return any(size > WIDEST_KERNEL for size in facts.numbers(op, "kernel_sizes"))
    if op.type not in ("conv", "conv_transpose"):
        return False
    weight = facts.type_of(op, "weight")
    sizes = weight.shape[2:] if isinstance(weight, TensorType) and weight.shape is not None else ()
    steps = facts.numbers(op, "dilations") or [1] * len(sizes)
    pairs = zip(sizes, steps, strict=False)
    return any(size is not None and (size - 1) * step + 1 > WIDEST_KERNEL for size, step in pairs)


def _coarse(op: Op, facts: Facts) -> bool:
    if op.type in ("avg_pool", "max_pool", "l2_pool"):
        return any(step > 2 for step in facts.numbers(op, "strides"))
    if not op.type.startswith("upsample_"):
        return False
    return any(factor > 2 for side in ("height", "width") for factor in facts.numbers(op, f"scale_factor_{side}"))


_OLD_NOTES = "hollance/neural-engine, docs/unsupported-layers.md and issue 2; observed up to 2020"

RULES = (
    Rule(
        "they compute in fp32, which the CPU and the GPU do and the Neural Engine does not",
        "coremltools guide, Typed Execution; apple/coremltools issue 1304; pytorch/executorch pull request 9463",
        _in_fp32,
    ),
    Rule("recurrent layers run elsewhere", "apple/coremltools issues 1780 and 337", _is("lstm", "gru", "rnn")),
    Rule("loops and branches were not seen to run there", "apple/coremltools issue 2208", _is("while_loop", "cond")),
    Rule(
        "code of one's own exists for CPU and GPU only", "apple/coremltools issue 1278", _is("custom_layer", "custom", "custom_op")
    ),
    Rule(
        f"tensors of rank above {MOST_RANK} are beyond what Core ML supports",
        "apple/coremltools issues 1723 and 2536",
        lambda op, facts: any(len(shape) > MOST_RANK for shape in shapes(op)),
    ),
    Rule(
        f"a dimension is above {LONGEST:,}",
        "microsoft/onnxruntime issue 19543, which cites apple/coremltools issue 1003",
        lambda op, facts: any(size is not None and size > LONGEST for shape in shapes(op) for size in shape),
    ),
    Rule(
        "gathers were seen on the CPU",
        "apple/coremltools issue 1103; roboflow/rf-detr pull request 1495 (gather_along_axis, MLComputePlan); "
        "hollance/neural-engine, docs/unsupported-layers.md",
        _is("gather", "gather_nd", "gather_along_axis"),
    ),
    Rule(
        "scatters leave it, as coremltools' own front end notes; the variants are assumed to be alike",
        "coremltools 9.0, converters/mil/frontend/torch/ops.py, index_put and col2im",
        _is("scatter", "scatter_nd", "scatter_along_axis"),
    ),
    Rule(
        "selecting the largest was seen on the CPU; sorting and box suppression are assumed to be alike",
        "roboflow/rf-detr pull request 1495 (topk, MLComputePlan); apple/coremltools issue 2471",
        _is("topk", "argsort", "non_maximum_suppression"),
    ),
    Rule(
        "the shape of the result depends on the values; shapes that were not fixed were seen on the CPU",
        "apple/coremltools issue 1764",
        _is("non_zero"),
    ),
    Rule("sampling at computed places was seen on the CPU", "apple/coremltools issue 1875", _is("resample")),
    Rule("dilated convolutions are reported to fall back", _OLD_NOTES, _dilated),
    Rule(f"a kernel (dilation counted) is wider than {WIDEST_KERNEL}", f"{_OLD_NOTES}, of pooling", _wide_kernel),
    Rule("pooling strides or upsampling factors above 2 are reported to fall back", _OLD_NOTES, _coarse),
    Rule(
        "int32 arithmetic has no fp16 form, and the Neural Engine appears to compute in fp16 throughout",
        "hollance/neural-engine, docs/16-bit.md",
        _integer_arithmetic,
    ),
)


def engine_findings(facts: Facts, inputs: list[Feature], states: list[Feature]) -> list[Finding]:
    """One finding for every rule that some op meets, then those about inputs and states."""
    found = []
    for rule in RULES:
        ops = [op for op in facts.ops if rule.matches(op, facts)]
        if ops:
            kinds = ", ".join(sorted({op.type if op.type.isidentifier() else repr(op.type) for op in ops})[:6])
            names = tuple(op.name for op in ops)
            verb = "tends" if len(ops) == 1 else "tend"
            text = f"{counted(len(ops), 'op')} ({kinds}: {listed(names)}) {verb} to leave the Neural Engine: {rule.why} [{rule.source}]"
            found.append(Finding("neural-engine", text, names))
    return found + _about_inputs(facts, inputs, states)


def _about_inputs(facts: Facts, inputs: list[Feature], states: list[Feature]) -> list[Finding]:
    found = []
    enumerated = [item.name for item in inputs if item.enumerated]
    norms = tuple(op.name for op in facts.ops if op.type == "layer_norm")
    if enumerated and norms:
        text = (
            f"layer_norm behind an input with listed shapes ({listed(enumerated)}) was seen to keep a whole program off the Neural "
            "Engine, where a range of shapes did not [apple/coremltools issue 1909]"
        )
        found.append(Finding("neural-engine", text, norms))
    uneven = [item.name for item in states if item.shape and item.shape[-1] is not None and item.shape[-1] % 32]
    if uneven:
        text = (
            f"states whose last dimension is no multiple of 32 ({listed(uneven)}) were seen to fail on the Neural Engine "
            "[apple/coremltools issue 2631]"
        )
        found.append(Finding("neural-engine", text))
    return found
