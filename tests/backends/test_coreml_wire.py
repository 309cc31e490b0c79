"""Messages with arrays between a process and its worker."""

import threading

import numpy as np
import pytest

from workbench.backends import coreml_wire


@pytest.fixture
def ends():
    here, there = coreml_wire.pair()
    with here, there:
        yield here, there


def across(ends, message, arrays=None, marks=None, ear=None):
    sender = threading.Thread(target=coreml_wire.send, args=(ends[0], message, arrays, marks))
    sender.start()
    try:
        return (ear or coreml_wire.Receiver(ends[1])).receive()
    finally:
        sender.join(10)


def test_arrays_arrive_as_they_left(ends):
    rng = np.random.default_rng(0)
    arrays = {
        **{
            kind: rng.integers(0, 2, (3, 4)).astype(kind)
            for kind in ("bool", "int8", "uint16", "int32", "int64", "float16", "float64")
        },
        "turned": np.arange(24, dtype=np.float32).reshape(2, 3, 4).transpose(2, 0, 1),
        "every second": np.arange(10)[::2],
        "backwards": np.arange(10)[::-1],
        "empty": np.zeros((0, 5), np.float32),
        "scalar": np.array(2.5),
        "big end": np.arange(3, dtype=">i4"),
        "not numbers": np.array([np.nan, np.inf, -0.0]),
    }
    message, found = across(ends, {"op": "x", "text": "ü\n"}, arrays)
    assert message == {"op": "x", "text": "ü\n"} and list(found) == list(arrays)
    for name, array in arrays.items():
        assert (found[name].dtype, found[name].shape) == (array.dtype, array.shape)
        np.testing.assert_array_equal(found[name], array)
        assert found[name].flags.writeable and found[name].flags.c_contiguous
    assert np.signbit(found["not numbers"][2])


def test_more_than_the_socket_holds(ends):
    array = np.arange(5 << 20, dtype=np.float32)
    np.testing.assert_array_equal(across(ends, {}, {"x": array})[1]["x"], array)


def test_kept_arrays_are_by_model_and_name(ends):
    ear = coreml_wire.Receiver(ends[1])
    one, other = np.arange(3), np.arange(3) + 10
    across(ends, {"model": 1}, {"x": one}, {"x": "keep"}, ear)
    across(ends, {"model": 2}, {"x": other}, {"x": "keep"}, ear)
    for model, array in ((1, one), (2, other), (1, one)):
        np.testing.assert_array_equal(across(ends, {"model": model}, {"x": np.zeros(3, int)}, {"x": "same"}, ear)[1]["x"], array)
    ear.forget(1)
    assert list(ear.kept) == [(2, "x")]


def test_the_other_side_is_gone(ends):
    ends[0].close()
    with pytest.raises(coreml_wire.Closed):
        coreml_wire.Receiver(ends[1]).receive()


def test_the_other_side_goes_half_way(ends):
    ends[0].sendall(coreml_wire.LENGTH.pack(100) + b'{"mess')
    ends[0].close()
    with pytest.raises(coreml_wire.Closed):
        coreml_wire.Receiver(ends[1]).receive()


def test_what_is_no_message(ends):
    ends[0].sendall(b"\xff" * 16)
    with pytest.raises(coreml_wire.Closed, match="none of ours"):
        coreml_wire.Receiver(ends[1]).receive()


def test_arrays_of_objects_do_not_leave(ends):
    with pytest.raises(TypeError, match="'x' holds object"):
        coreml_wire.send(ends[0], {}, {"x": np.array([{}])})
    ends[1].setblocking(False)
    with pytest.raises(BlockingIOError):  # and nothing was sent before it was noticed
        ends[1].recv(1)
