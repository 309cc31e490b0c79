"""Mixed precision: which ops stay fp32 while the others become fp16.

    Keeper(("softmax", "text.block.0", "linear_3"), exported, stage.layers)

A pattern is an op type, the name of a MIL value, or a layer of the project (all ops inside it); ``*`` stands for anything.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

from workbench.convert.coreml.origins import numbered
from workbench.errors import UsageError


class Keeper:
    """Decides op by op while coremltools converts, and remembers what it decided."""

    def __init__(self, patterns: Sequence[str], exported: Any, layers: Mapping[str, str]):
        self.patterns = tuple(patterns)
        self.kept: list[dict[str, Any]] = []
        """``{"value", "op", "layer", "pattern"}`` of each op that stays fp32, once for each pattern that says so."""
        self._exported, self._layers = exported, dict(layers)
        self._nodes: dict[int, Any] = {}
        self._used: dict[str, None] = {}
        self._types: dict[str, None] = {}
        self._names: dict[str, None] = {}

    def may_be_half(self, op: Any) -> bool:
        """coremltools' ``op_selector``: True where the op is to become fp16."""
        if op.op_type == "const":
            return True
        names, layers = [output.name for output in op.outputs], self._layers_around(op)
        self._types[op.op_type] = None
        self._names.update(dict.fromkeys(names))
        found = [each for each in self.patterns if any(fnmatchcase(name, each) for name in (op.op_type, *names, *layers))]
        self._used.update(dict.fromkeys(found))
        layer = layers[0] if layers else None
        self.kept += [{"value": names[0], "op": op.op_type, "layer": layer, "pattern": pattern} for pattern in found]
        return not found

    def check(self) -> None:
        """Raises UsageError for a pattern that kept nothing."""
        for pattern in self.patterns:
            if pattern not in self._used:
                raise UsageError(
                    f"keep_fp32: {pattern!r} keeps nothing",
                    why=f"op types here: {_listed(self._types)}; layers: {_listed(self._layers.values())}; values: {_listed(self._names)}",
                    fix="a type, a layer or a value's name, with * for anything",
                )

    def _layers_around(self, op: Any) -> list[str]:
        """Layers that hold the op, the innermost first."""
        from coremltools.converters.mil.mil.scope import ScopeSource

        if not self._nodes:  # numbers are given when the conversion starts
            self._nodes = numbered(self._exported)
        handles = op.scopes.get(ScopeSource.EXIR_DEBUG_HANDLE)
        node = self._nodes.get(handles[-1]) if handles else None
        stack = (node.meta.get("nn_module_stack") or {}) if node is not None else {}
        paths = [str(path) for path, _ in stack.values()]
        return [self._layers[path] for path in reversed(paths) if path in self._layers]


def _listed(names: Any, most: int = 20) -> str:
    found = list(dict.fromkeys(names))
    return ", ".join(found[:most]) + (f" and {len(found) - most} more" if len(found) > most else "") or "none"
