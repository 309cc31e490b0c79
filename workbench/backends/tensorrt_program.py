"""An engine of TensorRT as a program of named arrays, behind the interface of all converted programs.

    program = EngineProgram(engine, api=import_tensorrt(), device=Cuda(0), name="step.onnx")
    program.keep_on_device(["new_keys", "new_values"])
    found = program({"tokens": tokens, "keys": keys, ...})
    program({"tokens": following, "keys": found["new_keys"], ...})    # taken by its address
    program.describe()["copies"]["to_host"]                           # {"logits": 2}

Arrays of numpy come and go at the edge. torch tensors and whatever speaks DLPack are read where they lie, if they lie on the engine's GPU
in its type. A call that has returned is done: nothing of it is still at work, so nothing that was given has to be kept. Calls from several
threads wait for each other.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from workbench.backends import tensorrt_arrays as given_arrays
from workbench.backends import tensorrt_inspect
from workbench.backends.arrays import stays
from workbench.backends.base import Evidence, TensorSpec
from workbench.backends.tensorrt_api import Api, ICudaEngine, worst
from workbench.backends.tensorrt_arrays import Copies, DeviceArray, Tensor
from workbench.backends.tensorrt_context import Place
from workbench.backends.tensorrt_cuda import DeviceLost
from workbench.backends.tensorrt_graphs import Graphs
from workbench.backends.tensorrt_timing import Clock
from workbench.errors import ItemError, ModelError, UsageError, WorkbenchError


class EngineProgram:
    """Follows ``workbench.backends.base.TensorProgram``. Made by ``TensorRTBackend.open``.

    ``device``: a ``tensorrt_cuda.Cuda``. ``name``: the graph's file, for messages. ``build``: how the engine came to be, for ``describe``.
    ``again(names)``: an engine of the same graph with those values marked, for ``observe``.
    """

    evidence: Evidence = "device"
    states: tuple[TensorSpec, ...] = ()

    def __init__(
        self,
        engine: ICudaEngine,
        *,
        api: Api,
        device: Any,
        name: str,
        cuda_graph: bool = False,
        build: Mapping[str, Any] | None = None,
        opset: int | None = None,
        again: Callable[[tuple[str, ...]], ICudaEngine] | None = None,
    ):
        self.engine, self.api, self.device, self.name = engine, api, device, name
        self.build, self.opset, self.again = dict(build or {}), opset, again
        self.tensors = _tensors(engine, api)
        self.inputs = tuple(tensor.spec for tensor in self.tensors.values() if tensor.is_input)
        self.outputs = tuple(tensor.spec for tensor in self.tensors.values() if not tensor.is_input)
        self._wanted = {name: tensor for name, tensor in self.tensors.items() if tensor.is_input}
        self._ranges = [self._range(profile) for profile in range(max(1, engine.num_optimization_profiles))]
        self._kept: frozenset[str] = frozenset()
        self.copies, self.clock = Copies(), Clock(device)
        self.graphs = Graphs(lambda profile: self._place(profile, fixed=True), device) if cuda_graph else None
        self.failure: WorkbenchError | None = None
        self.refitted: str | None = None
        self._checked: dict[str, tuple[np.ndarray, np.ndarray]] = {}
        self._places: dict[int, Place] = {}
        self._observing: dict[frozenset[str], EngineProgram] = {}
        self._listener: tensorrt_inspect.Listener | None = None
        self._last: Place | None = None
        self._closed = False
        try:
            with self._working("load"):
                self._places[0] = self._place(0)
        except ItemError as error:
            raise ModelError(error.what, why=error.why, fix=error.fix) from error

    def _range(self, profile: int) -> dict[str, tuple[tuple[int, ...], tuple[int, ...]]]:
        """By input, the least and the largest shape that a profile takes."""
        found = {}
        for name, tensor in self._wanted.items():
            if None in tensor.spec.shape:
                least, _, most = self.engine.get_tensor_profile_shape(name, profile)
                found[name] = tuple(int(size) for size in least), tuple(int(size) for size in most)
        return found

    def _place(self, profile: int, fixed: bool = False) -> Place:
        return Place(
            self.engine,
            self.api,
            self.device,
            self.tensors,
            profile=profile,
            kept=lambda: self._kept,
            copies=self.copies,
            fixed=fixed,
        )

    @contextlib.contextmanager
    def _working(self, stage: str = "run") -> Iterator[None]:
        """One call at a time on the device. What breaks it is told once and for all; whatever happens, nothing is left at work."""
        with self.device.lock:
            if self._closed:
                raise UsageError(f"{self.name} was closed", fix="open the model again")
            if self.failure is not None:
                raise self.failure
            with self.api.listening() as messages:
                try:
                    with self.device.working():
                        try:
                            yield
                        finally:
                            self.device.synchronize()
                except Exception as error:
                    told = self.device.told(error, stage, worst(messages))
                    if isinstance(told or error, DeviceLost):
                        self.failure = told or error
                    if told is None:
                        raise
                    raise told from error

    def keep_on_device(self, names: Iterable[str]) -> None:
        """From now on these outputs come as ``DeviceArray``s, which a program of the same device takes by their addresses.

        Raises ModelError for a name that is no output, or one that the engine puts out on the host.
        """
        wanted, there = (
            frozenset(names),
            {name for name, tensor in self.tensors.items() if not tensor.is_input and not tensor.on_host},
        )
        if wanted - there:
            raise ModelError(
                f"{self.name} puts out no {sorted(wanted - there)[0]!r} on the device", why=f"there are: {', '.join(sorted(there))}"
            )
        with self.device.lock:
            self._kept = wanted

    def zeros(self, shape: Iterable[int]) -> DeviceArray:
        """A float32 array of zeros on the device, such as a cache before its first token."""
        import torch

        with self._working():
            made = given_arrays.zeros(self.device, tuple(shape), torch.float32)
        return DeviceArray(made, self.device, "zeros", self.copies)

    def __call__(self, arrays: Mapping[str, Any], state: Any = None) -> dict[str, Any]:
        """Outputs by name: numpy arrays of their own memory, in the types declared, and ``DeviceArray``s for those kept on the device.

        Raises ItemError (arrays that do not fit, what TensorRT refused, no memory), and DeviceLost for good once the GPU is gone.
        """
        if state is not None:
            raise ItemError("an engine has no states", reason="model", why="its caches, if any, are inputs")
        given_arrays.check_names(self._wanted, arrays)
        with self._working(), self.clock.call():
            taken = {name: self._taken(tensor, arrays[name]) for name, tensor in self._wanted.items()}
            profile = self._profile({name: tuple(value.shape) for name, value in taken.items()})
            self._last = None
            place, run = self._ready(profile, taken)
            try:
                with self.clock.engine():
                    run()
                place.fetch()
                self.device.synchronize()
                self._last = place
                return place.results()
            finally:
                place.let_go()

    @property
    def addresses(self) -> dict[str, int]:
        """Where the last call that succeeded read and wrote, by name; without outputs whose memory the data decided."""
        return {} if self._last is None else self._last.addresses

    def _taken(self, tensor: Tensor, given: Any) -> Any:
        """A torch tensor that lies on the device, else a numpy array of the declared type."""
        kept = self._checked.get(tensor.name)
        if kept is not None and kept[0] is given and stays(given):
            return kept[1]
        found = given_arrays.on_device(tensor, given, self.device)
        if found is None:
            found = given_arrays.on_host(tensor, given)
        if stays(given):
            found.setflags(write=False)
            self._checked[tensor.name] = given, found
        return found

    def _profile(self, shapes: Mapping[str, tuple[int, ...]]) -> int:
        """The first that takes these shapes. Raises ItemError naming an input that none takes."""
        outside: list[str] = []
        for number, ranges in enumerate(self._ranges):
            outside = [name for name, (least, most) in ranges.items() if not _within(shapes[name], least, most)]
            if not outside:
                return number
        ranges = "; ".join(f"{list(each[outside[0]][0])} to {list(each[outside[0]][1])}" for each in self._ranges)
        raise ItemError(
            f"input {outside[0]!r} is given {list(shapes[outside[0]])}, which the engine was not built for",
            reason="model",
            why=f"its profiles take {ranges}",
            fix="?profile=..., or convert again with other ranges",
        )

    def _ready(self, profile: int, taken: Mapping[str, Any]) -> tuple[Place, Callable[[], None]]:
        if self.graphs is not None:
            key = tuple(
                (name, tuple(value.shape), value.tobytes() if self._wanted[name].on_host else b"") for name, value in taken.items()
            )
            captured = self.graphs.captured
            ready = self.graphs.ready(profile, key, taken)
            if self.graphs.captured > captured:
                self.clock.discard()
            if ready is not None:
                return ready
        if profile not in self._places:
            self._places[profile] = self._place(profile)
        place = self._places[profile]
        place.feed(taken)
        return place, place.enqueue

    def make_state(self) -> Any:
        """Raises UsageError: an engine remembers nothing."""
        raise UsageError(f"{self.name} has no states", why="its caches, if any, are inputs")

    def observe(
        self, arrays: Mapping[str, Any], names: Iterable[str], state: Any = None
    ) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
        """By another engine of the same graph, in which the values are marked and so not fused away. Raises ModelError naming what cannot
        be seen; building it takes as long as building the first."""
        wanted = list(dict.fromkeys(names))
        outputs = {spec.name for spec in self.outputs}
        marked = tuple(name for name in wanted if name not in outputs)
        if not marked:
            found = {name: np.asarray(value) for name, value in self(arrays, state).items()}
            return found, {name: found[name] for name in wanted}
        key = frozenset(marked)
        with self.device.lock:
            if key not in self._observing:
                self._observing[key] = self._observer(marked)
            observer = self._observing[key]
            observer._listener.clear()
            found = observer(arrays, state)
            seen = observer._listener.found()
        return found, {name: found[name] if name in outputs else seen[name] for name in wanted}

    def _observer(self, names: tuple[str, ...]) -> EngineProgram:
        if self.again is None or self.refitted is not None:
            raise ModelError(
                f"values inside {self.name} cannot be observed",
                why="its engine was refitted" if self.refitted else "the graph that the engine was built of is not at hand",
                fix="open the other file itself" if self.refitted else "open the .onnx file, not an engine",
            )
        made = EngineProgram(self.again(names), api=self.api, device=self.device, name=self.name, opset=self.opset)
        try:
            made._listen(names)
        except BaseException:
            made.close()
            raise
        return made

    def _listen(self, names: tuple[str, ...]) -> None:
        self._listener = tensorrt_inspect.Listener(self.api, self.device, names)
        with self._working("load"):
            for profile in range(len(self._ranges)):
                if profile not in self._places:
                    self._places[profile] = self._place(profile)
                self._listener.attach(self._places[profile].context)

    def inspect(self) -> dict[str, Any]:
        """What TensorRT's inspector says of the engine: ``{"Layers": [...], "Bindings": [...]}``. Raises ModelError."""
        with self._working():
            return tensorrt_inspect.dump(self.engine, self._places[0].context, self.api)

    def refit(self, path: str | Path) -> int:
        """Take the weights of another ONNX file of the same graph; returns how many the engine can exchange. The engine that is stored
        stays as it was. Raises UsageError and ModelError (``tensorrt_inspect.refit``)."""
        with self._working("refit"):
            if self.graphs is not None:
                self.graphs.drop()
            try:
                count = tensorrt_inspect.refit(self.engine, path, self.api)
            except tensorrt_inspect.Torn as error:
                self.failure = error
                raise
        self.refitted = Path(path).name
        return count

    def describe(self) -> dict[str, Any]:
        """As ``TensorProgram.describe``; ``timing`` holds the device's and the host's seconds apart (``tensorrt_timing``)."""
        clock = self.clock.describe()
        return {
            "executor": f"TensorRT {self.api.version}",
            "function": None,
            "opset": self.opset,
            "engine": {
                **self.build,
                "layers": self.engine.num_layers if not self._closed else None,
                "profiles": len(self._ranges),
                "context_bytes": self.api.device_memory_bytes(self.engine) if not self._closed else None,
                "refitted": self.refitted,
            },
            "kept_on_device": sorted(self._kept),
            "copies": self.copies.describe(),
            "cuda_graph": None if self.graphs is None else self.graphs.describe(),
            "timing": {
                "load_seconds": self.build.get("load_seconds"),
                "first_seconds": clock["host"]["first_seconds"],
                "last_seconds": clock["host"]["last_seconds"],
                **clock,
            },
        }

    def close(self) -> None:
        """Give back contexts, buffers and the engine. Arrays that were kept on the device stay whole."""
        with self.device.lock:
            if self._closed:
                return
            for program in self._observing.values():
                program.close()
            self._closed = True
            if self.failure is None:
                with self.device.working():
                    self.device.synchronize()
            if self.graphs is not None:
                self.graphs.drop()
            self._checked.clear()
            self._last = None
            self._places.clear()  # a context before its engine
            self._observing.clear()
            self.engine = self.again = None


def _within(shape: tuple[int, ...], least: tuple[int, ...], most: tuple[int, ...]) -> bool:
    return all(low <= size <= high for low, size, high in zip(least, shape, most, strict=True))


def _tensors(engine: ICudaEngine, api: Api) -> dict[str, Tensor]:
    """The inputs and outputs in the engine's order. Raises ModelError for a type that no array has."""
    found = {}
    for index in range(engine.num_io_tensors):
        name = engine.get_tensor_name(index)
        kind, dtype = given_arrays.type_of(engine.get_tensor_dtype(name), name)
        shape = tuple(None if int(size) < 0 else int(size) for size in engine.get_tensor_shape(name))
        is_input = engine.get_tensor_mode(name) == api.module.TensorIOMode.INPUT
        on_host = engine.get_tensor_location(name) == api.module.TensorLocation.HOST
        found[name] = Tensor(TensorSpec(name, dtype, shape), kind, is_input, on_host)
    return found
