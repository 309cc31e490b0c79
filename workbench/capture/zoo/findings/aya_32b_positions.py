"""mlx-vlm 0.7.10 runs the 32B Aya Vision, which has Cohere 1, as Cohere 2: every fourth layer goes without positions.

The text of the 8B is Cohere 2 (three layers with a window and rotary positions, then one with neither), that of the 32B is Cohere 1, which
rotates in every layer and has no window; config.json says so (``text_config.model_type`` is ``cohere``). The port has one class for both, and
where no pattern is given takes its default of 4 and a window of 4096: a quarter of the layers does not know the order of words, the
others do not look back beyond 4096 tokens (not measured here: prompts are short). Silently. The patch rotates in every layer.
"""

from contextlib import ExitStack, contextmanager
from unittest.mock import patch

from workbench.capture.zoo.finding import Finding


@contextmanager
def rotated(model):
    with ExitStack() as stack:
        for layer in model.language_model.layers:
            stack.enter_context(patch.object(layer.self_attn, "use_sliding_window", True))
        yield


FINDING = Finding(
    "aya-32b-positions",
    ("aya_vision_32b",),
    "port",
    "Cohere 1 is run as Cohere 2, every fourth layer without positions; the patch gives positions to all",
    "mlx_vlm/models/aya_vision/language.py: Attention.__init__; config.py: TextConfig.sliding_window_pattern",
    rotated,
)
