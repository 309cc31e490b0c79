"""Which values of a converted program are which layers: its manifest's, what goes into the first block of a tower, and what rounds there.

    layers = stage_layers(converted.stages["prefill"], ["*.block.#", "*.input"])
    layers["text.block.3"].value, layers["text.block.3"].origin      # "add_14", {"op": "add", "module": "...", "line": "..."}

Only the program's graph is read, no weight and no runtime.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from workbench.capture import names
from workbench.capture.stage_graph import StageGraph, stage_graph
from workbench.models.converted import ConvertedStage
from workbench.models.layer_names import BLOCKS


@dataclass(frozen=True)
class StageLayer:
    """``value``: its name in the program. ``origin``: where torch computes it, as the manifest says. ``half``: does it depend on a value in
    float16, a state's say, whatever its own type?"""

    name: str
    stage: str
    value: str
    origin: Mapping[str, Any]
    half: bool

    @property
    def path(self) -> str:
        return f"{self.stage}/{self.value}"

    @property
    def where(self) -> dict[str, Any]:
        """What a record says of its origin."""
        return {"stage": self.stage, "value": self.value, **{name: self.origin.get(name) for name in ("op", "module", "line")}}


def known_layers(stage: ConvertedStage) -> dict[str, StageLayer]:
    """By layer, in order of execution; values that no input reaches are left out: they are constants."""
    graph = stage_graph(stage)
    wanted = {**stage.layers, **first_inputs(stage, graph)}
    found = {}
    for name, value in sorted(wanted.items(), key=lambda each: graph.order.get(each[1], -1)):
        if value in graph.order:
            found[name] = StageLayer(name, stage.name, value, stage.origins.get(value) or {}, value in graph.half)
    return found


def stage_layers(stage: ConvertedStage, patterns: Sequence[str]) -> dict[str, StageLayer]:
    """The layers whose name, or the path of whose module, matches one of ``patterns``."""
    return {
        name: layer
        for name, layer in known_layers(stage).items()
        if names.matches(name, patterns) or names.matches(str(layer.origin.get("module") or name), patterns)
    }


def first_inputs(stage: ConvertedStage, graph: StageGraph) -> dict[str, str]:
    """``{"text.input": value}``: what the first op of a tower's first block reads. Torch's captures have it as the block's input."""
    found = {}
    for name in stage.layers:
        stack, first, rest = name.rpartition(".block.")
        module = block_of(str((stage.origins.get(stage.layers[name]) or {}).get("module") or ""))
        if not first or rest != "0" or module is None:
            continue
        for op in graph.ops:
            origins = [stage.origins.get(result) for result, _ in op.results]
            inside = [str(origin.get("module") or "") for origin in origins if origin]
            if any(f"{each}.".startswith(f"{module}.") for each in inside):
                value = next((each for each in op.reads if each in graph.order), None)
                if value is not None:
                    found[f"{stack}.input"] = value
                break
    return found


def block_of(module: str) -> str | None:
    """``model.layers.0`` of ``model.layers.0.mlp``; None outside of a first block."""
    parts = module.split(".")
    for place in range(len(parts) - 1):
        if parts[place] in BLOCKS and parts[place + 1] == "0":
            return ".".join(parts[: place + 2])
    return None
