"""Every family of the zoo, measured here: a row is whole, its verdict follows from its logits, and a cause that is named is proven.

``printed.json`` holds what ``workbench zoo --json`` printed. Where the same versions are installed, a row whose verdict or first layer is
another one now fails, since somebody should look at it; it is then printed anew (``tests.capture.zoo.printing``). No measurement uses it.
"""

from __future__ import annotations

import gc
import json
import os
import sys
from contextlib import ExitStack, contextmanager
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from tests.capture.zoo.printing import COMMAND, PRINTED
from workbench.capture.zoo.catalogue import built_in, load
from workbench.capture.zoo.finding import findings_of
from workbench.fingerprint import versions

# Found, not imported: with MLX imported here, other tests could not open its BLAS route any more.
for library in ("torch", "mlx", "mlx_vlm", "mlx_lm"):
    if find_spec(library) is None:
        pytest.skip(f"needs {library} (pip install 'parity-workbench[torch,mlx]')", allow_module_level=True)

pytestmark = pytest.mark.slow
ENTRIES = {entry.name: entry for entry in built_in()}
FIELDS = frozenset(
    {
        *("family", "title", "layout", "modality", "kind", "verdict", "max_relative_error", "argmax_agreement"),
        *("causal", "first_layer", "reason", "note"),
    }
)
MEASURED = frozenset({"parameters", "cases", "worst_case", "own_relative_error", "times_own", "causal_reference"})
VERDICTS = ("agrees", "scaled", "differs", "refused", "failed", "not run")
APART = ("differs", "scaled")
AGREES = 2e-5
"""Largest relative error of the logits of a port without fault."""
RESTORED = 1e-4
"""The same while a finding's patch is entered."""

WHOLE = "WORKBENCH_WHOLE_ZOO"
LARGE = ("deepseekocr", "phi3_v")
"""Their ports have a large tower's sizes in the code: half a minute and more, so they are measured by ``make bench``."""
REPEATED = (("glm4v", "v5"), ("idefics2", "v5"), ("smolvlm_2b", "v5"))
"""Verdict, first layer and findings are those of the same family in the other layout: by ``make bench`` too."""

ROWS = [
    (entry.name, layout)
    for entry in ENTRIES.values()
    for layout in entry.layouts
    if os.environ.get(WHOLE) or (entry.name, layout) not in REPEATED
]
IN_HUB = [name for name, layout in ROWS if layout == "hub"]

heard: list[list[str]] = []
"""While a row is measured, the paths that this process opens."""


def listen(event, arguments):
    if event == "open" and heard and isinstance(arguments[0], str):
        heard[-1].append(arguments[0])


sys.addaudithook(listen)


