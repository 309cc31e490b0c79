"""What is converted: a checkpoint of transformers, or what a user's own function makes; its fingerprint, its stages, its settings files.

subject_of("demo:vlm").weights                       # hash of the weight files, no runtime loaded
subject_of("my_model.py:make").stages(recipe)        # a StageSet with the one stage "main"
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from workbench.errors import ModelError, UsageError
from workbench.fingerprint import of_file, of_json
from workbench.models import checkpoint
from workbench.models.converted import MANIFEST, is_converted
from workbench.models.source import resolve
from workbench.types import ModelSpec

if TYPE_CHECKING:
    from workbench.convert.stages.stage import StageSet

FACTORY = re.compile(r".+\.py:[A-Za-z_]\w*")
SETTINGS = (
    *(
        "*config.json",
        "*tokenizer*.json",
        "special_tokens_map.json",
        "added_tokens.json",
        "normalizer.json",
        "vocab.*",
        "merges.txt",
    ),
    *(
        "chat_template*",
        "*.jinja",
        "*.model",
        "*.spm",
        "*.bpe",
        "*.tiktoken",
        "dict.txt",
        "bpe.codes",
        "additional_chat_templates/*.jinja",
    ),
)
"""Files that transformers' configurations, tokenizers and processors are read from; nothing else of the source is copied."""
PLACES = re.compile(r"(.*_)?(name_or_path|file|path|dir)")
ABSOLUTE = re.compile(r"[/~\\]|[A-Za-z]:[\\/]")


class Staging(Protocol):
    """What of a recipe the torch stages depend on: whether a step keeps its cache in itself, and how many places that has."""

    @property
    def stateful(self) -> bool: ...

    @property
    def context(self) -> int | None: ...


