"""The central types: what is asked, what came back, what it was worth.

One item's way through the workbench::

    Sample --task.ask--> Request --model.answer--> Output --task.score--> Score

Only the standard library is imported here.
"""

from __future__ import annotations

import hashlib
import io
import json
import random
import re
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

from workbench.errors import ItemError, UsageError

Finish = Literal["stop", "length", "error"]
"""How an answer ended: by itself, at ``max_tokens``, or not at all."""

Reason = Literal["parsed", "unparsed", "empty", "truncated", "refused", "error", "missing"]
"""Why a score is what it is. ``unparsed``: no answer could be read (officially a random or floor answer may stand in)."""

MAX_PIXELS = 100_000_000


class Media:
    """An image or sound by reference: opened when somebody looks, hashed by its encoded bytes.

    Give exactly one of ``path`` and ``data`` (encoded bytes, e.g. a PNG file's).
    """

    __slots__ = ("_sha256", "data", "kind", "path")

    def __init__(self, *, path: str | Path | None = None, data: bytes | None = None, kind: str = "image"):
        if (path is None) == (data is None):
            raise ValueError("Media needs exactly one of path and data")
        self.path = None if path is None else Path(path)
        self.data = data
        self.kind = kind
        self._sha256: str | None = None

    def read(self) -> bytes:
        """The encoded bytes. Raises ItemError when the file cannot be read."""
        if self.data is not None:
            return self.data
        try:
            return self.path.read_bytes()
        except OSError as error:
            raise ItemError(f"cannot read {self.kind} {self.path.name!r}", reason=self.kind, why=str(error.strerror)) from error

    @property
    def sha256(self) -> str:
        if self._sha256 is None:
            self._sha256 = hashlib.sha256(self.read()).hexdigest()
        return self._sha256

    def image(self):
        """The picture as a ``PIL.Image`` in RGB, shape (height, width, 3), orientation tag applied.

        Raises ItemError(reason="image") when it cannot be decoded or has more than MAX_PIXELS pixels.
        """
        from PIL import Image, ImageOps, UnidentifiedImageError

        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # MAX_PIXELS is checked below, with an error
                picture = Image.open(io.BytesIO(self.read()))
            width, height = picture.size
            if width * height > MAX_PIXELS:
                raise ItemError(
                    f"image of {width} x {height} pixels is too large", reason="image", why=f"the limit is {MAX_PIXELS:,} pixels"
                )
            return ImageOps.exif_transpose(picture).convert("RGB")
        except (UnidentifiedImageError, OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
            # PIL's text for an unknown format holds a memory address, and outputs must be the same on every run.
            why = "no known image format" if isinstance(error, UnidentifiedImageError) else str(error)
            raise ItemError("image cannot be decoded", reason="image", why=why) from error

    def __repr__(self) -> str:
        return f"Media({self.kind}, {self.path or f'{len(self.data)} bytes'})"


@dataclass(frozen=True, slots=True)
class Sample:
    """One row of a data set. ``group`` is the bootstrap cluster (image, speaker, subject); ``meta`` holds the row's other columns."""

    id: str
    inputs: Mapping[str, Any]
    target: Any
    group: str
    meta: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Loaded:
    """A data set that is here: its samples, the commit or file hash they come from, and a hash that tells two data sets apart."""

    samples: Sequence[Sample]
    revision: str
    fingerprint: str


class DataSource(Protocol):
    """Where a task's samples come from: a card (``workbench.data.card.FromCard``) or rows (``workbench.data.rows.Rows``)."""

    name: str

    def load(self, limit: int | None = None, sample_ids: Sequence[str] | None = None) -> Loaded: ...


@dataclass(frozen=True, slots=True)
class Generation:
    """How an answer is made. ``temperature`` 0 is greedy; ``max_tokens`` counts new tokens."""

    max_tokens: int = 128
    temperature: float = 0.0
    seed: int = 0
    stop: tuple[str, ...] = ()

    def __post_init__(self):
        if self.max_tokens < 1:
            raise UsageError(f"max_tokens must be at least 1, not {self.max_tokens}", fix="--max-tokens 128")
        if self.temperature < 0:
            raise UsageError(f"temperature must not be negative, not {self.temperature}")

    def to_dict(self) -> dict[str, Any]:
        return {**asdict(self), "stop": list(self.stop)}


@dataclass(frozen=True, slots=True)
class Request:
    """What a model is asked. For vision-language models ``inputs`` is ``{"text": str, "images": [Media, ...]}``, for speech to
    text ``{"audio": Media, "language": str | None, "task": "transcribe" | "translate"[, "prompt": str]}``.

    ``prompt_id`` names the prompt's wording and version. ``input_hash`` covers inputs and ``prompt_id``, so the same
    question on two runtimes has the same hash; generation settings are compared by the run's manifest instead, where a
    difference can be named.
    """

    inputs: Mapping[str, Any]
    prompt_id: str

    @property
    def input_hash(self) -> str:
        text = json.dumps(
            {"inputs": _canonical(self.inputs), "prompt_id": self.prompt_id},
            sort_keys=True,
            ensure_ascii=False,
            separators=(",", ":"),
        )
        return hashlib.sha256(text.encode()).hexdigest()[:32]


def media_in(request: Request) -> list[Media]:
    """The media that a request asks about: images, then audio."""
    found = list(request.inputs.get("images") or ())
    audio = request.inputs.get("audio")
    return found + ([] if audio is None else list(audio) if isinstance(audio, (list, tuple)) else [audio])


def _canonical(value: Any) -> Any:
    if isinstance(value, Media):
        return {"media": value.kind, "sha256": value.sha256}
    if isinstance(value, Mapping):
        return {str(key): _canonical(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_canonical(item) for item in value]
    if value is None or isinstance(value, (str, int, float, bool)):
        return value
    raise TypeError(f"a request may hold text, numbers, lists, mappings and Media, not {type(value).__name__}")


@dataclass(frozen=True, slots=True)
class Timing:
    """Seconds from the request on: ``prepare`` (until preprocessed), ``first`` (until the first token, None without streaming),
    ``total`` (until answered, preprocessing included); token counts in and out.

    In a batch, ``total`` is the batch's time divided by its size, and ``batch`` says how many shared it.
    """

    prepare: float
    first: float | None
    total: float
    n_in: int
    n_out: int
    batch: int = 1


@dataclass(frozen=True, slots=True)
class Output:
    """A model's answer. ``value`` is None only when ``error`` says why: ``{"reason", "what", "why", "fix"}``.

    ``seen`` is what the model was really given, where the wrapper knows: ``{"prompt", "tokens": {"n", "hash"}, "arrays"}``.
    ``segments`` are the stretches of a transcript, JSON mappings with at least ``start`` and ``end`` (seconds) and ``text``.
    """

    value: str | None
    tokens: tuple[int, ...] | None = None
    finish: Finish = "stop"
    timing: Timing | None = None
    error: Mapping[str, str | None] | None = None
    seen: Mapping[str, Any] | None = None
    segments: tuple[Mapping[str, Any], ...] | None = None

    @classmethod
    def failed(cls, error: Exception, timing: Timing | None = None) -> Output:
        """The output of an item that could not be answered."""
        reason = error.reason if isinstance(error, ItemError) else "model"
        what = error.what if isinstance(error, ItemError) else f"{type(error).__name__}: {error}"
        detail = {"reason": reason, "what": what, "why": getattr(error, "why", None), "fix": getattr(error, "fix", None)}
        return cls(value=None, finish="error", timing=timing, error=detail)


@dataclass(frozen=True, slots=True)
class Response:
    """What a scorer sees: the text, a judge's extraction where one was supplied, and how the text ended."""

    text: str
    extraction: str | None = None
    finish: Finish = "stop"


@dataclass(frozen=True, slots=True)
class Score:
    """What an answer is worth. ``value`` in [0, 1] or None; ``answer`` is what was read from the response.

    ``counts`` are additive (``{"correct": 1, "total": 1}``), every metric is a reduction over them. ``random`` says
    that the official protocol drew the answer at random because none could be read.
    """

    value: float | None
    answer: Any
    reason: Reason
    counts: Mapping[str, int]
    explanation: str | None = None
    random: bool = False

    @classmethod
    def of(
        cls, correct: bool, answer: Any, reason: Reason = "parsed", *, random: bool = False, explanation: str | None = None
    ) -> Score:
        """A right-or-wrong score."""
        return cls(float(correct), answer, reason, {"correct": int(correct), "total": 1}, explanation, random)


@dataclass(frozen=True, slots=True)
class Metric:
    """A reduction over scores. ``unit`` is what a reader sees: ``"%"`` (value in 0..100), ``"items"``, ``"fraction"``.

    ``of`` is the fixed scale of a metric that has one (OCRBench: 1000), else None (the number of scores).
    ``around(scores)`` are the figures that a value is not shown without: a word error rate's words, errors and interval.
    """

    name: str
    reduce: Callable[[Sequence[Score]], float]
    higher_is_better: bool = True
    bounds: tuple[float, float | None] = (0.0, 100.0)
    unit: str = "%"
    of: int | None = None
    around: Callable[[Sequence[Score]], Mapping[str, Any]] | None = None


@dataclass(frozen=True)
class Task:
    """One benchmark: a data card, how to ask, how to score, how to sum up. Never knows a model or a runtime.

    ``score(sample, response, rng)`` gets the task's own random stream (seeded with ``seed``), consumed in the order of
    ``order(samples)``: that is how official random fallbacks are reproduced. ``groups(sample)`` yields (axis, name)
    pairs, each reported like the headline. ``chance(sample)`` is the score a guesser gets on the item.
    ``details(samples, responses, scores)`` are extra fields of the results; it may set ``scorer`` where the label depends
    on what was given (MathVista without extractions is ``rules-only``). ``failed(sample)`` is the score of an item that could not be
    answered, where that is more than a plain wrong (speech: every word of the reference counts as deleted).
    """

    name: str
    version: str
    family: str
    card: DataSource
    ask: Callable[[Sample], Request]
    score: Callable[[Sample, Response, random.Random], Score]
    metrics: tuple[Metric, ...]
    headline: str
    groups: Callable[[Sample], Iterable[tuple[str, str]]] = lambda sample: ()
    order: Callable[[Sequence[Sample]], Sequence[Sample]] = lambda samples: samples
    chance: Callable[[Sample], float] = lambda sample: 0.0
    seed: int = 42
    generation: Generation = Generation()
    scorer: str = "official"
    description: str = ""
    details: Callable[[Sequence[Sample], Mapping[str, Response], Mapping[str, Score]], Mapping[str, Any]] = lambda *_: {}
    failed: Callable[[Sample], Score] | None = None

    @property
    def card_name(self) -> str:
        return self.card.name

    def load(self, limit: int | None = None, sample_ids: Sequence[str] | None = None) -> Loaded:
        """The task's samples in data order; the first ``limit``, or those with ``sample_ids``. Raises DataError."""
        return self.card.load(limit, sample_ids)

    def headline_metric(self) -> Metric:
        return next(metric for metric in self.metrics if metric.name == self.headline)


CREDENTIALS = re.compile(r"(https?://)[^/?#]*@", re.IGNORECASE)
SERVED_PATH = re.compile(r"#(?:/|[A-Za-z]:\\)(?:[^?#]*[/\\])?([^/\\?#]+)[/\\]?")
"""A served model may be named by a path on the server's disk."""


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """A model on a runtime, as users write it.

    ``torch:ORG/NAME``, ``torch:ORG/NAME@REVISION``, ``mlx:./folder?dtype=float32``, ``demo:vlm@mlx``,
    ``server:http://127.0.0.1:8080#NAME?concurrency=8`` (source: address and name; both may hold ``:`` and ``@``).
    ``options`` are backend and loading options (dtype, device, batch_size, blas, ...), all part of the run key.
    """

    backend: str
    source: str
    revision: str | None = None
    adapter: str | None = None
    options: Mapping[str, str] = field(default_factory=dict)
    text: str = ""

    @classmethod
    def parse(cls, text: str) -> ModelSpec:
        """Read ``text``. Raises UsageError with the forms that are understood."""
        forms = "demo:vlm@torch, torch:ORG/NAME[@REVISION][?option=value&...], mlx:./folder, server:http://HOST:PORT#NAME"
        head, _, query = text.partition("?")
        scheme, colon, rest = head.partition(":")
        if not colon or not scheme or not rest:
            raise UsageError(f"cannot read model {text!r}", why=f"a model is written like {forms}", fix="workbench list models")
        if scheme == "server" and "#" in query:  # the order of a URL: options, then the fragment
            query, _, name = query.partition("#")
            rest = f"{rest}#{name}"
        options: dict[str, str] = {}
        for part in filter(None, query.split("&")):
            key, equals, value = part.partition("=")
            if not equals or not key:
                raise UsageError(
                    f"cannot read option {part!r} of model {text!r}", why=f"options are written name=value; forms: {forms}"
                )
            options[key.replace("-", "_")] = value
        adapter = options.pop("adapter", None)
        if scheme == "demo":
            name, at, backend = rest.partition("@")
            if not at or not backend:
                raise UsageError(f"model {text!r} names no runtime", fix=f"--model demo:{name}@torch")
            return cls(backend, f"demo:{name}", None, adapter, options, text)
        source, revision = rest, None
        if scheme != "server" and "@" in rest and not Path(rest).exists():
            source, _, revision = rest.rpartition("@")
        return cls(scheme, source, revision or None, adapter, options, text)

    @property
    def label(self) -> str:
        """The text for bundles and tables: an absolute path is cut to its last part (it may name a user), a password to nothing."""
        if self.backend == "server":
            return SERVED_PATH.sub(r"#\1", CREDENTIALS.sub(r"\1", self.text))
        if Path(self.source).expanduser().is_absolute():
            return self.text.replace(self.source, Path(self.source).name, 1)
        return self.text

    def with_options(self, **extra: Any) -> ModelSpec:
        """A copy; ``extra`` options that are None are left out, given ones win over those in the text."""
        merged = {**self.options, **{key: str(value) for key, value in extra.items() if value is not None}}
        return ModelSpec(self.backend, self.source, self.revision, self.adapter, merged, self.text)
