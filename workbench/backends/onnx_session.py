"""An ONNX file in ONNX Runtime, behind the interface of all converted programs.

    program = SessionProgram(read("step.onnx"), reading="pure")
    program({"tokens": tokens, "mask": mask, ...})["logits"]
    program.describe()["session"]      # the options that the session was opened with

Readings. ``optimised``: as ONNX Runtime runs a file unless told otherwise. ``pure``: the graph as it is written, nothing fused, folded
or moved, Q/DQ pairs computed as two ops, and in float16 and bfloat16 each result rounded (``onnx_stepwise`` says why that takes work).

Threads do not spin while they wait: on two cores with other work beside it spinning made one decoding step of the demo model three
times slower (19.4 against 6.7 ms), and no faster where the cores were free. Results come from a plain run: binding outputs to memory
of ours measured the same (6.7 ms), for ONNX Runtime hands its own buffers over.
"""

from __future__ import annotations

import re
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from workbench.backends.arrays import Intake
from workbench.backends.base import Evidence, TensorState
from workbench.backends.onnx_file import FIX, OnnxFile
from workbench.backends.onnx_stepwise import MOVES, Stepwise, round_to, stepwise
from workbench.errors import ItemError, ModelError, RuntimeMissing, UsageError

READINGS = ("optimised", "pure")
CPU = "CPUExecutionProvider"

FOLDER = "session.model_external_initializers_file_folder_path"
"""The session's entry that says where a model given as bytes keeps its weights."""

PLACES = "session.record_ep_graph_assignment_info"
"""The entry that has the session remember which provider runs which node."""

ENTRIES = {
    "optimised": {"session.intra_op.allow_spinning": "0"},
    "pure": {
        "session.intra_op.allow_spinning": "0",
        "session.disable_quant_qdq": "1",
        "session.enable_quant_qdq_cleanup": "0",
        "session.disable_double_qdq_remover": "1",
        "session.disable_qdq_constant_folding": "1",
        "session.enable_dq_matmulnbits_fusion": "0",
        "session.set_denormal_as_zero": "0",
        "optimization.enable_gelu_approximation": "0",
        "optimization.enable_cast_chain_elimination": "0",
        "mlas.enable_gemm_fastmath_arm64_bfloat16": "0",
    },
}
"""Session configuration entries by reading (microsoft/onnxruntime, include/onnxruntime/core/session/
onnxruntime_session_options_config_keys.h). Graph optimisation is off in the pure reading, which leaves most of them nothing to do."""

INSERTED = "InsertedPrecisionFreeCast"
"""How ONNX Runtime's CPU names what it casts around float16 nodes without a kernel (core/optimizer/insert_cast_transformer.cc)."""
LARGEST_LOOK_BYTES = 2**28
"""Larger models are not written down to see which nodes those are."""

FAILED = re.compile(r"while running (?P<op>\S+) node\. Name:'(?P<name>[^']*)'\s*(?:Status Message:\s*)?(?P<why>.*)", re.DOTALL)


