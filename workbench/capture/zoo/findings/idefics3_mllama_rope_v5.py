"""mlx-vlm 0.7.10 does not read transformers 5's ``rope_parameters`` in the text configurations of Idefics3 and Llama 3.2 Vision.

``config.py``, ``TextConfig`` knows ``rope_theta`` (and, for Llama 3.2 Vision, ``rope_scaling``) and drops the rest. A model fine-tuned and saved
with transformers 5 loads without a word and attends by other positions: without scaling, and with base 1000000 (Idefics3) or 10000
(Llama 3.2 Vision) for 500000. The patch builds the rotary embedding from the row's configuration.
"""

from contextlib import ExitStack, contextmanager
from importlib import import_module
from unittest.mock import patch

from workbench.capture.zoo.finding import Finding


@contextmanager
def rotary_of_the_config(model):
    from mlx_vlm.models.rope_utils import initialize_rope

    text = import_module(f"workbench.capture.zoo.families.{model.config.model_type}").config().text_config
    parameters, size = text.rope_parameters, text.hidden_size // text.num_attention_heads
    with ExitStack() as stack:
        for layer in model.language_model.layers:
            if "self_attn" in layer:
                rotary = initialize_rope(size, parameters["rope_theta"], False, parameters, text.max_position_embeddings)
                stack.enter_context(patch.object(layer.self_attn, "rope", rotary))
        yield


FINDING = Finding(
    "idefics3-mllama-rope-v5",
    ("idefics3", "mllama"),
    "port",
    "rope_parameters of the text is ignored; the patch builds the rotary embedding from it",
    "mlx_vlm/models/idefics3/config.py and mllama/config.py: TextConfig",
    rotary_of_the_config,
    layouts=("v5",),
)
