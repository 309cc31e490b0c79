"""Building engines on the stand-in for TensorRT 10 and 11: profiles, limits, what is refused, progress, stopping."""

import json
import threading
import time

import pytest

from tests.backends import tensorrt_models as models
from tests.backends.tensorrt_stand_in import VERSIONS, stand_in
from tests.backends.tensorrt_stand_in_gpu import StandInGpu
from workbench.backends import tensorrt_api, tensorrt_build
from workbench.backends.onnx_file import read
from workbench.backends.tensorrt_build import Request, build
from workbench.backends.tensorrt_profiles import profiles_of
from workbench.backends.tensorrt_timing_cache import TimingCache
from workbench.errors import ModelError, RuntimeMissing, UsageError


class Bench:
    """One stand-in, its GPU, and what was said."""

    def __init__(self, version):
        self.trt = stand_in(version)
        self.api, self.gpu, self.said = tensorrt_api.looked_over(self.trt), StandInGpu(self.trt), []

    def build(self, path, profile="", timing="off", timeout=60.0, **asked):
        file = read(path)
        request = Request(profiles_of(file, profile), **asked)
        cache = TimingCache.of(str(timing), self.api, self.gpu)
        return build(file, request, self.api, self.gpu, cache, self.said.append, timeout)

    def engine(self, built):
        return self.trt.Runtime(self.api.logger).deserialize_cuda_engine(built.plan)


@pytest.fixture(params=VERSIONS.values())
def bench(request):
    return Bench(request.param)


@pytest.fixture
def new():
    return Bench(VERSIONS[11])


@pytest.fixture
def linear(tmp_path):
    return models.linear(tmp_path / "linear.onnx")


def test_the_conversions_ranges_become_the_profile(bench, linear):
    built = bench.build(linear)
    engine = bench.engine(built)
    assert [tuple(each) for each in engine.get_tensor_profile_shape("x", 0)] == [(1, 4), (2, 4), (8, 4)]
    assert built.report["layers"] == 2 and built.report["plan_bytes"] == len(built.plan) and built.report["timing_cache"] == "off"
    assert built.report["phases"].keys() == {"Building the engine"} and built.report["seconds"] >= 0
    assert bench.said[0].startswith(f"building an engine of linear.onnx for NVIDIA H200 with TensorRT {bench.api.version}")
    assert bench.said[1] == "building the engine: Building the engine"


@pytest.mark.parametrize(
    ("text", "shapes"),
    [
        ("T:2/3/4", [[(2, 4), (3, 4), (4, 4)]]),
        ("x:1x4,1x4,16x4", [[(1, 4), (1, 4), (16, 4)]]),
        ("T:1/1/1|T:2/4/8", [[(1, 4), (1, 4), (1, 4)], [(2, 4), (4, 4), (8, 4)]]),
    ],
)
def test_profiles_that_are_asked_for(bench, linear, text, shapes):
    engine = bench.engine(bench.build(linear, text))
    found = [
        [tuple(each) for each in engine.get_tensor_profile_shape("x", number)] for number in range(engine.num_optimization_profiles)
    ]
    assert found == shapes


@pytest.mark.parametrize(
    ("text", "what", "fix"),
    [
        ("T=3", "profile=T=3 is not understood", "?profile=T:1/64/512"),
        ("T:1/2", "is not understood", "?profile="),
        ("T:8/4/9", "does not go up", "?profile="),
        ("x:1x4,2,3x4", "does not go up", "?profile="),
        ("S:1/2/3", "names 'S', which linear.onnx does not have", "?profile="),
        ("z:1x4,1x4,1x4", "names 'z'", "?profile="),
        ("T:1/2/3,T:1/2/3", "names 'T' twice", "once"),
        ("x:1x5,1x5,1x5", "the profile of 'x' does not fit linear.onnx", "fixed ones as they are"),
        ("x:1x4x1,1x4x1,1x4x1", "does not fit", "one size for each"),
    ],
)
def test_profiles_that_are_wrong(linear, text, what, fix):
    with pytest.raises(UsageError) as caught:
        profiles_of(read(linear), text)
    assert what in caught.value.what and fix in caught.value.fix


