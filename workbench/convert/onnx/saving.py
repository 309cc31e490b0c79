"""Write graphs so that the same model is the same bytes, with one file of weights for all of a model's stages.

    save({"prefill": model, "step": other}, Path("folder"))      # prefill.onnx, step.onnx, weights.data

A tensor's contents are in ``weights.data`` once, whichever stages and names hold them: a prefill and a step share all of theirs. Whatever
is small stays in the graph itself, where shape inference and TensorRT's parser look for it. Since weights are outside, no size limit of
protobuf (2 GiB) is met. Nothing of the machine that wrote a file is in it.
"""

from __future__ import annotations

import errno
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workbench import __version__

if TYPE_CHECKING:
    import onnx_ir

WEIGHTS = "weights.data"
SMALL = 1024
"""Bytes; a tensor of fewer stays in the graph: shapes, axes, scalars, biases of small layers."""
PAGE, LINE = 4096, 64
"""Contents begin at a multiple of these: of a page for a mebibyte or more, so that a runtime can map them."""
RANGES = "workbench.ranges"
"""Metadata that is kept: JSON ``{size: [least, typical, most]}`` of the sizes that vary."""


def save(models: Mapping[str, onnx_ir.Model], folder: Path) -> dict[str, Path]:
    """Stage -> its file, written anew; ``weights.data`` beside them where any stage holds a tensor that is not small.

    Afterwards the models' weights are on the disk and not in memory. Raises OSError where the disk does not take them.
    """
    import onnx_ir

    with _Weights(folder) as weights:
        for model in models.values():
            for value in [*model.graph.initializers.values()]:
                tensor = value.const_value
                if tensor is None or tensor.nbytes < SMALL or tensor.dtype == onnx_ir.DataType.STRING:
                    continue
                value.const_value = weights.put(value.name, tensor)
    paths = {}
    for name, model in models.items():
        proto = onnx_ir.to_proto(model)
        clean(proto)
        proto.graph.name = name
        paths[name] = folder / f"{name}.onnx"
        write(proto, paths[name])
    return paths


def write(proto: Any, path: Path) -> None:
    """The same bytes for the same model: maps are in one order."""
    path.write_bytes(proto.SerializeToString(deterministic=True))


def clean(proto: Any) -> None:
    """Take away what a file is not to hold: notes of the exporter (with the paths of source files), documentation, who wrote it."""
    kept = [each.value for each in proto.metadata_props if each.key == RANGES]
    proto.producer_name, proto.producer_version = "parity-workbench", __version__
    _clean(proto)
    for function in proto.functions:
        _clean(function)
        _clean_nodes(function.node)
    _clean_graph(proto.graph)
    for value in kept:
        proto.metadata_props.add(key=RANGES, value=value)


def _clean_graph(graph: Any) -> None:
    _clean(graph)
    for each in [*graph.input, *graph.output, *graph.value_info, *graph.initializer]:
        _clean(each)
    _clean_nodes(graph.node)


def _clean_nodes(nodes: Any) -> None:
    for node in nodes:
        _clean(node)
        for attribute in node.attribute:
            attribute.ClearField("doc_string")
            for graph in [*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs]:
                _clean_graph(graph)


def _clean(message: Any) -> None:
    for field in ("doc_string", "metadata_props"):
        message.ClearField(field)


def set_ranges(model: onnx_ir.Model, ranges: Mapping[str, tuple[int, int, int]]) -> None:
    """Say the least, typical and most of every size that varies, for optimisation profiles."""
    if ranges:
        model.metadata_props[RANGES] = json.dumps({name: list(three) for name, three in sorted(ranges.items())})


class _Weights:
    """``weights.data``, appended to; the file appears with the first tensor."""

    def __init__(self, folder: Path):
        self.folder, self.file, self.end = folder, None, 0
        self.places: dict[tuple[str, int], int] = {}

    def __enter__(self) -> _Weights:
        return self

    def __exit__(self, *raised: Any) -> None:
        if self.file is not None:
            self.file.close()

    def put(self, name: str, tensor: Any) -> onnx_ir.ExternalTensor:
        import onnx_ir

        content = tensor.tobytes()
        key = (hashlib.sha256(content).hexdigest(), len(content))
        if key not in self.places:
            self.places[key] = self._append(content)
        return onnx_ir.ExternalTensor(
            location=WEIGHTS,
            offset=self.places[key],
            length=len(content),
            dtype=tensor.dtype,
            shape=tensor.shape,
            name=name,
            base_dir=self.folder,
        )

    def _append(self, content: bytes) -> int:
        if self.file is None:
            self.file = open(self.folder / WEIGHTS, "wb")  # noqa: SIM115 (closed by __exit__)
        step = PAGE if len(content) >= 2**20 else LINE
        start = -(-self.end // step) * step
        written = self.file.write(bytes(start - self.end)) + self.file.write(content)
        if written != start - self.end + len(content):
            raise OSError(errno.ENOSPC, "not all of the weights were written")
        self.end = start + len(content)
        return start
