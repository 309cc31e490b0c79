"""Rung 4: the same next token, given the same past? From token records, where both runs followed the same answers.

The reference records its own answers (``eval --record tokens``), the candidate follows them (``--follow REFERENCE``); so every
position is judged on the same past. Where the runs' own texts part is reported as information: kernels that round otherwise
may part after a few tokens and still agree at every step.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from math import inf, isinf, isnan
from typing import Any

from workbench.errors import BundleError
from workbench.parity.comparison import Pair, Rung, Table
from workbench.parity.families import SPEECH
from workbench.parity.sides import Side
from workbench.run.bundle import CAPTURE, Run
from workbench.run.token_records import OWN, TokenRecord, followed_in, read_tokens

SAME_KL = 1e-8
"""Nats a token, the mean. Float32 kernels of one model move logits by about 1e-5, which is a KL near 1e-10 (torch against MLX on
the demo model: 7e-10); rounding a model to float16 moves them by 1e-2 or so, a KL of 1e-5."""

CLOSE_TOP1 = 0.99
CLOSE_KL = 0.01
PERCENTILES = (50, 90, 99, 100)
SHOWN = 20


def tokens_rung(reference: Side, candidate: Side, pairs: Sequence[Pair]) -> Rung:
    """Mean and percentile KL in nats per token, top-1 agreement, change of the followed token's probability, perplexity ratio.

    Positions where one of them is no finite number (NaN, or a token that the candidate excludes) are counted, left out of the
    means, and break the rung.
    """
    speech = reference.family == SPEECH
    divergence = free_running(pairs)
    facts: dict[str, Any] = {"free_running": divergence}
    joined = matched_records(reference, candidate, pairs)
    if not joined:
        what = "transcripts" if speech else "answers"
        finding = f"No token records of both runs over the same {what}. {divergence_text(divergence, speech)}"
        return Rung(4, "not run", finding, facts, fix=fix_for(reference, candidate), of_speech=speech)
    try:
        return judged(joined, facts, divergence, len(pairs), speech)
    except (ValueError, TypeError) as error:  # an id twice, arrays of two widths: nothing that was recorded so
        raise BundleError(
            f"the token records of {reference.label} and {candidate.label} cannot be compared",
            why=str(error)[:200],
            fix="record again",
        ) from error


def fix_for(reference: Side, candidate: Side) -> str | None:
    """The two commands; None where a side is a server, which keeps what it thinks to itself, and for captures, which answer nothing.
    Quoted: the names are a bundle's."""
    named = reference.manifest["task"]
    if "server" in {reference.manifest["evidence"], candidate.manifest["evidence"]} or named["name"] == CAPTURE:
        return None
    task = named.get("path") or named["name"]
    first, second = (
        shlex.join([task, "--model", side.text, "--record", "tokens", *follow])
        for side, follow in ((reference, ()), (candidate, ("--follow", reference.text)))
    )
    return f"workbench eval {first}, then workbench eval {second}"


