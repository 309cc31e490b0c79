"""Vision-language models on PyTorch, through transformers' AutoModelForImageTextToText and its ``generate``.

Batches are left-padded from requests that were preprocessed one by one, so that a bad image spoils its own item only and
a batch gets the arrays that single items get. Requests whose arrays do not stack (another number of image tiles, say)
are run in separate batches.
"""

from __future__ import annotations

import functools
import inspect
import time
from collections.abc import Mapping, Sequence
from typing import Any

from workbench.errors import ItemError
from workbench.models import answering, pretrained
from workbench.models.following import Following, check_tokens
from workbench.models.processors import Prepared, Preprocessor
from workbench.models.source import Resolved
from workbench.types import Generation, ModelSpec, Output, Request, Timing

PER_TOKEN = ("input_ids", "attention_mask", "token_type_ids", "mm_token_type_ids")
"""Arrays of shape (1, prompt tokens), padded on the left; all others are joined along their first axis."""

ALONE = ("cross_attention_mask", "pixel_attention_mask_per_token")
"""Arrays whose second axis is the prompt: such requests are never batched."""


class TorchVisionLanguage:
    """A loaded model; made by ``workbench.models.loading.open_vision_language``."""

    def __init__(
        self, spec: ModelSpec, found: Resolved, config: Mapping[str, Any], generation: Mapping[str, Any], options: Mapping[str, Any]
    ):
        import torch
        from transformers import GenerationConfig

        from workbench.backends.torch import resolve_device

        self.spec, self.found, self.options = spec, found, options
        self.batch_size: int = options["batch_size"]
        self.preprocessor = Preprocessor(found.folder, options)
        self.tokenizer = self.preprocessor.tokenizer
        device = resolve_device({name: value for name, value in options.items() if value})
        self.model, _ = pretrained.load("AutoModelForImageTextToText", found, options, device)
        self.model.eval()
        self.device = self.model.device
        self.dtype = self.model.dtype
        self.stop_ids = answering.stop_ids(config, generation, self.tokenizer)
        self.limit = answering.context_length(config) or answering.context_length(self.model.config.to_dict())
        pad = getattr(self.tokenizer, "pad_token_id", None)
        self.pad_id: int = pad if pad is not None else (self.stop_ids[0] if self.stop_ids else 0)
        # The checkpoint's sampling defaults would fill what a request leaves open, so greedy would not stay greedy.
        self.ignored = {name: value for name, value in generation.items() if name in answering.SAMPLING_DEFAULTS}
        # Its stop tokens would end a followed answer that holds one.
        self.model.generation_config = GenerationConfig(pad_token_id=self.pad_id)
        self._stop_tensor = torch.tensor(self.stop_ids, device=self.device)
        self._configs: dict[Generation, Any] = {}
        self._following = Following([str(self.dtype).removeprefix("torch.")])

    def answer(self, requests: Sequence[Request], generation: Generation) -> list[Output]:
        """One Output a request, in order. Requests that fail carry their error; the others are not disturbed."""
        outputs: list[Output | None] = [None] * len(requests)
        waiting: dict[Any, list[tuple[int, Prepared]]] = {}
        size = 1 if generation.temperature > 0 else self.batch_size
        for index, request in enumerate(requests):
            began = time.perf_counter()
            try:
                prepared = self.prepare(request)
                answering.check_context(prepared, generation, self.limit)
            except (ItemError, MemoryError) as error:
                outputs[index] = Output.failed(error if isinstance(error, ItemError) else answering.memory_error(error))
                continue
            prepared.seconds = time.perf_counter() - began
            waiting.setdefault(_stacks_with(prepared, index), []).append((index, prepared))
        for group in waiting.values():
            for start in range(0, len(group), size):
                part = group[start : start + size]
                for (index, _), output in zip(
                    part, self._answer_batch([prepared for _, prepared in part], generation), strict=True
                ):
                    outputs[index] = output
        return outputs  # type: ignore[return-value]  every place was filled above

    def prepare(self, request: Request) -> Prepared:
        """What the model is given for ``request``. Raises ItemError."""
        return self.preprocessor.prepare(request, "pt")

    def follow(self, request: Request, tokens: Sequence[int]):
        """The logits that predict each of ``tokens`` after the prompt and the tokens before it (teacher forcing).

        Numpy float32 of shape (len(tokens), vocabulary). Raises ItemError.
        """
        prepared = self.prepare(request)
        vocabulary = self.model.get_input_embeddings().weight.shape[0]
        check_tokens(tokens, vocabulary, prepared.length, self.limit)
        at_once, by_step = (functools.partial(each, self._collate([prepared])) for each in (self._at_once, self._by_step))
        return self._following(tuple(prepared.arrays), tokens, at_once, by_step)

    def logits(self, prepared: Prepared):
        """The logits at every position of a prompt, numpy of shape (positions, vocabulary): float64 where the model is, else float32."""
        import torch

        with torch.inference_mode():
            found = self.model(**self._collate([prepared])).logits[0]
        return (found if found.dtype == torch.float64 else found.float()).cpu().numpy()

    def _at_once(self, prompt: Mapping[str, Any], tokens: Sequence[int]):
        """The logits from one pass over prompt and tokens."""
        import torch

        batch = dict(prompt)
        for name in PER_TOKEN:
            if name in batch:
                more = (
                    torch.tensor([list(tokens[:-1])], dtype=batch[name].dtype)
                    if name == "input_ids"
                    else torch.full((1, len(tokens) - 1), name == "attention_mask")
                )
                batch[name] = torch.cat([batch[name], more.to(batch[name])], dim=1)
        if "logits_to_keep" in inspect.signature(self.model.forward).parameters:
            batch["logits_to_keep"] = len(tokens)  # a long prompt with a large vocabulary would take gigabytes
        with torch.inference_mode():
            return self.model(**batch).logits[0, -len(tokens) :].float().cpu().numpy()

    def _by_step(self, prompt: Mapping[str, Any], tokens: Sequence[int]):
        """The logits from ``generate``, which is made to choose the tokens."""
        import torch
        from transformers import GenerationConfig

        found: list[Any] = []

        def choose(ids: Any, logits: Any):
            found.append(logits[0].float().cpu())
            return torch.full_like(logits, -torch.inf).index_fill_(1, torch.tensor([tokens[len(found) - 1]], device=ids.device), 0)

        settings = GenerationConfig(max_new_tokens=len(tokens), do_sample=False, pad_token_id=self.pad_id)
        with torch.inference_mode():
            self.model.generate(**prompt, generation_config=settings, logits_processor=[choose])
        return torch.stack(found).numpy()

    def describe(self) -> dict[str, Any]:
        """What was really loaded."""
        config = self.model.config
        return {
            "class": type(self.model).__name__,
            "parameters": sum(parameter.numel() for parameter in self.model.parameters()),
            "dtype": str(self.dtype).removeprefix("torch."),
            "device": str(self.device),
            "device_map": _device_map(self.model),
            "attention": getattr(config, "_attn_implementation", None),
            "batch_size": self.batch_size,
            "stop_ids": list(self.stop_ids),
            "pad_id": self.pad_id,
            "context": self.limit,
            "ignored_generation_defaults": self.ignored,
            "preprocessing": "shared",
            **self.preprocessor.describe(),
            "notes": [],
        }

    def close(self) -> None:
        """Free the weights."""
        import torch

        self.model = None
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    def _answer_batch(self, batch: Sequence[Prepared], generation: Generation) -> list[Output]:
        failure: ItemError
        try:
            return self._generate(batch, generation)
        except Exception as error:  # noqa: BLE001  whatever one batch raises is that batch's failure, not the run's
            failure = answering.memory_error(error) if answering.is_memory_error(error) else _model_error(error)
        self._free()
        if len(batch) == 1:
            return [Output.failed(failure)]
        return [output for prepared in batch for output in self._answer_batch([prepared], generation)]

    def _generate(self, batch: Sequence[Prepared], generation: Generation) -> list[Output]:
        import torch

        began = time.perf_counter()
        inputs = self._collate(batch)
        watch = _Watch(self.tokenizer, generation, len(batch), self._stop_tensor)
        if generation.temperature > 0:
            torch.manual_seed(generation.seed)
        with torch.inference_mode():
            sequences = self.model.generate(**inputs, generation_config=self._config(generation), stopping_criteria=[watch])
        rows = sequences[:, inputs["input_ids"].shape[1] :].tolist()
        seconds = (time.perf_counter() - began) / len(batch)
        outputs = []
        for row, (prepared, tokens) in enumerate(zip(batch, rows, strict=True)):
            kept, stopped = self._until_stop(tokens, watch.ended[row])
            first = prepared.seconds + watch.first - began if len(batch) == 1 and watch.first else None
            timing = Timing(prepared.seconds, first, prepared.seconds + seconds, prepared.length, len(kept), len(batch))
            outputs.append(answering.output_of(self.tokenizer, kept, stopped, generation, timing, prepared))
        return outputs

    def _until_stop(self, tokens: list[int], ended: int | None) -> tuple[list[int], bool]:
        """The tokens up to the stop token or the end of a stop string, without the padding that follows."""
        for place, token in enumerate(tokens[:ended]):
            if token in self.stop_ids:
                return tokens[: place + 1], True
        return tokens[:ended], ended is not None

    def _collate(self, batch: Sequence[Prepared]) -> dict[str, Any]:
        import torch

        length = max(prepared.length for prepared in batch)
        dtype = self.model.dtype  # not self.dtype: a capture runs the model in other precisions too
        joined: dict[str, Any] = {}
        for name in dict.fromkeys(name for prepared in batch for name in prepared.arrays):
            parts = [_as_tensor(prepared.arrays[name]) for prepared in batch if name in prepared.arrays]
            if name in PER_TOKEN:
                fill = self.pad_id if name == "input_ids" else 0
                parts = [torch.nn.functional.pad(part, (length - part.shape[1], 0), value=fill) for part in parts]
            if isinstance(parts[0], torch.Tensor):
                value = parts[0] if len(parts) == 1 else torch.cat(parts)
                joined[name] = value.to(self.device, dtype) if value.is_floating_point() else value.to(self.device)
            else:
                joined[name] = [entry for part in parts for entry in part] if isinstance(parts[0], list) else parts[0]
        return joined

    def _config(self, generation: Generation):
        from transformers import GenerationConfig

        if generation not in self._configs:
            sampled = (
                {"do_sample": True, "temperature": generation.temperature, "top_k": 0}
                if generation.temperature > 0
                else {"do_sample": False}
            )
            self._configs[generation] = GenerationConfig(
                max_new_tokens=generation.max_tokens, eos_token_id=list(self.stop_ids) or None, pad_token_id=self.pad_id, **sampled
            )
        return self._configs[generation]

    def _free(self) -> None:
        import torch

        if self.device.type == "cuda":
            torch.cuda.empty_cache()


