"""Which layer costs most: each row against a program in which coremltools compressed that layer's weights alone."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from tests.convert.coreml_models import asked, converted, feed, language, torch
from workbench.convert.coreml.compress import compress
from workbench.convert.coreml.exporting import quiet
from workbench.convert.coreml.programs import convert_stage
from workbench.convert.coreml.recipe import Recipe
from workbench.convert.coreml.saving import save_package
from workbench.convert.coreml.sensitivity import EVERYTHING, sensitivity, stage_sensitivity
from workbench.convert.coreml.weights import totals, weight_report
from workbench.convert.stages.stage import Stage
from workbench.errors import UsageError
from workbench.mil import load

FEEDS = [feed(6, 1), feed(13, 2)]


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    """(rows by layer, found, package without compression, package with)."""
    folder = tmp_path_factory.mktemp("sensitivity")
    found = asked(converted("fp16"), "int8")
    dense = save_package(found.mlmodel, folder / "dense.mlpackage")
    small = save_package(compress(found.mlmodel, found.recipe), folder / "small.mlpackage")
    rows = stage_sensitivity(found, dense, small, FEEDS)
    assert [row["cost"] for row in rows] == sorted((row["cost"] for row in rows), reverse=True)
    return {row["layer"]: row for row in rows}, found, dense, small


def test_a_row_for_every_layer_and_one_for_all(measured):
    rows, found, _, small = measured
    assert set(rows) == {"text.block.0", "text.block.1", "text.embeddings", "text.batch_norm", "transpose_2_1", EVERYTHING}
    assert rows["text.embeddings"]["weights"] == ["p_head_weight"] and len(rows["text.block.1"]["weights"]) == 4
    single = [name for layer, row in rows.items() if layer != EVERYTHING for name in row["weights"]]
    assert sorted(single) == sorted(rows[EVERYTHING]["weights"]) and len(set(single)) == len(single)
    report = totals(weight_report(small, None, found))
    assert rows[EVERYTHING]["bytes_saved"] == report["dense_bytes"] - report["stored_bytes"]
    assert rows[EVERYTHING]["bytes_saved"] == sum(row["bytes_saved"] for layer, row in rows.items() if layer != EVERYTHING)


def divergence(before, after):
    """Mean KL in nats and agreement of the likeliest token, by numpy in float64."""
    kl, same = [], []
    for one, other in zip(before, after, strict=True):
        p, q = (np.asarray(each["logits"], np.float64)[0] for each in (one, other))
        p, q = (each - np.log(np.exp(each).sum(-1, keepdims=True)) for each in (p, q))
        kl += list((np.exp(p) * (p - q)).sum(-1))
        same += list(p.argmax(-1) == q.argmax(-1))
    return np.mean(kl), np.mean(same)


@pytest.mark.parametrize("layer", ["text.block.1", EVERYTHING])
def test_a_row_is_what_compressing_that_layer_alone_does(layer, measured, tmp_path):
    import coremltools.optimize.coreml as optimize

    rows, found, dense, _ = measured
    held = optimize.OpLinearQuantizerConfig(mode="linear_symmetric", dtype="int8", granularity="per_channel")
    names = {f"{name}_to_fp16": held for name in rows[layer]["weights"]}
    with quiet():
        model = optimize.linear_quantize_weights(found.mlmodel, optimize.OptimizationConfig(op_name_configs=names))
    alone = load(save_package(model, tmp_path / "alone.mlpackage"))
    before, after = ([program.predict(given) for given in FEEDS] for program in (load(dense), alone))
    kl, same = divergence(before, after)
    assert rows[layer]["kl"] == pytest.approx(kl, rel=1e-6) and rows[layer]["cost"] == rows[layer]["kl"] > 0
    assert rows[layer]["top1"] == same and rows[layer]["measure"] == "kl"
    for name in ("logits", "hidden"):
        error = sum(
            float(np.square(other[name] - one[name].astype(np.float64)).sum()) for one, other in zip(before, after, strict=True)
        )
        size = sum(float(np.square(one[name].astype(np.float64)).sum()) for one in before)
        assert rows[layer]["relative_l2"][name] == pytest.approx(math.sqrt(error / size), rel=1e-6)


def test_the_layer_with_an_outlier_costs_most():
    """A value of 40 in every row of 8-bit integers leaves nothing for the others: planted in one layer of block 0."""
    stage = language()
    module = type(stage.module)().eval()
    module.load_state_dict(stage.module.state_dict())
    with torch.no_grad():
        module.blocks[0].attention.value.weight[:, 0] = 40.0
    layers = {**stage.layers, "blocks.0.attention.value": "text.block.0.attention.value"}
    rows = sensitivity([replace(stage, module=module, layers=layers)], Recipe(quantize="int8"), {"main": FEEDS[:1]}, by="layer")
    cost = {row["layer"]: row["cost"] for row in rows}
    assert "text.block.1" not in cost and list(cost.values()) == sorted(cost.values(), reverse=True)
    assert cost["text.block.0.attention.value"] > 10 * max(cost["text.block.1.attention"], cost["text.block.0.attention"])


class Running(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.first = torch.nn.Linear(64, 64)
        self.register_buffer("sums", torch.zeros(4, 64, dtype=torch.float16))

    def forward(self, x):
        total = self.sums.float() + self.first(x)
        self.sums.copy_(total.to(torch.float16))
        return total * 2


def test_states_go_on_from_call_to_call_or_are_given(tmp_path):
    torch.manual_seed(4)
    found = convert_stage(
        Stage("step", Running().eval(), {"x": torch.zeros(4, 64)}, ("y",), states=("sums",)), Recipe(quantize="int8")
    )
    dense = save_package(found.mlmodel, tmp_path / "dense.mlpackage")
    small = save_package(compress(found.mlmodel, found.recipe), tmp_path / "small.mlpackage")
    drawn = np.random.default_rng(3)
    calls = [{"x": drawn.normal(size=(4, 64)).astype(np.float32)} for _ in range(3)]
    (row,) = {each["layer"]: each for each in stage_sensitivity(found, dense, small, calls) if each["layer"] == EVERYTHING}.values()
    assert row["kl"] is row["top1"] is None and row["measure"] == "relative_l2" and 0 < row["cost"] < 0.05
    program = load(dense)
    state, held = program.make_state(), []
    for call in calls:
        held.append({**call, "sums": state.read("sums")})
        program.predict(call, state)
    (again,) = {
        each["layer"]: each for each in stage_sensitivity(found, dense, small, held) if each["layer"] == EVERYTHING
    }.values()
    assert 0 < again["cost"] < row["cost"]  # the states of the program that is not compressed: its errors do not add up


def test_what_cannot_be_measured():
    with pytest.raises(UsageError, match="no compression is named"):
        sensitivity([language()], Recipe(), {"main": FEEDS})
    with pytest.raises(UsageError, match="no stage has inputs"):
        sensitivity([language()], Recipe(quantize="int8"), {"other": FEEDS})
    with pytest.raises(UsageError, match="by='blocks' is not known"):
        sensitivity([language()], Recipe(quantize="int8"), {"main": FEEDS}, by="blocks")
