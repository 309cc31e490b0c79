"""mlx-vlm 0.7.10 normalises Molmo 7B-D's text with an epsilon of 1e-5, ten times the 1e-6 that it was trained with.

Published configs have ``layer_norm_eps`` at the root and no ``text_config``; the port reads text settings from there alone and else has its own
defaults, which are 7B-D's in everything but this. The first norm suffers most: token embeddings are small, and the smaller, the more an
epsilon weighs against them.
"""

from contextlib import ExitStack, contextmanager
from unittest.mock import patch

from workbench.capture.zoo.finding import Finding


@contextmanager
def published_epsilon(model):
    text = model.language_model.model
    norms = [text.ln_f, *(norm for block in text.blocks for norm in (block.attn_norm, block.ff_norm))]
    with ExitStack() as stack:
        for norm in norms:
            stack.enter_context(patch.object(norm, "eps", 1e-6))
        yield


FINDING = Finding(
    "molmo-eps",
    ("molmo",),
    "port",
    "the text's norms have the port's own epsilon of 1e-5; the patch gives them the published 1e-6",
    "mlx_vlm/models/molmo/config.py: TextConfig.layer_norm_eps",
    published_epsilon,
)
