"""Looking into an engine: its layers, values inside it, and other weights for it.

    dump(engine, context, api)["Layers"][0]                      # what the builder made of the graph
    mark_debug(network, ["encoder.layers.0"])                    # before the build
    listener = Listener(api, device, ["encoder.layers.0"])       # at the run: listener.found()
    refit(engine, "other.onnx", api)                             # the same graph with other weights

A value that is marked is one that the builder may not fuse away, so an engine that is looked into is another engine: its numbers are the
device's, its speed is not the engine's that answers.
"""

from __future__ import annotations

import ctypes
import json
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from workbench.backends.tensorrt_api import Api, ICudaEngine, IExecutionContext, INetworkDefinition, worst
from workbench.backends.tensorrt_arrays import as_numpy, shaped, type_of
from workbench.errors import ModelError, UsageError


def dump(engine: ICudaEngine, context: IExecutionContext | None, api: Api) -> dict[str, Any]:
    """What the inspector says of the engine: ``{"Layers": [...], "Bindings": [...]}``, with the shapes of ``context`` where given.

    Layers are mappings (``Name``, ``LayerType``, ``Inputs``, ``Outputs``, ``TacticName``) of an engine that was built to tell, else names.
    Raises ModelError where it says nothing that can be read.
    """
    inspector = engine.create_engine_inspector()
    if context is not None:
        inspector.execution_context = context
    with api.listening() as messages:
        text = inspector.get_engine_information(api.module.LayerInformationFormat.JSON)
    try:
        found = json.loads(text)
    except (TypeError, ValueError) as error:
        raise ModelError("TensorRT tells nothing about this engine", why=worst(messages) or f"{error}") from error
    if not isinstance(found, dict) or not isinstance(found.get("Layers"), list):
        raise ModelError("TensorRT tells nothing about this engine's layers", why=worst(messages) or f"it gave {text[:80]!r}")
    return found


def tensors_of(network: INetworkDefinition) -> dict[str, Any]:
    """What the layers of a network put out, by name."""
    found: dict[str, Any] = {}
    for index in range(network.num_layers):
        layer = network.get_layer(index)
        for place in range(layer.num_outputs):
            tensor = layer.get_output(place)
            if tensor is not None:
                found.setdefault(tensor.name, tensor)
    return found


def mark_debug(network: INetworkDefinition, names: Iterable[str]) -> None:
    """Mark values of a parsed graph, so that an engine built of it can tell them. Raises ModelError naming those it does not compute."""
    wanted, there = list(dict.fromkeys(names)), tensors_of(network)
    lost = [name for name in wanted if name not in there or not network.mark_debug(there[name])]
    if lost:
        raise ModelError(
            f"value {lost[0]!r} of the graph cannot be observed in an engine",
            why=f"{len(lost)} of {len(wanted)} names are no values that TensorRT's parser made a tensor of",
            fix="?executor=reference",
        )


class Listener:
    """The values that an engine tells while it runs; ``native`` is what the runtime is given, and keeps. ``clear()`` before each call.

    Content is there only while the runtime waits for the callback to return (NVIDIA/TensorRT include/NvInferRuntime.h at a892d22,
    ``processDebugTensor``), so it is copied and waited for inside.
    """

    def __init__(self, api: Api, device: Any, names: Sequence[str]):
        self.api, self.device, self.names = api, device, tuple(names)
        self.seen: dict[str, np.ndarray] = {}
        self.error: Exception | None = None
        base, listener = api.module.IDebugListener, self

        class Native(base):  # type: ignore[misc, valid-type]
            def __init__(self):
                base.__init__(self)

            def process_debug_tensor(self, addr: int, location: Any, type: Any, shape: Any, name: str, stream: int) -> bool:
                return listener._told(addr, location, type, tuple(int(size) for size in shape), name, stream)

        self.native = Native()

    def _told(self, address: int, location: Any, trt_type: Any, shape: tuple[int, ...], name: str, stream: int) -> bool:
        try:
            self.device.synchronize(stream)  # it may be one of the engine's own
            kind, _ = type_of(trt_type, name)
            size_bytes = math.prod(shape) * kind.itemsize
            if location == self.api.module.TensorLocation.HOST:
                self.seen[name] = _of_host(address, size_bytes, kind, shape)
                return True
            copied = self.device.host(size_bytes)
            if size_bytes:
                self.device.copy(copied[:size_bytes], self.device.view(address, size_bytes))
            self.device.synchronize()
            self.seen[name] = as_numpy(shaped(copied, kind, shape))
        except Exception as error:  # noqa: BLE001  it crosses a library that would swallow it
            self.error = self.error or error
            return False
        return True

    def clear(self) -> None:
        self.seen, self.error = {}, None

    def attach(self, context: IExecutionContext) -> None:
        """Raises ModelError where the engine was not built to tell one of the values."""
        if not context.set_debug_listener(self.native):
            raise ModelError("the engine takes no listener for the values inside it", fix="?executor=reference")
        refused = [name for name in self.names if not context.set_tensor_debug_state(name, True)]
        if refused:
            raise ModelError(
                f"value {refused[0]!r} of the engine cannot be observed",
                why=f"{len(refused)} names were not marked when it was built",
            )

    def found(self) -> dict[str, np.ndarray]:
        """The values by name. Raises what went wrong meanwhile, and ModelError for values that never came."""
        if self.error is not None:
            raise self.error
        lost = [name for name in self.names if name not in self.seen]
        if lost:
            raise ModelError(
                f"value {lost[0]!r} was never computed",
                why=f"{len(lost)} of {len(self.names)} marked values did not come: they are constants of the engine, or in a branch not taken",
                fix="?executor=reference",
            )
        return {name: self.seen[name] for name in self.names}


def _of_host(address: int, size_bytes: int, kind: Any, shape: tuple[int, ...]) -> np.ndarray:
    import torch

    data = bytearray(ctypes.string_at(address, size_bytes)) if size_bytes else bytearray(1)
    return as_numpy(shaped(torch.frombuffer(data, dtype=torch.uint8), kind, shape))


def refit(engine: ICudaEngine, path: str | Path, api: Api) -> int:
    """Give the engine the weights of another ONNX file of the same graph; returns how many it may exchange.

    Nothing of the engine may be at work. Raises UsageError for an engine that was not built for it, ModelError where weights do not fit,
    and `Torn` where only some of them may have been exchanged.
    """
    if not engine.refittable:
        raise UsageError(
            "this engine keeps the weights it was built with", why="engines are built so unless asked otherwise", fix="?refit=true"
        )
    with api.listening() as messages:
        refitter = api.module.Refitter(engine, api.logger)
        count = len(refitter.get_all_weights())
        parser = api.module.OnnxParserRefitter(refitter, api.logger)
        if not parser.refit_from_file(str(path)):
            errors = [str(parser.get_error(index).desc()) for index in range(parser.num_errors)]
            raise ModelError(
                f"the weights of {Path(path).name} do not fit the engine",
                why="; ".join(errors) or worst(messages) or "TensorRT gave no reason",
                fix="build an engine of this file: leave refit out",
            )
        missing = refitter.get_missing_weights()
        if missing:
            raise ModelError(
                f"{Path(path).name} lacks weights of the engine", why=f"{len(missing)} are missing, {missing[0]!r} among them"
            )
        if not refitter.refit_cuda_engine():
            raise Torn(
                f"the engine could not take the weights of {Path(path).name}",
                why=f"{worst(messages) or 'TensorRT gave no reason'}; some may have been exchanged already",
                fix="open the model again",
            )
    return count


class Torn(ModelError):
    """An engine of which some weights are new and some old; it must not be run."""
