"""A user's own module as one stage ``main``: what no family of the workbench knows can still be converted and checked.

    module_stages("my_model.py:make")     # def make(): return MyModule(), {"pixels": torch.zeros(1, 3, 64, 64)}
    module_stages({"module": MyModule(), "example": {"tokens": tokens}, "outputs": ["scores"],
                   "dynamic": {"tokens": {1: "T"}}, "bounds": {"T": (2, 512)}})

A factory takes no arguments and returns (module, example) or such a dict. Weights and layers keep the module's own paths.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Mapping
from typing import Any

from workbench.convert.stages import feeding
from workbench.convert.stages.stage import Stage, StageSet
from workbench.errors import UsageError
from workbench.models.factories import call_factory

FAMILY = "module"
USAGE = "workbench convert file.py:factory, or package.module:factory"
FIELDS = ("module", "example", "outputs", "dynamic", "bounds", "states")
RETURNS = "(module, example): a torch.nn.Module and its example inputs, a tuple or a dict of tensors"
MORE = "or a dict with module, example, and as needed outputs, dynamic, bounds, states"


def module_stages(given: Any) -> StageSet:
    """The stage of a factory's text, of a pair (module, example), or of a dict of them.

    Raises UsageError saying what to return for anything else: no example inputs, an example that ``forward`` does not take or fails on,
    outputs that are no tensors, axes that vary without bounds.
    """
    import torch

    named = given if isinstance(given, str) else "the factory"
    made = fields_of(call_factory(given, USAGE, RETURNS) if isinstance(given, str) else given, named)
    module = made["module"]
    if not isinstance(module, torch.nn.Module):
        raise UsageError(
            f"{named} returned a {type(module).__name__} as its module", why="a torch.nn.Module is converted", fix=RETURNS
        )
    module = module if isinstance(given, str) else copy.deepcopy(module)  # the caller's stays as it is
    states = states_of(module, made.get("states") or (), named)
    dynamic, bounds = sizes_of(made, named)
    kinds = {name: getattr(module, name).dtype for name in states}
    module = module.eval().cpu().float().requires_grad_(False)
    for name, kind in kinds.items():
        setattr(module, name, getattr(module, name).to(kind))
    example = example_of(module, made["example"], named)
    outputs = outputs_of(module, example, made.get("outputs"), states, named)
    check_sizes(example, dynamic, bounds, named)
    stage = Stage(
        "main",
        module,
        example,
        outputs,
        dynamic,
        {name: (int(low), int(high)) for name, (low, high) in bounds.items()},
        states,
        layers={path: path for path, _ in module.named_modules() if path},
        parameters={path: path for path, _ in module.named_parameters(remove_duplicate=False)},
    )
    return StageSet(FAMILY, type(module).__name__, (stage,), {}, (), feeding.module)


def fields_of(made: Any, named: str) -> dict[str, Any]:
    """What the factory returned, by ``FIELDS``. Raises UsageError."""
    if isinstance(made, tuple | list) and len(made) == 2:
        return {"module": made[0], "example": made[1]}
    if not isinstance(made, Mapping):
        what = "a module without example inputs" if hasattr(made, "forward") else f"a {type(made).__name__}"
        raise UsageError(
            f"{named} returned {what}",
            why="shapes and types of the inputs are read from an example",
            fix=f"return {RETURNS}, {MORE}",
        )
    unknown = sorted(set(map(str, made)) - set(FIELDS))
    lacking = [name for name in ("module", "example") if made.get(name) is None]
    if unknown or lacking:
        what = f"an unknown field {unknown[0]!r}" if unknown else f"no {lacking[0]!r}"
        raise UsageError(f"{named} returned {what}", why=f"fields: {', '.join(FIELDS)}", fix=f"return {RETURNS}, {MORE}")
    return dict(made)


def example_of(module: Any, given: Any, named: str) -> dict[str, Any]:
    """Tensors by name, in the order of ``forward``; floating-point ones as float32. Raises UsageError."""
    import torch

    parameters = inspect.signature(module.forward).parameters.values()
    takes = [each.name for each in parameters if each.kind in (each.POSITIONAL_ONLY, each.POSITIONAL_OR_KEYWORD)]
    signature = f"forward({', '.join(takes)})"
    if isinstance(given, Mapping):
        strange = [name for name in given if name not in takes]
        if strange:
            raise UsageError(f"{named} gives an example for {strange[0]!r}", why=f"the module has {signature}", fix="use its names")
        ordered = {name: given[name] for name in takes if name in given}
        if list(ordered) != takes[: len(ordered)]:
            left_out = next(name for name in takes if name not in ordered)
            raise UsageError(
                f"{named} gives no example for {left_out!r}",
                why=f"inputs are the first arguments of {signature}, none left out",
                fix=f"give {left_out!r} too, or wrap the module in one whose forward takes just these inputs",
            )
    else:
        values = list(given) if isinstance(given, tuple | list) else [given]
        if len(values) > len(takes):
            raise UsageError(
                f"{named} gives {len(values)} example inputs",
                why=f"the module has {signature}",
                fix="name the arguments of forward",
            )
        ordered = dict(zip(takes, values, strict=False))
    if not ordered:
        raise UsageError(f"{named} gives no example input", why=f"the module has {signature}", fix=f"return {RETURNS}, {MORE}")
    found = {name: torch.as_tensor(value) if hasattr(value, "__array__") else value for name, value in ordered.items()}
    for name, value in found.items():
        if not isinstance(value, torch.Tensor):
            raise UsageError(
                f"{named} gives a {type(value).__name__} as {name!r}", why="inputs are tensors", fix=f"torch.as_tensor({name})"
            )
    return {name: value.detach().cpu().float() if value.is_floating_point() else value.cpu() for name, value in found.items()}


def states_of(module: Any, names: Any, named: str) -> tuple[str, ...]:
    """Raises UsageError for what is no buffer of the module itself."""
    own = dict(module.named_buffers(recurse=False))
    names = (names,) if isinstance(names, str) else names
    strange = [name for name in names if name not in own]
    if strange:
        raise UsageError(
            f"{named} names the state {strange[0]!r}",
            why=f"buffers of {type(module).__name__}: {', '.join(own) or 'none'}",
            fix="self.register_buffer(...)",
        )
    return tuple(names)


def outputs_of(module: Any, example: Mapping[str, Any], names: Any, states: tuple[str, ...], named: str) -> tuple[str, ...]:
    """The outputs' names: ``names``, the keys of a dict, or ``output``, ``output_0`` ... Raises UsageError for other than tensors, and
    for a module that gives something else when it is called again: a program would keep what one call happened to see."""
    import torch

    before = {name: buffer.clone() for name, buffer in module.named_buffers()}
    try:
        with torch.no_grad():
            found, again = (called(module, example, before) for _ in range(2))
    except Exception as error:  # the user's code
        raise UsageError(
            f"{named}: the module fails on its example",
            why=f"{type(error).__name__}: {error}"[:400],
            fix="give inputs that it runs on",
        ) from error
    told, values = leaves(found)
    strange = next((type(value).__name__ for value in values if not isinstance(value, torch.Tensor)), None)
    if strange or not values:
        raise UsageError(
            f"{named}: the module returns {f'a {strange}' if strange else 'nothing'}",
            why="outputs are tensors, alone or in one tuple, list or dict",
            fix="wrap the module in one that returns its tensors",
        )
    if not all(map(alike, values, leaves(again)[1])):
        raise UsageError(
            f"{named}: the module gives other values when it is called again with the same inputs",
            why="it draws random numbers, or keeps something that is no buffer from call to call; a program computes from its inputs",
            fix="give what is random as an input; keep what is to last with self.register_buffer(...), and name it in states",
        )
    if names is None:
        return tuple(told)
    names = (names,) if isinstance(names, str) else tuple(names)
    if len(names) != len(values):
        raise UsageError(f"{named} names {len(names)} outputs, the module returns {len(values)}", fix="name each")
    return names


def called(module: Any, example: Mapping[str, Any], buffers: Mapping[str, Any]) -> Any:
    """What the module gives for its example; its buffers are afterwards as they were, and the example too."""
    try:
        return module(*(value.clone() for value in example.values()))
    finally:
        for name, buffer in module.named_buffers():
            if name in buffers:
                buffer.copy_(buffers[name])


def leaves(found: Any) -> tuple[list[str], list[Any]]:
    """(names, values) of what a module returns."""
    if isinstance(found, Mapping):
        return [str(name) for name in found], list(found.values())
    values = list(found) if isinstance(found, tuple | list) else [found]
    return ["output"] if len(values) == 1 else [f"output_{place}" for place in range(len(values))], values


def alike(one: Any, other: Any) -> bool:
    """The same values, up to what the order of a sum changes."""
    import torch

    if one.shape != other.shape:
        return False
    return torch.allclose(one.double(), other.double(), rtol=1e-3, atol=1e-5, equal_nan=True)


def sizes_of(made: Mapping[str, Any], named: str) -> tuple[dict[str, dict[int, str]], dict[str, Any]]:
    """``dynamic`` and ``bounds`` as they were given. Raises UsageError for what is no mapping, as in torch.export's own ways to say it."""
    dynamic, bounds = made.get("dynamic") or {}, made.get("bounds") or {}
    axes = dynamic.values() if isinstance(dynamic, Mapping) else (None,)
    if not all(isinstance(each, Mapping) and all(isinstance(size, str) for size in each.values()) for each in axes):
        raise UsageError(
            f"{named}: dynamic is {dynamic!r:.100}",
            why="it names, by input and axis, the sizes that vary",
            fix='dynamic={"tokens": {1: "T"}}, bounds={"T": (2, 512)}',
        )
    if not isinstance(bounds, Mapping):
        raise UsageError(f"{named}: bounds are {bounds!r:.100}", why="they are by size", fix='bounds={"T": (2, 512)}')
    return {name: dict(each) for name, each in dynamic.items()}, dict(bounds)


