"""What a kit runs on a machine: the two demo models on every runtime that is there, the reference first, then what their layers put out.

    made = plan(look(), QUICK)
    [step.name for step in made.steps]      # ['eval vlm torch-cpu', 'eval stt torch-cpu', 'eval vlm mlx', ...]
    made.not_here                           # runtimes that this machine lacks, why, and what to type to have them

The reference is PyTorch on the CPU, on every machine, so that the kits of two machines share one. Core ML's compute unit ALL comes
last among the runs: it can abort the process.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from workbench.backends.base import Availability
from workbench.errors import UsageError
from workbench.run.kit import Runtime

RUNTIMES = ("torch", "mlx", "coreml", "onnx", "tensorrt")
CAPTURED_ITEMS = 2
PRECISIONS = ("fp32", "fp16")
UNITS = ("CPU_ONLY", "CPU_AND_GPU", "CPU_AND_NE", "ALL")
REFERENCE = "torch-cpu"


@dataclass(frozen=True)
class Model:
    """A bundled model, and the suite that is asked of it."""

    name: str
    suite: str


MODELS = (Model("vlm", "demo"), Model("stt", "stt"))
QUICK: dict[str, int | None] = {"vlm": 50, "stt": 140}
"""Items of each set: the suite ``demo`` has four sets, which are pooled, and ``stt`` one. At ±2 points 133 settle what never flips."""
FULL: dict[str, int | None] = dict.fromkeys(QUICK)
OWN_ERROR = ("--also", "auto", "--also", "float16")
"""The precisions in which torch measures its own error, by which rung 3 judges candidates in fp32 and in fp16."""


@dataclass(frozen=True)
class Here:
    """What a machine can run. ``lacking``: of a (model, runtime) that needs more than the runtime, why it does not run."""

    runtimes: Mapping[str, Availability]
    torch_devices: tuple[str, ...] = ()
    """Beside the CPU: ``mps``, ``cuda``."""
    mac: bool = False
    engine: Availability = Availability(False, "no NVIDIA GPU was looked for")
    """Can TensorRT build and run engines here?"""
    lacking: Mapping[tuple[str, str], Availability] | None = None


@dataclass(frozen=True)
class Variant:
    """A way to run a model: ``Variant("coreml-ALL-fp16", "coreml", "units=ALL&precision=fp16")``."""

    name: str
    runtime: str
    options: str = ""

    def text(self, model: Model) -> str:
        return f"demo:{model.name}@{self.runtime}{f'?{self.options}' if self.options else ''}"


@dataclass(frozen=True)
class PlannedStep:
    """One command: its words are those after ``workbench``, without the folder of the bundles."""

    name: str
    what: str
    family: str
    variant: str
    runtime: str
    model: str
    words: tuple[str, ...]
    follow: str | None = None
    """The model whose answers' tokens are followed, when it has run."""

    @property
    def is_reference(self) -> bool:
        return self.variant == REFERENCE

    @property
    def tags(self) -> frozenset[str]:
        """What ``--only`` and ``--skip`` may call it."""
        return frozenset((self.name, self.what, self.family, self.variant, self.runtime))

    def command(self, runs: Path | None, follow: bool) -> list[str]:
        """The words after ``workbench``; without ``runs`` as another person would type them."""
        followed = ["--follow", self.follow] if follow and self.follow else []
        return [*self.words, *followed, *(["--runs", str(runs)] if runs is not None else [])]

    def shown(self, follow: bool) -> str:
        return f"workbench {shlex.join(self.command(None, follow))}"


@dataclass(frozen=True)
class Plan:
    """The steps in their order, what this machine lacks, and what was not wanted."""

    steps: tuple[PlannedStep, ...]
    not_here: tuple[Runtime, ...]
    left_out: tuple[str, ...]
    items: Mapping[str, int | None]
    """By model, how many of each set; None for all."""


def look() -> Here:
    """What this machine can run. Imports torch where it is installed, to ask for its devices."""
    import platform

    from workbench.errors import RuntimeMissing
    from workbench.registry import get_backend
    from workbench.run.libraries import check_libraries
    from workbench.suites import load_suite
    from workbench.tasks.catalogue import load_task
    from workbench.types import ModelSpec

    runtimes = {name: get_backend(name).available() for name in RUNTIMES}
    devices: list[str] = []
    if runtimes["torch"].ok:
        torch = get_backend("torch")
        try:
            torch.device({"device": "cpu"})
        except RuntimeMissing as error:
            runtimes["torch"] = Availability(False, error.why or error.what, error.fix)
        else:
            for device in ("cuda", "mps"):
                try:
                    torch.device({"device": device})
                    devices.append(device)
                except RuntimeMissing:
                    continue
    lacking: dict[tuple[str, str], Availability] = {}
    for model in MODELS:
        family = load_task(load_suite(model.suite).tasks[0]).family
        for name in (name for name in RUNTIMES if runtimes[name].ok):
            try:
                check_libraries(family, ModelSpec.parse(f"demo:{model.name}@{name}"))
            except RuntimeMissing as error:
                lacking[model.name, name] = Availability(False, error.why or error.what, error.fix)
    return Here(runtimes, tuple(devices), platform.system() == "Darwin", engine_here(), lacking)


def engine_here() -> Availability:
    """Whether TensorRT builds and runs engines here, and what it lacks."""
    from workbench.backends.tensorrt import missing

    lack = missing()
    return Availability(True, "TensorRT and a CUDA GPU") if lack is None else Availability(False, lack.why or lack.what, lack.fix)


