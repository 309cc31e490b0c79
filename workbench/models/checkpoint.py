"""A model's folder, judged before any runtime is loaded: is it whole, what format is it, what is its fingerprint?

    check(folder)      # raises ModelError naming the file that is truncated, missing or no model
    identify(folder)   # {"weights": "9c0e...", "config": "51aa...", "format": "safetensors", "size_bytes": 11099240, ...}

Loaders report a damaged file in their own ways, some not at all; here it is one error that names the file.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import re
import struct
import tempfile
from pathlib import Path
from typing import Any

from workbench.errors import ModelError
from workbench.fingerprint import of_file, of_json
from workbench.models.whisper_layout import is_dimensions

SETTINGS_SUFFIXES = {".json", ".jinja", ".txt", ".model", ".tiktoken", ".py"}
IGNORED_SETTINGS = {"model.safetensors.index.json", "pytorch_model.bin.index.json", "license.txt", "requirements.txt"}
NPZ = "weights.npz"
"""What mlx-whisper's older checkpoints keep their weights in."""
LARGEST_HEADER = 100_000_000
"""Bytes; the format's own limit (https://github.com/huggingface/safetensors, README)."""


def read_config(folder: Path) -> dict[str, Any]:
    """``config.json``. Raises ModelError when the folder has none or it is no JSON object."""
    path = folder / "config.json"
    if not path.is_file():
        raise ModelError(
            f"{folder.name!r} is no model folder", why="it has no config.json", fix="name the folder that holds config.json"
        )
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(f"config.json of {folder.name!r} cannot be read", why=str(error)) from error
    if not isinstance(config, dict):
        raise ModelError(f"config.json of {folder.name!r} holds no JSON object")
    return config


def weight_files(folder: Path, allow_pickle: bool = False) -> list[Path]:
    """The weight files that a loader would read, by name. Raises ModelError when there are none that may be read."""
    index = _read_index(folder)
    if index is not None:
        return [folder / name for name in sorted(set(index.values()))]
    found = sorted(path for path in folder.glob("*.safetensors") if not path.name.startswith(("consolidated", "adapter_model")))
    if found:
        return found
    if (folder / NPZ).is_file():
        return [folder / NPZ]
    pickles = sorted(folder.glob("pytorch_model*.bin"))
    if pickles and allow_pickle:
        return pickles
    if pickles:
        why = "its weights are pickle files, which can run code when they are read"
        raise ModelError(
            f"{folder.name!r} has no safetensors weights", why=why, fix="?allow_pickle=true, if you trust where it is from"
        )
    raise ModelError(
        f"{folder.name!r} holds no weights", why="there is no *.safetensors file beside config.json", fix="download it again"
    )


def check(folder: Path, allow_pickle: bool = False) -> None:
    """Raises ModelError for a missing shard, a truncated or corrupt safetensors file, or a tensor the index promises."""
    read_config(folder)
    index = _read_index(folder)
    held: dict[str, set[str]] = {}
    for path in weight_files(folder, allow_pickle):
        if not path.is_file():
            raise ModelError(
                f"weight file {path.name} is missing", why="model.safetensors.index.json names it", fix="download the model again"
            )
        if path.suffix == ".safetensors":
            held[path.name] = check_safetensors(path)
        elif path.suffix == ".npz":
            held[path.name] = set(npz_tensors(path))
    for tensor, file in (index or {}).items():
        if tensor not in held.get(file, ()):
            raise ModelError(f"weight {tensor!r} is missing from {file}", why="model.safetensors.index.json says it is there")


def check_safetensors(path: Path) -> set[str]:
    """The tensor names in a safetensors file, after comparing its header with its size. Reads the header only.

    Format: 8 bytes little-endian header length, the JSON header, then the tensors' bytes without gaps.
    """
    size = path.stat().st_size
    fix = "download or export the file again"
    with open(path, "rb") as file:
        start = file.read(8)
        if start.startswith(b"version "):
            raise ModelError(f"{path.name} is a Git LFS pointer, not the weights", why=f"it has {size} bytes", fix="git lfs pull")
        length = struct.unpack("<Q", start)[0] if len(start) == 8 else -1
        if not 0 < length <= min(LARGEST_HEADER, size):
            raise ModelError(
                f"weight file {path.name} is truncated or no safetensors file", why=f"{size:,} bytes, no whole header", fix=fix
            )
        try:
            header = json.loads(file.read(length))
            tensors = {name: entry["data_offsets"] for name, entry in header.items() if name != "__metadata__"}
            end = max((int(last) for _, last in tensors.values()), default=0)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ModelError(f"weight file {path.name} has a corrupt header", why=str(error)[:200], fix=fix) from error
    expected = 8 + length + end
    if size != expected:
        problem = "truncated" if size < expected else "longer than its header says"
        raise ModelError(f"weight file {path.name} is {problem}", why=f"{size:,} bytes instead of {expected:,}", fix=fix)
    return set(tensors)


