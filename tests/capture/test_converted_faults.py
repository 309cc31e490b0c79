"""Conversions that were damaged on purpose: each is caught, at the right rung, with the op or the weight named. A healthy one is not."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("torch")
pytest.importorskip("coremltools")

import numpy  # noqa: E402
import torch  # noqa: E402

from tests.capture import converted_models  # noqa: E402
from tests.capture.converted_models import attention, converted, feeds, in_half, make  # noqa: E402
from workbench.capture.converted_check import check_stage  # noqa: E402
from workbench.capture.session import capture_layers  # noqa: E402
from workbench.capture.tensor_entries import tensor_entry  # noqa: E402
from workbench.convert.coreml.build import save  # noqa: E402
from workbench.convert.coreml.programs import convert_stage  # noqa: E402
from workbench.convert.coreml.recipe import Recipe  # noqa: E402
from workbench.errors import ModelError, UsageError  # noqa: E402
from workbench.models.artifact import artifact  # noqa: E402
from workbench.parity.converted_artifact import compare_converted  # noqa: E402
from workbench.parity.ladder import compare  # noqa: E402


def checked(folder: Path, damage=None, **recipe):
    """The check of a program that was made from a damaged module, against the module as it should be."""
    made = convert_stage(attention(damage), Recipe(**recipe))
    save(made.mlmodel, folder / "main.mlpackage")
    return check_stage(attention(), folder / "main.mlpackage", None, made.origins, feeds())


def transposed(module):
    module.value.weight.copy_(module.value.weight.T.clone())


def wrong_mask(module):
    module.mask.mul_(1e-4)  # -3: what comes later is seen a little


def wrong_scale(module):
    module.scale *= 1.05


def shifted_rotary(module):
    module.turn.copy_(module.turn.roll(1, 0))  # the first position gets the angles of the last


def test_a_healthy_conversion_is_named_in_nothing(tmp_path):
    found = checked(tmp_path)
    assert found.ok and found.first is None and found.precision == "float32"
    assert "none of" in found.sentence and "departs" in found.sentence
    assert {"linear", "matmul", "softmax"} <= {row.op for row in found.compared}
    told = found.to_json()
    assert told["departs"] is None and told["outputs"]["y"]["relative_l2"] < 1e-6 and told["calls"] == 2


@pytest.mark.parametrize(
    ("damage", "op", "node"),
    [
        (transposed, "linear", "linear_2"),
        (wrong_mask, "add", "add_2"),
        (wrong_scale, "mul", "mul_4"),
        (shifted_rotary, "mul", "mul"),
    ],
)
def test_the_first_op_that_departs_is_named_with_its_torch_line(tmp_path, damage, op, node):
    found = checked(tmp_path, damage)
    first = found.first
    assert not found.ok and (first.op, first.node) == (op, node)
    assert first.line.startswith("converted_models.py:") or first.module == "value"
    assert first.where in found.sentence and "limit 10" in found.sentence


def test_half_precision_is_judged_by_torch_in_half_precision(tmp_path):
    found = checked(tmp_path, precision="fp16")
    assert found.ok and found.precision == "float16"
    assert not checked(tmp_path / "wrong", wrong_scale, precision="fp16").ok


def test_nothing_fed_is_no_check(tmp_path):
    with pytest.raises(ModelError, match="cannot be checked"):
        check_stage(attention(), tmp_path / "main.mlpackage", None, {}, [])


def square(stages) -> torch.Tensor:
    """A square weight of the second decoder layer, in all stages that hold it."""
    return stages["prefill"].module.get_parameter(name_of(stages["prefill"], "layers.1.self_attn.o_proj.weight"))


def name_of(stage, end: str) -> str:
    return next(name for name, _ in stage.module.named_parameters() if name.endswith(end))


def turn(stages) -> None:
    with torch.no_grad():
        weight = square(stages)
        weight.copy_(weight.T.clone())


@pytest.fixture(scope="module")
def turned(llava, tmp_path_factory) -> Path:
    return converted(llava, tmp_path_factory.mktemp("turned") / "turned", turn)


def test_a_transposed_weight_is_named_at_rung_1_and_its_layer_at_rung_3(turned, reference, tmp_path):
    run = capture_layers(f"coreml:{turned}", reference, also=["none"], runs=tmp_path)
    found = compare(reference, run)
    first = found.rung(1)
    assert first.status == "different" and "1 of " in first.finding and "stored transposed" in first.finding
    assert "layers.1.self_attn.o_proj.weight" in first.finding and "modeling_llama.py" in first.finding
    third = found.rung(3)
    assert third.status == "different" and third.facts["first_departing"].startswith("text.block.1")
    assert "The converted program computes it as prefill's " in third.finding and "(" in third.finding
    assert found.verdict.name == "DIFFERENT"


def test_float16_where_float32_was_asked_is_named_at_rung_1(tmp_path, monkeypatch):
    in_half(monkeypatch)
    tensors = {name: tensor_entry(value.numpy()) for name, value in make()[0].state_dict().items()}
    told = compare_converted({"tensors": tensors}, artifact(converted(f"{converted_models.__file__}:make", tmp_path / "half")))
    assert told.broken and told.words[0].startswith("float32 was asked for, and ")
    assert "ops compute in float16: the first is linear" in told.words[0] and "converted_models.py:" in told.words[0]
    assert "weights are stored in float16: " in told.words[0] and "query.weight (linear, query, " in told.words[0]


def test_one_program_is_captured_on_named_arrays(tmp_path):
    made = convert_stage(attention(), Recipe())
    save(made.mlmodel, tmp_path / "main.mlpackage")
    numpy.savez(tmp_path / "one.npz", **feeds()[0])
    spec = f"coreml:{tmp_path / 'main.mlpackage'}"
    run = capture_layers(spec, tmp_path / "one.npz", keep=True, runs=tmp_path / "runs")
    assert run.manifest["evidence"] == "reference" and run.results["layers"] > 10 and list(run.items()) == ["one"]
    with pytest.raises(UsageError, match="'demo' is no input of one program"):
        capture_layers(spec, "demo", runs=tmp_path / "runs")
    with pytest.raises(UsageError, match="no option 'units'"):
        capture_layers(f"{spec}?units=ALL", "random", runs=tmp_path / "runs")
