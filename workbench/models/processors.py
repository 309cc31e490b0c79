"""From a request to a model's arrays, with transformers' processor on every runtime.

    preprocessor = Preprocessor(folder, options)
    prepared = preprocessor.prepare(request, tensors="np")   # Prepared(arrays={"input_ids": ..., "pixel_values": ...}, ...)

The PIL twin of an image processor is used even where torchvision is installed, so pixels do not depend on the machine.
"""

from __future__ import annotations

import inspect
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from workbench.errors import ItemError, ModelError
from workbench.fingerprint import of_json
from workbench.models.prompts import Fallback, PromptRenderer
from workbench.types import MAX_PIXELS, Request


@dataclass(slots=True)
class Prepared:
    """One request as arrays, each with a leading axis of 1 or of this request's images; ``length`` counts prompt tokens."""

    arrays: dict[str, Any]
    prompt: str
    length: int
    seconds: float = 0.0


class Preprocessor:
    """The processor of a model folder, its prompt renderer, and the limits on image size.

    ``processor`` may be given (a runtime's own); else transformers' is loaded. Raises ModelError when there is none.
    """

    def __init__(
        self,
        folder: Path,
        options: Mapping[str, Any],
        processor: Any = None,
        fallback: Fallback | None = None,
        fallback_name: str = "",
    ):
        self.processor = processor if processor is not None else load_processor(folder, options)
        self.tokenizer = getattr(self.processor, "tokenizer", self.processor)
        # An overlong prompt becomes an ItemError that says more than the tokenizer's one-time warning.
        getattr(self.tokenizer, "deprecation_warnings", {})["sequence-length-is-longer-than-the-specified-maximum"] = True
        self.image_processor = getattr(self.processor, "image_processor", None)
        self.renderer = PromptRenderer(self.processor, options["image_position"], fallback, fallback_name)
        self.min_pixels, self.max_pixels = options["min_pixels"], options["max_pixels"]
        self.resized_by = self._limit_pixels()

    def prepare(self, request: Request, tensors: str) -> Prepared:
        """The arrays of one request (``tensors``: ``pt`` or ``np``). Raises ItemError for images that cannot be used."""
        images = self.images(request)
        prompt = self.renderer.render(request.inputs["text"], len(images))
        arguments: dict[str, Any] = {"text": [prompt], "return_tensors": tensors}
        if images:
            arguments["images"] = images
        if not self.renderer.adds_special_tokens(prompt):
            arguments["add_special_tokens"] = False
        try:
            encoded = self.processor(**arguments)
        except (ValueError, TypeError, ZeroDivisionError, IndexError, RuntimeError) as error:
            sizes = ", ".join(f"{image.width} x {image.height}" for image in images)
            reason, what = (
                ("image", f"the processor refuses the images ({sizes})") if images else ("model", "the processor refuses the text")
            )
            raise ItemError(what, reason=reason, why=f"{type(error).__name__}: {error}"[:500]) from error
        arrays = {name: value for name, value in encoded.items() if name != "labels"}  # PaliGemma adds training labels
        return Prepared(arrays, prompt, int(arrays["input_ids"].shape[1]))

    def images(self, request: Request) -> list[Any]:
        """The request's images as RGB pictures within the pixel limits. Raises ItemError(reason="image")."""
        pictures = [media.image() for media in request.inputs.get("images", ())]
        if self.resized_by == "workbench":
            pictures = [self._resize(picture) for picture in pictures]
        for picture in pictures:
            self._refuse_explosion(picture)
        return pictures

    def describe(self) -> dict[str, Any]:
        """What the bundle says about prompt and preprocessing."""
        return {
            "prompt": self.renderer.kind,
            "chat_template": self.renderer.template_hash,
            "image_position": "first" if self.renderer.images_first else "last",
            "escaped_tokens": list(self.renderer.media_tokens),
            "processor": type(self.processor).__name__,
            "image_processor": type(self.image_processor).__name__,
            "image_settings": of_json(_plain(self.image_processor), 32),
            "min_pixels": self.min_pixels,
            "max_pixels": self.max_pixels,
            "resized_by": self.resized_by,
        }

    def _limit_pixels(self) -> str | None:
        """Hand the limits to an image processor that has them (Qwen2-VL's kind), else keep them for ``_resize``."""
        if not (self.min_pixels or self.max_pixels):
            return None
        inner = self.image_processor
        keywords = getattr(getattr(type(inner), "valid_kwargs", None), "__annotations__", {})
        size = getattr(inner, "size", None)
        if "max_pixels" not in keywords or not (size and size.get("shortest_edge") and size.get("longest_edge")):
            return "workbench"
        # Qwen2-VL's size counts pixels under the names of edges.
        high = self.max_pixels or max(size["longest_edge"], self.min_pixels)
        low = self.min_pixels or min(size["shortest_edge"], high)
        inner.size = type(size)(shortest_edge=low, longest_edge=high)
        return "image processor"

    def _resize(self, picture: Any) -> Any:
        from PIL import Image

        pixels, scale = picture.width * picture.height, 1.0
        if self.max_pixels and pixels > self.max_pixels:
            scale = math.sqrt(self.max_pixels / pixels)
        elif self.min_pixels and pixels < self.min_pixels:
            scale = math.sqrt(self.min_pixels / pixels)
        if scale == 1.0:
            return picture
        rounded = math.floor if scale < 1 else math.ceil
        return picture.resize(
            (max(1, rounded(picture.width * scale)), max(1, rounded(picture.height * scale))), Image.Resampling.BICUBIC
        )

    def _refuse_explosion(self, picture: Any) -> None:
        """A processor that scales the shortest edge to 336 would make 6.7 million x 336 pixels of a 20,000 x 1 line."""
        size = getattr(self.image_processor, "size", None)
        edge = size.get("shortest_edge") if hasattr(size, "get") else None
        if not edge or size.get("longest_edge"):
            return
        scale = edge / min(picture.width, picture.height)
        if picture.width * scale * picture.height * scale > MAX_PIXELS:
            why = f"the model's preprocessing would make {picture.width * scale:,.0f} x {picture.height * scale:,.0f} pixels of it"
            raise ItemError(f"image of {picture.width} x {picture.height} pixels is too narrow", reason="image", why=why)


