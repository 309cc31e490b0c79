"""``demo:vlm@onnx`` and ``demo:vlm@tensorrt`` become one folder of ONNX graphs in the user's cache.

ensure(ModelSpec.parse("demo:vlm@tensorrt?precision=fp16"))     # .../onnx/demo-vlm-3f0c.../, converted now or found
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from workbench.convert.building import on_stderr
from workbench.convert.cache import cached
from workbench.convert.onnx.build import CONVERTER, with_samples
from workbench.convert.onnx.recipe import OPTIONS, Recipe
from workbench.convert.subject import subject_of
from workbench.types import ModelSpec


def ensure(spec: ModelSpec, say: Callable[[str], None] | None = None) -> Path:
    """The converted folder of ``spec``, whose source is laid out for transformers; converted and checked now where it is not here yet.

    Of ``spec.options`` those in ``recipe.OPTIONS`` are read. Raises as ``workbench.convert.cache.cached``.
    """
    recipe = Recipe.from_options({name: value for name, value in spec.options.items() if name in OPTIONS and value})
    subject = subject_of(spec)
    return cached(CONVERTER, subject, with_samples(subject, recipe), say or on_stderr).folder
