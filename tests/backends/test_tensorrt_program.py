"""A program over an engine: shapes, types, addresses and copies, on the stand-ins for TensorRT and for the GPU."""

from __future__ import annotations

import inspect
import threading

import numpy as np
import pytest
import torch

from tests.backends import tensorrt_cpu
from tests.backends.tensorrt_engines import FOUND, KINDS, ROWS, SHAPED, STEP, Maker
from workbench.backends.tensorrt_arrays import DeviceArray
from workbench.backends.tensorrt_cuda import Cuda, DeviceLost
from workbench.errors import ItemError, ModelError, RuntimeMissing, UsageError

WEIGHT = np.array([[1, -2, 0.5], [0.25, 1, -1], [3, 0, 0.125], [-0.5, 2, 1]], np.float32)
SMALL, LARGE = {"x": [(1, 4), (2, 4), (8, 4)]}, {"x": [(9, 4), (16, 4), (64, 4)]}
TOKEN = np.array([[3]], np.int32)


@pytest.fixture(scope="module", params=["10.0.1", "11.4.0.106"])
def maker(request, tmp_path_factory):
    return Maker(tmp_path_factory.mktemp("engines"), request.param)


@pytest.fixture(scope="module")
def rows(maker):
    return maker.program(ROWS, [SMALL, LARGE])


@pytest.fixture
def step(maker):
    return maker.program(STEP)


def rows_of(count, seed=0):
    return np.random.default_rng(seed).standard_normal((count, 4)).astype(np.float32)


def test_what_it_declares(rows):
    """Inputs and outputs with their types and the sizes that vary."""
    assert [(spec.name, spec.dtype, spec.shape) for spec in (*rows.inputs, *rows.outputs)] == [
        ("x", "float32", (None, 4)),
        ("y", "float32", (None, 3)),
        ("half", "float32", (None, 3)),
    ]
    assert rows.states == () and rows.evidence == "device"
    with pytest.raises(UsageError, match="no states"):
        rows.make_state()


def test_shapes_change_and_profiles_follow(rows):
    """Rows of either profile, back and forth, larger and smaller: the right numbers at every size."""
    for count in (2, 8, 1, 9, 64, 3, 16, 8):
        found = rows({"x": rows_of(count, count)})
        np.testing.assert_allclose(found["y"], np.maximum(rows_of(count, count) @ WEIGHT, 0), rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(found["half"], rows_of(count, count) @ WEIGHT / 2, rtol=1e-5, atol=1e-6)
    assert rows.describe()["engine"]["profiles"] == 2
    with pytest.raises(ItemError, match="was not built for") as caught:
        rows({"x": rows_of(65)})
    assert "[1, 4] to [8, 4]; [9, 4] to [64, 4]" in caught.value.why


def test_results_are_the_callers_own(rows):
    """A later call does not change what an earlier one returned, and arrays given may be changed after the call."""
    given = rows_of(2)
    first = rows({"x": given})
    copied = {name: array.copy() for name, array in first.items()}
    given[:] = 7
    second = rows({"x": given})
    for name, array in first.items():
        np.testing.assert_array_equal(array, copied[name])
        assert array.base is None and not np.array_equal(array, second[name])


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({}, "input 'x' is missing"),
        ({"x": np.zeros((1, 4)), "z": np.zeros(1)}, "no input 'z'"),
        ({"x": np.zeros((1, 5))}, r"has the shape \[1, 5\]"),
        ({"x": np.zeros(4)}, r"has the shape \[4\]"),
        ({"x": np.full((1, 4), np.nan)}, "holds 4 NaN of 4"),
        ({"x": np.zeros((1, 4), complex)}, "holds complex"),
        ({"x": np.array([["a"] * 4])}, "holds <U1"),
        ({"x": torch.zeros(1, 4, dtype=torch.complex64)}, "holds complex"),
        ({"x": torch.zeros(2, 3)}, r"has the shape \[2, 3\]"),
    ],
)
def test_what_does_not_fit_is_the_items_error(rows, given, words):
    """Names, ranks, fixed sizes and kinds are told before TensorRT is asked; the program works on."""
    with pytest.raises(ItemError, match=words):
        rows(given)
    assert rows({"x": rows_of(1)})["y"].shape == (1, 3)


