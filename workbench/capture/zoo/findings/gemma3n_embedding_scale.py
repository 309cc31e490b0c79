"""mlx-vlm 0.7.10 does not scale the words of a Gemma 3n prompt by the root of the hidden size, but scales those it generates.

``gemma3n.py``, ``Model.get_input_embeddings`` takes the plain embeddings, and ``language.py``, ``Gemma3Model.__call__`` multiplies by the root
only where it embeds tokens itself, which is in decoding. ``generate_step`` takes the first way for every prompt, with an image or without,
so a prompt enters the residual stream 45 times too small (root of 2048), silently. What that costs a published checkpoint was not measured:
norms undo the factor for the first attention, and the per-layer embeddings are scaled. The patch scales the prompt too (the row has words
alone; image features are not to be scaled).
"""

from contextlib import contextmanager
from unittest.mock import patch

from workbench.capture.zoo.finding import Finding


@contextmanager
def scaled(model):
    kind, root = type(model), model.config.text_config.hidden_size**0.5
    original = kind.get_input_embeddings

    def embed(self, input_ids=None, pixel_values=None, **others):
        made = original(self, input_ids, pixel_values, **others)
        made.inputs_embeds = made.inputs_embeds * root
        return made

    with patch.object(kind, "get_input_embeddings", embed):
        yield


FINDING = Finding(
    "gemma3n-embedding-scale",
    ("gemma3n",),
    "port",
    "the words of a prompt are not scaled by the root of the hidden size, generated ones are; the patch scales both",
    "mlx_vlm/models/gemma3n/gemma3n.py: Model.get_input_embeddings",
    scaled,
)
