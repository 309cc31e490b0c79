"""Teacher forcing that is the model's own: the logits that predicted each token of an answer, given the tokens before it.

One pass over prompt and answer costs as little as reading a prompt, but not every model may be read so. PaliGemma attends in
both directions over whatever it is given at once, so the tokens would be seen by the positions that predict them (0.9 in
the logits of a tiny one); Llama 3.2 Vision's cross-attention mask ends with the prompt. So the first answer of each kind of
request also goes through the runtime's own generation loop, token by token, and one pass is used only where both agree::

    following = Following(["float32"])
    following(kind, tokens, at_once, by_step)     # logits, shape (len(tokens), vocabulary)
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import Any

from workbench.errors import ItemError

TOLERANCES = {"float32": 1e-3, "float16": 2e-2, "bfloat16": 5e-2, "int8-qdq": 5e-2}
"""By dtype, how far two kernels may part, relative to the largest logit (measured for float32: 2e-6). In int8 a value in the middle between
two steps of the scale may go either way."""

PROBE = 0.1
"""Share of the tolerance within which logits must stay when only a later token changes: there the kernels are the same."""


class Following:
    """Chooses, once for each kind of request, between one pass and the generation loop."""

    def __init__(self, dtypes: Iterable[str]):
        self.tolerance = max([TOLERANCES[each] for each in dtypes if each in TOLERANCES] or TOLERANCES.values())
        self.one_pass: dict[Hashable, bool] = {}

    def __call__(
        self,
        kind: Hashable,
        tokens: Sequence[int],
        at_once: Callable[[Sequence[int]], Any],
        by_step: Callable[[Sequence[int]], Any],
    ) -> Any:
        """The logits for ``tokens``, numpy of shape (len(tokens), vocabulary). ``kind``: requests with equal arrays' names."""
        if len(tokens) < 2:
            return at_once(tokens)  # the prompt alone, as generation begins
        if kind not in self.one_pass:
            logits = by_step(tokens)
            self.one_pass[kind] = self.agree(tokens, logits, at_once)
            return logits
        return (at_once if self.one_pass[kind] else by_step)(tokens)

    def agree(self, tokens: Sequence[int], logits: Any, at_once: Callable[[Sequence[int]], Any]) -> bool:
        """Whether one pass gives ``logits``, and none of its positions sees the token that it predicts or a later one."""
        import numpy

        try:
            whole = at_once(tokens)
            # The last token is never read, so the one before it is the latest that could be seen too early.
            other = at_once([*tokens[:-2], (tokens[-2] + 1) % logits.shape[1], tokens[-1]])
        except Exception:  # noqa: BLE001  a model that cannot be given both at once may raise anything
            return False
        allowed = self.tolerance * max(1.0, float(numpy.abs(logits).max()))
        return close(whole, logits, allowed) and close(other[:-1], whole[:-1], PROBE * allowed)


def close(one: Any, other: Any, allowed: float) -> bool:
    import numpy

    return one.shape == other.shape and bool((numpy.abs(one - other) <= allowed).all())


def check_tokens(tokens: Sequence[int], vocabulary: int, prompt: int, limit: int | None) -> None:
    """Raises ItemError for what no model should be fed: ids that it has no weights for (a GPU would end the process, MLX reads
    whatever lies there), or more than its context holds."""
    bad = [each for each in tokens if not isinstance(each, int) or isinstance(each, bool) or not 0 <= each < vocabulary]
    if bad:
        raise ItemError(
            f"the followed answer holds the token {bad[0]!r:.40}",
            reason="model",
            why=f"this model's tokens are 0 to {vocabulary - 1}",
        )
    if limit is not None and prompt + len(tokens) > limit:
        raise ItemError(
            f"{prompt} prompt tokens and {len(tokens)} followed ones do not fit",
            reason="context",
            why=f"the model has positions for {limit}",
        )
