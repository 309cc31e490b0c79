"""Joining the texts of overlapping windows: the words that both heard are found and written once.

    overlap_of([5, 6, 7, 8, 9], [7, 8, 9, 1], expected=3)      # (4, 2): the first text up to its 4th token, the second from its 3rd

The end of one text is aligned with the beginning of the next by their longest common token sequence, in which a token counts for
more the rarer it is in the two texts (a run of the same word says little about where one is in it); what was heard otherwise in one of
them costs. The cut is in the middle of what is common, because a window hears badly at its edges. How many tokens the overlap should
hold is known from its share of the window, and decides where the texts alone do not. The alignment is that of overlapping
sequences (S. B. Needleman and C. D. Wunsch 1970, with free ends).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

GAP = 1.0
"""Cost of a token that only one of the two texts has, or that they have differently (a match earns 0 to log of the texts' length)."""

PRIOR = 0.2
"""Cost of each token by which the overlap differs from the expected one."""

NEVER = -1e9


def overlap_of(first: Sequence[int], second: Sequence[int], expected: float) -> tuple[int, int]:
    """How many tokens of ``first`` to keep, and how many of ``second`` to leave out; (len(first), 0) where nothing is common.

    ``expected``: about how many tokens of each lie in the overlap; twice as many and 8 more are looked at.
    """
    reach = min(int(2 * expected) + 8, len(first), len(second))
    if reach == 0:
        return len(first), 0
    tail, head = list(first[len(first) - reach :]), list(second[:reach])
    counts = Counter([*first, *second])
    total = len(first) + len(second)

    def worth(token: int) -> float:
        return math.log(total / counts[token])

    # best[i][j]: of alignments of a part of the tail that ends at i with the first j tokens of the head.
    best = [[0.0] + [-GAP * j for j in range(1, reach + 1)]]
    came = [[0] + [2] * reach]
    for i in range(1, reach + 1):
        row, steps = [0.0], [0]
        for j in range(1, reach + 1):
            same = tail[i - 1] == head[j - 1]
            choices = (best[i - 1][j - 1] + (worth(head[j - 1]) if same else -GAP), best[i - 1][j] - GAP, row[j - 1] - GAP)
            step = max(range(3), key=choices.__getitem__)
            row.append(choices[step])
            steps.append(step)
        best.append(row)
        came.append(steps)
    ends = [best[reach][j] - PRIOR * abs(j - expected) for j in range(reach + 1)]
    order = sorted(range(1, reach + 1), key=lambda j: (-ends[j], abs(j - expected)))
    for j in order:
        pairs = _pairs(tail, head, came, reach, j)
        if pairs and best[reach][j] >= 0:
            kept, left_out = pairs[len(pairs) // 2]
            return len(first) - reach + kept + 1, left_out + 1
    return len(first), 0


def _pairs(tail: list[int], head: list[int], came: list[list[int]], i: int, j: int) -> list[tuple[int, int]]:
    """The places of the common tokens on the way back from (i, j)."""
    found = []
    while i > 0 and j > 0:
        step = came[i][j]
        if step == 0:
            if tail[i - 1] == head[j - 1]:
                found.append((i - 1, j - 1))
            i, j = i - 1, j - 1
        elif step == 1:
            i -= 1
        else:
            j -= 1
    return found[::-1]


def stitch(texts: Sequence[Sequence[int]], expected_share: float) -> list[tuple[int, int]]:
    """Which tokens of each window's text to keep: (from, to) for each, so that joined they say everything once.

    ``expected_share``: the overlap as a share of a window.
    """
    spans = [[0, len(text)] for text in texts]
    last = None
    for index, text in enumerate(texts):
        if not text:
            continue
        if last is not None and last == index - 1:
            before = texts[last][spans[last][0] :]
            expected = expected_share * (len(texts[last]) + len(text)) / 2
            kept, left_out = overlap_of(before, text, expected)
            spans[last][1] = spans[last][0] + kept
            spans[index][0] = left_out
        last = index
    return [(begin, max(begin, end)) for begin, end in spans]
