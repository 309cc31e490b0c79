"""The rows of a zoo's bundle as its page shows them: read, checked, put in order.

    table = Zoo.of(run)
    table.families[0].rows[0].verdict      # 'differs'

A bundle is foreign: fields of another kind are an error with a name (``workbench.parity.shapes``), never a traceback.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from workbench.errors import BundleError, UsageError
from workbench.metrics.drift import LIMIT
from workbench.parity.shapes import NUMBER, Each, Maybe, damaged, misfit
from workbench.report.shapes import ENVIRONMENT
from workbench.run import journal
from workbench.run.bundle import LAYERS_FILE, Run

VERDICTS: dict[str, tuple[str, str]] = {
    "differs": ("≠", "It loads, and its logits are not those of the reference."),
    "scaled": ("∝", "Its logits differ by one factor alone: the same most likely token, other probabilities."),
    "failed": ("!", "It loads, and breaks on an input."),
    "crashed": ("✗", "The process of the row ended by itself."),
    "timeout": ("…", "The row took longer than its limit."),
    "memory": ("▲", "The row took more memory than its limit."),
    "refused": ("⊘", "It does not load the folder, and says so."),
    "agrees": ("✓", f"On every input the RMS error of all logits is within {LIMIT:g} times torch's own in float32."),
    "not run": ("–", "There is nothing here to compare with, or the row was not asked for."),
}
"""Verdicts in the order of the page, the symbol beside each colour, and what each means."""

DIFFERENT = ("differs", "scaled")
BROKEN = ("failed", "crashed", "timeout", "memory", "refused")
LAYOUTS = {"hub": "as published", "v5": "as transformers 5 saves them"}

NUMBERS = dict.fromkeys(("max_relative_error", "own_relative_error", "times_own", "argmax_agreement"), Maybe(NUMBER))
TEXTS = dict.fromkeys(("title", "modality", "kind", "verdict", "first_layer", "reason", "note", "worst_case"), Maybe(str))
ROW = {
    "family": str,
    "layout": str,
    **TEXTS,
    **NUMBERS,
    **dict.fromkeys(("parameters", "scale", "seconds", "peak_memory_bytes"), Maybe(NUMBER)),
    "cases": Maybe([{"case": str, **NUMBERS, **dict.fromkeys(("moved_reference", "moved_port"), Maybe(NUMBER))}]),
    "counterfactual": Maybe(
        {
            "findings": Maybe([dict.fromkeys(("name", "side", "title", "where"), Maybe(str))]),
            "max_relative_error": Maybe(NUMBER),
        }
    ),
}
FIELDS = frozenset(ROW) | {"causal", "causal_reference"}
LAYER = {"id": str, "case": str, "layer": str, "reason": Maybe(str)}
MEASURES = (
    "relative_rms",
    "own_relative_rms",
    "times_own",
    "made_relative_rms",
    "made_times_own",
    "snr_db",
    "cosine",
    "max_over_rms",
)
MEASURES += ("max_abs", "needed_tolerance", "n", "non_finite_reference", "non_finite_candidate")
LAYER |= dict.fromkeys(MEASURES, Maybe(NUMBER))
MANIFEST = {
    "n": Maybe(int),
    **dict.fromkeys(("status", "created", "finished", "workbench", "evidence"), Maybe(str)),
    "key": Maybe({"libraries": Maybe(Each(Maybe(str)))}),
}


def symbol(verdict: str) -> str:
    return VERDICTS.get(verdict, ("?", ""))[0]


def colour(verdict: str) -> str:
    """A class of the style sheet; never a text of the bundle."""
    if verdict == "agrees":
        return "equivalent"
    return "different" if verdict in DIFFERENT else "inconclusive" if verdict in BROKEN else "not-run"


@dataclass(frozen=True)
class Row:
    """One family in one layout. ``found`` is the row as it stands in the bundle."""

    id: str
    found: Mapping[str, Any]
    layers: Mapping[str, Sequence[Mapping[str, Any]]] = field(default_factory=dict)
    """By input, in the order of execution."""

    def __getattr__(self, name: str) -> Any:
        if name not in FIELDS:
            raise AttributeError(name)
        return self.found.get(name)

    @property
    def verdict(self) -> str:
        return self.found.get("verdict") or "not run"

    @property
    def cases(self) -> Sequence[Mapping[str, Any]]:
        return self.found.get("cases") or ()

    @property
    def findings(self) -> Sequence[Mapping[str, Any]]:
        return (self.found.get("counterfactual") or {}).get("findings") or ()

    @property
    def error_after(self) -> float | None:
        """The largest relative error of the logits when the findings' patches are entered."""
        return (self.found.get("counterfactual") or {}).get("max_relative_error")

    @property
    def returns(self) -> bool | None:
        """Do the patches bring it back to torch's own error? None where that cannot be told."""
        own = self.found.get("own_relative_error")
        return None if self.error_after is None or not own else self.error_after <= LIMIT * own

    @property
    def drawn_case(self) -> str | None:
        """The worst input; where it was not recorded, the first."""
        worst = self.found.get("worst_case")
        return worst if worst in self.layers else next(iter(self.layers), None)

    @property
    def drawn(self) -> Sequence[Mapping[str, Any]]:
        return self.layers.get(self.drawn_case or "", ())

    @property
    def compared(self) -> list[Mapping[str, Any]]:
        return [each for each in self.drawn if each.get("relative_rms") is not None]

    @property
    def apart(self) -> dict[str, list[str]]:
        """Layers that were not compared, by the reason."""
        found: dict[str, list[str]] = {}
        for each in self.drawn:
            if each.get("relative_rms") is None:
                found.setdefault(each.get("reason") or "nothing to compare", []).append(each["layer"])
        return found


