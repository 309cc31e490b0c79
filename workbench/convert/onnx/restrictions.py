"""The restrictions of an operator that can be checked in a graph, by the name that the tables give them.

    violated({"check": "rank", "inputs": ["X"], "rank": 4, "words": "`X` of 4 dimensions only"}, node, facts)   # True, False

None: it cannot be told from the graph, since a shape or a value is not known before it runs, or since the rule is words alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from workbench.convert.onnx.facts import Facts, Node

Rule = Mapping[str, Any]
Check = Callable[[Rule, Node, Facts], bool | None]


def violated(rule: Rule, node: Node, facts: Facts) -> bool | None:
    """Does a node break a rule? None where that cannot be told."""
    name = rule["check"]
    return None if name is None else CHECKS[name](rule, node, facts)


def formal(node: Node, name: str, *, output: bool = False) -> str | None:
    """The value that is given for an input (or output) as ONNX names it; None where there is none."""
    import onnx

    try:
        schema = onnx.defs.get_schema(node.op, node.version, node.domain)
    except onnx.defs.SchemaError:
        return None
    names = [each.name for each in (schema.outputs if output else schema.inputs)]
    given = node.outputs if output else node.inputs
    if name not in names or names.index(name) >= len(given):
        return None
    return given[names.index(name)] or None


def _any(answers: list[bool | None]) -> bool | None:
    if True in answers:
        return True
    return None if None in answers else False


def _rank(rule: Rule, node: Node, facts: Facts) -> bool | None:
    shapes = [facts.shape_of(value) for name in rule["inputs"] if (value := formal(node, name))]
    return _any([None if shape is None else len(shape) != rule["rank"] for shape in shapes])


def _spatial(rule: Rule, node: Node, facts: Facts) -> bool | None:
    shape = facts.shape_of(node.inputs[0])
    return None if shape is None else len(shape) - 2 not in rule["dimensions"]


def _all_ones(rule: Rule, node: Node, facts: Facts) -> bool | None:
    return any(value != 1 for value in node.attributes.get(rule["attribute"], ()))


def _attribute(rule: Rule, node: Node, facts: Facts) -> bool | None:
    found = node.attributes.get(rule["attribute"], rule["default"])
    found = found.decode(errors="replace") if isinstance(found, bytes) else found
    return found not in rule["values"]


def _no_attribute(rule: Rule, node: Node, facts: Facts) -> bool | None:
    return any(name in node.attributes for name in rule["attributes"])


def _no_input(rule: Rule, node: Node, facts: Facts) -> bool | None:
    return any(formal(node, name) for name in rule["inputs"])


def _no_output(rule: Rule, node: Node, facts: Facts) -> bool | None:
    return any(formal(node, name, output=True) for name in rule["outputs"])


def _constant(rule: Rule, node: Node, facts: Facts) -> bool | None:
    value = formal(node, rule["input"])
    return value is not None and value not in facts.constants


def _static(rule: Rule, node: Node, facts: Facts) -> bool | None:
    value = formal(node, rule["input"])
    shape = facts.shape_of(value) if value else ()
    return None if shape is None else any(not isinstance(size, int) for size in shape)


def _zero(rule: Rule, node: Node, facts: Facts) -> bool | None:
    return _holds(rule, node, facts, lambda array: bool(array.astype("float64").any()))


def _false(rule: Rule, node: Node, facts: Facts) -> bool | None:
    return _holds(rule, node, facts, lambda array: bool(array.any()))


def _less(rule: Rule, node: Node, facts: Facts) -> bool | None:
    return _holds(rule, node, facts, lambda array: bool((array >= rule["limit"]).any()))


def _holds(rule: Rule, node: Node, facts: Facts, broken: Callable[[Any], bool]) -> bool | None:
    """A rule about what an input holds: None where it is computed, or too large to be looked at."""
    value = formal(node, rule["input"])
    if value is None:
        return False
    array = facts.constants.get(value)
    return None if array is None else broken(array)


def _type(rule: Rule, node: Node, facts: Facts) -> bool | None:
    value = formal(node, rule["input"])
    if value is None:
        return False
    kind = facts.type_of(value)
    return None if kind is None else kind not in rule["types"]


CHECKS: dict[str, Check] = {
    "rank": _rank,
    "spatial": _spatial,
    "all_ones": _all_ones,
    "attribute": _attribute,
    "no_attribute": _no_attribute,
    "no_input": _no_input,
    "no_output": _no_output,
    "constant": _constant,
    "static": _static,
    "zero": _zero,
    "false": _false,
    "less": _less,
    "type": _type,
}
