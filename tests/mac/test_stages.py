"""Every stage of the demo models on every compute unit, beside the reference executor on the same package."""

from __future__ import annotations

import time

import numpy as np
import pytest

from tests.mac.bands import allowed, distance
from tests.mac.conftest import MAC, RECIPES, STAGES
from tests.mac.feeding import arrays_for, filled
from workbench.backends.coreml_reference import READINGS, ReferenceProgram

STEADY = 5


@pytest.fixture(scope="module", params=RECIPES, ids=lambda recipe: "-".join(str(value) for value in recipe.values()))
def recipe(request):
    return request.param


@pytest.fixture(scope="module", params=STAGES, ids="-".join)
def stage(request, artifact, recipe):
    """(the stage, its model)."""
    model = artifact(request.param[0], recipe)
    return model.stage(request.param[1]), model


@pytest.fixture(scope="module")
def references(stage):
    """The stage in every reading of the reference executor."""
    found, _ = stage
    readings = READINGS if MAC else ("native", "float64")
    return {reading: ReferenceProgram(found.path, found.function, reading) for reading in readings}


def opened(device, stage, units):
    found, model = stage
    return device(found.path, found.function, units), model


def answers(program, given):
    """Outputs of one call; of a stateful program with a past."""
    return program(given, filled(program) if program.states else None)


def test_loads_and_predicts_what_the_reference_predicts(device, stage, references, units, record_property):
    """Every stage loads on every compute unit; each output lies within the band of the reference executor's readings."""
    program, model = opened(device, stage, units)
    for seed in (0, 1):
        given = arrays_for(stage[0], model.sizes, seed=seed)
        found = answers(program, given)
        by = {reading: answers(reference, given) for reading, reference in references.items()}
        exact = by.pop("float64")
        assert list(found) == [spec.name for spec in program.outputs]
        for spec in program.outputs:
            assert found[spec.name].dtype == spec.dtype
            far, bound = (
                distance(found[spec.name], exact[spec.name]),
                allowed(spec.name, model.recipe["precision"], units, exact, by.values()),
            )
            record_property(f"{stage[0].name}.{spec.name}", f"{far:.1e} of {bound:.1e} allowed")
            assert far <= bound, f"{units}: {spec.name} is {far:.1e} from the reference, {bound:.1e} is its band"


def test_says_the_same_every_time(device, stage, units):
    """Repeated predictions are equal: exactly on the CPU, to fp16 rounding where work is spread over processors."""
    program, model = opened(device, stage, units)
    given = arrays_for(stage[0], model.sizes)
    first = answers(program, given)
    for _ in range(3):
        again = answers(program, given)
        for name, array in first.items():
            assert distance(again[name], array) <= (0 if units == "CPU_ONLY" else 1e-3)


def test_load_first_and_steady_are_measured_apart(device, stage, units, record_property):
    """Compile, load, first and later predictions have times of their own; the worker's own time is within the caller's."""
    found, model = stage
    program = device(found.path, found.function, units, fresh=True)
    given = arrays_for(found, model.sizes)
    state = filled(program) if program.states else None
    timing = program.describe()["timing"]
    assert timing["load_seconds"] > 0 and timing["first_seconds"] is None
    program(given, state)
    first = program.describe()["timing"]["first_seconds"]
    steady = []
    for _ in range(STEADY):
        began = time.perf_counter()
        program(given, state)
        steady.append(time.perf_counter() - began)
        assert 0 < program.last_seconds <= steady[-1]
    assert program.describe()["timing"]["first_seconds"] == first > 0
    record_property("seconds", f"load {timing['load_seconds']:.4f} first {first:.4f} steady {np.median(steady):.4f}")


def test_the_plan_lists_a_device_for_each_operation(device, stage, units):
    """macOS 14.4: each operation of the stage stands in the compute plan, with the device Core ML prefers."""
    from workbench.errors import ModelError

    program, _ = opened(device, stage, units)
    try:
        rows = program.plan()
    except ModelError as error:
        pytest.skip(str(error.why))
    listed = {name for row in rows for name in row["outputs"]}
    assert set(stage[0].origins) & listed, "the plan speaks of other operations than the manifest"
    if MAC:  # the fake runtime leaves some open, as Core ML may for constants
        open_rows = [row["op"] for row in rows if row["device"] is None and not row["op"].startswith("constexpr")]
        assert not open_rows
        assert {row["device"] for row in rows if row["device"]} <= {"CPU", "GPU", "Neural Engine"}


def test_layers_can_be_observed(device, stage, references, units):
    """Values inside a stage, by the project's layer names: what `workbench capture` and rung 3 see on a Mac."""
    program, model = opened(device, stage, units)
    layers = sorted({value for value in stage[0].layers.values() if value in program.head.values})[:4]
    assert layers
    given = arrays_for(stage[0], model.sizes)
    by = {}
    for reading, reference in references.items():
        by[reading] = reference.observe(given, layers, filled(reference) if reference.states else None)[1]
    exact = by.pop("float64")
    _, seen = program.observe(given, layers, filled(program) if program.states else None)
    for name in layers:
        assert distance(seen[name], exact[name]) <= allowed(name, model.recipe["precision"], units, exact, by.values()), name


@pytest.mark.parametrize("name", ["vlm", "stt"])
def test_steps_follow_each_other(device, artifact, recipe, references_of_step, units, name):
    """Several steps with one state (or cache): after each, what is remembered is what the reference executor remembers."""
    model = artifact(name, recipe)
    stage = model.stage("step")
    program, reference = device(stage.path, stage.function, units), references_of_step(model)
    state, wanted_state = (filled(each) if each.states else None for each in (program, reference))
    given = arrays_for(stage, model.sizes)
    mine = {each: given[each] for each in ("keys", "values") if each in given}
    theirs = dict(mine)
    bound = 1e-3 if model.recipe["precision"] == "fp32" else 5e-2
    for place in range(12, 15):
        given = arrays_for(stage, model.sizes, seed=place, place=place)
        found, wanted = program({**given, **mine}, state), reference({**given, **theirs}, wanted_state)
        assert distance(found["logits"], wanted["logits"]) <= bound
        if state is None:
            mine, theirs = ({each: out[f"new_{each}"] for each in mine} for out in (found, wanted))
            pairs = [(mine[each], theirs[each]) for each in mine]
        else:
            pairs = [(state.read(spec.name), wanted_state.read(spec.name)) for spec in program.states]
        for got, want in pairs:
            assert distance(got, want) <= bound and np.any(want[:, :, place])


@pytest.fixture(scope="module")
def references_of_step():
    made = {}

    def reference(model):
        stage = model.stage("step")
        if model.folder not in made:
            made[model.folder] = ReferenceProgram(stage.path, stage.function)
        return made[model.folder]

    return reference