@dataclass(frozen=True)
class FamilyRows:
    """The rows of one family, that of the published layout first."""

    name: str
    rows: tuple[Row, ...]

    @property
    def first(self) -> Row:
        return self.rows[0]

    @property
    def group(self) -> int:
        """Its place among ``GROUPS``."""
        if self.first.verdict in DIFFERENT:
            return 0
        if any(row.verdict in DIFFERENT for row in self.rows):
            return 1
        if self.first.verdict == "agrees":
            return 3
        return 4 if self.first.verdict == "not run" else 2


GROUPS = (
    ("Different as published", "The port runs, and computes something else than the reference: these rows need somebody to look."),
    (
        "Different only in another layout",
        "The published folder agrees or is refused, while the same model saved otherwise loads and is wrong without a word.",
    ),
    ("Refused or broken as published", "The port does not load the published layout, or breaks on an input."),
    ("In agreement as published", "The same function, at every position of every input."),
    ("Not measured", "Nothing here to compare with, or not asked for."),
)


@dataclass(frozen=True)
class Zoo:
    """All rows of a bundle, families in the order of the page."""

    run: Run
    families: tuple[FamilyRows, ...]

    @classmethod
    def of(cls, run: Run) -> Zoo:
        """Raises UsageError for another kind of run, BundleError naming file and field where the bundle is damaged."""
        if not is_zoo(run):
            raise UsageError(f"{run.name} is no zoo", why="its rows are not of families", fix=f"workbench report {run.name}")
        for file, value, shape in (("manifest.json", run.manifest, MANIFEST), ("environment.json", run.environment, ENVIRONMENT)):
            if why := misfit(value, shape):
                raise damaged(run, file, why)
        layers = layers_of(run)
        by_family: dict[str, list[Row]] = {}
        for number, line in enumerate(run.items().values(), 1):
            found = line.get("row")
            if why := misfit(found, ROW):
                raise damaged(run, "samples.jsonl", f"line {number}: row: {why}")
            by_family.setdefault(found["family"], []).append(Row(line["id"], found, layers.get(line["id"], {})))
        families = [
            FamilyRows(name, tuple(sorted(rows, key=lambda row: layout_rank(row.layout)))) for name, rows in by_family.items()
        ]
        return cls(run, tuple(sorted(families, key=family_rank)))

    @cached_property
    def rows(self) -> list[Row]:
        return [row for family in self.families for row in family.rows]

    @property
    def groups(self) -> Iterator[tuple[str, str, list[FamilyRows]]]:
        """(title, what it means, families), those without families left out."""
        for place, (title, meaning) in enumerate(GROUPS):
            found = [family for family in self.families if family.group == place]
            if found:
                yield title, meaning, found

    @property
    def layouts(self) -> list[str]:
        return sorted({row.layout for row in self.rows}, key=layout_rank)

    def counts(self, layout: str) -> Counter[str]:
        """Rows by verdict."""
        return Counter(row.verdict for row in self.rows if row.layout == layout)

    @property
    def verdicts(self) -> list[str]:
        """Those that occur, in the order of the page; unknown ones last."""
        found = {row.verdict for row in self.rows}
        return [name for name in VERDICTS if name in found] + sorted(found - set(VERDICTS))

    @property
    def asked(self) -> int:
        """How many rows were asked for."""
        n = self.run.manifest.get("n")
        return n if isinstance(n, int) else len(self.rows)


def is_zoo(run: Run) -> bool:
    return run.manifest.get("kind") == "zoo"


def layout_rank(layout: str) -> tuple[int, str]:
    return (list(LAYOUTS).index(layout) if layout in LAYOUTS else len(LAYOUTS), layout)


def family_rank(family: FamilyRows) -> tuple[Any, ...]:
    """By group; of the different ones the largest error first; then by verdict and name."""
    worst = max((row.max_relative_error or 0.0 for row in family.rows if row.verdict in DIFFERENT), default=0.0)
    order = list(VERDICTS)
    verdict = order.index(family.first.verdict) if family.first.verdict in VERDICTS else len(order)
    return family.group, -worst, verdict, family.name


def layers_of(run: Run) -> dict[str, dict[str, list[dict[str, Any]]]]:
    """``{row: {input: [layer, ...]}}``; of a layer that was written twice (an interrupted run) the last line counts."""
    found: dict[str, dict[str, dict[str, dict[str, Any]]]] = {}
    try:
        for number, line in enumerate(journal.read(run.folder / LAYERS_FILE), 1):
            if why := misfit(line, LAYER):
                raise damaged(run, LAYERS_FILE, f"line {number}: {why}")
            found.setdefault(line["id"], {}).setdefault(line["case"], {})[line["layer"]] = line
    except RecursionError as error:
        raise BundleError(f"{LAYERS_FILE} of {run.name} is damaged", why="a line is nested too deeply") from error
    return {name: {case: list(layers.values()) for case, layers in cases.items()} for name, cases in found.items()}
