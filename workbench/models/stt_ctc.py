"""CTC models (wav2vec2, HuBERT, Parakeet CTC, ...): each frame of sound says a character, a blank, or what the frame before it said.

    model = open_speech_to_text(ModelSpec.parse("torch:ORG/NAME"))          # AutoModelForCTC of transformers
    model = open_speech_to_text(ModelSpec.parse("mlx:./my-wav2vec2"))       # mlx-audio's wav2vec2 with its CTC head

Text is read off greedily: the best of each frame, repeats joined, blanks left out (A. Graves et al., ICML 2006). Long audio is read in
stretches that overlap (``chunk_seconds``, ``stride_seconds``); the logits of the overlap are left out, so a word at a seam is whole.
There is no decoder that could be given tokens: ``follow`` is an error, and ``logits`` are the frames'.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import groupby
from typing import Any

from workbench.errors import ItemError, ModelError
from workbench.models.processors import Prepared
from workbench.models.source import Resolved
from workbench.models.speech_to_text import Decoding
from workbench.models.stt_plain import RATE, Heard, PlainSpeech, stretches
from workbench.types import ModelSpec, Request


def open_ctc(spec: ModelSpec, found: Resolved, config: Mapping[str, Any], options: Mapping[str, Any]) -> CTCSpeech:
    """The model, loaded strictly. Raises ModelError, UsageError."""
    from workbench.models import stt_mlx_other, stt_other

    extractor, tokenizer = load_parts(found, options)
    load = stt_other.load_ctc if spec.backend == "torch" else stt_mlx_other.load_ctc
    model, forward, about, free = load(found, config, options)
    return CTCSpeech(spec, found, options, model, forward, about, free, extractor, tokenizer)


class CTCSpeech(PlainSpeech):
    """``forward``: numpy arrays by name, each with a leading axis of 1, to logits float32 (frames, vocabulary)."""

    loop = "greedy CTC"
    followable = "a CTC model has no decoder: its frames do not depend on the tokens before them"

    def __init__(
        self,
        spec: ModelSpec,
        found: Resolved,
        options: Mapping[str, Any],
        model: Any,
        forward: Callable[[Mapping[str, Any]], Any],
        about: Mapping[str, Any],
        free: Callable[[], None],
        extractor: Any,
        tokenizer: Any,
    ):
        super().__init__(spec, found, options, model, about, free)
        self.forward, self.extractor, self.tokenizer = forward, extractor, tokenizer
        self.blank = tokenizer.pad_token_id
        if self.blank is None:
            raise ModelError(f"the tokenizer of {found.source!r} has no padding token", why="it is the blank of a CTC model")
        self.chunk, self.stride = (int(options[name] * RATE) for name in ("chunk_seconds", "stride_seconds"))

    def hear(self, samples: Any, decoding: Decoding) -> Heard:
        import numpy

        parts = stretches(len(samples), self.chunk, self.stride)
        best = []
        for first, end, left, right in parts:
            logits = self.forward(self._features(samples[first:end]))
            frames = len(logits)
            begin, stop = (round(frames * place / (end - first)) for place in (left, end - first - right))
            best.append(numpy.asarray(logits[begin:stop].argmax(axis=-1), dtype=numpy.int64))
        ids = numpy.concatenate(best)
        tokens = tuple(int(token) for token, _ in groupby(ids.tolist()) if token != self.blank)
        return Heard(self._text(ids.tolist(), tokens), tokens, "stop", len(parts))

    def prepare(self, request: Request) -> Prepared:
        """The features of the whole sound; ``length`` counts no tokens. Raises ItemError for what is longer than one stretch."""
        sound = self.asked(request)
        if len(sound.samples) > self.chunk:
            raise ItemError(
                f"audio of {len(sound.samples) / RATE:.1f} s is longer than one stretch",
                reason="context",
                why=f"stretches of {self.chunk / RATE:g} s are read at once",
                fix="?chunk_seconds=60",
            )
        import numpy

        return Prepared({**self._features(sound.samples), "input_ids": numpy.zeros((1, 0), dtype=numpy.int64)}, "", 0)

    def logits(self, prepared: Prepared) -> Any:
        """The frames' logits, numpy float32 (frames, vocabulary)."""
        return self.forward({name: value for name, value in prepared.arrays.items() if name != "input_ids"})

    def close(self) -> None:
        self.forward = None
        super().close()

    def _features(self, samples: Any) -> dict[str, Any]:
        made = self.extractor(samples, sampling_rate=RATE, return_tensors="np")
        return {name: value for name, value in made.items() if hasattr(value, "shape")}

    def _text(self, ids: list[int], tokens: tuple[int, ...]) -> str:
        """Tokenizers made for CTC join repeats themselves and would join a double letter if they were given joined ones. Other special
        tokens than the blank stay in the text, as in transformers' pipeline: a model that says them has said them."""
        if hasattr(self.tokenizer, "word_delimiter_token"):
            return self.tokenizer.decode(ids, skip_special_tokens=False)
        return self.tokenizer.decode(list(tokens), skip_special_tokens=False)


def load_parts(found: Resolved, options: Mapping[str, Any]) -> tuple[Any, Any]:
    """(transformers' feature extractor, tokenizer) of the folder, on both runtimes. Raises ModelError when there is none, or when it is
    made for another rate than 16 kHz."""
    from transformers import AutoFeatureExtractor, AutoTokenizer

    settings = {"local_files_only": True, "trust_remote_code": options["trust_remote_code"] == "true"}
    try:
        extractor = AutoFeatureExtractor.from_pretrained(str(found.folder), **settings)
        tokenizer = AutoTokenizer.from_pretrained(str(found.folder), **settings)
    except Exception as error:
        first = f"{type(error).__name__}: {error}".splitlines()[0][:300]
        raise ModelError(
            f"{found.source!r} has no feature extractor or tokenizer that can be read",
            why=first,
            fix="download it again, with preprocessor_config.json and the tokenizer's files",
        ) from error
    rate = getattr(extractor, "sampling_rate", RATE)
    if rate != RATE:
        raise ModelError(f"{found.source!r} hears sound at {rate} Hz", why=f"the workbench gives {RATE} Hz")
    return extractor, tokenizer
