"""Engines in the cache: built once, found again, refused when they are another's, whole or not there."""

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from tests.backends import tensorrt_models as models
from tests.backends.tensorrt_stand_in import VERSIONS
from tests.backends.test_tensorrt_build import Bench
from workbench.backends import tensorrt_build, tensorrt_engines
from workbench.backends.onnx_file import read
from workbench.backends.tensorrt_build import Request
from workbench.backends.tensorrt_profiles import profiles_of
from workbench.errors import ModelError


class Kept(Bench):
    """A bench whose engines are kept."""

    def ensure(self, path, profile="", **asked):
        file = read(path)
        request = Request(profiles_of(file, profile), **asked)
        return tensorrt_engines.ensure(file, request, self.api, self.gpu, "off", self.said.append)

    @property
    def builds(self):
        return self.trt.log.count("build")


@pytest.fixture(autouse=True)
def cache(monkeypatch, tmp_path):
    monkeypatch.setenv("WORKBENCH_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "tensorrt"


@pytest.fixture(params=VERSIONS.values())
def bench(request):
    return Kept(request.param)


@pytest.fixture
def new():
    return Kept(VERSIONS[11])


@pytest.fixture
def linear(tmp_path):
    return models.linear(tmp_path / "linear.onnx")


def test_built_once_and_found_again(bench, linear, cache):
    first, second = bench.ensure(linear), bench.ensure(linear)
    assert (first.report["reused"], second.report["reused"], bench.builds) == (False, True, 1)
    assert first.folder == second.folder and first.folder.parent == cache and first.folder.name.startswith("linear-")
    assert sorted(each.name for each in cache.iterdir()) == [first.folder.name, f"{first.folder.name}.lock"]
    note = json.loads((first.folder / "engine.json").read_text())
    assert (
        note["key"]["tensorrt"] == bench.api.version and note["key"]["gpu"] == "NVIDIA H200" and note["key"]["capability"] == "9.0"
    )
    assert note["key"]["onnx"] == read(linear).sha256 and (note["driver"], note["cuda"]) == ("580.65.06", "13.0")
    assert note["report"]["plan_bytes"] == (first.folder / "engine.plan").stat().st_size
    assert second.report["seconds"] == first.report["seconds"] and second.report["load_seconds"] > 0
    assert second.report["device_memory_bytes"] == 4096
    assert str(linear.parent) not in (first.folder / "engine.json").read_text()


@pytest.mark.parametrize(
    "asked",
    [{"profile": "T:1/1/4"}, {"workspace_bytes": 2**30}, {"level": 5}, {"refit": True}, {"tf32": True}, {"debug": ("h",)}],
)
def test_what_is_asked_for_is_another_engine(new, linear, asked):
    assert new.ensure(linear).folder != new.ensure(linear, **asked).folder and new.builds == 2


def test_another_graph_other_weights_version_or_gpu_is_another_engine(new, linear, tmp_path):
    folders = {new.ensure(linear).folder}
    (tmp_path / "other").mkdir()
    folders.add(new.ensure(models.linear(tmp_path / "other" / "linear.onnx", scale=2.0)).folder)
    folders.add(Kept("11.4.1.2").ensure(linear).folder)
    moved = Kept(VERSIONS[11])
    moved.trt.deeds.gpu = "NVIDIA L4 8.9"
    moved.gpu = type(moved.gpu)(moved.trt)
    folders.add(moved.ensure(linear).folder)
    assert len(folders) == 4
    same_bytes = shutil.copy(linear, tmp_path / "other" / "linear.onnx")
    assert new.ensure(Path(same_bytes)).report["reused"]  # wherever the graph lies


def test_weights_beside_the_graph_are_part_of_the_key(new, tmp_path):
    import onnx

    path = models.linear(tmp_path / "big.onnx")
    onnx.save(onnx.load(path), path, save_as_external_data=True, location="weights.data", size_threshold=0)
    first = new.ensure(path)
    assert list(first.report["key"]["external"]) == ["weights.data"]
    data = bytearray((tmp_path / "weights.data").read_bytes())
    data[0] ^= 1
    (tmp_path / "weights.data").write_bytes(data)
    assert new.ensure(path).folder != first.folder


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("gpu", "NVIDIA L4", "the GPU differs"),
        ("tensorrt", "10.16.1.11", "TensorRT differs"),
        ("onnx", "0" * 64, "the graph differs"),
        ("capability", "8.9", "the GPU's compute capability differs"),
        ("request", {}, "the profiles and options differs"),
        ("format", 0, "the layout of the cache differs"),
        ("more", 1, "more differs"),
    ],
)
def test_an_engine_that_was_built_elsewhere_is_refused(new, linear, field, value, words):
    entry = new.ensure(linear).folder
    note = json.loads((entry / "engine.json").read_text())
    note["key"][field] = value
    (entry / "engine.json").write_text(json.dumps(note))
    asked = new.trt.log.count("deserialize")
    with pytest.raises(ModelError) as caught:
        new.ensure(linear)
    assert words in caught.value.what and f"{field} is {json.dumps(value)[:80]} there" in caught.value.why
    assert caught.value.fix == f"rm -r {entry}, and it is built anew"
    assert new.trt.log.count("deserialize") == asked  # its code came nowhere near the runtime


