"""The stages of a converted model, opened on a runtime that runs tensors: named programs from arrays to arrays.

    stages = open_stages(converted, get_backend("coreml"), options, ("vision", "prefill", "step"))
    stages["vision"]({"pixel_values": pixels})["image_features"]

Families drive them with the loops that every runtime shares (``vlm_program``, ``stt_stages``); nothing here knows which runtime it is.
What a stage is given and gives is fixed by name, so a converted folder that lacks an array is refused before anything runs.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from workbench.errors import ModelError
from workbench.models.converted import AGAIN, Converted
from workbench.models.fixed_prompt import FixedPrompt

FAMILY_STAGES = {"vision-language": ("vision", "prefill", "step"), "speech-to-text": ("encoder", "step")}
"""By family, the stages that its loop runs."""

CACHES = ("keys", "values")
"""What a step remembers: states of the program, or inputs whose new values come out as ``new_keys`` and ``new_values``."""

HANDED_OVER = ("new_keys", "new_values", "cross_keys", "cross_values")
"""Outputs that only another call reads. A runtime that has memory of its own (``keep_on_device``) leaves them there."""

CACHE_SIZES = ("layers", "heads", "context", "head_size")
"""The shape of each."""

ARRAYS = {
    "vision-language": {
        "vision": (("pixel_values",), ("image_features",)),
        "prefill": (("tokens", "image_embeddings", "mask", "positions"), ("logits", "new_keys", "new_values")),
        "step": (("tokens", "mask", "positions"), ("logits",)),
    },
    "speech-to-text": {
        "encoder": (("mel",), ("cross_keys", "cross_values")),
        "step": (("tokens", "positions", "mask", "cross_keys", "cross_values"), ("logits",)),
    },
}
"""By family and stage: (inputs, outputs) without the caches; further outputs may be there."""

SIZES = {
    "vision-language": ("layers", "heads", "head_size", "hidden", "vocabulary", "context", "image_token"),
    "speech-to-text": ("layers", "heads", "head_size", "vocabulary", "context", "mels", "frames"),
}


DTYPES = {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16", "int8-qdq": "float32"}
"""What a precision's floats are; integers of int8-qdq stand between floats of float32."""


class Stages(Mapping[str, Any]):
    """The programs by stage. ``runtime``: which one runs them; ``evidence`` is one for all; ``timed`` says whether their times mean anything;
    ``dtype``: of their floats; ``precision``: as the recipe names it."""

    def __init__(self, converted: Converted, programs: Mapping[str, Any], runtime: str | None = None):
        self.converted, self.programs = converted, dict(programs)
        self.runtime = runtime or converted.runtime
        self.evidence: str = next(iter(programs.values())).evidence
        self.timed = self.evidence != "reference"
        if self.timed:
            self.programs = {name: Clocked(program) for name, program in programs.items()}
        self.stateful = bool(converted.stage("step").states)
        self.precision = str(converted.recipe.get("precision"))
        self.dtype: str = DTYPES.get(self.precision, self.precision)

    def __getitem__(self, name: str) -> Any:
        return self.programs[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.programs)

    def __len__(self) -> int:
        return len(self.programs)

    def describe(self) -> dict[str, Any]:
        """What was really loaded, for a bundle: the recipe, which runtime ran it, and what each program says of itself."""
        recipe = self.converted.recipe
        held = self.converted.manifest["stages"]
        readiness = {name: held[name]["readiness"] for name in self.converted.stages if held[name].get("readiness")}
        return {
            "class": f"{self.converted.architecture}, {self.converted.runtime} programs",
            "dtype": self.dtype,
            "precision": recipe.get("precision"),
            "quantisation": recipe.get("quantize") or (self.precision if self.precision.startswith("int8") else None),
            "recipe": self.converted.label,
            "kept_fp32": list(recipe.get("keep_fp32") or ()),
            "stateful": self.stateful,
            "evidence": self.evidence,
            "stages": {name: program.describe() for name, program in self.programs.items()},
            "converted_with": self.converted.versions,
            "bytes": self.converted.size_bytes,
            **({"readiness": readiness} if readiness else {}),
        }

    def seconds(self) -> dict[str, dict[str, Any]]:
        """By stage ``{"load_seconds", "first_seconds", "steady_seconds", "calls"}``: loading, the first call (in which a device prepares
        itself) and the mean of those after it, apart. Nothing for a reference executor."""
        return {name: program.seconds() for name, program in self.programs.items()} if self.timed else {}

    def close(self) -> None:
        for program in self.programs.values():
            program.close()


class Clocked:
    """A program whose calls are timed; all else is the program's own."""

    def __init__(self, program: Any):
        self.program, self.calls, self.first, self.later = program, 0, None, 0.0

    def __call__(self, arrays: Mapping[str, Any], state: Any = None) -> dict[str, Any]:
        began = time.perf_counter()
        found = self.program(arrays, state)
        took = time.perf_counter() - began
        self.calls += 1
        if self.first is None:
            self.first = took
        else:
            self.later += took
        return found

    def seconds(self) -> dict[str, Any]:
        loading = (self.program.describe().get("timing") or {}).get("load_seconds")
        steady = self.later / (self.calls - 1) if self.calls > 1 else None
        return {"load_seconds": loading, "first_seconds": self.first, "steady_seconds": steady, "calls": self.calls}

    def __getattr__(self, name: str) -> Any:
        return getattr(self.program, name)


