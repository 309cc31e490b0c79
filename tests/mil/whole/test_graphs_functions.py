"""A package of several functions that share their weights, as ``ct.utils.save_multifunction`` writes it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import coremltools as ct
import numpy as np
import pytest
import torch
from torch import nn

from tests.mil.whole.comparing import FP32, convert, outputs, relative
from workbench.mil import MilError, load


class Headed(nn.Module):
    """A trunk that all functions share, and a head of one's own."""

    def __init__(self, trunk: nn.Module, size: int) -> None:
        super().__init__()
        self.trunk, self.head = trunk, nn.Linear(64, size)

    def forward(self, x):
        return self.head(torch.relu(self.trunk(x)))


@pytest.fixture(scope="module")
def several(tmp_path_factory: Any) -> tuple[Path, dict[str, nn.Module], torch.Tensor]:
    folder = tmp_path_factory.mktemp("several")
    torch.manual_seed(0)
    trunk = nn.Sequential(nn.Linear(32, 256), nn.GELU(), nn.Linear(256, 64))
    models = {"sort": Headed(trunk, 10).eval(), "rank": Headed(trunk, 3).eval(), "a b/ü": Headed(trunk, 1).eval()}
    x = torch.randn(2, 32)
    described = ct.utils.MultiFunctionDescriptor()
    for number, (name, model) in enumerate(models.items()):
        path = convert(model, [x], folder / f"{number}.mlpackage", since="iOS18")
        described.add_function(str(path), src_function_name="main", target_function_name=name)
    described.default_function_name = "rank"
    made = folder / "several.mlpackage"
    ct.utils.save_multifunction(described, str(made))
    return made, models, x


def test_every_function_and_the_default(several: tuple[Path, dict[str, nn.Module], torch.Tensor]) -> None:
    path, models, x = several
    for name, model in models.items():
        program = load(path, function=name)
        assert program.function_name == name and set(program.functions) == set(models)
        (found,) = program.predict({"x0": x.numpy()}).values()
        assert relative([found], outputs(model, [x])) <= FP32
    program = load(path)
    assert program.function_name == "rank" and program.outputs[0].shape == (2, 3)
    (found,) = program.predict({"x0": x.numpy()}).values()
    assert relative([found], outputs(models["rank"], [x])) <= FP32


def test_weights_are_stored_once(several: tuple[Path, dict[str, nn.Module], torch.Tensor]) -> None:
    """What the functions share lies in the file once: so the offsets of several functions are one place."""
    path, models, _ = several
    (file,) = path.rglob("weight.bin")
    trunk = sum(each.numel() * 4 for each in models["sort"].trunk.parameters())
    assert trunk < file.stat().st_size < 1.5 * trunk

    def places(name: str) -> set[Any]:
        constants = load(path, function=name).function.block.constants.values()
        return {constant.place for constant in constants if constant.stored_bytes}

    assert len(places("sort") & places("rank")) >= 2


def test_a_function_that_is_not_there(several: tuple[Path, dict[str, nn.Module], torch.Tensor]) -> None:
    with pytest.raises(MilError, match="no function 'main'") as caught:
        load(several[0], function="main")
    assert "sort" in str(caught.value) and "rank" in str(caught.value)


def test_a_call_for_another_function(several: tuple[Path, dict[str, nn.Module], torch.Tensor]) -> None:
    """Two functions loaded side by side do not disturb each other."""
    path, models, x = several
    sort, rank = load(path, function="sort"), load(path, function="rank")
    given = {"x0": x.numpy()}
    first = next(iter(sort.predict(given).values()))
    assert next(iter(rank.predict(given).values())).shape == (2, 3)
    np.testing.assert_array_equal(next(iter(sort.predict(given).values())), first)
