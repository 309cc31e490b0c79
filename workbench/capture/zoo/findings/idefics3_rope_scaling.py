"""mlx-vlm 0.7.10 leaves out the rotary scaling of Idefics3's text.

Idefics3-8B-Llama3 is made from Llama 3.1: its ``text_config`` has ``rope_scaling`` of type llama3, factor 8. ``config.py``, ``TextConfig`` has no
such field and drops it, so the slowest frequencies turn up to 8 times too fast. Little at first, more with every token: images are
long prompts (169 tokens a crop, up to 17 crops). No error. The patch builds the rotary embedding with the scaling.
"""

from contextlib import ExitStack, contextmanager
from unittest.mock import patch

from workbench.capture.zoo.finding import Finding


@contextmanager
def scaled(model):
    from mlx_vlm.models.rope_utils import initialize_rope

    from workbench.capture.zoo.families.idefics3 import config  # the port's configuration does not keep the scaling

    text = config().text_config
    size, longest = text.hidden_size // text.num_attention_heads, text.max_position_embeddings
    with ExitStack() as stack:
        for layer in model.language_model.layers:
            rotary = initialize_rope(size, layer.self_attn.rope.base, False, text.rope_parameters, longest)
            stack.enter_context(patch.object(layer.self_attn, "rope", rotary))
        yield


FINDING = Finding(
    "idefics3-rope-scaling",
    ("idefics3",),
    "port",
    "the published rotary scaling of Llama 3.1 is dropped; the patch applies it",
    "mlx_vlm/models/idefics3/config.py: TextConfig; language.py: Attention.__init__",
    scaled,
    layouts=("hub",),
)
