"""The passes of one capture over one input: the model as it is, in further precisions, on a reference's activations, and with another
last token (the causality probe)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from workbench.capture import names
from workbench.capture.accumulate import Accumulating, Swapping
from workbench.capture.hooks import is_torch, module_paths, tapped
from workbench.capture.inputs import Item
from workbench.capture.precision import MORE_EXACT, in_precision
from workbench.errors import ItemError, ModelError, RuntimeMissing, UsageError
from workbench.metrics.drift import alignable
from workbench.models.answering import is_memory_error, memory_error
from workbench.models.processors import Prepared
from workbench.models.seen import as_arrays, seen
from workbench.run.bundle import Run
from workbench.run.layer_records import LOCALISED, PRECISIONS, LayerRecords, Record
from workbench.run.token_records import TokenRecord, record_of

LOGITS = "logits"
POSITIONS = 128
"""Positions worked on at a time: with a large vocabulary all of them, in float64, would take gigabytes."""
SHARE = 0.5
"""Of the device's memory that the weights may take in a further precision before it is left out."""


@dataclass
class Made:
    """What one input gave: ``records`` by pass and layer, ``tokens`` for rung 4, ``causality`` ({"moved", "largest"} of the logits)."""

    seen: dict[str, Any]
    arrays: dict[str, Any]
    records: dict[str, dict[str, Record]]
    tokens: TokenRecord | None
    causality: dict[str, float] | None


class Model:
    """An opened model of ``family``, its layers by name, and its precision. Raises UsageError for one that has no modules to look into."""

    def __init__(self, opened: Any, family: str):
        self.opened, self.module = opened, getattr(opened, "model", None)
        if self.module is None or not hasattr(opened, "logits"):
            raise UsageError("this model cannot be looked into", why="its layers are not modules in this process")
        self.torch = is_torch(self.module)
        self.known = names.names_of(module_paths(self.module), names.RENAMES.get(family, ()))

    @cached_property
    def dtype(self) -> str:
        """The precision of the weights; of several the coarsest."""
        said = str(self.opened.describe()["dtype"]).replace(" ", "").split(",")
        return next((each for each in reversed(PRECISIONS) if each in said), said[0])

    @cached_property
    def image_tokens(self) -> set[int]:
        """Ids that stand for pieces of an image: nothing predicts them."""
        config = getattr(self.module, "config", None)
        fields = ("image_token_id", "image_token_index", "video_token_id", "video_token_index", "image_placeholder_token_id")
        return {value for name in fields if isinstance(value := getattr(config, name, None), int)}

    @cached_property
    def vocabulary(self) -> int | None:
        """Rows of the table of token embeddings; None where it cannot be told."""
        path = next((path for path, name in self.known.items() if name == "text.embeddings"), None)
        shape = getattr(getattr(dict(self.module.named_modules()).get(path), "weight", None), "shape", None)
        return int(shape[0]) if shape else None

    def check_ids(self, ids: Any) -> None:
        """Raises ItemError for token ids that this model has not: MLX would read whatever lies in memory there, or die of it."""
        known = self.vocabulary
        strange = [] if known is None else [each for each in ids.ravel().tolist() if not -known <= each < known]
        strange = [each for each in strange if each not in self.image_tokens]
        if strange:
            raise ItemError(
                f"token id {strange[0]} is none of this model's",
                reason="input",
                why=f"it knows {known:,} tokens; {len(strange)} ids of the input are others",
                fix="capture inputs that were made for this model",
            )


