"""A checkpoint through one of transformers' classes, whole or not at all, on the device and in the precision asked for.

    model, spare = load("AutoModelForCTC", found, options, device)

transformers fills a weight that is missing or misshaped with noise and only warns; here each of these is an error that names it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from workbench.errors import ModelError
from workbench.models.source import Resolved


def load(
    class_name: str, found: Resolved, options: Mapping[str, Any], device: Any, dispensable: tuple[str, ...] = ()
) -> tuple[Any, list[str]]:
    """(the model, names of missing weights that end with one of ``dispensable``: those that only training reads).

    ``options``: ``dtype``, ``allow_pickle``, ``trust_remote_code``, ``attention``, ``device_map``. Weights are float32 on a CPU unless
    a type is named, elsewhere the checkpoint's own. Raises ModelError unless every other weight was found, fitted and used.
    """
    import torch
    import transformers

    placed = options.get("device_map")
    asked = options.get("dtype") or "auto"
    dtype = (torch.float32 if device.type == "cpu" and not placed else "auto") if asked == "auto" else getattr(torch, asked)
    pickle = options.get("allow_pickle") == "true" and not any(found.folder.glob("*.safetensors"))
    arguments: dict[str, Any] = {
        "dtype": dtype,
        "use_safetensors": not pickle,
        "weights_only": True,
        "trust_remote_code": options.get("trust_remote_code") == "true",
        "local_files_only": True,
        "output_loading_info": True,
        "ignore_mismatched_sizes": True,  # reported like the other disagreements by refuse_partial, with names
    }
    if options.get("attention"):
        arguments["attn_implementation"] = options["attention"]
    if placed:
        arguments["device_map"] = placed
    model, report = getattr(transformers, class_name).from_pretrained(str(found.folder), **arguments)
    missing = {str(key) for key in report.get("missing_keys", ())}
    spare = sorted(key for key in missing if dispensable and key.endswith(dispensable))
    refuse_partial(found, {**report, "missing_keys": missing - set(spare)})
    return (model if placed else model.to(device)), spare


def refuse_partial(found: Resolved, report: Mapping[str, Any]) -> None:
    """Raises ModelError unless transformers' loading ``report`` says that every weight was found, fitted and used."""
    for name, words in (
        ("missing_keys", "lacks"),
        ("mismatched_keys", "has another shape for"),
        ("unexpected_keys", "has an unknown weight"),
    ):
        keys = sorted(str(key[0] if isinstance(key, tuple) else key) for key in report.get(name, ()))
        if keys:
            more = f" and {len(keys) - 3} more" if len(keys) > 3 else ""
            raise ModelError(
                f"checkpoint {found.source!r} {words} {', '.join(keys[:3])}{more}",
                why="weights and config.json do not belong together",
                fix="download or export the model again",
            )
    if report.get("error_msgs"):
        raise ModelError(f"checkpoint {found.source!r} cannot be loaded", why=str(report["error_msgs"][0])[:300])


def refuse_architecture(found: Resolved, config: Mapping[str, Any]) -> None:
    """Raises ModelError for a ``model_type`` that this transformers does not know."""
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES

    kind = config["model_type"]
    if kind in CONFIG_MAPPING_NAMES:
        return
    if config.get("auto_map"):
        raise ModelError(
            f"{found.source!r} brings its own Python code", why=f"transformers has no {kind}", fix="--trust-remote-code"
        )
    raise ModelError(
        f"unknown architecture {kind!r} in {found.source!r}",
        why="this transformers does not know it",
        fix="pip install -U transformers",
    )
