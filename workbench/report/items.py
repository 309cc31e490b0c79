"""The items of a report: sorted flips first, bounded, and packed so that 100,000 of them open at once.

    view = item_view(comparison, Texts(), thumbnails)
    view.index      # one column a property of all items: what filters need
    view.chunks     # gzip blocks of CHUNK items with texts, each opened by the page when it is looked at

Texts are cut to what a page can hold (``Texts``); the bundle and ``items.csv`` hold more. All strings leave here visible and
bounded, and the page shows them by ``textContent`` only.
"""

from __future__ import annotations

import base64
import gzip
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from workbench.parity.comparison import Comparison
from workbench.parity.sides import Side
from workbench.parity.word_errors import counts_words
from workbench.report.media import Missing, Thumbnails
from workbench.report.sounds import PLAIN_BYTES, Sounds
from workbench.report.text import bounded, plain, visible
from workbench.report.words import Alignments

CHUNK = 500
LONGEST_NAME = 300
CHANGES = ("broke", "fixed", "changed", "reworded", "redacted", "same", "wrong", "right", "unscored")
"""``changed``: another answer, same score. ``reworded``: same answer, other text. ``redacted``: same score, and whether the texts
are the same cannot be told. The last three are of a run without reference."""

Line = Mapping[str, Any]


@dataclass
class Texts:
    """How many characters of a text are kept. Items are added in the order of the page; when ``full_bytes`` of UTF-8 are used up
    the limit falls to ``short``, and after ``short_bytes`` more to ``shortest``, and prompts are left out."""

    full: int = 4_000
    short: int = 300
    shortest: int = 60
    full_bytes: int = 12_000_000
    short_bytes: int = 60_000_000
    used_full: int = 0
    used_short: int = 0
    cut_items: set[tuple[str, str]] = field(default_factory=set)
    without_prompt: set[tuple[str, str]] = field(default_factory=set)
    """(task, id) of items, each once however many candidates show it."""

    def limit(self, important: bool) -> int:
        if important and self.used_full < self.full_bytes:
            return self.full
        return self.short if self.used_short < self.short_bytes else self.shortest

    def spend(self, limit: int, parts: Iterable[Any]) -> None:
        size = sum(len(part.encode("utf-8", "surrogatepass")) for part in parts if isinstance(part, str))
        if limit == self.full:
            self.used_full += size
        else:
            self.used_short += size


@dataclass
class Speech:
    """What a page holds of speech beside texts."""

    sounds: Sounds
    alignments: Alignments

    @classmethod
    def of(cls, sides: Sequence[Side], wanted: bool = True) -> Speech:
        return cls(Sounds([run for side in sides for run in side.all_runs], wanted=wanted), Alignments(sides))


@dataclass
class ItemView:
    """The items of one candidate against the reference, or of one run alone. ``index`` and ``chunks`` are base64 of gzip of JSON."""

    label: str
    sides: tuple[str, ...]
    n: int
    counts: dict[str, int]
    index: str = ""
    chunks: list[str] = field(default_factory=list)
    speech: bool = False


@dataclass(frozen=True)
class Entry:
    """One item of a view: ``candidate`` is None for a run alone."""

    task: str
    change: str
    reference: Line
    candidate: Line | None
    hidden: bool = False
    """``Pair.hidden``: redaction hides whether the texts are the same."""

    @property
    def lines(self) -> tuple[Line, ...]:
        return (self.reference,) if self.candidate is None else (self.reference, self.candidate)


def entries(source: Comparison | Side) -> list[Entry]:
    """Flips first, then other answers, then the rest; the runs' own order within each."""
    if isinstance(source, Side):
        found = [Entry(task, worth(line), line, None) for task, lines in source.lines.items() for line in lines.values()]
        order = {"unscored": 0, "wrong": 1, "right": 2}
    else:
        found = [Entry(pair.task, change_of(pair), pair.reference, pair.candidate, pair.hidden) for pair in source.pairs]
        order = {name: number for number, name in enumerate(CHANGES)}
    return sorted(found, key=lambda entry: (order[entry.change], not failed(entry)))


