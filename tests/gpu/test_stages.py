"""Every stage of the demo models as an engine, beside the reference reading of the same graph."""

from __future__ import annotations

import numpy as np
import pytest

from tests.gpu.bands import LEAST, allowed, distance
from tests.gpu.conftest import GPU, RECIPES, STAGES
from tests.mac.feeding import arrays_for
from workbench.models.program_stages import HANDED_OVER


@pytest.fixture(scope="module", params=RECIPES)
def precision(request):
    return request.param


@pytest.fixture(scope="module", params=STAGES, ids="-".join)
def stage(request, artifact, precision):
    """(the stage, its model)."""
    model = artifact(request.param[0], precision)
    return model.stage(request.param[1]), model


@pytest.fixture(scope="module")
def engine(runtime, stage):
    return runtime.open(stage[0].path)


def beside(reading, artifact, stage, precision, read):
    """``read(program)`` by the pure reading of the graph and by the one that its band comes from."""
    found, model = stage
    pure = read(reading(found.path))
    if precision == "fp32":
        return pure, read(reading(found.path, "optimised"))
    name = "vlm" if model.family == "vision-language" else "stt"
    return pure, read(reading(artifact(name, "fp32").stage(found.name).path))


def test_computes_what_the_graph_says(engine, stage, reading, artifact, precision, record_property):
    """Each output lies within the band of the reference reading, in the types and shapes declared."""
    found, model = stage
    assert engine.evidence == "device"
    assert [spec.name for spec in engine.inputs] == [feature.name for feature in found.inputs]
    for seed in (0, 1) if GPU else (0,):
        given = arrays_for(found, model.sizes, seed=seed)
        outputs = engine(given)
        pure, other = beside(reading, artifact, stage, precision, lambda program, given=given: program(given))
        assert set(outputs) == set(pure)
        for spec in engine.outputs:
            assert outputs[spec.name].dtype == spec.dtype == pure[spec.name].dtype
            far, bound = distance(outputs[spec.name], pure[spec.name]), allowed(precision, spec.name, pure, other)
            record_property(f"{found.name}.{spec.name}", f"{far:.1e} of {bound:.1e} allowed")
            assert far <= bound, f"{spec.name} is {far:.1e} from the reference, {bound:.1e} is its band"


def test_a_second_opening_builds_nothing(runtime, engine, stage):
    """The engine is found in the cache, says so, and answers bit by bit as the first."""
    before = runtime.builds()
    again = runtime.open(stage[0].path)
    assert runtime.builds() == before and again.describe()["engine"]["reused"]
    given = arrays_for(stage[0], stage[1].sizes)
    first, second = engine(given), again(given)
    for name, array in first.items():
        assert distance(second[name], array) <= (LEAST if GPU else 0)


def test_graphs_give_the_same(runtime, engine, stage, record_property):
    """CUDA graphs: three calls per input, recorded and replayed, equal bit by bit wherever eager calls are equal to each other."""
    recorded = runtime.open(stage[0].path, cuda_graph="true")
    for seed in range(3):
        given = arrays_for(stage[0], stage[1].sizes, seed=seed)
        one, two, found = engine(given), engine(given), recorded(given)
        for name, array in one.items():
            spread = distance(two[name], array)
            assert (
                (found[name].tobytes() == array.tobytes())
                if spread == 0
                else distance(found[name], array) <= max(4 * spread, LEAST)
            )
    told = recorded.describe()["cuda_graph"]
    record_property("cuda_graph", str(told))
    assert told["why_not"] is None and told["captured"] == 1 and told["replayed"] == 2


def test_device_and_host_are_timed_apart(engine, stage, record_property):
    """Load, first and steady calls; the device's time between two events lies within the host's."""
    given = arrays_for(stage[0], stage[1].sizes)
    for _ in range(5):
        engine(given)
    timing = engine.describe()["timing"]
    record_property("seconds", {lap: timing[lap]["steady_seconds"] for lap in ("device", "enqueue", "host")})
    assert timing["load_seconds"] > 0 and timing["first_seconds"] > 0
    assert 0 < timing["device"]["steady_seconds"] < timing["host"]["steady_seconds"]


def test_layers_can_be_observed(engine, stage, reading, artifact, precision):
    """Values inside a stage, by the project's layer names, come through debug tensors: what `workbench capture` sees."""
    found, model = stage
    given = arrays_for(found, model.sizes)
    layers = sorted(set(found.layers.values()))[:2]
    assert layers
    pure, other = beside(reading, artifact, stage, precision, lambda program: program.observe(given, layers)[1])
    _, seen = engine.observe(given, layers)
    for name in layers:
        assert distance(seen[name], pure[name]) <= allowed(precision, name, pure, other), name


