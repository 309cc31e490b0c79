"""Recording what the modules of a model put out, and putting other values in their place, through hooks alone.

    with tapped(model, {"model.layers.0": "text.block.0"}, {"model.layers.0": "text.input"}, tap):
        model(...)

``tap(name, array)`` gets each output as numpy (float32, or float64 where the model computes so) when the module returns, and may
return an array of the same shape that the model then goes on with. PyTorch has hooks; MLX has none, so there a module is given,
while it is tapped, a subclass of its own class that calls the tap. No model code is copied on either side.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, MutableMapping
from contextlib import contextmanager
from typing import Any

Tap = Callable[[str, Any], Any]


def module_paths(model: Any) -> list[str]:
    """The paths of all modules, outer ones first."""
    paths = [path for path, _ in model.named_modules() if path]
    return paths if is_torch(model) else sorted(paths, key=lambda path: [_natural(part) for part in path.split(".")])


def is_torch(model: Any) -> bool:
    return any(kind.__module__.startswith("torch.") for kind in type(model).__mro__)


@contextmanager
def tapped(model: Any, outputs: Mapping[str, str], inputs: Mapping[str, str], tap: Tap) -> Iterator[None]:
    """Call ``tap`` with the output of each module in ``outputs`` and the first input of each in ``inputs`` (path: name)."""
    tapping = _tapped_torch if is_torch(model) else _tapped_mlx
    with tapping(dict(model.named_modules()), outputs, inputs, tap):
        yield


@contextmanager
def _tapped_torch(modules: Mapping[str, Any], outputs: Mapping[str, str], inputs: Mapping[str, str], tap: Tap) -> Iterator[None]:
    handles = []

    def after(name: str):
        def hook(module: Any, arguments: Any, output: Any):
            return _through(output, name, tap, _is_torch_tensor, _torch_to_numpy, _torch_like)

        return hook

    def before(name: str):
        def hook(module: Any, arguments: Any, keywords: Any):
            return _through_inputs(arguments, keywords, name, tap, _is_torch_tensor, _torch_to_numpy, _torch_like)

        return hook

    try:
        for path, name in inputs.items():
            handles.append(modules[path].register_forward_pre_hook(before(name), with_kwargs=True))
        for path, name in outputs.items():
            handles.append(modules[path].register_forward_hook(after(name)))
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def _tapped_mlx(modules: Mapping[str, Any], outputs: Mapping[str, str], inputs: Mapping[str, str], tap: Tap) -> Iterator[None]:
    changed: list[tuple[Any, type]] = []

    def subclass(kind: type, output: str | None, given: str | None) -> type:
        def call(self: Any, *arguments: Any, **keywords: Any) -> Any:
            if given is not None:
                replaced = _through_inputs(arguments, keywords, given, tap, _is_mlx_array, _mlx_to_numpy, _mlx_like)
                arguments, keywords = replaced or (arguments, keywords)
            result = kind.__call__(self, *arguments, **keywords)
            replaced = None if output is None else _through(result, output, tap, _is_mlx_array, _mlx_to_numpy, _mlx_like)
            return result if replaced is None else replaced

        return type(kind.__name__, (kind,), {"__call__": call, "__module__": kind.__module__})

    try:
        for path in dict.fromkeys((*outputs, *inputs)):
            module = modules[path]
            kind = type(module)
            changed.append((module, kind))
            module.__class__ = subclass(kind, outputs.get(path), inputs.get(path))
        yield
    finally:
        for module, kind in reversed(changed):
            module.__class__ = kind


def _through(output: Any, name: str, tap: Tap, is_tensor: Any, to_numpy: Any, like: Any) -> Any:
    """``output`` with its main tensor replaced, or None where the tap leaves it alone."""
    tensor, put = _main(output, is_tensor)
    if tensor is None:
        return None
    made = tap(name, to_numpy(tensor))
    return None if made is None else put(like(made, tensor))


def _through_inputs(arguments: Any, keywords: Any, name: str, tap: Tap, is_tensor: Any, to_numpy: Any, like: Any) -> Any:
    """(arguments, keywords) with the first tensor replaced, or None."""
    place = next((place for place, each in enumerate(arguments) if is_tensor(each)), None)
    key = None if place is not None else next((key for key, each in keywords.items() if is_tensor(each)), None)
    if place is None and key is None:
        return None
    tensor = arguments[place] if place is not None else keywords[key]
    made = tap(name, to_numpy(tensor))
    if made is None:
        return None
    value = like(made, tensor)
    if place is not None:
        return (*arguments[:place], value, *arguments[place + 1 :]), keywords
    return arguments, {**keywords, key: value}


def _main(output: Any, is_tensor: Any) -> tuple[Any, Any]:
    """(the main tensor of an output, a function that puts another one in its place)."""
    if is_tensor(output):
        return output, lambda value: value
    if isinstance(output, (tuple, list)) and output and is_tensor(output[0]):
        return output[0], lambda value: _rebuilt(output, value)
    for field in ("last_hidden_state", "logits", "hidden_states"):
        value = getattr(output, field, None)
        if is_tensor(value):
            return value, lambda made, field=field: _set(output, field, made)
    return None, None


def _rebuilt(output: Any, value: Any) -> Any:
    """A tuple, list or named tuple with another first entry."""
    kind = type(output)
    return kind._make([value, *output[1:]]) if hasattr(kind, "_make") else kind([value, *output[1:]])


def _set(output: Any, field: str, value: Any) -> Any:
    if isinstance(output, MutableMapping):
        output[field] = value  # transformers' ModelOutput: attribute and item are one
    else:
        setattr(output, field, value)  # a dataclass, as mlx-vlm's models return
    return output


def _is_torch_tensor(value: Any) -> bool:
    import torch

    return isinstance(value, torch.Tensor) and value.is_floating_point()


def _torch_to_numpy(value: Any):
    import torch

    value = value.detach()
    return (value if value.dtype in (torch.float32, torch.float64) else value.float()).cpu().numpy()


def _torch_like(array: Any, tensor: Any):
    import torch

    # A copy: what a model does in place to it must not change the reference's values.
    return torch.tensor(array, dtype=tensor.dtype, device=tensor.device).reshape(tensor.shape)


def _is_mlx_array(value: Any) -> bool:
    from mlx import core

    return isinstance(value, core.array) and core.issubdtype(value.dtype, core.floating)


def _mlx_to_numpy(value: Any):
    import numpy
    from mlx import core

    return numpy.array(value.astype(core.float32) if value.dtype != core.float32 else value)


def _mlx_like(array: Any, tensor: Any):
    from mlx import core

    return core.array(array).astype(tensor.dtype).reshape(tensor.shape)


def _natural(part: str) -> tuple[int, int, str]:
    return (0, int(part), "") if part.isdigit() else (1, 0, part)