def test_a_size_that_nobody_knows_is_asked_for(tmp_path):
    file = read(models.linear(tmp_path / "free.onnx", ranges={}))
    with pytest.raises(UsageError, match="nobody says how large 'T' of input 'x' may become") as caught:
        profiles_of(file, "")
    assert caught.value.fix == "?profile=T:1/64/512"
    assert profiles_of(file, "T:1/64/512")[0].shapes["x"][2] == (512, 4)
    nameless = read(models.linear(tmp_path / "nameless.onnx", ranges={}, dims=(None, 4)))
    with pytest.raises(UsageError, match="a size") as caught:
        profiles_of(nameless, "")
    assert caught.value.fix.startswith("?profile=x:LEAST")


def test_fixed_sizes_need_no_profile(new, tmp_path):
    path = models.linear(tmp_path / "fixed.onnx", dims=(2, 4), ranges={})
    assert profiles_of(read(path), "") == () and new.engine(new.build(path)).num_optimization_profiles == 1
    with pytest.raises(UsageError, match="a profile of 'x' would do nothing"):
        profiles_of(read(path), "x:2x4,2x4,2x4")


def test_an_input_whose_values_decide_shapes(bench, tmp_path):
    path = models.by_values(tmp_path / "values.onnx")
    with pytest.raises(UsageError, match="the values of input 'target' decide shapes") as caught:
        bench.build(path)
    assert caught.value.fix.startswith("?profile=target:")
    assert bench.engine(bench.build(path, "target:1x1,3x4,12x12")).get_tensor_location("target") == bench.trt.TensorLocation.HOST


def test_values_of_an_input_that_decides_nothing(new, tmp_path):
    path = models.saved(
        tmp_path / "plain.onnx",
        [models.helper.make_node("Cast", ["n"], ["y"], to=1, name="cast")],
        [models.value("n", [2], models.TensorProto.INT64)],
        [models.value("y", [2])],
    )
    with pytest.raises(UsageError, match="a profile of 'n' would do nothing"):
        new.build(path, "n:1x1,1x1,1x1")


def test_options_reach_the_engine(bench, linear):
    plain = json.loads(bench.build(linear).plan.split(b"\n")[2])
    assert (plain["tf32"], plain["refit"], plain["pools"], plain["level"], plain["detailed"]) == (False, False, {}, 3, True)
    asked = bench.build(linear, workspace_bytes=2**30, level=1, refit=True, tf32=True, debug=("h",))
    told = json.loads(asked.plan.split(b"\n")[2])
    assert (told["tf32"], told["refit"], told["pools"], told["level"], told["debug"]) == (
        True,
        True,
        {"WORKSPACE": 2**30},
        1,
        ["h"],
    )
    assert bench.engine(asked).refittable and not bench.engine(bench.build(linear)).refittable


def test_a_value_that_is_not_there_cannot_be_marked(new, linear):
    with pytest.raises(ModelError, match="value 'q' of the graph cannot be observed"):
        new.build(linear, debug=("q",))


def test_what_the_parser_refuses(bench, linear):
    bench.trt.deeds.unsupported |= {"MatMul", "Relu"}
    manifest = {
        "stages": {"main": {"package": "linear.onnx", "origins": {"h": {"op": "linear", "module": "proj", "line": "model.py:12"}}}}
    }
    with pytest.raises(ModelError, match=f"TensorRT {bench.api.version} cannot read linear.onnx") as caught:
        bench.build(linear)
    assert "node 0 (MatMul, mm): Unable to find plugin for operator MatMul [computes h]" in caught.value.why
    assert caught.value.fix == f"workbench convert {linear} --to tensorrt --check"
    (linear.parent / "converted.json").write_text(json.dumps(manifest))
    with pytest.raises(ModelError) as caught:
        bench.build(linear)
    assert "[computes h, from linear, proj, model.py:12]; node 1 (Relu, act)" in caught.value.why
    assert caught.value.fix == f"workbench convert {linear.parent} --to tensorrt --check"


