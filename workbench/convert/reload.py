"""Is it still the same model? Both folders are loaded by transformers, one after the other, and compared bit by bit.

    same_model(Path("my-finetune"), Path("my-finetune-hub"))   # "314 parameters and buffers bit-identical in LlavaFor..."

Parameters, buffers (rotary frequencies among them) and the parsed configuration decide what a model computes. Only hashes of the
first are kept while the second is loaded, so that one model at a time is in memory.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from workbench.convert.saved import Saved
from workbench.convert.shards import METADATA, read_header
from workbench.errors import EXIT_DIFFERENT, ModelError, RuntimeMissing, WorkbenchError
from workbench.models.answering import is_memory_error

UNIMPORTANT = {"transformers_version", "_name_or_path", "_attn_implementation_autoset", "architectures", "auto_map"}
"""Entries of a parsed configuration that change nothing the model computes."""


class DifferentModel(WorkbenchError):
    """The converted folder is another model, or none."""

    exit_code = EXIT_DIFFERENT


@dataclass(frozen=True)
class Loaded:
    """``values``: name -> (dtype, shape, SHA-256 of the bytes), of parameters and buffers, in the model's order."""

    kind: str
    values: dict[str, tuple[str, tuple[int, ...], str]]
    config: dict[str, Any]


def require() -> None:
    """Raises RuntimeMissing where the check cannot run."""
    try:
        import torch  # noqa: F401
        import transformers  # noqa: F401
    except ImportError as error:
        raise RuntimeMissing(
            "the conversion cannot be checked here",
            why=f"it is checked by loading both folders in transformers: {error}",
            fix="pip install 'parity-workbench[torch]', or --no-check",
        ) from error


def model_class(config: Mapping[str, Any], name: str) -> type:
    """transformers' class for the folder: the first of ``architectures``, else the auto class's. Raises ModelError."""
    import transformers
    from transformers.models.auto import modeling_auto

    kind = config.get("model_type")
    listed = config.get("architectures")
    names = [listed[0]] if isinstance(listed, list) and listed else []
    names += [
        mapping[kind]
        for mapping in (
            modeling_auto.MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES,
            modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
            modeling_auto.MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES,
        )
        if kind in mapping
    ]
    for each in names:
        found = getattr(transformers, each, None) if isinstance(each, str) else None
        if (
            isinstance(found, type)
            and issubclass(found, transformers.PreTrainedModel)
            and found is not transformers.PreTrainedModel
        ):
            return found
    raise ModelError(
        f"transformers {transformers.__version__} has no class for {name!r}",
        why=f"config.json names {', '.join(map(repr, names)) or 'no architecture'}; without a class the result cannot be checked",
        fix="pip install -U transformers, or --no-check",
    )


def same_model(saved: Saved, target: Path, say: Any = None) -> str:
    """What was compared, in words. Raises DifferentModel naming the first parameter, buffer or field that is not the same, and
    ModelError when the source itself does not load whole."""
    say = say or (lambda text: None)
    kind = model_class(saved.config, saved.name)
    dtype = stored_dtype(saved)
    say(f"checking: transformers loads {saved.name} ({kind.__name__}, {dtype})")
    before = load(saved.folder, kind, dtype, f"{saved.name!r} itself", ModelError)
    say("checking: transformers loads the converted folder")
    after = load(target, kind, dtype, "the converted folder", DifferentModel)
    _compare(before, after, saved.name)
    return f"{len(before.values)} parameters and buffers and the configuration are the same when {before.kind} loads them ({dtype})"


def stored_dtype(saved: Saved) -> str:
    """The torch type that holds every stored floating-point weight exactly: one for all, as transformers loads a model."""
    kinds = {str(entry.get("dtype")) for path in saved.shards for name, entry in read_header(path)[0].items() if name != METADATA}
    if kinds & {"F64"}:
        return "float64"
    if kinds & {"F32"} or {"F16", "BF16"} <= kinds:
        return "float32"
    return "float16" if "F16" in kinds else "bfloat16"