def judged(
    joined: Mapping[str, tuple[TokenRecord, TokenRecord]],
    facts: dict[str, Any],
    divergence: Mapping[str, Any],
    n: int,
    speech: bool = False,
) -> Rung:
    import numpy

    from workbench.metrics.divergence import cluster_mean_interval, perplexity_ratio
    from workbench.metrics.stats import wilson

    items, parts, agree, change, followed = [], [], [], [], ([], [])
    bound = False
    rows = []
    for name, (mine, theirs) in joined.items():
        kl, lower = divergences(mine, theirs)
        bound = bound or lower
        items += [name] * len(kl)
        parts.append(kl)
        agree.append(mine.best == theirs.best)
        change.append(numpy.exp(theirs.followed.astype(numpy.float64)) - numpy.exp(mine.followed.astype(numpy.float64)))
        followed[0].append(mine.followed)
        followed[1].append(theirs.followed)
        worst = float(kl.max(initial=0.0))
        rows.append([*name.split("\n", 1), inf if isnan(worst) else worst, int((~agree[-1]).sum()), len(kl)])
    kl, same, moved = numpy.concatenate(parts), numpy.concatenate(agree), numpy.concatenate(change)
    before, after = (numpy.concatenate(each).astype(numpy.float64) for each in followed)
    finite = numpy.isfinite(kl) & numpy.isfinite(before) & numpy.isfinite(after)
    unlike = int((~finite).sum())
    top1 = float(same.mean())
    if unlike:
        facts["not_finite"] = unlike
        kl, moved, before, after = kl[finite], moved[finite], before[finite], after[finite]
        items = [name for name, kept in zip(items, finite, strict=True) if kept]
    if not len(kl):
        finding = f"No position has probabilities in both records: {unlike:,} hold none or exclude the token. {divergence_text(divergence, speech)}"
        return Rung(4, "different", finding, facts, of_speech=speech)
    low, high = cluster_mean_interval(kl, items) if len(set(items)) > 1 else (None, None)
    ratio, ratio_low, ratio_high = perplexity_ratio(before, after, items)
    mean = float(kl.mean())
    facts |= {
        "items": len(joined),
        "positions": len(same),
        "kl_is_lower_bound": bound,
        "kl_mean": mean,
        "kl_mean_interval95": [low, high],
        "kl_percentiles": {str(each): float(numpy.percentile(kl, each)) for each in PERCENTILES},
        "top1_agreement": top1,
        "probability_change_mean": float(moved.mean()),
        "probability_change_mean_interval95": list(cluster_mean_interval(moved, items) if len(set(items)) > 1 else (None, None)),
        "probability_change_rms": float(numpy.sqrt((moved**2).mean())),
        "log_perplexity_ratio": ratio,
        "log_perplexity_ratio_interval95": [None if isinf(each) else each for each in (ratio_low, ratio_high)],
    }
    # One other choice in 50 positions is no evidence of less than 99 % agreement.
    reached = top1 >= CLOSE_TOP1 or wilson(int(same.sum()), len(same))[1] >= CLOSE_TOP1
    status: Any = "same" if mean <= SAME_KL and top1 == 1 else "close" if mean <= CLOSE_KL and reached else "different"
    if unlike:
        status = "different"
    whole = sum(bool(each.all()) for each in agree)
    if speech:
        facts["items_with_the_same_choices"] = whole
    sign = "at least " if bound else ""
    left_out = (
        f"{unlike:,} of {len(same):,} positions are left out: a side has no numbers there, or excludes a token. " if unlike else ""
    )
    finding = (
        f"{left_out}KL {sign}{mean:.2g} nats a token (99th percentile {facts['kl_percentiles']['99']:.2g}), same first choice at {100 * top1:.2f} % of "
        f"{len(same):,} positions on {len(joined):,} of {n:,} {'utterances' if speech else 'items'}{'; a lower bound, from the 64 likeliest tokens' if bound else ''}"
        ". "
        f"{f'Teacher-forced, the same tokens on {whole:,} of {len(joined):,} utterances. ' if speech else ''}"
        f"{divergence_text(divergence, speech)}"
    )
    rows.sort(key=lambda row: -row[2])
    columns = ("task", "item", "largest KL (nats)", "other first choice", "positions")
    return Rung(4, status, finding, facts, (Table("Items whose tokens differ most", columns, rows[:SHOWN]),), of_speech=speech)


def divergences(mine: TokenRecord, theirs: TokenRecord) -> tuple[Any, bool]:
    """(KL at each position in nats, is it a lower bound)."""
    import numpy

    from workbench.metrics.divergence import kl_divergence, kl_lower_bound

    if mine.whole and theirs.whole and mine.logprobs.shape == theirs.logprobs.shape:
        with numpy.errstate(invalid="ignore"):  # 0 times infinity, where the candidate excludes what is all but impossible
            return kl_divergence(mine.logprobs, theirs.logprobs), False
    first, second = (truncated(each) for each in (mine, theirs))
    return kl_lower_bound(*first, *second), True


