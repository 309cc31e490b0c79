"""Rung 4 on records written to disk: whole and truncated ones, against scipy."""

from __future__ import annotations

import numpy
import pytest
from scipy.special import log_softmax
from scipy.stats import entropy

import workbench as wb
from tests.parity.bundles import line, make_run
from workbench.errors import BundleError
from workbench.run.token_records import TOP, WHOLE_VOCABULARY, read_tokens, record_of, write_tokens

TOKENS = [5, 6, 1]


def logits_of(items: int, vocabulary: int, seed: int, noise: float):
    """Random logits of the reference, and the same with noise."""
    rng = numpy.random.default_rng(seed)
    first = [4 * rng.standard_normal((len(TOKENS), vocabulary)).astype(numpy.float32) for _ in range(items)]
    return first, [each + noise * rng.standard_normal(each.shape).astype(numpy.float32) for each in first]


def compared(tmp_path, first, second):
    reference = make_run(tmp_path, "torch:a", [line(str(place), 1.0) for place in range(len(first))])
    candidate = make_run(tmp_path, "mlx:a", [line(str(place), 1.0) for place in range(len(first))], backend__name="mlx")
    for run, followed, logits in ((reference, "own", first), (candidate, reference.manifest["run_key"][:12], second)):
        records = {str(place): record_of(TOKENS, each) for place, each in enumerate(logits)}
        write_tokens(run.folder / "tensors", followed, dict(list(records.items())[:3]))
        write_tokens(run.folder / "tensors", followed, dict(list(records.items())[3:]))
    return wb.compare(reference, candidate)


def test_whole_records_give_the_kl_of_scipy(tmp_path):
    first, second = logits_of(10, 50, 0, 0.1)
    rung = compared(tmp_path, first, second).rung(4)
    p, q = (numpy.exp(log_softmax(numpy.concatenate(each).astype(numpy.float64), axis=1)) for each in (first, second))
    expected = entropy(p, q, axis=1)
    facts = rung.facts
    assert facts["positions"] == 30 and facts["items"] == 10 and facts["kl_is_lower_bound"] is False
    assert facts["kl_mean"] == pytest.approx(expected.mean(), rel=1e-4)
    assert facts["kl_percentiles"]["90"] == pytest.approx(numpy.percentile(expected, 90), rel=1e-4)
    assert facts["top1_agreement"] == (p.argmax(1) == q.argmax(1)).mean()
    index = numpy.tile(TOKENS, 10)
    mine, theirs = p[range(30), index], q[range(30), index]
    assert facts["probability_change_rms"] == pytest.approx(numpy.sqrt(((theirs - mine) ** 2).mean()), rel=1e-3)
    assert abs(facts["log_perplexity_ratio"]) == pytest.approx(abs((numpy.log(mine) - numpy.log(theirs)).mean()), rel=1e-3)
    low, high = facts["kl_mean_interval95"]
    assert low < facts["kl_mean"] < high


def test_truncated_records_give_a_lower_bound_and_say_so(tmp_path):
    vocabulary = WHOLE_VOCABULARY + 904
    first, second = logits_of(6, vocabulary, 1, 0.3)
    comparison = compared(tmp_path, first, second)
    rung = comparison.rung(4)
    p, q = (numpy.exp(log_softmax(numpy.concatenate(each).astype(numpy.float64), axis=1)) for each in (first, second))
    full = entropy(p, q, axis=1).mean()
    assert rung.facts["kl_is_lower_bound"] is True and 0 < rung.facts["kl_mean"] <= full
    assert "KL at least" in rung.finding and "a lower bound" in rung.finding
    record = read_tokens(comparison.reference.all_runs[0].tensors, "own")["0"]
    assert record.top_ids.shape == (3, TOP) and record.logprobs is None
    assert record.rest == pytest.approx(1 - numpy.sort(p[:3], axis=1)[:, -TOP:].sum(axis=1), abs=1e-6)


def test_records_of_other_tokens_are_not_compared(tmp_path):
    first, second = logits_of(4, 50, 2, 0.1)
    reference = make_run(tmp_path, "torch:a", [line(str(place), 1.0) for place in range(4)])
    candidate = make_run(tmp_path, "mlx:a", [line(str(place), 1.0) for place in range(4)])
    write_tokens(reference.folder / "tensors", "own", {str(place): record_of(TOKENS, each) for place, each in enumerate(first)})
    write_tokens(candidate.folder / "tensors", "own", {str(place): record_of([5, 7, 1], each) for place, each in enumerate(second)})
    rung = wb.compare(reference, candidate).rung(4)
    assert rung.status == "not run" and "--record tokens --follow torch:a" in rung.fix


def test_free_running_divergence_is_information(tmp_path):
    reference = make_run(tmp_path, "torch:a", [line(str(place), 1.0) for place in range(4)])
    parted = [line("0", 1.0, **{"output.tokens": [5, 9, 1]}), *(line(str(place), 1.0) for place in range(1, 4))]
    rung = wb.compare(reference, make_run(tmp_path, "mlx:a", parted)).rung(4)
    assert rung.facts["free_running"] == {"items": 4, "parted": 1, "median_tokens_before": 1}
    assert "1 of 4 answers part, at the median after 1 token (information" in rung.finding


def test_a_damaged_part_is_named(tmp_path):
    path = write_tokens(tmp_path / "tensors", "own", {"a": record_of(TOKENS, logits_of(1, 50, 3, 0)[0][0])})
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(BundleError, match="tokens-own-00000"):
        read_tokens(tmp_path / "tensors", "own")
