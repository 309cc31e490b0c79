"""Models cut into programs that any runtime can be given: vision, prefill and step; encoder and step; or a user's module.

stages_of(folder, stateful=True, context=512)["step"].outputs      # ("logits",)
stages_of_module("my_model.py:make")["main"].example
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from workbench.convert.stages.stage import StageSet
    from workbench.models.source import Resolved


def stages_of(folder: Path | Resolved, *, stateful: bool, context: int | None = None) -> StageSet:
    """The stages of the model in ``folder``, by the ``model_type`` of its config.json.

    ``stateful``: the decoder's caches are states of the program (float16), not inputs and outputs. ``context``: places in them; the
    model's positions up to 2048 without it. Raises ModelError for a model that is not cut into stages (with the reason and what to do
    instead) or cannot be loaded, UsageError for a context that the model has not.
    """
    from workbench.convert.stages.loading import located
    from workbench.models import checkpoint
    from workbench.models.whisper_layout import is_dimensions

    found = located(folder)
    config = checkpoint.read_config(found.folder)
    if config.get("model_type") == "whisper" or is_dimensions(config):
        from workbench.convert.stages.whisper import whisper_stages

        return whisper_stages(found, config, stateful=stateful, context=context)
    from workbench.convert.stages.vision_language import vision_language_stages

    return vision_language_stages(found, config, stateful=stateful, context=context)


def stages_of_module(factory: Any) -> StageSet:
    """One stage ``main``: see ``workbench.convert.stages.user_module``."""
    from workbench.convert.stages.user_module import module_stages

    return module_stages(factory)
