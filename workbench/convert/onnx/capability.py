"""What TensorRT's own parser says of a graph, asked as Polygraphy's ``inspect capability`` asks, where both are installed.

    capability_of(Path("step.onnx"))     # None without TensorRT; {"ok": False, "errors": [{"op": "Unique", "node": ..., "words": ...}], ...}

It parses, and builds nothing: what it finds is a fact of the TensorRT that is installed, and stands beside the verdict of the table.
Source: NVIDIA/TensorRT tools/Polygraphy/polygraphy/tools/inspect/subtool/capability.py at a892d22.
"""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

MOST = 50


def capability_of(path: str | Path) -> dict[str, Any] | None:
    """None where TensorRT or Polygraphy is not installed, or TensorRT's libraries do not load."""
    if find_spec("tensorrt") is None or find_spec("polygraphy") is None:
        return None
    try:
        import tensorrt
        from polygraphy.backend.trt import create_network, get_trt_logger
    except (ImportError, OSError):
        return None
    return parsed(path, tensorrt, create_network, get_trt_logger)


def parsed(path: str | Path, tensorrt: Any, create_network: Any, get_trt_logger: Any) -> dict[str, Any]:
    """``create_network()`` gives (builder, network); a strongly typed one is what TensorRT 11 has, and what is asked for from 10."""
    try:
        builder, network = create_network(strongly_typed=True)
    except TypeError:  # a Polygraphy that knows no other kind
        builder, network = create_network()
    parser = tensorrt.OnnxParser(network, get_trt_logger())
    ok = bool(parser.parse(Path(path).read_bytes(), str(path)))
    errors = [parser.get_error(number) for number in range(parser.num_errors)]
    del builder
    return {
        "tensorrt": str(tensorrt.__version__),
        "polygraphy": _version("polygraphy"),
        "ok": ok,
        "errors": [{"op": error.node_operator(), "node": error.node_name(), "words": str(error)[:500]} for error in errors[:MOST]],
        "error_count": len(errors),
    }


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
