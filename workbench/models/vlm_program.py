"""Vision-language models as converted programs: an image tower, a pass over the prompt, and a step that reads one token more.

    model = open_vision_language(ModelSpec.parse("demo:vlm@coreml"))
    model.answer([request], Generation(max_tokens=16))

Prompt and pixels come from transformers' processor as on torch; the loop, the choice of tokens, stop rules and limits are the workbench's,
in numpy. So Core ML, TensorRT and ONNX answer through the same lines, and differ in what their programs compute. Programs are made for
one request at a time.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from workbench.errors import ItemError, RuntimeMissing
from workbench.models import answering, masks
from workbench.models.following import Following, check_tokens
from workbench.models.processors import Prepared, Preprocessor
from workbench.models.program_stages import Stages, StepCache
from workbench.models.sampling import draw
from workbench.models.source import Resolved
from workbench.types import Generation, ModelSpec, Output, Request, Timing

ONE_AT_A_TIME = "requests run one at a time: the programs are made for one"
UNDERSTOOD = ("input_ids", "attention_mask", "pixel_values", "token_type_ids", "mm_token_type_ids")
"""Arrays of a processor that are given to the programs or hold nothing that they need; another one belongs to another kind of model."""


class ProgramVisionLanguage:
    """A loaded model; made by ``workbench.models.loading.open_vision_language``. ``stages``: the programs, for whoever looks inside."""

    batch_size = 1

    def __init__(
        self,
        spec: ModelSpec,
        found: Resolved,
        stages: Stages,
        config: Mapping[str, Any],
        generation: Mapping[str, Any],
        options: Mapping[str, Any],
    ):
        self.spec, self.found, self.stages, self.options = spec, found, stages, options
        self.preprocessor = Preprocessor(found.folder, {**options, "trust_remote_code": "false"})
        self.tokenizer = self.preprocessor.tokenizer
        self.sizes = stages.converted.sizes
        self.limit: int = self.sizes["context"]
        self.vocabulary: int = self.sizes["vocabulary"]
        self.stop_ids = answering.stop_ids(config, generation, self.tokenizer)
        self.ignored = {name: value for name, value in generation.items() if name in answering.SAMPLING_DEFAULTS}
        # States keep half precision in a float32 program too. Where that parts the two ways further than float32 may, answers are
        # followed step by step, as they are made.
        self._following = Following([stages.dtype, stages.precision])

    def answer(self, requests: Sequence[Request], generation: Generation) -> list[Output]:
        """One Output a request, in order. Requests that fail carry their error; of reference evidence none has a timing."""
        return [self._answer(request, generation) for request in requests]

    def prepare(self, request: Request) -> Prepared:
        """What the model is given for ``request``. Raises ItemError."""
        return self.preprocessor.prepare(request, "np")

    def follow(self, request: Request, tokens: Sequence[int]) -> Any:
        """The logits that predict each of ``tokens`` after the prompt and the tokens before it (teacher forcing).

        Numpy float32 of shape (len(tokens), vocabulary). Raises ItemError.
        """
        prepared = self.prepare(request)
        check_tokens(tokens, self.vocabulary, prepared.length, self.limit)
        at_once, by_step = (functools.partial(each, prepared) for each in (self._at_once, self._by_step))
        return self._following(tuple(prepared.arrays), tokens, at_once, by_step)

    def logits(self, prepared: Prepared) -> Any:
        """The logits at every position of a prompt, numpy of shape (positions, vocabulary)."""
        logits, _ = self._read(self._tokens(prepared), self.image_features(prepared))
        return logits

    def describe(self) -> dict[str, Any]:
        """What was really loaded."""
        asked = self.options.get("batch_size") or 1
        return {
            **self.stages.describe(),
            "batch_size": self.batch_size,
            "stop_ids": list(self.stop_ids),
            "context": self.limit,
            "ignored_generation_defaults": self.ignored,
            "preprocessing": "shared",
            **self.preprocessor.describe(),
            "notes": [ONE_AT_A_TIME] if asked > 1 else [],
        }

    def close(self) -> None:
        """Free the programs."""
        self.stages.close()

    def image_features(self, prepared: Prepared) -> list[Any]:
        """What the image tower makes of each picture, float32 (image tokens, hidden). Raises ItemError."""
        return [self.stages["vision"](given)["image_features"] for given in self.vision_inputs(prepared)]

    def vision_inputs(self, prepared: Prepared) -> Iterator[dict[str, Any]]:
        """The arrays of the stage vision, one mapping a picture. Raises ItemError for pictures it was not made for."""
        import numpy

        unknown = [name for name in prepared.arrays if name not in UNDERSTOOD]
        if unknown:
            raise ItemError(
                f"the processor gives {unknown[0]!r}, which the converted model has no input for",
                reason="image",
                why=f"it takes {', '.join(UNDERSTOOD[:3])}",
            )
        pixels = prepared.arrays.get("pixel_values")
        if pixels is None:
            return
        pixels = numpy.asarray(pixels, dtype=numpy.float32)
        wanted = tuple(self.stages.converted.stage("vision").inputs[0].shape)
        if pixels.ndim != 4 or any(size not in (None, here) for size, here in zip(wanted[1:], pixels.shape[1:], strict=True)):
            raise ItemError(
                f"pixels of the shape {pixels.shape} do not fit",
                reason="image",
                why=f"the image tower was converted for {wanted}, one picture at a time",
            )
        for place in range(len(pixels)):
            yield {"pixel_values": pixels[place : place + 1]}

    def prefill_inputs(self, tokens: Sequence[int], features: Sequence[Any]) -> dict[str, Any]:
        """The arrays of the stage prefill: each picture's features stand where its image tokens are. Raises ItemError."""
        import numpy

        ids = numpy.asarray([tokens], dtype=numpy.int32)
        rows = numpy.flatnonzero(ids[0] == self.sizes["image_token"])
        given = sum(len(each) for each in features)
        if given != len(rows):
            raise ItemError(
                f"the prompt has {len(rows)} image tokens, and the pictures make {given}",
                reason="image",
                why=f"{len(features)} pictures",
            )
        embeddings = numpy.zeros((1, ids.shape[1], self.sizes["hidden"]), dtype=numpy.float32)
        if given:
            embeddings[0, rows] = numpy.concatenate(features)
        return {
            "tokens": ids,
            "image_embeddings": embeddings,
            "mask": masks.causal(ids.shape[1]),
            "positions": numpy.arange(ids.shape[1], dtype=numpy.int32)[None],
        }

    def step_inputs(self, token: int, position: int) -> dict[str, Any]:
        """The arrays of the stage step without its caches."""
        import numpy

        return {
            "tokens": numpy.asarray([[token]], dtype=numpy.int32),
            "mask": masks.up_to(position, self.limit),
            "positions": numpy.asarray([[position]], dtype=numpy.int32),
        }

    def _tokens(self, prepared: Prepared) -> list[int]:
        return [int(token) for token in prepared.arrays["input_ids"][0]]

    def _read(self, tokens: Sequence[int], features: Sequence[Any], cache: bool = False) -> tuple[Any, StepCache | None]:
        """(logits (tokens, vocabulary) over a prompt, what the step goes on from where ``cache`` asks for it)."""
        import numpy

        if len(tokens) == 1:  # the pass over a prompt takes two and more
            if tokens[0] == self.sizes["image_token"]:
                raise ItemError("the prompt is one image token", reason="image", why="a picture makes more")
            held = self._cache()
            return numpy.asarray(self._step(held, tokens[0])[None], dtype=numpy.float32), held
        found = self.stages["prefill"](self.prefill_inputs(tokens, features))
        held = None
        if cache:
            held = self._cache()
            held.fill(found["new_keys"], found["new_values"])
        logits = numpy.asarray(found["logits"])[0]
        return (logits if logits.dtype == numpy.float64 else logits.astype(numpy.float32, copy=False)), held

    def _cache(self) -> StepCache:
        return StepCache(self.stages["step"], self.sizes, self.stages.stateful)

    def _step(self, held: StepCache, token: int) -> Any:
        """The logits (vocabulary,) after one token more."""
        return held.run(self.step_inputs(token, held.filled))["logits"][0, 0]

    def _at_once(self, prepared: Prepared, tokens: Sequence[int]) -> Any:
        """The logits from one pass over prompt and tokens."""
        whole = [*self._tokens(prepared), *tokens[:-1]]
        return self._read(whole, self.image_features(prepared))[0][-len(tokens) :]

    def _by_step(self, prepared: Prepared, tokens: Sequence[int]) -> Any:
        """The logits from the loop that answers, which is made to choose the tokens."""
        import numpy

        logits, held = self._read(self._tokens(prepared), self.image_features(prepared), cache=True)
        found = [logits[-1]]
        for token in tokens[:-1]:
            found.append(self._step(held, token))
        return numpy.stack(found).astype(numpy.float32)

    def _answer(self, request: Request, generation: Generation) -> Output:
        began = time.perf_counter()
        try:
            prepared = self.prepare(request)
            answering.check_context(prepared, generation, self.limit)
            prepared.seconds = time.perf_counter() - began
            return self._generate(prepared, generation, began)
        except RuntimeMissing:  # its process is gone: no item's fault, and every further one would fail too
            raise
        except Exception as error:  # noqa: BLE001  whatever one item raises is its own failure, not the run's
            return Output.failed(answering.item_error(error))

    def _generate(self, prepared: Prepared, generation: Generation, began: float) -> Output:
        import numpy

        random = numpy.random.default_rng(generation.seed) if generation.temperature > 0 else None
        strings = answering.StopStrings(self.tokenizer, generation.stop) if generation.stop else None
        logits, held = self._read(self._tokens(prepared), self.image_features(prepared), cache=True)
        logits = logits[-1]
        tokens: list[int] = []
        stopped, first = False, None
        while True:
            tokens.append(draw(logits, generation.temperature, random))
            first = first or time.perf_counter() - began
            stopped = tokens[-1] in self.stop_ids or (strings is not None and strings.add(tokens[-1]))
            if stopped or len(tokens) >= generation.max_tokens:
                break
            logits = self._step(held, tokens[-1])
        timing = None
        if self.stages.timed:
            timing = Timing(prepared.seconds, first, time.perf_counter() - began, prepared.length, len(tokens), 1)
        return answering.output_of(self.tokenizer, tokens, stopped, generation, timing, prepared)
