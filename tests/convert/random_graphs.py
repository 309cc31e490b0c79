"""Small random ONNX graphs of every kind of node that a typing pass must tell apart, and arrays to run them on."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

onnx = pytest.importorskip("onnx")
from onnx import TensorProto, helper, numpy_helper  # noqa: E402

ROWS, WIDTH = 3, 8


class Drawing:
    """Values are [ROWS, WIDTH] floats; each step reads one or two of those made before it."""

    def __init__(self, seed: int, opset: int):
        self.drawn, self.opset = np.random.default_rng(seed), opset
        self.nodes: list[Any] = []
        self.stored: list[Any] = []
        self.floats = ["x", "y"]
        self.count = 0

    def name(self, kind: str) -> str:
        self.count += 1
        return f"{kind}_{self.count}"

    def weight(self, *shape: int, scale: float = 0.5, kind: Any = np.float32) -> str:
        name = self.name("w")
        values = np.asarray(self.drawn.normal(0, scale, shape)).astype(kind)
        self.stored.append(numpy_helper.from_array(values, name))
        return name

    def fixed(self, values: Any, kind: Any = np.float32) -> str:
        name = self.name("c")
        self.stored.append(numpy_helper.from_array(np.asarray(values, kind), name))
        return name

    def old(self) -> str:
        return str(self.drawn.choice(self.floats))

    def add(self, op: str, inputs: list[str], outputs: int = 1, keep: bool = True, **attributes: Any) -> list[str]:
        names = [self.name(op.lower()) for _ in range(outputs)]
        self.nodes.append(helper.make_node(op, inputs, names, name=self.name("n"), **attributes))
        if keep:
            self.floats.append(names[0])
        return names

    def step(self) -> None:
        steps = [getattr(self, name) for name in dir(self) if name.startswith("do_")]
        steps[self.drawn.integers(len(steps))]()

    def do_arithmetic(self) -> None:
        self.add(str(self.drawn.choice(["Add", "Sub", "Mul", "Max"])), [self.old(), self.old()])

    def do_curve(self) -> None:
        self.add(str(self.drawn.choice(["Tanh", "Sigmoid", "Relu", "Neg", "Identity", "Abs"])), [self.old()])

    def do_product(self) -> None:
        self.add("MatMul", [self.old(), self.weight(WIDTH, WIDTH, scale=0.3)])

    def do_shared_weight(self) -> None:
        weight = self.weight(WIDTH)
        self.add("Mul", [self.old(), weight])
        self.add("LayerNormalization", [self.old(), weight], axis=-1)

    def do_norm(self) -> None:
        self.add("LayerNormalization", [self.old(), self.weight(WIDTH), self.weight(WIDTH)], axis=-1)

    def do_norm_with_statistics(self) -> None:
        _, mean, _ = self.add("LayerNormalization", [self.old(), self.weight(WIDTH)], 3, axis=-1)
        self.add("Sub", [self.old(), mean])

    def do_written_norm(self) -> None:
        x = self.old()
        square = self.add("Pow", [x, self.fixed(2.0)], keep=False)[0]
        mean = self.add("ReduceMean", [square, self.fixed([-1], np.int64)], keep=False)[0]
        shifted = self.add("Add", [mean, self.fixed(1e-9)], keep=False)[0]
        self.add("Div", [x, self.add("Sqrt", [shifted], keep=False)[0]])

    def do_softmax(self) -> None:
        self.add("Softmax", [self.old()], axis=-1)

    def do_wave(self) -> None:
        angle = self.add("Mul", [self.old(), self.weight(WIDTH, scale=30)], keep=False)[0]
        self.add("Sin", [angle])

    def do_move(self) -> None:
        turned = self.add("Transpose", [self.old()], keep=False, perm=[1, 0])[0]
        self.add("Reshape", [turned, self.fixed([ROWS, WIDTH], np.int64)])

    def do_split(self) -> None:
        parts = self.add("Split", [self.old()], 2, keep=False, axis=1, num_outputs=2)
        self.add("Concat", parts[::-1], axis=1)

    def do_mask(self) -> None:
        number = float(self.drawn.choice([-np.inf, np.finfo(np.float32).min, -1e9, -30000, 0.5]))
        where = self.add("Greater", ["x", self.fixed(0.0)], keep=False)[0]  # rounding changes no sign
        masked = self.add("Where", [where, self.old(), self.fixed(number)], keep=False)[0]
        self.add("Softmax", [self.add("Add", [masked, self.old()], keep=False)[0]], axis=-1)

    def do_bound(self) -> None:
        self.add("Clip", [self.old(), "", self.fixed(float(self.drawn.choice([3.0, 1e9])))])

    def do_large(self) -> None:
        large = self.add("Mul", [self.old(), self.fixed(1e6)], keep=False)[0]
        self.add("Mul", [large, self.fixed(1e-6)])

    def do_whole(self) -> None:
        number = self.add("Cast", [self.old()], keep=False, to=TensorProto.INT64)[0]
        self.add("Cast", [number], to=TensorProto.FLOAT)

    def do_table(self) -> None:
        rows = self.add("Gather", [self.weight(6, WIDTH), "ids"], keep=False)[0]
        self.add("Add", [rows, self.old()])

    def do_like(self) -> None:
        self.add("CastLike", [self.old(), self.old()])

    def do_same_type(self) -> None:
        self.add("Cast", [self.old()], to=TensorProto.FLOAT)

    def do_filled(self) -> None:
        number = float(self.drawn.choice([0.25, 1e30]))
        value = helper.make_tensor("value", TensorProto.FLOAT, [1], [number])
        filled = self.add("ConstantOfShape", [self.add("Shape", [self.old()], keep=False)[0]], keep=False, value=value)[0]
        self.add("Min", [filled, self.old()])

    def do_constant(self) -> None:
        value = numpy_helper.from_array(np.float32([0.5] * WIDTH))
        self.add("Add", [self.old(), self.add("Constant", [], keep=False, value=value)[0]])

    def do_resize(self) -> None:
        four = self.add("Unsqueeze", [self.old(), self.fixed([0, 1], np.int64)], keep=False)[0]
        twice = self.add("Resize", [four, "", self.fixed([1, 1, 1, 2])], keep=False, mode="nearest")[0]
        half = self.add("Slice", [twice, *(self.fixed([n], np.int64) for n in (0, 2 * WIDTH, 3, 2))], keep=False)[0]
        self.add("Squeeze", [half, self.fixed([0, 1], np.int64)])

    def do_sorted(self) -> None:
        self.add("TopK", [self.old(), self.fixed([WIDTH], np.int64)], 2)

    def do_quantised(self) -> None:
        scale = self.fixed(float(self.drawn.choice([0.03, 1e-6])))
        whole = self.add("QuantizeLinear", [self.old(), scale, self.fixed(0, np.int8)], keep=False)[0]
        self.add("DequantizeLinear", [whole, scale, self.fixed(0, np.int8)])

    def do_dropout(self) -> None:
        self.add("Dropout", [self.old(), self.fixed(0.5)])

    def do_sequence(self) -> None:
        held = self.add("SequenceConstruct", [self.old(), self.old()], keep=False)[0]
        self.add("SequenceAt", [held, self.fixed(1, np.int64)])

    def do_branch(self) -> None:
        """One branch computes with two values from outside; the other with one."""
        first, second, more = self.old(), self.old(), self.name("then")
        shape = helper.make_tensor_value_info
        weight = numpy_helper.from_array(np.float32([2.0] * WIDTH), self.name("inner"))
        then = helper.make_graph(
            [helper.make_node("Add", [first, second], [f"{more}_0"]), helper.make_node("Mul", [f"{more}_0", weight.name], [more])],
            "then",
            [],
            [shape(more, TensorProto.FLOAT, [ROWS, WIDTH])],
            [weight],
        )
        name = self.name("else")
        other = helper.make_graph(
            [helper.make_node("Neg", [second], [name])], "else", [], [shape(name, TensorProto.FLOAT, [ROWS, WIDTH])]
        )
        self.add("If", ["flag"], then_branch=then, else_branch=other)

    def do_loop(self) -> None:
        name, start, outside = self.name("body"), self.old(), self.old()
        shape = helper.make_tensor_value_info
        body = helper.make_graph(
            [
                helper.make_node("Identity", [f"{name}_go"], [f"{name}_on"]),
                helper.make_node("Add", [f"{name}_in", outside], [f"{name}_out"]),
            ],
            name,
            [
                shape(f"{name}_n", TensorProto.INT64, []),
                shape(f"{name}_go", TensorProto.BOOL, []),
                shape(f"{name}_in", TensorProto.FLOAT, [ROWS, WIDTH]),
            ],
            [shape(f"{name}_on", TensorProto.BOOL, []), shape(f"{name}_out", TensorProto.FLOAT, [ROWS, WIDTH])],
        )
        self.add("Loop", [self.fixed(2, np.int64), "", start], body=body)

    def do_random(self) -> None:
        noise = self.add("RandomNormalLike", [self.old()], keep=False, seed=1.0)[0]
        self.add("Mul", [noise, self.fixed(0.0)])


def drawn(seed: int, opset: int = 20, steps: int = 14, outputs: int = 3) -> Any:
    """An ``onnx.ModelProto`` that the checker takes; its outputs are the last value, others, and sometimes a weight."""
    made = Drawing(seed, opset)
    for _ in range(steps):
        made.step()
    info = helper.make_tensor_value_info
    names = list(dict.fromkeys([made.floats[-1], *(made.old() for _ in range(outputs))]))
    shown = [info(name, TensorProto.FLOAT, [ROWS, WIDTH]) for name in names if name not in ("x", "y")]
    wide = [each for each in made.stored if each.data_type == TensorProto.FLOAT and list(each.dims) == [WIDTH]]
    if wide and seed % 3 == 0:
        shown.append(info(wide[0].name, TensorProto.FLOAT, [WIDTH]))
    inputs = [info(name, TensorProto.FLOAT, [ROWS, WIDTH]) for name in ("x", "y")]
    inputs += [info("ids", TensorProto.INT32, [ROWS]), info("flag", TensorProto.BOOL, [])]
    graph = helper.make_graph(made.nodes, f"drawn_{seed}", inputs, shown, made.stored)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)
    onnx.checker.check_model(model, full_check=True)
    return model


def arrays(seed: int) -> dict[str, np.ndarray]:
    random = np.random.default_rng(seed)
    return {
        "x": random.standard_normal((ROWS, WIDTH)).astype(np.float32),
        "y": random.standard_normal((ROWS, WIDTH)).astype(np.float32),
        "ids": random.integers(0, 6, ROWS).astype(np.int32),
        "flag": np.array(bool(seed % 2)),
    }
