"""What one call leaves on the device for the next: caches of a decoding loop, and what one stage gives another."""

from __future__ import annotations

import numpy as np
import pytest

from tests.backends.tensorrt_engines import HEAD, Maker
from workbench.backends.tensorrt_arrays import DeviceArray
from workbench.models.program_stages import HANDED_OVER, StepCache
from workbench.models.stt_stages import _fixed

SIZES = {"layers": 1, "heads": 2, "context": 6, "head_size": 4}
PREFILL = (
    HEAD
    + """(float[1,2,T,4] prompt) => (float[1,2,T,4] new_keys, float[1,2,T,4] new_values)
<float two = {2.0}> { new_keys = Identity(prompt)  new_values = Mul(prompt, two) }"""
)
STEP = (
    HEAD
    + """(int32[1,1] tokens, float[1,2,6,4] keys, float[1,2,6,4] values)
=> (float[1] logits, float[1,2,6,4] new_keys, float[1,2,6,4] new_values)
<int64[1] one = {1}>
{ more = Cast<to=1>(tokens)  new_keys = Add(keys, more)  new_values = Sub(values, more)  both = Add(new_keys, values)
total = ReduceSum<keepdims=0>(both)  logits = Reshape(total, one) }"""
)


@pytest.fixture(scope="module")
def maker(tmp_path_factory):
    return Maker(tmp_path_factory.mktemp("hand"))


@pytest.fixture(params=[False, True], ids=["eager", "cuda_graph"])
def programs(request, maker):
    made = (
        maker.program(PREFILL, [{"prompt": [(1, 2, 1, 4), (1, 2, 4, 4), (1, 2, 6, 4)]}], cuda_graph=request.param),
        maker.program(STEP, cuda_graph=request.param),
    )
    for program in made:
        program.keep_on_device([spec.name for spec in program.outputs if spec.name in HANDED_OVER])
    return made


def loop(cache, tokens):
    return [float(cache.run({"tokens": np.array([[token]], np.int32)})["logits"][0]) for token in tokens]


def expected(prompt, tokens):
    keys, values, found = np.zeros((1, 2, 6, 4)), np.zeros((1, 2, 6, 4)), []
    keys[:, :, : prompt.shape[2]], values[:, :, : prompt.shape[2]] = prompt, 2 * prompt
    for token in tokens:
        keys = keys + token
        found.append(float((keys + values).sum()))
        values = values - token
    return found


def test_a_decoding_loop_copies_no_cache(programs, request):
    """From the prompt's pass to the last token, keys and values never cross the host; in an eager loop nothing of them is copied but the
    padding of the prompt's."""
    prefill, step = programs
    prompt = np.random.default_rng(0).standard_normal((1, 2, 3, 4)).astype(np.float32)
    cache = StepCache(step, SIZES, stateful=False)
    found = prefill({"prompt": prompt})
    assert isinstance(found["new_keys"], DeviceArray)
    cache.fill(found["new_keys"], found["new_values"])
    assert cache.filled == 3 and cache.arrays["keys"].shape == (1, 2, 6, 4)
    np.testing.assert_allclose(loop(cache, [1, 2, 3, 4]), expected(prompt, [1, 2, 3, 4]), rtol=1e-5)
    assert prefill.describe()["copies"]["to_host"] == {}
    assert prefill.copies.on_device["new_keys"] >= 1
    copies = step.describe()["copies"]
    assert copies["to_device"] == {"tokens": 4} and copies["to_host"] == {"logits": 4}
    if step.graphs is None:
        assert copies["on_device"] == {}


def test_copies_of_a_cache_go_their_own_ways(programs):
    """As a beam search does: two rows go on from one past, in turn, and each gives what it would have given alone."""
    _, step = programs
    first = StepCache(step, SIZES, stateful=False)
    begun = loop(first, [5, 6])
    second = first.copy()
    mixed = [(loop(first, [token])[0], loop(second, [token * 3])[0]) for token in (1, 2, 3)]
    nothing = np.zeros((1, 2, 0, 4), np.float32)
    assert begun + [left for left, _ in mixed] == expected(nothing, [5, 6, 1, 2, 3])
    assert begun + [right for _, right in mixed] == expected(nothing, [5, 6, 3, 6, 9])
    assert step.copies.to_device["keys"] == step.copies.to_host["new_keys"] == 0


def test_a_prompt_from_the_host_goes_into_the_same_cache(programs):
    """Rows that a runtime without memory of its own gave: sent once, with the first token."""
    _, step = programs
    prompt = np.random.default_rng(1).standard_normal((1, 2, 2, 4)).astype(np.float32)
    cache = StepCache(step, SIZES, stateful=False)
    cache.fill(prompt, 2 * prompt)
    np.testing.assert_allclose(loop(cache, [1, 2, 3]), expected(prompt, [1, 2, 3]), rtol=1e-5)
    assert step.copies.to_device == {"tokens": 3, "keys": 1, "values": 1}


def test_an_encoding_is_read_where_it_lies(programs):
    """What stays on a device is not made an array of the host by the recogniser's loop."""
    prefill, _ = programs
    kept = prefill({"prompt": np.ones((1, 2, 2, 4), np.float32)})["new_keys"]
    assert _fixed(kept) is kept
    made = _fixed(np.ones(3)[:2])
    assert not made.flags.writeable and made.base is None
