"""The Open ASR Leaderboard's arithmetic: a word error rate a data set, rounded, and the unweighted mean of the rounded ones.

    ami = dataset_wer(score.counts for score in scores)      # 8.17: per cent, two decimals
    headline({"ami": 8.17, "librispeech-clean": 1.69})       # 4.93
    join_chunks(rows)                                        # one row a recording, its chunks joined in order

Rules: huggingface/open_asr_leaderboard at d1e99b2, ``normalizer/eval_utils.py`` (``score_results``, ``merge_chunked_manifest``). Rounding
comes first and every data set weighs the same, so the headline is not the rate of all words pooled.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from workbench.errors import DataError
from workbench.metrics.wer import rates


def dataset_wer(counts: Iterable[Mapping[str, int]]) -> float:
    """The corpus word error rate of one data set in per cent, rounded to two decimals."""
    return round(100 * rates(counts)["wer"], 2)


def headline(wers: Mapping[str, float]) -> float:
    """The mean over data sets of their rounded rates in per cent, itself rounded to two decimals. Raises ValueError without any."""
    if not wers:
        raise ValueError("the headline is a mean over data sets: give at least one")
    return round(sum(round(wer, 2) for wer in wers.values()) / len(wers), 2)


def join_chunks(
    rows: Sequence[Mapping[str, Any]], parent: str = "parent_id", index: str = "chunk_index", text: str = "response"
) -> list[dict[str, Any]]:
    """One row ``{"id", text}`` a recording of the rows of its chunks, recordings in order of their ids, empty chunks left out.

    Raises DataError where a recording's chunks are not 0, 1, 2, ...: the leaderboard goes on there, and counts what is missing as deleted.
    """
    recordings: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        if parent not in row or index not in row:
            raise DataError(f"a chunk lacks {parent if parent not in row else index!r}", why=f"it has: {', '.join(row)}")
        recordings.setdefault(str(row[parent]), []).append(row)
    found = []
    for name in sorted(recordings):
        chunks = sorted(recordings[name], key=lambda row: row[index])
        if [row[index] for row in chunks] != list(range(len(chunks))):
            raise DataError(
                f"the chunks of {name!r} are not 0 to {len(chunks) - 1}", why=f"found {[row[index] for row in chunks][:8]}"
            )
        parts = ((row[text] or "").strip() for row in chunks)
        found.append({"id": name, text: " ".join(part for part in parts if part)})
    return found
