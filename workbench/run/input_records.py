"""Input records: the arrays a model was given, kept on request (``eval --record inputs``).

Files ``tensors/inputs-<part>.safetensors``; a tensor ``<place>/<array>`` belongs to the item at ``place`` in the header's list.
Floats are float32 and integers int64, as they were hashed. Reading needs numpy and safetensors only::

    for name, arrays in read_inputs(run.tensors, {"validation_Art_1"}):
        arrays["pixel_values"].shape      # (1, 3, 336, 336)
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from workbench.run.journal import write_atomically
from workbench.run.token_records import items_of, next_part, parts_of


def recorded_inputs(folder: Path | None) -> set[str]:
    """The ids of the items whose inputs are kept."""
    return {name for path in parts_of(folder, "inputs") for name, _ in items_of(path)}


def write_inputs(folder: Path, items: Mapping[str, Mapping[str, Any]]) -> Path:
    """Write one part, replaced in one step; parts are numbered on."""
    from safetensors.numpy import save

    folder.mkdir(exist_ok=True)
    arrays = {f"{place}/{name}": array for place, each in enumerate(items.values()) for name, array in each.items()}
    listed = json.dumps([[name, len(each)] for name, each in items.items()])
    path = next_part(folder, "inputs")
    write_atomically(path, save(arrays, {"items": listed}))
    return path


def read_inputs(folder: Path | None, wanted: set[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    """(item id, its arrays by name) for the wanted items, part by part."""
    from safetensors import safe_open

    for path in parts_of(folder, "inputs"):
        places = {str(place): name for place, (name, _) in enumerate(items_of(path)) if name in wanted}
        found: dict[str, dict[str, Any]] = {name: {} for name in places.values()}
        with safe_open(path, framework="numpy") as file:
            for key in file.keys():  # noqa: SIM118  a safetensors file is no mapping
                place, _, array = key.partition("/")
                if place in places:
                    found[places[place]][array] = file.get_tensor(key)
        yield from found.items()
