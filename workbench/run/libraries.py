"""The libraries that make a family's answers: part of the run key, and what must be installed before anything is begun.

libraries("speech-to-text", get_backend("mlx"), ModelSpec.parse("demo:stt@mlx"))    # ("mlx", "mlx-whisper", ..., "soundfile", "soxr", "av")
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from workbench.backends.coreml_package import macos_version
from workbench.backends.torch import package_availability
from workbench.errors import RuntimeMissing
from workbench.models import checkpoint, options
from workbench.models.options import VISION
from workbench.models.source import resolve, runs_converted
from workbench.models.speech_to_text import FAMILY as SPEECH
from workbench.models.whisper_layout import is_whisper
from workbench.types import ModelSpec

ANSWERING_LIBRARIES = {
    VISION: ("tokenizers", "pillow", "numpy"),
    SPEECH: ("tokenizers", "numpy", "soundfile", "soxr", "av"),
}
"""By family: what makes the answers on every runtime, through tokens, pixels and samples; a runtime's own are named by its backend."""
FAMILIES = tuple(ANSWERING_LIBRARIES)
MLX_VISION_LANGUAGE = "mlx-vlm"
UNUSED = {
    ("coreml", False): {"torch"},
    ("onnx", True): {"onnxruntime"},
    ("onnx", False): {"onnx"},
    ("tensorrt", True): {"tensorrt", "torch"},
    ("tensorrt", False): {"onnx", "onnxruntime"},
}
"""By runtime, and whether a reference executor stands in for it: which of its libraries make no answer then."""


def libraries(family: str, backend: Any, spec: ModelSpec, running: Mapping[str, str] | None = None) -> tuple[str, ...]:
    """The distributions that make a family's answers on a backend: speech on MLX has libraries of its own. ``running``: what the runtime is
    asked with (``source.running_options``), else the options of ``spec``. Raises as ``mlx_library``."""
    own = tuple(backend.distributions)
    if family == VISION and runs_converted(spec.backend):
        own = (*own, "transformers")  # whose processor makes the pixels
    if runs_converted(spec.backend):
        stands_in = backend.evidence(dict(spec.options if running is None else running)) == "reference"
        own = tuple(name for name in own if name not in UNUSED.get((spec.backend, stands_in), ()))
    if family == SPEECH:
        own = tuple(mlx_library(spec) if name == MLX_VISION_LANGUAGE else name for name in own)
    return tuple(dict.fromkeys((*own, *ANSWERING_LIBRARIES[family])))


def system_libraries(backend: Any, spec: ModelSpec, running: Mapping[str, str] | None = None) -> dict[str, str]:
    """What makes the answers and comes with the system: Core ML has the version of the macOS it is part of."""
    if spec.backend != "coreml" or backend.evidence(dict(spec.options if running is None else running)) == "reference":
        return {}
    return {"macOS": ".".join(map(str, macos_version() or ())) or "unknown"}


def mlx_library(spec: ModelSpec) -> str:
    """The library that runs a speech model on MLX (``workbench.models.speech_kinds.opened``). Raises UsageError for an unknown option,
    ModelError where the model is not to be had."""
    asked = options.read(spec.backend, spec.options, SPEECH)["library"]
    if asked != "auto":
        return asked
    return "mlx-whisper" if is_whisper(checkpoint.read_config(resolve(spec).folder)) else "mlx-audio"


def check_libraries(family: str, spec: ModelSpec) -> None:
    """Raises RuntimeMissing where a model that runs in this process lacks what its family reads its inputs with, or is made of."""
    if family != SPEECH or (spec.backend not in ("torch", "mlx") and not runs_converted(spec.backend)):
        return
    wanted = [(("soundfile", "soxr"), "pip install 'parity-workbench[speech]'")]
    if spec.backend == "mlx":
        wanted.append(((mlx_library(spec),), "pip install 'parity-workbench[mlx]'"))
    for names, fix in wanted:
        here = package_availability(names, fix)
        if not here.ok:
            raise RuntimeMissing(f"speech to text cannot run on {spec.backend} here", why=here.reason, fix=here.fix)