def dtypes(path: Path) -> dict[str, str]:
    """Name -> type as safetensors names it (``F32``, ``I8``, ...) of a checked .safetensors or .npz file; of a pickle nothing is known."""
    if path.suffix == ".npz":
        kinds = {"f": "F", "i": "I", "u": "U", "b": "BOOL"}
        return {name: f"{kinds.get(kind[1], 'V')}{8 * int(kind[2:])}" for name, (kind, _) in npz_tensors(path).items()}
    if path.suffix != ".safetensors":
        return {}
    with open(path, "rb") as file:
        header = json.loads(file.read(struct.unpack("<Q", file.read(8))[0]))
    return {name: entry["dtype"] for name, entry in header.items() if name != "__metadata__"}


def npz_tensors(path: Path) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Name -> (numpy dtype, shape) of an .npz file's arrays, from their headers. Raises ModelError for a damaged file, and for an
    array of Python objects, which can only be read by running what is pickled in it."""
    import zipfile

    from numpy.lib import format as npy

    fix = "download or convert the file again"
    found: dict[str, tuple[str, tuple[int, ...]]] = {}
    try:
        with zipfile.ZipFile(path) as archive:
            for entry in archive.infolist():
                with archive.open(entry) as file:
                    version = npy.read_magic(file)
                    read = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
                    shape, _, dtype = read(file)
                name = entry.filename.removesuffix(".npy")
                if dtype.hasobject:
                    raise ModelError(
                        f"weight {name!r} in {path.name} holds Python objects",
                        why="they are pickled, and reading them can run code",
                        fix=fix,
                    )
                if entry.compress_type == zipfile.ZIP_STORED and entry.file_size < dtype.itemsize * math.prod(shape):
                    raise ModelError(f"weight {name!r} in {path.name} is truncated", why=f"{entry.file_size:,} bytes", fix=fix)
                found[name] = (dtype.str, tuple(shape))
    except (zipfile.BadZipFile, ValueError, EOFError, OSError, NotImplementedError) as error:
        raise ModelError(f"weight file {path.name} is truncated or no .npz file", why=str(error)[:200], fix=fix) from error
    return found


def identify(folder: Path, allow_pickle: bool = False) -> dict[str, Any]:
    """``weights`` and ``config`` (SHA-256 over names and contents), ``format``, ``size_bytes``, ``architecture``, ``quantisation``."""
    check(folder, allow_pickle)
    config = read_config(folder)
    files = weight_files(folder, allow_pickle)
    settings = [
        path
        for path in sorted(folder.iterdir())
        if path.is_file()
        and path.suffix in SETTINGS_SUFFIXES
        and path.name.lower() not in IGNORED_SETTINGS
        and not path.name.startswith(".")
    ]
    return {
        "weights": of_json([[path.name, file_hash(path)] for path in files]),
        "config": of_json([[path.name, of_file(path)] for path in settings]),
        "format": {".safetensors": "safetensors", ".npz": "npz"}.get(files[0].suffix, "pickle"),
        "size_bytes": sum(path.stat().st_size for path in files),
        "architecture": config.get("model_type") or ("whisper" if is_dimensions(config) else None),
        "quantisation": describe_quantisation(config),
    }


def describe_quantisation(config: dict[str, Any]) -> str | None:
    """``"4-bit, groups of 64, affine"`` for MLX's own, the method's name for others, None for plain weights."""
    mlx = config.get("quantization")
    if isinstance(mlx, dict) and "bits" in mlx:
        return f"{mlx['bits']}-bit, groups of {mlx.get('group_size')}, {mlx.get('mode', 'affine')}"
    other = config.get("quantization_config") or (config.get("text_config") or {}).get("quantization_config")
    return str(other.get("quant_method", "unknown method")) if isinstance(other, dict) else None


def file_hash(path: Path) -> str:
    """SHA-256 of a weight file, remembered by path, size and modification time in the user's cache.

    In the hub's cache a file is a link to a blob named by its SHA-256, which is taken as it is.
    """
    target = path.resolve()
    if target.parent.name == "blobs" and re.fullmatch(r"[0-9a-f]{64}", target.name):
        return target.name
    status = target.stat()
    note = _cache_folder() / f"{of_json([str(target), status.st_size, status.st_mtime_ns], 32)}.sha256"
    with contextlib.suppress(OSError):
        text = note.read_text().strip()
        if re.fullmatch(r"[0-9a-f]{64}", text):
            return text
    value = of_file(target)
    with contextlib.suppress(OSError):
        note.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile("w", dir=note.parent, delete=False) as file:
            file.write(value)
        os.replace(file.name, note)
    return value


def _cache_folder() -> Path:
    root = os.environ.get("WORKBENCH_CACHE") or os.environ.get("XDG_CACHE_HOME")
    base = Path(root) if root else Path(os.path.expanduser("~")) / ".cache"
    return base / "workbench" / "weight-hashes"


def _read_index(folder: Path) -> dict[str, str] | None:
    path = folder / "model.safetensors.index.json"
    if not path.is_file():
        return None
    try:
        weight_map = json.loads(path.read_text(encoding="utf-8"))["weight_map"]
        return {str(tensor): Path(str(file)).name for tensor, file in weight_map.items()}
    except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
        raise ModelError(
            f"{path.name} cannot be read", why=f"{type(error).__name__}: {error}", fix="download the model again"
        ) from error