class SessionProgram:
    """Follows ``workbench.backends.base.TensorProgram``. Made by ``ONNXBackend.open``."""

    def __init__(
        self,
        file: OnnxFile,
        *,
        reading: str = "optimised",
        provider: str = CPU,
        threads: int | None = None,
        evidence: Evidence = "host",
    ):
        self.file, self.reading, self.provider, self.threads = file, reading, provider, threads
        self.evidence: Evidence = evidence
        self.inputs, self.outputs, self.states = file.inputs, file.outputs, ()
        self._intake = Intake(file.path.name, self.inputs)
        self._observing: dict[frozenset[str], tuple[Any, list[str]]] = {}
        self._held: list[Any] = []
        self._widened: dict[str, int] = {}
        self._placed: dict[str, dict[str, int]] = {}
        self.first_seconds: float | None = None
        self.last_seconds: float | None = None
        began = time.perf_counter()
        self._lowered: Stepwise | None = stepwise(file) if reading == "pure" and file.low else None
        self.session: Any = self._open()
        self.load_seconds = time.perf_counter() - began

    def _open(self, more: Iterable[str] = ()) -> Any:
        """A session, with the values ``more`` as further outputs."""
        ort = import_onnxruntime()
        options = session_options(ort, self.reading, self.threads)
        if self.provider != CPU:
            options.add_session_config_entry(PLACES, "1")
        source = self._source(ort, options, list(more))
        try:
            if more or not self._widens():
                session = ort.InferenceSession(source, options, providers=[self.provider])
            else:
                session, self._widened = _with_widened(ort, source, options, self.provider)
        except Exception as error:  # ONNX Runtime's errors have no common base, and all here are about the file
            raise ModelError(
                f"ONNX Runtime cannot load {self.file.path.name}",
                why=_said(error),
                fix=_loading_fix(str(error), self.file),
            ) from error
        if self.provider not in session.get_providers():
            raise RuntimeMissing(
                f"ONNX Runtime left {self.provider} for {', '.join(session.get_providers())}",
                why="its libraries did not load",
                fix="?provider=cpu",
            )
        if self.provider != CPU and not more:
            self._placed = placed(session)
            if self._placed and self.provider not in self._placed:
                raise ModelError(
                    f"{self.provider} takes none of the nodes of {self.file.path.name}",
                    why="all would be computed on the CPU, and its times would pass for an accelerator's",
                    fix="?provider=cpu",
                )
        return session

    def _widens(self) -> bool:
        """Is it worth a look which nodes are computed in float32?"""
        low = self._lowered is None and "float16" in self.file.low
        return low and self.provider == CPU and self.file.size_bytes <= LARGEST_LOOK_BYTES

    def _source(self, ort: Any, options: Any, more: list[str]) -> Any:
        """The path, or the bytes of a changed model with its weights beside it."""
        given = {} if self._lowered is None else dict(self._lowered.constants)
        if self.file.linked:
            held = self.file.model.graph.initializer
            given |= {each.name: self.file.array(each) for each in held if each.data_location == 1 and each.name not in given}
            given = {name: np.asarray(array, order="C") for name, array in given.items()}
        if self._lowered is None and not more and not given:
            return str(self.file.path)
        model = self.file.model if self._lowered is None else self._lowered.model
        if more:
            model = _with_outputs(model, more)
        if given:
            values = [ort.OrtValue.ortvalue_from_numpy(array) for array in given.values()]
            options.add_external_initializers(list(given), values)
            self._held.append((given, values))  # hazard: a session reads them where they are, and does not keep them alive
        options.add_session_config_entry(FOLDER, str(self.file.path.parent.resolve()))
        return model.SerializeToString()

    def __call__(self, arrays: Mapping[str, np.ndarray], state: TensorState | None = None) -> dict[str, np.ndarray]:
        refuse_state(state)
        names = [spec.name for spec in self.outputs]
        found = self._run(self.session, names, self._fed(arrays))
        return {spec.name: declared(found[spec.name], spec.dtype) for spec in self.outputs}

    def _fed(self, arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        fed = self._intake(arrays)
        for name, kind in (self._lowered.inputs if self._lowered else {}).items():
            if name in fed:
                fed[name] = round_to(fed[name], kind)
        return fed

    def _run(self, session: Any, names: list[str], fed: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        began = time.perf_counter()
        with told_of_item(self.file):
            found = session.run(names, fed)
        self.last_seconds = time.perf_counter() - began
        if self.first_seconds is None:
            self.first_seconds = self.last_seconds
        return dict(zip(names, found, strict=True))

    def make_state(self) -> TensorState:
        raise stateless(self.file)

    def observe(
        self, arrays: Mapping[str, np.ndarray], names: Iterable[str], state: TensorState | None = None
    ) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
        """By a second session with more outputs, which is kept. In the optimised reading more outputs can change what is fused.

        float16 values come as float16 and bfloat16 ones, which numpy has not, as float32.
        """
        refuse_state(state)
        wanted = list(dict.fromkeys(names))
        self.file.check_observed(wanted)
        outputs = {spec.name: spec.dtype for spec in self.outputs}
        key = frozenset(wanted).difference(outputs)
        if key not in self._observing:
            more = [name for name in wanted if name in key]
            self._observing[key] = (self._open(more) if more else self.session, [*outputs, *more])
        session, asked = self._observing[key]
        fed = self._fed(arrays)
        with told_of_item(self.file):
            found = dict(zip(asked, session.run(asked, fed), strict=True))
        rounded = self._lowered.rounded if self._lowered else {}
        seen = {name: declared(array, outputs.get(name) or own_type(array, rounded.get(name))) for name, array in found.items()}
        return {name: seen[name] for name in outputs}, {name: seen[name] for name in wanted}

    def describe(self) -> dict[str, Any]:
        """``session`` holds the options that change what is computed; ``notes`` what the runtime does that the graph does not say."""
        ort = import_onnxruntime()
        timed = self.evidence != "reference"
        return {
            "executor": f"onnxruntime {ort.__version__}",
            "function": None,
            "opset": str(self.file.opset),
            "provider": self.provider,
            "reading": self.reading,
            "session": {
                "graph_optimization_level": _LEVELS[self.reading],
                "use_deterministic_compute": self.reading == "pure",
                **ENTRIES[self.reading],
            },
            "threads": self.threads,
            "notes": self._notes(),
            "timing": {
                "load_seconds": self.load_seconds,
                "first_seconds": self.first_seconds,
                "last_seconds": self.last_seconds,
            }
            if timed
            else None,
        }

    def _notes(self) -> list[str]:
        notes = []
        if self._lowered is not None:
            count = len(self._lowered.rounded)
            notes.append(f"{' and '.join(self.file.low)}: each op is computed in float32, and its result rounded ({count} values)")
        elif self._widened:
            count, kinds = sum(self._widened.values()), ", ".join(self._widened)
            notes.append(
                f"float16: ONNX Runtime computes {count:,} nodes in float32, for want of kernels ({kinds}), and rounds nothing between "
                "neighbours; ?reading=pure rounds as the graph says"
            )
        if left := self._placed.get(CPU):
            notes.append(f"{sum(left.values()):,} nodes run on the CPU beside {self.provider}: {', '.join(left)}")
        return notes

    def close(self) -> None:
        """Drop the sessions and their weights."""
        self._intake.clear()
        self._observing.clear()
        self.session = self._lowered = None
        self._held.clear()


_LEVELS = {"optimised": "ORT_ENABLE_ALL", "pure": "ORT_DISABLE_ALL"}


def _with_widened(ort: Any, source: Any, options: Any, provider: str) -> tuple[Any, dict[str, int]]:
    """A session, and by op how many nodes of the graph it really runs are computed in float32 behind casts that it put in."""
    import onnx

    with tempfile.TemporaryDirectory() as folder:
        options.optimized_model_filepath = str(Path(folder) / "run.onnx")
        session = ort.InferenceSession(source, options, providers=[provider])
        graph = onnx.load(options.optimized_model_filepath, load_external_data=False).graph
    found: Counter[str] = Counter(
        node.op_type
        for node in graph.node
        if node.op_type not in ("Cast", *MOVES) and any(name.startswith(INSERTED) for name in (*node.input, *node.output))
    )
    return session, dict(found.most_common())


def placed(session: Any) -> dict[str, dict[str, int]]:
    """By provider, and by op, how many nodes it runs; nothing where this ONNX Runtime does not tell."""
    if not hasattr(session, "get_provider_graph_assignment_info"):
        return {}
    found: dict[str, Counter[str]] = {}
    for part in session.get_provider_graph_assignment_info():
        found.setdefault(part.ep_name, Counter()).update(node.op_type for node in part.get_nodes())
    return {name: dict(count.most_common()) for name, count in found.items()}


def session_options(ort: Any, reading: str, threads: int | None) -> Any:
    """``onnxruntime.SessionOptions`` of a reading. ``threads`` None: as many as ONNX Runtime takes, one for each core."""
    options = ort.SessionOptions()
    options.graph_optimization_level = getattr(ort.GraphOptimizationLevel, _LEVELS[reading])
    options.use_deterministic_compute = reading == "pure"
    options.log_severity_level = 4  # what goes wrong is told by the error, once
    if threads is not None:
        options.intra_op_num_threads = threads
    for name, value in ENTRIES[reading].items():
        options.add_session_config_entry(name, value)
    return options


def import_onnxruntime() -> Any:
    """The onnxruntime module. Raises RuntimeMissing."""
    try:
        import onnxruntime
    except (ImportError, OSError) as error:
        raise RuntimeMissing("ONNX Runtime cannot be imported", why=str(error).splitlines()[0], fix=FIX) from error
    return onnxruntime


@contextmanager
def told_of_item(file: OnnxFile) -> Iterator[None]:
    """What ONNX Runtime says of one run as ItemError naming the node."""
    try:
        yield
    except ItemError:
        raise
    except Exception as error:  # ONNX Runtime's errors have no common base
        text = str(error)
        reason = "memory" if isinstance(error, MemoryError) or "allocate memory" in text else "model"
        found = FAILED.search(text)
        if found is None:
            raise ItemError(f"{file.path.name} could not be computed", reason=reason, why=_said(error)) from error
        name = found["name"] or "without a name"
        raise ItemError(
            f"{file.path.name}: the {found['op']} node {name!r} could not be computed", reason=reason, why=_short(found["why"])
        ) from error


def _said(error: Exception) -> str:
    return _short(re.sub(r"^\[ONNXRuntimeError\] : \d+ : \w+ : ", "", str(error)))


def _short(text: str) -> str:
    """Without the places in ONNX Runtime's own sources, in one line."""
    text = re.sub(r"Load model from .*? failed:", "", text)
    text = re.sub(r"\S*/onnxruntime_src/\S+(?: [^\n]*?\))?\s", "", text)
    return " ".join(text.split())[:400] or "it does not say why"


def _loading_fix(text: str, file: OnnxFile) -> str:
    if "bfloat16" in file.types and ("NOT_IMPLEMENTED" in text or "Type Error" in text or "INVALID_GRAPH" in text):
        return "?reading=pure, or ?executor=reference"
    newer = "opset" in text.lower() or "IR version" in text or "NOT_IMPLEMENTED" in text
    return "pip install --upgrade onnxruntime" if newer else "?executor=reference"


def _with_outputs(model: Any, names: list[str]) -> Any:
    changed = type(model)()
    changed.CopyFrom(model)
    for name in names:
        changed.graph.output.add().name = name
    return changed


def refuse_state(state: TensorState | None) -> None:
    """Raises ItemError where a state is given."""
    if state is not None:
        raise ItemError("the program has no states, and was given one", reason="model", why="its caches, if any, are inputs")


def stateless(file: OnnxFile) -> UsageError:
    """The error of asking an ONNX program for a state."""
    return UsageError(f"{file.path.name} has no states", why="its caches, if any, are inputs")


def declared(array: Any, dtype: str) -> np.ndarray:
    """In the type declared; NaN stays."""
    with np.errstate(over="ignore", invalid="ignore"):
        return np.asarray(array).astype(dtype, copy=False)


def own_type(array: Any, rounded: str | None) -> str:
    """The type that a value was computed in, as numpy has it."""
    return "float16" if rounded == "float16" else np.asarray(array).dtype.name
