"""A user's module as a stage: what factories may return, and what is said of everything else."""

from __future__ import annotations

import numpy
import pytest

from workbench.convert.stages import stages_of_module
from workbench.errors import ModelError, UsageError

torch = pytest.importorskip("torch")

CODE = """
import torch
from beside import WIDTH

class Scorer(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = torch.nn.Sequential(torch.nn.Linear(WIDTH, 4), torch.nn.ReLU())
    def forward(self, features, mask=None):
        found = self.inner(features)
        return {"scores": found if mask is None else found * mask, "best": found.argmax(-1)}

def pair():
    return Scorer().double().train(), (torch.zeros(2, WIDTH, dtype=torch.float64),)

def whole():
    return {"module": Scorer(), "example": {"mask": torch.ones(3, 1), "features": torch.randn(3, WIDTH)}, "outputs": ["a", "b"],
            "dynamic": {"features": {0: "N"}, "mask": {0: "N"}}, "bounds": {"N": (2, 9)}}
"""


class Twice(torch.nn.Module):
    def forward(self, x, y=None, *, scale=1.0):
        return 2 * x * scale


class Counter(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("total", torch.full((3,), 5.0, dtype=torch.float16))

    def forward(self, x):
        self.total.copy_(self.total + x.half())
        return self.total.float() * 2, x


class Odd(torch.nn.Module):
    def __init__(self, value):
        super().__init__()
        self.value = value

    def forward(self, x):
        return self.value(x)


class Remembers(torch.nn.Module):
    last = 0

    def forward(self, x):
        self.last = self.last + x
        return self.last


@pytest.fixture
def file(tmp_path):
    (tmp_path / "beside.py").write_text("WIDTH = 5\n")
    (tmp_path / "scorers.py").write_text(CODE)
    return str(tmp_path / "scorers.py")


def test_a_pair_of_module_and_example(file):
    stages = stages_of_module(f"{file}:pair")
    stage = stages["main"]
    assert (stages.family, stages.architecture) == ("module", "Scorer")
    assert stage.outputs == ("scores", "best") and list(stage.example) == ["features"]
    assert stage.example["features"].dtype == torch.float32 and not stage.module.training
    assert stage.parameters["inner.0.weight"] == stage.layers["inner.0"] + ".weight" == "inner.0.weight"
    (feed,) = stages.feeds({"features": numpy.ones((2, 5))})["main"]
    outputs, after = stage.run(feed)
    expected = torch.nn.functional.relu(stage.module.inner[0](torch.ones(2, 5))).detach().numpy()
    assert (outputs["scores"] == expected).all() and (outputs["best"] == expected.argmax(-1)).all() and after == {}


def test_a_dict_with_names_and_sizes_that_vary(file):
    from workbench.convert.coreml.exporting import export

    stage = stages_of_module(f"{file}:whole")["main"]
    assert stage.outputs == ("a", "b") and list(stage.example) == ["features", "mask"], "in the order of forward"
    assert stage.dynamic == {"features": {0: "N"}, "mask": {0: "N"}} and stage.bounds == {"N": (2, 9)}
    given = (torch.randn(7, 5), torch.rand(7, 1))
    found = export(stage).module()(*given)
    assert torch.allclose(found["scores"], stage.module(*given)["scores"])


def test_a_module_with_a_state_is_left_as_it_was():
    module = Counter()
    stage = stages_of_module({"module": module, "example": torch.ones(3), "outputs": ("double", "same"), "states": ["total"]})[
        "main"
    ]
    assert stage.states == ("total",) and stage.module.total.dtype == torch.float16
    outputs, after = stage.run({"x": numpy.full(3, 2.0, dtype=numpy.float32)})
    assert (outputs["double"] == 14).all() and (after["total"] == 7).all()
    outputs, _ = stage.run({"x": numpy.ones(3, dtype=numpy.float32), "total": numpy.zeros(3, dtype=numpy.float16)})
    assert (outputs["double"] == 2).all() and (stage.module.total == 5).all() and (module.total == 5).all()


def test_a_state_may_be_named_alone_and_buffers_stay_as_they_were():
    stage = stages_of_module({"module": Counter(), "example": torch.ones(3), "states": "total"})["main"]
    assert stage.states == ("total",) and (stage.module.total == 5).all()
    undeclared = stages_of_module((Counter(), torch.ones(3)))["main"]
    assert (undeclared.module.total == 5).all(), "what is converted is not what a trial call left"


def test_a_script_that_ends_is_told_and_what_it_prints_is_no_output(tmp_path, capsys):
    (tmp_path / "ends.py").write_text("print('begun')\ndef make(): raise SystemExit(0)\n")
    with pytest.raises(UsageError, match="make failed"):
        stages_of_module(f"{tmp_path / 'ends.py'}:make")
    (tmp_path / "over.py").write_text("raise SystemExit\n")
    with pytest.raises(UsageError, match="cannot be imported"):
        stages_of_module(f"{tmp_path / 'over.py'}:make")
    assert capsys.readouterr() == ("", "begun\n")


def vary(dynamic, bounds, shape=(1, 4)):
    return {"module": Twice(), "example": torch.zeros(shape), "dynamic": dynamic, "bounds": bounds}


@pytest.mark.parametrize(
    ("made", "what", "fix"),
    [
        (Twice(), "a module without example inputs", r"return \(module, example\)"),
        (7, "returned a int", r"return \(module, example\)"),
        ({"module": Twice()}, "no 'example'", "dynamic, bounds"),
        ({"module": Twice(), "example": (torch.ones(2),), "output": "y"}, "unknown field 'output'", "outputs"),
        ((torch.ones(2), torch.ones(2)), "returned a Tensor as its module", "torch.nn.Module"),
        ((Twice(), ()), "no example input", "example inputs"),
        ((Twice(), {"z": torch.ones(2)}), "an example for 'z'", "use its names"),
        ((Twice(), {"y": torch.ones(2)}), "no example for 'x'", "give 'x' too"),
        ((Twice(), [torch.ones(2)] * 3), "gives 3 example inputs", "arguments of forward"),
        ((Twice(), (3.0,)), "a float as 'x'", r"torch.as_tensor\(x\)"),
        ((Odd(lambda x: x @ x.T[:1]), torch.ones(2, 3)), "fails on its example", "inputs that it runs on"),
        ((Odd(lambda x: [x, 3]), torch.ones(2)), "returns a int", "wrap the module"),
        ((Odd(lambda x: ()), torch.ones(2)), "returns nothing", "wrap the module"),
        (
            {"module": Twice(), "example": torch.ones(2), "outputs": ("a", "b")},
            "names 2 outputs, the module returns 1",
            "name each",
        ),
        ({"module": Twice(), "example": torch.ones(2), "states": ("total",)}, "names the state 'total'", "register_buffer"),
        (vary({"x": {1: "T"}}, {}), "'T' of 'x' has no bounds", r'bounds=\{"T": \(2, 512\)\}'),
        (vary({"x": {1: "T"}}, {"T": (2, None)}), "'T' of 'x' has no bounds", "add bounds"),
        (vary({"x": {1: "T"}}, {"T": (5, 9)}), "'T' is 4 in the example", None),
        (vary({"x": {0: "T"}}, {"T": (1, 9)}), "at least 2", None),
        (vary({"x": {2: "T"}}, {"T": (2, 9)}), "has no axis 2", None),
        (vary({"z": {1: "T"}}, {"T": (2, 9)}), "names the input 'z'", None),
        (vary({"x": {1: "T"}}, {"T": (2, 9), "U": (2, 9)}), "no axis is called 'U'", None),
        (vary([("x", 1)], {"T": (2, 9)}), "dynamic is [('x', 1)]", "bounds="),
        (vary({"x": {1}}, {"T": (2, 9)}), "dynamic is {'x': {1}}", "bounds="),
        (vary({"x": {1: "T"}}, (2, 9)), "bounds are (2, 9)", "bounds="),
        ((Odd(lambda x: x + torch.rand_like(x)), torch.ones(9)), "other values when it is called again", "as an input"),
        ((Remembers(), torch.ones(9)), "other values when it is called again", "register_buffer"),
        ("nothing", "names no factory", "workbench convert"),
        ("json:nothing", "holds no nothing", "workbench convert"),
        ("nowhere.py:make", "there is no file", "workbench convert"),
    ],
)
def test_anything_else_is_refused_with_what_to_return(made, what, fix):
    import re

    with pytest.raises(UsageError) as told:
        stages_of_module(made)
    assert what in str(told.value)
    assert fix is None or (told.value.fix and re.search(fix, told.value.fix))


def test_feeds_are_the_inputs_and_nothing_else(file):
    stages = stages_of_module(f"{file}:whole")
    with pytest.raises(ModelError, match="not given 'mask'"):
        stages.feeds({"features": numpy.ones((3, 5))})
    with pytest.raises(ModelError, match="follows no tokens"):
        stages.feeds({"features": numpy.ones((3, 5)), "mask": numpy.ones((3, 1))}, [5])
