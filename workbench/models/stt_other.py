"""Other speech models of transformers: encoder-decoders through their own ``generate``, and the forward pass of CTC models.

    model = open_speech_to_text(ModelSpec.parse("torch:ORG/moonshine"))      # any AutoModelForSpeechSeq2Seq
    model.answer([Request({"audio": media, "language": "en", "task": "transcribe"}, "asr-1")], Generation(max_tokens=200))

Weights are loaded strictly, as everywhere. Audio longer than ``chunk_seconds`` is read in stretches of that length, one after the other.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from workbench.errors import ItemError, UsageError
from workbench.models import pretrained
from workbench.models.answering import stop_ids
from workbench.models.following import check_tokens
from workbench.models.processors import Prepared
from workbench.models.source import Resolved
from workbench.models.speech_to_text import Decoding
from workbench.models.stt_plain import RATE, Heard, PlainSpeech, stretches
from workbench.types import ModelSpec, Request

ONLY_IN_TRAINING = ("masked_spec_embed",)
"""SpecAugment's filling: many published checkpoints lack it, and nothing but training reads it."""
NO_LANGUAGE = "the request's language is not told to this model: its class has no common way to be told"
NO_SHARED_LOOP = "the workbench decodes Whisper alone; this model's own generate is used"


def open_other(
    spec: ModelSpec, found: Resolved, config: Mapping[str, Any], generation: Mapping[str, Any], options: Mapping[str, Any]
) -> TorchSeq2Seq:
    """The model, loaded strictly. Raises ModelError, UsageError."""
    from workbench.models.stt_ctc import load_parts

    if spec.options.get("loop") == "shared":
        raise UsageError(f"loop=shared is not for {config['model_type']} models", why=NO_SHARED_LOOP, fix="leave ?loop out")
    if "stride_seconds" in spec.options:
        raise UsageError("option stride_seconds does nothing here", why="an encoder-decoder's stretches do not overlap")
    extractor, tokenizer = load_parts(found, options)
    model, about = load(found, options, "AutoModelForSpeechSeq2Seq")
    ends = stop_ids(config, generation, tokenizer)
    return TorchSeq2Seq(spec, found, options, model, about, freed, extractor, tokenizer, ends)


