"""Where a model's files are: the demo model, a folder, or a repository on the Hugging Face hub, downloaded on first use; and for a
runtime that runs what is converted for it, where the converted model is, converted on first use.

    resolve(ModelSpec.parse("torch:ORG/NAME@REVISION"))   # Resolved(folder=..., source="ORG/NAME", revision="3f1c...")
    converted(ModelSpec.parse("demo:vlm@coreml?quantize=int8"))   # the artifact folder, opened and found whole
    identify(ModelSpec.parse("demo:vlm@mlx"))             # fingerprints for the run key; loads no runtime

What is shown to others names no folder above the model's own.
"""

from __future__ import annotations

import os
import shlex
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from workbench import locate
from workbench.errors import ModelError, UsageError
from workbench.models import checkpoint
from workbench.models.converted import Converted, is_converted
from workbench.models.options import flag, recipe
from workbench.registry import BUILT_IN_CONVERTERS, get_backend, get_converter
from workbench.types import ModelSpec

WANTED = ("*.safetensors", "*.json", "*.txt", "*.model", "*.jinja", "*.tiktoken", "weights.npz")
PACKAGES = (".mlpackage", ".mlmodel", ".mlmodelc", ".onnx")
"""Names of single programs, which are no models."""
MANIFEST_NAMES = {"calibrate": "samples", "calibrate_limit": "samples_limit"}
"""Options of a conversion that its manifest's recipe calls otherwise."""
UNWANTED = ("*/*.safetensors", "*/*.bin", "onnx/*", "original/*", "consolidated*", "*.gguf", "training_args*")

_resolved: dict[tuple[str, str | None, bool, bool], Resolved] = {}


@dataclass(frozen=True, slots=True)
class Resolved:
    """A model's files on this disk. ``source`` is safe to publish: a hub id, ``demo:vlm`` or a folder's own name."""

    folder: Path
    source: str
    revision: str | None = None


def resolve(spec: ModelSpec) -> Resolved:
    """Find or download the files. Raises ModelError with what to do when they cannot be had."""
    if spec.source.startswith("demo:"):
        name = spec.source.removeprefix("demo:")
        folder = locate.demo_model(name)
        if folder is None:
            known = (
                " and ".join(f"demo:{each}" for each in ("vlm", "stt") if locate.demo_model(each)) or "none in this installation"
            )
            raise ModelError(f"there is no demo model {name!r}", why=f"bundled: {known}", fix="workbench list models")
        return Resolved(folder, spec.source)
    path = Path(spec.source).expanduser()
    if path.is_dir():
        return Resolved(path, path.resolve().name)
    if path.exists():
        raise ModelError(
            f"{spec.source!r} is a file",
            why="a model is a folder with config.json, weights and tokenizer",
            fix=f"use {path.parent}",
        )
    if not _is_hub_id(spec.source):
        raise ModelError(
            f"model folder {spec.source!r} does not exist", why="it is no hub id (ORG/NAME) either", fix="workbench list models"
        )
    key = (spec.source, spec.revision, flag(spec.options, "trust_remote_code"), flag(spec.options, "allow_pickle"))
    if key not in _resolved:
        _resolved[key] = _download(spec, *key[2:])
    return _resolved[key]


def runs_converted(backend: str) -> bool:
    """Whether the runtime runs programs that are converted for it, rather than checkpoints."""
    return backend in BUILT_IN_CONVERTERS


def converted(spec: ModelSpec) -> Converted:
    """The converted model that ``spec`` names: an artifact folder as it is, anything else from the cache, where it is put on first use.

    What the runtime itself would refuse is refused before anything is converted. Raises ModelError for what is no model or was changed,
    UsageError for options that contradict how a folder was made, and what the converter raises.
    """
    get_backend(spec.backend).evidence(dict(spec.options))
    path = Path(spec.source).expanduser()
    here = not spec.source.startswith("demo:") and path.exists()
    if here and (path.suffix in PACKAGES or any(each.suffix in PACKAGES for each in path.resolve().parents)):
        raise _one_program(spec, path)
    if here and is_converted(path):
        found = Converted(path)
        if spec.backend not in found.runs_on:
            raise ModelError(
                f"{found.name!r} was converted for {' and '.join(found.runs_on)}",
                why=f"what was asked for is {spec.backend}",
                fix=f"--model {shlex.quote(f'{found.runs_on[0]}:{spec.source}')}",
            )
        _refuse_other_recipe(spec, found)
        return found
    return Converted(get_converter(spec.backend)(spec))


