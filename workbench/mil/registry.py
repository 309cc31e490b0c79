"""Where handlers are found: by op type and opset.

A handler is a plain function on torch tensors. Its parameters carry the names of the MIL op's inputs and its defaults are the MIL
defaults; the annotation says how a parameter arrives::

    unary = Family("elementwise_unary")

    @unary.op("clip", since="iOS15")
    def clip(x: Tensor, alpha: float, beta: float) -> Tensor: ...

    Tensor      a torch.Tensor (rank 0 for a scalar)        Tensors   a tuple of them (a variadic input such as concat's values)
    int float bool str                                      Ints Floats Bools   tuples, whether constant or computed by the program
    Dtype       a torch dtype from its MIL name             Any       the value as the executor holds it (a list, a state)
    Blocks      the op's nested blocks as functions of their inputs, each returning a tuple

A result is one value, or a tuple with one value per output (a MIL list is a Python list). What a handler returns is brought to the
declared type within its kind (argmax may return int64 where int32 is declared), never from float to integer or back.

An optional input that is absent takes the default. A parameter named ``context`` receives the `Context`.

``family.bind`` declares a handler that is called once per set of shapes, with the first call's values, and returns the function
that is called from then on with the tensors only (parameters that arrive as Tensor or Tensors and are not None, in order)::

    @conv.bind("conv")
    def convolution(x: Tensor, weight: Tensor, ..., groups: int = 1):
        before, after = ...                      # Python work, once
        return lambda x, weight: F.conv2d(...)

Every handler names the source of its semantics: the coremltools module of its family and opset (a test checks that the op is
defined there), and, in its docstring, any page that settles what that source leaves open.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache, cached_property
from importlib import import_module
from typing import Annotated, Any

import torch

OPSETS = ("iOS15", "iOS16", "iOS17", "iOS18", "iOS26")
OPSET_OF = {"CoreML5": "iOS15", "CoreML6": "iOS16", "CoreML7": "iOS17", "CoreML8": "iOS18", "CoreML9": "iOS26"}
"""How a saved function names its opset (coremltools 9.0, converters/mil/_deployment_compatibility.py and backend/mil)."""

Tensor = torch.Tensor
Tensors = Annotated[tuple, "tensors"]
Ints = Annotated[tuple, "ints"]
Floats = Annotated[tuple, "floats"]
Bools = Annotated[tuple, "bools"]
Dtype = Annotated[torch.dtype, "dtype"]
Blocks = Annotated[tuple, "blocks"]

_FAMILIES = (
    "activation",
    "attention",
    "binary",
    "classify",
    "constexpr",
    "control",
    "convolution",
    "crops",
    "gathers",
    "joining",
    "linear",
    "lists",
    "normalization",
    "padding",
    "pools",
    "quantization",
    "random",
    "recurrent",
    "reduction",
    "resizing",
    "scatters",
    "searching",
    "slices",
    "states",
    "transformation",
    "unary",
)
"""Modules of workbench.mil.ops; `load_handlers` imports them."""


@dataclass
class Context:
    """What a handler may need beyond its inputs."""

    opset: str
    half: torch.dtype
    """What carries fp16 in this reading: float16; float32 in ``emulate`` and ``fp16-weights``; float64 (then fp32 too) in ``float64``."""
    device: torch.device
    generator: torch.Generator
    output_types: tuple[Any, ...] = ()
    op: str = ""
    """The op's name in the program, for messages."""
    budget: int = 1 << 40
    """Most bytes that one value may take."""

    def allow(self, shape: tuple[int, ...], dtype: torch.dtype) -> None:
        """Refuse a shape that would not fit, before anything is allocated. For handlers whose output can be far larger than
        their inputs (fill, tile, one_hot, pad, resize, range_1d)."""
        from workbench.mil.errors import ExecutionError

        size = dtype.itemsize
        for length in shape:
            if length < 0:
                raise ExecutionError(f"op {self.op!r} asks for a tensor of shape {list(shape)}", why="a dimension is negative")
            size *= length
        if size > self.budget:
            raise ExecutionError(
                f"op {self.op!r} asks for a tensor of shape {list(shape)}: {size:,} bytes",
                why=f"one value may take {self.budget:,} bytes here",
                fix="give smaller inputs, or load(..., memory_bytes=N) if the shape is meant",
            )


