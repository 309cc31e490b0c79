"""What a word error rate was made with: profile and normaliser. Without them the number means nothing, and two of them are not compared.

profile_of(side)                # "profile whisper, normaliser whisper-english 1"
normaliser_of(run)              # "whisper, normaliser whisper-english 1"; None where the results do not say
"""

from __future__ import annotations

from collections.abc import Mapping

from workbench.parity.sides import Side
from workbench.run.bundle import Run


def normaliser_of(run: Run) -> str | None:
    """The profile with the normaliser's name and version, as the results have them."""
    results = run.results or {}
    profile, normaliser = results.get("profile"), results.get("normaliser")
    if not isinstance(normaliser, Mapping):
        return profile if isinstance(profile, str) else None
    told = " ".join(str(normaliser[name]) for name in ("id", "version") if normaliser.get(name) is not None)
    if not told:
        return profile if isinstance(profile, str) else None
    return f"{profile}, normaliser {told}" if isinstance(profile, str) else f"normaliser {told}"


def profile_of(side: Side) -> str:
    """Of all tasks of a side; of runs that are not finished what their scorer says."""
    found: dict[str, None] = {}
    for runs in side.runs.values():
        for run in runs:
            found[normaliser_of(run) or run.manifest["task"]["scorer"]] = None
    return f"{'profile' if len(found) == 1 else 'profiles'} {' and '.join(found)}"
