"""Do the intervals hold what they say, and the verdicts? ``python -m tests.bench.statistics`` (two to three minutes on one core).

     90.25 %  89.0 to 91.0 %   +- 0.30  90 % cluster_interval, 40 equal groups

A line is: measured, the bound, the Monte-Carlo standard error in points, what. Everything on right-or-wrong differences of
independent items is exact: all pairs of flip counts with their probabilities, no draws. The rest is simulated with fixed seeds.
"or more" stands where a method is conservative by construction (the wider of two intervals, unequal groups), both sides
elsewhere. Ends with a non-zero exit code when a bound is broken.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from functools import cache
from math import sqrt

import numpy as np
from scipy.stats import binom

from workbench.metrics.stats import (
    DIFFERENT,
    EQUIVALENT,
    cluster_bootstrap,
    cluster_interval,
    decide,
    equivalence_power,
    items_planned,
    mean_interval,
    paired_bootstrap,
    paired_difference,
    ratio_interval,
    tango,
)

MARGIN = 0.02
DRAWS, RESAMPLES = 10_000, 999
FEW_FLIPS = 10
LEVELS = (0.90, 0.95)
broken: list[str] = []


def report(name: str, measured: float, low: float | None, high: float | None, draws: int | None = None) -> None:
    """One line; ``low`` and ``high`` are the bounds, None where there is none on that side."""
    error = "  exact" if draws is None else f"+-{100 * sqrt(measured * (1 - measured) / draws):5.2f}"
    ok = (low is None or measured >= low) and (high is None or measured <= high)
    if low is not None and high is not None:
        bound = f"{100 * low:.1f} to {100 * high:.1f} %"
    elif low is not None:
        bound = f"{100 * low:.1f} % or more"
    else:
        bound = f"{100 * high:.1f} % or less" if high is not None else "(shown)"
    print(f"{100 * measured:6.2f} %  {bound:<16} {error}  {name}{'' if ok else '   BROKEN'}", flush=True)
    if not ok:
        broken.append(name)


@cache
def judged(broke: int, fixed: int, n: int) -> tuple[tuple[float, float], tuple[float, float], str]:
    inside, outside = tango(broke, fixed, n, 0.90), tango(broke, fixed, n, 0.95)
    return inside, outside, decide(inside, outside, -MARGIN, MARGIN)


def flip_counts(n: int, flip_rate: float, difference: float) -> Iterator[tuple[int, int, float]]:
    """(broke, fixed, probability) for everything but one in a million."""
    broke_rate, fixed_rate = (flip_rate - difference) / 2, (flip_rate + difference) / 2

    def likely(items: int, rate: float) -> np.ndarray:
        low, high = binom.ppf([2e-7, 1 - 2e-7], items, rate) if rate > 0 else (0, 0)
        return np.arange(int(low), int(high) + 1)

    for broke in likely(n, broke_rate):
        first = binom.pmf(broke, n, broke_rate)
        fixed = likely(n - broke, fixed_rate / (1 - broke_rate))
        for count, second in zip(fixed, binom.pmf(fixed, n - broke, fixed_rate / (1 - broke_rate)), strict=True):
            yield int(broke), int(count), float(first * second)


def probability(n: int, flip_rate: float, difference: float, event: Callable[..., bool]) -> float:
    return sum(weight for broke, fixed, weight in flip_counts(n, flip_rate, difference) if event(*judged(broke, fixed, n)))


def tango_coverage() -> None:
    print("\nTango's interval holds the true difference (within 1 point; within 2 where fewer than 10 flips are expected)")
    for n in (200, 400, 800, 1600):
        for flip_rate in (0.02, 0.05, 0.10):
            for true in (0.0, -0.01):
                allowed = 0.01 if n * flip_rate >= FEW_FLIPS else 0.02
                for place, level in ((0, 0.90), (1, 0.95)):
                    held = probability(n, flip_rate, true, lambda *found, at=place, d=true: found[at][0] <= d <= found[at][1])
                    name = f"{100 * level:.0f} %, {n} items, {100 * flip_rate:.0f} % flips, true difference {100 * true:+.0f}"
                    report(name, held, level - allowed, level + allowed)


def equivalent_at_the_margin() -> None:
    print("\nEQUIVALENT although the true difference is the margin (at most 6 %)")
    for n in (200, 400, 800, 1600, 3200):
        for flip_rate in (0.02, 0.05, 0.10):
            wrong = probability(n, flip_rate, -MARGIN, lambda *found: found[2] == EQUIVALENT)
            report(f"{n} items, {100 * flip_rate:.0f} % flips", wrong, None, 0.06)


def equal_quality() -> None:
    print("\nTwo models of equal quality: 2,000 draws of 1,600 items through paired_difference")
    generator = np.random.default_rng(20)
    for flip_rate in (0.02, 0.05, 0.10):
        names = []
        for _ in range(2000):
            reference = (generator.random(1600) < 0.7).astype(float)
            broke = fixed = flip_rate / 2
            chance = np.where(reference == 1, broke / 0.7, fixed / 0.3)
            found = paired_difference(reference, np.where(generator.random(1600) < chance, 1 - reference, reference))
            names.append(decide(found.interval90, found.interval95, -MARGIN, MARGIN))
        power = equivalence_power(flip_rate, 1600, MARGIN)
        report(f"DIFFERENT, {100 * flip_rate:.0f} % flips", names.count(DIFFERENT) / 2000, None, 0.06, 2000)
        name = f"EQUIVALENT, {100 * flip_rate:.0f} % flips, the formula says {100 * power:.1f} %"
        report(name, names.count(EQUIVALENT) / 2000, power - 0.03, min(1.0, power + 0.03), 2000)
    print("  the same, exact, by items; the formula takes the variance at no difference and promises too much on fewer")
    for n in (200, 400, 800, 1600, 3200):
        for flip_rate in (0.02, 0.05, 0.10):
            power = equivalence_power(flip_rate, n, MARGIN)
            low, high = power - 0.03 if n >= 1600 else None, min(1.0, power + 0.03)
            what = f"{n} items, {100 * flip_rate:.0f} % flips"
            report(f"DIFFERENT, {what}", probability(n, flip_rate, 0.0, lambda *found: found[2] == DIFFERENT), None, 0.06)
            equivalent = probability(n, flip_rate, 0.0, lambda *found: found[2] == EQUIVALENT)
            report(f"EQUIVALENT, {what}, formula {100 * power:.1f} %", equivalent, low, high)
    for flip_rate in (0.02, 0.05, 0.10, 0.20):
        n = items_planned(flip_rate, MARGIN)
        equivalent = probability(n, flip_rate, 0.0, lambda *found: found[2] == EQUIVALENT)
        report(f"EQUIVALENT on the {n} items planned for 80 % power at {100 * flip_rate:.0f} % flips", equivalent, None, 0.83)


def group_sizes(generator: np.random.Generator, groups: int, unequal: bool) -> np.ndarray:
    return generator.geometric(0.2, groups) if unequal else np.full(groups, 5)


def clustered_means() -> None:
    print(f"\nIntervals of a mean in groups (5 items a group, or geometric sizes), {DRAWS:,} draws")
    settings = [
        (cluster_interval, 40, False, True),
        (cluster_interval, 200, False, True),
        (cluster_interval, 200, True, True),
        (cluster_bootstrap, 10, False, True),
        (cluster_bootstrap, 10, True, False),
        (cluster_bootstrap, 20, True, False),
        (cluster_bootstrap, 39, False, True),
        (mean_interval, 5, False, False),
        (mean_interval, 5, True, False),
    ]
    for interval, groups, unequal, tight in settings:
        generator = np.random.default_rng(groups)
        draws = DRAWS // 4 if interval is mean_interval else DRAWS
        more = (RESAMPLES,) if interval is cluster_bootstrap else ()
        held = np.zeros(2)
        for _ in range(draws):
            codes = np.repeat(np.arange(groups), group_sizes(generator, groups, unequal))
            values = generator.normal(0, 0.5, groups)[codes] + generator.normal(0, 1, len(codes))
            for place, level in enumerate(LEVELS):
                low, high = interval(values, codes, level, *more)[:2]
                held[place] += low <= 0 <= high
        for level, share in zip(LEVELS, held / draws, strict=True):
            kind = "unequal" if unequal else "equal"
            name = f"{100 * level:.0f} % {interval.__name__}, {groups} {kind} groups"
            report(name, share, level - 0.01, level + 0.01 if tight else None, draws)


def flips_in_groups(generator: np.random.Generator, groups: int, unequal: bool, rates: tuple[float, float], whole: bool):
    """A reference that has everything right half of the time, and flips that come a group at a time or spread over groups."""
    codes = np.repeat(np.arange(groups), group_sizes(generator, groups, unequal))
    broke, fixed = rates
    # Spread: a group's rate is its share of a beta variable with intra-group correlation 0.2.
    share = np.ones(groups) if whole else generator.beta(0.8, 3.2, groups)
    chosen = generator.random(groups)
    scale = 1 if whole else 5
    kind = np.where(chosen < scale * broke, -1, np.where(chosen < scale * (broke + fixed), 1, 0))[codes]
    flips = kind * (generator.random(len(codes)) < share[codes])
    reference = np.where(flips == -1, 1.0, np.where(flips == 1, 0.0, generator.integers(0, 2, len(codes))))
    return reference, reference + flips, codes


def clustered_flips() -> None:
    print(
        f"\nRight-or-wrong items in groups, through paired_difference: coverage, and EQUIVALENT at the margin; {DRAWS // 2:,} draws, half that with 20 groups"
    )
    settings = [
        (20, True, False, (0.04, 0.02)),
        (100, False, True, (0.04, 0.02)),
        (200, True, False, (0.04, 0.02)),
        (400, True, True, (0.04, 0.02)),
        (1000, False, True, (0.03, 0.01)),
        (1000, True, False, (0.03, 0.01)),
        (200, False, True, (0.02, 0.0)),
        (400, False, True, (0.02, 0.0)),
        (400, True, True, (0.02, 0.0)),
    ]
    for groups, unequal, whole, rates in settings:
        generator = np.random.default_rng(groups)
        held, wrong = np.zeros(2), 0
        draws = DRAWS // 2 if groups > 20 else DRAWS // 4
        for _ in range(draws):
            found = paired_difference(*flips_in_groups(generator, groups, unequal, rates, whole))
            held += [low <= -0.02 <= high for low, high in (found.interval90, found.interval95)]
            wrong += decide(found.interval90, found.interval95, -MARGIN, MARGIN) == EQUIVALENT
        what = f"{groups} {'unequal' if unequal else 'equal'} groups, {100 * rates[0]:.0f} and {100 * rates[1]:.0f} % flips "
        what += "by whole groups" if whole else "spread"
        for level, share in zip(LEVELS, held / draws, strict=True):
            report(f"{100 * level:.0f} %, {what}", share, level - 0.01, None, draws)
        report(f"EQUIVALENT at the margin, {what}", wrong / draws, None, 0.06, draws)


def speech(generator: np.random.Generator, groups: int, each: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Errors and words of utterances for two models: 10 % and 10.5 % of words wrong, hard speakers hard for both."""
    codes = np.repeat(np.arange(groups), each)
    words = 5 + generator.poisson(12, len(codes))
    hard = generator.gamma(4, 0.25, groups)[codes] if each > 1 else generator.gamma(4, 0.25, len(codes))
    shared = generator.poisson(0.08 * hard * words)
    sides = [np.stack([shared + generator.poisson(rate * hard * words), words], axis=1) for rate in (0.02, 0.025)]
    return sides[0], sides[1], codes