def test_a_plan_that_is_not_ones_own_is_refused(new, linear, tmp_path, monkeypatch):
    entry = new.ensure(linear).folder
    with monkeypatch.context() as patch:
        patch.setattr("os.getuid", lambda: 4242)
        if os.lstat(entry / "engine.plan").st_uid != 0:
            with pytest.raises(ModelError, match="another user's file"):
                new.ensure(linear)
    os.replace(entry / "engine.plan", tmp_path / "elsewhere.plan")
    (entry / "engine.plan").symlink_to(tmp_path / "elsewhere.plan")
    with pytest.raises(ModelError, match="is a link, or another user's file"):
        new.ensure(linear)


def damage_plan(entry):
    data = bytearray((entry / "engine.plan").read_bytes())
    data[-1] ^= 1
    (entry / "engine.plan").write_bytes(data)


@pytest.mark.parametrize(
    ("damage", "why"),
    [
        (damage_plan, "engine.plan is not what was written"),
        (lambda entry: (entry / "engine.plan").write_bytes(b""), "engine.plan is not what was written"),
        (lambda entry: (entry / "engine.plan").unlink(), "engine.plan cannot be read"),
        (lambda entry: (entry / "engine.json").write_text('{"key'), "engine.json cannot be read"),
        (lambda entry: (entry / "engine.json").unlink(), "engine.json cannot be read"),
        (lambda entry: (entry / "engine.json").write_text("[]"), "engine.json cannot be read"),
    ],
)
def test_a_damaged_entry_is_set_aside_and_built_again(new, linear, damage, why):
    entry = new.ensure(linear).folder
    damage(entry)
    assert not new.ensure(linear).report["reused"] and new.ensure(linear).report["reused"] and new.builds == 2
    assert any(f"is damaged ({why}" in text and "set aside as" in text for text in new.said)
    assert entry.with_name(f"{entry.name}.damaged").is_dir()
    damage(entry)
    assert not new.ensure(linear).report["reused"]  # one that was set aside before makes room


def test_one_that_tensorrt_no_longer_takes_is_built_again(new, linear):
    new.ensure(linear)
    new.trt.deeds.gpu = "NVIDIA H200 9.0 after another driver"
    assert not new.ensure(linear).report["reused"]
    assert any("TensorRT refuses it: the engine plan file is of another device" in text for text in new.said)


def test_a_cache_that_can_only_be_read_serves_what_it_holds(new, linear, monkeypatch):
    new.ensure(linear)
    monkeypatch.setattr("filelock.FileLock.acquire", lambda *_, **__: 1 / 0)
    assert new.ensure(linear).report["reused"]


def test_no_space_is_said_before_the_build(new, linear, cache, monkeypatch):
    usage = shutil.disk_usage(linear.parent)
    monkeypatch.setattr("shutil.disk_usage", lambda path: usage._replace(free=10))
    with pytest.raises(ModelError, match="no space left in the cache") as caught:
        new.ensure(linear)
    assert "are needed" in caught.value.why and "WORKBENCH_CACHE=/another/disk" in caught.value.fix and new.builds == 0


