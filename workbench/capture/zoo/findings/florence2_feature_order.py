"""mlx-vlm 0.7.10 hands Florence-2's encoder the image tokens in another order than the model was trained with.

Published configs keep ``image_feature_source: ["spatial_avg_pool", "temporal_avg_pool"]`` within ``vision_config``; the port looks for it at the
root, does not find it, and takes its own default, the other way round. The averaged token comes last instead of first and all patch tokens
move up one learned position of the encoder, on every image. What that costs was not measured; boxes and regions depend on it most.
"""

from unittest.mock import patch

from workbench.capture.zoo.finding import Finding

FINDING = Finding(
    "florence2-feature-order",
    ("florence2",),
    "port",
    "image_feature_source is looked for in the wrong place and defaults to the reverse; the patch restores the published order",
    "mlx_vlm/models/florence2/config.py: ModelConfig.image_feature_source",
    lambda model: patch.object(model, "image_feature_source", ["spatial_avg_pool", "temporal_avg_pool"]),
    layouts=("hub",),
)
