"""What all runtimes do alike around generation: stop tokens, stop strings, limits, timings, and errors of one item."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from workbench.errors import ItemError
from workbench.models.processors import Prepared
from workbench.models.seen import seen
from workbench.types import Generation, Output, Timing

SAMPLING_DEFAULTS = frozenset(
    {
        "do_sample",
        "temperature",
        "top_k",
        "top_p",
        "min_p",
        "typical_p",
        "repetition_penalty",
        "no_repeat_ngram_size",
        "length_penalty",
        "num_beams",
        "max_length",
        "max_new_tokens",
        "min_length",
        "min_new_tokens",
        "forced_eos_token_id",
        "suppress_tokens",
        "begin_suppress_tokens",
    }
)
"""Entries of generation_config.json that change which token comes next or when it ends; answers are made without them."""


def stop_ids(config: Mapping[str, Any], generation: Mapping[str, Any], tokenizer: Any) -> tuple[int, ...]:
    """The token ids that end an answer: those of generation_config.json, else config.json's, and the tokenizer's own."""
    found: set[int] = set()
    for source in (generation, config, config.get("text_config") or {}):
        value = source.get("eos_token_id")
        if value is not None:
            found.update(value if isinstance(value, (list, tuple)) else [value])
            break
    if getattr(tokenizer, "eos_token_id", None) is not None:
        found.add(tokenizer.eos_token_id)
    return tuple(sorted(int(token) for token in found))


def context_length(config: Mapping[str, Any]) -> int | None:
    """How many tokens the language model has positions for, from config.json; None where it does not say."""
    for name in ("text_config", "llm_config", "language_config"):
        inner = config.get(name)
        if isinstance(inner, Mapping) and inner.get("max_position_embeddings"):
            return int(inner["max_position_embeddings"])
    value = config.get("max_position_embeddings")
    return int(value) if value else None


def check_context(prepared: Prepared, generation: Generation, limit: int | None) -> None:
    """Raises ItemError(reason="context") when prompt and answer do not fit."""
    if limit is not None and prepared.length + generation.max_tokens > limit:
        raise ItemError(
            f"{prepared.length} prompt tokens and {generation.max_tokens} new ones do not fit",
            reason="context",
            why=f"the model has {limit} positions",
            fix=_fewer_tokens(prepared, limit),
        )


def _fewer_tokens(prepared: Prepared, limit: int) -> str | None:
    if prepared.length < limit:
        return f"--max-tokens {limit - prepared.length}"
    return "--max-pixels N (fewer image tokens)" if any(name.startswith("pixel_values") for name in prepared.arrays) else None


def memory_error(error: BaseException | None) -> ItemError:
    """The item's error when the device has no memory left for it."""
    why = str(error).strip().splitlines()[0][:300] if error and str(error).strip() else None
    return ItemError("out of memory", reason="memory", why=why, fix="--batch-size 1, a smaller --dtype, or --max-pixels N")


def is_memory_error(error: BaseException) -> bool:
    """Runtimes report a lack of memory under several types; the texts are torch's CPU allocator's, MLX's and C++'s."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    text = str(error).lower()
    signs = ("out of memory", "can't allocate memory", "not enough memory", "unable to allocate", "bad_alloc", "[malloc")
    return isinstance(error, RuntimeError) and any(sign in text for sign in signs)


def item_error(error: Exception) -> ItemError:
    """Whatever a runtime raised on one item, as that item's error; those that say what, why and what to do keep their words."""
    if isinstance(error, ItemError):
        return error
    if is_memory_error(error):
        return memory_error(error)
    what = getattr(error, "what", None)
    if isinstance(what, str):
        return ItemError(what, reason="model", why=getattr(error, "why", None), fix=getattr(error, "fix", None))
    return ItemError("the model failed on this item", reason="model", why=f"{type(error).__name__}: {error}"[:500])


class StopStrings:
    """Watches one answer's tokens for the strings that end it.

    Only the text of the tokens since a safe point is decoded, so watching costs the same for each token.
    """

    __slots__ = ("decode", "longest", "stops", "tokens")

    def __init__(self, tokenizer: Any, stops: Sequence[str]):
        self.decode, self.stops = tokenizer.decode, tuple(stop for stop in stops if stop)
        # A token holds at least one byte, so a stop string spans at most so many tokens; 8 more for text before it.
        self.longest = max((len(stop.encode()) for stop in self.stops), default=0) + 8
        self.tokens: list[int] = []

    def add(self, token: int) -> bool:
        """Take the next token; True when the answer now holds a stop string."""
        self.tokens.append(token)
        tail = self.decode(self.tokens[-self.longest :], skip_special_tokens=True)
        return any(stop in tail for stop in self.stops)


def cut(text: str, stops: Sequence[str]) -> str:
    """``text`` up to the first stop string."""
    places = [place for stop in stops if stop and (place := text.find(stop)) >= 0]
    return text[: min(places)] if places else text


def output_of(
    tokenizer: Any, tokens: Sequence[int], stopped: bool, generation: Generation, timing: Timing | None, prepared: Prepared
) -> Output:
    """The answer: decoded without special tokens, cut at a stop string, stripped. ``tokens`` keep the stop token.

    Called when ``timing`` is taken: what the model was given is hashed here, outside the measured time. None where times mean nothing.
    """
    text = tokenizer.decode(tokens, skip_special_tokens=True)
    return Output(
        value=(cut(text, generation.stop) if generation.stop else text).strip(),
        tokens=tuple(tokens),
        finish="stop" if stopped else "length",
        timing=timing,
        seen=seen(prepared),
    )
