"""A parsed ONNX graph, checked before any native code sees it: names, order, ops, inner graphs, functions, sizes of constants.

    check(model, Path("step.onnx"))     # raises ModelError naming the node and what is wrong with it

ONNX's checker and the runtimes are native code: what they are handed should be whole. What is checked is what the ONNX specification
says of every graph (onnx/onnx, docs/IR.md: each value has one source, nodes are in order, each domain has a version).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

from workbench.backends import onnx_external
from workbench.errors import ModelError

RUNTIME_DOMAINS = ("com.microsoft",)
"""Ops that ONNX Runtime brings along (its documentation calls them contrib ops)."""

PREVIEWS = ("ai.onnx.preview", "ai.onnx.preview.training", "ai.onnx.training")
"""ONNX's domains of ops that are being tried out; each has one version."""


def domain_of(node: Any) -> str:
    """Empty for ONNX's own, which may also be written ``ai.onnx``."""
    return "" if node.domain == "ai.onnx" else node.domain


def title(node: Any) -> str:
    """``MatMul node 'node_linear_3'``, or by what it computes where it has no name."""
    return f"{node.op_type} node {node.name or next(iter(node.output), '')!r}"


def inner_graphs(node: Any) -> Iterator[Any]:
    for attribute in node.attribute:
        if attribute.HasField("g"):
            yield attribute.g
        yield from attribute.graphs


def every_node(model: Any) -> Iterator[Any]:
    """Nodes of the graph, of inner graphs and of functions."""
    for nodes in (model.graph.node, *(function.node for function in model.functions)):
        yield from _nodes(nodes)


def _nodes(nodes: Iterable[Any]) -> Iterator[Any]:
    for node in nodes:
        yield node
        for graph in inner_graphs(node):
            yield from _nodes(graph.node)


def check(model: Any, path: Path, *, custom: bool = False) -> tuple[tuple[str, str, str], ...]:
    """Raises ModelError. Returns (domain, op, node) of nodes in other domains than ONNX's own; ``custom``: any such domain will do."""
    graph = model.graph
    if not graph.node:
        raise ModelError(f"{path.name} computes nothing", why="its graph has no nodes")
    if not graph.output:
        raise ModelError(f"{path.name} gives nothing", why="its graph has no outputs")
    for node in every_node(model):
        if not all(isinstance(text, str) for text in (node.op_type, node.domain, node.name, *node.input, *node.output)):
            raise _damaged(path, f"a name in it is no text: {node.op_type!r}")
    _check_functions(model, path)
    _check_constants(model, path)
    _check_scope(graph, set(), path)
    for function in model.functions:
        _check_nodes(function.node, set(function.input), path)
    return _check_ops(model, path, custom)


def _damaged(path: Path, why: str) -> ModelError:
    return ModelError(f"{path.name} is no graph that can be computed", why=why, fix="export it again")


def _check_scope(graph: Any, outer: set[str], path: Path) -> None:
    inputs, outputs = [each.name for each in graph.input], [each.name for each in graph.output]
    constants = [each.name for each in graph.initializer] + [each.values.name for each in graph.sparse_initializer]
    for kind, names in (("inputs", inputs), ("outputs", outputs), ("constants", constants)):
        _once(names, f"of its {kind}", path)
    made = _check_nodes(graph.node, outer | set(inputs) | set(constants), path)
    twice = sorted(made & (set(inputs) | set(constants)))
    if twice:
        raise _damaged(path, f"{twice[0]!r} is an input or a constant and is computed too")
    lost = [name for name in outputs if name not in made and name not in inputs and name not in constants and name not in outer]
    if lost:
        raise _damaged(path, f"nothing computes its output {lost[0]!r}")


def _check_nodes(nodes: Iterable[Any], known: set[str], path: Path) -> set[str]:
    """The names that ``nodes`` compute."""
    known, made = set(known), set()
    for node in nodes:
        lost = [name for name in node.input if name and name not in known]
        if lost:
            raise _damaged(path, f"{title(node)} reads {lost[0]!r}, which nothing before it computes")
        for graph in inner_graphs(node):
            _check_scope(graph, known, path)
        names = [name for name in node.output if name]
        twice = [name for name, count in Counter(names).items() if count > 1 or name in made]
        if twice:
            raise _damaged(path, f"{twice[0]!r} is computed twice, the second time by {title(node)}")
        if not names:
            raise _damaged(path, f"{title(node)} computes nothing")
        made.update(names)
        known.update(names)
    return made


def _once(names: list[str], what: str, path: Path) -> None:
    if "" in names:
        raise _damaged(path, f"one {what} has no name")
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise _damaged(path, f"two {what} are named {twice[0]!r}")