def open_stages(converted: Converted, backend: Any, options: Mapping[str, str], family: str) -> Stages:
    """Every stage of ``family``. ``options`` are the runtime's (``units``, ``executor``, ``reading``).

    Raises ModelError for a model of another family or runtime, a stage or an array that is not there, and what the runtime raises for a
    program that it cannot load; programs that were opened before it are closed again.
    """
    check(converted, backend.name, family)
    programs: dict[str, Any] = {}
    try:
        for name in FAMILY_STAGES[family]:
            stage = converted.stage(name)
            programs[name] = backend.open(stage.path, options, function=stage.function)
            if name == "prefill" and "prompt" in converted.sizes:
                programs[name] = FixedPrompt(programs[name], converted.sizes["prompt"])
            if hasattr(programs[name], "keep_on_device"):
                programs[name].keep_on_device([spec.name for spec in programs[name].outputs if spec.name in HANDED_OVER])
    except BaseException:
        for program in programs.values():
            program.close()
        raise
    return Stages(converted, programs, backend.name)


def check(converted: Converted, runtime: str, family: str) -> None:
    """Whether the folder holds a model of ``family`` for ``runtime``, by its manifest alone. Raises ModelError."""
    if converted.family != family:
        verb = {"vision-language": "eval demo", "speech-to-text": "transcribe AUDIO"}.get(converted.family)
        raise ModelError(
            f"{converted.name!r} is a {converted.family} model",
            why=f"what was asked for is {family}",
            fix=f"workbench {verb} --model {runtime}:FOLDER" if verb else f"workbench capture {runtime}:FOLDER/PACKAGE",
        )
    if runtime not in converted.runs_on:
        raise ModelError(
            f"{converted.name!r} was converted for {' and '.join(converted.runs_on)}",
            why=f"what was asked for is {runtime}",
            fix=f"--model {converted.runtime}:FOLDER",
        )
    missing = [name for name in SIZES[family] if name not in converted.sizes]
    if missing:
        raise ModelError(f"the manifest of {converted.name!r} does not say its {missing[0]}", fix=AGAIN)
    for name, (inputs, outputs) in ARRAYS[family].items():
        stage = converted.stage(name)
        found = [feature.name for feature in stage.inputs]
        if name == "step":
            _fits(converted, stage)
            held = [feature.name for feature in stage.states] or found
            _there(converted, name, "keys and values", held, CACHES)
            if not stage.states:
                _there(converted, name, "outputs", [feature.name for feature in stage.outputs], [f"new_{each}" for each in CACHES])
        _there(converted, name, "inputs", found, inputs)
        _there(converted, name, "outputs", [feature.name for feature in stage.outputs], outputs)


def _fits(converted: Converted, stage: Any) -> None:
    """Raises ModelError where the caches are of other sizes than the manifest says."""
    wanted = tuple(converted.sizes[name] for name in CACHE_SIZES)
    for feature in (*stage.inputs, *stage.states):
        if feature.name in CACHES and feature.shape and tuple(feature.shape) != wanted:
            raise ModelError(
                f"{converted.name!r} does not fit together: {feature.name} of the stage {stage.name} is {list(feature.shape)}",
                why=f"its manifest says {', '.join(f'{name} {converted.sizes[name]:,}' for name in CACHE_SIZES)}",
                fix=AGAIN,
            )


def _there(converted: Converted, stage: str, kind: str, found: Sequence[str], wanted: Sequence[str]) -> None:
    missing = [name for name in wanted if name not in found]
    if missing:
        raise ModelError(
            f"the stage {stage} of {converted.name!r} has no {missing[0]!r}",
            why=f"its {kind}: {', '.join(found) or 'none'}",
            fix=AGAIN,
        )


class StepCache:
    """What one sequence's step remembers: ``program`` states, or arrays that go in and come out; and how many places are filled.

    ``fill`` hands over the keys and values of a prompt that another stage read; ``run`` reads one token more.
    """

    __slots__ = ("arrays", "filled", "program", "shape", "state")

    def __init__(self, program: Any, sizes: Mapping[str, int], stateful: bool):
        import numpy

        self.program, self.filled = program, 0
        self.shape = tuple(sizes[name] for name in CACHE_SIZES)
        self.state = program.make_state() if stateful else None
        empty = getattr(program, "zeros", None) or (lambda shape: numpy.zeros(shape, dtype=numpy.float32))
        self.arrays = None if stateful else {name: empty(self.shape) for name in CACHES}

    def fill(self, keys: Any, values: Any) -> None:
        """The first places: ``keys`` and ``values`` of shape (layers, heads, places, head size)."""
        import numpy

        self.filled = keys.shape[2]
        for name, rows in zip(CACHES, (keys, values), strict=True):
            if self.arrays is not None and hasattr(rows, "padded"):  # it lies on a device, and stays there
                self.arrays[name] = rows.padded(self.shape)
                continue
            whole = numpy.zeros(self.shape, dtype=numpy.float16 if self.arrays is None else numpy.float32)
            whole[:, :, : self.filled] = rows
            if self.arrays is None:
                self.state.write(name, whole)
            else:
                self.arrays[name] = whole

    def run(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """One step; its keys and values are kept for the next."""
        found = self.program({**given, **(self.arrays or {})}, self.state)
        if self.arrays is not None:
            self.arrays = {name: found.pop(f"new_{name}") for name in CACHES}
        self.filled += 1
        return found

    def copy(self) -> StepCache:
        """Another sequence with the same past. Arrays that came out of a step are never written to, so they are shared."""
        made = object.__new__(StepCache)
        made.program, made.filled, made.shape = self.program, self.filled, self.shape
        made.state = None if self.state is None else self.state.copy()
        made.arrays = None if self.arrays is None else dict(self.arrays)
        return made
