"""Florence-2: Microsoft's keys, which transformers 5 does not read (it reads florence-community's, which it also writes).

The settings of the image features (``image_feature_source``, both position embeddings) are keys of ``vision_config`` there.
Source: config.json and the remote code's module names of microsoft/Florence-2-base, as the port's loader has them too.
"""

from workbench.convert.layout import Layout

VISION = {"embed_dim": "dim_embed", "in_channels": "in_chans"}


def config(config):
    vision, text = config["vision_config"], config["text_config"]
    vision |= {old: vision.pop(new) for new, old in VISION.items()}
    vision["model_type"] = "davit"
    vision["image_pos_embed"] = {"type": "learned_abs_2d", "max_pos_embeddings": vision.pop("max_position_embeddings")}
    vision["visual_temporal_embedding"] = {"type": "COSINE", "max_temporal_embeddings": vision.pop("max_temporal_embeddings")}
    vision["image_feature_source"] = ["spatial_avg_pool", "temporal_avg_pool"]
    text["model_type"] = "florence2_language"
    config |= {"vocab_size": text["vocab_size"], "projection_dim": vision["projection_dim"]}


def weights(weights, config):
    return {**weights, "image_projection": weights["image_projection"].T}


LAYOUT = Layout(
    ("florence2",),
    config=config,
    renames=(
        (r"^model\.(vision_tower)\.", r"\1."),
        (r"^model\.language_model\.", "language_model.model."),
        (r"^model\.multi_modal_projector\.image_projection\.weight", "image_projection"),
        (r"^model\.multi_modal_projector\.image_position_embed\.", "image_pos_embed."),
        (r"^model\.multi_modal_projector\.", ""),
        (r"(convs\.\d+)\.conv\.", r"\1.proj."),
        (r"_block\.(conv[12])\.", r"_block.\1.fn.dw."),
        (r"(spatial)_block\.norm1\.", r"\1_block.window_attn.norm."),
        (r"(channel)_block\.norm1\.", r"\1_block.channel_attn.norm."),
        (r"_block\.norm2\.", "_block.ffn.norm."),
        (r"_attn\.(qkv|proj)\.", r"_attn.fn.\1."),
        (r"_block\.ffn\.(fc[12])\.", r"_block.ffn.fn.net.\1."),
    ),
    weights=weights,
    reads_back=False,
    source="microsoft/Florence-2-base",
)
