"""Ranges of activations: against numpy over what ONNX Runtime computes, and against ONNX Runtime's own calibrators on the same data."""

from __future__ import annotations

from pathlib import Path

import numpy
import pytest

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
from onnx import helper  # noqa: E402

from tests.convert.onnx_int8_models import inner_values, mixed, one_product, samples  # noqa: E402
from workbench.convert.onnx import calibration  # noqa: E402
from workbench.convert.onnx.calibration import BINS, LEVELS, PERCENTILE, check_feeds, digest, ranges  # noqa: E402
from workbench.errors import DataError, ModelError, UsageError  # noqa: E402

VALUES = ["sound", "stem", "hidden", "rows", "final"]


@pytest.fixture(scope="module")
def graph(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return mixed(tmp_path_factory.mktemp("mixed"))


@pytest.fixture(scope="module")
def feeds() -> list[dict[str, numpy.ndarray]]:
    return samples(12)


def flat(arrays: list[numpy.ndarray]) -> numpy.ndarray:
    return numpy.concatenate([array.ravel() for array in arrays])


def test_max_is_what_numpy_finds_in_onnx_runtimes_activations(graph, feeds):
    found = ranges(graph, VALUES, feeds, "max")
    for name, arrays in inner_values(graph, feeds, VALUES).items():
        values = flat(arrays)
        assert found[name].threshold == numpy.abs(values).max(), name
        assert (found[name].least, found[name].most) == (values.min(), values.max())
        assert found[name].values == values.size


@pytest.mark.parametrize("method", ["entropy", "percentile"])
def test_the_order_of_samples_changes_nothing(graph, feeds, method):
    assert ranges(graph, VALUES[1:3], feeds, method) == ranges(graph, VALUES[1:3], feeds[::-1], method)


@pytest.mark.parametrize("method", ["max", "entropy", "percentile"])
def test_other_samples_give_other_thresholds(graph, feeds, method):
    ours, others = (ranges(graph, VALUES[:3], each, method) for each in (feeds, samples(12, seed=5, size=2.0)))
    assert all(ours[name].threshold != others[name].threshold for name in VALUES[:3])


def test_entropy_is_onnx_runtimes_own_on_the_same_data(tmp_path):
    """Its calibrator stacks samples, so they have one length here, and it sees all of them at once."""
    from onnxruntime.quantization import CalibrationMethod, create_calibrator

    path = one_product(tmp_path, [helper.make_node("Tanh", ["x"], ["t"]), helper.make_node("Mul", ["t", "x"], ["u"])], "u")
    generator = numpy.random.default_rng(3)
    feeds = [{"x": generator.standard_t(3, (200, 4)).astype(numpy.float32)} for _ in range(5)]

    class Reader:
        def __init__(self):
            self.left = list(feeds)

        def get_next(self):
            return self.left.pop(0) if self.left else None

    calibrator = create_calibrator(
        path,
        ["MatMul"],
        str(tmp_path / "theirs.onnx"),
        CalibrationMethod.Entropy,
        extra_options={"symmetric": True, "num_bins": BINS["entropy"], "num_quantized_bins": LEVELS},
    )
    calibrator.collect_data(Reader())
    theirs = calibrator.compute_data()["u"]
    found = ranges(path, ["u"], feeds, "entropy")["u"]
    assert found.threshold == max(abs(float(theirs.lowest)), abs(float(theirs.highest)))
    assert found.threshold < max(abs(found.least), abs(found.most)), "the tails are to be cut off"


def test_percentile_is_numpys_to_a_bin(tmp_path):
    path = one_product(tmp_path)
    feeds = [{"x": numpy.random.default_rng(seed).standard_t(3, (25_000, 4)).astype(numpy.float32)} for seed in range(3)]
    found = ranges(path, ["x"], feeds, "percentile")["x"]
    values = numpy.abs(flat([feed["x"] for feed in feeds]))
    assert abs(found.threshold - numpy.percentile(values, PERCENTILE)) <= values.max() / BINS["percentile"]
    assert found.threshold < values.max()


def test_an_outlier_of_a_million_leaves_a_bin(tmp_path):
    path = one_product(tmp_path)
    x = numpy.random.default_rng(0).normal(size=(50_000, 4)).astype(numpy.float32)
    x[7, 1] = 1e6
    for method in ("entropy", "percentile"):
        found = ranges(path, ["x"], [{"x": x}], method)["x"]
        assert 1e6 / BINS[method] <= found.threshold <= 1e6, "never 0, which ONNX Runtime would make a scale of 1"


def test_a_constant_input_keeps_its_value(tmp_path):
    path = one_product(tmp_path)
    for method in ("max", "entropy", "percentile"):
        found = ranges(path, ["x"], [{"x": numpy.full((64, 4), 3.0, numpy.float32)}], method)["x"]
        assert found.threshold == pytest.approx(3.0, rel=2 / BINS.get(method, 512))


def test_zeros_have_no_threshold_and_say_so(tmp_path):
    for method in ("max", "entropy", "percentile"):
        found = ranges(one_product(tmp_path), ["x"], [{"x": numpy.zeros((2, 4), numpy.float32)}], method)["x"]
        assert found.zero and found.threshold == 0.0 and found.values == 8


def test_nan_inside_is_an_error_although_reduce_max_passes_over_it(tmp_path):
    path = one_product(tmp_path, [helper.make_node("Log", ["x"], ["logarithm"])], "logarithm")
    feeds = [{"x": numpy.ones((2, 4), numpy.float32)}, {"x": numpy.array([[1, 2, -1, 3]], numpy.float32)}]
    with pytest.raises(DataError, match="sample 1 of stage 'vision' makes the value 'logarithm' not finite"):
        ranges(path, ["logarithm"], feeds, "max", stage="vision")


def test_a_graph_that_cannot_run_names_the_sample(tmp_path):
    path = one_product(tmp_path, [helper.make_node("Reshape", ["x", "shape"], ["four"])], "four", shape=numpy.array([2, 4]))
    feeds = [{"x": numpy.ones((2, 4), numpy.float32)}, {"x": numpy.ones((3, 4), numpy.float32)}]
    with pytest.raises(ModelError, match="stage 'main' on calibration sample 1"):
        ranges(path, ["four"], feeds, "max", stage="main")


def test_nothing_is_printed_logged_or_left_behind(graph, feeds, capfd, caplog, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    for method in ("max", "entropy", "percentile"):
        ranges(graph, ["hidden"], feeds[:2], method)
    printed = capfd.readouterr()
    assert printed.out + printed.err == "" and not caplog.records
    assert list(tmp_path.iterdir()) == []
    assert [each.name for each in graph.parent.iterdir()] == [graph.name]


def test_weights_beyond_one_message_are_calibrated_with_external_data(graph, feeds, monkeypatch):
    expected = ranges(graph, ["hidden"], feeds[:2], "entropy")
    monkeypatch.setattr(calibration, "LARGE_BYTES", 100)
    assert ranges(graph, ["hidden"], feeds[:2], "entropy") == expected


def test_feeds_that_fit_pass_and_their_digest_tells_them_apart(graph, feeds):
    check_feeds(onnx.load(graph).graph.input, feeds, stage="main")
    assert digest(feeds) == digest([dict(reversed(feed.items())) for feed in feeds])
    assert len({digest(feeds), digest(feeds[:-1]), digest(feeds[::-1]), digest(samples(12, seed=1))}) == 4


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda feed: feed.pop("sound"), "sample 1 of stage 'main' has no array 'sound'"),
        (lambda feed: feed.update(noise=feed["sound"]), "has an array 'noise' too many"),
        (
            lambda feed: feed.update(sound=feed["sound"].astype("float64")),
            "input 'sound' is float64\n  why: the graph takes float32",
        ),
        (lambda feed: feed.update(tokens=feed["tokens"].astype("int64")), "input 'tokens' is int64\n  why: the graph takes int32"),
        (lambda feed: feed.update(sound=feed["sound"][0]), r"shape \[16, 4\]\n  why: the graph takes \[1, 16, T\]"),
        (lambda feed: feed.update(sound=feed["sound"][:, :8]), r"shape \[1, 8, 4\]\n  why: axis 1 is 8, and the graph has 16"),
        (lambda feed: feed.update(tokens=feed["tokens"][:, :2]), r"axis 2 is 4, and tokens has 2"),
        (lambda feed: feed["sound"].__setitem__((0, 3, 1), numpy.nan), "holds NaN or infinity"),
        (lambda feed: feed["sound"].__setitem__((0, 3, 1), numpy.inf), "holds NaN or infinity"),
    ],
)
def test_a_sample_that_does_not_fit_is_named(graph, change, words):
    bad = samples(3)
    change(bad[1])
    with pytest.raises(DataError, match=words) as caught:
        check_feeds(onnx.load(graph).graph.input, bad, stage="main")
    assert caught.value.fix and ("--calibrate" in caught.value.fix or "astype" in caught.value.fix)


def test_no_samples_are_an_error_with_the_option_to_type(graph):
    with pytest.raises(UsageError, match="no calibration sample reaches stage 'step'") as caught:
        check_feeds(onnx.load(graph).graph.input, [], stage="step")
    assert "--calibrate" in caught.value.fix
