"""Hooks on both runtimes: what a module returned is recorded, what a tap returns is used, and afterwards nothing is left behind."""

from __future__ import annotations

import numpy
import pytest

from workbench.capture.hooks import is_torch, module_paths, tapped
from workbench.capture.taps import Kept, Swap, Swapped, join


class Torch:
    """Modules of one kind for both runtimes: ``x -> 2 x + 1`` and what is built of them."""

    @staticmethod
    def array(values, dtype="float32"):
        import torch

        return torch.as_tensor(numpy.asarray(values), dtype=getattr(torch, dtype))

    @staticmethod
    def model(kinds):
        import torch

        from tests.capture.hook_models import Attributed

        def made(call):
            class Part(torch.nn.Module):
                def forward(self, *arguments, **keywords):
                    return call(self, *arguments, **keywords)

            return Part()

        model = torch.nn.Module()
        for name, call in kinds(Attributed).items():
            model.add_module(name, made(call))
        return model


class Mlx:
    @staticmethod
    def array(values, dtype="float32"):
        from mlx import core

        return core.array(numpy.asarray(values)).astype(getattr(core, dtype))

    @staticmethod
    def model(kinds):
        from mlx import nn

        from tests.capture.hook_models import Attributed

        def made(call):
            class Part(nn.Module):
                def __call__(self, *arguments, **keywords):
                    return call(self, *arguments, **keywords)

            return Part()

        model = nn.Module()
        for name, call in kinds(Attributed).items():
            setattr(model, name, made(call))
        return model


@pytest.fixture(params=["torch", "mlx"])
def runtime(request):
    if request.param == "torch":
        pytest.importorskip("torch", reason="needs torch (pip install 'parity-workbench[torch]')")
        return Torch
    pytest.importorskip("mlx.core", reason="needs mlx (pip install 'parity-workbench[mlx]')")
    return Mlx


@pytest.fixture
def model(runtime):
    return runtime.model(
        lambda attributed: {
            "plain": lambda self, x, scale=2: scale * x + 1,
            "pair": lambda self, x: (2 * x + 1, "cache"),
            "listed": lambda self, x: [2 * x + 1, None],
            "named": lambda self, x: attributed(last_hidden_state=2 * x + 1),
            "nothing": lambda self, x: None,
            "whole_numbers": lambda self, x: x * 0 == 0,
            "fails": lambda self, x: 1 / 0,
            "flag_first": lambda self, flag, x: 2 * x + 1,
        }
    )


VALUES = numpy.arange(12, dtype=numpy.float32).reshape(1, 4, 3)


def as_numpy(value):
    return numpy.array(value.detach() if hasattr(value, "detach") else value)


@pytest.mark.parametrize(
    ("path", "out"),
    [
        ("plain", lambda made: made),
        ("pair", lambda made: made[0]),
        ("listed", lambda made: made[0]),
        ("named", lambda made: made.last_hidden_state),
    ],
)
def test_what_a_module_returns_is_recorded_and_what_the_tap_returns_is_used(runtime, model, path, out):
    x = runtime.array(VALUES)
    kept = Kept()
    with tapped(model, {path: "layer"}, {}, kept):
        made = getattr(model, path)(x)
    assert kept.order == ["layer"]
    assert numpy.array_equal(kept.arrays["layer"], 2 * VALUES + 1) and numpy.array_equal(as_numpy(out(made)), 2 * VALUES + 1)
    with tapped(model, {path: "layer"}, {}, lambda name, array: array * 10):
        made = getattr(model, path)(x)
    assert numpy.array_equal(as_numpy(out(made)), 10 * (2 * VALUES + 1))
    assert path != "pair" or (isinstance(made, tuple) and made[1] == "cache")
    assert path != "listed" or (isinstance(made, list) and made[1] is None)


@pytest.mark.parametrize("path", ["nothing", "whole_numbers"])
def test_what_is_no_floating_point_tensor_passes_untouched(runtime, model, path):
    kept = Kept()
    with tapped(model, {path: "layer"}, {}, kept):
        made = getattr(model, path)(runtime.array(VALUES))
    assert kept.order == [] and (made is None or as_numpy(made).dtype == bool)


@pytest.mark.parametrize(
    "call",
    [
        lambda module, x: module(x),
        lambda module, x: module(x=x),
        lambda module, x: module(x, scale=2),
        lambda module, x: module(scale=2, x=x),
    ],
    ids=["by place", "by name", "and a keyword", "all by name"],
)
def test_inputs_are_recorded_and_replaced_however_they_are_given(runtime, model, call):
    x = runtime.array(VALUES)
    kept = Kept()
    with tapped(model, {}, {"plain": "input"}, kept):
        call(model.plain, x)
    assert numpy.array_equal(kept.arrays["input"], VALUES)
    with tapped(model, {}, {"plain": "input"}, lambda name, array: array + 100):
        made = call(model.plain, x)
    assert numpy.array_equal(as_numpy(made), 2 * (VALUES + 100) + 1)


def test_the_first_tensor_is_the_input_whatever_stands_before_it(runtime, model):
    kept = Kept()
    with tapped(model, {}, {"flag_first": "input"}, kept):
        model.flag_first(True, runtime.array(VALUES))
    assert numpy.array_equal(kept.arrays["input"], VALUES)