def running_options(spec: ModelSpec) -> dict[str, str]:
    """The options a runtime is asked with, for its evidence and its device: those of ``spec``, and of a converted model the precision that
    it was made in, which decides what can run it. Raises as ``converted``."""
    if not runs_converted(spec.backend):
        return dict(spec.options)
    return {**spec.options, "precision": str(converted(spec).recipe.get("precision"))}


def _one_program(spec: ModelSpec, path: Path) -> ModelError:
    """The error of a single program where a model is asked for: it has no tokenizer, and is one stage of several."""
    around = next((each for each in path.absolute().parents if is_converted(each)), None)
    named = (
        f"--model {shlex.quote(f'{spec.backend}:{os.path.relpath(around)}')}"
        if around
        else f"workbench convert MODEL --to {spec.backend}"
    )
    return ModelError(
        f"{path.name!r} is one program, not a model",
        why="answers take the model's other stages, its tokenizer and its processor; one program can be captured",
        fix=f"{named}, or workbench capture {shlex.quote(f'{spec.backend}:{spec.source}')}",
    )


def _refuse_other_recipe(spec: ModelSpec, found: Converted) -> None:
    """Raises UsageError for recipe options that an artifact folder was not made with."""
    made = {**found.recipe, "context": found.sizes.get("context")}
    for name, asked in recipe(spec.backend, spec.options).items():
        has = made.get(MANIFEST_NAMES.get(name, name))
        if isinstance(has, (list, tuple)):
            parts = [part.strip() for part in asked.split(",") if part.strip() not in ("", "none")]
            same = sorted(parts) == sorted(map(str, has)) or not asked and name != "keep_fp32"
        else:
            said = "none" if has is None else str(has).lower() if isinstance(has, bool) else str(has)
            same = asked in ("", said)
            has = said
        if not same:
            raise UsageError(
                f"{name}={asked} contradicts {found.name!r}",
                why=f"it was converted with {name}={','.join(map(str, has)) if isinstance(has, (list, tuple)) else has}",
                fix=f"leave ?{name} out, or convert again: workbench convert MODEL --to {spec.backend}",
            )


def identify(spec: ModelSpec) -> dict[str, Any]:
    """What the weights and settings are, for the run key: ``source, revision, weights, config, format, size_bytes, ...``.

    ``weights`` and ``config`` are hashes of file contents, so a copied folder has the same ones. Neither torch nor MLX
    is imported, and no path appears. Raises ModelError when the folder is no usable model. Of a model behind a server only
    its name is known, and the weights are None. A converted model is what its programs hold, and ``source`` is what it was made from.
    """
    if spec.backend == "server":
        from workbench.models.vlm_server import identify_served

        return identify_served(spec)
    if runs_converted(spec.backend):
        made = converted(spec)
        return {
            "source": made.source.get("name"),
            "revision": made.source.get("revision"),
            **made.identity(),
            "recipe": made.recipe,
        }
    found = resolve(spec)
    return {
        "source": found.source,
        "revision": found.revision,
        **checkpoint.identify(found.folder, flag(spec.options, "allow_pickle")),
    }


def _is_hub_id(text: str) -> bool:
    parts = text.split("/")
    return len(parts) == 2 and all(part and part[0] not in ".~-" for part in parts) and not any(mark in text for mark in " \\:")