@contextmanager
def one_thread():
    """As the zoo's own processes run."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
        gc.collect()


def is_long(name):
    return ENTRIES[name].slow or (name in LARGE and not os.environ.get(WHOLE))


@cache
def measured(name, layout):
    """(row, lines of its layers, files opened meanwhile); the models are gone when it returns."""
    from workbench.capture.zoo.row import make_row

    if is_long(name):
        pytest.skip(f"takes long: workbench zoo --family {name}, or {WHOLE}=1 (make bench)")
    family = next(each for each in load(ENTRIES[name].origin) if each.name == name)
    heard.append([])
    try:
        with TemporaryDirectory() as folder, one_thread():
            row, lines = make_row(family, layout, Path(folder))
        return row, lines, heard[-1]
    finally:
        heard.pop()


@cache
def printed():
    """``{(family, layout): row}``, or None where it was measured with other versions or on another device."""
    from workbench.registry import get_backend

    known = json.loads(PRINTED.read_text(encoding="utf-8"))
    if known["libraries"] != versions(known["libraries"]) or known["device"] != get_backend("mlx").device({})["kind"]:
        return None
    return {(row["family"], row["layout"]): row for row in known["rows"]}


def test_every_file_of_a_family_can_be_used():
    assert not [entry.problem for entry in ENTRIES.values() if entry.problem]
    assert len(IN_HUB) == len(ENTRIES) >= 30


@pytest.mark.parametrize(("name", "layout"), ROWS, ids=[f"{name}-{layout}" for name, layout in ROWS])
def test_a_row_is_whole_and_its_verdict_follows_from_its_logits(name, layout):
    row, lines, _ = measured(name, layout)
    assert set(row) >= FIELDS and (row["family"], row["layout"]) == (name, layout)
    assert row["verdict"] in VERDICTS and (row["reason"] or row["verdict"] == "agrees")
    if row["verdict"] in ("refused", "not run"):
        assert row["max_relative_error"] is None and not lines
        return
    assert set(row) >= MEASURED or not lines
    assert row["cases"] if lines else "no input could be compared" in row["reason"]
    if row["verdict"] == "agrees":
        assert row["max_relative_error"] <= AGREES and row["argmax_agreement"] == 1.0 and row["causal"] is not False
        assert row["first_layer"] is None and "counterfactual" not in row
        return
    assert row["first_layer"] or row["verdict"] == "failed"
    if row["counterfactual"] is None:  # no cause is known: then it must be a row that somebody has seen
        known = (printed() or {}).get((name, layout))
        assert printed() is None or (known and known["verdict"] == row["verdict"]), f"a new divergence: {row['reason']}"
    else:
        assert row["counterfactual"]["findings"] and row["counterfactual"]["max_relative_error"] <= RESTORED


@pytest.mark.parametrize("name", IN_HUB)
def test_where_published_checkpoints_part_the_guilty_layer_is_named_and_the_cause_proven(name):
    row, lines, _ = measured(name, "hub")
    if row["verdict"] not in APART:
        assert row["verdict"] != "agrees" or row["max_relative_error"] <= AGREES
        return
    assert row["max_relative_error"] is None or row["max_relative_error"] > AGREES
    named = [line for line in lines if line["layer"] == row["first_layer"]]
    assert named and row["first_layer"] in row["reason"] or row["verdict"] == "scaled"
    assert all(finding["title"] and finding["where"] for finding in row["counterfactual"]["findings"])
    assert row["counterfactual"]["max_relative_error"] <= RESTORED


def test_at_least_five_families_part_and_are_proven():
    rows = [measured(name, "hub")[0] for name in IN_HUB if not is_long(name)]
    proven = [row["family"] for row in rows if row["verdict"] in APART and row["counterfactual"]["max_relative_error"] <= RESTORED]
    assert len(proven) >= 5


@pytest.mark.parametrize(("name", "layout"), ROWS, ids=[f"{name}-{layout}" for name, layout in ROWS])
def test_a_row_is_as_it_was_printed(name, layout):
    if printed() is None:
        pytest.skip(f"printed.json is of other versions or another device; print it anew: {COMMAND}")
    row, _, _ = measured(name, layout)
    known = printed().get((name, layout))
    assert known is not None, f"a new row; print the file anew: {COMMAND}"
    assert {field: row[field] for field in known} == known, f"look why, then print the file anew: {COMMAND}"


def test_what_was_printed_takes_no_part_in_a_measurement():
    for name, layout in ROWS:
        if not is_long(name):
            files = measured(name, layout)[2]
            assert files or not ENTRIES[name].measurable
            assert not [path for path in files if PRINTED.name in path or Path(path).parent == PRINTED.parent]
    package = Path(load.__code__.co_filename).parents[2]
    code = [path for path in package.rglob("*") if path.suffix in (".py", ".toml", ".json", ".j2", ".js")]
    assert len(code) > 100
    assert not [path.name for path in code if PRINTED.name in path.read_text(encoding="utf-8")]


@pytest.mark.parametrize("name", ["cohere2_vision", "internvl"])
def test_a_finding_is_undone_and_needed(name):
    """One family with a fault on either side, one with two faults in the port."""
    import numpy

    from workbench.capture.zoo import measure
    from workbench.capture.zoo.row import INPUT_SEED, SEED

    family = next(each for each in load(ENTRIES[name].origin) if each.name == name)
    with TemporaryDirectory() as folder, one_thread():
        model, path = measure.folders(family, "hub", Path(folder), SEED)
        ported = family.open_port(path)
        cases = list(family.cases(model.config, numpy.random.default_rng(INPUT_SEED)))

        def error():
            return max(measure.compare_logits(family, case, model, ported) for case in cases)

        def entered(findings):
            with ExitStack() as stack:
                for each in findings:
                    stack.enter_context(each.patch(ported if each.side == "port" else model))
                return error()

        before = error()
        findings = findings_of(name, "hub")
        assert len(findings) >= 2 and before > RESTORED
        for finding in findings:
            assert entered([finding]) != before, f"{finding.name} changes nothing"
            assert error() == before, f"{finding.name} is not undone"
        with pytest.raises(InterruptedError), findings[0].patch(ported if findings[0].side == "port" else model):
            raise InterruptedError
        assert error() == before, "not undone after an exception"
        together = entered(findings)
        assert together <= AGREES and error() == before
        for finding in findings:
            assert entered([each for each in findings if each is not finding]) > 2 * together, f"{finding.name} is not needed"
