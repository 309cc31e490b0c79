"""Ranges of activations over calibration samples: what the scales of an int8 graph are made from.

    check_feeds(graph_inputs, feeds, stage="vision")                       # names, types, shapes, NaN: DataError
    found = ranges(Path("vision.onnx"), ["layer_norm_1"], feeds, "max")
    found["layer_norm_1"]          # Range(threshold=4.31, least=-3.9, most=4.31, values=332_800)

The ranges are those of ONNX Runtime's calibrators (onnxruntime.quantization.calibrate, 1.31). They are fed one sample at a time, since
they stack what they are given: samples of different lengths do not stack, and thousands do not fit into memory. What is treated here:

- ``max_intermediate_outputs`` of its calibrator drops ranges without merging them, so it is not used; every sample is merged at once.
- Its ReduceMin and ReduceMax pass over NaN, so each value is looked at itself.
- Its entropy calibrator has 128 bins by default, as many as levels, and then always answers the largest value: see ``BINS``.
- Its histograms grow from the first sample's range, by any factor; here they begin with the range over all samples, so that the order
  of samples changes nothing.
"""

from __future__ import annotations

import hashlib
import io
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workbench.convert.stages.exporting import quiet
from workbench.errors import DataError, ModelError, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterable

    import onnx

METHODS = {"max": "MinMax", "entropy": "Entropy", "percentile": "Percentile"}
"""A recipe's calibration -> the name of ONNX Runtime's method."""
BINS = {"entropy": 512, "percentile": 2048}
"""Bins of a histogram, over [-max, max] for entropy and [0, max] for percentile. More bins let entropy cut more off: with 2048, as in
TensorRT's old calibrator, the demo models' errors were 1.5 to 2.4 times those with 512, in four times the time."""
LEVELS = 128
"""Positive levels that entropy merges bins into: int8's (Migacz, 8-bit inference with TensorRT, GTC 2017)."""
PERCENTILE = 99.99
"""Of the absolute values; ONNX Runtime's 99.999 cuts nothing off below 100,000 values."""
LARGE_BYTES = 1 << 30
"""Models above this are written with external data: one protobuf message holds at most 2 GiB."""


@dataclass(frozen=True)
class Range:
    """``threshold``: the absolute value that becomes 127. ``least``, ``most``: what was seen. ``values``: how many were seen."""

    threshold: float
    least: float
    most: float
    values: int

    @property
    def zero(self) -> bool:
        """Only zeros were seen: no scale can be made."""
        return self.least == self.most == 0.0


def check_feeds(inputs: Iterable[onnx.ValueInfoProto], feeds: Sequence[Mapping[str, Any]], *, stage: str) -> None:
    """Every sample has the graph's inputs, in their types and shapes, sizes of one name equal, and no NaN or infinity.

    Raises UsageError without samples, DataError naming the sample and the input.
    """
    import numpy
    import onnx

    if not feeds:
        raise UsageError(
            f"no calibration sample reaches stage {stage!r}",
            why="int8 scales are measured on real inputs, and a stage that none reaches has no ranges",
            fix="--calibrate TASK (or files), with --calibrate-limit at least 1",
        )
    wanted = {each.name: each.type.tensor_type for each in inputs}
    for number, feed in enumerate(feeds):
        where = f"calibration sample {number} of stage {stage!r}"
        for name in [*(each for each in wanted if each not in feed), *(each for each in feed if each not in wanted)]:
            raise DataError(
                f"{where} has {'no' if name in wanted else 'an'} array {name!r}{'' if name in wanted else ' too many'}",
                why=f"the graph takes {', '.join(wanted)}",
                fix="--calibrate FILE.npz with one array an input",
            )
        sizes: dict[str, tuple[int, str]] = {}
        for name, kind in wanted.items():
            value = numpy.asarray(feed[name])
            dtype = onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type)
            if value.dtype != dtype:
                raise DataError(
                    f"{where}: input {name!r} is {value.dtype}", why=f"the graph takes {dtype}", fix=f"{name}.astype('{dtype}')"
                )
            _check_shape(where, name, value.shape, kind, sizes)
            if value.dtype.kind == "f" and not numpy.isfinite(value).all():
                raise DataError(
                    f"{where}: input {name!r} holds NaN or infinity",
                    why="a range with it has no scale",
                    fix="--calibrate with samples of finite numbers",
                )


