"""Rung 4 on records written to disk: whole and truncated ones, against scipy."""

from __future__ import annotations

import json

import numpy
import pytest
from scipy.special import log_softmax
from scipy.stats import entropy

import workbench as wb
from tests.parity.bundles import line, make_run, rewrite
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


def test_what_to_type_is_quoted_and_a_server_is_asked_for_nothing(tmp_path):
    lines = [line("1", 1.0)]
    odd = make_run(tmp_path, "torch:a?x=1; rm -rf ~", lines)
    fix = wb.compare(odd, make_run(tmp_path, "mlx:a", lines)).rung(4).fix
    assert "--model 'torch:a?x=1; rm -rf ~' --record" in fix and "--follow 'torch:a?x=1; rm -rf ~'" in fix
    server = make_run(tmp_path, "server:m@http://x", lines, evidence="server", model__weights=None)
    found = wb.compare(odd, server)
    assert found.rung(4).fix is None and found.rung(1).status == "not run" and found.verdict.name == "INCONCLUSIVE"


def test_reference_evidence_is_asked_for_token_records_as_any_other(tmp_path):
    runs = [
        make_run(tmp_path, name, [line("1", 1.0)], evidence=evidence)
        for name, evidence in (("torch:a", "host"), ("coreml:a", "reference"))
    ]
    rung = wb.compare(*runs).rung(4)
    assert rung.status == "not run" and "--model coreml:a --record tokens --follow torch:a" in rung.fix
    reference, candidate = runs
    first, second = logits_of(1, 50, 3, 0.1)
    write_tokens(reference.folder / "tensors", "own", {"1": record_of(TOKENS, first[0])})
    write_tokens(candidate.folder / "tensors", reference.manifest["run_key"][:12], {"1": record_of(TOKENS, second[0])})
    assert wb.compare(reference, candidate).rung(4).facts["positions"] == len(TOKENS)


def test_reference_evidence_has_no_times(tmp_path):
    runs = [make_run(tmp_path, name, [line("1", 1.0)], evidence="reference") for name in ("torch:a", "onnx:a")]
    assert wb.compare(*runs).rung(6).status == "not run"
    mixed = wb.compare(runs[0], make_run(tmp_path, "mlx:a", [line("1", 1.0)])).rung(6)
    assert mixed.finding.startswith("Median item 10.0 ms for the candidate (host evidence on ")
    assert mixed.finding.endswith("The reference ran on a reference executor, which has no timing.") and "speed-up" not in mixed.finding
    assert mixed.facts["tasks"]["made"][0].keys() == {"size"}


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


def test_an_excluded_token_breaks_the_rung_and_is_counted(tmp_path):
    first, _ = logits_of(5, 50, 4, 0.0)
    second = [each.copy() for each in first]
    second[0][1, TOKENS[1]] = -numpy.inf
    second[1][2, 9] = numpy.nan
    rung = compared(tmp_path, first, second).rung(4)
    assert rung.status == "different" and rung.facts["not_finite"] == 2 and rung.facts["positions"] == 15
    assert rung.finding.startswith("2 of 15 positions are left out") and rung.facts["kl_mean"] == 0
    assert numpy.isfinite(rung.facts["log_perplexity_ratio"]) and rung.tables[0].rows[0][2] == numpy.inf


def test_records_without_any_number_break_the_rung(tmp_path):
    first, second = logits_of(4, 50, 5, 0.0)
    rung = compared(tmp_path, first, [each * numpy.nan for each in second]).rung(4)
    assert rung.status == "different" and "No position has probabilities in both records" in rung.finding


def test_whole_against_truncated_and_another_vocabulary(tmp_path):
    first, _ = logits_of(4, 50, 6, 0.0)
    wider = [numpy.concatenate([each, numpy.full((3, 10), -30.0, numpy.float32)], axis=1) for each in first]
    rung = compared(tmp_path / "a", first, wider).rung(4)
    assert rung.facts["kl_is_lower_bound"] is True and rung.facts["top1_agreement"] == 1 and rung.facts["kl_mean"] < 1e-6
    large = [numpy.concatenate([each, numpy.full((3, WHOLE_VOCABULARY), -30.0, numpy.float32)], axis=1) for each in first]
    rung = compared(tmp_path / "b", first, large).rung(4)
    assert rung.facts["kl_is_lower_bound"] is True and 0 <= rung.facts["kl_mean"] < 1e-6 and rung.facts["top1_agreement"] == 1


def test_a_merged_reference_is_known_by_the_keys_of_its_shards(tmp_path):
    first, second = logits_of(4, 50, 7, 0.1)
    lines = [line(str(place), 1.0) for place in range(4)]
    shards = ["5" * 64, "6" * 64]
    reference, candidate = make_run(tmp_path, "torch:a", lines), make_run(tmp_path, "mlx:a", lines, backend__name="mlx")
    rewrite(reference, "manifest.json", lambda found: found | {"merged": [{"name": "s", "run_key": each} for each in shards]})
    write_tokens(reference.folder / "tensors", "own", {str(place): record_of(TOKENS, each) for place, each in enumerate(first)})
    for place, each in enumerate(second):
        write_tokens(candidate.folder / "tensors", shards[place % 2][:12], {str(place): record_of(TOKENS, each)})
    assert wb.compare(reference.folder, candidate).rung(4).facts["items"] == 4


@pytest.mark.parametrize("damage", ["widths", "twice"])
def test_records_that_do_not_fit_are_no_traceback(tmp_path, damage):
    from safetensors.numpy import load_file, save_file

    comparison = compared(tmp_path, *logits_of(4, WHOLE_VOCABULARY + 1, 8, 0.1))
    path = next(comparison.candidate.all_runs[0].tensors.glob("tokens-*-00000.*"))
    arrays = load_file(path)
    arrays["top_ids"] = arrays["top_ids"][:, 1:].copy() if damage == "widths" else numpy.zeros_like(arrays["top_ids"])
    save_file(arrays, path, {"items": json.dumps([[str(place), 3] for place in range(3)])})
    with pytest.raises(BundleError, match="token records of torch:a and mlx:a"):
        wb.compare(comparison.reference.all_runs[0], comparison.candidate.all_runs[0])


def test_two_that_followed_a_third_are_compared_over_its_answers(tmp_path):
    first, second = logits_of(4, 50, 3, 0.1)
    sides = [make_run(tmp_path, "torch:a", [line(str(place), 1.0) for place in range(4)])]
    sides += [make_run(tmp_path, "mlx:a", [line(str(place), 1.0) for place in range(4)], backend__name="mlx")]
    for run, logits in zip(sides, (first, second), strict=True):
        records = {str(place): record_of(TOKENS, each) for place, each in enumerate(logits)}
        write_tokens(run.folder / "tensors", "0123456789ab", records)
    rung = wb.compare(*sides).rung(4)
    p, q = (numpy.exp(log_softmax(numpy.concatenate(each).astype(numpy.float64), axis=1)) for each in (first, second))
    assert rung.facts["positions"] == 12 and rung.facts["kl_mean"] == pytest.approx(entropy(p, q, axis=1).mean(), rel=1e-4)