def load_processor(folder: Path, options: Mapping[str, Any]) -> Any:
    """transformers' processor. Raises ModelError when the folder has none, or one that takes no images."""
    from transformers import AutoImageProcessor, AutoProcessor

    shared: dict[str, Any] = {"trust_remote_code": options["trust_remote_code"] == "true", "local_files_only": True}
    pil = {"backend": "pil"} if options["image_backend"] == "pil" else {}
    try:
        try:
            processor = _original(AutoProcessor)(AutoProcessor, str(folder), **shared, **pil)
        except ImportError as error:
            # Video processors exist for torchvision only: Qwen2-VL's kind has no PIL twin, with or without torchvision.
            if "ideo" not in str(error):
                raise
            processor = _without_video(folder, shared, pil)
        if (
            pil
            and getattr(processor, "image_processor", None) is not None
            and not type(processor.image_processor).__name__.endswith("Pil")
        ):
            processor.image_processor = AutoImageProcessor.from_pretrained(str(folder), **shared, **pil)
    except Exception as error:
        raise processor_error(folder, error) from error
    if getattr(processor, "image_processor", None) is None or getattr(processor, "tokenizer", None) is None:
        why = f"AutoProcessor found a {type(processor).__name__}, which does not take text and images"
        raise ModelError(
            f"{folder.name!r} has no processor for images", why=why, fix="add preprocessor_config.json and processor_config.json"
        )
    return processor


def _without_video(folder: Path, shared: dict[str, Any], pil: dict[str, Any]) -> Any:
    """The processor of an image-and-video model made of its image half, for machines where the video half cannot be loaded."""
    import transformers
    from transformers import AutoConfig, AutoImageProcessor, AutoTokenizer
    from transformers.models.auto.processing_auto import PROCESSOR_MAPPING_NAMES

    kind = AutoConfig.from_pretrained(str(folder), **shared).model_type
    base = getattr(transformers, PROCESSOR_MAPPING_NAMES[kind])

    def check(self: Any, name: str, argument: Any) -> Any:
        return type(argument) if name == "video_processor" else base.check_argument_for_proper_class(self, name, argument)

    made = type(base.__name__, (base,), {"check_argument_for_proper_class": check})
    tokenizer = AutoTokenizer.from_pretrained(str(folder), **shared)
    settings: dict[str, Any] = {}
    for name in ("processor_config.json", "preprocessor_config.json"):
        path = folder / name
        if path.is_file():
            settings = json.loads(path.read_text(encoding="utf-8")) | settings
    wanted = inspect.signature(base.__init__).parameters
    extra = {name: value for name, value in settings.items() if name in wanted and not isinstance(value, dict)}
    template = folder / "chat_template.jinja"
    extra["chat_template"] = (
        template.read_text(encoding="utf-8") if template.is_file() else getattr(tokenizer, "chat_template", None)
    )
    images = AutoImageProcessor.from_pretrained(str(folder), **shared, **pil)
    return made(image_processor=images, tokenizer=tokenizer, video_processor=None, **extra)


def processor_error(folder: Path, error: Exception) -> ModelError:
    """What a failed processor means to a user."""
    text = str(error).strip() or type(error).__name__
    lowered = text.lower()
    if "trust_remote_code" in lowered:
        return ModelError(
            f"{folder.name!r} brings its own Python code",
            why="its processor is not part of transformers",
            fix="--trust-remote-code",
        )
    missing = next((name for name in ("torchvision", "num2words", "timm", "sentencepiece", "tiktoken") if name in lowered), None)
    if missing:
        return ModelError(
            f"the processor of {folder.name!r} needs {missing}", why=text.splitlines()[0][:300], fix=f"pip install {missing}"
        )
    return ModelError(
        f"the processor of {folder.name!r} cannot be loaded",
        why=f"{type(error).__name__}: {text.splitlines()[0][:300]}",
        fix="the folder needs tokenizer.json, tokenizer_config.json and preprocessor_config.json",
    )


def _original(auto: Any) -> Any:
    """transformers' own ``from_pretrained``, behind the replacements that importing mlx-vlm's models chains before it.

    Hazard: mlx_vlm.models.base.install_auto_processor_patch (0.7.10) replaces AutoProcessor.from_pretrained in the whole
    process, with other processors and trust_remote_code=True.
    """
    function = auto.__dict__["from_pretrained"].__func__
    while not function.__module__.startswith("transformers"):
        held = dict(zip(function.__code__.co_freevars, function.__closure__ or (), strict=True)).get("previous_from_pretrained")
        # Molmo2's replacement keeps the one before it in its module instead.
        names = [name for name in function.__code__.co_names if name.startswith("_original_auto_processor_from_pretrained")]
        inner = held.cell_contents if held is not None else next((function.__globals__.get(name) for name in names), None)
        if inner is None:
            break
        function = inner.__func__
    return function


def _plain(image_processor: Any) -> Any:
    """The image processor's settings as JSON, without what names versions or paths."""
    try:
        settings = json.loads(image_processor.to_json_string())
    except (AttributeError, TypeError, ValueError):
        return type(image_processor).__name__
    return {
        name: value
        for name, value in settings.items()
        if not name.startswith("_") and "class" not in name and "version" not in name
    }