class Passes:
    """Runs every pass that ``settings`` ask for; ``notes`` say what was left out and why. Raises UsageError where nothing matches."""

    def __init__(self, model: Model, settings: Mapping[str, Any], reference: Run | None):
        self.model, self.keep = model, bool(settings["keep"])
        self.notes: list[str] = []
        patterns = settings["layers"]
        self.outputs = names.chosen(model.known, patterns)
        self.inputs = {path: name for path, name in names.first_blocks(model.known).items() if names.matches(name, patterns)}
        self.logits = names.matches(LOGITS, patterns)
        if not (self.outputs or self.inputs or self.logits):
            some = ", ".join(list(model.known.values())[:8])
            raise UsageError(
                f"no layer matches {', '.join(patterns)}", why=f"layers here are called {some}, ...", fix="--layers '*.block.*'"
            )
        self.paths = {name: path for path, name in self.outputs.items()} | {name: path for path, name in self.inputs.items()}
        self.precisions = self._precisions(settings["also"])
        self.reference = None if reference is None else f"{LOCALISED}{reference.manifest['run_key'][:12]}"
        self.activations = {} if reference is None else activations(reference)

    def _precisions(self, asked: list[str]) -> list[str]:
        own = self.model.dtype
        wanted = [each for each in asked if each not in ("auto", "none", own)]
        unknown = [each for each in wanted if each not in PRECISIONS]
        if unknown:
            raise UsageError(f"unknown precision {unknown[0]!r}", why=f"known: {', '.join(PRECISIONS)}", fix="--also float64")
        if not self.model.torch:
            if wanted:
                raise UsageError(
                    "further precisions are for torch models", why="they measure torch's own error", fix="leave --also out"
                )
            return []
        if "auto" in asked and (exact := MORE_EXACT.get(own)) and exact not in wanted:
            if fits(self.model.module, exact):
                wanted.append(exact)
            else:
                self.notes.append(
                    f"torch's own error is not measured: in {exact} the weights would fill this machine's memory (--also {exact} tries it)"
                )
        if next(self.model.module.parameters()).device.type == "mps" and "float64" in wanted:
            wanted.remove("float64")
            self.notes.append(
                "Apple's GPU has no float64: torch's own error is not measured here (capture with ?device=cpu to have it)"
            )
        return sorted(wanted, key=PRECISIONS.index)

    def run(self, item: Item) -> Made:
        """All passes over one input. Raises ItemError."""
        try:
            return self._run(item)
        except (ItemError, UsageError, RuntimeMissing):
            raise
        except Exception as error:
            failed = ItemError("the model failed on this input", reason="model", why=f"{type(error).__name__}: {error}"[:500])
            raise (memory_error(error) if is_memory_error(error) else failed) from error

    def _run(self, item: Item) -> Made:
        prepared = item.prepare(self.model.opened)
        if "input_ids" not in prepared.arrays:
            raise ItemError("this model reads no tokens", reason="model", why="a capture predicts each token from those before it")
        self.model.check_ids(as_arrays(prepared)["input_ids"])
        records: dict[str, dict[str, Record]] = {}
        tap = Accumulating(self.keep)
        logits = self._forward(prepared, tap)
        records[self.model.dtype] = self._records(tap, item.id, self.model.dtype)
        for precision in self.precisions:
            tap = Accumulating(self.keep)
            self._further(precision, prepared, tap)
            records[precision] = self._records(tap, item.id, precision)
        if self.reference is not None:
            tap = Swapping(self.keep, alike(self.activations.get(item.id, {}), records[self.model.dtype]))
            self._forward(prepared, tap)
            records[self.reference] = self._records(tap, item.id, self.reference)
        return Made(seen(prepared), as_arrays(prepared), records, self._tokens(prepared, logits), self._causality(prepared, logits))

    def _further(self, precision: str, prepared: Prepared, tap: Accumulating) -> None:
        with in_precision(self.model.module, precision):
            self._forward(prepared, tap)

    def _records(self, tap: Accumulating, item: str, precision: str) -> dict[str, Record]:
        return tap.records(item, precision, self.paths)

    def close(self) -> None:
        """Free what the passes alone loaded."""

    def _forward(self, prepared: Prepared, tap: Accumulating) -> Any:
        with tapped(self.model.module, self.outputs, self.inputs, tap):
            logits = self.model.opened.logits(prepared)
        if self.logits:
            tap(LOGITS, logits)
        return logits

    def _again(self, prepared: Prepared) -> Any:
        """The logits by the same arithmetic as ``_forward``'s, nothing recorded."""
        return self.model.opened.logits(prepared)

    def _tokens(self, prepared: Prepared, logits: Any) -> TokenRecord | None:
        """The record of the prompt's own tokens, each predicted by the position before it; None where there is none."""
        ids = as_arrays(prepared)["input_ids"][0]
        if logits.shape[0] != len(ids):
            return None
        excluded = self.model.image_tokens
        places = [place for place in range(1, len(ids)) if int(ids[place]) not in excluded and ids[place] < logits.shape[1]]
        if not places:
            return None
        parts = [places[start : start + POSITIONS] for start in range(0, len(places), POSITIONS)]
        return joined([record_of([int(ids[place]) for place in part], logits[[place - 1 for place in part]]) for part in parts])

    def _causality(self, prepared: Prepared, logits: Any) -> dict[str, float] | None:
        """How far earlier logits move when only the last token changes; None for a single position."""
        import numpy

        ids = as_arrays(prepared)["input_ids"].copy()
        if ids.shape[1] < 2 or logits.shape[0] != ids.shape[1] or int(ids[0, -1]) in self.model.image_tokens:
            return None  # one piece of an image less would not fit its features
        ids[0, -1] = other_token(int(ids[0, -1]), self.model.image_tokens, logits.shape[1])
        changed = Prepared(
            {**prepared.arrays, "input_ids": like(ids, prepared.arrays["input_ids"])}, prepared.prompt, prepared.length
        )
        other = self._again(changed)
        moved = largest = 0.0
        for before in logits:
            largest = max(largest, float(numpy.abs(before[numpy.isfinite(before)]).max(initial=0.0)))
        for before, after in zip(logits[:-1], other[:-1], strict=True):
            gap = numpy.abs(after.astype(numpy.float64) - before)
            moved = max(moved, float(gap[numpy.isfinite(gap)].max(initial=0.0)))
        return {"moved": moved, "largest": largest}


