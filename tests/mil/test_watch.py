"""`workbench.mil.watch`: programs built so that a known op goes wrong on known inputs, and clean ones."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from coremltools.converters.mil import Builder as mb

from tests.mil.building import save
from workbench.mil import InputError, load
from workbench.mil.watch import MOST_FINDINGS, Watched, watch

READINGS = ("native", "emulate", "fp16-weights", "float64")
UNROUNDED = ("fp16-weights", "float64")


def seen(folder: Path, build: Any, inputs: dict[str, np.ndarray], reading: str = "fp16-weights", **more: Any) -> Watched:
    since = more.pop("since", "iOS17")
    return watch(load(save(build, inputs, folder, since=since), precision=reading), inputs, **more)


def half(*values: float) -> np.ndarray:
    return np.array(values, np.float16)


def kinds(watched: Watched) -> list[tuple[str, tuple[str, ...]]]:
    return [(finding.kind, finding.ops) for finding in watched.findings]


@pytest.mark.parametrize("reading", READINGS)
def test_a_clean_program_gives_nothing(tmp_path: Path, reading: str) -> None:
    x = np.random.default_rng(0).standard_normal((2, 8)).astype(np.float16)
    w = np.random.default_rng(1).standard_normal((4, 8)).astype(np.float16)

    def build(x: Any) -> Any:
        y = mb.layer_norm(x=mb.linear(x=x, weight=w), axes=[-1], epsilon=np.float16(1e-5))
        return mb.softmax(x=mb.tanh(x=y), axis=-1)

    program = load(save(build, {"x": x}, tmp_path, since="iOS17"), precision=reading)
    watched = watch(program, {"x": x})
    assert watched.findings == ()
    for name, value in program.predict({"x": x}).items():
        np.testing.assert_array_equal(watched.outputs[name], value)


@pytest.mark.parametrize("reading", READINGS)
def test_an_overflow_is_found_where_it_begins(tmp_path: Path, reading: str) -> None:
    def build(x: Any) -> Any:
        return mb.mul(x=mb.add(x=mb.exp(x=mb.relu(x=x), name="grow"), y=half(1.0), name="later"), y=half(1.0), name="last")

    watched = seen(tmp_path, build, {"x": half(1.0, 12.0, -3.0)}, reading)
    assert kinds(watched) == [("overflow", ("grow",)), ("overflow", ("later", "last"))]
    text = watched.findings[0].text
    assert "'grow' (exp)" in text and "largest input is 12" in text
    assert f"{np.exp(12.0):.4g}" in text if reading in UNROUNDED else "infinity in 1 of 3 values" in text


def test_what_fits_in_fp32_is_no_overflow_unless_asked(tmp_path: Path) -> None:
    inputs = {"x": np.array([12.0], np.float32)}
    assert kinds(seen(tmp_path, lambda x: mb.exp(x=x, name="grow"), inputs)) == []
    assert kinds(seen(tmp_path, lambda x: mb.exp(x=x, name="grow"), inputs, as_fp16=True)) == [("overflow", ("grow",))]


def test_a_cast_to_fp16_is_where_it_begins(tmp_path: Path) -> None:
    def build(x: Any) -> Any:
        return mb.cast(x=mb.cast(x=mb.square(x=x, name="big"), dtype="fp16", name="narrow"), dtype="fp32", name="wide")

    watched = seen(tmp_path, build, {"x": np.array([300.0], np.float32)})
    assert kinds(watched)[0] == ("overflow", ("narrow",))
    assert "9e+04" in watched.findings[0].text


def test_more_than_half_of_the_range_is_named_with_its_size(tmp_path: Path) -> None:
    watched = seen(tmp_path, lambda x: mb.mul(x=x, y=half(100.0), name="near"), {"x": half(400.0, 2.0)})
    assert kinds(watched) == [("overflow", ("near",))]
    assert "40,000" in watched.findings[0].text and "beyond half" in watched.findings[0].text
    assert kinds(seen(tmp_path, lambda x: mb.mul(x=x, y=half(100.0)), {"x": half(320.0)})) == []


@pytest.mark.parametrize("size, found", [(65503.0, False), (65519.0, False), (65521.0, True)])
def test_the_border_is_where_numpy_rounds_to_infinity(tmp_path: Path, size: float, found: bool) -> None:
    with np.errstate(over="ignore"):
        assert np.isinf(np.float16(size)) == found
    inputs = {"x": np.array([size], np.float32)}
    watched = seen(tmp_path, lambda x: mb.cast(x=x, dtype="fp16", name="narrow"), inputs)
    assert ("makes" in watched.findings[0].text or "reaches" in watched.findings[0].text) == found


@pytest.mark.parametrize("reading", READINGS)
def test_a_row_that_is_masked_throughout(tmp_path: Path, reading: str) -> None:
    mask = np.array([[0, -np.inf], [-np.inf, -np.inf]], np.float16)
    build = lambda x: mb.mul(x=mb.softmax(x=mb.add(x=x, y=mask, name="masked"), axis=-1, name="weights"), y=half(2.0), name="out")  # noqa: E731
    watched = seen(tmp_path, build, {"x": np.zeros((2, 2), np.float16)}, reading)
    assert kinds(watched) == [("nan", ("weights",)), ("nan", ("out",))]
    assert "-infinity throughout" in watched.findings[0].text and "2 of 4" in watched.findings[0].text


def test_a_mask_that_leaves_a_value_in_every_row_is_fine(tmp_path: Path) -> None:
    mask = np.array([[0, -np.inf], [0, 0]], np.float16)
    build = lambda x: mb.softmax(x=mb.add(x=x, y=mask), axis=-1)  # noqa: E731
    assert seen(tmp_path, build, {"x": np.zeros((2, 2), np.float16)}).findings == ()


@pytest.mark.parametrize(
    "build, x, cause",
    [
        (lambda x: mb.sqrt(x=x, name="bad"), [-4.0, 1.0], "sqrt of -4"),
        (lambda x: mb.log(x=x, epsilon=np.float32(0), name="bad"), [-4.0, 1.0], "log of -4"),
        (lambda x: mb.acos(x=x, name="bad"), [1.5, 1.0], "acos of 1.5"),
        (lambda x: mb.real_div(x=x, y=mb.mul(x=x, y=np.float32(1)), name="bad"), [0.0, 1.0], "divides 0 by 0"),
        (lambda x: mb.pow(x=x, y=np.float32(0.5), name="bad"), [-4.0, 1.0], "negative number (-4)"),
        (lambda x: mb.mul(x=mb.sub(x=x, y=x), y=np.float32(np.inf), name="bad"), [1.0, 2.0], "0 times infinity"),
    ],
)
def test_causes_of_nan(tmp_path: Path, build: Any, x: list[float], cause: str) -> None:
    watched = seen(tmp_path, build, {"x": np.array(x, np.float32)})
    (finding,) = watched.findings
    assert (finding.kind, finding.ops) == ("nan", ("bad",))
    assert cause in finding.text
    assert np.isnan(next(iter(watched.outputs.values()))).any()


@pytest.mark.parametrize(
    "build, cause",
    [
        (lambda x: mb.real_div(x=np.float32([1, 1]), y=x, name="bad"), "divides by 0"),
        (lambda x: mb.log(x=x, epsilon=np.float32(0), name="bad"), "log of 0"),
        (lambda x: mb.inverse(x=x, epsilon=np.float32(0), name="bad"), "inverse of 0"),
        (lambda x: mb.exp(x=mb.mul(x=x, y=np.float32(50)), name="bad"), "more than its type holds"),
    ],
)
def test_causes_of_infinity_in_fp32(tmp_path: Path, build: Any, cause: str) -> None:
    (finding,) = seen(tmp_path, build, {"x": np.array([0.0, 2.0], np.float32)}).findings
    assert (finding.kind, finding.ops) == ("overflow", ("bad",))
    assert cause in finding.text


@pytest.mark.parametrize("reading", UNROUNDED)
def test_underflow_is_found_where_it_begins(tmp_path: Path, reading: str) -> None:
    build = lambda x: mb.mul(x=mb.square(x=x, name="small"), y=half(0.5), name="later")  # noqa: E731
    watched = seen(tmp_path, build, {"x": half(1e-4, 1e-4, 1.0, 0.0)}, reading)
    assert kinds(watched) == [("underflow", ("small",)), ("underflow", ("later",))]
    assert "67%" in watched.findings[0].text  # two of the three values that are not 0


def test_the_tail_of_a_softmax_is_no_loss(tmp_path: Path) -> None:
    assert seen(tmp_path, lambda x: mb.softmax(x=x, axis=-1), {"x": half(0.0, 30.0)}).findings == ()


@pytest.mark.parametrize(
    "build, largest, safe",
    [
        (lambda x: mb.softplus(x=x, name="risky"), 10.5, 10.0),
        (lambda x: mb.reduce_log_sum_exp(x=x, axes=[-1], name="risky"), 10.5, 9.5),
        (lambda x: mb.l2_norm(x=x, epsilon=np.float16(1e-3), name="risky"), 300.0, 200.0),
        (lambda x: mb.layer_norm(x=x, axes=[-1], epsilon=np.float16(1e-3), name="risky"), 600.0, 200.0),
    ],
)
def test_ops_whose_inside_may_overflow(tmp_path: Path, build: Any, largest: float, safe: float) -> None:
    x = np.zeros((1, 1, 4), np.float16)
    x[..., 1] = largest
    x[..., 2] = 0.75 * largest
    (finding,) = seen(tmp_path, build, {"x": x}).findings
    assert (finding.kind, finding.ops) == ("overflow", ("risky",))
    assert "[" in finding.text  # its source
    x[..., 1], x[..., 2] = safe, 0.0
    assert seen(tmp_path, build, {"x": x}).findings == ()


def test_the_inputs_themselves(tmp_path: Path) -> None:
    program = load(save(lambda x: mb.relu(x=x, name="op"), {"x": half(1.0)}, tmp_path, since="iOS17"))
    watched = watch(program, {"x": np.array([7e4], np.float32)})
    assert "input 'x' reaches 7e+04" in watched.findings[0].text
    assert kinds(watched) == [("overflow", ()), ("overflow", ("op",))]
    assert "input 'x' holds infinity" in watch(program, {"x": half(np.inf)}).findings[0].text
    with pytest.raises(InputError, match="NaN"):
        watch(program, {"x": half(np.nan)})


def loop(body: Any) -> Any:
    """A program of ten rounds: ``body(number of the round as fp16, value)`` gives the next value."""

    def build(x: Any) -> Any:
        def round_of(i: Any, y: Any) -> Any:
            return mb.add(x=i, y=np.int32(1)), body(mb.cast(x=i, dtype="fp16"), y)

        start = mb.cast(x=mb.squeeze(x=mb.mul(x=x, y=half(0.0))), dtype="int32")
        return mb.while_loop(_cond=lambda i, y: mb.less(x=i, y=np.int32(10)), _body=round_of, loop_vars=(start, x), name="loop")[1]

    return build


@pytest.mark.parametrize("reading", READINGS)
def test_an_overflow_that_begins_in_some_round_of_a_loop(tmp_path: Path, reading: str) -> None:
    """1,000 doubles ten times: it passes 65,504 in the seventh round, and later rounds carry it on."""
    watched = seen(tmp_path, loop(lambda i, y: mb.mul(x=y, y=half(2.0), name="double")), {"x": half(1000.0)}, reading)
    (finding,) = watched.findings
    assert finding.kind == "overflow" and finding.ops == ("double",)
    assert ("reaches 1.28e+05" if reading in UNROUNDED else "largest input is 6.4e+04") in finding.text


def test_a_loop_keeps_the_worst_round(tmp_path: Path) -> None:
    """exp(1.5 i): infinite as fp16 from i = 8 on; the last round, i = 9, is the worst."""

    def body(i: Any, y: Any) -> Any:
        return mb.mul(x=y, y=mb.tanh(x=mb.exp(x=mb.mul(x=i, y=half(1.5)), name="hot")))

    watched = seen(tmp_path, loop(body), {"x": half(1.0)})
    assert watched.findings[0].ops == ("hot",)
    assert f"reaches {np.exp(13.5):.4g}" in watched.findings[0].text


def test_a_branch_names_the_op_inside(tmp_path: Path) -> None:
    def build(x: Any, flag: Any) -> Any:
        return mb.cond(
            pred=mb.squeeze(x=mb.cast(x=flag, dtype="bool")),
            _true_fn=lambda: mb.exp(x=x, name="hot"),
            _false_fn=lambda: mb.relu(x=x, name="cold"),
            name="choice",
        )

    inputs = {"x": half(12.0), "flag": np.array([1], np.int32)}
    program = load(save(build, inputs, tmp_path, since="iOS17"))
    assert kinds(watch(program, inputs)) == [("overflow", ("hot",))]
    assert kinds(watch(program, {**inputs, "flag": np.array([0], np.int32)})) == []


def test_a_state_carries_and_is_not_where_it_begins(tmp_path: Path) -> None:
    def build(x: Any, memory: Any) -> Any:
        grown = mb.add(x=mb.read_state(input=memory, name="read"), y=mb.exp(x=x, name="hot"), name="sum")
        return mb.relu(x=mb.coreml_update_state(state=memory, value=grown), name="out")

    path = save(build, {"x": half(12.0)}, tmp_path, since="iOS18", states={"memory": ((1,), np.float16)})
    program = load(path)
    state = program.make_state()
    first = watch(program, {"x": half(12.0)}, state)
    assert kinds(first)[0] == ("overflow", ("hot",))
    assert len(first.findings) == 2 and "carry it on" in first.findings[1].text  # the state that was written, too
    assert np.isinf(state.read("memory")).all()
    second = watch(program, {"x": half(0.0)}, state)  # now the state itself is infinite
    assert kinds(second)[0] == ("overflow", ("read",))


def test_many_beginnings_are_cut_and_counted(tmp_path: Path) -> None:
    def build(x: Any) -> Any:
        return mb.concat(values=[mb.exp(x=x, name=f"e{number}") for number in range(MOST_FINDINGS + 5)], axis=0, name="all")

    watched = seen(tmp_path, build, {"x": half(12.0)})
    assert len(watched.findings) == MOST_FINDINGS + 2
    assert "begins in 5 ops more" in watched.findings[-2].text
    assert watched.findings[-1].ops == ("all",)
    assert sum(len(finding.ops) for finding in watched.findings) == MOST_FINDINGS + 6


def test_foreign_names_are_escaped_in_sentences(tmp_path: Path) -> None:
    name = "evil\x1b[31m\n" + "n" * 200
    program = load(save(lambda x: mb.exp(x=x, name="grow"), {"x": half(12.0)}, tmp_path, since="iOS17"))
    (op,) = program.function.block.ops
    object.__setattr__(op, "name", name)
    (finding,) = watch(program, {"x": half(12.0)}).findings
    assert finding.ops == (name,)
    assert finding.text.isprintable() and len(finding.text) < 250