@pytest.mark.filterwarnings("ignore:overflow encountered")  # of the stand-in's numpy, where it is meant
def test_types_of_the_edge(maker):
    """int64, fp16, bool and bfloat16 go in and come out; bfloat16 as float32, for numpy has none."""
    shapes = {name: [(1,), (4,), (8,)] for name in ("wide", "short", "which", "brain")}
    program = maker.program(KINDS, [shapes])
    given = {
        "wide": np.array([1, -2, 3], np.int32),
        "short": np.array([1.5, 0.1, 40000.0], np.float32),
        "which": np.array([True, False, True]),
        "brain": np.array([1.0, 1.00390625, np.inf], np.float32),
    }
    found = program(given)
    assert [found[spec.name].dtype.name for spec in program.outputs] == ["int64", "float16", "bool", "float32"]
    np.testing.assert_array_equal(found["wider"], [5000000001, 4999999998, 5000000003])
    np.testing.assert_array_equal(found["shorter"], np.array([3.0, 0.2, np.inf], np.float16))
    np.testing.assert_array_equal(found["other"], [False, True, False])
    np.testing.assert_array_equal(found["brains"], torch.tensor([1.0, 1.00390625, np.inf]).bfloat16().float().numpy())
    brain = maker.device.empty(6).view(torch.bfloat16)[:3]
    brain.copy_(torch.tensor([2.0, 3.0, 4.0]))
    again = program({**given, "brain": brain})
    np.testing.assert_array_equal(again["brains"], [2.0, 3.0, 4.0])
    with pytest.raises(ItemError, match="with fractions"):
        program({**given, "wide": np.full(3, 0.5)})
    with pytest.raises(ItemError, match="holds 2 to 2"):
        program({**given, "which": np.full(3, 2, np.int64)})


def test_nan_comes_out_as_nan(maker, rows, monkeypatch):
    """What the engine computes as NaN is not hidden and not an error; NaN from the host are refused, as by all programs."""
    monkeypatch.setattr(maker.trt.deeds, "nan", True)
    assert np.isnan(rows({"x": rows_of(2)})["y"]).all()


def test_whole_numbers_too_large_are_told(step, maker):
    """int64 values go into int32 where they fit, from the host and from the device."""
    keys = np.zeros((2, 4), np.float32)
    for given in (np.array([[7]], np.int64), maker.device.tensor(np.array([[7]], np.int64))):
        np.testing.assert_array_equal(step({"tokens": given, "keys": keys})["new_keys"], keys + 7)
    for given in (np.array([[2**40]]), maker.device.tensor(np.array([[2**40]]))):
        with pytest.raises(ItemError, match="holds 1099511627776"):
            step({"tokens": given, "keys": keys})


def test_data_decides_the_shape(maker):
    """NonZero: memory comes from the allocator, the shape from the run; none found is an empty array; kept ones are not overwritten."""
    program = maker.program(FOUND, [{"x": [(0,), (8,), (1000,)]}])
    assert [spec.shape for spec in program.outputs] == [(1, None), (None,)]
    for count in (5, 900, 3, 0):
        x = np.arange(count, dtype=np.float32) % 3 - 1
        found = program({"x": x})
        np.testing.assert_array_equal(found["places"], np.nonzero(x > 0))
        np.testing.assert_array_equal(found["doubled"], x * 2)
    assert program({"x": -np.ones(4, np.float32)})["places"].shape == (1, 0)
    program.keep_on_device(["places"])
    first, second = (program({"x": np.array(values, np.float32)})["places"] for values in ([1, 0, 1], [0, 1, 1]))
    assert first.numpy().tolist() == [[0, 2]] and second.numpy().tolist() == [[1, 2]]


