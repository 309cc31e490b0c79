"""Whisper on PyTorch, through transformers' WhisperForConditionalGeneration, its weights loaded strictly.

    model = open_whisper(spec, found, config, generation, options)     # what loading.open_speech_to_text("torch:...") calls

The decoder's own keys and values and those over the encoder's output are kept in transformers' caches, so each step costs one token.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from workbench.errors import ItemError, ModelError, UsageError
from workbench.models import pretrained
from workbench.models.source import Resolved
from workbench.models.speech_to_text import Decoding, Transcript
from workbench.models.stt import RATE, SAMPLES_PER_FRAME, WhisperSpeech
from workbench.models.whisper_layout import TIED
from workbench.models.whisper_tokens import WhisperTokens
from workbench.types import ModelSpec


def open_whisper(
    spec: ModelSpec, found: Resolved, config: Mapping[str, Any], generation: Mapping[str, Any], options: Mapping[str, Any]
) -> WhisperSpeech:
    """The model, loaded and ready. Raises ModelError for weights that are missing, unknown or of another shape."""
    import torch

    from workbench.backends.torch import resolve_device

    _refuse_own_loop(spec, options)
    device = resolve_device({name: str(value) for name, value in options.items() if name in ("device", "threads") and value})
    loaded, _ = pretrained.load("WhisperForConditionalGeneration", found, options, device)
    _refuse_other_output(found, loaded)
    runtime = TorchWhisper(loaded)
    tokens = WhisperTokens.from_folder(found.folder, runtime.vocabulary, generation)
    whole = runtime.model

    def close() -> None:
        runtime.model = None
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    about = {
        "class": type(whole).__name__,
        "library": "transformers",
        "parameters": sum(parameter.numel() for parameter in whole.parameters()),
        "dtype": str(whole.dtype).removeprefix("torch."),
        "device": str(whole.device),
        "attention": getattr(whole.config, "_attn_implementation", None),
        "quantisation": None,
        "own_loop": OwnGenerate.name,
        "ignored_generation_defaults": sorted(set(generation) & IGNORED),
    }
    own = OwnGenerate(whole, tokens, generation, runtime)
    return WhisperSpeech(
        spec, runtime, tokens, options, generation, about=about, own_mel=OwnMel(found.folder), own_transcribe=own, close=close
    )


IGNORED = frozenset(
    {"suppress_tokens", "begin_suppress_tokens", "forced_decoder_ids", "max_length", "return_timestamps", "num_beams"}
)
"""Entries of generation_config.json that would change the text; the shared loop has its own rules for them."""


NOT_IN_GENERATE = ("best_of", "patience", "suppress_tokens", "suppress_blank", "max_initial_timestamp", "preprocessing")
"""Options that transformers' ``generate`` has no argument for, or that ``OwnGenerate`` does not give it."""


def _refuse_own_loop(spec: ModelSpec, options: Mapping[str, Any]) -> None:
    """Raises UsageError for options that would silently do nothing in transformers' own loop."""
    given = [name for name in NOT_IN_GENERATE if name in spec.options]
    given += [name for name in ("word_timestamps",) if options.get(name)]
    given += ["chunking"] if options.get("chunking") == "overlap" else []
    if options.get("loop") == "own" and given:
        raise UsageError(
            f"loop=own cannot have {given[0]}={spec.options[given[0]]}",
            why=f"{OwnGenerate.name} does not do it",
            fix="?loop=shared",
        )


class TorchWhisper:
    """The ``SpeechRuntime`` over transformers' model. Arrays cross as numpy; what the encoder put out and the caches stay on the device."""

    def __init__(self, model: Any):
        self.model = model.eval()
        config = model.config
        self.mels: int = config.num_mel_bins
        self.frames: int = config.max_source_positions * 2
        self.text_positions: int = config.max_target_positions
        self.vocabulary: int = config.vocab_size

    def encode(self, mel: Any) -> Any:
        import torch

        given = torch.as_tensor(mel, device=self.model.device, dtype=self.model.dtype)
        with torch.inference_mode():
            return self.model.model.encoder(given).last_hidden_state

    def select(self, encoded: Any, rows: Sequence[int]) -> Any:
        return encoded[list(rows)]

    def start(self, encoded: Any, tokens: Any) -> tuple[Any, Any]:
        found = self._decode(tokens, encoded, use_cache=True)
        return _numpy(self._logits(found.last_hidden_state)), (found.past_key_values, self._rows(encoded, len(tokens)))

    def step(self, tokens: Any, cache: Any) -> tuple[Any, Any]:
        held, encoded = cache
        found = self._decode(tokens, encoded, use_cache=True, past_key_values=held)
        return _numpy(self._logits(found.last_hidden_state[:, -1])), (found.past_key_values, encoded)

    def reorder(self, cache: Any, rows: Sequence[int]) -> Any:
        import torch

        held, encoded = cache
        if list(rows) == list(range(encoded.shape[0])):
            return cache
        index = torch.as_tensor(list(rows), device=encoded.device)
        held.batch_select_indices(index)
        return held, encoded[index]

    def teacher_forced(self, encoded: Any, tokens: Any) -> Any:
        """float64 where the model is (a capture computes in it too), else float32."""
        return _numpy(self._logits(self._decode(tokens, encoded, use_cache=False).last_hidden_state))

    def cross_attention(self, encoded: Any, tokens: Any) -> Any:
        import torch

        asked = self.model.config._attn_implementation
        self.model.set_attn_implementation("eager")  # the fused kernels give no weights
        try:
            found = self._decode(tokens, encoded, use_cache=False, output_attentions=True).cross_attentions
        finally:
            self.model.set_attn_implementation(asked)
        with torch.inference_mode():
            return torch.stack([layer[0] for layer in found]).float().cpu().numpy()

    def _decode(self, tokens: Any, encoded: Any, **more: Any) -> Any:
        import torch

        ids = torch.as_tensor(tokens, device=self.model.device, dtype=torch.long)
        with torch.inference_mode():
            return self.model.model.decoder(input_ids=ids, encoder_hidden_states=self._rows(encoded, len(ids)), **more)

    def _logits(self, hidden: Any) -> Any:
        import torch

        with torch.inference_mode():
            return self.model.proj_out(hidden)

    @staticmethod
    def _rows(encoded: Any, rows: int) -> Any:
        return encoded.expand(rows, -1, -1) if encoded.shape[0] == 1 else encoded


