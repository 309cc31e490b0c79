"""Weights from shard to shard under new names: one file after another, never all of them in memory.

    new = plan(saved, layout, config)
    for name in new.files:
        new.write(name, draft / name)

A rule that only renames has the files' headers rewritten and their bytes copied as they are, whatever they mean. A rule that remakes
weights reads them from the mapped files when it uses them, and what it returns is written weight by weight.

Format: 8 bytes little-endian header length, the JSON header, then the weights' bytes without gaps
(https://github.com/huggingface/safetensors, README).
"""

from __future__ import annotations

import json
import os
import re
import shutil
import struct
from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from os.path import commonprefix
from pathlib import Path
from typing import Any, BinaryIO

from workbench.convert.layout import Config, Layout
from workbench.convert.saved import Saved
from workbench.errors import ModelError, RuntimeMissing

PIECE = 16 * 2**20
METADATA = "__metadata__"

Header = dict[str, dict[str, Any]]


@dataclass(frozen=True)
class Place:
    """Where a weight is stored: in which file, under which name there."""

    path: Path
    name: str
    dtype: str
    bytes: int


def renamed(name: str, renames: Sequence[tuple[str, str]]) -> str:
    for pattern, replacement in renames:
        name = re.sub(pattern, replacement, name)
    return name


def places(saved: Saved, renames: Sequence[tuple[str, str]]) -> dict[str, Place]:
    """Every weight by its new name. Raises ModelError when two weights would get the same name, or are there twice."""
    found: dict[str, Place] = {}
    for path in saved.shards:
        for old, entry in read_header(path)[0].items():
            if old == METADATA:
                continue
            name = renamed(old, renames)
            if name in found:
                why = f"{found[name].name!r} and {old!r} would both be named {name!r}"
                raise ModelError(f"the weights of {saved.name!r} cannot be renamed", why=why)
            try:
                first, last = entry["data_offsets"]
                found[name] = Place(path, old, str(entry["dtype"]), last - first)
            except (KeyError, TypeError, ValueError) as error:
                raise ModelError(f"weight file {path.name} has a corrupt header", why=f"{old!r}: {error}"[:200]) from error
    return found


