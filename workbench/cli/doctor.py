"""``workbench doctor``: each runtime, here or not, why, and what to type; and what else may stand in the way."""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import sys
from contextlib import suppress
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any

LOW_DISK_BYTES = 2_000_000_000


def add_parser(parsers: Any) -> None:
    parser = parsers.add_parser(
        "doctor", help="what runs here, what does not, why, and what to type", description=__doc__.splitlines()[0]
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def row(name: str, ok: bool, reason: str, fix: str | None = None) -> dict[str, Any]:
    return {"name": name, "ok": ok, "reason": reason, "fix": fix}


def backends() -> list[dict[str, Any]]:
    from workbench.registry import backend_names, get_backend

    rows = []
    for name in backend_names():
        backend = get_backend(name)
        found = backend.available()
        reason = found.reason
        if found.ok:
            try:
                device = backend.device({})
                reason += f"; {device['name']}, evidence: {backend.evidence({})}"
            except Exception as error:  # noqa: BLE001  a broken installation may raise anything, and that is the finding
                found = type(found)(
                    False, f"{found.reason}, but it does not start: {type(error).__name__}: {error}", f"reinstall {name}"
                )
                reason = found.reason
        rows.append(row(name, found.ok, "; ".join([reason, *found.notes]), found.fix))
    return rows


def name_clash() -> dict[str, Any]:
    """Another project on PyPI, named ``workbench``, installs the same import name."""
    try:
        version = metadata.version("workbench")
    except metadata.PackageNotFoundError:
        return row("import name", True, "no other distribution provides 'workbench'")
    fix = "pip uninstall workbench && pip install --force-reinstall --no-deps parity-workbench"
    return row("import name", False, f"the distribution 'workbench' {version} installs the same import name", fix)


def data_library() -> dict[str, Any]:
    try:
        return row("datasets", True, f"Hugging Face datasets {metadata.version('datasets')}")
    except metadata.PackageNotFoundError:
        return row("datasets", False, "Hugging Face datasets is not installed", "pip install datasets")


def programs() -> dict[str, Any]:
    """Which evidence Core ML packages give here: the device's on a Mac; by reference execution, which needs the file format and torch,
    everywhere."""
    found = {}
    for name in ("coremltools", "torch"):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            return row(
                "core ml", False, f"{name} is not installed: packages cannot be checked", "pip install 'parity-workbench[coreml]'"
            )
    with_onnx = "" if find_spec("onnxruntime") else "; no onnxruntime: twins in ONNX need pip install 'parity-workbench[onnx]'"
    said = f"packages by reference execution on torch, coremltools {found['coremltools']}"
    if platform.system() == "Darwin":
        said += "; on this Mac's CPU, GPU and Neural Engine too, with times (evidence: device; host for CPU_ONLY)"
    else:
        said += ": whether a conversion is faithful, without times (evidence: reference; device takes a Mac)"
    return row("core ml", True, said + with_onnx)


def graphs() -> dict[str, Any]:
    """Which evidence typed ONNX graphs give here: by ONNX Runtime on this machine, and as what TensorRT would build."""
    found = {}
    for name in ("onnx", "onnxruntime", "onnxscript"):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            fix = "pip install 'parity-workbench[onnx]'"
            return row("onnx graphs", False, f"{name} is not installed: ONNX graphs are neither made nor run", fix)
    providers = onnx_providers()
    said = f"by ONNX Runtime {found['onnxruntime']} ({', '.join(providers) or 'no provider'}), onnx {found['onnx']}"
    if has_engines():
        said += "; as TensorRT's engines here too (evidence: device)"
    else:
        said += "; as TensorRT would build them by reference, without times (evidence: reference; device takes an NVIDIA GPU and "
        said += "pip install 'parity-workbench[tensorrt]')"
    return row("onnx graphs", True, said)


def onnx_providers() -> list[str]:
    """What the installed ONNX Runtime runs on, as ``?provider=`` names it."""
    from workbench.backends.onnx import PROVIDERS

    try:
        import onnxruntime
    except (ImportError, OSError):
        return []
    here = onnxruntime.get_available_providers()
    return [word for word, (name, _) in PROVIDERS.items() if name in here]


def has_engines() -> bool:
    """Whether a TensorRT engine could be built and run here."""
    from workbench.registry import get_backend

    return get_backend("tensorrt").evidence({}) == "device"


def speech() -> dict[str, Any]:
    """Speech to text needs files read and resampled; on MLX also a library with the models."""
    found: dict[str, str] = {}
    for name in ("soundfile", "soxr", "av", "mlx-whisper", "mlx-audio"):
        with suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    missing = [name for name in ("soundfile", "soxr") if name not in found]
    if missing:
        return row(
            "speech",
            False,
            f"{' and '.join(missing)} not installed: audio cannot be read",
            "pip install 'parity-workbench[speech]'",
        )
    said = [f"audio by {', '.join(f'{name} {found[name]}' for name in ('soundfile', 'soxr', 'av') if name in found)}"]
    if "av" not in found:
        said.append("no av: m4a, aac and webm cannot be read (pip install 'parity-workbench[speech]')")
    libraries = [f"{name} {found[name]}" for name in ("mlx-whisper", "mlx-audio") if name in found]
    if libraries:
        said.append(f"on MLX by {', '.join(libraries)}")
    return row("speech", True, "; ".join(said))


def disk() -> dict[str, Any]:
    free = shutil.disk_usage(Path.cwd()).free
    return row(
        "disk",
        free >= LOW_DISK_BYTES,
        f"{free / 1e9:.1f} GB free for runs in this folder",
        None if free >= LOW_DISK_BYTES else "free some space",
    )


def caches() -> dict[str, Any]:
    home = os.environ.get("HF_HOME") or "~/.cache/huggingface"
    folder = Path(home).expanduser()
    nearest = next(path for path in [folder, *folder.parents] if path.exists())
    writable = os.access(nearest, os.W_OK)
    state = "exists" if folder.exists() else "is made when first needed"
    return row(
        "hub cache",
        writable,
        f"{home} {state}{'' if writable else ', but cannot be written'}",
        None if writable else "export HF_HOME=FOLDER",
    )


def hub() -> dict[str, Any]:
    offline = os.environ.get("HF_HUB_OFFLINE", "").upper() in {"1", "ON", "YES", "TRUE"}
    token = bool(os.environ.get("HF_TOKEN")) or Path("~/.cache/huggingface/token").expanduser().exists()
    reason = "offline by HF_HUB_OFFLINE: only what is in the cache" if offline else "allowed (HF_HUB_OFFLINE is not set)"
    return row("hub", True, f"{reason}; {'a token is set' if token else 'no token (gated models and data need HF_TOKEN)'}")


def plugins() -> list[dict[str, Any]]:
    from workbench.registry import load_plugins

    return [row(f"plugin {name}", False, error, f"pip uninstall or upgrade {name}") for name, error in load_plugins()]


def run(arguments: argparse.Namespace) -> int:
    machine = row(
        "machine", True, f"Python {platform.python_version()}, {platform.system()} {platform.machine()}, {os.cpu_count()} cores"
    )
    rows = {
        "runtimes": backends(),
        "around them": [machine, name_clash(), data_library(), programs(), graphs(), speech(), disk(), caches(), hub(), *plugins()],
    }
    if arguments.json:
        print(json.dumps(rows, ensure_ascii=False))
        return 0
    for title, found in rows.items():
        print(f"{title}:")
        width = max(len(entry["name"]) for entry in found)
        for entry in found:
            print(f"  {'ok' if entry['ok'] else 'no'}  {entry['name']:<{width}}  {entry['reason']}")
            if entry["fix"]:
                print(f"      {'':<{width}}  try: {entry['fix']}")
    if not any(entry["ok"] for entry in rows["runtimes"]):
        print("no runtime is here: scoring and reading runs work, eval does not", file=sys.stderr)
    return 0