class TorchSeq2Seq(PlainSpeech):
    """An encoder-decoder of transformers. Its class, not the workbench, says what the decoder is given first."""

    loop = "transformers.generate"

    def __init__(
        self,
        spec: ModelSpec,
        found: Resolved,
        options: Mapping[str, Any],
        model: Any,
        about: Mapping[str, Any],
        free: Callable[[], None],
        extractor: Any,
        tokenizer: Any,
        ends: tuple[int, ...],
    ):
        about = {**about, "stop_ids": list(ends), "notes": [*about["notes"], NO_LANGUAGE]}
        super().__init__(spec, found, options, model, about, free)
        self.extractor, self.tokenizer, self.ends = extractor, tokenizer, ends
        self.chunk = int(options["chunk_seconds"] * RATE)

    def hear(self, samples: Any, decoding: Decoding) -> Heard:
        import torch

        texts: list[str] = []
        tokens: list[int] = []
        finish = "stop"
        parts = stretches(len(samples), self.chunk, 0)
        temperature = decoding.temperatures[0]
        sampling = (
            {"do_sample": True, "temperature": temperature, "top_p": 1.0, "top_k": 0} if temperature > 0 else {"do_sample": False}
        )
        torch.manual_seed(decoding.seed)
        for first, end, _, _ in parts:
            with torch.inference_mode():
                made = self.model.generate(
                    **self._tensors(self._features(samples[first:end])), max_new_tokens=decoding.max_tokens, num_beams=1, **sampling
                )
            new = made[0].tolist()[len(self._start()) :]
            finish = finish if new and new[-1] in self.ends else "length"
            tokens += new
            texts.append(self.tokenizer.decode(new, skip_special_tokens=True).strip())
        return Heard(" ".join(text for text in texts if text), tuple(tokens), finish, len(parts))

    def prepare(self, request: Request) -> Prepared:
        """The features of the sound and the decoder's first tokens. Raises ItemError for what is longer than one stretch."""
        import numpy

        sound = self.asked(request)
        if len(sound.samples) > self.chunk:
            raise ItemError(
                f"audio of {len(sound.samples) / RATE:.1f} s is longer than one stretch",
                reason="context",
                why=f"stretches of {self.chunk / RATE:g} s are read at once",
                fix="cut the audio",
            )
        start = self._start()
        arrays = {**self._features(sound.samples), "input_ids": numpy.asarray([start], dtype=numpy.int64)}
        return Prepared(arrays, self.tokenizer.decode(start), len(start))

    def logits(self, prepared: Prepared) -> Any:
        """The logits at every position of the decoder's tokens, numpy float32 (positions, vocabulary)."""
        return self._decoded(prepared.arrays, prepared.arrays["input_ids"])

    def follow(self, request: Request, tokens: Sequence[int]) -> Any:
        """The logits that predict each of ``tokens`` in turn, numpy float32 (len(tokens), vocabulary). Raises ItemError."""
        import numpy

        prepared = self.prepare(request)
        check_tokens(tokens, self.model.get_output_embeddings().weight.shape[0], prepared.length, None)
        ids = numpy.asarray([[*prepared.arrays["input_ids"][0], *tokens[:-1]]], dtype=numpy.int64)
        return self._decoded(prepared.arrays, ids)[-len(tokens) :]

    def _decoded(self, arrays: Mapping[str, Any], ids: Any) -> Any:
        import torch

        features = self._tensors({name: value for name, value in arrays.items() if name != "input_ids"})
        with torch.inference_mode():
            found = self.model(**features, decoder_input_ids=torch.as_tensor(ids, device=self.model.device), use_cache=False)
        return found.logits[0].float().cpu().numpy()

    def _start(self) -> list[int]:
        """What generation begins with: the first of the configurations that names it."""
        for settings in (self.model.generation_config, self.model.config):
            for name in ("decoder_start_token_id", "bos_token_id"):
                if getattr(settings, name, None) is not None:
                    return [int(getattr(settings, name))]
        raise ItemError("config.json names no first token of the decoder", reason="model")

    def _features(self, samples: Any) -> dict[str, Any]:
        made = self.extractor(samples, sampling_rate=RATE, return_tensors="np")
        return {name: value for name, value in made.items() if hasattr(value, "shape")}

    def _tensors(self, arrays: Mapping[str, Any]) -> dict[str, Any]:
        return tensors(arrays, self.model)


def load_ctc(
    found: Resolved, config: Mapping[str, Any], options: Mapping[str, Any]
) -> tuple[Any, Callable[[Mapping[str, Any]], Any], dict[str, Any], Callable[[], None]]:
    """(the model, its forward pass over numpy arrays, what was loaded, how it is freed). Raises ModelError."""
    model, about = load(found, options, "AutoModelForCTC")

    def forward(arrays: Mapping[str, Any]) -> Any:
        import torch

        with torch.inference_mode():
            return model(**tensors(arrays, model)).logits[0].float().cpu().numpy()

    return model, forward, about, freed


def load(found: Resolved, options: Mapping[str, Any], auto: str) -> tuple[Any, dict[str, Any]]:
    """(the model of transformers' auto class, what was loaded). Raises ModelError unless every weight was found, fitted and used."""
    from workbench.backends.torch import resolve_device

    device = resolve_device({name: str(value) for name, value in options.items() if name in ("device", "threads") and value})
    model, spare = pretrained.load(auto, found, options, device, ONLY_IN_TRAINING)
    model = model.eval()
    about = {
        "class": type(model).__name__,
        "library": "transformers",
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "dtype": str(model.dtype).removeprefix("torch."),
        "device": str(model.device),
        "attention": getattr(model.config, "_attn_implementation", None),
        "quantisation": None,
        "notes": [f"the checkpoint lacks {key}, which is read in training alone" for key in spare],
    }
    return model, about


def tensors(arrays: Mapping[str, Any], model: Any) -> dict[str, Any]:
    """On the model's device, floats in its type."""
    import torch

    made = {name: torch.as_tensor(value, device=model.device) for name, value in arrays.items()}
    return {name: value.to(model.dtype) if value.is_floating_point() else value for name, value in made.items()}


def freed() -> None:
    import torch

    if torch.cuda.is_available():
        torch.cuda.empty_cache()