def truncated(record: TokenRecord) -> tuple[Any, Any, Any]:
    """(ids, log-probabilities, rest) of a record; a whole one is cut to as many tokens as the others keep."""
    from workbench.metrics.divergence import top_k
    from workbench.run.token_records import TOP

    return top_k(record.logprobs, TOP) if record.whole else (record.top_ids, record.top_logprobs, record.rest)


def matched_records(reference: Side, candidate: Side, pairs: Sequence[Pair]) -> dict[str, tuple[TokenRecord, TokenRecord]]:
    """Both sides' records over the same tokens, by ``task\\nid``: the candidate followed the reference, or both a third run."""
    found: dict[str, tuple[TokenRecord, TokenRecord]] = {}
    for task in dict.fromkeys(pair.task for pair in pairs):
        wanted = {pair.id for pair in pairs if pair.task == task}
        for mine in reference.runs[task]:
            for theirs in candidate.runs[task]:
                first, second = followed_alike(mine, theirs)
                for name in wanted & first.keys() & second.keys():
                    if first[name].tokens.tolist() == second[name].tokens.tolist():
                        found[f"{task}\n{name}"] = (first[name], second[name])
    order = [f"{pair.task}\n{pair.id}" for pair in pairs]
    return {name: found[name] for name in order if name in found}


def followed_alike(reference: Run, candidate: Run) -> tuple[dict[str, TokenRecord], dict[str, TokenRecord]]:
    """The records of both runs that follow one run's answers: the reference's, else the candidate's, a third's, or equal own answers."""
    third = [name for name in followed_in(reference.tensors) if name in followed_in(candidate.tensors)]
    ways = (
        ([OWN], names_of(reference)),
        (names_of(candidate), [OWN]),
        (third, third),
        ([OWN], [OWN]),
    )
    for mine, theirs in ways:
        second = records_of(candidate, theirs)
        first = records_of(reference, mine) if second else {}
        if first:
            return first, second
    return {}, {}


def names_of(run: Run) -> list[str]:
    """The names under which others record that they followed this run: its key, and those of the shards it was merged from."""
    manifest = run.manifest
    keys = [manifest["run_key"], *(part["run_key"] for part in manifest.get("merged") or ())]
    return list(dict.fromkeys(key[:12] for key in keys))


def records_of(run: Run, followed: Sequence[str]) -> dict[str, TokenRecord]:
    """The records that follow any of these names. Raises BundleError for a damaged part."""
    return {item: record for name in followed for item, record in read_tokens(run.tensors, name).items()}


def free_running(pairs: Sequence[Pair]) -> dict[str, Any]:
    """Where the answers' own tokens part: on how many items, and after how many tokens at the median; {} for captures, which hold none."""
    if pairs and all(pair.task == CAPTURE for pair in pairs):
        return {}
    known = [(pair.reference["output"].get("tokens"), pair.candidate["output"].get("tokens")) for pair in pairs]
    known = [(before, after) for before, after in known if before is not None and after is not None]
    places = sorted(
        next((place for place, (a, b) in enumerate(zip(before, after, strict=False)) if a != b), min(len(before), len(after)))
        for before, after in known
        if before != after
    )
    return {"items": len(known), "parted": len(places), "median_tokens_before": places[len(places) // 2] if places else None}


def divergence_text(divergence: Mapping[str, Any], speech: bool = False) -> str:
    if not divergence:
        return ""
    if not divergence["items"]:
        return f"The {'transcripts' if speech else 'answers'}' own tokens are not recorded on both sides."
    if speech:
        alike = divergence["items"] - divergence["parted"]
        parted = f"; the others part at the median after {counted(divergence)}" if divergence["parted"] else ""
        return f"Free-running, the same tokens on {alike:,} of {divergence['items']:,} utterances{parted}."
    if not divergence["parted"]:
        return f"Free-running, all {divergence['items']:,} answers have the same tokens."
    return (
        f"Free-running, {divergence['parted']:,} of {divergence['items']:,} answers part, at the median after "
        f"{counted(divergence)} (information, not a fault)."
    )


def counted(divergence: Mapping[str, Any]) -> str:
    return f"{divergence['median_tokens_before']} {'token' if divergence['median_tokens_before'] == 1 else 'tokens'}"
