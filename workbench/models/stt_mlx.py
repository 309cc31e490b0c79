"""Whisper on MLX, with the layers of mlx-whisper, decoded by the workbench's own loop.

    model = open_speech_to_text(ModelSpec.parse("demo:stt@mlx"))                       # WhisperSpeech over MLXWhisper
    model = open_speech_to_text(ModelSpec.parse("mlx:ORG/NAME?bits=4&loop=own"))       # mlx_whisper.transcribe itself

The library's loader is not used: it takes a folder without half of its weights, and its ``transcribe`` keeps one model for the whole
process, whatever precision is asked for next. Here every weight of config.json must be there, the precision is the one asked for, and
the encoder's table of sinusoids is the checkpoint's own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from workbench.errors import ModelError, UsageError
from workbench.models import checkpoint, mlx_weights, whisper_layout
from workbench.models.source import Resolved
from workbench.models.speech_to_text import Decoding, Transcript
from workbench.models.stt_mlx_own import own_mel, own_settings, refuse_own_loop, transcript_of
from workbench.types import ModelSpec

OWN_LOOP = "mlx_whisper.transcribe"


def open_whisper(
    spec: ModelSpec, found: Resolved, config: Mapping[str, Any], generation: Mapping[str, Any], options: Mapping[str, Any]
) -> Any:
    """The loaded model, with mlx-whisper's layers. Raises ModelError, UsageError."""
    from mlx_whisper import transcribe, whisper

    refuse_own_loop(spec, options, OWN_LOOP)
    runtime = MLXWhisper(found, config, generation, options, whisper.Whisper, whisper.ModelDimensions)

    def own(samples: Any, decoding: Decoding) -> Transcript:
        # ``import mlx_whisper.transcribe`` gives the function of that name; the module holds the one model that it keeps.
        import sys

        holder = sys.modules["mlx_whisper.transcribe"].ModelHolder
        holder.model, holder.model_path = runtime.model, found.source
        try:
            settings = own_settings(decoding) | {"fp16": runtime.dtype == "float16"}
            result = transcribe(samples, path_or_hf_repo=found.source, **settings)
        finally:
            holder.model = holder.model_path = None
        return transcript_of(result, samples, OWN_LOOP, decoding.max_tokens)

    return assembled(spec, found, runtime, options, own_mel("mlx_whisper.audio"), own, OWN_LOOP)


