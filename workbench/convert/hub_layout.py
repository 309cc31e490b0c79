"""A folder saved by transformers 5 in the layout of published checkpoints, which is what ports read.

    done = to_hub_layout(Path("my-finetune"), Path("my-finetune-hub"))
    done.renamed, done.changes, done.check     # 391, [("text_config.rope_parameters", {...}, "(absent)"), ...], "... the same ..."

transformers 5 renamed configuration fields and weights when it saves; it reads both layouts, ports read the older one, and some of them
load the newer one without a word and answer wrongly. The rules are in ``workbench/convert/layouts/``, one file an architecture.
"""

from __future__ import annotations

import copy
import errno
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules
from typing import Any

from workbench.convert import processors, shards
from workbench.convert import saved as folders
from workbench.convert.layout import Config, Layout, rope
from workbench.convert.saved import INDEX, Saved
from workbench.errors import ModelError, UsageError
from workbench.user_cache import NO_SPACE

ABSENT = "(absent)"
NOT_CHECKED = "not checked"


@dataclass(frozen=True)
class Converted:
    """``changes``: fields of config.json as (path, before, after), ``ABSENT`` where there is none. ``left_out``: (name, why)."""

    target: Path
    model_type: str
    weights: int
    renamed: int
    remade: int
    """Weights that the rule made or changed beyond a new name."""
    changes: list[tuple[str, Any, Any]] = field(default_factory=list)
    copied: list[str] = field(default_factory=list)
    written: list[str] = field(default_factory=list)
    """Settings files that older readers look for, and whose contents transformers 5 keeps within processor_config.json."""
    left_out: list[tuple[str, str]] = field(default_factory=list)
    check: str = NOT_CHECKED


def layouts() -> dict[str, Layout]:
    """Every rule by ``model_type``."""
    from workbench.convert import layouts as package

    found: dict[str, Layout] = {}
    for module in iter_modules(package.__path__):
        layout = import_module(f"{package.__name__}.{module.name}").LAYOUT
        found |= dict.fromkeys(layout.model_types, layout)
    return found


def to_hub_layout(
    source: Path,
    target: Path,
    *,
    check: bool = True,
    trust_remote_code: bool = False,
    say: Callable[[str], None] | None = None,
) -> Converted:
    """Write ``source`` to the new folder ``target`` in the published layout. ``source`` is only read; it may lie in that layout already.

    The result appears whole or not at all. With ``check``, transformers has loaded both and found the same model before it appears
    (``workbench.convert.reload``); without, no runtime is imported unless the rule remakes weights. ``trust_remote_code`` copies
    Python files, which are never run here.

    Raises ModelError (what the folder holds is refused, or does not fit the rule), UsageError (``target`` is there already, no space
    left), RuntimeMissing, and DifferentModel when the check finds a difference.
    """
    say = say or (lambda text: None)
    saved = folders.read(source, trust_remote_code)
    layout = layout_of(saved)
    config = published(saved, layout)
    if os.path.lexists(target):
        raise UsageError(f"{target} is there already", why="nothing is written over it", fix="--out ANOTHER-FOLDER")
    if check:
        from workbench.convert import reload

        _refuse_unchecked(saved, layout)
        reload.require()
        reload.model_class(saved.config, saved.name)
    new = shards.plan(saved, layout, config)
    with _draft(target, new.total_bytes) as draft:
        for number, name in enumerate(new.files, 1):
            say(f"writing {name} ({number} of {len(new.files)})")
            new.write(name, draft / name)
        if saved.index is not None:
            metadata = {**(saved.index.get("metadata") or {}), "total_size": new.total_bytes}
            _write_json(draft / INDEX, {"metadata": metadata, "weight_map": dict(sorted(new.weight_map.items()))})
        _write_json(draft / "config.json", config)
        for name in saved.files:
            (draft / name).parent.mkdir(exist_ok=True)
            shutil.copyfile(source / name, draft / name)
        written = processors.older_files(saved)
        for name, value in written.items():
            _write_json(draft / name, value)
        words = reload.same_model(saved, draft, say) if check else NOT_CHECKED
        os.rename(draft, target)
    return Converted(
        target,
        str(config.get("model_type")),
        len(new.weight_map),
        new.renamed,
        new.remade,
        list(changes(saved.config, config)),
        saved.files,
        list(written),
        saved.left_out,
        words,
    )


