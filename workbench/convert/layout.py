"""What a layout rule is: how the configuration and the weights' names of a folder saved by transformers 5 become the published ones.

A rule is one small file in ``workbench/convert/layouts/``, named after the architecture, with a ``LAYOUT``::

    LAYOUT = Layout(("llava",), config=rewrite, renames=((r"^vision_tower\\.(?!vision_model\\.)", "vision_tower.vision_model."),))
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

Config = dict[str, Any]


def unchanged(config: Config) -> None:
    """The configuration needs nothing beyond what every architecture needs (``rope``)."""


@dataclass(frozen=True)
class Layout:
    """``config`` edits config.json in place, after ``rope``; ``renames`` are regular expressions on the weights' names, each applied
    in turn; ``weights`` does what no renaming can (splitting, stacking, transposing), on numpy or torch arrays by their new names."""

    model_types: tuple[str, ...]
    config: Callable[[Config], None] = unchanged
    renames: tuple[tuple[str, str], ...] = ()
    weights: Callable[[Mapping[str, Any], Config], dict[str, Any]] | None = None
    source: str = ""
    """Where the published layout was read: a public checkpoint's config.json, or the port's own loader."""
    together: str | None = None
    """For ``weights`` of large models: a regular expression on the new names. Weights in which it finds the same text are given
    together, one group after another, so that no more than a group is in memory; without it ``weights`` is given all (they are read
    when they are used). Weights in which it finds nothing are one group more."""
    reads_back: bool = True
    """False where transformers cannot read the published layout, so that a conversion cannot be checked by reloading it."""


def rope(config: Config) -> None:
    """``rope_parameters`` -> ``rope_theta``, ``rope_scaling``, ``partial_rotary_factor``, in the configuration and all its parts.

    ``rope_scaling`` is only written where a scaling is asked for (``rope_type`` other than default, or an ``mrope_section``), with the
    older key ``type`` beside ``rope_type``. Nested parameters (one set a layer type, as in Gemma 3) are left to the architecture's rule.
    """
    for part in config.values():
        if isinstance(part, dict):
            rope(part)
    parameters = config.get("rope_parameters")
    if not isinstance(parameters, dict) or any(isinstance(each, dict) for each in parameters.values()):
        return
    del config["rope_parameters"]
    rest = dict(parameters)
    for name in ("rope_theta", "partial_rotary_factor"):
        if name in rest:
            config[name] = rest.pop(name)
    kind = rest.pop("rope_type", rest.pop("type", "default"))
    if rest or kind != "default":
        config["rope_scaling"] = {
            "type": "mrope" if "mrope_section" in rest and kind == "default" else kind,
            "rope_type": kind,
            **rest,
        }