def load(folder: Path, kind: type, dtype: str, called: str, error_class: type[WorkbenchError]) -> Loaded:
    """Load a folder on the CPU, hash everything, and free it again. Raises ``error_class`` unless every weight is found and used."""
    import torch

    with _quietly():
        try:
            model, report = kind.from_pretrained(
                str(folder),
                dtype=getattr(torch, dtype),
                use_safetensors=True,
                local_files_only=True,
                trust_remote_code=False,
                output_loading_info=True,
                ignore_mismatched_sizes=True,  # reported below like the other disagreements
            )
        except Exception as error:  # noqa: BLE001  loaders raise many types
            first = f"{type(error).__name__}: {error}".strip().splitlines()[0][:300]
            if is_memory_error(error):
                raise ModelError(
                    f"{called} does not fit into memory", why=first, fix="check on a larger machine, or --no-check"
                ) from error
            raise error_class(f"transformers cannot load {called}", why=first, fix=_advice(error_class)) from error
    for name, words in (
        ("missing_keys", "lacks"),
        ("mismatched_keys", "has another shape for"),
        ("unexpected_keys", "has an unknown weight"),
    ):
        keys = sorted(str(key[0] if isinstance(key, tuple) else key) for key in report.get(name, ()))
        if keys:
            more = f" and {len(keys) - 3} more" if len(keys) > 3 else ""
            why = f"so transformers reports when it loads it as {kind.__name__}"
            raise error_class(f"{called} {words} {', '.join(keys[:3])}{more}", why=why, fix=_advice(error_class))
    return Loaded(type(model).__name__, dict(_hashes(model)), model.config.to_dict())


def _advice(error_class: type[WorkbenchError]) -> str:
    return "save the model again" if error_class is ModelError else NOTHING_WRITTEN


NOTHING_WRITTEN = "nothing was written; the layout rule is at fault: workbench/convert/layouts/"


def _hashes(model: Any) -> Iterator[tuple[str, tuple[str, tuple[int, ...], str]]]:
    """Shared parameters appear under each of their names."""
    import torch

    known: dict[int, str] = {}
    for named in (model.named_parameters(remove_duplicate=False), model.named_buffers(remove_duplicate=False)):
        for name, tensor in named:
            if id(tensor) not in known:
                flat = tensor.detach().contiguous().reshape(-1)
                data = flat.view(torch.uint8).numpy() if flat.numel() else b""
                known[id(tensor)] = hashlib.sha256(data).hexdigest()
            yield name, (str(tensor.dtype), tuple(tensor.shape), known[id(tensor)])


def _compare(before: Loaded, after: Loaded, name: str) -> None:
    different = [each for each, value in before.values.items() if after.values.get(each) != value]
    different += [each for each in after.values if each not in before.values]
    if different:
        why = f"{different[0]} differs: {_difference(before.values.get(different[0]), after.values.get(different[0]))}"
        more = f" ({len(different)} of {len(before.values)} parameters and buffers differ)" if len(different) > 1 else ""
        raise DifferentModel(f"the converted folder is not the same model as {name!r}", why=why + more, fix=NOTHING_WRITTEN)
    field = next(_changed_fields(before.config, after.config), None)
    if field is not None:
        where, one, other = field
        raise DifferentModel(
            f"transformers reads another configuration from the converted folder than from {name!r}",
            why=f"{where} is {one!r} and becomes {other!r}"[:400],
            fix=NOTHING_WRITTEN,
        )


def _difference(before: Any, after: Any) -> str:
    if before is None or after is None:
        return "it is only in " + ("the converted folder" if before is None else "the source")
    if before[:2] != after[:2]:
        return f"{before[0]} {list(before[1])} becomes {after[0]} {list(after[1])}"
    return "its values"


def _changed_fields(before: Any, after: Any) -> Iterator[tuple[str, Any, Any]]:
    """Fields of the source's parsed configuration that the converted one does not say likewise.

    What the converted one says beside them is unknown to transformers' class, which would otherwise have it in both. A flat layout
    says once, at the root, what the source says at the root and in a part.
    """

    def walk(one: Mapping[str, Any], other: Mapping[str, Any], where: str) -> Iterator[tuple[str, Any, Any]]:
        for name, value in one.items():
            if name in UNIMPORTANT or (name == "type" and "rope_type" in one):
                continue
            place, found = f"{where}{name}", other.get(name)
            if isinstance(value, Mapping) and isinstance(found, Mapping):
                yield from walk(value, found, f"{place}.")
            elif value == found or repr(value) == repr(found):  # not-a-number equals nothing
                continue
            elif not (found is None and where and value == before.get(name) == after.get(name)):
                yield place, value, found

    yield from walk(before, after, "")


@contextmanager
def _quietly():
    """No progress bars and reports of transformers: what matters in them becomes an error."""
    from transformers.utils import logging as transformers_logging

    shown, verbosity = transformers_logging.is_progress_bar_enabled(), transformers_logging.get_verbosity()
    transformers_logging.disable_progress_bar()
    transformers_logging.set_verbosity_error()
    disabled = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        yield
    finally:
        logging.disable(disabled)
        transformers_logging.set_verbosity(verbosity)
        if shown:
            transformers_logging.enable_progress_bar()