def _check_shape(where: str, name: str, shape: tuple[int, ...], kind: Any, sizes: dict[str, tuple[int, str]]) -> None:
    if not kind.HasField("shape"):
        return
    dims = [each.dim_value if each.HasField("dim_value") else each.dim_param for each in kind.shape.dim]
    words = f"[{', '.join(str(each) or '?' for each in dims)}]"
    if len(shape) != len(dims):
        raise DataError(
            f"{where}: input {name!r} has the shape {list(shape)}",
            why=f"the graph takes {words}",
            fix="--calibrate with samples of that rank; one sample is one call",
        )
    for axis, (held, dim) in enumerate(zip(shape, dims, strict=True)):
        other = (dim, "the graph") if isinstance(dim, int) else sizes.setdefault(dim, (held, name)) if dim else (held, name)
        if held != other[0]:
            raise DataError(
                f"{where}: input {name!r} has the shape {list(shape)}",
                why=f"axis {axis} is {held}, and {other[1]} has {other[0]}: the graph takes {words}",
                fix="--calibrate with samples of that shape; one sample is one call",
            )


def digest(feeds: Sequence[Mapping[str, Any]]) -> str:
    """SHA-256 of the samples: names, types, shapes and values, in order."""
    import numpy

    found = hashlib.sha256()
    for feed in feeds:
        for name in sorted(feed):
            value = numpy.ascontiguousarray(feed[name])
            found.update(f"{name}:{value.dtype.str}:{value.shape};".encode())
            found.update(value.tobytes())
        found.update(b"\n")
    return found.hexdigest()


def ranges(
    path: Path, values: Sequence[str], feeds: Sequence[Mapping[str, Any]], method: str, *, stage: str = ""
) -> dict[str, Range]:
    """The range of each of ``values`` (float32 values of the graph at ``path``) over all samples, by name.

    ``method``: ``max`` (the largest absolute value), ``entropy`` (the threshold whose 128 levels lose the least information, by
    Kullback-Leibler divergence) or ``percentile`` (``PERCENTILE`` of the absolute values). The threshold is 0 where only zeros were seen.

    Raises DataError where a value is not finite, ModelError where ONNX Runtime cannot run the graph.
    """
    if not values:
        return {}
    with tempfile.TemporaryDirectory(prefix="workbench-") as name, silent():
        watched = _with_outputs(path, values, Path(name))
        seen = _Seen(values, stage)
        largest = _collect("max", watched, values, feeds, stage, seen)
        thresholds = {value: float(largest[value].highest.item()) for value in values}
        moving = [value for value in values if not seen.range(value, 0.0).zero]
        if method != "max" and moving:
            found = _collect(method, watched, moving, feeds, stage, seen)
            thresholds |= {value: _threshold(found[value], thresholds[value], BINS[method]) for value in moving}
    return {value: seen.range(value, thresholds[value]) for value in values}


def is_large(model: onnx.ModelProto) -> bool:
    """Whether a model with its weights in memory is to be written with external data."""
    return sum(len(tensor.raw_data) + 8 * len(tensor.float_data) for tensor in model.graph.initializer) > LARGE_BYTES


@contextmanager
def silent() -> Iterator[None]:
    """onnxruntime.quantization without its prints and log lines."""
    with quiet("onnxruntime"), redirect_stdout(io.StringIO()):
        yield


class _Seen:
    """Least and greatest of each value, and how many there were: read from the arrays, which ReduceMin and ReduceMax cannot stand in for
    (they pass over NaN, and give infinities for no elements)."""

    def __init__(self, values: Sequence[str], stage: str):
        self.values, self.stage, self.sample = tuple(values), stage, 0
        self._found = {value: (float("inf"), float("-inf"), 0) for value in values}

    def add(self, arrays: Mapping[str, Any]) -> None:
        import numpy

        for name in self.values:
            array = arrays[name]
            if not numpy.isfinite(array).all():
                raise DataError(
                    f"calibration sample {self.sample} of stage {self.stage!r} makes the value {name!r} not finite",
                    why="a range with NaN or infinity has no scale",
                    fix="--calibrate without that sample, or find the cause: workbench capture",
                )
            least, most, count = self._found[name]
            if array.size:
                least, most = min(least, float(array.min())), max(most, float(array.max()))
            self._found[name] = (least, most, count + array.size)
        self.sample += 1

    def range(self, value: str, threshold: float) -> Range:
        least, most, count = self._found[value]
        return Range(threshold, least, most, count) if count else Range(0.0, 0.0, 0.0, 0)

    def ends(self, value: str) -> tuple[float, float]:
        return self._found[value][:2]


