"""Foreign text and numbers as a reader may safely see them, in HTML, Markdown and spreadsheets.

    visible("a\u202eb")            # 'a⟨U+202E⟩b'
    bounded("x" * 10_485_760, 4)   # 'xxxx… 10,485,760 characters in all; the whole text is in the bundle'

Every string of a bundle is foreign: a model, a data set or another person's machine wrote it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from math import isfinite
from typing import Any

FORMULA = ("=", "+", "-", "@", "＝", "＋", "－", "＠", "\t", "\r", "\n")
CSV_CELL = 32_000
"""Characters kept in a CSV cell; spreadsheets cut longer ones silently at 32,767."""

UNSEEN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u00ad\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb\U000e0000-\U000e007f\ud800-\udfff]"
)
"""Control characters, bidirectional overrides, invisible marks and lone surrogates (they cannot be written as UTF-8)."""

MARKDOWN = re.compile(r"([\\`*_\[\]{}|#~!])")
MENTION = re.compile(r"(?<!\w)@|(@[\w.-]*\.)")
"""An ``@`` that mentions somebody, or that is in an address; those of ``demo:vlm@torch`` are neither. GitHub looks for mentions in the
finished text, where an entity is an ``@`` again, so a space without width is put behind it."""


def visible(text: str) -> str:
    """``text`` with each character that is unseen, or turns others around, written as ``⟨U+202E⟩``; newlines and tabs stay."""
    return UNSEEN.sub(lambda found: f"⟨U+{ord(found[0]):04X}⟩", text.replace("\r\n", "\n"))


def bounded(text: str, limit: int) -> str:
    """The first ``limit`` characters, and how many there are in all; visible characters only."""
    if len(text) <= limit:
        return visible(text)
    return f"{visible(text[:limit])}… {len(text):,} characters in all; the whole text is in the bundle"


def plain(value: Any) -> str:
    """A JSON value as text: strings as they are, ``None`` as nothing, the rest as JSON."""
    if value is None:
        return ""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)


def fact(value: Any, limit: int = 400) -> str:
    """A value of a table or a fact list: 4 significant digits, thousands apart, bounded."""
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return significant(value)
    if value in ({}, [], ()):
        return "none"
    if isinstance(value, Mapping):
        return bounded(", ".join(f"{name} {fact(item)}" for name, item in value.items()), limit)
    if isinstance(value, (list, tuple)):
        return bounded(", ".join(fact(item) for item in value), limit)
    return bounded(str(value), limit)


def significant(value: float) -> str:
    """``12,345``, ``0.1235``, ``1.2e-07``."""
    if not isfinite(value):
        return str(value)
    if abs(value) >= 10_000:
        return f"{value:,.0f}"
    return f"{value:.4g}".replace("-", "−") if value else "0"


def error_text(value: float | None) -> str:
    """``1.1e−6``, ``0.31``, ``0``; a dash where there is none."""
    if value is None:
        return "–"
    if value == 0:
        return "0"
    if 0.01 <= abs(value) < 1000:
        return (f"{value:#.2g}".rstrip(".") if abs(value) < 99.5 else f"{value:.0f}").replace("-", "−")
    mantissa, _, power = f"{value:.1e}".partition("e")
    return f"{mantissa}e{int(power)}".replace("-", "−")


def times_text(value: float | None) -> str:
    """``1.2 ×``, ``43,000 ×``."""
    if value is None:
        return "–"
    return f"{float(f'{value:.2g}'):,.0f} ×" if 10 <= value < 1e7 else f"{error_text(value)} ×"


def share_text(value: float | None) -> str:
    """``100 %`` only where it is all of them."""
    if value is None:
        return "–"
    return "100 %" if value >= 1 else f"{min(99.99, 100 * value):.4g} %"


def fixed_text(value: float | None, digits: int) -> str:
    """``0.999998``; a dash where there is none."""
    return "–" if value is None else f"{value:.{digits}f}".replace("-", "−")


def percent(share: float | None) -> str:
    """A fraction as ``71.50``; a dash where there is none."""
    return "–" if share is None else f"{100 * share:.2f}"


def points(fraction: float, digits: int = 2) -> str:
    """A difference of fractions in points: ``+0.42``, ``−1.20``, ``0.00``."""
    text = f"{100 * fraction:+.{digits}f}".replace("-", "−")
    return text[1:] if float(f"{100 * fraction:.{digits}f}") == 0 else text


def milliseconds(seconds: float | None) -> str:
    """``48.2`` for 0.0482 s; a dash where nothing was measured."""
    if seconds is None:
        return "–"
    value = 1000 * seconds
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def byte_text(number: int | float | None) -> str:
    """``3.4 GB`` (powers of 1000)."""
    if number is None:
        return "–"
    value = float(number)
    for unit in ("B", "kB", "MB", "GB"):
        if value < 1000:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.3g} {unit}"
        value /= 1000
    return f"{value:.3g} TB"


def csv_cell(value: Any) -> Any:
    """A cell that no spreadsheet takes for a formula; numbers stay numbers, texts are bounded at ``CSV_CELL`` characters.

    Text that begins with ``= + - @`` (full width too), a tab or a line's end gets an apostrophe before it (OWASP, CSV injection).
    """
    if value is None:
        return ""
    if isinstance(value, (int, float)):
        return value
    whole = plain(value)
    text = UNSEEN.sub(lambda found: found[0] if found[0] == "\r" else f"⟨U+{ord(found[0]):04X}⟩", whole[:CSV_CELL])
    if len(whole) > CSV_CELL or len(text) > CSV_CELL:
        text = f"{text[:CSV_CELL]}… {len(whole):,} characters in all"
    return f"'{text}" if text.startswith(FORMULA) else text


def markdown(value: Any, limit: int = 300) -> str:
    """Text for a Markdown table or paragraph: one line, no markup, no HTML, no address that a reader's program links."""
    text = bounded(plain(value), limit).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    text = MARKDOWN.sub(r"\\\1", text)
    text = text.replace("://", "&#58;//").replace("www.", "www&#46;")
    text = MENTION.sub(lambda found: "@&#8203;" if found[1] is None else found[1].replace("@", "&#64;"), text)
    return re.sub(r"[\n\t]+", " ", text).strip()
