"""CUDA graphs of an engine: equal answers, addresses that stay, and what cannot be recorded."""

from __future__ import annotations

import numpy as np
import pytest

from tests.backends.tensorrt_engines import FOUND, ROWS, SHAPED, STEP, Maker
from workbench.backends import tensorrt_graphs
from workbench.errors import ItemError

PROFILE = {"x": [(1, 4), (2, 4), (64, 4)]}


@pytest.fixture(scope="module")
def maker(tmp_path_factory):
    return Maker(tmp_path_factory.mktemp("graphs"))


def rows_of(count, seed=0):
    return np.random.default_rng(seed).standard_normal((count, 4)).astype(np.float32)


def test_replays_equal_eager_calls_bit_by_bit(maker):
    """One eager call per shape, one recording, then replays; every answer is that of the same engine without graphs."""
    plain, recorded = maker.program(ROWS, [PROFILE]), maker.program(ROWS, [PROFILE], cuda_graph=True)
    runs = []
    for number, count in enumerate((3, 3, 5, 3, 5, 5, 3, 3)):
        x = rows_of(count, number)
        before = maker.trt.log.count("run")
        found, wanted = recorded({"x": x}), plain({"x": x})
        runs.append(maker.trt.log.count("run") - before)
        for name, array in wanted.items():
            assert array.tobytes() == found[name].tobytes()
    told = recorded.describe()["cuda_graph"]
    assert told == {"captured": 2, "replayed": 6, "dropped": 0, "eager": 2, "why_not": None}
    assert runs == [2] * 8 and plain.describe()["cuda_graph"] is None
    assert recorded.clock.host.calls == 6, "the two that recorded are not timed with the others"


def test_a_loop_that_keeps_its_cache(maker):
    """Kept outputs get memory of their own, so a replay does not overwrite what somebody holds; copies stay within the device."""
    program = maker.program(STEP, cuda_graph=True)
    program.keep_on_device(["new_keys"])
    keys, held = program.zeros((2, 4)), []
    for number in range(1, 6):
        found = program({"tokens": np.array([[number]]), "keys": keys})
        keys = found["new_keys"]
        held.append((keys, number * (number + 1) / 2))
        assert found["logits"][0, 0] == number * (number + 1)
    for array, value in held:
        np.testing.assert_array_equal(array.numpy(), np.full((2, 4), value, np.float32))
    copies = program.describe()["copies"]
    assert copies["to_device"] == {"tokens": 5} and copies["on_device"] == {"keys": 5, "new_keys": 5}
    assert program.describe()["cuda_graph"]["replayed"] == 4


def test_nothing_moves_under_a_graph(maker):
    """A buffer that lies elsewhere makes the graph invalid: an eager call follows, then another recording."""
    program = maker.program(ROWS, [PROFILE], cuda_graph=True)
    for number in range(3):
        program({"x": rows_of(3, number)})
    (recorded,) = program.graphs.kept.values()
    old, recorded.place.buffers["y"].flat = recorded.place.buffers["y"].flat, None
    for number in range(3):
        found = program({"x": rows_of(3, number)})["y"]
        np.testing.assert_array_equal(found, maker.program(ROWS, [PROFILE])({"x": rows_of(3, number)})["y"])
    told = program.describe()["cuda_graph"]
    assert recorded.place.buffers["y"].flat.data_ptr() != old.data_ptr()
    assert (told["captured"], told["dropped"], told["eager"]) == (2, 1, 2)


def test_what_cannot_be_recorded_runs_as_ever(maker):
    """Shapes that the data decides, and work that CUDA will not record: the answers come eagerly, and the reason is told."""
    program = maker.program(FOUND, [{"x": [(1,), (8,), (1000,)]}], cuda_graph=True)
    for count in (3, 4, 3, 3):
        np.testing.assert_array_equal(program({"x": np.ones(count, np.float32)})["places"], np.arange(count)[None])
    assert "places is known only when it is computed" in program.describe()["cuda_graph"]["why_not"]
    program = maker.program(ROWS, [PROFILE], cuda_graph=True)
    program({"x": rows_of(2)})
    (recorded,) = program.graphs.kept.values()
    recorded.place.context._ran.clear()  # the stand-in then asks for an eager run first, as a real engine that was never run
    for number in range(3):
        assert program({"x": rows_of(2, number)})["y"].shape == (2, 3)
    told = program.describe()["cuda_graph"]
    assert told["captured"] == 0 and "lazy initialisation" in told["why_not"]


def test_values_of_shape_inputs_belong_to_the_graph(maker):
    """The same shapes with other values of such an input are other work."""
    program = maker.program(SHAPED, [{}], values=[{"sizes": [(1, 1), (2, 3), (6, 6)]}], cuda_graph=True)
    x = np.arange(6, dtype=np.float32)
    for sizes in ([2, 3], [3, 2], [2, 3], [3, 2], [3, 2]):
        np.testing.assert_array_equal(program({"x": x, "sizes": np.array(sizes)})["y"], x.reshape(sizes))
    assert program.describe()["cuda_graph"]["captured"] == 2


def test_only_so_many_are_kept(maker, monkeypatch):
    """The least recently used goes; the answers stay right."""
    monkeypatch.setattr(tensorrt_graphs, "MOST", 2)
    program = maker.program(ROWS, [PROFILE], cuda_graph=True)
    for count in (1, 1, 2, 2, 3, 3, 1, 1):
        assert program({"x": rows_of(count)})["y"].shape == (count, 3)
    assert len(program.graphs.kept) == 2 and program.describe()["cuda_graph"]["captured"] == 4


def test_an_engine_that_fails_says_so(maker, monkeypatch):
    """A refused run is an error, not a reason to give up graphs."""
    program = maker.program(ROWS, [PROFILE], cuda_graph=True)
    monkeypatch.setattr(maker.trt.deeds, "run_fails", "broken")
    with pytest.raises(ItemError, match="could not run"):
        program({"x": rows_of(2)})
    monkeypatch.setattr(maker.trt.deeds, "run_fails", None)
    for _ in range(3):
        program({"x": rows_of(2)})
    assert program.describe()["cuda_graph"]["replayed"] >= 1 and program.describe()["cuda_graph"]["why_not"] is None
