"""Bundles of a zoo for the page's tests, written to disk as ``workbench zoo`` writes them: no runtime.

rows, layers = some_rows()
run = make_zoo(tmp_path, rows, layers)
"""

import json

from tests.report.bundles import MACHINES, write_json
from tests.report.test_page import HOSTILE
from workbench.fingerprint import of_file
from workbench.run.bundle import Run, folder_name, run_key

SCORES = {"agrees": 1.0, "not run": None}
LIBRARIES = {"torch": "2.13.0", "transformers": "5.23.0", "mlx": "0.32.4", "mlx-vlm": "0.7.10"}


def make_row(family, layout="hub", verdict="agrees", error=1.2e-6, **more):
    row = {
        "family": family,
        "title": f"{family}: a tower and a decoder",
        "layout": layout,
        "modality": "vision",
        "kind": "logits",
        "verdict": verdict,
        "max_relative_error": error,
        "own_relative_error": 1.0e-6,
        "times_own": None if error is None else error / 1e-6,
        "argmax_agreement": 1.0 if verdict == "agrees" else 0.6154,
        "causal": True,
        "causal_reference": True,
        "first_layer": None,
        "reason": "within 10 times torch's own float32 error at every position",
        "note": "",
        "worst_case": "wide",
        "cases": [
            {
                "case": name,
                "max_relative_error": error,
                "own_relative_error": 1e-6,
                "times_own": 1.1,
                "argmax_agreement": 1.0,
                "moved_reference": 0.0,
                "moved_port": 0.0,
            }
            for name in ("wide", "tall")
        ],
        "seconds": 1.9,
        "peak_memory_bytes": 812_000_000,
    }
    return row | more


def bare(family, layout, verdict, reason):
    return {
        "family": family,
        "title": family,
        "layout": layout,
        "modality": "vision",
        "kind": "logits",
        "verdict": verdict,
        "max_relative_error": None,
        "reason": reason,
    }


def make_layers(row, n=9, guilty=None):
    found = []
    for case in ("wide", "tall"):
        for place in range(n):
            name = f"{'vision' if place < n // 3 else 'text'}.block.{place}.attention"
            error = 3e-2 if guilty is not None and place >= guilty else 2e-7
            made = {"made_relative_rms": 3e-2 if place == guilty else 1e-7, "made_times_own": 300_000.0 if place == guilty else 1.0}
            more = {
                "n": 640,
                "snr_db": 130.0,
                "cosine": 0.999998,
                "max_abs": 1e-6,
                "max_over_rms": 4e-6,
                "needed_tolerance": 2e-6,
                "non_finite_reference": 0,
                "non_finite_candidate": 0,
            }
            found.append(
                {
                    "case": case,
                    "layer": name,
                    "reason": None,
                    "relative_rms": error,
                    "own_relative_rms": 2e-7,
                    "times_own": error / 2e-7,
                    **made,
                    **more,
                }
            )
        found.append(
            {
                "case": case,
                "layer": "projector.only_here",
                "reason": "the port has no such layer",
                "own_relative_rms": 2e-7,
                "times_own": None,
            }
        )
    return [{"id": f"{row['family']}/{row['layout']}", **line} for line in found]


FINDING = {
    "name": "vision-mask",
    "side": "port",
    "title": "the window of the vision tower is ignored",
    "where": "vision.py: Attention.__call__",
}


def some_rows():
    """Rows and their layers: one of each kind of story."""
    rows = [
        make_row("alpha"),
        bare("alpha", "v5", "refused", "the port does not load this folder: ValueError: 55 parameters not in model"),
        make_row(
            "beta",
            verdict="differs",
            error=0.31,
            first_layer="text.block.4.attention",
            reason="logits of 1 of 2 inputs part",
            counterfactual={"findings": [FINDING], "max_relative_error": 1.3e-6},
        ),
        make_row(
            "beta",
            "v5",
            "differs",
            0.4,
            first_layer="text.block.4.attention",
            counterfactual={"findings": [FINDING], "max_relative_error": 0.02},
        ),
        make_row("gamma"),
        make_row("gamma", "v5", "differs", 0.7, first_layer="vision.block.1.attention", reason="logits of 2 of 2 inputs part"),
        make_row("delta", verdict="scaled", error=0.05, scale=0.7071, counterfactual=None, causal=False),
        bare("epsilon", "hub", "crashed", "SIGABRT"),
        bare("zeta", "hub", "timeout", "120 s"),
        bare("eta", "hub", "memory", "4 GiB"),
        {**bare("theta", "hub", "not run", "transformers has no class for it"), "kind": "no reference here", "modality": "text"},
        bare("iota", "hub", "failed", "the port breaks on 1 of 2 inputs") | {"cases": [{"case": "tall: IndexError: out of range"}]},
    ]
    guilty = {"beta": 4, "gamma": 1}
    layers = []
    for row in rows:
        if "worst_case" in row:
            layers += make_layers(row, guilty=guilty.get(row["family"]) if row["verdict"] == "differs" else None)
    return rows, layers


