"""The word lists that the normalisers are made of, read once from the JSON files beside this one (each names its source and licence).

spelling("whisper")["colour"]      # "color"
"""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).resolve().parent / "data"


@cache
def table(name: str) -> dict[str, Any]:
    return json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8"))["table"]


@cache
def spelling(profile: str) -> dict[str, str]:
    """British to American spelling. The leaderboard's is stored as what differs from Whisper's; None takes a word out."""
    words = dict(table("whisper_spelling"))
    if profile == "oal":
        words |= table("oal_spelling")
    return {word: written for word, written in words.items() if written is not None}


def names() -> dict[str, str]:
    """Spellings of one name that the leaderboard takes for the same."""
    return table("oal_names")
