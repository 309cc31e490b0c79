"""Vision-language models on MLX, through mlx-vlm's own loader and generation loop (``generate_step``).

Prompt and pixels come from transformers' processor as on torch (``preprocessing=shared``), so a difference in answers
is a difference between runtimes. Requests run one at a time: batches of mlx-vlm 0.7.10 give every LLaVA row the last
image. Nothing here needs torch.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from typing import Any

from workbench.errors import ItemError, ModelError
from workbench.models import answering
from workbench.models.following import Following, check_tokens
from workbench.models.mlx_weights import dequantise, parameter_count, real_dtypes
from workbench.models.processors import Prepared, Preprocessor, processor_error
from workbench.models.source import Resolved
from workbench.types import Generation, ModelSpec, Output, Request, Timing

ONE_AT_A_TIME = "requests run one at a time: batches of mlx-vlm 0.7.10 give every row the last image"
ROPE_NOTE = "config.json is in transformers 5's layout, which mlx-vlm 0.7.10 was not made for"


class MLXVisionLanguage:
    """A loaded model; made by ``workbench.models.loading.open_vision_language``."""

    batch_size = 1

    def __init__(
        self, spec: ModelSpec, found: Resolved, config: Mapping[str, Any], generation: Mapping[str, Any], options: Mapping[str, Any]
    ):
        from mlx import core

        self.spec, self.found, self.options = spec, found, options
        self.notes: list[str] = [ONE_AT_A_TIME] if options["batch_size"] > 1 else []
        self.on_cpu = core.default_device().type == core.DeviceType.cpu
        if config.get("model_file") and options["trust_remote_code"] != "true":
            raise ModelError(
                f"{found.source!r} brings its own Python code", why="config.json names a model_file", fix="--trust-remote-code"
            )
        self.preprocessor = self._preprocessor(config)
        self.tokenizer = self.preprocessor.tokenizer
        self.model = _load(found)
        self._check_rope(config)
        self.quantisation = self._settle_precision(config)
        self.stop_ids = answering.stop_ids(config, generation, self.tokenizer)
        self.limit = answering.context_length(config)
        self._following = Following(real_dtypes(self.model))

    def answer(self, requests: Sequence[Request], generation: Generation) -> list[Output]:
        """One Output a request, in order, one at a time. Requests that fail carry their error."""
        return [self._answer(request, generation) for request in requests]

    def follow(self, request: Request, tokens: Sequence[int]):
        """The logits that predict each of ``tokens`` after the prompt and the tokens before it (teacher forcing).

        Numpy float32 of shape (len(tokens), vocabulary). Raises ItemError.
        """
        prepared = self.prepare(request)
        check_tokens(tokens, self._vocabulary(), prepared.length, self.limit)
        at_once, by_step = (functools.partial(each, prepared) for each in (self._at_once, self._by_step))
        return self._following(tuple(prepared.arrays), tokens, at_once, by_step)

    def logits(self, prepared: Prepared):
        """The logits at every position of a prompt, numpy float32 of shape (positions, vocabulary)."""
        import numpy
        from mlx import core

        return numpy.array(prompt_logits(self.model, *self._arrays(prepared))[0].astype(core.float32))

    def _at_once(self, prepared: Prepared, tokens: Sequence[int]):
        """The logits from one pass over prompt and tokens."""
        import numpy
        from mlx import core

        ids, pixels, mask, others = self._arrays(prepared)
        more = core.array([list(tokens[:-1])], dtype=ids.dtype)
        ids = core.concatenate([ids, more], axis=1)
        if mask is not None:
            mask = core.concatenate([mask, core.ones(more.shape, dtype=mask.dtype)], axis=1)
        for name in ("token_type_ids", "mm_token_type_ids"):
            if name in others:
                others[name] = core.concatenate([others[name], core.zeros(more.shape, dtype=others[name].dtype)], axis=1)
        logits = prompt_logits(self.model, ids, pixels, mask, others)
        return numpy.array(logits[0, -len(tokens) :].astype(core.float32))

    def _by_step(self, prepared: Prepared, tokens: Sequence[int]):
        """The logits from mlx-vlm's generation loop, which is made to choose the tokens."""
        import numpy
        from mlx import core
        from mlx_vlm.generate.ar import generate_step

        ids, pixels, mask, others = self._arrays(prepared)
        found: list[Any] = []

        def choose(_: Any, logits: Any):
            place = len(found)
            found.append(logits[0].astype(core.float32))
            if place >= len(tokens):  # the loop works one token ahead
                return logits
            return core.where(core.arange(logits.shape[-1]) == tokens[place], 0.0, -core.inf)[None]

        settings = {"max_tokens": len(tokens), "temperature": 0.0, "top_p": 1.0, "top_k": 0, "logits_processors": [choose]}
        for _ in generate_step(ids, self.model, pixels, mask, **settings, **others):
            pass
        return numpy.array(core.stack(found[: len(tokens)]))

    def _vocabulary(self) -> int:
        """How many tokens the model has weights for."""
        config = self.model.config
        sizes = (getattr(part, "vocab_size", None) for part in (getattr(config, "text_config", None), config))
        return next((size for size in sizes if size), 2**31)

    def describe(self) -> dict[str, Any]:
        """What was really loaded."""
        from mlx import core

        dtypes = real_dtypes(self.model)
        return {
            "class": f"{type(self.model).__module__}.{type(self.model).__name__}",
            "parameters": parameter_count(self.model),
            "dtype": dtypes[0] if len(dtypes) == 1 else ", ".join(dtypes),
            "device": str(core.default_device()).removeprefix("Device(").split(",")[0],
            "attention": "mlx.core.fast",
            "quantisation": self.quantisation,
            "batch_size": self.batch_size,
            "stop_ids": list(self.stop_ids),
            "context": self.limit,
            "preprocessing": self.preprocessing,
            **self.preprocessor.describe(),
            "notes": self.notes,
        }

    def close(self) -> None:
        """Free the weights."""
        from mlx import core

        self.model = None
        core.clear_cache()

    def _answer(self, request: Request, generation: Generation) -> Output:
        began = time.perf_counter()
        try:
            prepared = self.prepare(request)
            answering.check_context(prepared, generation, self.limit)
            prepared.seconds = time.perf_counter() - began
            return self._generate(prepared, generation, began)
        except ItemError as error:
            return Output.failed(error)
        except Exception as error:  # noqa: BLE001  whatever one item raises is its own failure, not the run's
            failed = ItemError("the model failed on this item", reason="model", why=f"{type(error).__name__}: {error}"[:500])
            return Output.failed(answering.memory_error(error) if answering.is_memory_error(error) else failed)

    def _generate(self, prepared: Prepared, generation: Generation, began: float) -> Output:
        from mlx import core
        from mlx_vlm.generate.ar import generate_step, generation_stream
        from mlx_vlm.generate.common import wired_limit

        ids, pixels, mask, others = self._arrays(prepared)
        if generation.temperature > 0:
            core.random.seed(generation.seed)
        strings = answering.StopStrings(self.tokenizer, generation.stop) if generation.stop else None
        # Neutral settings are spelled out: mlx-vlm fills the open ones from generation_config.json.
        steps = generate_step(
            ids,
            self.model,
            pixels,
            mask,
            max_tokens=generation.max_tokens,
            temperature=generation.temperature,
            top_p=1.0,
            top_k=0,
            **others,
        )
        tokens: list[int] = []
        stopped, first = False, None
        with wired_limit(self.model, [generation_stream]), closing(steps):
            for token, _ in steps:
                if first is None:
                    first = time.perf_counter() - began
                tokens.append(int(token))
                stopped = token in self.stop_ids or (strings is not None and strings.add(tokens[-1]))
                if stopped:
                    break
        timing = Timing(prepared.seconds, first, time.perf_counter() - began, prepared.length, len(tokens), 1)
        return answering.output_of(self.tokenizer, tokens, stopped, generation, timing, prepared)

    def prepare(self, request: Request) -> Prepared:
        """What the model is given for ``request``. Raises ItemError."""
        return self.preprocessor.prepare(request, "np" if self.preprocessing == "shared" else "mlx")

    def _arrays(self, prepared: Prepared) -> tuple[Any, Any, Any, dict[str, Any]]:
        """(input ids, pixel values, mask, the rest) as MLX arrays."""
        from mlx import core

        arrays = {
            name: value if isinstance(value, core.array) or value is None else core.array(value)
            for name, value in prepared.arrays.items()
        }
        pixels = arrays.pop("pixel_values", None)
        return arrays.pop("input_ids"), pixels, arrays.pop("attention_mask", None), arrays

    def _preprocessor(self, config: Mapping[str, Any]) -> Preprocessor:
        """transformers' processor, or mlx-vlm's own when that was asked for or transformers does not know the model."""
        from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES

        self.preprocessing = self.options["preprocessing"]
        kind = str(config.get("model_type"))
        if self.preprocessing == "shared" and kind not in CONFIG_MAPPING_NAMES and "preprocessing" not in self.spec.options:
            self.preprocessing = "own"
            self.notes.append(f"transformers does not know {kind}: mlx-vlm's own preprocessing is used")
        if self.preprocessing == "shared":
            return Preprocessor(self.found.folder, self.options)
        from mlx_vlm.utils import load_processor

        try:
            processor = load_processor(self.found.folder, trust_remote_code=self.options["trust_remote_code"] == "true")
        except Exception as error:
            raise processor_error(self.found.folder, error) from error
        if getattr(processor, "image_processor", None) is not None:
            processor.image_processor = _KeywordFilter(processor.image_processor)
        return Preprocessor(self.found.folder, self.options, processor, _own_prompt(processor, config), "mlx_vlm.prompt_utils")

    def _check_rope(self, config: Mapping[str, Any]) -> None:
        """A silently different rotation base is the worst that transformers 5's layout does: refuse it."""
        text = config.get("text_config") or {}
        base = (text.get("rope_parameters") or {}).get("rope_theta")
        if base is None or "rope_theta" in text:
            return
        self.notes.append(ROPE_NOTE)
        used = getattr(getattr(self.model.config, "text_config", None), "rope_theta", base)
        if float(used) != float(base):
            raise ModelError(
                f"mlx-vlm misreads {self.found.source!r}",
                why=f"it takes rope_theta {used} where config.json says {base} under rope_parameters (transformers 5's layout)",
                fix="export the folder in the layout of published checkpoints (rope_theta in text_config)",
            )

    def _settle_precision(self, config: Mapping[str, Any]) -> str | None:
        """Dequantise or cast as the options say; returns what became of quantised weights."""
        from mlx import core

        asked = self.options["dtype"]
        dtype = getattr(core, asked) if asked != "auto" else (core.float32 if self.on_cpu else None)
        wanted = self.options["dequantise"]
        label = dequantise(self.model, dtype or core.float32) if wanted == "true" or (wanted == "auto" and self.on_cpu) else None
        if dtype is not None:
            self.model.set_dtype(dtype)
        core.eval(self.model.parameters())
        if label:
            return f"dequantised: {label} → {str(dtype or core.float32).rpartition('.')[2]}"
        from workbench.models.checkpoint import describe_quantisation

        return describe_quantisation(dict(config))


