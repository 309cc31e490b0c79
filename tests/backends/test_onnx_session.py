"""Programs in ONNX Runtime: arrays in and out, both readings, and what is observed."""

from collections import Counter

import numpy as np
import pytest

pytest.importorskip("onnxruntime")
torch = pytest.importorskip("torch")
pytest.importorskip("onnx")

from tests.backends.onnx_graphs import (  # noqa: E402
    BRAIN,
    FLOAT,
    HALF,
    INT32,
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
from workbench.backends import onnx_session  # noqa: E402
from workbench.backends.base import TensorSpec  # noqa: E402
from workbench.backends.onnx_file import read  # noqa: E402
from workbench.backends.onnx_session import SessionProgram, session_options  # noqa: E402
from workbench.backends.onnx_stepwise import stepwise  # noqa: E402
from workbench.errors import ItemError, ModelError, UsageError  # noqa: E402

ONES = {"x": np.ones((2, 4), np.float32), "n": np.array([3], np.int32)}


@pytest.fixture(scope="module")
def here(tmp_path_factory):
    return tmp_path_factory.mktemp("onnx")


@pytest.fixture(scope="module")
def program(here):
    return SessionProgram(read(saved(here / "plain.onnx", plain())))


def opened(here, made, **options):
    path = saved(here / f"{hash(made.SerializeToString())}.onnx", made)
    return SessionProgram(read(path), **options)


def test_arrays_in_arrays_out(program):
    assert program.inputs == (TensorSpec("x", "float32", (None, 4)), TensorSpec("n", "int32", (1,)))
    assert program.outputs[0] == TensorSpec("y", "float32", (None, 3)) and program.states == ()
    given = np.linspace(-1, 1, 20).reshape(5, 4)
    found = program({"x": given, "n": 4})
    assert found["y"].dtype == np.float32 and found["squared"].tolist() == [16]
    np.testing.assert_allclose(found["y"], np.maximum(given @ WEIGHT, 0) + 1, rtol=1e-6)
    told = program.describe()
    assert told["timing"]["first_seconds"] > 0 and told["session"]["graph_optimization_level"] == "ORT_ENABLE_ALL"
    assert told["opset"] == "20" and told["notes"] == []


def test_as_a_reference_it_has_no_timing(here):
    program = opened(here, plain(), reading="pure", evidence="reference")
    program(ONES)
    assert program.evidence == "reference" and program.describe()["timing"] is None


@pytest.mark.parametrize(
    ("given", "word"),
    [
        ({"x": ONES["x"]}, "'n' is missing"),
        ({**ONES, "z": 1}, "no input 'z'"),
        ({**ONES, "x": np.ones((2, 5))}, r"has the shape \[2, 5\]"),
        ({**ONES, "x": np.ones(4)}, "has the shape"),
        ({**ONES, "x": np.full((1, 4), np.nan)}, "4 NaN of 4"),
        ({**ONES, "x": [["a"] * 4]}, "holds"),
        ({**ONES, "x": [[1, 2], [3]]}, "no array"),
        ({**ONES, "n": [1.5]}, "with fractions"),
        ({**ONES, "n": [2**40]}, "holds 1099511627776 to"),
    ],
)
def test_inputs_that_do_not_fit_are_the_item_s_error(program, given, word):
    with pytest.raises(ItemError, match=word) as caught:
        program(given)
    assert caught.value.reason == "model" and caught.value.why


def test_states_are_refused(program):
    with pytest.raises(UsageError, match="has no states"):
        program.make_state()
    with pytest.raises(ItemError, match="no states, and was given one"):
        program(ONES, object())


def test_nan_that_was_computed_is_kept(here):
    program = opened(here, model([node("Log", "x", "y")], [array("x", FLOAT, [2])], [array("y", FLOAT, [2])]))
    assert np.isnan(program({"x": np.float32([-1, 1])})["y"]).tolist() == [True, False]


@pytest.mark.parametrize("reading", ["optimised", "pure"])
def test_an_op_that_fails_is_named(here, reading):
    nodes = [node("Reshape", "x shape", "y", name="node_view_7")]
    made = model(nodes, [array("x", FLOAT, ["n"])], [array("y", FLOAT, [2, None])], [constant("shape", np.int64([2, 3]))])
    program = opened(here, made, reading=reading)
    assert program({"x": np.zeros(6)})["y"].shape == (2, 3)
    with pytest.raises(ItemError, match="the Reshape node 'node_view_7' could not be computed") as caught:
        program({"x": np.zeros(7)})
    assert "onnxruntime_src" not in caught.value.why and "7" in caught.value.why
    assert program({"x": np.zeros(6)})["y"].shape == (2, 3)  # and it goes on


def test_arrays_that_stay_are_checked_once(program, monkeypatch):
    from workbench.backends import arrays

    checked = []
    real = arrays.checked
    monkeypatch.setattr(arrays, "checked", lambda spec, given: checked.append(spec.name) or real(spec, given))
    fixed = np.full((2, 4), 0.5)  # not even of the type declared: it is converted once
    fixed.setflags(write=False)
    wanted = program({**ONES, "x": fixed})["y"]
    for _ in range(2):
        np.testing.assert_array_equal(program({**ONES, "x": fixed})["y"], wanted)
    assert checked == ["x", "n", "n", "n"]
    other = fixed + 1
    assert not np.array_equal(program({**ONES, "x": other})["y"], wanted)
    fixed.setflags(write=True)
    fixed += 1
    np.testing.assert_array_equal(program({**ONES, "x": fixed})["y"], program({**ONES, "x": other})["y"])


def test_outputs_are_nobody_else_s(here):
    program = opened(here, model([node("Identity", "x", "y")], [array("x", FLOAT, [2])], [array("y", FLOAT, [2])]))
    given = np.float32([1, 2])
    found = program({"x": given})["y"]
    found[:] = 9
    assert given.tolist() == [1, 2] and program({"x": given})["y"].tolist() == [1, 2]


def test_inner_values_are_seen(program):
    outputs, seen = program.observe(ONES, ["rectified", "y", "product", "rectified"])
    assert list(seen) == ["rectified", "y", "product"] and list(outputs) == ["y", "squared"]
    np.testing.assert_array_equal(np.maximum(seen["product"], 0), seen["rectified"])
    np.testing.assert_array_equal(outputs["y"], program(ONES)["y"])
    again = program._observing
    program.observe(ONES, ["product", "rectified"])
    assert len(again) == 1  # the same values: the same session
    with pytest.raises(ModelError, match="computes no value 'nothing'") as caught:
        program.observe(ONES, ["y", "nothing", "w"])
    assert "2 of 3" in caught.value.why


@pytest.mark.parametrize(("kind", "dtype"), [(HALF, torch.float16), (BRAIN, torch.bfloat16)])
def test_a_pure_reading_rounds_after_every_op(here, kind, dtype):
    given = np.linspace(-12, 12, 500, dtype=np.float32)
    program = opened(here, chain(kind), reading="pure")
    with torch.no_grad():
        low = torch.from_numpy(given).to(dtype)
        squared = low * low
        wanted = squared.sqrt().exp().log().float().numpy()
    np.testing.assert_array_equal(program({"x": given})["y"], wanted)
    seen = program.observe({"x": given}, ["a", "c"])[1]
    assert seen["a"].dtype == (np.float16 if kind == HALF else np.float32)
    np.testing.assert_array_equal(seen["a"].astype(np.float32), squared.float().numpy())
    assert "its result rounded (5 values)" in program.describe()["notes"][0]


def test_onnx_runtime_by_itself_drops_the_roundings(here):
    """Why the pure reading puts casts in: with all optimisation off the chain is still computed in float32."""
    import onnxruntime

    made = chain(HALF)
    given = np.linspace(-12, 12, 500, dtype=np.float32)
    pure = opened(here, made, reading="pure")({"x": given})["y"]
    session = onnxruntime.InferenceSession(made.SerializeToString(), session_options(onnxruntime, "pure", 1))
    assert (session.run(None, {"x": given})[0] != pure).any()
    usual = opened(here, made)
    assert (usual({"x": given})["y"] != pure).any()
    (note,) = usual.describe()["notes"]
    assert "4 nodes in float32" in note and all(op in note for op in ("Mul", "Sqrt", "Exp", "Log"))


def as_run(made, reading, path):
    """The graph that ONNX Runtime runs, as it writes it down itself."""
    import onnx
    import onnxruntime

    options = session_options(onnxruntime, reading, 1)
    options.optimized_model_filepath = str(path)
    onnxruntime.InferenceSession(made.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return onnx.load(path)


def test_a_pure_reading_fuses_and_folds_nothing(tmp_path):
    made = quantized()
    pure, usual = (as_run(made, reading, tmp_path / f"{reading}.onnx") for reading in ("pure", "optimised"))
    written = [(each.op_type, list(each.input), list(each.output)) for each in made.graph.node]
    assert [(each.op_type, list(each.input), list(each.output)) for each in pure.graph.node] == written
    assert {each.name: each.raw_data for each in pure.graph.initializer} == {
        each.name: each.raw_data for each in made.graph.initializer
    }
    assert Counter(each.op_type for each in usual.graph.node) != Counter(each[0] for each in written)


def test_the_casts_of_a_pure_reading_stay(tmp_path):
    lowered = stepwise(read(saved(tmp_path / "chain.onnx", chain(HALF))), inside=True).model
    run = as_run(lowered, "pure", tmp_path / "run.onnx")
    low = [
        [sum(a.i == HALF for a in each.attribute) for each in graph.node if each.op_type == "Cast"]
        for graph in (run.graph, lowered.graph)
    ]
    assert sum(low[0]) == sum(low[1]) == 5


def test_q_and_dq_are_two_ops(here):
    given = np.linspace(-3, 3, 8, dtype=np.float32).reshape(2, 4)
    made = quantized()
    held = {each.name: np.frombuffer(each.raw_data, np.int8).reshape(4, 3) for each in made.graph.initializer if each.name == "wq"}
    x = np.clip(np.rint(given / np.float32(0.02)), -128, 127) * np.float32(0.02)
    wanted = x @ (held["wq"] * np.float32([0.01, 0.02, 0.04])) * 2
    np.testing.assert_allclose(opened(here, made, reading="pure")({"x": given})["y"], wanted, rtol=1e-6)


def test_low_types_at_the_edge(here):
    """float16 arrays in and out; bfloat16 ones are float32 with values of bfloat16."""
    for kind, dtype in ((HALF, torch.float16), (BRAIN, torch.bfloat16)):
        made = model(
            [node("Add", "x w", "y")],
            [array("x", kind, [3])],
            [array("y", kind, [3])],
            [constant("w", [1.0, 1.001, 3.3], kind)],
            opset=22,
        )
        program = opened(here, made, reading="pure")
        given = np.float32([0.1, 0.2, 0.3])
        found = program({"x": given})["y"]
        wanted = torch.from_numpy(given).to(dtype) + torch.tensor([1.0, 1.001, 3.3]).to(dtype)
        assert found.dtype.name == program.outputs[0].dtype == ("float16" if kind == HALF else "float32")
        np.testing.assert_array_equal(found.astype(np.float32), wanted.float().numpy())


def test_bfloat16_as_it_is_says_what_to_type(here):
    with pytest.raises(ModelError, match="ONNX Runtime cannot load") as caught:
        opened(here, chain(BRAIN))
    assert caught.value.fix == "?reading=pure, or ?executor=reference"


def test_weights_beside_the_file(tmp_path, program):
    path = outside(tmp_path, bytes_=WEIGHT.tobytes())
    for reading in ("optimised", "pure"):
        found = SessionProgram(read(path), reading=reading)
        np.testing.assert_allclose(found(ONES)["y"], program(ONES)["y"], rtol=1e-6)
        assert found.observe(ONES, ["product"])[1]["product"].shape == (2, 3)


def test_weights_behind_the_links_of_a_hub_cache(tmp_path, program):
    folder, blobs = tmp_path / "models--org--net" / "snapshots" / "f00", tmp_path / "models--org--net" / "blobs"
    folder.mkdir(parents=True)
    blobs.mkdir()
    path = outside(folder)
    (blobs / "abc").write_bytes(WEIGHT.tobytes())
    (folder / "weights.data").symlink_to("../../blobs/abc")
    for itself in (False, True):
        if itself:
            path.rename(blobs / "def")
            path.symlink_to("../../blobs/def")
        assert read(path).linked
        for reading in ("optimised", "pure"):
            found = SessionProgram(read(path), reading=reading)
            np.testing.assert_allclose(found(ONES)["y"], program(ONES)["y"], rtol=1e-6)
            assert found.observe(ONES, ["product"])[1]["product"].shape == (2, 3)


def test_functions_and_inner_graphs_in_a_low_type(here):
    from onnx import helper

    swish = helper.make_function(
        "local", "Swish", ["a"], ["b"], [node("Sigmoid", "a", "s"), node("Mul", "a s", "b")], [helper.make_opsetid("", 22)]
    )
    yes = helper.make_graph([node("Exp", "low", "e")], "yes", [], [array("e", HALF, [3])])
    no = helper.make_graph([node("Neg", "low", "m")], "no", [], [array("m", HALF, [3])])
    made = model(
        [
            node("Cast", "x", "cast", to=HALF),
            helper.make_node("Swish", ["cast"], ["low"], name="swish", domain="local"),
            node("If", "p", "chosen", then_branch=yes, else_branch=no),
            node("Cast", "chosen", "y", to=FLOAT),
        ],
        [array("x", FLOAT, [3]), array("p", 9, [])],
        [array("y", FLOAT, [3])],
        opset=22,
        others=[("local", 1)],
        functions=[swish],
    )
    given = np.float32([0.3, -1.7, 2.2])
    program = opened(here, made, reading="pure")
    low = torch.from_numpy(given).half()
    low = low * low.sigmoid()
    for choice, wanted in ((True, low.exp()), (False, low.neg())):
        np.testing.assert_array_equal(program({"x": given, "p": choice})["y"], wanted.float().numpy())


def test_a_small_prediction_costs_little(program):
    """The floor under every step of a decoding loop: checks, the way into the runtime and out again."""
    import time

    program(ONES)
    best = float("inf")
    for _ in range(100):
        began = time.perf_counter()
        program(ONES)
        best = min(best, time.perf_counter() - began)
    assert best < 0.001


def test_where_nodes_run_is_asked_of_the_session(here, monkeypatch):
    """On an accelerator's provider; the CPU's own answer has the same form."""
    import onnxruntime

    options = session_options(onnxruntime, "pure", 1)
    options.add_session_config_entry(onnx_session.PLACES, "1")
    cpu = ["CPUExecutionProvider"]
    session = onnxruntime.InferenceSession(plain().SerializeToString(), options, providers=cpu)
    counts = {"MatMul": 1, "Relu": 1, "Add": 1, "Mul": 1}
    assert onnx_session.placed(session) == {"CPUExecutionProvider": counts} and onnx_session.placed(object()) == {}
    shared = {"CUDAExecutionProvider": {"MatMul": 1}, "CPUExecutionProvider": {"Relu": 1, "Add": 2}}
    monkeypatch.setattr(onnx_session, "placed", lambda _: shared)
    monkeypatch.setattr(onnxruntime.InferenceSession, "get_providers", lambda _: ["CUDAExecutionProvider", *cpu])
    with pytest.warns(UserWarning, match="Specified provider"):
        program = opened(here, plain(), provider="CUDAExecutionProvider", evidence="device")
    assert program.describe()["notes"] == ["3 nodes run on the CPU beside CUDAExecutionProvider: Relu, Add"]
    shared.pop("CUDAExecutionProvider")
    with pytest.warns(UserWarning), pytest.raises(ModelError, match="takes none of the nodes") as caught:
        opened(here, plain(), provider="CUDAExecutionProvider", evidence="device")
    assert caught.value.fix == "?provider=cpu"


def test_whole_numbers_alone_are_no_low_type(here):
    made = model([node("Add", "n n", "y")], [array("n", INT32, [1])], [array("y", INT32, [1])])
    assert opened(here, made, reading="pure")({"n": [2]})["y"].tolist() == [4]