def variants(here: Here) -> Iterator[Variant]:
    """The ways to run a model on this machine, the reference first, ALL last."""
    if here.runtimes["torch"].ok:
        yield Variant(REFERENCE, "torch", "device=cpu")
        for device in here.torch_devices:
            yield Variant(f"torch-{device}", "torch", f"device={device}")
    if here.runtimes["mlx"].ok:
        yield Variant("mlx", "mlx")
    if here.runtimes["coreml"].ok:
        for precision in PRECISIONS:
            yield Variant(f"coreml-reference-{precision}", "coreml", f"executor=reference&precision={precision}")
    if here.runtimes["onnx"].ok:
        yield Variant("onnx", "onnx")
    if here.runtimes["tensorrt"].ok:
        for executor in ("reference", "engine") if here.engine.ok else ("reference",):
            for precision in PRECISIONS:
                yield Variant(f"tensorrt-{executor}-{precision}", "tensorrt", f"executor={executor}&precision={precision}")
        if here.engine.ok:
            yield Variant("tensorrt-engine-fp16-graph", "tensorrt", "executor=engine&precision=fp16&cuda_graph=true")
    for unit in UNITS if here.runtimes["coreml"].ok and here.mac else ():
        for precision in PRECISIONS:
            yield Variant(f"coreml-{unit}-{precision}", "coreml", f"units={unit}&precision={precision}")


def every_step(here: Here, items: Mapping[str, int | None]) -> list[PlannedStep]:
    """All that this machine can run: first the runs, then the captures."""
    found = []
    for what, step_of in (("eval", eval_step), ("capture", capture_step)):
        for variant in variants(here):
            for model in MODELS:
                if (model.name, variant.runtime) not in (here.lacking or {}):
                    name = f"{what} {model.name} {variant.name}"
                    words, follow = step_of(model, variant, items[model.name])
                    text = variant.text(model)
                    found.append(PlannedStep(name, what, model.name, variant.name, variant.runtime, text, words, follow))
    return found


def eval_step(model: Model, variant: Variant, limit: int | None) -> tuple[tuple[str, ...], str | None]:
    """Tokens are recorded everywhere; pictures and sounds once, by the reference, since all are asked the same."""
    words = ["eval", model.suite, "--model", variant.text(model), *(["--subset", str(limit)] if limit is not None else [])]
    words += ["--record", "tokens"]
    if variant.name == REFERENCE:
        return (*words, "--record", "media"), None
    return tuple(words), Variant(REFERENCE, "torch", "device=cpu").text(model)


def capture_step(model: Model, variant: Variant, limit: int | None) -> tuple[tuple[str, ...], None]:
    """Statistics and sketches of each layer, without values: a kit is to be sent."""
    items = CAPTURED_ITEMS if limit is None else min(limit, CAPTURED_ITEMS)
    words = ["capture", variant.text(model), "--inputs", model.suite, "--limit", str(items)]
    return (*words, *(OWN_ERROR if variant.name == REFERENCE else ())), None


def plan(here: Here, items: Mapping[str, int | None] = QUICK, *, only: Sequence[str] = (), skip: Sequence[str] = ()) -> Plan:
    """The steps of a kit here. ``only`` and ``skip`` name runtimes, models, variants, kinds of steps or steps; ``only`` keeps the
    reference's runs beside what it names.

    Raises UsageError: a name that nothing here has, or nothing left.
    """
    steps = every_step(here, items)
    known = {tag for step in steps for tag in step.tags} | set(RUNTIMES)
    for word in (*only, *skip):
        if word not in known:
            short = [*RUNTIMES, *(model.name for model in MODELS), "eval", "capture", *(each.name for each in variants(here))]
            why = f"here are {', '.join(dict.fromkeys(short))}, and steps by name"
            raise UsageError(f"no step of a kit here is called {word!r}", why=why, fix="workbench kit --dry-run")
    kept = [step for step in steps if (not only or step.tags & set(only)) and not step.tags & set(skip)]
    wanted = {(step.family, step.what) for step in kept}
    kept = [
        step
        for step in steps
        if step in kept or (step.is_reference and (step.family, step.what) in wanted and not step.tags & set(skip))
    ]
    if not kept:
        lacks = "; ".join(f"{each.name}: {each.reason}" for each in lacking_here(here))
        raise UsageError("there is nothing to run", why=lacks or "--only and --skip leave nothing", fix="workbench doctor")
    return Plan(tuple(kept), tuple(lacking_here(here)), tuple(step.name for step in steps if step not in kept), items)


def lacking_here(here: Here) -> list[Runtime]:
    """Runtimes that are not here: no failures, but worth saying, with what would bring them."""
    found = [Runtime(name, each.reason, each.fix) for name, each in here.runtimes.items() if not each.ok]
    found += [Runtime(f"{model} on {name}", each.reason, each.fix) for (model, name), each in (here.lacking or {}).items()]
    if here.runtimes["torch"].ok and not here.torch_devices:
        found.append(Runtime("a GPU for torch", "torch sees neither CUDA nor MPS: PyTorch runs on the CPU alone"))
    if here.runtimes["coreml"].ok and not here.mac:
        why = "Core ML itself runs on macOS alone; its packages run on the reference executor, which has no timing"
        found.append(Runtime("Core ML's compute units", why, "run the kit on a Mac"))
    if here.runtimes["tensorrt"].ok and not here.engine.ok:
        found.append(Runtime("TensorRT's engines", here.engine.reason, here.engine.fix))
    return found