def prompt_logits(model: Any, ids: Any, pixels: Any, mask: Any, others: Mapping[str, Any]) -> Any:
    """The logits at every position of a prompt, shape (1, positions, vocabulary), by the steps of mlx-vlm's ``generate_step``:
    the embeddings with the image's features, then the language model with a cache. Calling the model itself is another path."""
    from mlx_vlm.models import cache

    embedded = model.get_input_embeddings(ids, pixels, mask=mask, **others)
    extra = {name: value for name, value in embedded.to_dict().items() if name != "inputs_embeds" and value is not None}
    made = cache.make_prompt_cache(model.language_model)
    return model.language_model(ids, inputs_embeds=embedded.inputs_embeds, cache=made, **{**others, **extra}).logits


class _KeywordFilter:
    """An image processor without the text keywords that mlx-vlm's processors forward and transformers 5.23 refuses."""

    TEXT = ("padding", "padding_side", "add_special_tokens", "truncation")

    def __init__(self, inner: Any):
        self._inner = inner

    def __call__(self, *arguments: Any, **keywords: Any) -> Any:
        return self._inner(*arguments, **{name: value for name, value in keywords.items() if name not in self.TEXT})

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)


def _own_prompt(processor: Any, config: Mapping[str, Any]):
    def render(text: str, images: int) -> str:
        from mlx_vlm.prompt_utils import apply_chat_template

        return apply_chat_template(processor, dict(config), text, num_images=images)

    return render


def _load(found: Resolved):
    """The model with every weight found and used (mlx-vlm loads strictly)."""
    from mlx_vlm.utils import load_model

    return load_model(found.folder, lazy=False, strict=True)