class MLXWhisper:
    """A ``SpeechRuntime``; mlx-whisper and mlx-audio have the same layers under the same names.

    ``positions`` says whose table of sinusoids the encoder adds.
    """

    def __init__(
        self,
        found: Resolved,
        config: Mapping[str, Any],
        generation: Mapping[str, Any],
        options: Mapping[str, Any],
        model_class: Any,
        dimensions_class: Any,
    ):
        from mlx import core

        self.dims = whisper_layout.dimensions(config, found.source)
        self.on_cpu = core.default_device().type == core.DeviceType.cpu
        self.mels, self.frames = self.dims["n_mels"], 2 * self.dims["n_audio_ctx"]
        self.text_positions, self.vocabulary = self.dims["n_text_ctx"], self.dims["n_vocab"]
        quantisation = _quantisation(config)
        stored = whisper_layout.to_mlx(read_weights(found), self.dims, found.source, quantisation)
        self.dtype = options["dtype"] if options["dtype"] != "auto" else self._auto(stored)
        dtype = getattr(core, self.dtype)
        self.model = model_class(dimensions_class(**self.dims), dtype)
        self.positions = self._settle_positions(stored, dtype)
        self.generation = self._settle_heads(stored, generation, found.source)
        if quantisation:
            _pack_like(self.model, stored, quantisation)
        if "alignment_heads" in dict(_flat(self.model.parameters())):  # a parameter of mlx-whisper's model alone
            stored["alignment_heads"] = self.model.alignment_heads
        self.model.load_weights(list(stored.items()), strict=True)
        self.model.set_dtype(dtype)
        self.model.eval()
        self.record, self.dequantised = self._settle_precision(options, found.source, dtype)
        core.eval(self.model.parameters(), self.model.encoder._positional_embedding, self.model.decoder._mask)

    def encode(self, mel: Any) -> Any:
        """``mel`` float32 (batch, mels, frames) -> MLX array (batch, frames / 2, width)."""
        from mlx import core

        encoded = self.model.encoder(core.array(mel).transpose(0, 2, 1).astype(getattr(core, self.dtype)))
        core.eval(encoded)
        return encoded

    def select(self, encoded: Any, rows: Sequence[int]) -> Any:
        """The encoder's output of these rows, which may repeat."""
        from mlx import core

        return encoded[core.array(list(rows))]

    def start(self, encoded: Any, tokens: Any) -> tuple[Any, Any]:
        """See ``SpeechRuntime``. One encoded row is broadcast over the rows of tokens, never copied."""
        return self._run(tokens, encoded, None)

    def step(self, tokens: Any, cache: Any) -> tuple[Any, Any]:
        encoded, layers = cache
        logits, cache = self._run(tokens, encoded, layers)
        return logits[:, -1], cache

    def reorder(self, cache: Any, rows: Sequence[int]) -> Any:
        """Keys and values of the rows asked for; those of an encoded row that serves all rows stay as they are."""
        from mlx import core

        encoded, layers = cache
        wanted = core.array(list(rows))

        def taken(pair: Any) -> Any:
            return pair if pair[0].shape[0] == 1 != len(rows) else tuple(each[wanted] for each in pair)

        kept = [(tuple(each[wanted] for each in own), taken(cross)) for own, cross in layers]
        return (encoded if encoded.shape[0] == 1 else encoded[wanted]), kept

    def teacher_forced(self, encoded: Any, tokens: Any) -> Any:
        return self._run(tokens, encoded, None)[0]

    def cross_attention(self, encoded: Any, tokens: Any) -> Any:
        """Float32 (layers, heads, n, positions) of one row of tokens, after the softmax."""
        import numpy
        from mlx import core

        _, _, scores = self.model.decoder(core.array(tokens), encoded)
        return numpy.array(core.concatenate([core.softmax(each.astype(core.float32), axis=-1) for each in scores]))

    def about(self) -> dict[str, Any]:
        """What was really loaded, for ``describe``."""
        from mlx import core

        dtypes = mlx_weights.real_dtypes(self.model.encoder) + mlx_weights.real_dtypes(self.model.decoder)
        return {
            "class": f"{type(self.model).__module__}.{type(self.model).__name__}",
            "parameters": whisper_layout.parameter_count(self.dims),
            "dtype": ", ".join(sorted(set(dtypes))),
            "device": str(core.default_device()).removeprefix("Device(").split(",")[0],
            "attention": "softmax of the library's own layers",
            **mlx_weights.described(self.record, self.dequantised, self.on_cpu),
            "positions": self.positions,
        }

    def close(self) -> None:
        """Free the weights."""
        from mlx import core

        self.model = None
        core.clear_cache()

    def _run(self, tokens: Any, encoded: Any, layers: Any) -> tuple[Any, Any]:
        """(logits float32 (batch, n, vocabulary) in numpy, (encoded, keys and values of each layer)).

        The decoder writes into the list it is given, and a cache may be used twice: it gets a copy of the list.
        """
        import numpy
        from mlx import core

        logits, layers, _ = self.model.decoder(core.array(tokens), encoded, None if layers is None else list(layers))
        logits = logits.astype(core.float32)
        core.eval(logits, layers)
        return numpy.array(logits), (encoded, layers)

    def _auto(self, stored: Mapping[str, Any]) -> str:
        """float32 on a CPU, elsewhere what the convolutions, which are never packed, are stored in."""
        return "float32" if self.on_cpu else str(stored["encoder.conv1.weight"].dtype).rpartition(".")[2]

    def _settle_positions(self, stored: dict[str, Any], dtype: Any) -> str:
        """Give the encoder the checkpoint's table; it is no parameter of the library's model, so it leaves ``stored``."""
        table = stored.pop(whisper_layout.POSITIONS, None)
        if table is None:
            return f"sinusoids computed by {type(self.model).__module__.partition('.')[0]}: the checkpoint has none"
        self.model.encoder._positional_embedding = table.astype(dtype)
        return "the checkpoint's own sinusoids"

    def _settle_heads(self, stored: dict[str, Any], generation: Mapping[str, Any], source: str) -> dict[str, Any]:
        """generation_config.json with the alignment heads that were stored among the weights, where it has none itself."""
        heads = stored.pop(whisper_layout.ALIGNMENT, None)
        known = dict(generation)
        if heads is not None and not known.get(whisper_layout.ALIGNMENT):
            known[whisper_layout.ALIGNMENT] = [[int(each) for each in pair] for pair in heads.tolist()]
        pairs = whisper_layout.alignment_heads(known, self.dims, source)
        if pairs:
            import numpy

            self.model.set_alignment_heads(numpy.array(pairs, dtype=numpy.uint32))
        return known

    def _settle_precision(self, options: Mapping[str, Any], source: str, dtype: Any) -> tuple[dict[str, Any] | None, bool]:
        """Quantise on load and dequantise as the options say: (which weights are or were packed, were they dequantised)."""
        if options["bits"]:
            if mlx_weights.quantised_layers(self.model):
                raise UsageError(
                    f"{source!r} is quantised already", why=f"bits={options['bits']} was asked for", fix="leave ?bits out"
                )
            mlx_weights.quantise(self.model, options["bits"], options["group_size"])
        record = mlx_weights.precision_record(self.model)
        wanted = options["dequantise"] == "true" or (options["dequantise"] == "auto" and self.on_cpu)
        return record, record is not None and wanted and mlx_weights.dequantise(self.model, dtype) is not None


