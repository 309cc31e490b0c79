"""What the real library says no to, beyond what a graph or an array does: no driver for it, no plugins, no memory, files of somebody else."""

import json
import os

import numpy as np
import onnx.parser
import pytest

from tests.backends import tensorrt_models as models
from tests.backends.tensorrt_engines import ROWS, Maker
from tests.backends.tensorrt_stand_in import VERSIONS
from tests.backends.test_tensorrt_engines import Kept
from workbench.backends import tensorrt_api
from workbench.errors import ModelError, RuntimeMissing

NO_DRIVER = "createInferBuilder: Error Code 6: API Usage Error (CUDA initialization failure with error: 35)"
ROI_ALIGN = """<ir_version: 10, opset_import: ["" : 20]> g (float[1,2,8,8] x, float[3,4] boxes, int64[3] which) => (float[3,2,4,4] y)
{ y = RoiAlign<output_height=4, output_width=4, sampling_ratio=2>(x, boxes, which) }"""


@pytest.fixture(autouse=True)
def cache(monkeypatch, tmp_path):
    monkeypatch.setenv("WORKBENCH_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "tensorrt"


@pytest.fixture
def new():
    return Kept(VERSIONS[11])


@pytest.fixture
def linear(tmp_path):
    return models.linear(tmp_path / "linear.onnx")


def said_of(new, linear):
    with pytest.raises(RuntimeMissing, match="TensorRT 11.4.0.106 cannot use this GPU") as caught:
        new.ensure(linear)
    return caught.value


def test_a_driver_that_tensorrt_does_not_take(new, linear):
    """The bindings raise TypeError then, at a build as at the opening of an engine that is there; the engine stays."""
    new.trt.deeds.no_gpu = NO_DRIVER
    told = said_of(new, linear)
    assert "error: 35" in told.why and "'tensorrt-cu12>=10.3,<11'" in told.fix and told.exit_code == 3
    new.trt.deeds.no_gpu = None
    entry = new.ensure(linear).folder
    new.trt.deeds.no_gpu = NO_DRIVER
    said_of(new, linear)
    assert entry.is_dir() and not entry.with_name(f"{entry.name}.damaged").exists()


def test_what_is_uninstalled_is_all_of_it():
    """The metapackage alone would leave the libraries, and bindings of another release, where they are."""
    for part in ("tensorrt", "tensorrt-cu13-libs", "tensorrt-cu13-bindings", "tensorrt-cu12", "tensorrt-libs"):
        assert f" {part} " in f"{tensorrt_api.UNINSTALL} "
    told = tensorrt_api._libraries(ImportError("libnvinfer.so.11"))
    assert told.fix == f"{tensorrt_api.UNINSTALL} && pip install --no-cache-dir 'parity-workbench[tensorrt]'"
    assert "--force-reinstall" not in told.fix  # it would look for the workbench itself, which may be a checkout


def test_operators_that_are_plugins(new, tmp_path):
    """RoiAlign is listed for every release, and is a plugin that somebody has to register."""
    onnx.save(onnx.parser.parse_model(ROI_ALIGN), tmp_path / "boxes.onnx")
    network = new.trt.Builder(new.api.logger).create_network(new.api.network_flags())
    parser = new.trt.OnnxParser(network, new.api.logger)
    assert not parser.parse_from_file(str(tmp_path / "boxes.onnx"))  # the bindings alone know none
    assert "was not found in the plugin registry" in parser.get_error(0).desc()
    assert new.ensure(tmp_path / "boxes.onnx").report["layers"] == 1


def test_a_full_gpu_costs_no_engine(new, linear):
    """An engine that finds no memory is whole: it is neither set aside nor built again, which would take minutes and end the same way."""
    entry = new.ensure(linear).folder
    new.trt.deeds.no_memory = True
    with pytest.raises(ModelError, match="does not fit into the GPU's memory now") as caught:
        new.ensure(linear)
    assert "out of memory" in caught.value.why and "nvidia-smi" in caught.value.fix and new.builds == 1
    new.trt.deeds.no_memory = False
    assert new.ensure(linear).report["reused"] and new.ensure(linear).folder == entry


def test_graphs_give_way_where_memory_ends(tmp_path, monkeypatch):
    """Each recorded shape holds a context; where the GPU has no room for another the calls go on without graphs."""
    maker = Maker(tmp_path)
    program = maker.program(ROWS, [{"x": [(1, 4), (2, 4), (64, 4)]}], cuda_graph=True)
    for _ in range(3):
        program({"x": np.ones((2, 4), np.float32)})
    monkeypatch.setattr(maker.trt.deeds, "no_memory", True)
    assert program({"x": np.ones((5, 4), np.float32)})["y"].shape == (5, 3)
    told = program.describe()["cuda_graph"]
    assert told["replayed"] == 2 and told["dropped"] == 1 and "memory is not enough" in told["why_not"]


@pytest.mark.parametrize("name", ["engine.plan", "engine.json", ""])
def test_an_entry_that_everybody_may_write_to(new, linear, name):
    """Whoever may write the note may name another plan's hash in it."""
    entry = new.ensure(linear).folder
    asked = new.trt.log.count("deserialize")
    os.chmod(entry / name, 0o777)
    with pytest.raises(ModelError, match="everybody may write") as caught:
        new.ensure(linear)
    assert str(entry) in caught.value.fix and new.trt.log.count("deserialize") == asked


def test_a_note_that_is_a_link(new, linear, tmp_path):
    entry = new.ensure(linear).folder
    os.replace(entry / "engine.json", tmp_path / "elsewhere.json")
    (entry / "engine.json").symlink_to(tmp_path / "elsewhere.json")
    with pytest.raises(ModelError, match="is a link"):
        new.ensure(linear)


def test_a_umask_that_lets_everybody_write(new, linear):
    """What we write ourselves is ours all the same."""
    before = os.umask(0)
    try:
        new.ensure(linear)
    finally:
        os.umask(before)
    assert new.ensure(linear).report["reused"]


def test_timings_of_another_driver_are_measured_again(new, linear, cache):
    """The file in the cache folder is named after GPU and release, so what TensorRT still refuses is not somebody's mistake."""
    new.build(linear, timing="auto")
    (path,) = cache.glob("timing-*.cache")
    new.trt.deeds.gpu = "NVIDIA H200 9.0 after another driver"
    assert new.build(linear, timing="auto").report["timing_cache"] == "set aside"
    assert json.loads(path.read_text())["gpu"].endswith("another driver") and any("of another device" in text for text in new.said)
    assert new.build(linear, timing="auto").report["timing_cache"] == "reused"


def test_timings_that_are_a_link_are_not_read(new, linear, cache, tmp_path):
    new.build(linear, timing="auto")
    (path,) = cache.glob("timing-*.cache")
    os.replace(path, tmp_path / "poisoned")
    path.symlink_to(tmp_path / "poisoned")
    before = (tmp_path / "poisoned").read_bytes()
    assert new.build(linear, timing="auto").report["timing_cache"] == "new"
    assert not path.is_symlink() and (tmp_path / "poisoned").read_bytes() == before
