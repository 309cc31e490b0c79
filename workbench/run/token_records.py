"""Token records: what a model thought at each token of an answer, given the tokens before it (teacher forcing).

    records = read_tokens(run.tensors, "own")
    records["validation_Art_1"].followed          # log-probability of each followed token, shape (tokens,)

Files ``tensors/tokens-<followed>-<part>.safetensors``, where ``followed`` is ``own`` or the key of the run whose answers were
followed. Each holds items end to end: ``tokens`` (P,), ``followed`` (P,), and either ``logprobs`` (P, vocabulary) or, for
a vocabulary above ``WHOLE_VOCABULARY``, ``top_ids`` and ``top_logprobs`` (P, 64) and ``rest``, the probability left over (P,).
Reading needs numpy and safetensors only.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any

from workbench.errors import BundleError
from workbench.run.journal import write_atomically

WHOLE_VOCABULARY = 4096
TOP = 64
OWN = "own"


@dataclass(frozen=True)
class TokenRecord:
    """One item's record; natural logarithms. ``logprobs`` is None when only the ``top`` ones were kept, and the other way round."""

    tokens: Any
    followed: Any
    logprobs: Any | None = None
    top_ids: Any | None = None
    top_logprobs: Any | None = None
    rest: Any | None = None

    @property
    def whole(self) -> bool:
        return self.logprobs is not None

    @property
    def best(self):
        """The most likely token at each position, shape (tokens,)."""
        return self.logprobs.argmax(axis=1) if self.whole else self.top_ids[:, 0]


def record_of(tokens: Sequence[int], logits: Any) -> TokenRecord:
    """The record of one item from its logits, shape (tokens, vocabulary). Raises ValueError when they do not fit together."""
    import numpy

    from workbench.metrics.divergence import log_softmax, top_k

    ids = numpy.asarray(tokens, dtype=numpy.int32)
    if logits.shape[0] != len(ids):
        raise ValueError(f"{len(ids)} tokens but logits at {logits.shape[0]} positions")
    logprobs = log_softmax(logits)
    followed = logprobs[numpy.arange(len(ids)), ids].astype(numpy.float32)
    if logits.shape[1] <= WHOLE_VOCABULARY:
        return TokenRecord(ids, followed, logprobs.astype(numpy.float32))
    top_ids, top_logprobs, rest = top_k(logprobs, TOP)
    kinds = (numpy.int32, numpy.float32, numpy.float32)
    return TokenRecord(
        ids, followed, None, *(part.astype(kind) for part, kind in zip((top_ids, top_logprobs, rest), kinds, strict=True))
    )


def write_tokens(folder: Path, followed: str, records: Mapping[str, TokenRecord]) -> Path:
    """Write one part, replaced in one step; parts are numbered on."""
    import numpy
    from safetensors.numpy import save

    folder.mkdir(exist_ok=True)
    arrays: dict[str, Any] = {}
    for name in ("tokens", "followed", "logprobs", "top_ids", "top_logprobs", "rest"):
        parts = [getattr(record, name) for record in records.values()]
        if parts and parts[0] is not None:
            arrays[name] = numpy.ascontiguousarray(numpy.concatenate(parts))
    items = [[name, len(record.tokens)] for name, record in records.items()]
    path = next_part(folder, f"tokens-{followed}")
    write_atomically(path, save(arrays, {"items": json.dumps(items)}))
    return path


def parts_of(folder: Path | None, prefix: str) -> list[Path]:
    """The numbered parts of one kind of record, in order; [] for a bundle without tensors."""
    return sorted(folder.glob(f"{prefix}-[0-9][0-9][0-9][0-9][0-9].safetensors")) if folder and folder.is_dir() else []


def followed_in(folder: Path | None) -> list[str]:
    """The names of the runs, but for itself, whose answers a run recorded tokens over."""
    names = {path.stem.removeprefix("tokens-").rpartition("-")[0] for path in parts_of(folder, "tokens-*")}
    return sorted(names - {OWN})


def next_part(folder: Path, prefix: str) -> Path:
    """The name of the part that comes after those that are there."""
    parts = parts_of(folder, prefix)
    number = int(parts[-1].stem.rpartition("-")[2]) + 1 if parts else 0
    return folder / f"{prefix}-{number:05d}.safetensors"


def items_of(path: Path) -> list[list[Any]]:
    """What a part's header says of its items: ``[[id, positions], ...]``. Raises BundleError when it cannot be read."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy") as file:
            items = json.loads(file.metadata()["items"])
        if not all(isinstance(name, str) and isinstance(length, int) and length >= 0 for name, length in items):
            raise ValueError("its list of items holds something else")
        return items
    except (SafetensorError, OSError, KeyError, TypeError, ValueError, RecursionError) as error:
        raise BundleError(
            f"{path.name} cannot be read", why=str(error)[:200], fix=f"remove {path.name} and record again"
        ) from error


def recorded_tokens(folder: Path | None, followed: str) -> dict[str, list[int]]:
    """The tokens that each item's record follows, by id. Raises BundleError for a damaged part."""
    found: dict[str, list[int]] = {}
    for path in parts_of(folder, f"tokens-{followed}"):
        found |= {name: tokens.tolist() for name, tokens in tokens_in(path)}
    return found


def tokens_in(path: Path) -> list[tuple[str, Any]]:
    """(item id, the tokens that were followed) of one part. Raises BundleError when its header and arrays do not fit."""
    from safetensors import SafetensorError, safe_open

    items = items_of(path)
    try:
        with safe_open(path, framework="numpy") as file:
            tokens = file.get_tensor("tokens")
    except (SafetensorError, OSError) as error:
        raise BundleError(f"{path.name} cannot be read", why=str(error)[:200], fix="record again") from error
    ends = list(accumulate(length for _, length in items))
    if (ends[-1] if ends else 0) != len(tokens):
        raise BundleError(f"{path.name} is damaged", why="its header and its arrays differ in length", fix="record again")
    return [(name, tokens[end - length : end]) for (name, length), end in zip(items, ends, strict=True)]


def read_tokens(folder: Path | None, followed: str) -> dict[str, TokenRecord]:
    """All records of a bundle that follow ``followed``, by item id; {} when there are none. Raises BundleError for a damaged part."""
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    found: dict[str, TokenRecord] = {}
    for path in parts_of(folder, f"tokens-{followed}"):
        try:
            arrays = load_file(path)
        except (SafetensorError, OSError) as error:
            raise BundleError(f"{path.name} cannot be read", why=str(error)[:200], fix="record again") from error
        items = tokens_in(path)
        if why := misfit({kind: array.shape for kind, array in arrays.items()}):
            raise BundleError(f"{path.name} is damaged", why=why, fix="record again")
        start = 0
        for name, tokens in items:
            end = start + len(tokens)
            found[name] = TokenRecord(**{kind: array[start:end] for kind, array in arrays.items()})
            start = end
    return found


def misfit(shapes: Mapping[str, Sequence[int]]) -> str | None:
    """What the arrays of a part lack to be token records, from their shapes; None when nothing."""
    kinds = {"logprobs": 2} if "logprobs" in shapes else {"top_ids": 2, "top_logprobs": 2, "rest": 1}
    wanted = {"tokens": 1, "followed": 1, **kinds}
    if set(shapes) != set(wanted):
        return f"it holds {', '.join(sorted(shapes)) or 'nothing'}, not {', '.join(wanted)}"
    wrong = [name for name, axes in wanted.items() if len(shapes[name]) != axes or shapes[name][0] != shapes["tokens"][0]]
    return f"{wrong[0]} has the shape {tuple(shapes[wrong[0]])}" if wrong else None
