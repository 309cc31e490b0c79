"""The reference side of a row: transformers' own class with eager attention, and weights that hide nothing.

The default initialisation (standard deviation 0.02) makes every layer nearly the identity and hides faults, and layer scales of 1e-5
hide whole layers: so weights are drawn at fan-in scale, norms and scales near one, biases within 0.1.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def build(config: Any) -> Any:
    """The model that the configuration names first under ``architectures``, else the auto class for images and text, in float32."""
    import torch
    import transformers

    config._attn_implementation = "eager"
    named = (getattr(config, "architectures", None) or [None])[0]
    with torch.device("cpu"):
        if named:
            return getattr(transformers, named)._from_config(config, attn_implementation="eager").float().eval()
        return transformers.AutoModelForImageTextToText.from_config(config, attn_implementation="eager").float().eval()


def build_text(config: Any) -> Any:
    """A causal language model."""
    import transformers

    return transformers.AutoModelForCausalLM.from_config(config, attn_implementation="eager").float().eval()


def draw(model: Any, seed: int) -> None:
    """Draw every weight anew, the same for the same seed and model.

    Matrices (also those of stacked experts) and kernels: normal with variance 1 / fan-in. Vectors that were constant: that constant's kind (zeros: within 0.1 of 0; others,
    layer scales too: within 0.1 of 1). Gates (one value that was 0): 0.5. Running statistics of batch norms likewise.
    """
    import torch

    random = torch.Generator().manual_seed(seed)

    def around(values: Any, centre: float) -> None:
        values.copy_(centre + 0.2 * (torch.rand(values.shape, generator=random) - 0.5))

    with torch.no_grad():
        for name, values in sorted(model.named_parameters(), key=lambda each: each[0]):
            constant = bool((values == values.flatten()[0]).all())
            if values.numel() == 1:
                values.fill_(0.5 if values.item() == 0 else 1.0)
            elif constant and values.ndim == 1:
                around(values, 0.0 if values[0] == 0 else 1.0)
            elif constant and values.flatten()[0] != 0:
                around(values, 1.0)
            else:
                stacked = values.ndim == 3 and "experts" in name  # one matrix an expert
                fan_in = values.shape[-1] if stacked else values[0].numel() if values.ndim > 1 else values.numel()
                values.copy_(torch.randn(values.shape, generator=random) * fan_in**-0.5)
        for name, values in sorted(model.named_buffers(), key=lambda each: each[0]):
            if name.endswith("running_mean"):
                around(values, 0.0)
            elif name.endswith("running_var"):
                around(values, 1.0)


def save(model: Any, folder: Path) -> None:
    """As transformers 5 saves it."""
    model.save_pretrained(folder)


def run(model: Any, arrays: Mapping[str, Any]) -> Any:
    """Logits of shape (positions, vocabulary) from one forward pass; floating-point arrays take the model's precision."""
    import torch

    dtype = next(model.parameters()).dtype
    given = {}
    for name, value in arrays.items():
        tensor = torch.as_tensor(value)
        given[name] = tensor.to(dtype) if tensor.is_floating_point() else tensor
    with torch.inference_mode():
        return model(**given).logits[0]


def read_config(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "config.json").read_text(encoding="utf-8"))
