"""Runs packed with --redact: what cannot be told is not called different."""

from __future__ import annotations

import pytest

import workbench as wb
from tests.parity.bundles import line, lines_of, make_run
from workbench.cli.main import main
from workbench.run.redact import redact


def redacted(run, folder, key):
    return redact(run, folder / run.name, key)


@pytest.fixture
def runs(tmp_path):
    other = lines_of(150, 50)
    other[0] = line("0", 1.0, **{"output.value": "Yes, A"})
    return [make_run(tmp_path / "runs", "torch:a", lines_of(150, 50)), make_run(tmp_path / "runs", "mlx:a", other)]


@pytest.mark.parametrize("both", [False, True])
def test_under_two_keys_nothing_is_said_of_the_texts(tmp_path, runs, both):
    made = [redacted(run, tmp_path / str(place), bytes([place]) * 32) for place, run in enumerate(runs)]
    found = wb.compare(made[0] if both else runs[0], made[1])
    assert found.verdict.name == "EQUIVALENT" and found.first_broken is None
    assert found.rung(2).status == "same" and "the prompts are redacted" in found.rung(2).finding
    assert found.rung(2).facts["items_differing"] == {}
    assert found.rung(5).finding.endswith("the answers are redacted.") and found.rung(5).status == "close"
    assert {pair.same_text for pair in found.pairs} == {None} == {pair.same_answer for pair in found.pairs}
    assert main(["parity", str(found.reference.all_runs[0].folder), str(made[1].folder), "--gate"]) == 0


def test_under_one_key_texts_are_told_apart(tmp_path, runs):
    found = wb.compare(*(redacted(run, tmp_path / "safe", b"k" * 32) for run in runs))
    assert "199 of 200 answers are the same text." in found.rung(5).finding
    assert [pair.id for pair in found.pairs if not pair.same_text] == ["0"] and found.pairs[0].same_text is False


def test_other_token_ids_still_break_rung_2(tmp_path, runs):
    other = make_run(tmp_path / "runs", "mlx:b", lines_of(150, 50, **{"input.seen.tokens": {"n": 8, "hash": "t"}}))
    found = wb.compare(runs[0], redacted(other, tmp_path / "safe", b"k" * 32))
    assert found.first_broken.number == 2 and found.rung(2).facts["items_differing"] == {"token ids": 200}