class _Watch:
    """Called by ``generate`` after each token: notes when the first came, and ends rows that hold a stop string."""

    def __init__(self, tokenizer: Any, generation: Generation, rows: int, stop_tensor: Any):
        self.first: float | None = None
        self.ended: list[int | None] = [None] * rows
        self.strings = [answering.StopStrings(tokenizer, generation.stop) for _ in range(rows)] if generation.stop else None
        self.stop_tensor = stop_tensor
        self.count = 0
        self._none_done = None

    def __call__(self, input_ids: Any, scores: Any, **_: Any):
        import torch

        self.count += 1
        if self.first is None:
            input_ids[0, -1].item()  # waits for the device
            self.first = time.perf_counter()
            self._none_done = torch.zeros(input_ids.shape[0], dtype=torch.bool, device=input_ids.device)
        if self.strings is None:
            return self._none_done
        for row, token in enumerate(input_ids[:, -1].tolist()):
            if self.ended[row] is None and self.strings[row].add(token):
                self.ended[row] = self.count
        return torch.tensor([ended is not None for ended in self.ended], device=input_ids.device)


def _stacks_with(prepared: Prepared, index: int) -> Any:
    """Requests with equal keys can share a batch: same arrays, same shapes but for the first axis. Text-only ones go together."""
    arrays = prepared.arrays
    if any(name in ALONE for name in arrays):
        return index
    return tuple(sorted((name, tuple(getattr(value, "shape", ())[1:])) for name, value in arrays.items() if name not in PER_TOKEN))


def _as_tensor(value: Any) -> Any:
    """Recorded inputs come back as numpy."""
    import numpy
    import torch

    if isinstance(value, list):
        return [_as_tensor(each) for each in value]
    return torch.from_numpy(value) if isinstance(value, numpy.ndarray) else value


def _model_error(error: Exception) -> ItemError:
    return ItemError("the model failed on this item", reason="model", why=f"{type(error).__name__}: {error}"[:500])


def _device_map(model: Any) -> dict[str, str] | None:
    placed = getattr(model, "hf_device_map", None)
    return {str(part): str(where) for part, where in placed.items()} if placed else None
