"""Opens a model for a family on a runtime, and says what is wrong in a user's words when that fails.

    model = open_vision_language(ModelSpec.parse("demo:vlm@torch?dtype=float32"))
    model = open_speech_to_text(ModelSpec.parse("demo:stt@mlx"))
    model = open_vision_language(ModelSpec.parse("coreml:./converted?units=CPU_AND_NE"))
    model = open_model(spec, "speech-to-text")

This is the one door to all wrappers: options, files and architecture are checked before anything large is read.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from workbench.errors import ModelError, RuntimeMissing, UsageError, WorkbenchError
from workbench.models import checkpoint, options
from workbench.models.answering import is_memory_error
from workbench.models.pretrained import refuse_architecture
from workbench.models.source import Resolved, converted, resolve, runs_converted
from workbench.models.speech_to_text import FAMILY as SPEECH
from workbench.models.speech_to_text import SpeechToText
from workbench.models.vision_language import VisionLanguage
from workbench.registry import get_backend
from workbench.types import ModelSpec

VISION = options.VISION


def open_model(spec: ModelSpec, family: str) -> VisionLanguage | SpeechToText:
    """The model, loaded and ready, as one of ``family`` (a task's). Raises as the two functions below."""
    openers = {VISION: open_vision_language, SPEECH: open_speech_to_text}
    if family not in openers:
        raise UsageError(f"models of the family {family!r} cannot be opened", why=f"known: {', '.join(openers)}")
    return openers[family](spec)


def open_vision_language(spec: ModelSpec) -> VisionLanguage:
    """The model, loaded and ready.

    Raises RuntimeMissing when the runtime is not here, UsageError for an unknown option, ModelError when the folder
    cannot be loaded as a vision-language model. A plugin's backend is asked for ``open_vision_language(spec)``.
    """
    backend, chosen = _runtime(spec, VISION)
    if hasattr(backend, "open_vision_language"):
        return backend.open_vision_language(spec)
    if spec.backend == "server":
        from workbench.models.vlm_server import ServerVisionLanguage

        return ServerVisionLanguage(spec, chosen)
    if runs_converted(spec.backend):
        return _open_converted(spec, VISION, backend, chosen)
    if spec.backend not in ("torch", "mlx"):
        raise UsageError(f"runtime {spec.backend!r} does not run vision-language models", fix="workbench list models")
    found, config = _files(spec)
    _refuse_unknown(found, config, spec.backend, chosen)
    backend.prepare(dict(spec.options))
    with quietly(), in_users_words(found):
        generation = read_json(found.folder / "generation_config.json")
        if spec.backend == "torch":
            from workbench.models.vlm_torch import TorchVisionLanguage as Model
        else:
            from workbench.models.vlm_mlx import MLXVisionLanguage as Model
        return Model(spec, found, config, generation, chosen)


def open_speech_to_text(spec: ModelSpec) -> SpeechToText:
    """The model, loaded and ready.

    Whisper is decoded by the workbench on every runtime (``workbench.models.stt``); other encoder-decoders and CTC models by
    ``workbench.models.stt_other`` and ``stt_ctc``. Raises as ``open_vision_language``; a plugin's backend is asked for
    ``open_speech_to_text(spec)``.
    """
    backend, chosen = _runtime(spec, SPEECH)
    if hasattr(backend, "open_speech_to_text"):
        return backend.open_speech_to_text(spec)
    if runs_converted(spec.backend):
        return _open_converted(spec, SPEECH, backend, chosen)
    if spec.backend not in ("torch", "mlx"):
        raise UsageError(
            f"runtime {spec.backend!r} does not run speech-to-text models",
            why="torch, mlx, coreml, onnx and tensorrt do",
            fix="--model demo:stt@torch",
        )
    found, config = _files(spec)
    from workbench.models import speech_kinds

    backend.prepare(dict(spec.options))  # first: to see what mlx-audio runs is to import MLX, which closes the BLAS route
    kind = speech_kinds.kind_of(found, config, spec.backend, chosen)
    with quietly(), in_users_words(found):
        return speech_kinds.opened(kind, spec, found, config, chosen)


def _open_converted(spec: ModelSpec, family: str, backend: Any, chosen: Mapping[str, Any]) -> VisionLanguage | SpeechToText:
    """A model whose stages are programs, converted on first use, under the loops that its family shares."""
    from workbench.models.program_stages import check, open_stages

    if spec.adapter:
        raise UsageError(
            "a converted model takes no adapter",
            why=f"adapter={spec.adapter}",
            fix="merge the adapter into the model, then convert",
        )
    made = converted(spec)
    check(made, spec.backend, family)
    asked = {**spec.options, "precision": str(made.recipe.get("precision"))}  # as source.running_options
    backend.prepare(asked)
    found = Resolved(made.folder, str(made.source.get("name")), made.source.get("revision"))
    stages = open_stages(made, backend, asked, family)
    try:
        with quietly(), in_users_words(found):
            config, generation = checkpoint.read_config(made.folder), read_json(made.folder / "generation_config.json")
            if family == VISION:
                from workbench.models.vlm_program import ProgramVisionLanguage as Model
            else:
                from workbench.models.stt_stages import StagesSpeech as Model
            return Model(spec, found, stages, config, generation, chosen)
    except BaseException:
        stages.close()
        raise


def _runtime(spec: ModelSpec, family: str) -> tuple[Any, dict[str, Any]]:
    """(the runtime, the options with their defaults). Raises UsageError, RuntimeMissing."""
    backend = get_backend(spec.backend)
    chosen = options.read(spec.backend, spec.options, family)
    here = backend.available()
    if not here.ok:
        raise RuntimeMissing(f"the runtime {spec.backend!r} is not here", why=here.reason, fix=here.fix)
    return backend, chosen


def _files(spec: ModelSpec) -> tuple[Resolved, dict[str, Any]]:
    """(the folder, its config.json), the weight files judged whole. Raises ModelError, UsageError."""
    if spec.adapter:
        raise UsageError(
            "adapters are not read by this version", why=f"adapter={spec.adapter}", fix="merge the adapter into the model first"
        )
    found = resolve(spec)
    checkpoint.check(found.folder, options.flag(spec.options, "allow_pickle"))
    return found, checkpoint.read_config(found.folder)


def _refuse_unknown(found: Resolved, config: Mapping[str, Any], backend: str, chosen: Mapping[str, Any]) -> None:
    """Raises ModelError for what config.json already shows: foreign code, an unknown architecture, a text-only model."""
    kind = config.get("model_type")
    trusted = chosen["trust_remote_code"] == "true"
    if not kind:
        raise ModelError(f"config.json of {found.source!r} names no model_type", why="it is no transformers or MLX model")
    if backend == "mlx":
        return
    from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES

    if trusted and config.get("auto_map"):
        return
    if "bits" in (config.get("quantization") or {}):
        why = f"its weights are {checkpoint.describe_quantisation(dict(config))}, in MLX's own packing"
        raise ModelError(f"{found.source!r} is quantised for MLX", why=why, fix=f"--model mlx:{found.source}")
    refuse_architecture(found, config)
    if kind not in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES:
        raise ModelError(
            f"{found.source!r} is a {kind} model", why="it does not answer questions about images", fix="workbench list models"
        )


@contextmanager
def in_users_words(found: Resolved):
    """Loaders raise many types; each becomes a ModelError that keeps the first line of what they said."""
    try:
        yield
    except WorkbenchError:
        raise
    except Exception as error:
        text = str(error).strip() or type(error).__name__
        lowered = text.lower()
        first = text.splitlines()[0][:300]
        if is_memory_error(error):
            raise ModelError(
                f"{found.source!r} does not fit into memory", why=first, fix="--dtype bfloat16, or a smaller model"
            ) from error
        if "trust_remote_code" in lowered:
            raise ModelError(f"{found.source!r} brings its own Python code", why=first, fix="--trust-remote-code") from error
        if "accelerate" in lowered and "pip install" in lowered:
            raise ModelError(
                f"{found.source!r} cannot be placed by a device map", why=first, fix="pip install accelerate"
            ) from error
        if "not supported" in lowered and "model type" in lowered:
            raise ModelError(f"unknown architecture in {found.source!r}", why=first, fix="pip install -U mlx-vlm") from error
        if "missing" in lowered and "parameters" in lowered or "not in model" in lowered:
            why = " ".join(text.split())[:300]
            raise ModelError(
                f"weights and config.json of {found.source!r} do not belong together", why=why, fix="export the model again"
            ) from error
        raise ModelError(f"{found.source!r} cannot be loaded", why=f"{type(error).__name__}: {first}") from error


@contextmanager
def quietly():
    """No progress bars and reports of transformers while a model is loaded: what matters in them becomes a ModelError."""
    from transformers.utils import logging as transformers_logging

    shown, verbosity = transformers_logging.is_progress_bar_enabled(), transformers_logging.get_verbosity()
    transformers_logging.disable_progress_bar()
    transformers_logging.set_verbosity_error()
    disabled = logging.root.manager.disable
    logging.disable(logging.ERROR)  # mlx-vlm logs what it then raises
    try:
        yield
    finally:
        logging.disable(disabled)
        transformers_logging.set_verbosity(verbosity)
        if shown:
            transformers_logging.enable_progress_bar()


def read_json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}
