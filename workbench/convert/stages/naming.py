"""What the parts of a stage are called elsewhere: a module by its layer's name, a weight by its name in the checkpoint's files.

    Names(model, folder, "vision-language").layers(stage_module)        # {"language_model.layers.3": "text.block.3", ...}
    Names(model, folder, "vision-language").parameters(stage_module)    # {"lm_head.weight": "language_model.lm_head.weight", ...}

A stage holds the whole model's own modules, so both go by identity: by the path that a module has in the whole model, which is what a
capture of the model on torch names its layers after.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from workbench.convert.stages.stage import Stage
from workbench.models import checkpoint
from workbench.models.layer_names import RENAMES, layer_name, names_of


class Names:
    """Of ``model`` (a transformers model), loaded from ``folder``, of the family ``family``."""

    def __init__(self, model: Any, folder: Path, family: str):
        self.renames = RENAMES.get(family, ())
        known = names_of([path for path, _ in model.named_modules() if path], self.renames)
        self._layers = {id(module): known[path] for path, module in model.named_modules() if path in known}
        files = Files(folder)
        self._stored: dict[int, str] = {}
        for path, weight in model.named_parameters(
            remove_duplicate=False
        ):  # of a tied weight, any of its paths may be the one in the files
            name = files.name_of(path, weight, self.renames)
            if name is not None:
                self._stored.setdefault(id(weight), name)

    def layers(self, module: Any) -> dict[str, str]:
        """Path inside ``module`` -> the layer's name; a module with several paths has the first."""
        return {path: self._layers[id(part)] for path, part in module.named_modules() if id(part) in self._layers}

    def parameters(self, module: Any) -> dict[str, str]:
        """Path inside ``module`` -> the weight's name in the checkpoint; a tied weight under each of its paths. Without those whose
        name could not be told."""
        named = module.named_parameters(remove_duplicate=False)
        return {path: self._stored[id(weight)] for path, weight in named if id(weight) in self._stored}

    def told(self, stage: Stage) -> Stage:
        """``stage`` with both."""
        return replace(stage, layers=self.layers(stage.module), parameters=self.parameters(stage.module))


class Files:
    """The names in a checkpoint's safetensors files, and where each is. Loading renames weights (transformers' conversion of older
    layouts), so a name is told by what is the same in all layouts, and then by the values of the first row."""

    def __init__(self, folder: Path):
        self.places: dict[str, Path] = {}
        for path in checkpoint.weight_files(folder, allow_pickle=True):
            if path.suffix == ".safetensors":
                self.places |= dict.fromkeys(checkpoint.check_safetensors(path), path)
        self.alike: dict[Any, list[str]] = {}

    def name_of(self, path: str, weight: Any, renames: Any) -> str | None:
        """The name of the weight that the model holds at ``path``; None when no stored one has its shape and values."""
        if not self.alike:
            for name in self.places:
                self.alike.setdefault(canonical(name, renames), []).append(name)
        candidates = [*([path] if path in self.places else []), *self.alike.get(canonical(path, renames), [])]
        return next((name for name in candidates if self._holds(name, weight)), None)

    def _holds(self, name: str, weight: Any) -> bool:
        import torch
        from safetensors import safe_open

        with safe_open(self.places[name], framework="pt") as file:
            stored = file.get_slice(name)
            if list(stored.get_shape()) != list(weight.shape):
                return False
            first = stored[:1] if weight.dim() else file.get_tensor(name)
        return torch.equal(first.to(weight.dtype), weight.detach()[:1] if weight.dim() else weight.detach())


def canonical(path: str, renames: Any) -> str:
    """``text.block.0.attention.q_proj.weight`` whatever containers are around it; a head by its own name."""
    module, _, leaf = path.rpartition(".")
    return f"{layer_name(module, renames) or module.rpartition('.')[2]}.{leaf}"