@pytest.mark.parametrize("manifest", ["", "[]", '{"stages": 3}', '{"stages": [{"package": "linear.onnx", "origins": {"h": 1}}]}'])
def test_a_manifest_that_says_nothing_is_no_second_error(new, linear, manifest):
    new.trt.deeds.unsupported.add("MatMul")
    (linear.parent / "converted.json").write_text(manifest)
    with pytest.raises(ModelError) as caught:
        new.build(linear)
    assert caught.value.why.endswith("operator MatMul [computes h]")


def test_many_refusals_are_counted(new, tmp_path):
    nodes = [models.helper.make_node("Relu", [f"v{n}"], [f"v{n + 1}"], name=f"n{n}") for n in range(6)]
    path = models.saved(tmp_path / "deep.onnx", nodes, [models.value("v0", [2])], [models.value("v6", [2])])
    new.trt.deeds.unsupported.add("Relu")
    with pytest.raises(ModelError) as caught:
        new.build(path)
    assert "node 2 (Relu, n2)" in caught.value.why and caught.value.why.endswith("; and 3 more")


@pytest.mark.parametrize(
    ("said", "kind", "fix"),
    [
        ("Could not find any implementation for node mm.", ModelError, "--to tensorrt --check"),
        ("Requested size was 8589934592 bytes: out of memory", ModelError, "?workspace=2GiB"),
        ("Cuda Error in function: 700", RuntimeMissing, "nvidia-smi"),
    ],
)
def test_what_the_builder_refuses(bench, linear, said, kind, fix):
    bench.trt.deeds.build_fails = said
    with pytest.raises(kind) as caught:
        bench.build(linear)
    assert caught.value.why == said and fix in caught.value.fix


def test_what_tensorrt_said_is_in_the_report_without_paths(new, linear):
    new.trt.deeds.says = [("WARNING", f"{linear}: weights are INT64"), ("VERBOSE", "x"), ("INFO", "hello")]
    messages = new.build(linear).report["messages"]
    assert messages == [{"severity": "WARNING", "text": "linear.onnx: weights are INT64"}, {"severity": "INFO", "text": "hello"}]


@pytest.mark.parametrize("threads", [False, True])
def test_ctrl_c_stops_the_build(bench, linear, threads, monkeypatch):
    """The signal comes to the main thread, which waits; TensorRT asks its monitor, in a thread of its own or not."""
    deeds, began = bench.trt.deeds, threading.Event()
    deeds.threads, deeds.steps, reached = threads, 1000, []

    def at_step(number):
        reached.append(number)
        began.set()
        time.sleep(0.01)

    class Interrupted(threading.Event):
        def wait(self, timeout=None):
            if timeout is not None and began.wait(5):
                raise KeyboardInterrupt
            return super().wait(timeout)

    deeds.at_step = at_step
    monkeypatch.setattr(
        tensorrt_build._Result, "__init__", lambda self: self.__dict__.update(done=Interrupted(), built=None, error=None)
    )
    with pytest.raises(KeyboardInterrupt):
        bench.build(linear)
    assert 0 < len(reached) < 1000 and "stopping the build" in bench.said[-1]
    for thread in threading.enumerate():
        if thread.name == "tensorrt build":
            thread.join(5)
            assert not thread.is_alive()


def test_a_build_that_takes_too_long_is_stopped(bench, linear):
    bench.trt.deeds.steps, bench.trt.deeds.at_step = 1000, lambda number: time.sleep(0.01)
    with pytest.raises(UsageError, match="was not built in the time given") as caught:
        bench.build(linear, timeout=0.05)
    assert "timeout=SECONDS" in caught.value.fix and "nothing of it was kept" in caught.value.why


def test_progress_is_said_now_and_then(new, linear, monkeypatch):
    monkeypatch.setattr(tensorrt_build, "SAID_SECONDS", 0.0)
    new.build(linear)
    assert new.said[2:] == [f"building the engine: Building the engine, step {number} of 4" for number in (1, 2, 3, 4)]


def test_an_error_of_our_own_is_not_swallowed_by_the_thread(new, linear, monkeypatch):
    monkeypatch.setattr(tensorrt_build, "_limits", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        new.build(linear)
