"""Which ops the golden cases cover, and at which opsets: counted from the lists that the op tests run.

pytest tests/mil/test_coverage.py -s     # prints the table
"""

from __future__ import annotations

import importlib
from collections import Counter
from functools import cache
from pathlib import Path

from tests.mil.test_registry import CORE, MISSING, STORED_ONLY, changes, definitions
from workbench.mil.registry import OPSETS

REASONS = {
    "const": "every program has them: their values, types and storage are tested in tests/mil",
    "_const_symbolic": MISSING["_const_symbolic"],
}
"""Core ops that no golden case is about."""
NOT_COVERED: dict[tuple[str, str], str] = {}
"""(op, opset) where the op changes and no case runs it, with the reason."""


@cache
def modules():
    """The test modules of the families, by name."""
    names = sorted(path.stem for path in (Path(__file__).parent / "ops").glob("test_*.py"))
    found = {name: importlib.import_module(f"tests.mil.ops.{name}") for name in names}
    return {name: module for name, module in found.items() if hasattr(module, "CASES")}


def meaning(op, opset):
    """The opset from which the op has the meaning that it has in ``opset``; None where it does not exist."""
    if op in STORED_ONLY:
        return "iOS18"
    held = [since for since in changes(op) if OPSETS.index(since) <= OPSETS.index(opset)]
    return held[-1] if held else None


@cache
def covered():
    """(op, opset from which it means that) -> number of cases."""
    return Counter((case.op, meaning(case.op, case.opset)) for module in modules().values() for case in module.CASES)


def test_what_is_counted_is_run():
    """Each module hands its own list to a parametrized test."""
    assert len(modules()) >= 20
    for name, module in modules().items():
        marks = [mark for value in vars(module).values() for mark in getattr(value, "pytestmark", []) if mark.name == "parametrize"]
        assert any(mark.args[1] is module.CASES for mark in marks), name


def test_every_op_is_covered():
    ops = {op for op, _ in covered()}
    print(f"\n{len(ops & set(CORE))} of {len(CORE)} core ops and {sum(covered().values())} golden cases")
    for op in sorted(ops):
        counts = ", ".join(f"{opset} {covered()[op, opset]}" for opset in OPSETS if (op, opset) in covered())
        print(f"  {op:40} {counts}")
    assert ops - set(CORE) == set(STORED_ONLY)
    assert (ops & set(CORE)) | set(REASONS) == set(CORE) and not ops & set(REASONS)
    assert len(ops & set(CORE)) >= 150


def test_every_op_is_covered_wherever_it_changes():
    assert all(opset is not None for _, opset in covered()), "a case of an opset that does not have its op"
    wanted = {(op, opset) for op in set(CORE) - set(REASONS) for opset in changes(op)}
    left = sorted(wanted - set(covered()))
    print(f"\nnot covered: {left}")
    assert left == sorted(NOT_COVERED)


def test_the_changes_are_those_that_coremltools_declares():
    """150 ops from the first opset on, 18 added later (iOS15's 2 among the first here); 48 and 4 defined anew in iOS17 and 18."""
    first = Counter(changes(op)[0] for op in CORE)
    again = Counter(opset for op in CORE for opset in changes(op)[1:])
    assert first == {"iOS15": 152, "iOS16": 7, "iOS17": 3, "iOS18": 6}
    assert again == {"iOS16": 7, "iOS17": 48, "iOS18": 4}
    assert all("iOS26" not in definitions(op) or definitions(op)["iOS26"] is definitions(op)["iOS18"] for op in CORE)