def check_sizes(
    example: Mapping[str, Any], dynamic: Mapping[str, Mapping[int, str]], bounds: Mapping[str, Any], named: str
) -> None:
    """Every axis that varies exists, has bounds, and the example lies within them. Raises UsageError saying what to add."""
    used = set()
    for name, axes in dynamic.items():
        if name not in example:
            raise UsageError(f"{named}: dynamic names the input {name!r}", why=f"inputs: {', '.join(example)}")
        for axis, size in axes.items():
            shape = list(example[name].shape)
            if not isinstance(axis, int) or not 0 <= axis < len(shape):
                raise UsageError(f"{named}: {name!r} has no axis {axis!r}", why=f"its example has the shape {shape}")
            used.add(size)
            pair = bounds.get(size)
            if not isinstance(pair, tuple | list) or len(pair) != 2 or not all(isinstance(each, int) for each in pair):
                raise UsageError(
                    f"{named}: the size {size!r} of {name!r} has no bounds",
                    why="a program is built for sizes between a least and a largest one",
                    fix=f'add bounds={{"{size}": (2, {max(512, shape[axis])})}}',
                )
            low, high = pair
            if not 1 <= low < high or not low <= shape[axis] <= high or shape[axis] < 2:
                raise UsageError(
                    f"{named}: {size!r} is {shape[axis]} in the example of {name!r}, its bounds are {low} and {high}",
                    why="the example lies within the bounds and is at least 2, since torch.export takes sizes of 1 for fixed",
                )
    unused = sorted(set(bounds) - used)
    if unused:
        raise UsageError(f"{named}: no axis is called {unused[0]!r}", why="bounds are for sizes that dynamic names")
