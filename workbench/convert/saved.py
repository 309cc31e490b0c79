"""A model folder as transformers 5 saved it, judged before anything is written: what it holds, what is refused, what is left out.

    saved = read(Path("my-finetune"), trust_remote_code=False)
    saved.shards      # [my-finetune/model-00001-of-00002.safetensors, ...]
    saved.left_out    # [("optimizer.pt", "a pickle file, ..."), ...]

The folder may come from somebody else: names in its index, links and special files are hostile until checked.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from workbench.errors import ModelError
from workbench.models import checkpoint

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
PICKLES = {".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".joblib"}
OTHER_WEIGHTS = {".safetensors", ".gguf", ".ggml", ".h5", ".msgpack", ".onnx", ".npz", ".npy", ".mlpackage", ".engine"}
FOLDERS = ("additional_chat_templates",)
"""The one folder that transformers' tokenizers and processors read beside their files."""


@dataclass(frozen=True)
class Saved:
    """``files`` are copied as they are, by name relative to ``folder``; ``index`` is None for a folder with one weight file."""

    folder: Path
    config: dict[str, Any]
    shards: list[Path]
    index: dict[str, Any] | None
    files: list[str]
    left_out: list[tuple[str, str]]

    @property
    def name(self) -> str:
        return self.folder.resolve().name

    @property
    def weight_bytes(self) -> int:
        return sum(path.stat().st_size for path in self.shards)


def read(folder: Path, trust_remote_code: bool = False) -> Saved:
    """Raises ModelError for what is no whole, plain, unquantised folder of transformers: the file or field is named."""
    try:
        config = checkpoint.read_config(folder)
    except RecursionError as error:
        raise ModelError(f"config.json of {folder.name!r} cannot be read", why="it is nested too deeply") from error
    _refuse(folder, config)
    index = _read_index(folder)
    names = [WEIGHTS] if index is None else sorted(set(index["weight_map"].values()))
    _refuse_weights(folder, names, index)
    checkpoint.check(folder)
    files, left_out = _others(folder, {*names, INDEX, "config.json"}, trust_remote_code)
    return Saved(folder, config, [folder / name for name in names], index, files, left_out)


def _refuse(folder: Path, config: dict[str, Any]) -> None:
    """Raises ModelError for adapters and quantised weights."""
    if (folder / "adapter_config.json").exists() or (folder / "adapter_model.safetensors").exists():
        raise ModelError(
            f"{folder.name!r} holds an adapter",
            why="an adapter's weights belong to another model's and have no published layout of their own",
            fix="merge it first: model.merge_and_unload().save_pretrained(FOLDER), then convert that folder",
        )
    quantised = next(_quantisations(config), None)
    if quantised is not None:
        raise ModelError(
            f"{folder.name!r} is quantised ({quantised})",
            why="packed weights are stored in their quantiser's own way, not by the architecture's layout",
            fix="convert the folder as it was before it was quantised, and quantise the result with the port's own tools",
        )


def _quantisations(config: dict[str, Any]) -> Iterator[str]:
    """What the configuration or a part of it says about quantised weights."""
    if "quantization" in config or "quantization_config" in config:
        described = checkpoint.describe_quantisation(config)
        if described or config.get("quantization") or config.get("quantization_config"):
            yield described or "unknown method"
    for part in config.values():
        if isinstance(part, dict):
            yield from _quantisations(part)


def _refuse_weights(folder: Path, names: list[str], index: dict[str, Any] | None) -> None:
    """Raises ModelError where it is not clear, or not safe to say, which weights are the model's."""
    for name in names:
        if (
            name in ("", ".", "..")
            or Path(name).name != name
            or "\\" in name
            or not name.isprintable()
            or not name.endswith(".safetensors")
        ):
            raise ModelError(
                f"{INDEX} of {folder.name!r} names {name[:200]!r}",
                why="a weight file lies in the model's own folder and ends in .safetensors",
                fix="save the model again",
            )
    if index is not None and (folder / WEIGHTS).exists() and WEIGHTS not in names:
        raise ModelError(
            f"{folder.name!r} holds both {WEIGHTS} and {INDEX}",
            why="one of the two is left from an earlier save, and loaders disagree on which they read",
            fix="remove the older one",
        )
    if index is None and not (folder / WEIGHTS).exists():
        pickles = sorted(path.name for path in folder.glob("*.bin") if path.name.startswith("pytorch_model"))
        if pickles:
            raise ModelError(
                f"{folder.name!r} has no safetensors weights",
                why=f"{pickles[0]} is a pickle file, which can run code when it is read",
                fix="if you trust it: load it with transformers, then model.save_pretrained(FOLDER)",
            )
        raise ModelError(
            f"{folder.name!r} holds no weights",
            why=f"there is neither {WEIGHTS} nor {INDEX} beside config.json",
            fix="save the model again: model.save_pretrained(FOLDER)",
        )


def _read_index(folder: Path) -> dict[str, Any] | None:
    """The index as it is; its names are not yet judged. Raises ModelError when it is no index."""
    path = folder / INDEX
    if not path.is_file():
        return None
    try:
        index = json.loads(path.read_text(encoding="utf-8"))
        if not index["weight_map"] or not all(isinstance(name, str) for name in index["weight_map"].values()):
            raise ValueError("its weight_map names no files")
        if not isinstance(index.get("metadata", {}), dict):
            raise ValueError("its metadata is no object")
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ModelError(f"{INDEX} of {folder.name!r} cannot be read", why=f"{type(error).__name__}: {error}"[:200]) from error
    return index


def _others(folder: Path, handled: set[str], python: bool) -> tuple[list[str], list[tuple[str, str]]]:
    """(names of files to copy, (name, why) of what is left out). Links are followed, to regular files alone."""
    files: list[str] = []
    left_out: list[tuple[str, str]] = []
    for path in sorted(folder.iterdir()):
        if path.name in handled or path.name.startswith("."):
            continue
        if path.is_dir() and path.name in FOLDERS:
            inside = sorted(each for each in path.iterdir() if each.is_file() and each.suffix == ".jinja")
            files += [f"{path.name}/{each.name}" for each in inside]
        elif path.is_dir():
            left_out.append((f"{path.name}/", "a folder"))
        elif not path.is_file():
            left_out.append((path.name, "a link to nothing" if path.is_symlink() else "no regular file"))
        elif path.suffix == ".py" and not python:
            left_out.append((path.name, "Python code; --trust-remote-code copies it"))
        elif path.suffix.lower() in PICKLES:
            left_out.append((path.name, "a pickle file, which can run code when it is read"))
        elif path.suffix.lower() in OTHER_WEIGHTS or path.name.endswith(".index.json"):
            left_out.append((path.name, "weights beside the model's own"))
        else:
            files.append(path.name)
    return files, left_out
