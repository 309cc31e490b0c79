"""`workbench.mil.examine`: programs built to have one flaw, the op named by its finding, and clean ones."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from coremltools.converters.mil import Builder as mb

from tests.mil.building import save
from workbench.mil.examine import Examination, examine
from workbench.mil.findings import KINDS
from workbench.mil.numerics import VANISHES_TO


def seen(folder: Path, build: Any, inputs: dict[str, Any], **more: Any) -> Examination:
    since = more.pop("since", "iOS17")
    return examine(save(build, inputs, folder, since=since, **more))


def half(*shape: int) -> np.ndarray:
    return np.ones(shape, np.float16)


def of(examination: Examination, kind: str) -> list[tuple[str, tuple[str, ...]]]:
    return [(finding.text, finding.ops) for finding in examination.findings if finding.kind == kind]


def test_a_clean_fp16_program_gives_nothing(tmp_path: Path) -> None:
    w = np.random.default_rng(0).standard_normal((4, 8)).astype(np.float16)
    mask = np.array([0, -1e4, 0, 0], np.float16)

    def build(x: Any) -> Any:
        y = mb.layer_norm(x=mb.linear(x=x, weight=w), axes=[-1], epsilon=np.float16(1e-5))
        return mb.softmax(x=mb.add(x=y, y=mask), axis=-1, name="out")

    found = seen(tmp_path, build, {"x": half(2, 8)})
    assert found.findings == ()
    assert (found.precision, found.opset, found.function, found.functions) == ("fp16", "iOS17", "main", ("main",))
    assert found.specification == 8 and found.path == str(tmp_path / "program.mlpackage")
    assert found.inputs == ("x: fp16[2, 8]",) and found.outputs == ("out: fp16[2, 4]",) and found.states == ()
    assert {row.type for row in found.ops} == {"linear", "layer_norm", "add", "softmax"}
    assert "com.github.apple.coremltools.version" in found.metadata


def test_json_is_plain_and_whole(tmp_path: Path) -> None:
    found = seen(tmp_path, lambda x: mb.linear(x=x, weight=np.ones((32, 64), np.float32)), {"x": np.ones((1, 64), np.float32)})
    held = json.loads(json.dumps(found.to_json()))
    assert held["ops"][0]["type"] == "linear" and held["weights"][0]["kind"] == "none"
    assert {finding["kind"] for finding in held["findings"]} <= set(KINDS)
    assert held["weights"][0]["bits_per_weight"] == 32


@pytest.mark.parametrize(
    "build, x, precision",
    [
        (lambda x: mb.relu(x=mb.cast(x=x, dtype="fp16")), np.ones(2, np.float32), "fp16"),
        (lambda x: mb.relu(x=x), np.ones(2, np.float32), "fp32"),
        (lambda x: mb.relu(x=mb.cast(x=mb.relu(x=x), dtype="fp16")), np.ones(2, np.float32), "mixed"),
        (lambda x: mb.add(x=x, y=np.int32(1)), np.ones(2, np.int32), "none"),
        (lambda x: mb.cast(x=x, dtype="fp32"), np.ones(2, np.int32), "fp32"),
    ],
)
def test_the_precision_is_what_the_ops_compute_in(tmp_path: Path, build: Any, x: np.ndarray, precision: str) -> None:
    assert seen(tmp_path, build, {"x": x}).precision == precision


def test_flexible_inputs_and_shapes_known_at_run_time(tmp_path: Path) -> None:
    build = lambda x: mb.add(x=mb.non_zero(x=mb.relu(x=x, name="first"), name="places"), y=np.int32(1), name="last")  # noqa: E731
    found = seen(tmp_path, build, {"x": ((None, 4), np.float32)})
    (inputs, none), (values, ops) = of(found, "dynamic-shape")
    assert "1 input of flexible shape ('x: fp32[1..64, 4]')" in inputs and none == ()
    assert "of 3 values" in values and ops == ("first", "places", "last")
    fixed = seen(tmp_path, lambda x: mb.relu(x=x), {"x": np.ones((2, 4), np.float32)})
    assert of(fixed, "dynamic-shape") == []


ONES = np.ones(4, np.float32)
RESULT = {"x": half(1, 4, 20, 20)}
ENGINE = [
    ("above 16,384", lambda x: mb.tile(x=mb.reshape(x=x, shape=[1600]), reps=[11], name="op"), RESULT),
    ("kernel", lambda x: mb.max_pool(x=x, kernel_sizes=[14, 14], strides=[1, 1], pad_type="valid", name="op"), RESULT),
    ("kernel", lambda x: mb.conv(x=x, weight=half(2, 4, 15, 3), name="op"), RESULT),
    ("strides", lambda x: mb.avg_pool(x=x, kernel_sizes=[4, 4], strides=[4, 4], pad_type="valid", name="op"), RESULT),
    ("upsampling", lambda x: mb.upsample_nearest_neighbor(x=x, scale_factor_height=3.0, scale_factor_width=3.0, name="op"), RESULT),
    ("dilated", lambda x: mb.conv(x=x, weight=half(2, 4, 3, 3), dilations=[2, 2], name="op"), RESULT),
    ("gathers", lambda x: mb.gather(x=x, indices=np.array([1], np.int32), axis=1, name="op"), RESULT),
    ("largest", lambda x: mb.topk(x=x, k=2, axis=-1, name="op")[0], RESULT),
    ("branches", lambda x: mb.cond(
        pred=mb.squeeze(x=mb.cast(x=mb.reduce_max(x=x), dtype="bool")), _true_fn=lambda: mb.relu(x=x), _false_fn=lambda: mb.exp(x=x),
        name="op"), RESULT),
    ("fp32", lambda x: mb.relu(x=mb.cast(x=x, dtype="fp32"), name="op"), RESULT),
    ("int32", lambda x: mb.add(x=mb.cast(x=x, dtype="int32"), y=np.int32(1), name="op"), RESULT),
]  # fmt: skip


@pytest.mark.parametrize("word, build, inputs", ENGINE, ids=[case[0] + str(number) for number, case in enumerate(ENGINE)])
def test_what_tends_to_leave_the_neural_engine(tmp_path: Path, word: str, build: Any, inputs: dict[str, Any]) -> None:
    (found,) = of(seen(tmp_path, build, inputs, since="iOS16"), "neural-engine")
    text, ops = found
    assert word in text and ops == ("op",)
    assert "tends to" in text and "will" not in text and text.endswith("]")


def test_dilation_widens_a_kernel(tmp_path: Path) -> None:
    build = lambda x: mb.conv(x=x, weight=half(2, 4, 1, 7), dilations=[1, 3], name="op")  # noqa: E731
    assert [ops for _, ops in of(seen(tmp_path, build, RESULT), "neural-engine")] == [("op",), ("op",)]  # dilated, and 19 wide


@pytest.mark.parametrize(
    "build",
    [
        lambda x: mb.max_pool(x=x, kernel_sizes=[13, 13], strides=[2, 2], pad_type="valid"),
        lambda x: mb.conv(x=x, weight=half(2, 4, 7, 7), dilations=[1, 1]),
        lambda x: mb.upsample_nearest_neighbor(x=x, scale_factor_height=2.0, scale_factor_width=2.0),
        lambda x: mb.reshape(x=x, shape=[1, 2, 2, 20, 20]),
        lambda x: mb.matmul(x=x, y=x),
    ],
)
def test_what_does_not(tmp_path: Path, build: Any) -> None:
    assert of(seen(tmp_path, build, RESULT), "neural-engine") == []


def test_a_state_of_an_uneven_width(tmp_path: Path) -> None:
    build = lambda x, memory: mb.add(x=x, y=mb.read_state(input=memory))  # noqa: E731
    uneven = seen(tmp_path, build, {"x": half(3)}, since="iOS18", states={"memory": ((3,), np.float16)})
    assert "'memory'" in of(uneven, "neural-engine")[0][0] and uneven.states == ("memory: state fp16[3]",)
    even = seen(tmp_path, build, {"x": half(64)}, since="iOS18", states={"memory": ((64,), np.float16)})
    assert of(even, "neural-engine") == []


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_constants_that_are_not_finite(tmp_path: Path, dtype: Any) -> None:
    with np.errstate(over="ignore"):
        mask = np.array([0, -3.4e38, 0, -3.4e38]).astype(dtype)
    mask[0] = -np.inf
    found = of(seen(tmp_path, lambda x: mb.add(x=x, y=mask, name="masked"), {"x": np.ones(4, dtype)}), "constant")
    ((text, ops),) = found
    assert f"{int(np.isneginf(mask).sum())} times -infinity among 4 values" in text and ops == ("masked",)
    assert int(np.isneginf(mask).sum()) == (3 if dtype is np.float16 else 1)
    safe = seen(tmp_path, lambda x: mb.add(x=x, y=np.full(4, -1e4, dtype)), {"x": np.ones(4, dtype)})
    assert of(safe, "constant") == []


def test_nan_in_a_weight_file(tmp_path: Path) -> None:
    weight = np.ones((64, 64), np.float16)
    weight[3, 5] = np.nan
    found = of(seen(tmp_path, lambda x: mb.linear(x=x, weight=weight, name="dense"), {"x": half(1, 64)}), "constant")
    ((text, ops),) = found
    assert "1 times NaN among 4,096 values" in text and "is NaN" in text and ops == ("dense",)


@pytest.mark.parametrize(
    "op, build",
    [
        ("rsqrt", lambda x, e: mb.rsqrt(x=x, epsilon=e, name="op")),
        ("inverse", lambda x, e: mb.inverse(x=x, epsilon=e, name="op")),
        ("log", lambda x, e: mb.log(x=x, epsilon=e, name="op")),
        ("layer_norm", lambda x, e: mb.layer_norm(x=x, axes=[-1], epsilon=e, name="op")),
        ("l2_norm", lambda x, e: mb.l2_norm(x=x, epsilon=e, name="op")),
        ("instance_norm", lambda x, e: mb.instance_norm(x=x, epsilon=e, name="op")),
        (
            "batch_norm",
            lambda x, e: mb.batch_norm(x=x, mean=np.zeros(4, np.float32), variance=np.float32([0, 1, 1, 1]), epsilon=e, name="op"),
        ),
    ],
)
def test_epsilons_that_vanish_in_fp16(tmp_path: Path, op: str, build: Any) -> None:
    for epsilon, vanishes in ((1e-12, True), (VANISHES_TO, True), (6e-8, False), (1e-5, False)):
        assert (np.float16(epsilon) == 0) == vanishes
        found = of(seen(tmp_path, lambda x, e=epsilon: build(x, np.float32(e)), RESULT), "nan")
        assert [ops for _, ops in found] == ([("op",)] if vanishes else [])
        assert not found or op in found[0][0]
    wide = (
        seen(tmp_path, lambda x: build(x, np.float32(1e-12)), {"x": np.ones((1, 4, 20, 20), np.float32)}) if op == "rsqrt" else None
    )
    assert wide is None or of(wide, "nan") == []


def test_an_epsilon_that_nothing_depends_on(tmp_path: Path) -> None:
    batch = lambda x: mb.batch_norm(x=x, mean=ONES, variance=ONES, epsilon=np.float32(1e-12))  # noqa: E731
    assert of(seen(tmp_path, batch, RESULT), "nan") == []  # no variance is 0
    assert of(seen(tmp_path, lambda x: mb.log(x=x), RESULT), "nan") == []  # MIL's own, which nobody chose


def test_division_by_a_constant_that_holds_0(tmp_path: Path) -> None:
    ((text, ops),) = of(seen(tmp_path, lambda x: mb.real_div(x=x, y=np.float16([1, 0]), name="op"), {"x": half(2)}), "nan")
    assert ops == ("op",) and "0 in 1 of 2 places" in text
    assert of(seen(tmp_path, lambda x: mb.real_div(x=x, y=np.float16([1, 2])), {"x": half(2)}), "nan") == []


def test_a_weight_that_stayed_as_it_was_while_others_were_compressed(tmp_path: Path) -> None:
    def build(x: Any, compress: bool) -> Any:
        weight = np.ones((64, 64), np.float16)
        if compress:
            zero = np.int8(0)
            weight = mb.constexpr_affine_dequantize(
                quantized_data=np.ones((64, 64), np.int8), zero_point=zero, scale=np.float16(0.1), axis=np.int32(0)
            )
        return mb.linear(x=mb.linear(x=x, weight=weight, name="small"), weight=np.full((64, 64), 2, np.float16), name="left")

    found = seen(tmp_path, lambda x: build(x, True), {"x": half(1, 64)}, since="iOS16")
    ((text, ops),) = of(found, "compression")
    assert ops == ("left",) and "1 weight of 8,192 bytes" in text and "int8" in text
    assert [weight.kind for weight in found.weights] == ["int8", "none"]
    assert of(seen(tmp_path, lambda x: build(x, False), {"x": half(1, 64)}), "compression") == []
