"""Ops that coremltools converts as something else, or not at all, are the same as torch's when the workbench converts them."""

from __future__ import annotations

import pytest

from tests.convert.coreml_models import memory
from tests.convert.small_modules import small
from workbench.convert.comparing import example_feeds
from workbench.convert.coreml import exporting
from workbench.convert.coreml.build import build
from workbench.convert.coreml.check import check_stage, differences
from workbench.convert.coreml.programs import convert_stage
from workbench.convert.coreml.recipe import Recipe
from workbench.convert.coreml.saving import save_package
from workbench.convert.reload import DifferentModel
from workbench.convert.stages import stages_of_module
from workbench.convert.subject import subject_of

torch = pytest.importorskip("torch")
pytest.importorskip("coremltools")

SCALE = torch.linspace(0.5, 2, 4)
OPS = {
    "alias": lambda x: x[:, 0:] * 2,
    "gelu": torch.nn.functional.gelu,
    "gelu_tanh": lambda x: torch.nn.functional.gelu(x + 1, approximate="tanh"),
    "add": lambda x: torch.add(x, SCALE, alpha=3),
    "sub": lambda x: torch.sub(x, SCALE, alpha=3),
    "std": lambda x: x * x.std(),
    "var": lambda x: x * x.var(),
    "std_of_rows": lambda x: x * torch.std(x, -1, correction=0, keepdim=True),
    "rms_norm": lambda x: torch.nn.functional.rms_norm(100 * x, (4,)),
    "rms_norm_weight": lambda x: torch.nn.functional.rms_norm(x, (4,), SCALE, 1e-2),
}


class Computes(torch.nn.Module):
    def forward(self, x):
        return tuple(computed(x) for computed in OPS.values())


def test_ops_that_coremltools_gets_wrong(tmp_path):
    torch.manual_seed(3)
    stages = stages_of_module({"module": Computes(), "example": torch.randn(5, 4), "outputs": tuple(f"by_{name}" for name in OPS)})
    found = convert_stage(stages["main"], Recipe())
    package = save_package(found.mlmodel, tmp_path / "main.mlpackage")
    seen = check_stage(stages["main"], package, None, example_feeds(stages)["main"], Recipe())
    assert differences("main", seen) == []
    modes = [op.inputs["mode"].val for op in found.mlmodel._mil_program.functions["main"].operations if op.op_type == "gelu"]
    assert modes == ["EXACT", "TANH_APPROXIMATION"], "of a GELU stays one op"


GELU = """

class Gelu(torch.nn.Module):
    def forward(self, x):
        return torch.nn.functional.gelu(x, approximate="tanh")


def gelu():
    return Gelu(), {"x": torch.linspace(-3, 3, 64)}
"""


def test_a_wrong_op_that_rounding_to_fp16_would_hide_is_found(tmp_path, monkeypatch):
    subject = subject_of(small(tmp_path, GELU).replace(":make", ":gelu"))
    monkeypatch.setattr(exporting, "decompositions", dict)
    half = build(subject, tmp_path / "unchecked", Recipe(precision="fp16"), check=False).artifact.stages["main"].path
    stages = subject.stages(Recipe())
    assert check_stage(stages["main"], half, None, example_feeds(stages)["main"], Recipe(precision="fp16"))["same"]
    with pytest.raises(DifferentModel, match="in fp32 too, to tell rounding from other ops"):
        build(subject, tmp_path / "checked", Recipe(precision="fp16"))
    assert not (tmp_path / "checked").exists()


def test_states_of_half_precision_excuse_no_wrong_op(tmp_path):
    stage = memory()
    package = save_package(convert_stage(stage, Recipe()).mlmodel, tmp_path / "step.mlpackage")
    torch.manual_seed(4)
    feed = {name: torch.randn(4, 32).numpy().astype(kind) for name, kind in (("x", "f4"), ("sums", "f2"), ("last", "f2"))}
    assert check_stage(stage, package, None, [feed], Recipe())["same"]
    with torch.no_grad():
        stage.module.mix.weight *= 1.01
    seen = check_stage(stage, package, None, [feed], Recipe())
    assert not seen["outputs"]["y"]["same"] and seen["outputs"]["sums"]["same"]
