"""Faults planted in one layer of a healthy pair are named at that layer, or at the first tensor after it; an untouched pair names none."""

from __future__ import annotations

import pytest

from tests.capture import planted as faults
from workbench.capture import names
from workbench.errors import EXIT_DIFFERENT, EXIT_OK
from workbench.metrics.drift import LIMIT
from workbench.parity.ladder import compare

# fault, the layer where it was planted among all parts of the blocks, the same among whole blocks, the least size in units of torch's own error
PLANTED = [
    (faults.perturb_one_weight, "text.block.1.mlp", "text.block.1", 20),
    (faults.swap_gelu, "vision.block.1.mlp", "vision.block.1", 1_000),
    (faults.shift_positions, "vision.embeddings", "vision.embeddings", 100_000),
    (faults.shift_rotary, "text.block.1.attention", "text.block.1", 100_000),
    (faults.transpose_grid, "projector", "projector", 100_000),
    (faults.see_the_future, "text.block.1.attention", "text.block.1", 100_000),
]
IDS = [fault.__name__ for fault, *_ in PLANTED]


@pytest.mark.parametrize(("fault", "part", "block", "size"), PLANTED, ids=IDS)
def test_a_planted_fault_is_named(planted, reference, fault, part, block, size):
    comparison = compare(reference, planted(fault, localise=True))
    rung = comparison.rung(3)
    assert rung.facts["first_guilty"] == part
    assert rung.facts["first_departing"] == part
    assert rung.status == "different" and part in rung.finding
    row = next(row for row in rung.facts["layers"] if row["layer"] == part)
    assert row["made_times_own"] > size > LIMIT
    others = [row["made_times_own"] for row in rung.facts["layers"] if row["layer"] != part and row["made_times_own"] is not None]
    assert max(others) < LIMIT, "a layer that only passes error on was blamed"
    assert comparison.verdict.name == "DIFFERENT" and comparison.verdict.exit_code == EXIT_DIFFERENT
    assert part in comparison.verdict.sentence and "n = 2" in comparison.verdict.sentence


@pytest.mark.parametrize(("fault", "part", "block", "size"), PLANTED, ids=IDS)
def test_statistics_of_whole_blocks_are_enough_to_name_it(planted, reference, fault, part, block, size):
    candidate = planted(fault, layers=names.COARSE, keep=False)
    assert not any(line["one_in"] for line in lines(candidate) if line["n"] > 4096)
    assert compare(reference, candidate).rung(3).facts["first_departing"] == block


def test_an_untouched_pair_names_none(planted, reference):
    comparison = compare(reference, planted(localise=True))
    rung = comparison.rung(3)
    assert rung.facts["first_departing"] is None and rung.facts["first_guilty"] is None
    assert rung.status == "close"
    assert max(row["times_own"] for row in rung.facts["layers"] if row["times_own"] is not None) < LIMIT / 2
    assert comparison.verdict.name == "AGREE" and comparison.verdict.exit_code == EXIT_OK


def test_a_model_that_sees_the_future_is_not_causal(planted, reference):
    seen = compare(reference, planted(faults.see_the_future)).rung(3)
    assert seen.facts["causality"]["candidate"] > 1e-3 > seen.facts["causality"]["reference"]
    assert "not causal" in seen.finding
    assert compare(reference, planted()).rung(3).facts["causality"] == {"reference": 0.0, "candidate": pytest.approx(0, abs=1e-6)}


def test_values_that_are_not_finite_are_a_finding(planted, reference):
    rung = compare(reference, planted(faults.poison)).rung(3)
    assert rung.status == "different"
    assert rung.facts["first_departing"] == "text.block.0.attention"
    assert "not finite" in rung.finding and "text.block.0.attention" in rung.finding


def test_an_embedding_scale_that_is_dropped_is_named():
    pytest.importorskip("mlx_lm", reason="needs mlx-lm (pip install 'parity-workbench[mlx]')")
    import copy
    import tempfile
    from pathlib import Path

    import numpy

    from workbench.capture.zoo import measure
    from workbench.capture.zoo.families.gemma2 import FAMILIES
    from workbench.metrics.drift import first_departing, first_guilty

    family = FAMILIES[0]

    with tempfile.TemporaryDirectory() as folder:
        model, path = measure.folders(family, "hub", Path(folder), 1)
        ported = family.open_port(path)
    case = next(iter(family.cases(model.config, numpy.random.default_rng(0))))
    exact = copy.deepcopy(model).double()
    healthy = measure.measure(family, case, model, exact, ported)
    assert first_departing(healthy.layers) is None and first_guilty(healthy.layers) is None
    ported.model.args = copy.copy(ported.model.args)
    ported.model.args.hidden_size = 1  # the factor is its square root
    damaged = measure.measure(family, case, model, exact, ported)
    assert first_departing(damaged.layers).name == "text.input"
    assert first_guilty(damaged.layers).name == "text.input"


def lines(run):
    from workbench.run import journal

    return list(journal.read(run.folder / "layers.jsonl"))