def corpus_bootstrap() -> None:
    draws = DRAWS // 2
    print(f"\nPaired bootstrap of a corpus word error rate (true ratio 1.05, true difference 0.5 points), {draws:,} draws")

    def ratio(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return (b[:, 0] / b[:, 1]) / (a[:, 0] / a[:, 1])

    def difference(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return b[:, 0] / b[:, 1] - a[:, 0] / a[:, 1]

    settings = [
        (200, 1, "percentile", ratio, 0.90),
        (200, 1, "BCa", ratio, 0.90),
        (40, 10, "percentile", ratio, 0.90),
        (40, 10, "percentile", ratio, 0.95),
        (40, 10, "percentile", difference, 0.90),
        (40, 10, "BCa", ratio, 0.90),
    ]
    for groups, each, method, statistic, level in settings:
        generator = np.random.default_rng(groups + each)
        truth, held = 1.05 if statistic is ratio else 0.005, 0
        for draw in range(draws):
            reference, candidate, codes = speech(generator, groups, each)
            low, high = paired_bootstrap(reference, candidate, statistic, codes, level, RESAMPLES, draw, method)
            held += low <= truth <= high
        what = f"{groups * each} utterances" + (f" of {groups} speakers" if each > 1 else "")
        report(f"{100 * level:.0f} % {method}, {statistic.__name__}, {what}", held / draws, level - 0.01, level + 0.01, draws)


def ratios() -> None:
    draws = DRAWS // 2
    print(f"\nRatio of mean scores, 400 items, {draws:,} draws")
    for level in LEVELS:
        generator, held = np.random.default_rng(5), np.zeros(2)
        for draw in range(draws):
            reference = (generator.random(400) < 0.6).astype(float)
            flip = generator.random(400) < np.where(reference == 1, 0.05 / 0.6, 0.03 / 0.4)
            on_scale = generator.gamma(2, 0.5, 400)
            pairs = [
                (reference, np.where(flip, 1 - reference, reference), 0.58 / 0.6),
                (on_scale, on_scale * generator.gamma(20, 1 / 20, 400), 1.0),
            ]
            for place, (before, after, truth) in enumerate(pairs[: 2 if level == 0.90 else 1]):
                low, high = ratio_interval(before, after, None, level, RESAMPLES, draw)
                held[place] += low <= truth <= high
        share = held / draws
        report(f"{100 * level:.0f} %, right or wrong (at least Tango's width)", share[0], level - 0.01, None, draws)
        if level == 0.90:
            report(f"{100 * level:.0f} %, scores on a scale", share[1], level - 0.01, level + 0.01, draws)


def main() -> int:
    began = time.perf_counter()
    for part in (
        tango_coverage,
        equivalent_at_the_margin,
        equal_quality,
        clustered_means,
        clustered_flips,
        corpus_bootstrap,
        ratios,
    ):
        start = time.perf_counter()
        part()
        print(f"  {time.perf_counter() - start:.0f} s")
    print(f"\n{len(broken)} bounds broken, {time.perf_counter() - began:.0f} s" + "".join(f"\n  {name}" for name in broken))
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
