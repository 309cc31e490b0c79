"""mlx-lm 0.32.2 does not read transformers 5's ``rope_parameters`` for Llama, Mistral and Qwen 2: it takes its own default base, no scaling.

``ModelArgs.from_dict`` keeps the keys it knows (``rope_theta``, ``rope_scaling``) and drops the others. A model that was fine-tuned and saved
with transformers 5 loads without a word and attends by other positions, the more the longer the prompt. (Qwen 3's file was repaired.)
"""

from contextlib import ExitStack, contextmanager
from importlib import import_module
from unittest.mock import patch

from workbench.capture.zoo.finding import Finding


@contextmanager
def rotary_of_the_config(model):
    from mlx_lm.models.rope_utils import initialize_rope

    config = import_module(f"workbench.capture.zoo.families.{model.model_type}").config()
    parameters = config.rope_parameters
    with ExitStack() as stack:
        for layer in model.layers:
            dims = layer.self_attn.rope.dims
            rotary = initialize_rope(dims, parameters["rope_theta"], False, parameters, config.max_position_embeddings)
            stack.enter_context(patch.object(layer.self_attn, "rope", rotary))
        yield


FINDING = Finding(
    "text-rope-v5",
    ("llama", "mistral", "mistral_window", "qwen2"),
    "port",
    "rope_parameters of config.json is ignored; the patch builds the rotary embedding from it",
    "mlx_lm/models/llama.py and qwen2.py: ModelArgs",
    rotary_of_the_config,
    layouts=("v5",),
)