@dataclass
class Subject:
    """``name`` is safe to publish. ``weights`` and ``config`` are hashes of contents. ``folder``: None where there is no checkpoint."""

    name: str
    revision: str | None
    weights: str
    config: str
    bytes: int
    folder: Path | None
    make: Callable[[Staging], StageSet] = field(repr=False)
    _made: dict[tuple[bool, int | None], StageSet] = field(default_factory=dict, repr=False)

    def stages(self, recipe: Staging) -> StageSet:
        """The torch stages, made once for what they depend on. Raises as ``workbench.convert.stages.stages_of``."""
        key = (recipe.stateful, recipe.context)
        if key not in self._made:
            self._made[key] = self.make(recipe)
        return self._made[key]

    def source(self) -> dict[str, Any]:
        """For a manifest."""
        return {"name": self.name, "revision": self.revision, "weights": self.weights, "config": self.config}

    def copy_settings(self, target: Path) -> dict[str, dict[str, Any]]:
        """Copy the settings files; returns ``{name: {"bytes", "sha256"}}``. A configuration's absolute paths are cut to their last part.

        Raises ModelError for a file whose name cannot be printed, or that is no regular file.
        """
        found = {}
        for name in settings_of(self.folder) if self.folder else ():
            path = target / name
            path.parent.mkdir(exist_ok=True)
            plain = without_places(self.folder / name)
            if plain is None:
                shutil.copyfile(self.folder / name, path)
            else:
                path.write_text(json.dumps(plain, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
            found[name] = {"bytes": path.stat().st_size, "sha256": of_file(path)}
        return found


def subject_of(model: str | ModelSpec) -> Subject:
    """``file.py:factory``, or a model as users name it on any runtime: its files are those of transformers.

    Raises ModelError, UsageError.
    """
    if isinstance(model, str) and FACTORY.fullmatch(model):
        return _of_factory(model)
    spec = model if isinstance(model, ModelSpec) else _spec(model)
    if spec.adapter:
        raise UsageError("adapters are not converted", why=f"adapter={spec.adapter}", fix="merge the adapter into the model first")
    found = resolve(ModelSpec("torch", spec.source, spec.revision))
    if is_converted(found.folder):
        raise ModelError(
            f"{found.source!r} is converted already", why=f"it holds {MANIFEST}", fix="convert the model that it was made from"
        )
    seen = checkpoint.identify(found.folder)
    if seen["format"] != "safetensors":
        raise ModelError(
            f"{found.source!r} is no checkpoint of transformers",
            why=f"its weights are in a file of the format {seen['format']}",
            fix="workbench convert FOLDER --to transformers, and convert the result",
        )

    def make(recipe: Staging) -> StageSet:
        from workbench.convert.stages import stages_of

        return stages_of(found, stateful=recipe.stateful, context=recipe.context)

    return Subject(found.source, found.revision, seen["weights"], seen["config"], seen["size_bytes"], found.folder, make)


def settings_of(folder: Path) -> list[str]:
    """Names of the files to copy, relative to ``folder``. Links are followed, to regular files alone."""
    names = []
    for path in sorted([*folder.iterdir(), *folder.glob("additional_chat_templates/*.jinja")]):
        name = path.relative_to(folder).as_posix()
        if not any(fnmatchcase(name, pattern) for pattern in SETTINGS) or name.startswith(".") or path.is_dir():
            continue
        if name.endswith(".index.json"):
            continue
        if not name.isprintable() or "\\" in name:
            raise ModelError(
                f"{folder.name!r} holds a file named {name[:100]!r}", why="it cannot be copied safely", fix="rename it"
            )
        if not path.is_file():
            raise ModelError(
                f"{name} of {folder.name!r} is no regular file", why="its contents are needed", fix="get the model again"
            )
        names.append(name)
    return names


def without_places(path: Path) -> Any:
    """A configuration without the paths of the machine that wrote it; None where it holds none (and is copied as it is).

    ``_name_or_path`` and the like name where a model was saved, which may hold a user's name and means nothing elsewhere.
    """
    if not path.name.endswith("config.json"):
        return None
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(f"{path.name} of {path.parent.name!r} cannot be read", why=str(error)[:200]) from error
    plain = _plain(value)
    return None if plain == value else plain


def _plain(value: Any, name: str = "") -> Any:
    if isinstance(value, dict):
        return {key: _plain(each, key) for key, each in value.items()}
    if isinstance(value, list):
        return [_plain(each, name) for each in value]
    if isinstance(value, str) and ABSOLUTE.match(value) and PLACES.fullmatch(name):
        return re.split(r"[\\/]", value.rstrip("\\/"))[-1]
    return value


def _spec(text: str) -> ModelSpec:
    if text.startswith("demo:") and "@" not in text:
        return ModelSpec("torch", text, text=text)
    if Path(text).expanduser().is_dir():
        return ModelSpec("torch", text, text=text)
    return ModelSpec.parse(text)


def _of_factory(text: str) -> Subject:
    """The module is made now: what it holds is its fingerprint."""
    from workbench.convert.stages import stages_of_module

    stages = stages_of_module(text)
    found = hashlib.sha256()
    size = 0
    for stage in stages:
        for name, tensor in sorted({**dict(stage.module.named_parameters()), **dict(stage.module.named_buffers())}.items()):
            data = tensor.detach().cpu().contiguous()
            size += data.nbytes
            found.update(repr((stage.name, name, str(data.dtype), tuple(data.shape))).encode())
            found.update(data.flatten().view(_bytes()).numpy().tobytes() if data.numel() else b"")
    file = Path(text.rpartition(":")[0])
    shown = f"{file.name}:{text.rpartition(':')[2]}"
    code = of_json([of_file(path) for path in [file, *_beside(stages, file)]])
    return Subject(shown, None, found.hexdigest(), code, size, None, lambda recipe: stages)


def _beside(stages: StageSet, file: Path) -> list[Path]:
    """Other files of the user's that the parts of the module are written in: those below the factory's own folder."""
    kinds = {type(part) for stage in stages for part in stage.module.modules()}
    paths = {Path(getattr(sys.modules.get(kind.__module__), "__file__", None) or file).resolve() for kind in kinds}
    return sorted(path for path in paths - {file.resolve()} if path.is_relative_to(file.resolve().parent) and path.is_file())


def _bytes() -> Any:
    import torch

    return torch.uint8