def change_of(pair: Any) -> str:
    if pair.change != "same":
        return pair.change
    if pair.hidden:
        return "redacted"
    return "changed" if not pair.same_answer else "same" if pair.same_text else "reworded"


def worth(line: Line) -> str:
    value = line["score"]["value"]
    return "unscored" if value is None else "right" if value >= 1 else "wrong"


def failed(entry: Entry) -> bool:
    return any(line["output"]["finish"] == "error" for line in entry.lines)


def item_view(source: Comparison | Side, texts: Texts, thumbnails: Thumbnails, speech: Speech | None = None) -> ItemView:
    """Everything the page needs of one comparison's items, or of one run's. ``speech`` is needed where there are utterances."""
    found = entries(source)
    names = (source.label,) if isinstance(source, Side) else (source.reference.label, source.candidate.label)
    codes = {"task": Codes(), "reason": Codes(), "strata": Codes(), "combination": Codes()}
    columns: dict[str, list[Any]] = {name: [] for name in ("id", "task", "change", "error", "combination")}
    columns |= {f"reason{number}": [] for number in range(len(names))}
    counts: dict[str, int] = {}
    for entry in found:
        columns["id"].append(bounded(entry.reference["id"], LONGEST_NAME))
        columns["task"].append(codes["task"].of(visible(entry.task)))
        columns["change"].append(CHANGES.index(entry.change))
        columns["error"].append(int(failed(entry)))
        groups = tuple(bounded(f"{axis}: {name}", LONGEST_NAME) for axis, name in entry.reference.get("groups") or ())
        columns["combination"].append(codes["combination"].of(tuple(codes["strata"].of(name) for name in groups)))
        for number, line in enumerate(entry.lines):
            columns[f"reason{number}"].append(codes["reason"].of(visible(line["score"]["reason"])))
        counts[entry.change] = counts.get(entry.change, 0) + 1
    index = {**columns, **{f"{name}_names": list(code.names) for name, code in codes.items()}}
    label = source.label if isinstance(source, Side) else source.candidate.label
    view = ItemView(visible(label), tuple(map(visible, names)), len(found), counts, pack(index))
    for start in range(0, len(found), CHUNK):
        view.chunks.append(pack([row(entry, texts, thumbnails, speech, names) for entry in found[start : start + CHUNK]]))
    view.speech = any(counts_words(entry.reference) for entry in found)
    return view


class Codes:
    """Small numbers for repeated values, in order of appearance."""

    def __init__(self):
        self.names: dict[Any, int] = {}

    def of(self, value: Any) -> int:
        return self.names.setdefault(value, len(self.names))


def row(
    entry: Entry, texts: Texts, thumbnails: Thumbnails, speech: Speech | None = None, names: Sequence[str] = ("", "")
) -> list[Any]:
    """``[prompt, other prompt, gold, media, reference, candidate?]``; a side is ``[text, answer, value, finish, more]``, of an
    utterance with its words (``words.Alignments.of``) after that.

    ``text`` 1 means: the same as the reference's, and so with words. ``media`` holds a picture's number, ``{"sound": number}`` or
    ``[why not, hash]``.
    """
    important = entry.change in ("broke", "fixed", "changed", "wrong", "unscored") or failed(entry)
    limit = texts.limit(important)
    asked = [line.get("input") or {} for line in entry.lines]
    prompts = [prompt_of(each) for each in asked]
    prompt = other = None
    if limit == texts.shortest:
        if any(text is not None for text in prompts):
            texts.without_prompt.add((entry.task, entry.reference["id"]))
    else:
        prompt = None if prompts[0] is None else bounded(prompts[0], limit)
        if entry.candidate and prompts[1] not in (None, prompts[0]) and not entry.hidden:
            other = bounded(prompts[1], limit)
    answers = [side_of(line, limit) for line in entry.lines]
    shown = (*(text for text in prompts if limit > texts.shortest), *(line["output"]["value"] for line in entry.lines))
    if any(len(text or "") > limit for text in shown):
        texts.cut_items.add((entry.task, entry.reference["id"]))
    if len(answers) > 1 and answers[0][0] is not None and entry.lines[0]["output"]["value"] == entry.lines[1]["output"]["value"]:
        answers[1][0] = 1
    texts.spend(limit, (prompt, other, *(answer[0] for answer in answers)))
    if speech is not None and counts_words(entry.reference):
        words = [speech.alignments.of(name, entry.task, line, limit) for name, line in zip(names, entry.lines, strict=True)]
        texts.spend(
            limit, (line["score"].get("answer") for line, found in zip(entry.lines, words, strict=True) if found and found[1])
        )
        if len(words) > 1 and words[0] == words[1]:
            words[1] = 1
        answers = [[*answer, found] for answer, found in zip(answers, words, strict=True)]
        pictures = list(sounds_of(entry, asked[0], speech.sounds, important))
    else:
        pictures = list(media_of(entry, asked[0], thumbnails, important))
    gold = bounded(plain(asked[0].get("target")), min(limit, 1_000)) if asked[0] else None
    return [prompt, other, gold, pictures, *answers]


