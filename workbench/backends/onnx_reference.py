"""An ONNX file on ONNX's own reference implementation (``onnx.reference``), behind the interface of all converted programs.

    program = ReferenceEvaluatorProgram(read("step.onnx"))
    program({"tokens": tokens, "mask": mask, ...})["logits"]

It is numpy, written to say what each op means, and is for what ONNX Runtime cannot run: bfloat16. In the low types each op is computed in
float32 and its result rounded (``onnx_stepwise``): numpy has no bfloat16 of its own, and what `onnx.reference` does with the stand-in type is
slow and rounds inside an op, in each partial sum. It says whether a graph is faithful; how fast a device is it cannot say.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from typing import Any

import numpy as np

from workbench.backends.arrays import Intake
from workbench.backends.base import Evidence, TensorState
from workbench.backends.onnx_checks import title
from workbench.backends.onnx_file import OnnxFile, import_onnx
from workbench.backends.onnx_session import declared, own_type, refuse_state, stateless
from workbench.backends.onnx_stepwise import round_to, stepwise
from workbench.errors import ItemError, ModelError


class ReferenceEvaluatorProgram:
    """Follows ``workbench.backends.base.TensorProgram``. Made by ``ONNXBackend.open``."""

    evidence: Evidence = "reference"

    def __init__(self, file: OnnxFile):
        onnx = import_onnx()
        from onnx.reference import ReferenceEvaluator

        self.file, self.version = file, onnx.__version__
        self.inputs, self.outputs, self.states = file.inputs, file.outputs, ()
        self._intake = Intake(file.path.name, self.inputs)
        if file.custom:
            domain, op, name = file.custom[0]
            raise ModelError(
                f"{file.path.name} uses {op} of {domain}, which onnx.reference has not",
                why=f"node {name!r}",
                fix="?executor=onnxruntime",
            )
        self._lowered = stepwise(file, inside=True)
        try:
            self.evaluator: Any = ReferenceEvaluator(self._lowered.model, new_ops=faster_ops())
        except Exception as error:  # an op it lacks, an attribute it does not understand: each raises its own kind
            raise ModelError(
                f"onnx.reference cannot load {file.path.name}",
                why=f"{type(error).__name__}: {error}"[:400],
                fix="?executor=onnxruntime",
            ) from error

    def __call__(self, arrays: Mapping[str, np.ndarray], state: TensorState | None = None) -> dict[str, np.ndarray]:
        return self.observe(arrays, (), state)[0]

    def make_state(self) -> TensorState:
        raise stateless(self.file)

    def observe(
        self, arrays: Mapping[str, np.ndarray], names: Iterable[str], state: TensorState | None = None
    ) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
        """Node by node; float16 values come as float16 and bfloat16 ones, which numpy has not, as float32."""
        refuse_state(state)
        wanted = list(dict.fromkeys(names))
        self.file.check_observed(wanted)
        fed = self._intake(arrays)
        for name, kind in self._lowered.inputs.items():
            if name in fed:
                fed[name] = round_to(fed[name], kind)
        outputs = {spec.name: spec.dtype for spec in self.outputs}
        found = self._run(fed, {*outputs, *wanted})
        rounded = self._lowered.rounded
        seen = {name: declared(array, outputs.get(name) or own_type(array, rounded.get(name))) for name, array in found.items()}
        return {name: seen[name] for name in outputs}, {name: seen[name] for name in wanted}

    def _run(self, fed: Mapping[str, np.ndarray], kept: set[str]) -> dict[str, np.ndarray]:
        """Copies of the values ``kept``: what the evaluator gives may be views of inputs and weights."""
        values: dict[str, Any] = {"": None, **self.evaluator.rt_inits_, **fed}
        found = {name: np.array(values[name]) for name in kept if name in values}
        last = self._last_use
        for index, node in enumerate(self.evaluator.rt_nodes_):
            results = self._node(node, values)
            for name, value in zip(node.output, results, strict=False):
                values[name] = value
                if name in kept:
                    found[name] = np.array(value)
            for name in last.get(index, ()):
                values.pop(name, None)
        return found

    @property
    def _last_use(self) -> dict[int, list[str]]:
        """After which node a value is needed no more; large caches would be held a dozen times over otherwise."""
        if not hasattr(self, "_uses"):
            uses: dict[str, int] = {}
            keep = set(self.evaluator.rt_inits_) | {spec.name for spec in self.inputs} | {""}
            inner: set[str] = set()
            for index, node in enumerate(self.evaluator.rt_nodes_):
                uses.update(dict.fromkeys((*node.input, *node.output), index))
                inner |= _read_inside(node.onnx_node)
            self._uses: dict[int, list[str]] = {}
            for name, index in uses.items():
                if name not in keep and name not in inner:
                    self._uses.setdefault(index, []).append(name)
        return self._uses

    def _node(self, node: Any, values: Mapping[str, Any]) -> Any:
        given = [values[name] for name in node.input]
        more = {}
        if node.need_context():
            more["context"] = dict(values)
        with told_of_node(self.file, node.onnx_node), np.errstate(all="ignore"):
            return node.run(*given, **more)

    def describe(self) -> dict[str, Any]:
        notes = []
        if self.file.low:
            count = len(self._lowered.rounded)
            notes.append(f"{' and '.join(self.file.low)}: each op is computed in float32, and its result rounded ({count} values)")
        return {
            "executor": f"onnx.reference {self.version}",
            "function": None,
            "opset": str(self.file.opset),
            "reading": "pure",
            "notes": notes,
            "timing": None,
        }

    def close(self) -> None:
        """Drop the weights."""
        self._intake.clear()
        self.evaluator = None


def _read_inside(node: Any) -> set[str]:
    """Names that inner graphs of ``node`` may read."""
    from workbench.backends.onnx_checks import inner_graphs

    found: set[str] = set()
    for graph in inner_graphs(node):
        found.update(each.name for each in graph.output)
        for inner in graph.node:
            found.update(inner.input)
            found |= _read_inside(inner)
    return found


@contextmanager
def told_of_node(file: OnnxFile, node: Any) -> Iterator[None]:
    """What numpy and the evaluator say of one node as ItemError naming it."""
    try:
        yield
    except MemoryError as error:
        raise ItemError(f"{file.path.name}: no memory left for the {title(node)}", reason="memory", why=str(error)) from error
    except Exception as error:  # numpy's kinds and the evaluator's own
        raise ItemError(
            f"{file.path.name}: the {title(node)} could not be computed",
            reason="model",
            why=f"{type(error).__name__}: {error}"[:400],
        ) from error


@cache
def faster_ops() -> list[type]:
    """Ops that `onnx.reference` computes value by value in Python, here by whole arrays; what they mean is the same.

    Gelu (its error function is ``numpy.vectorize`` over ``math.erf``: 0.7 s in an encoder of 1,500 places) and Erf.
    """
    import_onnx()
    from onnx.reference.op_run import OpRun
    from scipy.special import erf

    class Gelu(OpRun):
        def _run(self, x: np.ndarray, approximate: str = "none") -> tuple[np.ndarray]:
            if approximate == "tanh":
                inner = np.sqrt(np.asarray(2 / np.pi, x.dtype)) * (x + np.asarray(0.044715, x.dtype) * x**3)
                return (np.asarray(0.5 * x * (1 + np.tanh(inner)), x.dtype),)
            return (np.asarray(0.5 * x * (1 + erf(x / np.sqrt(np.asarray(2, x.dtype)))), x.dtype),)

    class Erf(OpRun):
        def _run(self, x: np.ndarray) -> tuple[np.ndarray]:
            return (np.asarray(erf(x), x.dtype),)

    for kind in (Gelu, Erf):
        kind.op_domain = ""
    return [Gelu, Erf]