def test_the_inspector_lists_layers(engine, stage):
    """The engine tells what it was made of: a name and a kind for each layer."""
    layers = engine.inspect()["Layers"]
    assert layers and all(isinstance(layer, dict) and layer.get("Name") for layer in layers)


@pytest.mark.parametrize("name", ["stt", "vlm"])
def test_steps_hand_over_their_cache_by_pointer(runtime, artifact, reading, precision, name):
    """Steps give what the reference gives; each reads the cache where the one before wrote it, and no copy of it is counted."""
    model = artifact(name, precision)
    stage = model.stage("step")
    program, reference = runtime.open(stage.path), reading(stage.path)
    program.keep_on_device([spec.name for spec in program.outputs if spec.name in HANDED_OVER])
    given = arrays_for(stage, model.sizes)
    mine = {each: given[each] for each in ("keys", "values")}
    theirs, bound = dict(mine), 1e-3 if precision == "fp32" else 5e-2
    for place in range(12, 12 + (6 if GPU else 3)):
        given = arrays_for(stage, model.sizes, seed=place, place=place)
        found, wanted = program({**given, **mine}), reference({**given, **theirs})
        if place > 12:
            assert {each: program.addresses[each] for each in mine} == {each: mine[each].pointer for each in mine}
        mine, theirs = ({each: out[f"new_{each}"] for each in theirs} for out in (found, wanted))
        assert distance(found["logits"], wanted["logits"]) <= bound
    copies = program.describe()["copies"]
    assert copies["to_device"]["keys"] == copies["to_device"]["values"] == 1, "the past of the first step, which came from the host"
    assert not set(copies["to_host"]) & {"new_keys", "new_values"} and copies["on_device"] == {}
    for each, array in mine.items():
        assert distance(array.numpy(), theirs[each]) <= bound


def test_an_encoding_goes_to_the_step_by_pointer(runtime, artifact, precision):
    """What the encoder wrote is what the step reads: another program, the same address."""
    model = artifact("stt", precision)
    encoder, step = (runtime.open(model.stage(name).path) for name in ("encoder", "step"))
    encoder.keep_on_device(["cross_keys", "cross_values"])
    heard = encoder(arrays_for(model.stage("encoder"), model.sizes))
    given = arrays_for(model.stage("step"), model.sizes) | {name: heard[name] for name in ("cross_keys", "cross_values")}
    found = step(given)
    for name in ("cross_keys", "cross_values"):
        assert step.addresses[name] == heard[name].pointer
        assert name not in step.copies.to_device and name not in step.copies.on_device
    by_copy = step({**given, **{name: heard[name].numpy() for name in ("cross_keys", "cross_values")}})
    np.testing.assert_array_equal(found["logits"], by_copy["logits"])


def test_beams_of_a_recogniser_copy_no_cache(runtime, artifact, precision):
    """The recogniser's own loop, two beams from one prompt that part and join again: the reference's logits, and no cache crosses the host."""
    from workbench.models.program_stages import open_stages
    from workbench.models.stt_stages import StagesWhisper

    model = artifact("stt", precision)
    mel = np.random.default_rng(0).standard_normal((1, model.sizes["mels"], model.sizes["frames"])).astype(np.float32)

    def beams(executor):
        stages = open_stages(model, runtime.backend, {"executor": executor}, "speech-to-text")
        whisper = StagesWhisper(stages)
        heard = whisper.encode(mel)
        logits, rows = whisper.start(heard, np.array([[10, 20], [10, 20]]))
        found = [logits]
        for tokens, kept in (([[11], [12]], [0, 1]), ([[13], [14]], [1, 1]), ([[15], [16]], [1, 0])):
            logits, rows = whisper.step(np.array(tokens), rows)
            found.append(logits)
            rows = whisper.reorder(rows, kept)
        told = {name: program.describe().get("copies") for name, program in stages.items()}
        assert (stages.seconds() == {}) == (executor == "reference")
        stages.close()
        return found, told

    found, told = beams("engine")
    wanted, _ = beams("reference")
    for got, want in zip(found, wanted, strict=True):
        assert distance(got, want) <= (1e-3 if precision == "fp32" else 5e-2)
    assert set(told["step"]["to_host"]) & set(HANDED_OVER) == set() == set(told["encoder"]["to_host"]) & set(HANDED_OVER)
    assert set(told["step"]["to_device"]) == {"tokens", "positions", "mask"} and told["step"]["on_device"] == {}
