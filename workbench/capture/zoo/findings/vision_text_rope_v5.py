"""mlx-vlm 0.7.10 does not read transformers 5's ``rope_parameters`` in SmolVLM's and LLaVA-OneVision's text configuration, but takes a default.

``TextConfig.from_dict`` keeps ``rope_theta`` and drops what it does not know. A model fine-tuned and saved with transformers 5 loads without a
word and attends by other positions, unless its base is the default 1000000, as LLaVA-OneVision's is as published; SmolVLM2 has others.
"""

from contextlib import ExitStack, contextmanager
from unittest.mock import patch

from workbench.capture.zoo.finding import Finding
from workbench.capture.zoo.reference import read_config


@contextmanager
def base_of_the_config(model):
    from mlx import nn

    base = read_config(model.model_path)["text_config"]["rope_parameters"]["rope_theta"]
    with ExitStack() as stack:
        for layer in model.layers:
            rotary = nn.RoPE(layer.self_attn.rope.dims, traditional=False, base=base)
            stack.enter_context(patch.object(layer.self_attn, "rope", rotary))
        yield


FINDING = Finding(
    "vision-text-rope-v5",
    ("smolvlm", "smolvlm_2b", "llava_onevision"),
    "port",
    "rope_parameters of the text is ignored; the patch builds the rotary embedding from it",
    "mlx_vlm/models/smolvlm/config.py and llava_onevision/config.py: TextConfig",
    base_of_the_config,
    layouts=("v5",),
)
