"""ONNX's own implementation behind the interface of programs, and both executors against torch in the low types."""

import numpy as np
import pytest

pytest.importorskip("onnxruntime")
torch = pytest.importorskip("torch")
pytest.importorskip("onnx")

from tests.backends.onnx_graphs import (  # noqa: E402
    BOOL,
    BRAIN,
    FLOAT,
    HALF,
    WEIGHT,
    array,
    chain,
    constant,
    model,
    node,
    outside,
    plain,
    quantized,
    saved,
)
from workbench.backends.onnx_file import read  # noqa: E402
from workbench.backends.onnx_reference import ReferenceEvaluatorProgram  # noqa: E402
from workbench.backends.onnx_session import SessionProgram  # noqa: E402
from workbench.errors import ItemError, ModelError, UsageError  # noqa: E402

ONES = {"x": np.ones((2, 4), np.float32), "n": np.array([3], np.int32)}
DTYPES = {HALF: torch.float16, BRAIN: torch.bfloat16}


@pytest.fixture(scope="module")
def here(tmp_path_factory):
    return tmp_path_factory.mktemp("reference")


@pytest.fixture(scope="module")
def program(here):
    return ReferenceEvaluatorProgram(read(saved(here / "plain.onnx", plain())))


def both(here, made):
    file = read(saved(here / f"{hash(made.SerializeToString())}.onnx", made))
    return ReferenceEvaluatorProgram(file), SessionProgram(file, reading="pure")


def test_it_computes_and_has_no_timing(program):
    given = np.linspace(-1, 1, 20).reshape(5, 4)
    found = program({"x": given, "n": 4})
    assert list(found) == ["y", "squared"] and found["y"].dtype == np.float32 and found["squared"].tolist() == [16]
    np.testing.assert_allclose(found["y"], np.maximum(given @ WEIGHT, 0) + 1, rtol=1e-6)
    told = program.describe()
    assert program.evidence == "reference" and told["timing"] is None and told["executor"].startswith("onnx.reference 1.")


def test_the_same_numbers_as_onnx_runtime(here):
    given = {"x": np.linspace(-3, 3, 8, dtype=np.float32).reshape(2, 4)}
    one, other = both(here, quantized())
    np.testing.assert_allclose(one(given)["y"], other(given)["y"], rtol=1e-6)


def test_inner_values_and_what_is_not_there(program):
    outputs, seen = program.observe(ONES, ["rectified", "y"])
    np.testing.assert_array_equal(seen["rectified"] + 1, outputs["y"])
    with pytest.raises(ModelError, match="computes no value 'nothing'"):
        program.observe(ONES, ["nothing"])
    with pytest.raises(UsageError, match="has no states"):
        program.make_state()
    with pytest.raises(ItemError, match="was given one"):
        program(ONES, object())
    with pytest.raises(ItemError, match="'n' is missing"):
        program({"x": ONES["x"]})


def test_an_op_that_fails_is_named(here):
    nodes = [node("Reshape", "x shape", "y", name="node_view_7")]
    made = model(nodes, [array("x", FLOAT, ["n"])], [array("y", FLOAT, [2, None])], [constant("shape", np.int64([2, 3]))])
    program = both(here, made)[0]
    with pytest.raises(ItemError, match="the Reshape node 'node_view_7' could not be computed") as caught:
        program({"x": np.zeros(7)})
    assert caught.value.reason == "model" and "7" in caught.value.why


def test_outputs_are_nobody_else_s(here):
    """numpy's views of inputs and weights must not come out."""
    made = model(
        [node("Identity", "x", "y"), node("Transpose", "w", "t", perm=[1, 0])],
        [array("x", FLOAT, [2])],
        [array("y", FLOAT, [2]), array("t", FLOAT, [3, 4])],
        [constant("w", WEIGHT)],
    )
    program = both(here, made)[0]
    given = np.float32([1, 2])
    found = program({"x": given})
    found["y"][:] = found["t"][:] = 9
    assert given.tolist() == [1, 2]
    np.testing.assert_array_equal(program({"x": given})["t"], WEIGHT.T)


def test_weights_beside_the_file(tmp_path, program):
    found = ReferenceEvaluatorProgram(read(outside(tmp_path, bytes_=WEIGHT.tobytes())))
    np.testing.assert_array_equal(found(ONES)["y"], program(ONES)["y"])


def test_a_chain_in_bfloat16_is_torch_s(here):
    given = np.linspace(-12, 12, 500, dtype=np.float32)
    program = both(here, chain(BRAIN))[0]
    low = torch.from_numpy(given).bfloat16()
    wanted = (low * low).sqrt().exp().log().float().numpy()
    np.testing.assert_array_equal(program({"x": given})["y"], wanted)
    assert program.observe({"x": given}, ["a"])[1]["a"].dtype == np.float32
    assert "bfloat16: each op" in program.describe()["notes"][0]


