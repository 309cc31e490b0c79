"""What a package holds and what speaks against it, told without running it: no input is needed, no weight is decompressed.

    seen = examine("encoder.mlpackage")
    seen.precision                          # fp16
    for finding in seen.findings:
        print(finding.kind, finding.text)   # neural-engine 2 ops (lstm: 'encoder', 'decoder') tend to leave the Neural Engine: ...

Programs with ops that cannot be run are examined like all others. What depends on the inputs is `workbench.mil.watch`'s.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from workbench.mil.facts import Facts, computes, floats
from workbench.mil.findings import Finding, counted, listed, shown
from workbench.mil.graph import Function, read_functions
from workbench.mil.interface import Feature, describe_function
from workbench.mil.neural_engine import engine_findings
from workbench.mil.numerics import number_findings
from workbench.mil.package import read_package
from workbench.mil.program import _choose
from workbench.mil.support import OpRow, op_table
from workbench.mil.types import ListType, TensorType
from workbench.mil.weights import Weight, left_out, weight_table

__all__ = ["Examination", "Finding", "examine"]


@dataclass(frozen=True)
class Examination:
    """``precision``: the float type the ops compute in (casts and stored weights apart), ``mixed`` for several, ``none`` without floats.
    ``functions``: all that the package holds. ``metadata``: what the converter wrote about itself."""

    path: str
    function: str
    functions: tuple[str, ...]
    opset: str
    specification: int
    precision: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    states: tuple[str, ...]
    ops: tuple[OpRow, ...]
    weights: tuple[Weight, ...]
    findings: tuple[Finding, ...]
    metadata: dict[str, str]

    def to_json(self) -> dict[str, Any]:
        """Plain values; a weight has its kind, its words and its bits per weight beside its fields."""
        found = asdict(self)
        for row, weight in zip(found["weights"], self.weights, strict=True):
            row.update(kind=weight.kind, words=weight.words, bits_per_weight=weight.bits_per_weight)
        return found


def examine(path: str | Path, function: str | None = None) -> Examination:
    """Examine one function of a package (default: as `workbench.mil.load` chooses).

    Raises PackageError (damaged, unsafe, not there) or UnsupportedError (another kind of model, a data type that is not known).
    """
    package = read_package(path)
    functions = read_functions(package)
    name = _choose(package, functions, function)
    chosen = functions[name]
    inputs, outputs, states = describe_function(package, chosen)
    facts = Facts(chosen)
    rows = tuple(op_table(chosen))
    weights, damage = _weights(chosen)
    findings = [
        *_unsupported(rows),
        *_dynamic(facts, inputs),
        *number_findings(facts),
        *engine_findings(facts, inputs, states),
        *_uncompressed(weights),
        *damage,
    ]
    return Examination(
        path=str(path),
        function=name,
        functions=tuple(functions),
        opset=chosen.opset,
        specification=int(package.spec.specificationVersion),
        precision=_precision(facts),
        inputs=tuple(map(str, inputs)),
        outputs=tuple(map(str, outputs)),
        states=tuple(map(str, states)),
        ops=rows,
        weights=weights,
        findings=tuple(findings),
        metadata=dict(package.spec.description.metadata.userDefined),
    )


def _precision(facts: Facts) -> str:
    found = {dtype for op in facts.ops if computes(op) for dtype in floats(op)}
    found = found or {dtype for op in facts.ops for dtype in floats(op)}
    return "mixed" if len(found) > 1 else next(iter(found), "none")


def _unsupported(rows: tuple[OpRow, ...]) -> Iterator[Finding]:
    for row in rows:
        if not row.supported:
            text = f"{counted(row.count, 'op')} of type {shown(row.type)} cannot be run: {row.reason}"
            yield Finding("unsupported", text, (row.example,))


def _dynamic(facts: Facts, inputs: list[Feature]) -> Iterator[Finding]:
    flexible = [item for item in inputs if item.enumerated or item.shape is None or None in item.shape or _ranges(item)]
    if flexible:
        text = (
            f"{counted(len(flexible), 'input')} of flexible shape ({listed(map(str, flexible))}): fixed or listed shapes are the fastest, "
            "and flexible ones tend to need the reshape-frequency hint (iOS 17.4) to run on the Neural Engine "
            "[coremltools guide, Flexible Input Shapes; apple/coremltools issue 1764]"
        )
        yield Finding("dynamic-shape", text)
    unknown = [(op.name, name, kind) for op in facts.ops for name, kind in op.outputs if _is_dynamic(kind)]
    if unknown:
        few = ", ".join(f"{shown(name)} {kind}" for _, name, kind in unknown[:3])
        text = f"the shapes of {counted(len(unknown), 'value')} are known at run time only (first: {few})"
        yield Finding("dynamic-shape", text, tuple(dict.fromkeys(op for op, _, _ in unknown)))


def _ranges(feature: Feature) -> bool:
    return feature.ranges is not None and any(low != high for low, high in feature.ranges)


def _is_dynamic(kind: Any) -> bool:
    if isinstance(kind, ListType):
        return kind.length is None or _is_dynamic(kind.element)
    return isinstance(kind, TensorType) and (kind.shape is None or None in kind.shape)


def _weights(function: Function) -> tuple[tuple[Weight, ...], tuple[Finding, ...]]:
    """The table; where a compressed weight is not put together as it should be, a finding in its place."""
    try:
        return tuple(weight_table(function)), ()
    except (LookupError, ValueError, TypeError, AttributeError, ArithmeticError) as error:
        text = f"the weights cannot be listed: a constexpr op is not as its definition says ({type(error).__name__}: {shown(str(error))})"
        return (), (Finding("compression", text),)


def _uncompressed(weights: tuple[Weight, ...]) -> Iterator[Finding]:
    plain = sorted(left_out(list(weights)), key=lambda row: -row.stored_bytes)
    if plain:
        few = ", ".join(f"{shown(row.name)} {list(row.shape)}" for row in plain[:3])
        more = f" and {len(plain) - 3:,} more" if len(plain) > 3 else ""
        kinds = ", ".join(sorted({row.kind for row in weights} - {"none"}))
        text = (
            f"{counted(len(plain), 'weight')} of {sum(row.stored_bytes for row in plain):,} bytes ({few}{more}) stayed as they were "
            f"while others were compressed ({kinds})"
        )
        yield Finding("compression", text, tuple(dict.fromkeys(reader.op for row in plain for reader in row.readers if reader.op)))