def test_shape_inputs_lie_on_the_host(maker):
    """The values of such an input decide the output's shape, again at every call."""
    program = maker.program(SHAPED, [{}], values=[{"sizes": [(1, 1), (2, 3), (6, 6)]}])
    x = np.arange(6, dtype=np.float32)
    for sizes in ([2, 3], [3, 2], [6, 1], [3, 2]):
        np.testing.assert_array_equal(program({"x": x, "sizes": np.array(sizes)})["y"], x.reshape(sizes))
    assert "sizes" not in program.copies.to_device
    np.testing.assert_array_equal(program({"x": x, "sizes": torch.tensor([2, 3])})["y"], x.reshape(2, 3))


def test_a_cache_goes_from_call_to_call_by_its_address(step):
    """What is kept is what the next call reads: the same address, no copy in either direction; only the small things are copied."""
    step.keep_on_device(["new_keys"])
    keys = step.zeros((2, 4))
    for number in range(1, 6):
        found = step({"tokens": TOKEN, "keys": keys})
        assert isinstance(found["new_keys"], DeviceArray)
        assert step.addresses["keys"] == keys.pointer and step.addresses["new_keys"] == found["new_keys"].pointer != keys.pointer
        np.testing.assert_array_equal(found["logits"], np.full((1, 4), 6.0 * number, np.float32))
        keys = found["new_keys"]
    assert step.describe()["copies"] == {"to_device": {"tokens": 5}, "to_host": {"logits": 5}, "on_device": {}}
    np.testing.assert_array_equal(keys.numpy(), np.full((2, 4), 15, np.float32))
    assert step.describe()["copies"]["to_host"] == {"logits": 5, "new_keys": 1}


def test_two_that_go_on_from_one_past(step):
    """A copied cache: the steps of one sequence leave alone what the other still reads."""
    step.keep_on_device(["new_keys"])
    shared = step({"tokens": TOKEN, "keys": np.zeros((2, 4), np.float32)})["new_keys"]
    left = right = shared
    for _ in range(3):
        left = step({"tokens": TOKEN, "keys": left})["new_keys"]
        right = step({"tokens": TOKEN * 2, "keys": right})["new_keys"]
    assert (shared.numpy()[0, 0], left.numpy()[0, 0], right.numpy()[0, 0]) == (3, 12, 21)
    assert len({shared.pointer, left.pointer, right.pointer}) == 3


def test_tensors_on_the_device_are_read_in_place_if_they_fit(step, maker):
    """By address with the right type, gaps and alignment; else by one counted copy within the device; other DLPack objects too."""
    keys = np.arange(8, dtype=np.float32).reshape(2, 4)
    there = maker.device.tensor(keys)
    wide = maker.device.tensor(np.arange(16, dtype=np.float32).reshape(4, 4))
    odd = maker.device.tensor(np.zeros(9, np.float32))[1:].view(2, 4)

    class Other:
        def __dlpack__(self, **asked):
            return there.__dlpack__(**asked)

        def __dlpack_device__(self):
            return there.__dlpack_device__()

    for given, copies in ((there, 0), (Other(), 0), (maker.device.tensor(keys.astype(np.float64)), 1), (wide.t()[:2], 1), (odd, 1)):
        before = step.copies.on_device["keys"]
        found = step({"tokens": TOKEN, "keys": given})["new_keys"]
        np.testing.assert_array_equal(found, np.from_dlpack(given).astype(np.float32) + 3)
        assert step.copies.on_device["keys"] - before == copies
    assert step.copies.to_device["keys"] == 0


