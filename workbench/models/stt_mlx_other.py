"""Speech models of mlx-audio that are no Whisper: wav2vec2 with its CTC head, and others through their own ``generate``.

    model = open_speech_to_text(ModelSpec.parse("mlx:ORG/moonshine"))        # mlx_audio.stt.models.moonshine

The architecture is config.json's ``model_type``, whatever the folder is called, and weights are loaded strictly: the library's defaults
are to look for words in the folder's name, and to take a folder that lacks weights.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any

from workbench.errors import ItemError, ModelError, UsageError
from workbench.models import mlx_weights
from workbench.models.processors import Prepared
from workbench.models.source import Resolved
from workbench.models.speech_kinds import MLX_CTC
from workbench.models.speech_to_text import Decoding
from workbench.models.stt_mlx import read_weights
from workbench.models.stt_other import ONLY_IN_TRAINING
from workbench.models.stt_plain import Heard, PlainSpeech
from workbench.types import ModelSpec, Request

ADAPTERS = "adapter.*.safetensors"


def module_of(model_type: str) -> str | None:
    """The name of mlx-audio's speech-to-text architecture for ``model_type``; None where it has none."""
    from mlx_audio.stt.utils import MODEL_REMAPPING

    name = MODEL_REMAPPING.get(model_type, MLX_CTC.get(model_type, model_type))
    return name if name.isidentifier() and find_spec(f"mlx_audio.stt.models.{name}") is not None else None


def open_other(
    spec: ModelSpec, found: Resolved, config: Mapping[str, Any], generation: Mapping[str, Any], options: Mapping[str, Any]
) -> MLXAudioSpeech:
    """The model, loaded strictly. Raises ModelError, UsageError."""
    kind = str(config["model_type"])
    if spec.options.get("loop") == "shared":
        raise UsageError(f"loop=shared is not for {kind} models", why="the workbench decodes Whisper alone", fix="leave ?loop out")
    for name in ("chunk_seconds", "stride_seconds"):
        if name in spec.options:
            raise UsageError(f"option {name} does nothing for {kind} models on MLX", why="mlx-audio cuts long audio itself")
    model, about = load(found, config, options)
    return MLXAudioSpeech(spec, found, options, model, about, freed)


class MLXAudioSpeech(PlainSpeech):
    """A model of mlx-audio through its ``generate``, which gives text alone."""

    loop = "mlx_audio generate"
    followable = "mlx-audio's generate gives text alone"

    def hear(self, samples: Any, decoding: Decoding) -> Heard:
        from mlx import core

        core.random.seed(decoding.seed)
        language = {"language": decoding.language} if decoding.language else {}
        settings = {"max_tokens": decoding.max_tokens, "temperature": decoding.temperatures[0], **language}
        found = self.model.generate(core.array(samples), **settings)
        if not hasattr(found, "text"):
            raise ItemError("mlx-audio returned no text", reason="model", why=f"a {type(found).__name__}")
        counted = getattr(found, "generation_tokens", 0) or 0
        return Heard(str(found.text).strip(), None, "length" if counted >= decoding.max_tokens else "stop", 1)

    def prepare(self, request: Request) -> Prepared:
        """The samples: mlx-audio makes its features out of sight. ``length`` counts no tokens. Raises ItemError."""
        import numpy

        samples = self.asked(request).samples
        return Prepared({"input_values": samples[None], "input_ids": numpy.zeros((1, 0), dtype=numpy.int64)}, "", 0)