def joined_logits(parts: list[Any], logits: Any) -> Any:
    """The logits as they were computed, call by call, where they are those that the model gave, else those: what a loop hands on is rounded."""
    import numpy

    made = numpy.concatenate(parts) if len({each.shape[1:] for each in parts}) == 1 else None
    return logits if made is None or made.shape != logits.shape else made


def joined(records: list[TokenRecord]) -> TokenRecord:
    import numpy

    fields = {name: [getattr(each, name) for each in records] for name in vars(records[0])}
    return TokenRecord(**{name: None if parts[0] is None else numpy.concatenate(parts) for name, parts in fields.items()})


def fits(model: Any, precision: str) -> bool:
    """Whether the weights in ``precision``, beside those that are loaded, leave room to work."""
    import torch

    parameters = list(model.parameters())
    needed = sum(each.numel() for each in parameters) * torch.finfo(getattr(torch, precision)).bits // 8
    if parameters[0].device.type == "cuda":
        return needed <= SHARE * torch.cuda.mem_get_info(parameters[0].device)[0]
    from workbench.backends import hardware

    here = hardware.memory_bytes()
    return here is None or needed <= SHARE * here


def other_token(token: int, excluded: set[int], vocabulary: int) -> int:
    """Another plain token: the nearest below or above that stands for no piece of an image."""
    return next(
        each
        for step in range(1, vocabulary)
        for each in (token - step, token + step)
        if 0 <= each < vocabulary and each not in excluded
    )


def like(array: Any, tensor: Any) -> Any:
    """``array`` (numpy) as what ``tensor`` is: torch's, MLX's or numpy's."""
    if hasattr(tensor, "detach"):
        import torch

        return torch.from_numpy(array)
    return array


def alike(known: Mapping[str, Any], here: Mapping[str, Record]) -> dict[str, Any]:
    """The reference's activations that this model's layers can take: another layout (channels first) holds as many values, in another
    order, and every later layer would be blamed for it."""
    return {name: array for name, array in known.items() if name in here and alignable(array.shape, here[name].line["shape"])}


def activations(reference: Run) -> dict[str, dict[str, Any]]:
    """``{item: {layer: values}}`` of a capture's own pass, where kept whole. Raises ModelError where none is."""
    found: dict[str, dict[str, Any]] = {}
    records = LayerRecords(reference)
    for name in records.lines:
        own = next(iter(records.read(name).passes.values()))
        found[name] = {
            layer: record.values.reshape(record.line["shape"])
            for layer, record in own.items()
            if record.values is not None and record.one_in == 1 and layer != LOGITS
        }
    if not any(found.values()):
        raise ModelError(
            f"{reference.name} keeps no whole layer",
            why="all were sampled or left out",
            fix="capture it again with --keep on smaller inputs",
        )
    return found