def test_input_and_output_of_one_module(runtime, model):
    kept = Kept()
    with tapped(model, {"plain": "out"}, {"plain": "in"}, kept):
        model.plain(runtime.array(VALUES))
    assert kept.order == ["in", "out"]
    assert numpy.array_equal(kept.arrays["in"], VALUES) and numpy.array_equal(kept.arrays["out"], 2 * VALUES + 1)


def test_nothing_is_left_behind_even_after_an_exception(runtime, model):
    x = runtime.array(VALUES)
    kinds = {path: type(module) for path, module in model.named_modules()}
    calls = []

    def tap(name, array):
        calls.append(name)
        return array * 0

    with pytest.raises(ZeroDivisionError), tapped(model, {path: path for path in kinds if path}, {"plain": "input"}, tap):
        model.fails(x)
    calls.clear()
    assert numpy.array_equal(as_numpy(model.plain(x)), 2 * VALUES + 1) and calls == []
    assert {path: type(module) for path, module in model.named_modules()} == kinds
    with pytest.raises(KeyError), tapped(model, {"plain": "a", "no.such.module": "b"}, {}, tap):
        pass
    assert numpy.array_equal(as_numpy(model.plain(x)), 2 * VALUES + 1) and calls == []
    for module in model.children() if is_torch(model) else ():
        assert not module._forward_hooks and not module._forward_pre_hooks


def test_a_tap_that_fails_leaves_nothing_behind(runtime, model):
    def tap(name, array):
        raise RuntimeError("tap")

    with pytest.raises(RuntimeError, match="tap"), tapped(model, {"plain": "a"}, {}, tap):
        model.plain(runtime.array(VALUES))
    assert numpy.array_equal(as_numpy(model.plain(runtime.array(VALUES))), 2 * VALUES + 1)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_lower_precisions_come_as_float32_and_go_back_as_they_were(runtime, model, dtype):
    x = runtime.array(VALUES, dtype)
    seen = []

    def tap(name, array):
        seen.append(array.dtype)
        return array + 1

    with tapped(model, {"plain": "layer"}, {}, tap):
        made = model.plain(x)
    assert seen == [numpy.float32] and made.dtype == x.dtype
    assert numpy.array_equal(numpy.array(made.tolist(), numpy.float32), 2 * VALUES + 2)


def test_float64_stays_float64_in_torch():
    pytest.importorskip("torch", reason="needs torch (pip install 'parity-workbench[torch]')")
    import torch

    model = torch.nn.Sequential(torch.nn.Linear(3, 3)).double()
    kept = Kept()
    with tapped(model, {"0": "layer"}, {}, kept):
        made = model(torch.as_tensor(VALUES).double())
    assert kept.arrays["layer"].dtype == numpy.float64 and numpy.array_equal(kept.arrays["layer"], made.detach().numpy())


def test_a_module_that_runs_several_times_has_its_outputs_joined_and_swapped_in_order(runtime, model):
    pieces = [runtime.array(VALUES), runtime.array(VALUES + 50)]
    kept = Kept()
    with tapped(model, {"plain": "layer"}, {}, kept):
        for piece in pieces:
            model.plain(piece)
    assert kept.arrays["layer"].shape == (2, 4, 3)
    reference = kept.arrays["layer"] * -1
    swapped = Swapped({"layer": reference})
    with tapped(model, {"plain": "layer"}, {}, swapped):
        made = [as_numpy(model.plain(piece)) for piece in pieces]
    assert numpy.array_equal(numpy.concatenate(made), reference), "each call gets its own piece of the reference"
    assert numpy.array_equal(swapped.arrays["layer"], kept.arrays["layer"]), "what the model made is kept, not what it was given"


def test_a_recorded_array_is_a_copy(runtime, model):
    kept = Kept()
    with tapped(model, {"plain": "layer"}, {}, kept):
        made = model.plain(runtime.array(VALUES))
        made += 1000 if hasattr(made, "detach") else 0
    assert numpy.array_equal(kept.arrays["layer"], 2 * VALUES + 1)


def test_paths_list_outer_modules_first_and_numbers_in_order(runtime):
    if runtime is Torch:
        from torch import nn

        model = nn.Module()
        model.layers = nn.ModuleList(nn.Sequential(nn.Linear(1, 1)) for _ in range(11))
        last = "layers.10.0"
    else:
        from mlx import nn

        model = nn.Module()
        model.layers = [nn.Sequential(nn.Linear(1, 1)) for _ in range(11)]
        last = "layers.10.layers.0"
    paths = module_paths(model)
    assert is_torch(model) == (runtime is Torch) and "" not in paths and paths[-1] == last
    blocks = [path for path in paths if path.startswith("layers.") and path.count(".") == 1]
    assert blocks == [f"layers.{number}" for number in range(11)]
    assert paths.index("layers.2") < paths.index("layers.10")


def test_swapping_stops_where_the_reference_ends():
    swap = Swap({"layer": numpy.arange(6.0)})
    assert swap("other", numpy.zeros(3)) is None
    assert swap("layer", numpy.zeros((2, 2))).tolist() == [[0, 1], [2, 3]]
    assert swap("layer", numpy.zeros((2, 2))) is None, "two values are left, four are needed"
    assert swap("layer", numpy.zeros(2)).tolist() == [4, 5]


def test_joining_calls():
    a, b, c = numpy.ones((1, 2, 3)), numpy.zeros((4, 2, 3)), numpy.ones((2, 2))
    assert join([a]) is a and join([a, b]).shape == (5, 2, 3) and join([a, c]).shape == (10,)