def _check_constants(model: Any, path: Path) -> None:
    for tensor in onnx_external.every_tensor(model):
        wanted = onnx_external.dense_bytes(tensor, path)
        if onnx_external.is_external(tensor) or tensor.data_type == 8:  # strings have no size
            continue
        held = len(tensor.raw_data)
        if tensor.HasField("raw_data") and held != wanted:
            raise _damaged(
                path, f"its constant {tensor.name!r} of the shape {list(tensor.dims)} takes {wanted:,} bytes and has {held:,}"
            )
        if not tensor.HasField("raw_data") and wanted and not _typed_data(tensor):
            raise _damaged(path, f"its constant {tensor.name!r} of the shape {list(tensor.dims)} has no values")


def _typed_data(tensor: Any) -> bool:
    return bool(tensor.float_data or tensor.int32_data or tensor.int64_data or tensor.double_data or tensor.uint64_data)


def _check_functions(model: Any, path: Path) -> None:
    """Functions are written out where they are called, so none may lead to itself."""
    calls = {
        (function.domain, function.name): {(node.domain, node.op_type) for node in _nodes(function.node)}
        for function in model.functions
    }
    open_: set[tuple[str, str]] = set()
    done: set[tuple[str, str]] = set()

    def follow(key: tuple[str, str]) -> None:
        if key in open_:
            raise _damaged(path, f"its function {key[1]!r} calls itself")
        if key in done:
            return
        open_.add(key)
        for other in calls[key]:
            if other in calls:
                follow(other)
        open_.discard(key)
        done.add(key)

    for key in calls:
        follow(key)


def _check_ops(model: Any, path: Path, custom: bool) -> tuple[tuple[str, str, str], ...]:
    import onnx

    functions = {(function.domain, function.name) for function in model.functions}
    versions = {("" if each.domain == "ai.onnx" else each.domain): each.version for each in model.opset_import}
    own = {"": onnx.defs.onnx_opset_version(), "ai.onnx.ml": onnx.defs.onnx_ml_opset_version(), **dict.fromkeys(PREVIEWS, 1)}
    for domain, version in versions.items():
        most = own.get(domain)
        if version < 1 or (most is not None and version > most):
            raise ModelError(
                f"{path.name} uses opset {version} of {domain or 'ai.onnx'}",
                why=f"onnx {onnx.__version__} knows opset 1 to {most}",
                fix="pip install --upgrade onnx onnxruntime, or export it with an older opset",
            )
    others = []
    for node in every_node(model):
        domain = domain_of(node)
        if (node.domain, node.op_type) in functions:
            continue
        if domain not in versions:
            raise _damaged(path, f"{title(node)} is of the domain {domain or 'ai.onnx'!r}, which has no version in the file")
        if domain not in own:
            others.append((domain, node.op_type, node.name))
            if not custom and domain not in RUNTIME_DOMAINS:
                raise ModelError(
                    f"{path.name} uses ops that are not ONNX's own",
                    why=f"{title(node)} is of the domain {domain!r}; who made it must bring what computes it",
                    fix="export it with ONNX's own ops",
                )
            continue
        try:
            schema = _schema(node.op_type, versions[domain], domain)
        except onnx.defs.SchemaError as error:
            raise ModelError(
                f"{path.name} uses an op that opset {versions[domain]} of {domain or 'ai.onnx'} has not: {node.op_type}",
                why=f"{title(node)}; onnx {onnx.__version__}",
                fix="pip install --upgrade onnx, or export it again",
            ) from error
        _check_form(node, schema, path)
    return tuple(others)


@lru_cache(maxsize=1024)
def _schema(op: str, version: int, domain: str) -> tuple[int, int, int, int, dict[str, tuple[int, bool]]]:
    """Least and most inputs, least and most outputs, and by attribute its type and whether it must be there."""
    import onnx

    found = onnx.defs.get_schema(op, version, domain)
    attributes = {name: (each.type.value, each.required) for name, each in found.attributes.items()}
    return found.min_input, found.max_input, found.min_output, found.max_output, attributes


def _check_form(node: Any, schema: tuple[int, int, int, int, dict[str, tuple[int, bool]]], path: Path) -> None:
    least_in, most_in, least_out, most_out, attributes = schema
    for what, count, least, most in (
        ("inputs", len(node.input), least_in, most_in),
        ("outputs", len(node.output), least_out, most_out),
    ):
        if not least <= count <= most:
            raise _damaged(path, f"{title(node)} has {count} {what}; the op takes {least} to {most}")
    given = {each.name: each for each in node.attribute}
    if len(given) != len(node.attribute):
        raise _damaged(path, f"{title(node)} has an attribute twice")
    for name, (kind, required) in attributes.items():
        if required and name not in given:
            raise _damaged(path, f"{title(node)} lacks its attribute {name!r}")
        if name in given and not given[name].ref_attr_name and given[name].type != kind:
            raise _damaged(path, f"the attribute {name!r} of {title(node)} is of the wrong type")
    strange = sorted(given.keys() - attributes.keys())
    if strange:
        raise _damaged(path, f"{title(node)} has an attribute {strange[0]!r}, which the op has not")
