"""``demo:vlm@coreml`` becomes a folder of Core ML programs in the user's cache.

ensure(ModelSpec.parse("demo:vlm@coreml?quantize=int8"))     # .../coreml/demo-vlm-3f0c.../, converted now or found
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from pathlib import Path

from workbench.convert.building import on_stderr
from workbench.convert.cache import cached
from workbench.convert.coreml.build import CONVERTER
from workbench.convert.coreml.recipe import Recipe
from workbench.convert.subject import subject_of
from workbench.types import ModelSpec

RECIPE_OPTIONS = tuple(field.name for field in fields(Recipe))
"""Options of a spec that the conversion depends on; all others are the runtime's."""


def ensure(spec: ModelSpec, say: Callable[[str], None] | None = None) -> Path:
    """The converted folder of ``spec``, whose source is laid out for transformers; converted and checked now where it is not here yet.

    Of ``spec.options`` those in ``RECIPE_OPTIONS`` are read. Raises as ``workbench.convert.cache.cached``.
    """
    recipe = Recipe.from_options({name: value for name, value in spec.options.items() if name in RECIPE_OPTIONS and value})
    return cached(CONVERTER, subject_of(spec), recipe, say or on_stderr).folder
