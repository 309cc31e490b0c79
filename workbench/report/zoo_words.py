"""What the zoo's page says in words: the sentences at its top, its findings, its numbers, how it was measured and on what.

sentences(zoo)[0]     # "31 of 38 families agree with transformers 5.23.0 within 10 times torch's own float32 error, as published; 5 differ."
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from workbench.metrics.drift import LIMIT
from workbench.report.environment import shown
from workbench.report.text import byte_text, fact, times_text
from workbench.report.timings import gpu_text
from workbench.report.zoo_rows import DIFFERENT, LAYOUTS, Row, Zoo

SAID = {
    "differs": ("differs", "differ"),
    "scaled": ("differs by a factor alone", "differ by a factor alone"),
    "failed": ("breaks on an input", "break on an input"),
    "crashed": ("crashes", "crash"),
    "timeout": ("ran out of time", "ran out of time"),
    "memory": ("ran out of memory", "ran out of memory"),
    "refused": ("does not load", "do not load"),
}
METHOD = f"""\
For every family a tiny checkpoint is made with transformers (a hidden size of 64, two text layers, two or three vision layers), with random
weights that are drawn larger than usual, so that no layer is nearly the identity. It is written in the layout of published checkpoints and,
as a second row, as transformers 5 saves it. The port loads the folder, both sides are given identical arrays, and the logits are compared
at every position, never greedy tokens alone. The yardstick is torch itself: the reference runs in float32 and in float64, and a layer departs
when its error exceeds {LIMIT:g} times what torch's own float32 is away there. To find the guilty layer each layer of the port is also given the
reference's own activations, so that it shows only the error that it makes itself. A cause is proven by a counterfactual: one operation is
replaced, and the row is measured again. Causal: when only the last token changes, no earlier logit moves."""
LIMITS = (
    "The weights are random: a row says that the code computes the same function, and nothing about a published model's answers.",
    "float32 on both sides: nothing is said of half precision or of quantised weights.",
    "One prompt at a time, and short: no batch, no position beyond the trained length.",
    "Video, sound, and sliding windows that overflow are covered only where the names of a row's inputs say so.",
    "Identical arrays go in: the libraries' processors, chat templates and image resizing are not compared.",
    "One pass over the prompt: token-by-token generation, sampling and the reuse of a cache are not run.",
    "Every size is tiny: code that is taken for large shapes only is not reached.",
)
KINDS = {
    "logits": "the whole model, compared at every logit",
    "text only": "the language model alone, without images",
    "features only": "the encoder's features; there is no head to compare",
    "composite reference": "transformers has no class for it: the reference is put together from its parts",
    "no reference here": "nothing to compare with could be made",
}


def libraries_of(zoo: Zoo) -> Mapping[str, Any]:
    return (zoo.run.manifest.get("key") or {}).get("libraries") or {}


def named(zoo: Zoo, names: Sequence[str], otherwise: str) -> str:
    """The first of ``names`` that is recorded, with its version."""
    libraries = libraries_of(zoo)
    return next((f"{name} {libraries[name]}" for name in names if libraries.get(name)), otherwise)


def title_of(zoo: Zoo) -> str:
    text, other = any(row.modality == "text" for row in zoo.rows), any(row.modality != "text" for row in zoo.rows)
    ports = [named(zoo, (name,), name) for name, wanted in (("mlx-vlm", other), ("mlx-lm", text)) if wanted]
    return f"{' and '.join(ports) or 'Ports'} against {named(zoo, ('transformers',), 'transformers')}"


def sentences(zoo: Zoo) -> list[str]:
    """One a layout, the first saying what agreeing means; then how many rows are not of whole models."""
    found = []
    for layout in zoo.layouts:
        counts = zoo.counts(layout)
        judged = sum(counts.values()) - counts["not run"]
        where = LAYOUTS.get(layout, f"in the layout {layout}")
        if not judged:
            found.append(f"No family was measured {where}.")
            continue
        families = "family" if judged == 1 else "families"
        agree = "agrees" if counts["agrees"] == 1 else "agree"
        if found:
            said = f"The same checkpoints {where}: {counts['agrees']} of {judged} {agree}"
        else:
            against = named(zoo, ("transformers",), "transformers")
            said = f"{counts['agrees']} of {judged} {families} {agree} with {against} within {LIMIT:g} times torch's own float32 error, {where}"
        others = [
            f"{n} {said_of(name, n, first=not found)}"
            for name in zoo.verdicts
            if name not in ("agrees", "not run") and (n := counts[name])
        ]
        if counts["not run"]:
            others.append(f"{counts['not run']} not measured")
        found.append("; ".join([said, *others]) + ".")
    parts = Counter(row.kind for row in zoo.rows if row.verdict != "not run" and row.kind not in (None, "logits"))
    if parts:
        told = [f"{n} {'row' if n == 1 else 'rows'} {kind}" for kind, n in sorted(parts.items())]
        found.append(f"Not of whole models against one class: {', '.join(told)}.")
    return found or ["The bundle holds no row."]


def said_of(verdict: str, n: int, first: bool) -> str:
    """A verdict as a verb; of a layout that people save without a check, a difference is one that nothing told them of."""
    if verdict == "differs" and not first:
        return "loads and differs" if n == 1 else "load and differ"
    return SAID.get(verdict, (verdict, verdict))[n != 1]


@dataclass(frozen=True)
class Proof:
    """A finding, and the rows that were measured with its patch, alone or with others."""

    finding: Mapping[str, Any]
    rows: list[Row]


def proofs(zoo: Zoo) -> tuple[list[Proof], list[Row]]:
    """(what was proven by a counterfactual, the rows that differ with no proven cause), the largest errors first."""
    found: dict[str, Proof] = {}
    unproven = []
    for row in sorted((row for row in zoo.rows if row.verdict in DIFFERENT), key=lambda row: -(row.max_relative_error or 0.0)):
        for finding in row.findings:
            found.setdefault(str(finding.get("name")), Proof(finding, [])).rows.append(row)
        if not row.findings:
            unproven.append(row)
    return list(found.values()), unproven


def beside(finding: Mapping[str, Any], row: Row) -> list[str]:
    """The names of the other patches that were entered with this one."""
    return [str(each.get("name")) for each in row.findings if each.get("name") != finding.get("name")]


def notes_of(zoo: Zoo) -> list[str]:
    """What a reader must know before the numbers."""
    found = list(zoo.run.checked)
    if zoo.run.manifest.get("status") != "complete":
        found.append(f"This run is not finished: {len(zoo.rows):,} of {zoo.asked:,} rows are here. The same command continues it.")
    mixed = zoo.run.manifest.get("mixed_fields")
    if isinstance(mixed, list) and mixed:
        found.append(f"Sessions of this run differ in {', '.join(map(str, mixed))}.")
    return found


def environment(zoo: Zoo) -> list[tuple[str, Any]]:
    """Versions and machine, by name; no host name is recorded, and none is shown."""
    manifest, sessions = zoo.run.manifest, zoo.run.environment
    latest = sessions[-1] if sessions else {}
    memory = latest.get("memory_bytes")
    device = latest.get("device") or {}
    rows = [(name, version) for name, version in libraries_of(zoo).items()]
    rows += [("workbench", manifest.get("workbench")), ("python", latest.get("python"))]
    rows += [("evidence", manifest.get("evidence")), ("device", device.get("name") or device.get("kind"))]
    rows += [("cpu", latest.get("cpu")), ("cores", latest.get("cores")), ("memory", byte_text(memory) if memory else None)]
    rows += [("gpus", gpu_text(latest) or None)]
    rows += [(name.replace("_", " "), latest.get(name)) for name in ("system", "system_release", "machine")]
    rows += [("rows", f"{len(zoo.rows):,} of {zoo.asked:,}"), ("sessions", len(sessions))]
    rows += [("created", manifest.get("created")), ("finished", manifest.get("finished"))]
    key = manifest.get("run_key")
    return [(name, shown(value)) for name, value in [*rows, ("run key", key)] if value is not None]


def short(text: str, most: int = 24) -> str:
    """A word that stands in a column or a list of choices; those of our own bundles are shorter."""
    return text if len(text) <= most else f"{text[: most - 1]}…"


def causal_text(row: Row) -> str:
    """Of the port and of the reference: ``no / yes``."""
    words = {True: "yes", False: "no"}
    sides = [words.get(each, "–") if isinstance(each, bool) else "–" for each in (row.causal, row.causal_reference)]
    return "–" if sides == ["–", "–"] else " / ".join(sides)


def facts_of(row: Row) -> list[tuple[str, str]]:
    """The small print of a row."""
    found = [("row", row.id), ("kind", row.kind), ("modality", row.modality), ("worst input", row.worst_case)]
    found += [("times torch's own, RMS", times_text(row.times_own) if row.times_own is not None else None)]
    found += [("factor", fact(row.scale) if row.scale is not None else None)]
    found += [("parameters", fact(row.parameters) if row.parameters is not None else None)]
    found += [("seconds", fact(row.seconds) if row.seconds is not None else None)]
    found += [("peak memory", byte_text(row.peak_memory_bytes) if row.peak_memory_bytes is not None else None)]
    return [(name, value) for name, value in found if value]
