"""What an ONNX conversion is asked for: precision, calibration, sizes that vary, operator set; checked before anything is converted.

Recipe(precision="int8-qdq", calibration="entropy", samples=("demo",)).check().label   # "int8-qdq entropy on(demo)"
Recipe.from_options({"precision": "fp16", "keep_fp32": "MatMul,text.block.3", "dynamic": "batch,seq"})

The precision lives in the graph (float16, bfloat16, or Q/DQ nodes), since TensorRT builds strongly typed networks alone from version 11 on.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from workbench.errors import UsageError
from workbench.fingerprint import of_file
from workbench.models.converted import recipe_words

PRECISIONS = ("fp32", "fp16", "bf16", "int8-qdq")
CALIBRATIONS = ("max", "entropy", "percentile")
SIZES = {"seq": "the length of a prompt, and every size that a module says varies", "batch": "how many inputs a call takes at once"}
OPSET = {"bf16": 22}
"""By precision, where it is not ``DEFAULT_OPSET``: convolutions and poolings take bfloat16 from operator set 22 on (onnx, docs/Changelog.md)."""
DEFAULT_OPSET = 20
OLDEST_OPSET, NEWEST_OPSET = 18, 25
"""What torch's exporter writes: its translations are made for 18, and onnxscript's version converter goes up to 25
(onnxscript 0.7, version_converter/_version_converter.py). An installed onnx may know fewer: ``graphs.check_opset``."""
SAMPLES_LIMIT = 16
"""Items in all. On the bundled models 4 to 16 leave the same errors as 32, whose caches take 1.8 GB of memory."""


@dataclass(frozen=True)
class Recipe:
    """``keep_fp32``: patterns of what stays fp32 beside the rules of ``workbench.convert.onnx.typing``, or is not quantised (op types,
    values, the project's layers, with ``*``). ``samples``: tasks, suites or files to calibrate with, ``samples_limit`` items spread over
    them. ``dynamic``: sizes that vary. ``context``: positions of the cache, where the model's own are too many. ``opset`` None: 20, and 22
    in bf16.

    Inputs and outputs are fp32 and int32 whatever the precision. ``stateful``: ONNX has no states, so a step's cache is in and out."""

    precision: str = "fp32"
    keep_fp32: tuple[str, ...] = ()
    calibration: str | None = None
    samples: tuple[str, ...] = ()
    samples_limit: int | None = None
    dynamic: tuple[str, ...] = ("seq",)
    context: int | None = None
    opset: int | None = None

    def check(self) -> Recipe:
        """With everything filled in that has a default, sizes in one order. Raises UsageError naming what is not known or does not go
        together."""
        _known("precision", self.precision, PRECISIONS)
        if self.keep_fp32 and self.precision == "fp32":
            raise UsageError(
                f"keep_fp32={','.join(self.keep_fp32)} means nothing in fp32", why="every op is fp32 already", fix="precision=fp16"
            )
        for size in self.dynamic:
            _known("dynamic size", size, SIZES)
        if self.context is not None and not _at_least(self.context, 2):
            raise UsageError(f"context={self.context!r} is no number of positions", fix="context=512")
        if self.opset is not None and not (_at_least(self.opset, OLDEST_OPSET) and self.opset <= NEWEST_OPSET):
            raise UsageError(
                f"operator set {self.opset!r} is not written",
                why=f"torch's exporter writes {OLDEST_OPSET} to {NEWEST_OPSET}",
                fix=f"--opset {OPSET.get(self.precision, DEFAULT_OPSET)}",
            )
        least = OPSET.get(self.precision)
        if least is not None and self.opset is not None and self.opset < least:
            raise UsageError(
                f"operator set {self.opset} holds no {self.precision} model",
                why=f"convolutions and others take it from operator set {least} on",
                fix=f"--opset {least}, or --precision fp16",
            )
        return self._calibrated(tuple(size for size in SIZES if size in self.dynamic))

    def _calibrated(self, dynamic: tuple[str, ...]) -> Recipe:
        filled = {**self.__dict__, "dynamic": dynamic}
        if self.precision == "int8-qdq":
            _known("calibration", self.calibration or CALIBRATIONS[0], CALIBRATIONS)
            limit = SAMPLES_LIMIT if self.samples_limit is None else self.samples_limit
            if not _at_least(limit, 1):
                raise UsageError(f"calibrate_limit={limit!r} is no number of items", fix=f"--calibrate-limit {SAMPLES_LIMIT}")
            return Recipe(**{**filled, "calibration": self.calibration or CALIBRATIONS[0], "samples_limit": limit})
        for name, given in (
            ("calibration", self.calibration),
            ("calibrate", self.samples),
            ("calibrate_limit", self.samples_limit),
        ):
            if given:
                raise UsageError(
                    f"{name} means nothing in {self.precision}", why="only int8 has ranges to find", fix="precision=int8-qdq"
                )
        return Recipe(**filled)

    @property
    def stateful(self) -> bool:
        """Always False: ONNX has no states."""
        return False

    @property
    def written_opset(self) -> int:
        """The operator set that a graph is written in."""
        return self.opset or OPSET.get(self.precision, DEFAULT_OPSET)

    @property
    def label(self) -> str:
        """All of it in words for people: ``fp16``, ``int8-qdq entropy on(demo)``, ``fp32 context512 dynamic(batch,seq)``."""
        return recipe_words(self.to_json())

    def to_json(self) -> dict[str, Any]:
        """Every field, for a manifest. A file of samples goes by its name and the hash of its contents, not by where it lies."""
        found = {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}
        return found | {"samples": [_told(source) for source in self.samples]}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Recipe:
        """What ``to_json`` wrote. Raises UsageError for fields that are not known."""
        for name in value:
            _known("recipe field", name, [field.name for field in fields(cls)])
        return cls(**{name: tuple(each) if isinstance(each, list) else each for name, each in value.items()}).check()

    @classmethod
    def from_options(cls, options: Mapping[str, str]) -> Recipe:
        """From words a user typed (``OPTIONS``); lists are separated by commas, ``dynamic=none`` fixes every size.

        Raises UsageError naming the option.
        """
        for name in options:
            _known("recipe option", name, OPTIONS)
        dynamic = _words(options.get("dynamic") or ",".join(cls.dynamic))
        return cls(
            precision=options.get("precision") or cls.precision,
            keep_fp32=_words(options.get("keep_fp32")),
            calibration=options.get("calibration") or None,
            samples=_words(options.get("calibrate")),
            samples_limit=_number(options, "calibrate_limit", SAMPLES_LIMIT),
            dynamic=() if dynamic == ("none",) else dynamic,
            context=_number(options, "context", 512),
            opset=_number(options, "opset", DEFAULT_OPSET),
        ).check()


OPTIONS = ("precision", "keep_fp32", "calibration", "calibrate", "calibrate_limit", "dynamic", "context", "opset")
"""Options of a spec that the conversion depends on; all others are the runtime's."""


def _told(source: str) -> str:
    path = Path(source).expanduser()
    return f"{path.name} {of_file(path)[:16]}" if path.is_file() else source


def _words(text: str | None) -> tuple[str, ...]:
    return tuple(part.strip() for part in (text or "").split(",") if part.strip())


def _number(options: Mapping[str, str], name: str, example: int) -> int | None:
    text = options.get(name)
    if text in (None, ""):
        return None
    if not str(text).isdigit():
        raise UsageError(f"{name}={text!r} is no whole number", fix=f"{name}={example}")
    return int(str(text))


def _at_least(value: Any, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def _known(what: str, name: Any, known: Any) -> None:
    if name not in known:
        near = get_close_matches(str(name), list(known), n=1)
        fix = f"did you mean {near[0]!r}?" if near else None
        raise UsageError(f"{what} {name!r} is not known", why=f"known: {', '.join(known)}", fix=fix)