def is_published(source: Path) -> bool:
    """Whether the folder is in the layout of published checkpoints already: nothing in it is named as transformers 5 names it.

    Raises ModelError as ``to_hub_layout`` does.
    """
    saved = folders.read(source)
    layout = layout_of(saved)
    if any(name != place.name for name, place in shards.places(saved, layout.renames).items()):
        return False
    try:
        if published(saved, layout) == saved.config:
            return True
        by_five = str(saved.config.get("transformers_version", "")).partition(".")[0]
        return not _has_new_rope(saved.config) and not (by_five.isdecimal() and int(by_five) >= 5)
    except ModelError:
        return not _has_new_rope(saved.config)  # the rule does not find what it would rewrite


def layout_of(saved: Saved) -> Layout:
    """The rule for the folder's architecture. Raises ModelError naming the known ones."""
    known = layouts()
    kind = saved.config.get("model_type")
    if not isinstance(kind, str) or kind not in known:
        raise ModelError(
            f"the published layout of {kind!r} is not known" if kind else f"config.json of {saved.name!r} names no model_type",
            why=f"there are rules for {', '.join(sorted(known))}",
            fix="a rule is one small file: see workbench/convert/layout.py",
        )
    return known[kind]


def published(saved: Saved, layout: Layout) -> Config:
    """config.json as published. Raises ModelError where the rule does not find what transformers 5 writes."""
    config = copy.deepcopy(saved.config)
    rope(config)
    try:
        layout.config(config)
    except (KeyError, TypeError, AttributeError, ValueError, IndexError) as error:
        missing = f"it lacks {error}" if isinstance(error, KeyError) else f"{type(error).__name__}: {error}"
        raise ModelError(
            f"config.json of {saved.name!r} is not what transformers 5 writes for {config.get('model_type')!r}",
            why=missing[:300],
            fix="load the folder with transformers 5 and save it again",
        ) from error
    return config


def changes(before: Any, after: Any, where: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Fields that differ between two configurations, as (path, before, after)."""
    for name in dict.fromkeys([*before, *after]):
        place = f"{where}.{name}" if where else str(name)
        one, other = before.get(name, ABSENT), after.get(name, ABSENT)
        if isinstance(one, dict) and isinstance(other, dict):
            yield from changes(one, other, place)
        elif one != other:
            yield place, one, other


def _has_new_rope(config: Config) -> bool:
    return "rope_parameters" in config or any(_has_new_rope(part) for part in config.values() if isinstance(part, dict))


def _refuse_unchecked(saved: Saved, layout: Layout) -> None:
    if not layout.reads_back:
        raise UsageError(
            f"the conversion of {saved.name!r} cannot be checked",
            why=f"transformers does not read the published layout of {saved.config['model_type']!r}",
            fix="--no-check",
        )


def _write_json(path: Path, value: Any) -> None:
    with open(path, "xb") as file:
        file.write((json.dumps(value, indent=2) + "\n").encode())
        shards.sync(file)


@contextmanager
def _draft(target: Path, size: int) -> Iterator[Path]:
    """A folder beside ``target`` to be filled and renamed; whatever happens, nothing of it stays. OSError becomes UsageError."""
    outer: Path | None = None
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(target.parent).free
        if free < size:
            raise OSError(errno.ENOSPC, f"{size / 1e9:.2f} GB are needed and {free / 1e9:.2f} GB are free")
        outer = Path(tempfile.mkdtemp(prefix=f".{target.name}.draft-", dir=target.parent))
        draft = outer / target.name
        draft.mkdir()  # of the usual permissions, unlike the folder around it
        yield draft
    except OSError as error:
        reason = f"{error.strerror or error}{f': {Path(error.filename).name}' if error.filename else ''}"
        if error.errno in NO_SPACE:
            raise UsageError(
                f"no space left to write {target}",
                why=f"{reason}; nothing was kept",
                fix="free some space, or --out FOLDER on another disk",
            ) from error
        raise UsageError(f"cannot write {target}", why=reason, fix="--out FOLDER") from error
    finally:
        if outer is not None:
            shutil.rmtree(outer, ignore_errors=True)