def test_a_kept_array_is_read_by_others(step):
    """torch takes it by DLPack without a copy, numpy by one; it outlives the program."""
    step.keep_on_device(["new_keys"])
    kept = step({"tokens": TOKEN, "keys": np.ones((2, 4), np.float32)})["new_keys"]
    assert torch.from_dlpack(kept).data_ptr() == kept.pointer and kept.shape == (2, 4) and kept.dtype == np.float32
    step.close()
    np.testing.assert_array_equal(np.asarray(kept), np.full((2, 4), 4, np.float32))
    np.testing.assert_array_equal(kept.padded((3, 5)).numpy(), np.pad(np.full((2, 4), 4, np.float32), ((0, 1), (0, 1))))
    with pytest.raises(ItemError, match="does not fit"):
        kept.padded((2, 3))
    with pytest.raises(UsageError, match="was closed"):
        step({"tokens": TOKEN, "keys": kept})


def test_what_can_be_kept(step, rows):
    """Only outputs; nothing is kept again after an empty list."""
    with pytest.raises(ModelError, match="puts out no 'keys'"):
        step.keep_on_device(["keys"])
    step.keep_on_device(["logits"])
    step.keep_on_device([])
    assert isinstance(step({"tokens": TOKEN, "keys": np.zeros((2, 4))})["logits"], np.ndarray)


def test_a_read_only_array_is_sent_once(step):
    """As all converted programs do: what stays as it is, is not sent again; another one, or one that may change, is."""
    stays = np.ones((2, 4), np.float32)
    stays.setflags(write=False)
    for _ in range(3):
        step({"tokens": TOKEN, "keys": stays})
    assert step.copies.to_device == {"tokens": 3, "keys": 1}
    wide = stays.astype(np.float64)
    wide.setflags(write=False)
    for _ in range(2):
        np.testing.assert_array_equal(step({"tokens": TOKEN, "keys": wide})["new_keys"], np.full((2, 4), 4.0))
    assert step.copies.to_device["keys"] == 2
    np.testing.assert_array_equal(step({"tokens": TOKEN, "keys": np.zeros((2, 4))})["new_keys"], np.full((2, 4), 3.0))
    np.testing.assert_array_equal(step({"tokens": TOKEN, "keys": stays})["new_keys"], np.full((2, 4), 4.0))
    assert step.copies.to_device["keys"] == 4


def test_buffers_live_as_long_as_the_stream_works(maker, step):
    """The stand-in's stream works when waited for, and its memory is nobody's once freed: a call that frees early would raise."""
    buffer = maker.device.empty(512)
    address = buffer.data_ptr()
    tensorrt_cpu.memory(address, 512)
    del buffer
    with pytest.raises(AssertionError, match="nobody's"):
        tensorrt_cpu.memory(address, 512)
    for _ in range(3):
        step({"tokens": np.array([[1]]), "keys": np.zeros((2, 4), np.float64)})


def test_the_seam_is_the_same_on_both_sides():
    """The stand-in for the GPU has the members of the real one, with the same arguments; and torch has what the real one asks for."""

    def members(kind):
        found = {name: value for name, value in vars(kind).items() if not name.startswith("_") and callable(value)}
        return {name: list(inspect.signature(value).parameters) for name, value in found.items()}

    real, stand_in = members(Cuda), members(tensorrt_cpu.Cpu)
    assert stand_in.pop("tensor") and real == stand_in
    for name in ("Stream", "ExternalStream", "Event", "CUDAGraph", "graph", "stream", "current_stream"):
        assert hasattr(torch.cuda, name)
    assert {"stream", "capture_error_mode"} <= set(inspect.signature(torch.cuda.graph).parameters)
    assert issubclass(torch.OutOfMemoryError, RuntimeError) and hasattr(torch.cuda.CUDAGraph, "replay")


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
def test_without_a_gpu_there_is_no_device():
    """The real device says what is missing."""
    with pytest.raises(RuntimeMissing, match="is not here"):
        Cuda(0)