class _Watched:
    """A session whose outputs are looked at before the calibrator has them."""

    def __init__(self, session: Any, seen: _Seen):
        self._session, self._seen = session, seen
        self.get_inputs, self.get_outputs = session.get_inputs, session.get_outputs
        self._names = [each.name for each in session.get_outputs()]

    def run(self, names: Any, feed: Mapping[str, Any]) -> list[Any]:
        outputs = self._session.run(names, feed)
        self._seen.add({**feed, **dict(zip(self._names, outputs, strict=True))})
        return outputs


class _One:
    """A calibrator's reader of one sample."""

    def __init__(self, feed: Mapping[str, Any]):
        self._feed: dict[str, Any] | None = dict(feed)

    def get_next(self) -> dict[str, Any] | None:
        feed, self._feed = self._feed, None
        return feed


def _with_outputs(path: Path, values: Sequence[str], folder: Path) -> Path:
    """A copy of a graph that has the values among its outputs."""
    import onnx

    model = onnx.load(path)
    held = {each.name for each in [*model.graph.output, *model.graph.input]}
    model.graph.output.extend(
        onnx.helper.make_tensor_value_info(value, onnx.TensorProto.FLOAT, None) for value in values if value not in held
    )
    watched = folder / "watched.onnx"
    onnx.save(model, watched, save_as_external_data=is_large(model), location="watched.data")
    return watched


def _collect(
    method: str, path: Path, values: Sequence[str], feeds: Sequence[Mapping[str, Any]], stage: str, seen: _Seen
) -> Mapping[str, Any]:
    """ONNX Runtime's ``TensorData`` of each value."""
    from onnxruntime.capi import onnxruntime_pybind11_state as failures

    failed = (failures.Fail, failures.InvalidArgument, failures.InvalidGraph, failures.NotImplemented, failures.RuntimeException)
    try:
        calibrator = _calibrator(method, path, values)
        if method == "max":
            calibrator.infer_session = _Watched(calibrator.infer_session, seen)
        else:
            calibrator.collector = _collector(method, values, seen)
        for feed in feeds:
            calibrator.collect_data(_One(feed))
        return calibrator.compute_data()
    except failed as error:
        raise ModelError(
            f"ONNX Runtime cannot run the fp32 graph of stage {stage!r} on calibration sample {seen.sample}",
            why=str(error).splitlines()[0][:400],
            fix="--precision fp32 --check shows whether the graph itself runs",
        ) from error


def _calibrator(method: str, path: Path, values: Sequence[str]) -> Any:
    import onnxruntime
    from onnxruntime.quantization import calibrate

    kind = {"max": calibrate.MinMaxCalibrater, "entropy": calibrate.EntropyCalibrater, "percentile": calibrate.PercentileCalibrater}

    class Calibrator(kind[method]):  # type: ignore[misc]
        """Of the named values alone, in their order: a set of names would make the graph another one in every process."""

        def select_tensors_to_calibrate(self, model: Any) -> tuple[Any, dict[str, Any]]:
            infos = [*model.graph.value_info, *model.graph.output, *model.graph.input]
            return dict.fromkeys(values), {each.name: each for each in infos}

        def create_inference_session(self) -> None:
            options = onnxruntime.SessionOptions()
            options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
            options.log_severity_level = 3
            self.infer_session = onnxruntime.InferenceSession(
                self.augmented_model_path, sess_options=options, providers=self.execution_providers
            )

    large = path.with_suffix(".data").exists()
    more = {} if method == "max" else {"num_bins": BINS[method]}
    augmented = str(path.with_name(f"{method}.onnx"))
    calibrator = Calibrator(path, augmented_model_path=augmented, symmetric=True, use_external_data_format=large, **more)
    calibrator.augment_graph()
    calibrator.create_inference_session()
    return calibrator


def _collector(method: str, values: Sequence[str], seen: _Seen) -> Any:
    """ONNX Runtime's collector with empty histograms that span what was seen."""
    import numpy
    from onnxruntime.quantization.calibrate import HistogramCollector

    collector = HistogramCollector(method, True, BINS[method], LEVELS, PERCENTILE, "same")
    for value in values:
        least, most = (numpy.float32(end) for end in seen.ends(value))
        largest = max(abs(least), abs(most))
        low = -largest if method == "entropy" else numpy.float32(0)
        counts, edges = numpy.histogram(numpy.zeros(0, numpy.float32), BINS[method], range=(low, largest))
        made = (counts, edges.astype(numpy.float32), least, most)
        collector.histogram_dict[value] = (*made, largest) if method == "entropy" else made
    return collector


def _threshold(found: Any, largest: float, bins: int) -> float:
    """The absolute value that a calibrator settled on; at least one bin, where a percentile lies inside the first."""
    threshold = max(abs(float(found.lowest)), abs(float(found.highest)))
    return min(max(threshold, largest / bins), largest)