def load_ctc(
    found: Resolved, config: Mapping[str, Any], options: Mapping[str, Any]
) -> tuple[Any, Callable[[Mapping[str, Any]], Any], dict[str, Any], Callable[[], None]]:
    """(the model, its forward pass over numpy arrays, what was loaded, how it is freed).

    Its own strict loader would refuse the published checkpoints that hold SpecAugment's filling, which nothing but training reads.
    Raises ModelError, also for language adapters, whose choice would be the library's.
    """
    if config.get("adapter_attn_dim") or any(found.folder.glob(ADAPTERS)):
        raise ModelError(
            f"{found.source!r} has adapters for languages",
            why="mlx-audio takes English, or whichever it finds first",
            fix=f"torch:{found.source}",
        )
    from importlib import import_module

    from mlx_audio.utils import apply_quantization

    architecture = import_module(f"mlx_audio.stt.models.{module_of(str(config['model_type']))}")
    model = architecture.Model(architecture.ModelConfig.from_dict(dict(config)))
    stored = {name: value for name, value in read_weights(found).items() if not name.endswith(ONLY_IN_TRAINING)}
    with _strictly(found):
        weights = model.sanitize(stored)
        apply_quantization(model, dict(config), weights)
        model.load_weights(list(weights.items()), strict=True)
    model.eval()
    about = settled(model, options)

    def forward(arrays: Mapping[str, Any]) -> Any:
        import numpy
        from mlx import core

        given = core.array(arrays["input_values"]).astype(model.lm_head.bias.dtype)
        return numpy.array(model(given).astype(core.float32)[0])

    return model, forward, about, freed


def load(found: Resolved, config: Mapping[str, Any], options: Mapping[str, Any]) -> tuple[Any, dict[str, Any]]:
    """(mlx-audio's model, what was loaded). Raises ModelError for a weight that is missing, unknown or of another shape."""
    from mlx_audio.stt.utils import MODEL_REMAPPING
    from mlx_audio.utils import base_load_model

    named = {"model_type": str(config["model_type"]), "model_name_parts": []}  # no words of the folder's name
    read_weights(found)  # refuses a weight that two files hold; MLX reads no more than headers here
    with _strictly(found):
        model = base_load_model(found.folder, category="stt", model_remapping=MODEL_REMAPPING, strict=True, **named)
    _check_rope(found, config, model)
    return model, settled(model, options)


def settled(model: Any, options: Mapping[str, Any]) -> dict[str, Any]:
    """Quantise, dequantise and cast as the options say; what was loaded."""
    from mlx import core

    on_cpu = core.default_device().type == core.DeviceType.cpu
    asked = options["dtype"]
    dtype = getattr(core, asked) if asked != "auto" else (core.float32 if on_cpu else None)
    if options["bits"]:
        mlx_weights.quantise(model, options["bits"], options["group_size"])
    record = mlx_weights.precision_record(model)
    plain = record is not None and (options["dequantise"] == "true" or (options["dequantise"] == "auto" and on_cpu))
    if plain:
        mlx_weights.dequantise(model, dtype or core.float32)
    if dtype is not None:
        model.set_dtype(dtype)
    core.eval(model.parameters())
    return {
        "class": f"{type(model).__module__}.{type(model).__name__}",
        "library": "mlx-audio",
        "parameters": mlx_weights.parameter_count(model),
        "dtype": ", ".join(mlx_weights.real_dtypes(model)),
        "device": str(core.default_device()).removeprefix("Device(").split(",")[0],
        **mlx_weights.described(record, plain, on_cpu),
    }


@contextmanager
def _strictly(found: Resolved):
    """MLX's strict loader names the weight in a ValueError."""
    try:
        yield
    except ValueError as error:
        why = " ".join(str(error).split())[:300]
        raise ModelError(
            f"weights and config.json of {found.source!r} do not belong together", why=why, fix="export it again"
        ) from error


def _check_rope(found: Resolved, config: Mapping[str, Any], model: Any) -> None:
    """Raises ModelError where transformers 5's layout (``rope_parameters``) hides a rotation that mlx-audio then takes from its defaults."""
    said = config.get("rope_parameters")
    for name, value in (said if isinstance(said, Mapping) else {}).items():
        used = getattr(getattr(model, "config", None), name, None)
        if name not in config and isinstance(value, (int, float)) and used is not None and float(used) != float(value):
            raise ModelError(
                f"mlx-audio misreads {found.source!r}",
                why=f"it takes {name} {used} where config.json says {value} under rope_parameters (transformers 5's layout)",
                fix=f"write {name} at the root of config.json too",
            )


def freed() -> None:
    from mlx import core

    core.clear_cache()