def assembled(
    spec: ModelSpec,
    found: Resolved,
    runtime: MLXWhisper,
    options: Mapping[str, Any],
    log_mel: Callable,
    own: Callable,
    own_loop: str,
) -> Any:
    """The shared decoding loop over ``runtime``."""
    from workbench.models.stt import WhisperSpeech
    from workbench.models.whisper_tokens import WhisperTokens

    if (found.folder / "tokenizer.json").is_file():
        tokens = WhisperTokens.from_folder(found.folder, runtime.vocabulary, runtime.generation)
    else:
        tokens = WhisperTokens.standard(runtime.vocabulary)
    library = type(runtime.model).__module__.partition(".")[0].replace("_", "-")
    about = {"library": library, "own_loop": own_loop, **runtime.about()}
    if options["loop"] == "own":
        about["preprocessing"] = "own"
    return WhisperSpeech(
        spec, runtime, tokens, options, runtime.generation, about=about, own_mel=log_mel, own_transcribe=own, close=runtime.close
    )


def read_weights(found: Resolved) -> dict[str, Any]:
    """Every stored array as an MLX array, by its stored name; .npz through numpy without pickle. Raises ModelError."""
    from mlx import core

    arrays: dict[str, Any] = {}
    for path in checkpoint.weight_files(found.folder):
        if path.suffix == ".npz":
            import numpy

            checkpoint.npz_tensors(path)
            with numpy.load(path, allow_pickle=False) as stored:
                more = {name: core.array(stored[name]) for name in stored.files}
        else:
            more = core.load(str(path))
        if twice := sorted(set(arrays) & set(more)):
            raise ModelError(
                f"{found.source!r} holds the weight {twice[0]} twice",
                why=f"in {path.name} and in another file: which of them is meant is not known",
                fix="move one of the files out of the folder",
            )
        arrays |= more
    return arrays


def _quantisation(config: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """config.json's own packing. Raises ModelError for one that MLX's affine groups are not."""
    found = config.get("quantization") or config.get("quantization_config")
    if not found:
        return None
    if not isinstance(found, dict) or "bits" not in found or found.get("mode", "affine") != "affine":
        raise ModelError("the packing of the weights is not known", why=f"config.json says {found}"[:200])
    return {"group_size": 64, **found}


def _pack_like(model: Any, stored: Mapping[str, Any], quantisation: Mapping[str, Any]) -> None:
    """Give the model packed layers where the checkpoint has scales."""
    from mlx import nn

    nn.quantize(
        model,
        group_size=int(quantisation["group_size"]),
        bits=int(quantisation["bits"]),
        class_predicate=lambda name, layer: isinstance(layer, (nn.Linear, nn.Embedding)) and f"{name}.scales" in stored,
    )


def _flat(parameters: Any) -> list[tuple[str, Any]]:
    from mlx.utils import tree_flatten

    return tree_flatten(parameters)
