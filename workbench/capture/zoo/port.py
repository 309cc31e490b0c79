"""The port's side of a row: mlx-vlm and mlx-lm, loaded strictly and run as their own generation runs them.

Calling an mlx-vlm model directly with a mask takes another path, which is not causal in several families; generation never does.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any


def open_mlx_vlm(folder: Path) -> Any:
    """The model, every weight found and used."""
    from mlx_vlm.utils import load_model

    return load_model(folder, lazy=False, strict=True)


def run_mlx_vlm(model: Any, arrays: Mapping[str, Any]) -> Any:
    """Logits of shape (positions, vocabulary): embeddings first, then the language model with a cache, as ``generate_step`` does."""
    from workbench.models.vlm_mlx import prompt_logits

    given = as_mlx(arrays)
    ids, pixels, mask = given.pop("input_ids"), given.pop("pixel_values", None), given.pop("attention_mask", None)
    return prompt_logits(model, ids, pixels, mask, given)[0]


def open_mlx_lm(folder: Path) -> Any:
    from mlx_lm.utils import load_model

    return load_model(folder, lazy=False, strict=True)[0]


def run_mlx_lm(model: Any, arrays: Mapping[str, Any]) -> Any:
    """Logits of shape (positions, vocabulary), with a cache as mlx-lm's generation makes it."""
    from mlx_lm.models.cache import make_prompt_cache

    return model(as_mlx(arrays)["input_ids"], cache=make_prompt_cache(model))[0]


def as_mlx(arrays: Mapping[str, Any]) -> dict[str, Any]:
    """As MLX arrays; integers as int32, which is what mlx-vlm's processors give."""
    import numpy
    from mlx import core

    def convert(value: Any) -> Any:
        array = numpy.asarray(value)
        return core.array(array.astype(numpy.int32) if array.dtype == numpy.int64 else array)

    return {name: convert(value) for name, value in arrays.items()}