def make_zoo(where, rows, layers=(), *, status="complete", n=None, libraries=None, **manifest):
    libraries = LIBRARIES if libraries is None else libraries
    key = {"task": {"name": "zoo", "version": "1"}, "rows": len(rows), "libraries": libraries}
    folder = where / folder_name("zoo", "all", run_key(key))
    folder.mkdir(parents=True)
    lines = []
    for number, row in enumerate(rows):
        verdict = row.get("verdict") if isinstance(row, dict) else None
        score = {"value": SCORES.get(verdict, 0.0), "answer": verdict, "reason": "parsed", "counts": {}}
        output = {"value": "...", "tokens": None, "finish": "stop"}
        name = f"{row['family']}/{row['layout']}" if isinstance(row, dict) and "layout" in row else str(number)
        lines.append(
            {
                "id": name,
                "group": name,
                "groups": [],
                "input_hash": "0" * 32,
                "input": None,
                "output": output,
                "score": score,
                "timing": None,
                "row": row,
            }
        )
    for file, found in (("samples.jsonl", lines), ("layers.jsonl", layers)):
        (folder / file).write_text("".join(json.dumps(line) + "\n" for line in found))
    (folder / "events.jsonl").write_text("")
    write_json(
        folder / "environment.json", [{**MACHINES["host"], "python": "3.11.9", "device": {"kind": "cpu"}, "libraries": libraries}]
    )
    write_json(folder / "results.json", {"n": len(rows), "verdicts": {}, "headline": {"value": 50.0, "unit": "%", "of": None}})
    made = {
        "schema": 2,
        "kind": "zoo",
        "status": status,
        "workbench": "0.1.0",
        "created": "2026-10-02T09:00:00Z",
        "finished": "2026-10-02T09:05:00Z",
        "run_key": run_key(key),
        "key": key,
        "asked": {},
        "task": {"name": "zoo", "version": "1"},
        "model": {"text": "zoo", "backend": "zoo", "revision": None},
        "evidence": "host",
        "device": {"kind": "cpu"},
        "n": len(rows) if n is None else n,
    }
    made["checksums"] = {file: of_file(folder / file) for file in ("samples.jsonl", "results.json", "layers.jsonl")}
    write_json(folder / "manifest.json", {**made, **manifest})
    return Run(folder)


def hostile_zoo():
    """One row with a hostile text in every field that may hold one."""
    finding = dict.fromkeys(FINDING, HOSTILE)
    texts = dict.fromkeys(
        ("family", "title", "layout", "modality", "kind", "verdict", "first_layer", "reason", "note", "worst_case"), HOSTILE
    )
    case = {"case": HOSTILE, "max_relative_error": 0.1, "times_own": 99.0}
    rows = [
        {
            **texts,
            "max_relative_error": 0.1,
            "causal": HOSTILE,
            "cases": [case],
            "counterfactual": {"findings": [finding], "max_relative_error": 0.1},
        }
    ]
    rows.append(rows[0] | {"verdict": "differs", "layout": "hub"})
    layer = {"id": f"{HOSTILE}/hub", "case": HOSTILE, "relative_rms": 0.1, "own_relative_rms": 1e-7, "made_relative_rms": 0.1}
    layers = [layer | {"layer": HOSTILE, "reason": None}, layer | {"layer": "b", "reason": HOSTILE, "relative_rms": None}]
    return rows, layers
