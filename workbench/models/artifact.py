"""What a model folder holds, weight by weight, without loading it: evidence for the first rung of the parity ladder.

    artifact(folder)["tensors"]["lm_head.weight"]
    # {"dtype": "F32", "shape": [680, 128], "hash": "5c1e...", "sampled": False, "rms": 0.0412}

Only safetensors headers and the weights' bytes are read. Weights above ``WHOLE`` bytes are sampled: their first, middle
and last blocks. A whole file's hash stands in the run key, so nothing rests on the sample alone.
"""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

from workbench.fingerprint import of_file
from workbench.models import checkpoint
from workbench.models.converted import Converted, is_converted

WHOLE = 16 * 2**20
BLOCK = 2**20
LARGEST_SETTING = 64 * 2**10
SETTINGS = ("config.json", "generation_config.json", "preprocessor_config.json", "processor_config.json", "tokenizer_config.json")
FLOATS = {"F64": "<f8", "F32": "<f4", "F16": "<f2"}


def artifact(folder: Path, allow_pickle: bool = False) -> dict[str, Any]:
    """``{"bytes", "files", "tensors", "quantisation", "settings"}`` of a model folder; no path above its own files appears.

    A converted model's weights are those of its programs (``converted_weights``). Raises ModelError as ``checkpoint.weight_files`` does.
    """
    if is_converted(folder):
        from workbench.models.converted_weights import converted_artifact

        return converted_artifact(Converted(folder), dict(read_settings(folder)))
    weights = checkpoint.weight_files(folder, allow_pickle)
    tensors: dict[str, dict[str, Any]] = {}
    for path in weights:
        if path.suffix == ".safetensors":
            tensors |= dict(read_tensors(path))
        elif path.suffix == ".npz":
            tensors |= dict(read_npz(path))
    config = checkpoint.read_config(folder)
    return {
        "bytes": sum(path.stat().st_size for path in weights),
        "files": [{"name": path.name, "bytes": path.stat().st_size, "hash": checkpoint.file_hash(path)[:32]} for path in weights],
        "tensors": tensors,
        "quantisation": config.get("quantization") or config.get("quantization_config"),
        **packed(tensors),
        "settings": dict(read_settings(folder)),
    }


def read_tensors(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Name, dtype, shape, hash and root mean square of every tensor in a safetensors file, in the file's order."""
    with open(path, "rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        header = json.loads(file.read(length))
        start = 8 + length
        entries = [(entry["data_offsets"], name, entry) for name, entry in header.items() if name != "__metadata__"]
        for (first, last), name, entry in sorted(entries, key=lambda each: each[0][0]):
            data, sampled = read_bytes(file, start + first, last - first)
            yield name, described(data, entry["dtype"], entry["shape"], sampled)


def read_npz(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """The same of an .npz file, its arrays whole; a type is named as safetensors names it. Pickled arrays are refused."""
    import numpy

    checkpoint.npz_tensors(path)
    with numpy.load(path, allow_pickle=False) as arrays:
        for name in arrays.files:
            value = arrays[name]
            dtype = f"{value.dtype.kind.upper()}{value.dtype.itemsize * 8}"
            yield name, described(numpy.ascontiguousarray(value).tobytes(), dtype, list(value.shape), False)


def described(data: bytes, dtype: str, shape: list[int], sampled: bool) -> dict[str, Any]:
    """A weight's entry. ``half`` and ``single``: the hash that its values have in float16 and in float32, where it is stored in the other
    and not sampled, so that a copy in another precision can be told to be one."""
    found = {
        "dtype": dtype,
        "shape": shape,
        "hash": hashlib.sha256(data).hexdigest()[:16],
        "sampled": sampled,
        "rms": root_mean_square(data, dtype),
    }
    if dtype == "F32" and not sampled:
        found["half"] = hash_as(data, dtype, "<f2")
    if dtype in ("F16", "BF16") and not sampled:
        found["single"] = hash_as(data, dtype, "<f4")
    return found


def hash_as(data: bytes, dtype: str, wanted: str) -> str:
    import numpy

    with numpy.errstate(over="ignore"):
        return hashlib.sha256(floats_of(data, dtype).astype(wanted).tobytes()).hexdigest()[:16]


def floats_of(data: bytes, dtype: str) -> Any:
    """The values; bfloat16, which numpy has not, as float32."""
    import numpy

    if dtype == "BF16":
        return (numpy.frombuffer(data, dtype="<u2").astype(numpy.uint32) << 16).view(numpy.float32)
    return numpy.frombuffer(data, dtype=FLOATS[dtype])


def packed(tensors: Mapping[str, Any]) -> dict[str, list[str]]:
    """``{"quantised": [...], "plain": [...]}``: the weights stored as packed integers with MLX's scales, and all others; empty when
    none is packed."""
    layers = {name.removesuffix(".scales") for name in tensors if name.endswith(".scales")}
    names = sorted(f"{layer}.weight" for layer in layers if f"{layer}.weight" in tensors)
    if not names:
        return {}
    beside = {f"{layer}.{each}" for layer in layers for each in ("scales", "biases")}
    return {"quantised": names, "plain": sorted(name for name in tensors if name not in names and name not in beside)}


def read_bytes(file: BinaryIO, start: int, size: int) -> tuple[bytes, bool]:
    """(a tensor's bytes, False), or (its first, middle and last blocks, True) when it is large. Blocks keep to 8-byte steps."""
    if size <= WHOLE:
        file.seek(start)
        return file.read(size), False
    pieces = []
    for place in (0, (size // 2) // 8 * 8, (size - BLOCK) // 8 * 8):
        file.seek(start + place)
        pieces.append(file.read(BLOCK))
    return b"".join(pieces), True


def root_mean_square(data: bytes, dtype: str) -> float | None:
    """Of floating-point weights; None for packed integers."""
    import numpy

    if dtype != "BF16" and dtype not in FLOATS:
        return None
    values = floats_of(data, dtype)
    value = float(numpy.sqrt(numpy.mean(values.astype(numpy.float64) ** 2))) if values.size else 0.0
    return value if numpy.isfinite(value) else None


def read_settings(folder: Path) -> Iterator[tuple[str, Any]]:
    """The folder's settings files as JSON, so that a differing field can be named; larger ones by their hash."""
    for name in SETTINGS:
        path = folder / name
        if path.is_file():
            if path.stat().st_size > LARGEST_SETTING:
                yield name, {"hash": of_file(path)[:32]}
                continue
            try:
                yield name, json.loads(path.read_text(encoding="utf-8"))
            except (ValueError, RecursionError):
                yield name, {"hash": of_file(path)[:32]}