PLAIN_PICTURES = 600
"""Once the page holds this many pictures, items whose answers are the same get none: decoding 100,000 would take an hour."""


def prompt_of(asked: Mapping[str, Any]) -> str | None:
    """What the model was given, rendered, where it was recorded; else the text that was asked."""
    rendered = (asked.get("seen") or {}).get("prompt")
    return rendered if rendered is not None else asked.get("text")


def media_of(entry: Entry, asked: Mapping[str, Any], thumbnails: Thumbnails, important: bool) -> Iterator[Any]:
    """A picture's number in ``thumbnails.kept``, or ``[why there is none, hash]``, for each of the item's media."""
    for sha256 in asked.get("media") or ():
        if important or len(thumbnails.kept) < PLAIN_PICTURES:
            found = thumbnails.find(entry.task, entry.reference["id"], sha256)
        else:
            found = thumbnails.skip(sha256)
        yield [visible(found.reason), visible(found.sha256)] if isinstance(found, Missing) else found


def sounds_of(entry: Entry, asked: Mapping[str, Any], sounds: Sounds, important: bool) -> Iterator[Any]:
    """``{"sound": number}`` in ``sounds.kept``, or ``[why there is none, hash]``."""
    for sha256 in asked.get("media") or ():
        plenty = not important and sounds.bytes >= PLAIN_BYTES
        found = sounds.skip(sha256) if plenty else sounds.find(entry.task, entry.reference["id"], sha256)
        yield [visible(found.reason), visible(found.sha256)] if isinstance(found, Missing) else {"sound": found}


def side_of(line: Line, limit: int) -> list[Any]:
    output, score = line["output"], line["score"]
    more: list[list[str]] = []
    if error := output.get("error"):
        parts = (str(error.get(name)) for name in ("what", "why", "fix") if error.get(name))
        more.append(["error", bounded("; ".join(parts), limit)])
    if extraction := line.get("extraction"):
        text = f"{plain(extraction.get('value'))} (by {plain(extraction.get('model'))})"
        more.append(["extraction", bounded(text, 300)])
    if score.get("explanation"):
        more.append(["explanation", bounded(plain(score["explanation"]), 300)])
    if score.get("random"):
        more.append(["drawn", "no answer could be read; the official protocol drew this one at random"])
    text = None if output["value"] is None else bounded(output["value"], limit)
    answer = None if score.get("answer") is None else bounded(plain(score["answer"]), 300)
    return [text, answer, score["value"], visible(output["finish"]), more]


def pack(value: Any) -> str:
    """``value`` as JSON, gzipped (the same bytes every time), in base64: letters, digits, ``+ / =`` and nothing else."""
    data = json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()
    return base64.b64encode(gzip.compress(data, compresslevel=6, mtime=0)).decode()