def test_no_space_while_writing_leaves_nothing(new, linear, cache, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr("os.fsync", lambda handle: (_ for _ in ()).throw(OSError(28, os.strerror(28))))
        with pytest.raises(ModelError, match="no space left in the cache"):
            new.ensure(linear)
    assert [each.name for each in cache.iterdir() if not each.name.endswith(".lock")] == []


def test_a_cache_that_cannot_be_written(new, linear, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("WORKBENCH_CACHE", str(tmp_path / "file"))
    with pytest.raises(ModelError, match="cannot be written") as caught:
        new.ensure(linear)
    assert caught.value.fix == "export WORKBENCH_CACHE=/a/folder/of/yours"


def test_a_build_that_fails_or_is_stopped_leaves_nothing(new, linear, cache, monkeypatch):
    new.trt.deeds.build_fails = "no"
    with pytest.raises(ModelError):
        new.ensure(linear)
    monkeypatch.setattr(tensorrt_build, "build", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        new.ensure(linear)
    assert [each.name for each in cache.iterdir() if not each.name.endswith(".lock")] == []


def test_what_a_killed_process_left_is_removed(new, linear, cache):
    entry = new.ensure(linear).folder
    shutil.rmtree(entry)
    left = cache / f".{entry.name}.draft-abc"
    left.mkdir()
    new.ensure(linear)
    assert not left.exists() and entry.is_dir()


@pytest.mark.parametrize("name", ["model.engine", "model.plan", "model.TRT"])
def test_a_plan_is_no_model(name, tmp_path):
    with pytest.raises(ModelError, match="is a built engine, not a model") as caught:
        tensorrt_engines.refuse_plan(tmp_path / name)
    assert "native code" in caught.value.why and caught.value.fix.startswith("tensorrt:./model.onnx")
    models.linear(tmp_path / "model.onnx")
    with pytest.raises(ModelError) as caught:
        tensorrt_engines.refuse_plan(tmp_path / name)
    assert caught.value.fix.startswith(f"tensorrt:{tmp_path / 'model.onnx'}")
    tensorrt_engines.refuse_plan(tmp_path / "model.onnx")


OTHER = """
import sys, time
from pathlib import Path
from tests.backends.test_tensorrt_engines import Kept
graph, first, second = map(Path, sys.argv[1:])
kept = Kept("11.4.0.106")
kept.trt.deeds.at_step = lambda number: (first.touch(), time.sleep(0.2))
print(kept.ensure(graph).report["reused"])
kept.trt.deeds.threads, kept.trt.deeds.steps = True, 10_000
kept.trt.deeds.at_step = lambda number: (second.touch(), time.sleep(0.02))
try:
    kept.ensure(graph, "T:1/1/1")
except KeyboardInterrupt:
    print("stopped", kept.said[-1])
"""


def comes(path, process):
    until = time.monotonic() + 60
    while not path.exists() and process.poll() is None and time.monotonic() < until:
        time.sleep(0.02)
    assert path.exists()


def test_another_process_builds_it_once_and_is_stopped_by_a_real_ctrl_c(new, linear, tmp_path, cache):
    marks = tmp_path / "first", tmp_path / "second"
    command = [sys.executable, "-c", OTHER, str(linear), *map(str, marks)]
    other = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        comes(marks[0], other)
        found = new.ensure(linear)
        assert found.report["reused"] and new.builds == 0
        assert new.said == ["another process is building the engine of linear.onnx: waiting for it"]
        comes(marks[1], other)
        other.send_signal(signal.SIGINT)
        built, stopped = other.communicate(timeout=30)[0].splitlines()
    finally:
        other.kill()
    assert built == "False" and stopped.startswith("stopped stopping the build of the engine") and other.returncode == 0
    assert [each.name for each in cache.iterdir() if not each.name.endswith(".lock")] == [found.folder.name]


def test_threads_build_it_once(new, linear):
    new.trt.deeds.at_step, found = lambda number: time.sleep(0.02), []
    threads = [threading.Thread(target=lambda: found.append(new.ensure(linear).report["reused"])) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(found) == [False, True, True] and new.builds == 1