def test_several_threads(rows):
    """Calls of other shapes at the same time wait for each other; everyone gets its own answer."""
    wrong = []

    def work(seed):
        for number in range(5):
            x = rows_of((seed * 7 + number) % 20 + 1, seed)
            if not np.allclose(rows({"x": x})["half"], x @ WEIGHT / 2, atol=1e-5):
                wrong.append(seed)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_what_tensorrt_refuses(maker, rows, monkeypatch):
    """A run that it refuses is the item's error with its words; where they are about memory, the reason is memory."""
    monkeypatch.setattr(maker.trt.deeds, "run_fails", "the kernel image is not valid")
    with pytest.raises(ItemError, match="could not run the engine") as caught:
        rows({"x": rows_of(2)})
    assert caught.value.reason == "model" and "kernel image" in caught.value.why
    monkeypatch.setattr(maker.trt.deeds, "run_fails", "Requested size was 99 bytes: OutOfMemory")
    with pytest.raises(ItemError) as caught:
        rows({"x": rows_of(2)})
    assert caught.value.reason == "memory"
    monkeypatch.setattr(maker.trt.deeds, "run_fails", None)
    assert rows({"x": rows_of(2)})["y"].shape == (2, 3)


def test_no_memory(maker, step):
    """torch's allocator that has none left: the item's error, and the next item is answered."""
    step.keep_on_device(["new_keys"])
    given = {"tokens": TOKEN, "keys": np.zeros((2, 4), np.float32)}
    step(given)
    maker.device.full = True
    try:
        with pytest.raises(ItemError, match="memory is not enough") as caught:
            step(given)
    finally:
        maker.device.full = False
    assert caught.value.reason == "memory" and step(given)["logits"].shape == (1, 4)


def test_no_memory_for_what_the_data_decides(maker):
    """The allocator's own failure is told, not lost in TensorRT's call."""
    program = maker.program(FOUND, [{"x": [(1,), (8,), (1000,)]}])
    program({"x": np.ones(4, np.float32)})
    maker.device.full = True
    try:
        with pytest.raises(ItemError) as caught:
            program({"x": np.ones(4, np.float32)})
    finally:
        maker.device.full = False
    assert caught.value.reason == "memory" and program({"x": np.ones(4, np.float32)})["places"].shape == (1, 4)


def test_a_lost_gpu_is_everybodys(tmp_path):
    """An error that stays ends the program for good, with a record for the bundle; one that passes is the item's."""
    maker = Maker(tmp_path)
    program = maker.program(STEP)
    given = {"tokens": TOKEN, "keys": np.zeros((2, 4), np.float32)}

    def once():
        raise RuntimeError("CUDA error: invalid argument")

    maker.device.stream.put(once)
    with pytest.raises(ItemError, match="CUDA refused"):
        program(given)
    assert program(given)["logits"].shape == (1, 4)
    maker.device.stream.lost = "CUDA error: an illegal memory access was encountered\nCUDA kernel errors might be asynchronous"
    with pytest.raises(DeviceLost) as caught:
        program(given)
    assert caught.value.record()["how"] == "lost" and caught.value.record()["why"].endswith("was encountered")
    maker.device.stream.lost = None
    with pytest.raises(DeviceLost):
        program(given)
    program.close()


def test_the_device_and_the_host_are_timed_apart(step):
    """The engine's own time lies within the caller's; a call that fails is not counted."""
    assert step.describe()["timing"]["first_seconds"] is None
    given = {"tokens": TOKEN, "keys": np.zeros((2, 4), np.float32)}
    for _ in range(4):
        step(given)
    with pytest.raises(ItemError):
        step({"tokens": TOKEN, "keys": np.zeros((3, 4))})
    timing = step.describe()["timing"]
    for lap in ("host", "device", "enqueue"):
        assert timing[lap]["calls"] == 4 and timing[lap]["least_seconds"] <= timing[lap]["steady_seconds"]
    assert 0 < timing["device"]["last_seconds"] < timing["host"]["last_seconds"] == timing["last_seconds"]
    assert timing["first_seconds"] == timing["host"]["first_seconds"]
