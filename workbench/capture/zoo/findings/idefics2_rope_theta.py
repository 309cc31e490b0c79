"""mlx-vlm 0.7.10 turns Idefics2's queries and keys by another rotary base than the model was trained with.

The published text configuration names no ``rope_theta``; transformers' Mistral has 10000 then, as Mistral-7B-v0.1 itself has.
``config.py``, ``TextConfig`` has 1000000. Even text alone is read wrongly, silently. Folders that transformers 5 saved name the base
only under ``rope_parameters``, which the port does not read, so they are read with 1000000 too. The patch takes Mistral's default.
"""

from contextlib import ExitStack, contextmanager
from unittest.mock import patch

from workbench.capture.zoo.finding import Finding


@contextmanager
def of_mistral(model):
    from transformers import MistralConfig

    base = MistralConfig().rope_parameters["rope_theta"]
    with ExitStack() as stack:
        for layer in model.language_model.layers:
            stack.enter_context(patch.object(layer.self_attn.rope, "base", base))
        yield


FINDING = Finding(
    "idefics2-rope-theta",
    ("idefics2",),
    "port",
    "without a rope_theta, as published, the rotary base is 1000000; the patch takes Mistral's 10000",
    "mlx_vlm/models/idefics2/config.py: TextConfig.rope_theta",
    of_mistral,
)