@dataclass(frozen=True)
class Handler:
    """One op's meaning from opset ``since`` until a later handler of the same op."""

    name: str
    since: str
    source: str
    function: Callable[..., Any] = field(repr=False)
    binds: bool = False
    moves: bool = False
    """Only copies or selects values: rounding its result again changes nothing."""
    pure: bool = True
    """The same inputs give the same outputs: constants may be folded."""
    loose: bool | None = None
    """Whether the outputs' shapes depend on the inputs' values; None: where a plain parameter (an axis, a size) comes from the run."""
    holds: tuple[str, ...] = ()
    """Tensors whose values the bound function keeps (weights it reorders): where one comes from the run, every call binds anew."""

    @cached_property
    def signature(self) -> tuple[tuple[str, str, Any], ...]:
        """(name, kind, default or inspect.Parameter.empty) of every parameter, in order; kinds: tensor, tensors, int, float, bool,
        str, ints, floats, bools, dtype, blocks, any, context."""
        found = inspect.signature(self.function, eval_str=True).parameters
        return tuple(
            (name, "context" if name == "context" else _kind(parameter.annotation), parameter.default)
            for name, parameter in found.items()
        )

    @cached_property
    def parameters(self) -> dict[str, tuple[str, Any]]:
        """name -> (kind, default), as `signature` has them, without ``context``."""
        return {name: (kind, default) for name, kind, default in self.signature if kind != "context"}


def _kind(annotation: Any) -> str:
    meta = getattr(annotation, "__metadata__", None)
    if meta:
        return meta[0]
    options = [item for item in getattr(annotation, "__args__", ()) if item is not type(None)]
    if len(options) == 1:  # X | None
        return _kind(options[0])
    plain = {Tensor: "tensor", int: "int", float: "float", bool: "bool", str: "str"}
    return plain.get(annotation, "any")


_HANDLERS: dict[str, dict[str, Handler]] = {}


class Family:
    """The ops of one module of coremltools' definitions, ``converters/mil/mil/ops/defs/<opset>/<module>.py``."""

    def __init__(self, module: str):
        self.module = module

    def op(self, *names: str, since: str = "iOS15", module: str | None = None, **marks: Any) -> Callable[[Any], Any]:
        """Declare a handler for these op types from opset ``since`` on. ``module``: where that opset defines it, if elsewhere.
        ``marks``: moves, pure, loose, holds (see Handler)."""

        def register(function: Callable[..., Any]) -> Callable[..., Any]:
            for name in names:
                source = f"coremltools ops/defs/{since}/{module or self.module}.py: {name}"
                versions = _HANDLERS.setdefault(name, {})
                if since in versions:
                    raise ValueError(f"two handlers for {name} from {since}")
                versions[since] = Handler(name, since, source, function, **marks)
            return function

        return register

    def bind(self, *names: str, since: str = "iOS15", module: str | None = None, **marks: Any) -> Callable[[Any], Any]:
        """As `op`, for a handler that returns the function to call."""
        return self.op(*names, since=since, module=module, binds=True, **marks)


@cache
def load_handlers() -> None:
    """Import every family once."""
    for name in _FAMILIES:
        import_module(f"workbench.mil.ops.{name}")


def find_handler(name: str, opset: str) -> Handler | None:
    """The handler of op type ``name`` as opset ``opset`` means it; None when there is none."""
    load_handlers()
    versions = _HANDLERS.get(name, {})
    last = OPSETS.index(opset)
    for candidate in reversed(OPSETS[: last + 1]):
        if candidate in versions:
            return versions[candidate]
    return None


def handlers() -> dict[str, dict[str, Handler]]:
    """op type -> opset it holds from -> handler."""
    load_handlers()
    return _HANDLERS
