"""Which words of an utterance were heard, mistaken, left out or made up, packed for the page to colour.

    Alignments(sides).of("asr-sample", line, limit=4_000)
    # [[9, 1, 0, 0], ["turn the", ["s", "kitchen", "chicken"], "light on"]]: words, S, D, I; hits as text, the rest as [kind, reference, heard]

From the line alone: its reference text normalised as its profile says, and the normalised hypothesis that was scored. Where that does not
give the counts that the line holds (a normaliser of another version, say) nothing is coloured rather than something else.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from workbench.metrics.alignment import align
from workbench.parity.families import SPEECH
from workbench.parity.sides import Side
from workbench.parity.word_errors import KINDS, counts_words, errors_of
from workbench.report.text import visible
from workbench.run.redact import is_redacted

MOST_ALIGNED = 20_000
"""Utterances with errors that a page colours: flips first, then in the page's order; 100,000 would take too long to make."""

LONGEST = 4
"""Times the page's limit for a text: longer texts are cut there, and half an alignment is none."""

CODES = {"substitution": "s", "deletion": "d", "insertion": "i", "compound": "c"}
LANGUAGES = ("en", "de", "zh")
"""One for each normaliser that a profile may choose: English, words, letters."""

Normalise = Callable[[str], str]
Named = tuple[str, str, str]
"""Profile, normaliser's id and its version."""


class Alignments:
    """``aligned`` counts the utterances that were; ``not_aligned`` those with errors that were not."""

    def __init__(self, sides: Sequence[Side], most: int = MOST_ALIGNED):
        self.most = most
        self.aligned: set[tuple[str, str, str]] = set()
        self.not_aligned: set[tuple[str, str]] = set()
        self._profiles = {
            (side.label, task): named(run.results or {})
            for side in sides
            if side.family == SPEECH
            for task, runs in side.runs.items()
            for run in runs
        }
        self._normalisers: dict[Named, tuple[Normalise, bool] | None] = {}

    def of(self, label: str, task: str, line: Mapping[str, Any], limit: int) -> list[Any] | None:
        """``[counts, words]`` of one side's line; ``words`` is None where they are not aligned. None for what is scored otherwise."""
        if not counts_words(line):
            return None
        counts = line["score"]["counts"]
        told = [int(counts.get(name, 0)) for name in ("words", *KINDS)]
        heard = line["score"].get("answer")
        if not isinstance(heard, str) or is_redacted(heard) or len(heard) > limit:
            return [told, None]
        if not errors_of(counts):
            return [told, [visible(heard)] if heard else []]
        found = self._words(label, task, line, heard, limit)
        if found is None:
            self.not_aligned.add((task, line["id"]))
        return [told, found]

    def _words(self, label: str, task: str, line: Mapping[str, Any], heard: str, limit: int) -> list[Any] | None:
        target = (line.get("input") or {}).get("target")
        if not isinstance(target, str) or is_redacted(target) or len(target) > LONGEST * limit:
            return None
        key = (label, task, line["id"])
        if key not in self.aligned and len(self.aligned) >= self.most:
            return None
        named_here = self._profiles.get((label, task))
        if named_here is None:
            return None
        if named_here not in self._normalisers:
            self._normalisers[named_here] = read_profile(*named_here)
        profile = self._normalisers[named_here]
        if profile is None:
            return None
        self.aligned.add(key)
        normalise, merge = profile
        pairs = align(normalise(target).split(), heard.split(), merge)
        kinds = [kind for kind, _, _ in pairs]
        if [kinds.count(kind.removesuffix("s")) for kind in KINDS] != [line["score"]["counts"].get(kind, 0) for kind in KINDS]:
            return None
        return packed(pairs)


def named(results: Mapping[str, Any]) -> Named:
    normaliser = results.get("normaliser") or {}
    return str(results.get("profile")), str(normaliser.get("id")), str(normaliser.get("version"))


def read_profile(name: str, normaliser: str, version: str) -> tuple[Normalise, bool] | None:
    """(how a text is normalised, are compounds merged) of a profile; None where this version has no such normaliser."""
    from workbench.errors import WorkbenchError
    from workbench.metrics.normalise import profile_named

    try:
        found = profile_named(name)
        for language in LANGUAGES:
            here = found.normaliser(language)
            if (here.id, here.version) == (normaliser, version):
                return partial(found.normalise, language=language), found.merge_compounds
    except WorkbenchError:
        return None  # of another version of the workbench, or for other languages
    return None


def packed(pairs: Sequence[tuple[str, str, str]]) -> list[Any]:
    """Hits that follow each other as one text, everything else as ``[code, reference, heard]``."""
    found: list[Any] = []
    for kind, reference, heard in pairs:
        if kind == "hit" and found and isinstance(found[-1], str):
            found[-1] = f"{found[-1]} {visible(reference)}"
        elif kind == "hit":
            found.append(visible(reference))
        else:
            found.append([CODES[kind], visible(reference), visible(heard)])
    return found


def marked(words: Sequence[Any]) -> str:
    """The same as one line of text, for Markdown and sheets: ``turn the [kitchen→chicken] light [−on] [+please]``."""
    return " ".join(word if isinstance(word, str) else marked_word(*word) for word in words)


def marked_word(code: str, reference: str, heard: str) -> str:
    if code == "d":
        return f"[−{reference}]"
    return f"[+{heard}]" if code == "i" else f"[{reference}{'=' if code == 'c' else '→'}{heard}]"
