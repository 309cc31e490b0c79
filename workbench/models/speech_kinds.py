"""Which wrapper reads a speech model's folder: Whisper's, a CTC model's, or another encoder-decoder's.

    kind_of(found, config, "torch", options)     # "whisper", "ctc" or "seq2seq"; ModelError for what is no speech-to-text model
    opened(kind, spec, found, config, options)   # the loaded model

``config.json`` decides, never the folder's name.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec
from typing import Any, Literal

from workbench.errors import ModelError, RuntimeMissing, UsageError
from workbench.models import checkpoint
from workbench.models.options import DECODING
from workbench.models.pretrained import refuse_architecture
from workbench.models.source import Resolved
from workbench.models.whisper_layout import dimensions, is_dimensions, is_whisper
from workbench.types import ModelSpec

Kind = Literal["whisper", "ctc", "seq2seq"]

MLX_CTC = {"wav2vec2": "mms", "mms": "mms"}
"""model_type -> the module of ``mlx_audio.stt.models`` whose logits are read by the workbench."""

LIBRARIES = {"mlx-whisper": "mlx_whisper", "mlx-audio": "mlx_audio"}
WHISPER_ONLY = (*DECODING, "preprocessing")


def kind_of(found: Resolved, config: Mapping[str, Any], backend: str, options: Mapping[str, Any]) -> Kind:
    """Raises ModelError for what config.json already shows: foreign code, an unknown architecture, a model of another family."""
    if is_whisper(config):
        if backend == "torch":
            _refuse_mlx_layout(found, config)
        else:
            dimensions(config, found.source)
        return "whisper"
    if not config.get("model_type"):
        raise ModelError(f"config.json of {found.source!r} names no model_type", why="it is no transformers or MLX model")
    return _kind_torch(found, config, options) if backend == "torch" else _kind_mlx(found, config, options)


def opened(kind: Kind, spec: ModelSpec, found: Resolved, config: Mapping[str, Any], options: Mapping[str, Any]) -> Any:
    """The model. Raises ModelError, UsageError for an option the kind has no use for, RuntimeMissing for a library that is not here."""
    from workbench.models.loading import read_json

    _refuse_integers(found, config)
    generation = read_json(found.folder / "generation_config.json")
    library = options["library"]
    if library == "auto":
        library = {"torch": "transformers", "mlx": "mlx-whisper" if kind == "whisper" else "mlx-audio"}[spec.backend]
    if library in LIBRARIES and find_spec(LIBRARIES[library]) is None:
        raise RuntimeMissing(f"{library} is not installed", why=f"it runs {found.source!r}", fix=f"pip install {library}")
    if kind == "whisper":
        _refuse_given(spec, ("chunk_seconds", "stride_seconds"), "Whisper", "it reads windows of 30 seconds; ?chunking=overlap")
        if library == "transformers":
            from workbench.models.stt_torch import open_whisper
        elif library == "mlx-audio":
            from workbench.models.stt_mlx_audio import open_whisper
        else:
            from workbench.models.stt_mlx import open_whisper
        return open_whisper(spec, found, config, generation, options)
    named = {"ctc": "a CTC model", "seq2seq": f"a {config['model_type']} model"}[kind]
    _refuse_given(spec, WHISPER_ONLY, named, "this option is for Whisper's decoding")
    if kind == "ctc":
        _refuse_given(spec, ("loop",), named, "its text is read off its frames; there is no decoding loop")
        from workbench.models.stt_ctc import open_ctc

        return open_ctc(spec, found, config, options)
    if library == "mlx-whisper":
        raise UsageError(f"{found.source!r} is no Whisper", why="mlx-whisper runs no other model", fix="?library=mlx-audio")
    if library == "mlx-audio":
        from workbench.models.stt_mlx_other import open_other
    else:
        from workbench.models.stt_other import open_other
    return open_other(spec, found, config, generation, options)


def _refuse_integers(found: Resolved, config: Mapping[str, Any]) -> None:
    """Raises ModelError for whole numbers where config.json says of no packing: libraries load them as if they were the weights."""
    if config.get("quantization") or config.get("quantization_config"):
        return
    for path in checkpoint.weight_files(found.folder, allow_pickle=True):
        for name, dtype in checkpoint.dtypes(path).items():
            if name.endswith((".weight", ".bias")) and dtype.startswith(("I", "U", "BOOL")):
                raise ModelError(
                    f"the weight {name} of {found.source!r} is stored as {dtype}",
                    why="these are whole numbers, and config.json says of no quantisation",
                    fix="export or convert the model again",
                )


def _refuse_given(spec: ModelSpec, names: tuple[str, ...], named: str, why: str) -> None:
    given = sorted(set(spec.options) & set(names))
    if given:
        raise UsageError(f"option {given[0]} does nothing for {named}", why=why, fix=f"leave ?{given[0]} out")


def _refuse_mlx_layout(found: Resolved, config: Mapping[str, Any]) -> None:
    if is_dimensions(config):
        raise ModelError(
            f"{found.source!r} is laid out for mlx-whisper",
            why="its config.json has ModelDimensions, which transformers does not read",
            fix=f"workbench convert {found.source} --to transformers, or --model mlx:{found.source}",
        )
    if "bits" in (config.get("quantization") or {}):
        why = f"its weights are {checkpoint.describe_quantisation(dict(config))}, in MLX's own packing"
        raise ModelError(f"{found.source!r} is quantised for MLX", why=why, fix=f"--model mlx:{found.source}")


def _kind_torch(found: Resolved, config: Mapping[str, Any], options: Mapping[str, Any]) -> Kind:
    from transformers.models.auto.modeling_auto import (
        MODEL_FOR_CTC_MAPPING_NAMES,
        MODEL_FOR_SPEECH_SEQ_2_SEQ_MAPPING_NAMES,
    )

    _refuse_mlx_layout(found, config)
    kind = config["model_type"]
    if config.get("auto_map") and options["trust_remote_code"] == "true":
        return "ctc" if "AutoModelForCTC" in config["auto_map"] else "seq2seq"
    refuse_architecture(found, config)
    both = {"ctc": MODEL_FOR_CTC_MAPPING_NAMES, "seq2seq": MODEL_FOR_SPEECH_SEQ_2_SEQ_MAPPING_NAMES}
    possible = [name for name, mapping in both.items() if kind in mapping]
    said = (config.get("architectures") or [None])[0]
    exact = [name for name in possible if said == both[name][kind] or said in (both[name][kind] or ())]
    if not possible:
        raise ModelError(f"{found.source!r} is a {kind} model", why="it does not write down speech", fix="workbench list models")
    return (exact or possible)[0]


def _kind_mlx(found: Resolved, config: Mapping[str, Any], options: Mapping[str, Any]) -> Kind:
    kind = str(config["model_type"])
    if kind in MLX_CTC:
        return "ctc"
    if find_spec("mlx_audio") is None:
        raise RuntimeMissing("mlx-audio is not installed", why=f"it runs {kind} models", fix="pip install mlx-audio")
    from workbench.models.stt_mlx_other import module_of

    if module_of(kind) is None:
        raise ModelError(
            f"mlx-audio runs no {kind} model", why="it has no such speech-to-text architecture", fix=f"torch:{found.source}"
        )
    return "seq2seq"