def test_inner_graphs_read_what_is_around_them(here):
    from onnx import helper

    body = helper.make_graph(
        [node("Add", "s low", "s2"), node("Identity", "c", "c2")],
        "body",
        [array("i", 7, []), array("c", BOOL, []), array("s", BRAIN, [3])],
        [array("c2", BOOL, []), array("s2", BRAIN, [3])],
    )
    made = model(
        [
            node("Cast", "x", "low", to=BRAIN),
            node("Loop", "times on low", "sum", body=body),
            node("Cast", "sum", "y", to=FLOAT),
        ],
        [array("x", FLOAT, [3])],
        [array("y", FLOAT, [3])],
        [constant("times", np.int64(9)), constant("on", np.bool_(True))],
        opset=22,
    )
    given = np.float32([0.1, 1.3, 100.7])
    low = torch.from_numpy(given).bfloat16()
    wanted = low
    for _ in range(9):
        wanted = wanted + low
    for program in both(here, made):
        np.testing.assert_array_equal(program({"x": given})["y"], wanted.float().numpy())


def ops(kind):
    """(name, nodes from ``x`` to ``y``, constants, what torch computes) in a low type."""
    rng = np.random.default_rng(0)
    torch_of = lambda values: torch.from_numpy(values).to(DTYPES[kind])  # noqa: E731
    w, b = rng.standard_normal((24, 16), np.float32), rng.standard_normal(24, np.float32)
    k, scale = rng.standard_normal((8, 6, 3), np.float32), rng.standard_normal(24, np.float32)
    f = torch.nn.functional
    yield "MatMul", [node("MatMul", "x w", "y")], {"w": w}, lambda x: x @ torch_of(w)
    yield "Conv", [node("Conv", "x k", "y", pads=[1, 1])], {"k": k}, lambda x: f.conv1d(x, torch_of(k), padding=1)
    yield "Gelu", [node("Gelu", "x", "y")], {}, f.gelu
    yield "Gelu tanh", [node("Gelu", "x", "y", approximate="tanh")], {}, lambda x: f.gelu(x, approximate="tanh")
    yield "Softmax", [node("Softmax", "x", "y", axis=-1)], {}, lambda x: x.softmax(-1)
    yield (
        "LayerNormalization",
        [node("LayerNormalization", "x s b", "y", axis=-1, epsilon=1e-5)],
        {"s": scale, "b": b},
        lambda x: f.layer_norm(x, (24,), torch_of(scale), torch_of(b), 1e-5),
    )
    yield "Erf", [node("Erf", "x", "y")], {}, torch.erf
    yield "Add", [node("Add", "x b", "y")], {"b": b}, lambda x: x + torch_of(b)
    yield (
        "Transpose, Slice",
        [
            node("Transpose", "x", "t", perm=[0, 2, 1]),
            node("Slice", "t from to axis", "y"),
        ],
        {"from": np.int64([1]), "to": np.int64([9]), "axis": np.int64([1])},
        lambda x: x.transpose(1, 2)[:, 1:9],
    )
    yield "ReduceMean", [node("ReduceMean", "x axis", "y")], {"axis": np.int64([-1])}, lambda x: x.mean(-1, keepdim=True)


@pytest.mark.parametrize("kind", [HALF, BRAIN])
def test_every_op_as_torch_computes_it_in_that_type(here, kind):
    """One op, one rounding: torch's CPU kernels compute in float32 too, so all but few values agree to the last bit."""
    given = np.random.default_rng(1).standard_normal((2, 6, 24), np.float32)
    low = torch.from_numpy(given).to(DTYPES[kind])
    for name, nodes, constants, compute in ops(kind):
        made = model(
            [node("Cast", "given", "x", to=kind), *nodes, node("Cast", "y", "found", to=FLOAT)],
            [array("given", FLOAT, [2, 6, 24])],
            [array("found", FLOAT, [None, None, None])],
            [constant(key, value, kind if value.dtype == np.float32 else None) for key, value in constants.items()],
            opset=22,
        )
        with torch.no_grad():
            wanted = compute(low).float().numpy()
        unit = 2.0 ** (-10 if kind == HALF else -7)  # of the last place
        for program in both(here, made):
            found = program({"given": given})["found"]
            assert found.shape == wanted.shape, name
            np.testing.assert_allclose(found, wanted, rtol=1.01 * unit, atol=2e-6, err_msg=name)
            assert (found == wanted).mean() > 0.97, (name, (found == wanted).mean())


def test_ops_of_a_runtime_are_not_its(here):
    from onnx import helper

    made = model(
        [helper.make_node("FusedMatMul", ["x", "w"], ["y"], name="fused", domain="com.microsoft")],
        [array("x", FLOAT, [2, 4])],
        [array("y", FLOAT, [2, 3])],
        [constant("w", WEIGHT)],
        others=[("com.microsoft", 1)],
    )
    file = read(saved(here / "fused.onnx", made))
    assert file.custom == (("com.microsoft", "FusedMatMul", "fused"),)
    np.testing.assert_allclose(SessionProgram(file)({"x": ONES["x"]})["y"], ONES["x"] @ WEIGHT, rtol=1e-6)
    with pytest.raises(ModelError, match="FusedMatMul of com.microsoft") as caught:
        ReferenceEvaluatorProgram(file)
    assert caught.value.fix == "?executor=onnxruntime"
