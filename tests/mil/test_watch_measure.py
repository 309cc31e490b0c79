"""`workbench.mil.measure` against numpy, and that `watch` keeps numbers only."""

from __future__ import annotations

import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from coremltools.converters.mil import Builder as mb

from tests.mil.building import save
from workbench.mil import load
from workbench.mil.measure import Measured, measure
from workbench.mil.sightings import Sightings
from workbench.mil.watch import watch


def by_numpy(array: np.ndarray) -> Measured:
    """The definition, value by value."""
    finite = array[np.isfinite(array)].astype(np.float64)
    with np.errstate(over="ignore"):
        half = finite.astype(np.float16)
    return Measured(
        count=array.size,
        nan=int(np.isnan(array).sum()),
        infinite=int(np.isinf(array).sum()),
        low=finite.min(initial=np.inf),
        high=finite.max(initial=-np.inf),
        beyond=int(np.isinf(half).sum()),
        nonzero=int(np.count_nonzero(finite)),
        lost=int(((finite != 0) & (half == 0)).sum()),
    )


EDGES = [0.0, -0.0, 65504.0, 65519.99, 65520.0, -65520.0, 2**-24, 2**-25, -(2**-25), 2**-25 * 1.001, 1e-30, np.inf, -np.inf, np.nan]


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("spoilt", [False, True])
def test_against_numpy(dtype: Any, spoilt: bool) -> None:
    rng = np.random.default_rng(3)
    values = np.concatenate([rng.standard_normal(500) * 10.0 ** rng.integers(-12, 7, 500), EDGES])
    with np.errstate(over="ignore"):
        array = (values if spoilt else values[np.isfinite(values)]).astype(dtype)
    if not spoilt:
        array = array[np.isfinite(array)]
    assert measure(torch.from_numpy(array)) == by_numpy(array)
    joined = measure([torch.from_numpy(array[:100]), torch.from_numpy(array[100:])])
    assert joined == by_numpy(array)


@pytest.mark.parametrize("values", [[np.nan], [np.inf, -np.inf], []])
def test_without_a_finite_value(values: list[float]) -> None:
    array = np.array(values, np.float32)
    found = measure(torch.from_numpy(array))
    assert found == by_numpy(array) and found is not None and found.largest == 0


def test_integers_and_what_holds_no_numbers() -> None:
    found = measure(torch.tensor([-3, 0, 7], dtype=torch.int32))
    assert found is not None and (found.low, found.high, found.zeros, found.beyond, found.lost) == (-3, 7, 1, 0, 0)
    assert [measure(value) for value in ("text", None, {"a": 1}, torch.tensor([True]), [], ["text", None])] == [None] * 6
    assert measure(torch.tensor([1.0, 2.0]).to(torch.float8_e5m2)) == by_numpy(np.array([1.0, 2.0]))


def test_no_value_outlives_its_last_use(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def build(x: Any) -> Any:
        for _ in range(20):
            x = mb.mul(x=x, y=np.float32(1.5))
        return x

    made: list[weakref.ref[torch.Tensor]] = []
    most = 0
    plain = Sightings.results

    def counting(self: Sightings, op: Any, results: tuple[Any, ...]) -> Any:
        nonlocal most
        made.extend(weakref.ref(value) for value in results)
        most = max(most, sum(ref() is not None for ref in made))
        return plain(self, op, results)

    monkeypatch.setattr(Sightings, "results", counting)
    inputs = {"x": np.ones((64, 64), np.float32)}
    watch(load(save(build, inputs, tmp_path)), inputs)
    assert len(made) == 20 and most <= 3


def test_lists_carry(tmp_path: Path) -> None:
    def build(x: Any) -> Any:
        held = mb.make_list(init_length=1, dtype="fp16", elem_shape=(1,), dynamic_length=False)
        held = mb.list_write(ls=held, index=0, value=mb.exp(x=x, name="hot"))
        return mb.relu(x=mb.list_read(ls=held, index=0, name="read"), name="out")

    inputs = {"x": np.array([12.0], np.float16)}
    program = load(save(build, inputs, tmp_path, since="iOS17"), precision="fp16-weights")
    first, later = watch(program, inputs).findings
    assert first.ops == ("hot",) and {"read", "out"} <= set(later.ops)
    assert watch(program, {"x": np.array([1.0], np.float16)}).findings == ()
