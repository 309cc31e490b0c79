"""Attention that is written out, run as one op: when it is, when it is not, and that only rounding tells the difference.

The witness is the definition in numpy, in float64.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
from coremltools.converters.mil import Builder as mb

from tests.mil.building import save
from workbench.mil import load
from workbench.mil.fuse import FUSED
from workbench.mil.graph import walk

NOISE = np.random.default_rng(5)
INF = np.inf


def noise(*shape):
    return NOISE.standard_normal(shape).astype(np.float32)


def heads(queries=5, keys=7, width=8, values=6, batch=2, count=3):
    """q [B, H, L, E], k [B, H, S, E], v [B, H, S, V]."""
    return {"q": noise(batch, count, queries, width), "k": noise(batch, count, keys, width), "v": noise(batch, count, keys, values)}


def attention(q, k, v, mask=0.0, scale=1.0):
    with np.errstate(invalid="ignore"):
        scores = (q.astype(np.float64) @ np.swapaxes(k.astype(np.float64), -1, -2)) * scale
        # Beside a large mask a score is lost in float32: the sum is of that type.
        scores = (scores.astype(np.float32) + np.asarray(mask, np.float32)).astype(np.float64)
        weights = np.exp(scores - scores.max(-1, keepdims=True))
        return (weights / weights.sum(-1, keepdims=True)) @ v.astype(np.float64)


def written(scores, v, axis=-1):
    return mb.matmul(x=mb.softmax(x=scores, axis=axis, name="weights"), y=v)


def product(q, k):
    return mb.matmul(x=q, y=k, transpose_y=True)


def scaled(q, k, factor=0.25):
    return mb.mul(x=product(q, k), y=np.float32(factor))


def both(build, inputs, folder, **options):
    """(outputs fused, outputs not fused, the program that may fuse); each program is run twice, with equal results."""
    path = save(build, inputs, folder, **({"since": options.pop("since")} if "since" in options else {}))
    found = []
    for fuse in (True, False):
        program = load(path, fuse=fuse, **options)
        first = list(program.predict(inputs).values())
        for one, other in zip(first, program.predict(inputs).values(), strict=True):
            np.testing.assert_array_equal(one, other)
        found.append((first, program))
    (fused, program), (plain, unfused) = found
    assert unfused.fused == []
    return fused, plain, program


def alike(found, wanted):
    np.testing.assert_array_equal(np.isnan(found), np.isnan(wanted))
    np.testing.assert_allclose(found, wanted, rtol=0, atol=2e-6 * np.nanmax(np.abs(wanted), initial=1.0))


# name -> (how it is written, what it means); each is one op afterwards
FORMS = {
    "plain": (lambda q, k, v: written(product(q, k), v), {}),
    "key-transposed": (lambda q, k, v: written(mb.matmul(x=q, y=mb.transpose(x=k, perm=[0, 1, 3, 2])), v), {}),
    "scale": (lambda q, k, v: written(scaled(q, k), v), {"scale": 0.25}),
    "scale-on-the-left": (lambda q, k, v: written(mb.mul(x=np.float32(0.25), y=product(q, k)), v), {"scale": 0.25}),
    "negative-scale": (lambda q, k, v: written(scaled(q, k, -0.5), v), {"scale": -0.5}),
    "divided": (lambda q, k, v: written(mb.real_div(x=product(q, k), y=np.float32(3)), v), {"scale": 1 / 3}),
    "scale-of-rank-4": (
        lambda q, k, v: written(mb.mul(x=product(q, k), y=np.full((1, 1, 1, 1), 0.5, np.float32)), v),
        {"scale": 0.5},
    ),
    "scale-before": (lambda q, k, v: written(product(mb.mul(x=q, y=np.float32(0.5)), k), v), {"scale": 0.5}),
    "softmax-axis": (lambda q, k, v: written(product(q, k), v, axis=3), {}),
}


@pytest.mark.parametrize("form", FORMS)
def test_each_way_to_write_it(form, tmp_path):
    build, meaning = FORMS[form]
    inputs = heads()
    (fused,), (plain,), program = both(build, inputs, tmp_path)
    assert program.fused == ["weights"]
    wanted = attention(**inputs, **meaning)
    alike(fused, wanted)
    alike(plain, wanted)


MASKS = {
    "finite": noise(2, 3, 5, 7),
    "one-row": noise(2, 1, 1, 7),
    "rank-3": noise(3, 5, 7),
    "rank-2": noise(5, 7),
    "rank-1": noise(7),
    "causal": np.triu(np.full((5, 7), -INF, np.float32), 1),
    "causal-finite": np.triu(np.full((5, 7), np.finfo(np.float32).min, np.float32), 1),
    "a-row-shut": np.where(np.arange(5)[:, None] == 2, -INF, noise(5, 7)).astype(np.float32),
    "a-row-shut-finite": np.where(np.arange(5)[:, None] == 2, np.float32(-1e9), np.float32(0)) + np.zeros((5, 7), np.float32),
    "all-shut": np.full((1, 1, 5, 7), -INF, np.float32),
    "infinite": np.where(np.arange(7) == 3, INF, 0).astype(np.float32),
    "nan": np.where(np.arange(35).reshape(5, 7) == 8, np.nan, 0).astype(np.float32),
}


@pytest.mark.parametrize("order", ["after", "before"])
@pytest.mark.parametrize("name", MASKS)
def test_a_mask_is_added_as_written(name, order, tmp_path):
    """Given at run time, on either side of the sum. A row without any finite element has no softmax, fused or not."""

    def build(q, k, v, mask):
        scores = scaled(q, k)
        return written(mb.add(x=scores, y=mask) if order == "after" else mb.add(x=mask, y=scores), v)

    inputs = {**heads(), "mask": MASKS[name]}
    path = save(build, inputs, tmp_path)
    wanted = attention(**inputs, scale=0.25)
    for fuse in (True, False):
        program = load(path, fuse=fuse)
        assert program.fused == ["weights"] * fuse
        for _ in range(2):
            alike(next(iter(program.predict(inputs, allow_nan=True).values())), wanted)


def test_one_call_with_a_shut_row_and_one_without(tmp_path):
    """Which form runs is asked at every call, not at the first."""
    inputs = {**heads(), "mask": MASKS["finite"]}
    program = load(save(lambda q, k, v, mask: written(mb.add(x=scaled(q, k), y=mask), v), inputs, tmp_path))
    for name in ("finite", "a-row-shut", "finite", "all-shut", "causal", "a-row-shut"):
        given = {**inputs, "mask": np.broadcast_to(MASKS[name], (2, 3, 5, 7))}
        alike(next(iter(program.predict(given).values())), attention(**given, scale=0.25))


SHAPES = {
    "rank-3": {"q": noise(4, 5, 8), "k": noise(4, 7, 8), "v": noise(4, 7, 6)},
    "one-query": heads(queries=1),
    "one-key": heads(keys=1),
    "heads-broadcast": {"q": noise(2, 6, 5, 8), "k": noise(2, 1, 7, 8), "v": noise(2, 1, 7, 6)},
    "batch-broadcast": {"q": noise(2, 3, 5, 8), "k": noise(1, 3, 7, 8), "v": noise(1, 3, 7, 6)},
    "values-broadcast": {"q": noise(2, 3, 5, 8), "k": noise(2, 3, 7, 8), "v": noise(1, 1, 7, 6)},
    "values-of-rank-2": {"q": noise(2, 3, 5, 8), "k": noise(2, 3, 7, 8), "v": noise(7, 6)},
}


@pytest.mark.parametrize("mask", [False, True])
@pytest.mark.parametrize("name", SHAPES)
def test_shapes(name, mask, tmp_path):
    inputs = SHAPES[name]
    if mask:
        inputs = {**inputs, "mask": noise(1, *[1] * (inputs["q"].ndim - 2), inputs["k"].shape[-2])}
    build = (lambda q, k, v, mask: written(mb.add(x=scaled(q, k), y=mask), v)) if mask else lambda q, k, v: written(scaled(q, k), v)
    (fused,), (plain,), program = both(build, inputs, tmp_path)
    assert program.fused == ["weights"]
    alike(fused, attention(**inputs, scale=0.25))
    alike(plain, attention(**inputs, scale=0.25))


GROWING = {
    "one-query-many-rows": ({"q": noise(2, 3, 1, 8), "k": noise(2, 3, 7, 8), "v": noise(2, 3, 7, 6)}, noise(5, 7)),
    "one-key-many-columns": ({"q": noise(2, 3, 5, 8), "k": noise(2, 3, 1, 8), "v": noise(2, 3, 7, 6)}, noise(5, 7)),
    "more-batches": ({"q": noise(1, 3, 5, 8), "k": noise(1, 3, 7, 8), "v": noise(1, 3, 7, 6)}, noise(4, 1, 5, 7)),
    "a-rank-more": ({"q": noise(3, 5, 8), "k": noise(3, 7, 8), "v": noise(3, 7, 6)}, noise(2, 1, 5, 7)),
}


@pytest.mark.parametrize("name", GROWING)
def test_a_mask_that_makes_the_scores_larger(name, tmp_path):
    inputs, mask = GROWING[name]
    inputs = {**inputs, "mask": mask}
    (fused,), (plain,), _ = both(lambda q, k, v, mask: written(mb.add(x=scaled(q, k), y=mask), v), inputs, tmp_path)
    alike(fused, attention(**inputs, scale=0.25))
    alike(plain, attention(**inputs, scale=0.25))


def test_keys_of_another_length_at_every_call(tmp_path):
    """Cross attention with a flexible number of keys, and an empty one."""
    shapes = {"q": ((1, 2, 3, 4), np.float32), "k": ((1, 2, None, 4), np.float32), "v": ((1, 2, None, 4), np.float32)}
    program = load(save(lambda q, k, v: written(scaled(q, k), v), shapes, tmp_path))
    assert program.fused == ["weights"]
    for keys in (3, 1, 8, 3):
        inputs = heads(3, keys, 4, 4, 1, 2)
        alike(next(iter(program.predict(inputs).values())), attention(**inputs, scale=0.25))


def test_no_keys_at_all(tmp_path):
    """The sum over nothing is 0, with a mask too."""
    shapes = {"q": ((1, 2, 3, 4), np.float32), "k": ((1, 2, None, 4), np.float32), "v": ((1, 2, None, 4), np.float32)}
    shapes["mask"] = ((1, 1, 1, None), np.float32)
    program = load(save(lambda q, k, v, mask: written(mb.add(x=scaled(q, k), y=mask), v), shapes, tmp_path))
    assert program.fused == ["weights"]
    inputs = {**heads(3, 2, 4, 4, 1, 2), "mask": noise(1, 1, 1, 2)}
    alike(next(iter(program.predict(inputs).values())), attention(**inputs, scale=0.25))
    full = program.tensors(inputs)
    empty = {"q": full["q"], "k": full["k"][:, :, :0], "v": full["v"][:, :, :0], "mask": full["mask"][..., :0]}
    (found,) = program.run(empty).values()
    assert found.shape == (1, 2, 3, 4) and not found.any()


def test_relative_positions_computed_by_a_matmul_are_a_mask(tmp_path):
    def build(q, k, v, r):
        return written(mb.add(x=product(q, k), y=product(q, r)), v)

    inputs = {**heads(), "r": noise(2, 3, 7, 8)}
    (fused,), _, program = both(build, inputs, tmp_path)
    assert program.fused == ["weights"]
    r = inputs.pop("r")
    alike(fused, attention(**inputs, mask=inputs["q"].astype(np.float64) @ np.swapaxes(r, -1, -2)))


def softmax_read_twice(q, k, v):
    weights = mb.softmax(x=product(q, k), axis=-1)
    return mb.matmul(x=weights, y=v), mb.reduce_sum(x=weights, axes=[-2])


def softmax_is_an_output(q, k, v):
    weights = mb.softmax(x=product(q, k), axis=-1)
    return mb.matmul(x=weights, y=v), weights


def scores_read_in_a_branch(q, k, v):
    scores = product(q, k)
    largest = mb.reduce_max(x=q, keep_dims=False)
    inner = mb.cond(
        pred=mb.greater(x=largest, y=np.float32(0)),
        _true_fn=lambda: mb.reduce_sum(x=scores, axes=[0, 1, 2, 3]),
        _false_fn=lambda: mb.mul(x=largest, y=np.float32(1)),
    )
    return written(scores, v), inner


def scores_read_twice(q, k, v):
    scores = product(q, k)
    return written(scores, v), mb.reduce_max(x=scores)


NOT_FUSED = {
    "softmax-read-twice": softmax_read_twice,
    "softmax-is-an-output": softmax_is_an_output,
    "scores-read-in-a-branch": scores_read_in_a_branch,
    "scores-read-twice": scores_read_twice,
    "axis": lambda q, k, v: written(product(q, k), v, axis=2),
    "query-transposed": lambda q, k, v: written(
        mb.matmul(x=mb.transpose(x=q, perm=[0, 1, 3, 2]), y=k, transpose_x=True, transpose_y=True), v
    ),
    "weights-transposed": lambda q, k, v: mb.matmul(
        x=mb.softmax(x=product(k, q), axis=-1), y=v, transpose_x=True, transpose_y=False
    ),
    "factor-not-constant": lambda q, k, v: written(mb.mul(x=product(q, k), y=mb.reduce_max(x=q, keep_dims=False)), v),
    "factor-of-several": lambda q, k, v: written(mb.mul(x=product(q, k), y=noise(3, 1, 1)), v),
    "divided-by-infinity": lambda q, k, v: written(mb.real_div(x=product(q, k), y=np.float32(INF)), v),
    "factor-divided": lambda q, k, v: written(mb.real_div(x=np.float32(2), y=product(q, k)), v),
    "mask-before-the-scale": lambda q, k, v: written(mb.mul(x=mb.add(x=product(q, k), y=noise(5, 7)), y=np.float32(2)), v),
    "something-between": lambda q, k, v: written(mb.tanh(x=product(q, k)), v),
    "no-scores": lambda q, k, v: mb.matmul(x=mb.softmax(x=mb.mul(x=product(q, k), y=product(q, k)), axis=-1), y=v),
}


@pytest.mark.parametrize("name", NOT_FUSED)
def test_what_stays_as_written(name, tmp_path):
    """To the bit: nothing else happens to it."""
    fused, plain, program = both(NOT_FUSED[name], heads(), tmp_path)
    assert program.fused == []
    for one, other in zip(fused, plain, strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_factor_of_a_higher_rank_makes_the_result_one_too(tmp_path):
    inputs = {"q": noise(3, 5, 8), "k": noise(3, 7, 8), "v": noise(3, 7, 6)}
    build = lambda q, k, v: written(mb.mul(x=product(q, k), y=np.full((1, 1, 1, 1), 0.5, np.float32)), v)  # noqa: E731
    (fused,), (plain,), program = both(build, inputs, tmp_path)
    assert program.fused == [] and fused.shape == plain.shape == (1, 3, 5, 6)


def test_mixed_types_stay_as_written(tmp_path):
    """From iOS17 on a matmul may have a constant side of another float type."""
    inputs = {"q": noise(2, 3, 5, 8), "k": noise(2, 3, 7, 8)}
    v = noise(2, 3, 7, 6).astype(np.float16)
    (fused,), (plain,), _ = both(lambda q, k: written(scaled(q, k), v), inputs, tmp_path, since="iOS17")
    wanted = attention(**inputs, v=v, scale=0.25)
    alike(fused, wanted)
    alike(plain, wanted)


@pytest.mark.parametrize(("precision", "fuses"), [("native", False), ("emulate", False), ("fp16-weights", True), ("float64", True)])
def test_halves_are_fused_only_where_they_are_not_rounded(precision, fuses, tmp_path):
    inputs = {name: value.astype(np.float16) for name, value in heads().items()}
    (fused,), (plain,), program = both(
        lambda q, k, v: written(mb.mul(x=product(q, k), y=np.float16(0.25)), v),
        inputs,
        tmp_path,
        since="iOS16",
        precision=precision,
    )
    assert program.fused == ["weights"] * fuses
    if not fuses:
        np.testing.assert_array_equal(fused, plain)
    np.testing.assert_allclose(fused, attention(**inputs, scale=0.25), rtol=0, atol=4e-3)


def two_layers(q, k, v):
    first = mb.matmul(x=mb.softmax(x=scaled(q, k), axis=-1, name="first"), y=v)
    kept = mb.softmax(x=scaled(first, k), axis=-1, name="kept")
    third = mb.matmul(x=mb.softmax(x=scaled(mb.matmul(x=kept, y=v), k), axis=-1, name="third"), y=v)
    return third, kept


def test_what_was_fused_is_named_and_observe_sees_what_was_written(tmp_path):
    inputs = heads(values=8)
    path = save(two_layers, inputs, tmp_path)
    program, plain = load(path), load(path, fuse=False)
    assert program.fused == ["first", "third"]
    assert [op.type for op in program._block.block.ops].count(FUSED) == 2
    wanted = list(plain.predict(inputs).values())
    before = list(program.predict(inputs).values())
    seen = []
    observed = program.observe(inputs, lambda op, results: seen.append(op.name))
    assert seen == [op.name for op in walk(program.function.block)] and FUSED not in seen
    for one, other in zip(observed.values(), wanted, strict=True):
        np.testing.assert_array_equal(one, other)
    for one, other in zip(program.predict(inputs).values(), before, strict=True):
        np.testing.assert_array_equal(one, other)
    for one, other in zip(before, wanted, strict=True):
        alike(one, other)


def test_the_constants_of_both_forms_are_the_same_values(tmp_path):
    """A program that is observed does not hold its weights twice."""

    def build(q, k, v):
        return written(scaled(mb.matmul(x=q, y=WEIGHT), k), v)

    program = load(save(build, heads(), tmp_path))
    program.observe(heads(), lambda op, results: None)
    shared = [name for name in program._plain.cells if name in program._block.cells]
    assert any(program._plain.cells[name].value.numel() == WEIGHT.size for name in shared)
    assert all(program._plain.cells[name] is program._block.cells[name] for name in shared)


WEIGHT = noise(8, 8) / math.sqrt(8)