def read_header(path: Path) -> tuple[Header, int]:
    """(the header, where the weights' bytes begin)."""
    with open(path, "rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        return json.loads(file.read(length)), 8 + length


def write_header(file: BinaryIO, header: Mapping[str, Any]) -> None:
    """Padded with spaces, so that the weights begin at a multiple of 8 bytes."""
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    file.write(struct.pack("<Q", len(text)) + text)


class Renamed:
    """The same weights under other names."""

    def __init__(self, saved: Saved, found: Mapping[str, Place]):
        self.saved = saved
        self.files = [path.name for path in saved.shards]
        self.weight_map = {name: place.path.name for name, place in found.items()}
        self.total_bytes = sum(place.bytes for place in found.values())
        self.renamed = sum(name != place.name for name, place in found.items())
        self.remade = 0
        self._names = {(place.path.name, place.name): name for name, place in found.items()}

    def write(self, name: str, target: Path) -> None:
        source = self.saved.folder / name
        header, start = read_header(source)
        after = {METADATA: {"format": "pt", **header.pop(METADATA, {})}}
        after |= {self._names[name, old]: entry for old, entry in header.items()}
        with open(source, "rb") as file, open(target, "xb") as out:
            write_header(out, after)
            file.seek(start)
            shutil.copyfileobj(file, out, PIECE)
            sync(out)


@dataclass
class Made:
    """A weight that a rule returned, as it will be written."""

    name: str
    group: int
    dtype: str
    shape: list[int]
    bytes: int
    unit: int


class Opened(Mapping[str, Any]):
    """New names -> torch tensors that are mapped from the files, and so take no memory of their own until they are changed."""

    def __init__(self, found: Mapping[str, Place]):
        self._found = found
        self._files: dict[Path, Any] = {}
        self._given: dict[str, Any] = {}

    def __getitem__(self, name: str) -> Any:
        if name not in self._given:
            place = self._found[name]
            if place.path not in self._files:
                from safetensors import safe_open

                self._files[place.path] = safe_open(str(place.path), framework="pt")
            self._given[name] = self._files[place.path].get_tensor(place.name)
        return self._given[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._found)

    def __len__(self) -> int:
        return len(self._found)

    def is_as_given(self, name: str, tensor: Any) -> bool:
        """Whether a rule returned the weight untouched."""
        return self._given.get(name) is tensor and tensor._version == 0


class Remade:
    """What a rule's ``weights`` makes: called once to plan, and again to write, a group at a time; the last group's result is kept.

    A weight goes into the file that held it, a new one into the file of the weight whose name is most like its own.
    """

    def __init__(self, saved: Saved, found: Mapping[str, Place], layout: Layout, config: Config):
        self.saved, self.config, self._rule = saved, config, layout.weights
        self._groups = _grouped(found, layout.together)
        self._last: tuple[int, dict[str, Any], Opened] = (-1, {}, Opened({}))
        self._dtypes: dict[Any, str] = {}
        given = Opened(found)
        for name, place in found.items():
            if place.dtype not in self._dtypes.values():
                self._dtypes[given[name].dtype] = place.dtype
        nearest = _Nearest(found)
        self._made: dict[str, list[Made]] = {path.name: [] for path in saved.shards}
        self.weight_map: dict[str, str] = {}
        self.remade = 0
        for number in range(len(self._groups)):
            for name, tensor in self._outputs(number).items():
                if name in self.weight_map:
                    raise self._wrong(f"it makes {name!r} twice")
                file = nearest.file(name)
                self.weight_map[name] = file
                self._made[file].append(self._described(name, number, tensor))
                self.remade += not self._last[2].is_as_given(name, tensor)
        self.files = [name for name, made in self._made.items() if made]
        self.total_bytes = sum(each.bytes for made in self._made.values() for each in made)
        self.renamed = sum(name != place.name for name, place in found.items() if name in self.weight_map)

    def _wrong(self, why: str) -> ModelError:
        return ModelError(f"the layout rule for {self.config.get('model_type')!r} cannot convert {self.saved.name!r}", why=why)

    def _outputs(self, number: int) -> dict[str, Any]:
        if self._last[0] != number:
            given = Opened(self._groups[number])  # mapped anew: a rule may have changed what it was given before
            self._last = (-1, {}, given)
            try:
                self._last = (number, dict(self._rule(given, self.config)), given)
            except (KeyError, IndexError, TypeError, ValueError, RuntimeError, AttributeError) as error:
                raise self._wrong(f"{type(error).__name__}: {error}"[:300]) from error
        return self._last[1]

    def _described(self, name: str, group: int, tensor: Any) -> Made:
        dtype = self._dtypes.get(getattr(tensor, "dtype", None))
        if dtype is None:
            raise self._wrong(f"{name!r} has the type {getattr(tensor, 'dtype', type(tensor).__name__)}, which no weight had")
        unit = tensor.element_size()
        return Made(name, group, dtype, list(tensor.shape), tensor.numel() * unit, unit)

    def write(self, name: str, target: Path) -> None:
        made = sorted(self._made[name], key=lambda each: (-each.unit, each.group))  # wider types first keeps all of them aligned
        header: dict[str, Any] = {METADATA: {"format": "pt"}}
        end = 0
        for each in made:
            header[each.name] = {"dtype": each.dtype, "shape": each.shape, "data_offsets": [end, end + each.bytes]}
            end += each.bytes
        with open(target, "xb") as out:
            write_header(out, header)
            for each in made:
                out.write(_bytes_of(self._outputs(each.group)[each.name]))
            sync(out)


def plan(saved: Saved, layout: Layout, config: Config) -> Renamed | Remade:
    """The new weight files; nothing is written yet. ``config`` is the published one. Raises ModelError, RuntimeMissing."""
    found = places(saved, layout.renames)
    if layout.weights is None:
        return Renamed(saved, found)
    try:
        import torch  # noqa: F401
    except ImportError as error:
        raise RuntimeMissing(
            f"the weights of {saved.name!r} cannot be remade",
            why="torch is not installed",
            fix="pip install 'parity-workbench[torch]'",
        ) from error
    return Remade(saved, found, layout, config)


def sync(file: BinaryIO) -> None:
    file.flush()
    os.fsync(file.fileno())


def _grouped(found: Mapping[str, Place], together: str | None) -> list[dict[str, Place]]:
    groups: dict[str | None, dict[str, Place]] = {}
    for name, place in found.items():
        match = re.search(together, name) if together else None
        groups.setdefault(match.group() if match else None, {})[name] = place
    return list(groups.values())


class _Nearest:
    """The file of the weight whose name begins most like a given one."""

    def __init__(self, found: Mapping[str, Place]):
        self._found, self._names = found, sorted(found)

    def file(self, name: str) -> str:
        if name in self._found:
            return self._found[name].path.name
        place = bisect_left(self._names, name)
        around = self._names[max(0, place - 1) : place + 1]
        return self._found[max(around, key=lambda each: len(commonprefix([each, name])))].path.name


def _bytes_of(tensor: Any) -> memoryview | bytes:
    import torch

    if tensor.numel() == 0:
        return b""
    return memoryview(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
