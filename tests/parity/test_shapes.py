"""Fields of the wrong kind are named, and nothing ends in a traceback."""

from __future__ import annotations

import itertools

import pytest

from tests.parity.bundles import changed, line, lines_of, make_run, rewrite
from workbench.cli.main import main
from workbench.parity.shapes import misfit

WEIGHT = {"dtype": "F32", "shape": [2], "hash": "h", "sampled": False, "rms": 1.0}
WRONG = (None, "text", 7, -1.5, float("nan"), [], {}, [1], {"a": 1}, True)


@pytest.fixture
def runs(tmp_path):
    artifacts = [
        {"bytes": 1, "files": [], "tensors": {"w": {**WEIGHT, "hash": each}}, "settings": {"a.json": {"b": 1}}} for each in "ab"
    ]
    return [
        make_run(tmp_path, f"{name}:a", lines_of(4, 2), artifact=held, model__weights=name)
        for name, held in zip(("torch", "mlx"), artifacts, strict=True)
    ]


@pytest.mark.parametrize(
    ("file", "field", "value", "said"),
    [
        ("manifest.json", "key", [], "key is no mapping"),
        ("manifest.json", "model.text", None, "model.text is missing"),
        ("manifest.json", "n", "many", "n is no whole number"),
        ("manifest.json", "run_key", 7, "run_key is no text"),
        ("manifest.json", "key.options", {"dtype": float("nan")}, "a number that is none"),
        ("environment.json", "", {"cpu": "x"}, "it is no list"),
        ("results.json", "performance.item_seconds", 0.1, "performance.item_seconds is no mapping"),
        ("results.json", "performance.load_seconds", float("inf"), "performance.load_seconds is no finite number"),
        ("artifact.json", "tensors.w.shape", None, "tensors.w.shape is no list"),
        ("artifact.json", "tensors.w.rms", "1", "tensors.w.rms is no finite number"),
        ("artifact.json", "bytes", 10**400, "bytes is too large"),
        ("artifact.json", "bytes", 1.7e308, "bytes is too large"),
        ("events.jsonl", "model", "demo", "0.model is no mapping"),
        ("samples.jsonl", "score.value", "1", "line 1: score.value"),
        ("samples.jsonl", "score.value", float("nan"), "line 1: score.value"),
        ("samples.jsonl", "output", None, "line 1: output"),
        ("samples.jsonl", "groups", [["half"]], "line 1: groups"),
        ("samples.jsonl", "input.seen.tokens", 9, "line 1: input.seen.tokens"),
        ("samples.jsonl", "input.seen.arrays.pixel_values", {}, "line 1: input.seen.arrays"),
    ],
)
def test_the_field_is_named(runs, capsys, file, field, value, said):
    rewrite(runs[1], file, lambda found: changed(found, {field: value}) if field else value)
    assert main(["parity", *(str(run.folder) for run in runs)]) == 2
    error = capsys.readouterr().err
    assert f"{file} of {runs[1].name} is damaged" in error and said in error and "workbench verify" in error


def places(value, path=()):
    """The paths of all values inside a JSON value."""
    yield path
    parts = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for name, each in parts:
        yield from places(each, (*path, name))


def put(value, path, new):
    if not path:
        return new
    made = dict(value) if isinstance(value, dict) else list(value)
    made[path[0]] = put(made[path[0]], path[1:], new)
    return made


@pytest.mark.parametrize(
    "file", ["manifest.json", "environment.json", "results.json", "artifact.json", "events.jsonl", "samples.jsonl"]
)
def test_no_value_anywhere_ends_in_a_traceback(runs, capsys, file):
    path = runs[1].folder / file
    before, found = path.read_bytes(), []
    rewrite(runs[1], file, lambda value: found.append(value) or value)
    wrong = itertools.cycle(WRONG)
    for place in places(found[0]):
        for _ in range(3):
            rewrite(runs[1], file, lambda value, place=place: put(value, place, next(wrong)))
            assert main(["parity", *(str(run.folder) for run in runs), "--json"]) in (0, 1, 2, 4, 5), place
            assert "NaN" not in capsys.readouterr().out
            path.write_bytes(before)


def test_what_fits():
    assert misfit(line("1", 1.0), {"id": str, "score": {"value": float}}) is None
    assert misfit({"n": True}, {"n": int}) == "n is no whole number"
    assert misfit({}, {"n": int}) == "n is missing"
