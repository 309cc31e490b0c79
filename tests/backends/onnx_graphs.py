"""Small ONNX graphs for the tests of the backend, written by ONNX's own helpers."""

import numpy as np

FLOAT, HALF, BRAIN, INT8, INT32, INT64, BOOL, STRING = 1, 10, 16, 3, 6, 7, 9, 8


def array(name, kind, shape):
    from onnx import helper

    return helper.make_tensor_value_info(name, kind, shape)


def constant(name, values, kind=None):
    """``kind``: an ONNX type that numpy has not, or the array's own."""
    import ml_dtypes
    from onnx import numpy_helper

    values = np.asarray(values)
    if kind in (HALF, BRAIN):
        values = values.astype({HALF: np.float16, BRAIN: ml_dtypes.bfloat16}[kind])
    return numpy_helper.from_array(values, name)


def node(op, inputs, outputs, name=None, **attributes):
    from onnx import helper

    return helper.make_node(op, inputs.split(), outputs.split(), name=name or f"node_{outputs.split()[0]}", **attributes)


def model(nodes, inputs, outputs, constants=(), opset=20, **more):
    from onnx import helper

    graph = helper.make_graph(nodes, "graph", list(inputs), list(outputs), list(constants))
    opsets = [helper.make_opsetid("", opset), *(helper.make_opsetid(*each) for each in more.pop("others", ()))]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10, **more)


def saved(path, made):
    path.write_bytes(made.SerializeToString())
    return path


WEIGHT = np.arange(12, dtype=np.float32).reshape(4, 3) / 8 - 0.5


def plain():
    """``y = relu(x @ WEIGHT) + 1`` of any number of rows; ``rows`` how often each was seen, whole numbers."""
    return model(
        [
            node("MatMul", "x w", "product"),
            node("Relu", "product", "rectified"),
            node("Add", "rectified one", "y"),
            node("Mul", "n n", "squared"),
        ],
        [array("x", FLOAT, ["batch", 4]), array("n", INT32, [1])],
        [array("y", FLOAT, ["batch", 3]), array("squared", INT32, [1])],
        [constant("w", WEIGHT), constant("one", np.float32(1))],
    )


def chain(kind, opset=22):
    """Four ops that each round: what is left of the roundings shows in the last digit."""
    return model(
        [
            node("Cast", "x", "low", to=kind),
            node("Mul", "low low", "a"),
            node("Sqrt", "a", "b"),
            node("Exp", "b", "c"),
            node("Log", "c", "d"),
            node("Cast", "d", "y", to=FLOAT),
        ],
        [array("x", FLOAT, ["n"])],
        [array("y", FLOAT, ["n"])],
        opset=opset,
    )


def quantized():
    """A MatMul whose input and weight go through Q/DQ pairs, the weight per channel, and a constant that could be folded."""
    return model(
        [
            node("QuantizeLinear", "x xs zero", "xq"),
            node("DequantizeLinear", "xq xs zero", "xd"),
            node("DequantizeLinear", "wq ws wz", "wd", axis=1),
            node("MatMul", "xd wd", "product"),
            node("Add", "one one", "two"),
            node("Mul", "product two", "y"),
        ],
        [array("x", FLOAT, [2, 4])],
        [array("y", FLOAT, [2, 3])],
        [
            constant("xs", np.float32(0.02)),
            constant("zero", np.int8(0)),
            constant("wq", np.int8(np.arange(12).reshape(4, 3) * 10 - 60)),
            constant("ws", np.float32([0.01, 0.02, 0.04])),
            constant("wz", np.zeros(3, np.int8)),
            constant("one", np.float32(1)),
        ],
    )


def outside(folder, location="weights.data", offset=0, length=48, bytes_=None):
    """``plain`` with its weight in a file beside it; returns the model's path."""
    made = plain()
    weight = made.graph.initializer[0]
    weight.ClearField("raw_data")
    weight.data_location = 1
    for key, value in (("location", location), ("offset", str(offset)), ("length", str(length))):
        entry = weight.external_data.add()
        entry.key, entry.value = key, value
    if bytes_ is not None:
        (folder / "weights.data").write_bytes(bytes_)
    return saved(folder / "outside.onnx", made)
