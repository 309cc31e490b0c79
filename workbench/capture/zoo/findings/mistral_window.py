"""mlx-lm 0.32.2 has no sliding window for Mistral: it loads the model as Llama, which looks for windows in ``layer_types`` alone.

``layer_types`` is in no Mistral configuration, so every layer attends to everything. With Mistral-7B-v0.1 (window 4096, 8192 trained) all
answers to prompts beyond 4096 tokens come from another attention than the model was trained with.
"""

from unittest.mock import patch

from workbench.capture.zoo.finding import Finding


def windowed(model):
    from mlx_lm.models import llama

    whole = llama.create_attention_mask
    return patch.object(
        llama, "create_attention_mask", lambda h, cache=None: whole(h, cache, window_size=model.args.sliding_window)
    )


FINDING = Finding(
    "mistral-window",
    ("mistral_window",),
    "port",
    "the sliding window is ignored; the patch gives every layer's mask the window of the config",
    "mlx_lm/models/llama.py: LlamaModel.__call__, ModelArgs.layer_types",
    windowed,
)
