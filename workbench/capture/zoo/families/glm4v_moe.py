"""GLM-4.5V: the vision tower of GLM-4.1V, and GLM-4.5 with M-RoPE over half of each head and experts after the first layer.

The cases are those of GLM-4.1V. The router's correction, which training leaves non-zero, is drawn too: it decides which experts are taken and
not how much each counts.
"""

from workbench.capture.zoo import reference
from workbench.capture.zoo.families.glm4v import TOKENS, cases, videos
from workbench.capture.zoo.family import Family


def config():
    from transformers import Glm4vMoeConfig

    return Glm4vMoeConfig(
        vision_config={
            "depth": 3,
            "hidden_size": 48,
            "intermediate_size": 100,
            "num_heads": 4,
            "out_hidden_size": 96,
            "image_size": 84,
            "patch_size": 14,
            "rms_norm_eps": 1e-5,
        },
        text_config={
            "vocab_size": 1000,
            "hidden_size": 96,
            "intermediate_size": 200,
            "moe_intermediate_size": 72,
            "num_hidden_layers": 3,
            "num_attention_heads": 2,
            "num_key_value_heads": 1,
            "head_dim": 128,
            "n_routed_experts": 8,
            "num_experts_per_tok": 3,
            "n_shared_experts": 1,
            "first_k_dense_replace": 1,
            "attention_bias": True,
            "rms_norm_eps": 1e-5,
            "pad_token_id": 3,
            "eos_token_id": [2],
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 10000.0,
                "mrope_section": [8, 12, 12],
                "partial_rotary_factor": 0.5,
            },
        },
        **TOKENS,
    )


def build(config):
    """The experts one by one (transformers' grouped product knows no float64), and the router's correction drawn."""
    import torch

    config._experts_implementation = "eager"
    model = reference.build(config)
    random = torch.Generator().manual_seed(0)
    for name, values in model.named_buffers():
        if name.endswith("e_score_correction_bias"):
            values.copy_(0.2 * (torch.rand(values.shape, generator=random) - 0.5))
    return model


FAMILIES = (
    Family("glm4v_moe", "GLM-4.5V: GLM-4.1V's tower, GLM-4.5 with M-RoPE and experts", config, cases, build=build),
    Family("glm4v_moe_video", "GLM-4.5V on a video", config, videos, build=build),
)
