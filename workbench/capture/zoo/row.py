"""A row of the zoo: one family in one layout, measured and judged; never by greedy tokens.

    row, layers = make_row(family, "hub", folder)
    row["verdict"], row["max_relative_error"], row["first_layer"]

Verdicts: ``agrees``; ``scaled`` (the logits differ by a factor alone: same argmax, other probabilities); ``differs``; ``refused`` (the
port does not load the folder); ``failed`` (it loads and breaks on an input); ``not run`` (nothing here to compare with).
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from contextlib import ExitStack
from math import isfinite
from pathlib import Path
from typing import Any

from workbench.capture.zoo.family import Family
from workbench.capture.zoo.finding import Finding, findings_of
from workbench.capture.zoo.judge import judged
from workbench.capture.zoo.measure import CaseResult, ReferenceFailed, compare_logits, folders, measure

SEED = 20_260
INPUT_SEED = 1
UNNEEDED = 1.5
"""A finding without which the error grows by no more than this factor is left out of the proof."""


def make_row(family: Family, layout: str, folder: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The row, and one line a case and layer. ``folder`` is for the checkpoint; raises nothing that the port raises."""
    row: dict[str, Any] = {
        "family": family.name,
        "title": family.title,
        "layout": layout,
        "modality": family.modality,
        "kind": family.kind,
        "verdict": "not run",
        "max_relative_error": None,
        "argmax_agreement": None,
        "causal": None,
        "first_layer": None,
        "reason": family.reason,
        "note": family.note,
    }
    if family.config is None or family.cases is None:
        return row, []
    import numpy

    model, path = folders(family, layout, folder, SEED)
    row["parameters"] = sum(each.numel() for each in model.parameters())
    cases = list(family.cases(model.config, numpy.random.default_rng(INPUT_SEED)))
    try:
        ported = family.open_port(path)
    except Exception as error:  # noqa: BLE001  whatever a loader raises is this row's result
        return row | {"verdict": "refused", "reason": f"the port does not load this folder: {brief(error)}"}, []
    exact = copy.deepcopy(model).double()
    results: list[CaseResult] = []
    failures: list[str] = []
    for case in cases:
        try:
            results.append(measure(family, case, model, exact, ported))
        except ReferenceFailed as error:
            failures.append(f"on {case.name!r} {error}"[:300])
        except Exception as error:  # noqa: BLE001
            failures.append(f"on {case.name!r} the port breaks: {brief(error)}")
    row |= judged(results, failures)
    if row["verdict"] in ("differs", "scaled", "failed"):
        row["counterfactual"] = proven(family, layout, cases, model, ported)
    lines = [{"case": each.name, **layer.to_json()} for each in results for layer in each.layers]
    return row, lines


def proven(family: Family, layout: str, cases: Any, model: Any, ported: Any) -> dict[str, Any] | None:
    """The fewest findings that together bring every case back, or as near as all of them do: ``{"findings": [...], "max_relative_error"}``."""
    needed = findings_of(family.name, layout)
    best = error_with(needed, family, cases, model, ported) if needed else None
    for each in list(needed):
        others = [other for other in needed if other is not each]
        error = error_with(others, family, cases, model, ported) if others else None
        if error is not None and (best is None or error <= UNNEEDED * best):
            needed, best = others, error
    if best is None:
        return None
    told = [{"name": each.name, "side": each.side, "title": each.title, "where": each.where} for each in needed]
    return {"findings": told, "max_relative_error": best}


def error_with(group: Sequence[Finding], family: Family, cases: Any, model: Any, ported: Any) -> float | None:
    """The largest relative error of the logits over all cases while the findings' patches are entered; None where one breaks."""
    try:
        with ExitStack() as stack:
            for each in group:
                stack.enter_context(each.patch(ported if each.side == "port" else model))
            error = max(compare_logits(family, case, model, ported) for case in cases)
            return error if isfinite(error) else None
    except Exception:  # noqa: BLE001  a patch for another version of the library may raise anything
        return None


def brief(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}"[:300]
