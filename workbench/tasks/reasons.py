"""Why an answer could or could not be read: one rule for all four benchmarks.

The label never changes the official value. ``refused`` is a plain phrase check on the start of the response, meant to
make a pile of refusals visible; it knows English only and does not claim to be more.
"""

from __future__ import annotations

from workbench.types import Reason, Response

REFUSALS = (
    "i'm sorry",
    "i am sorry",
    "sorry,",
    "i apologize",
    "i cannot",
    "i can't",
    "i can not",
    "i am unable",
    "i'm unable",
    "i am not able",
    "i'm not able",
    "i won't",
    "as an ai",
    "unfortunately, i",
)


def is_refusal(text: str) -> bool:
    """Whether the response starts with one of ``REFUSALS`` (case and typographic apostrophes aside)."""
    return text.strip().lower().replace("\u2019", "'").startswith(REFUSALS)


def reason_for(response: Response, *, read: bool) -> Reason:
    """``empty``, ``parsed`` when an answer was ``read``, else ``truncated``, ``refused`` or ``unparsed``."""
    if not response.text.strip():
        return "empty"
    if read:
        return "parsed"
    if response.finish == "length":
        return "truncated"
    return "refused" if is_refusal(response.text) else "unparsed"
