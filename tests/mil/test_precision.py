"""What each reading rounds, on numbers worked out by hand: fp16 has 11 significant bits, fp32 24, fp64 53."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from coremltools.converters.mil import Builder as mb

from tests.mil.building import save
from workbench.mil import load
from workbench.mil.program import PRECISIONS

HALVES = {"native": torch.float16, "emulate": torch.float32, "fp16-weights": torch.float32, "float64": torch.float64}


def half(value: float) -> Any:
    return np.float16(value)


def carried(path: Path, given: Any, precision: str, **options: Any) -> torch.Tensor:
    """The one output as it is carried, before it is brought to the output's type."""
    program = load(path, precision=precision, **options)
    (value,) = program.run(program.tensors({"x": np.asarray(given)})).values()
    assert value.dtype == HALVES[precision]
    return value


def kept(path: Path, given: Any) -> dict[str, float]:
    return {precision: carried(path, given, precision).item() for precision in PRECISIONS}


@pytest.fixture
def added(tmp_path: Path) -> Any:
    """(x + c) - x of fp16: what is left of c."""

    def build(c: float) -> Path:
        return save(lambda x: mb.sub(x=mb.add(x=x, y=half(c)), y=x), {"x": np.ones(1, np.float16)}, tmp_path, since="iOS17")

    return build


def test_the_readings_are_four() -> None:
    assert set(PRECISIONS) == set(HALVES)


def test_half_a_step_of_fp16_is_lost_where_results_are_rounded(added: Any) -> None:
    left = 2.0**-11  # 1 + 2^-11 lies between 1 and 1 + 2^-10: to the even one
    assert kept(added(left), [1]) == {"native": 0, "emulate": 0, "fp16-weights": left, "float64": left}


def test_half_a_step_of_fp32_is_kept_in_float64_only(added: Any) -> None:
    left = 2.0**-24
    assert kept(added(left), [1]) == {"native": 0, "emulate": 0, "fp16-weights": 0, "float64": left}


def test_what_fits_is_kept_by_all(added: Any) -> None:
    assert set(kept(added(2.0**-10), [1]).values()) == {2.0**-10}


def test_weights_are_of_fp16_in_all(tmp_path: Path) -> None:
    path = save(lambda x: mb.mul(x=x, y=half(0.1)), {"x": np.ones(1, np.float16)}, tmp_path, since="iOS17")
    tenth = float(np.float16(0.1))  # 0.0999755859375: 1638 / 16384, of 11 bits; times 3, 13 bits
    assert kept(path, [1]) == dict.fromkeys(PRECISIONS, tenth)
    rounded = float(np.float16(3 * tenth))
    assert rounded != 3 * tenth
    assert kept(path, [3]) == {"native": rounded, "emulate": rounded, "fp16-weights": 3 * tenth, "float64": 3 * tenth}


def test_inputs_of_fp16_are_rounded_in_all(tmp_path: Path) -> None:
    path = save(lambda x: mb.mul(x=x, y=half(1)), {"x": np.ones(1, np.float16)}, tmp_path, since="iOS17")
    assert kept(path, [0.1]) == dict.fromkeys(PRECISIONS, float(np.float16(0.1)))


def test_overflow(tmp_path: Path) -> None:
    def build(x: Any) -> Any:
        return mb.mul(x=mb.mul(x=x, y=half(2)), y=half(0.25))

    path = save(build, {"x": np.ones(1, np.float16)}, tmp_path, since="iOS17")
    assert kept(path, [60000]) == {"native": np.inf, "emulate": np.inf, "fp16-weights": 30000, "float64": 30000}
    for precision, wanted in (("native", np.inf), ("float64", 30000)):
        found = load(path, precision=precision).predict({"x": [60000]})
        (value,) = found.values()
        assert value.dtype == np.float16 and value == wanted


def test_programs_of_fp32_are_the_same_but_in_float64(tmp_path: Path) -> None:
    def build(x: Any) -> Any:
        return mb.sub(x=mb.add(x=x, y=np.float32(2.0**-24)), y=x)

    path = save(build, {"x": np.ones(1, np.float32)}, tmp_path)
    found = {}
    for precision in PRECISIONS:
        program = load(path, precision=precision)
        (found[precision],) = (value.item() for value in program.run(program.tensors({"x": np.ones(1)})).values())
    assert found == {"native": 0, "emulate": 0, "fp16-weights": 0, "float64": 2.0**-24}


def test_every_result_of_emulate_is_a_number_of_fp16(tmp_path: Path) -> None:
    weight = np.random.default_rng(0).normal(size=(8, 8)).astype(np.float16)

    def build(x: Any) -> Any:
        y = mb.softmax(x=mb.linear(x=x, weight=weight), axis=-1)
        return mb.reduce_mean(x=mb.tanh(x=mb.layer_norm(x=y, axes=[-1])), axes=[0])

    path = save(build, {"x": np.ones((3, 8), np.float16)}, tmp_path, since="iOS17")
    given = {"x": np.random.default_rng(1).normal(size=(3, 8))}
    seen: dict[str, dict[str, torch.Tensor]] = {}
    for precision in ("emulate", "fp16-weights"):
        seen[precision] = {}
        load(path, precision=precision).observe(given, lambda op, results, to=seen[precision]: to.update({op.type: results[0]}))
    assert len(seen["emulate"]) == 5
    for kind, value in seen["emulate"].items():
        assert value.dtype == torch.float32
        assert torch.equal(value, value.half().float()), kind
        assert not torch.equal(seen["fp16-weights"][kind], seen["fp16-weights"][kind].half().float()), kind
    first = torch.nn.functional.linear(torch.tensor(given["x"]).half().float(), torch.tensor(weight).float())
    torch.testing.assert_close(seen["emulate"]["linear"], first.half().float(), rtol=0, atol=2.0**-9)
    torch.testing.assert_close(seen["fp16-weights"]["linear"], first, rtol=1e-6, atol=1e-6)


def test_whole_numbers_are_whole_in_all(tmp_path: Path) -> None:
    path = save(lambda x: mb.add(x=x, y=np.int32(1)), {"x": np.ones(1, np.int32)}, tmp_path)
    for precision in PRECISIONS:
        (value,) = load(path, precision=precision).predict({"x": [2**24 + 1]}).values()
        assert value.dtype == np.int32 and value == 2**24 + 2
