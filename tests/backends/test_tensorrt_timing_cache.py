"""The timing cache of TensorRT's builds: kept, reused, refused, set aside."""

import json
import os

import pytest

from tests.backends import tensorrt_models as models
from tests.backends.tensorrt_stand_in import VERSIONS, stand_in
from tests.backends.test_tensorrt_build import Bench
from workbench.errors import ModelError, UsageError


@pytest.fixture
def new(monkeypatch, tmp_path):
    monkeypatch.setenv("WORKBENCH_CACHE", str(tmp_path / "cache"))
    return Bench(VERSIONS[11])


@pytest.fixture
def linear(tmp_path):
    return models.linear(tmp_path / "linear.onnx")


def test_what_was_measured_is_kept_for_the_next_build(new, linear, tmp_path):
    assert new.build(linear, timing="auto").report["timing_cache"] == "new"
    (path,) = (tmp_path / "cache" / "tensorrt").glob("timing-*.cache")
    assert path.name == "timing-NVIDIA-H200-9.0-11.4.0.106.cache" and json.loads(path.read_text())["tactics"] == {"mm": 1, "act": 1}
    assert new.build(linear, timing="auto").report["timing_cache"] == "reused"
    assert {each.name for each in path.parent.iterdir()} == {path.name, f"{path.name}.json"}


def test_a_file_of_ones_own(new, linear, tmp_path):
    path = tmp_path / "times.cache"
    assert new.build(linear, timing=path).report["timing_cache"] == "new" and path.is_file()
    (tmp_path / "times.cache.json").unlink()  # such as one that trtexec wrote
    assert new.build(linear, timing=path).report["timing_cache"] == "reused"


@pytest.mark.parametrize(
    ("damage", "why"),
    [(b"", "it is empty"), (b"\x00garbage", "its bytes are not those that were written"), ("half", "its bytes are not those")],
)
def test_a_damaged_one_is_set_aside(new, linear, tmp_path, damage, why):
    path = tmp_path / "times.cache"
    new.build(linear, timing=path)
    path.write_bytes(path.read_bytes()[:20] if damage == "half" else damage)
    built = new.build(linear, timing=path)
    assert built.report["timing_cache"] == "set aside" and new.build(linear, timing=path).report["timing_cache"] == "reused"
    assert any(f"times.cache is damaged ({why}" in text and "set aside as times.cache.damaged" in text for text in new.said)
    assert (tmp_path / "times.cache.damaged").is_file()


def test_one_that_only_tensorrt_finds_damaged(new, linear, tmp_path):
    path = tmp_path / "times.cache"
    path.write_bytes(b"\x00\x01 no note lies beside it")
    assert new.build(linear, timing=path).report["timing_cache"] == "set aside"
    assert any("its header is wrong" in text for text in new.said) and path.is_file()


@pytest.mark.parametrize("noted", [True, False])
@pytest.mark.parametrize(
    ("version", "gpu", "field"),
    [
        (VERSIONS[10], "NVIDIA H200 9.0", "tensorrt"),
        (VERSIONS[11], "NVIDIA L4 8.9", "gpu"),
        (VERSIONS[11], "NVIDIA H200 9.1", "capability"),
    ],
)
def test_one_of_another_gpu_or_version_is_refused(new, linear, tmp_path, version, gpu, field, noted):
    path = tmp_path / "times.cache"
    other = Bench(version)
    other.trt.deeds.gpu = gpu
    other.gpu = type(other.gpu)(other.trt)
    other.build(linear, timing=path)
    if not noted:
        (tmp_path / "times.cache.json").unlink()
    before = path.read_bytes()
    with pytest.raises(ModelError, match="times.cache is another GPU's or TensorRT's") as caught:
        new.build(linear, timing=path)
    assert (f"its {field} is" if noted else "of another device") in caught.value.why
    assert caught.value.fix == "?timing_cache=auto" and path.read_bytes() == before


def test_where_nothing_can_be_written(new, linear, tmp_path, monkeypatch):
    with pytest.raises(UsageError, match="cannot be used"):
        new.build(linear, timing=tmp_path / "absent" / "times.cache")
    with pytest.raises(UsageError, match="cannot be used"):
        new.build(linear, timing=tmp_path)
    monkeypatch.setattr("workbench.backends.tensorrt_timing_cache._replace", full)
    new.build(linear, timing="auto")
    assert "could not be written: No space left on device; the engine is not changed" in new.said[-1]


def full(path, data):
    raise OSError(28, os.strerror(28))


def test_a_new_file_is_whole_or_the_old_one(new, linear, tmp_path, monkeypatch):
    path = tmp_path / "times.cache"
    new.build(linear, timing=path)
    before = path.read_bytes()
    monkeypatch.setattr("os.fsync", lambda handle: full(path, b""))
    new.build(linear, timing=path)
    assert path.read_bytes() == before and not list(tmp_path.glob(".times*"))


def test_the_stand_in_refuses_what_tensorrt_refuses():
    trt = stand_in()
    bench = Bench(VERSIONS[10])
    config = trt.Builder(type("L", (trt.ILogger,), {"log": lambda self, severity, msg: None})()).create_builder_config()
    assert config.create_timing_cache(b"{") is None
    foreign = config.create_timing_cache(json.dumps({"gpu": "another", "version": bench.api.version, "tactics": {}}).encode())
    assert not config.set_timing_cache(foreign, False) and config.set_timing_cache(foreign, True)