def _download(spec: ModelSpec, remote_code: bool, pickle: bool) -> Resolved:
    from huggingface_hub import HfApi, constants, errors, snapshot_download

    wanted = [*WANTED, *(["*.py"] if remote_code else []), *(["*.bin"] if pickle else [])]
    arguments = {"repo_id": spec.source, "allow_patterns": wanted, "ignore_patterns": list(UNWANTED)}
    named = f"{spec.source}@{spec.revision}" if spec.revision else spec.source
    try:
        if constants.HF_HUB_OFFLINE:
            raise errors.OfflineModeIsEnabled("HF_HUB_OFFLINE is set")
        info = HfApi().model_info(spec.source, revision=spec.revision, files_metadata=True)
        _announce(named, info, wanted)
        folder = snapshot_download(revision=info.sha, **arguments)
        return Resolved(Path(folder), spec.source, info.sha)
    except errors.GatedRepoError as error:
        fix = f"accept its licence at https://huggingface.co/{spec.source}, then: export HF_TOKEN=hf_..."
        raise ModelError(f"model {named!r} is gated", why="its licence must be accepted and a token given", fix=fix) from error
    except errors.RevisionNotFoundError as error:
        raise ModelError(f"model {spec.source!r} has no revision {spec.revision!r}", fix=f"leave @{spec.revision} out") from error
    except errors.RepositoryNotFoundError as error:
        why = "the hub has no such repository, or it is private"
        raise ModelError(
            f"model {named!r} was not found", why=why, fix="check the name; for a private one: export HF_TOKEN=hf_..."
        ) from error
    except errors.HFValidationError as error:
        raise ModelError(f"{spec.source!r} is no valid hub id", why=str(error).splitlines()[0]) from error
    except errors.HfHubHTTPError as error:
        status = getattr(getattr(error, "response", None), "status_code", None)
        if status in (401, 403):
            why = f"the hub answered {status}: {'HF_TOKEN is not accepted' if os.environ.get('HF_TOKEN') else 'no token was given'}"
            raise ModelError(f"model {named!r} may not be read", why=why, fix="export HF_TOKEN=hf_...") from error
        return _cached(spec, arguments, named, f"the hub answered {status}")
    except (errors.OfflineModeIsEnabled, OSError) as error:
        if isinstance(error, OSError) and getattr(error, "errno", None) == 28:
            raise ModelError(
                f"model {named!r} cannot be downloaded", why="the disk is full", fix="export HF_HOME=/another/disk"
            ) from error
        return _cached(spec, arguments, named, _offline_reason(error))
    except Exception as error:  # the hub's HTTP library has its own connection errors, which vary by version
        if not type(error).__module__.startswith(("httpx", "httpcore", "requests", "urllib3")):
            raise
        return _cached(spec, arguments, named, _offline_reason(error))


def _cached(spec: ModelSpec, arguments: dict[str, Any], named: str, reason: str) -> Resolved:
    """The copy from an earlier download, when the hub cannot be reached."""
    from huggingface_hub import errors, snapshot_download

    try:
        folder = Path(snapshot_download(revision=spec.revision, local_files_only=True, **arguments))
    except (errors.LocalEntryNotFoundError, OSError, ValueError) as error:
        raise ModelError(
            f"model {named!r} is not on this machine", why=reason, fix="connect and run again, or use demo:vlm@torch"
        ) from error
    return Resolved(folder, spec.source, folder.name)


def _announce(named: str, info: Any, wanted: list[str]) -> None:
    """Say on stderr how much is about to be fetched; nothing when all of it is here."""
    from fnmatch import fnmatch

    from huggingface_hub import try_to_load_from_cache

    missing = 0
    for file in info.siblings or ():
        name = file.rfilename
        if not any(fnmatch(name, pattern) for pattern in wanted) or any(fnmatch(name, pattern) for pattern in UNWANTED):
            continue
        if not isinstance(try_to_load_from_cache(info.id, name, revision=info.sha), str):
            missing += file.size or 0
    if missing:
        print(f"downloading {named}: {missing / 1e9:.2f} GB ({missing:,} bytes)", file=sys.stderr, flush=True)


def _offline_reason(error: Exception) -> str:
    text = str(error).strip().splitlines()
    return (
        "HF_HUB_OFFLINE is set"
        if "OfflineMode" in type(error).__name__
        else f"the hub cannot be reached ({text[0][:120] if text else type(error).__name__})"
    )