class OwnMel:
    """transformers' WhisperFeatureExtractor, for ``preprocessing=own``; read from the folder when first used."""

    def __init__(self, folder: Any):
        self.folder, self._extractor = folder, None

    def __call__(self, samples: Any, mels: int, frames: int) -> Any:
        if self._extractor is None:
            from transformers import WhisperFeatureExtractor

            self._extractor = WhisperFeatureExtractor.from_pretrained(str(self.folder), local_files_only=True)
        length = frames * SAMPLES_PER_FRAME
        found = self._extractor(
            samples, sampling_rate=RATE, max_length=length, padding="max_length", truncation=True, return_tensors="np"
        )
        return found["input_features"][0]


class OwnGenerate:
    """transformers' own ``generate``, for ``loop=own``: its long form, its fallback, its suppression from generation_config.json."""

    name = "transformers.WhisperForConditionalGeneration.generate"

    def __init__(self, model: Any, tokens: WhisperTokens, generation: Mapping[str, Any], runtime: TorchWhisper):
        self.model, self.tokens, self.generation, self.runtime = model, tokens, generation, runtime

    def __call__(self, samples: Any, decoding: Decoding) -> Transcript:
        """Raises ItemError for what ``generate`` does not do. It gives segments with ``timestamps`` and for more than one window."""
        import torch

        from workbench.data.media import log_mel

        if decoding.word_timestamps or decoding.prefix or decoding.chunking == "overlap":
            raise ItemError(
                "transformers' own loop does not do this",
                reason="model",
                why="word times, a prefix or overlapping windows",
                fix="?loop=shared",
            )
        length = max(1, len(samples) // SAMPLES_PER_FRAME)
        long = length > self.runtime.frames
        mel = torch.as_tensor(log_mel(samples, self.runtime.mels, max(length, self.runtime.frames)))[None]
        arguments: dict[str, Any] = {
            "return_timestamps": decoding.timestamps or long,
            "num_beams": decoding.beam_size or 1,
            "do_sample": False,
            "max_new_tokens": decoding.max_tokens,
            "temperature": decoding.temperatures if len(decoding.temperatures) > 1 else decoding.temperatures[0],
            "condition_on_prev_tokens": decoding.condition_on_previous_text,
            "return_segments": True,
        }
        if len(decoding.temperatures) > 1:
            arguments["logprob_threshold"] = decoding.logprob_threshold
            arguments["compression_ratio_threshold"] = decoding.compression_ratio_threshold
            arguments["no_speech_threshold"] = decoding.no_speech_threshold
        if self.tokens.languages:
            arguments |= {"language": decoding.language, "task": decoding.task}
        if decoding.prompt:
            arguments["prompt_ids"] = torch.tensor([self.tokens.start_of_previous, *self.tokens.encode(decoding.prompt)])
        torch.manual_seed(decoding.seed)
        with torch.inference_mode():
            found = self.model.generate(mel.to(self.model.device, self.model.dtype), **arguments)
        return self._transcript(found, decoding, len(samples) / RATE)

    def _transcript(self, found: Any, decoding: Decoding, seconds: float) -> Transcript:
        from workbench.models.speech_to_text import Segment

        parts = found["segments"][0]
        tokens = tuple(int(token) for token in found["sequences"][0].tolist())
        text = self.tokens.decode(tokens)
        segments = tuple(
            Segment(
                start=round(float(part["start"]), 3),
                end=round(min(float(part["end"]), seconds), 3),
                text=self.tokens.decode(part["tokens"].tolist()),
                tokens=tuple(part["tokens"].tolist()),
            )
            for part in parts
        )
        return Transcript(text, decoding.language, segments, tokens, max(1, len(parts)), seconds, "stop", self.name)


def _numpy(value: Any) -> Any:
    import torch

    return (value if value.dtype == torch.float64 else value.float()).cpu().numpy()


def _refuse_other_output(found: Resolved, model: Any) -> None:
    """Raises ModelError where the folder holds an output that is not the token embedding: transformers ties them and drops the one."""
    import torch
    from safetensors import safe_open

    from workbench.models.checkpoint import weight_files

    if not model.config.tie_word_embeddings:
        return
    held = model.get_input_embeddings().weight
    for path in weight_files(found.folder, allow_pickle=True):
        if path.suffix != ".safetensors":
            continue
        with safe_open(path, framework="pt") as file:
            if TIED in file.keys() and not torch.equal(file.get_tensor(TIED).to(held.dtype), held.cpu()):  # noqa: SIM118
                raise ModelError(
                    f"{TIED} of {found.source!r} is not the token embedding",
                    why="config.json ties them, and transformers drops the output",
                    fix="export it with tie_word_embeddings false",
                )
