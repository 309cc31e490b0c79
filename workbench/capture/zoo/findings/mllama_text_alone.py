"""mlx-vlm 0.7.10 runs the cross-attention layers of Llama 3.2 Vision on a prompt without an image, on keys made of the queries.

``language.py``, ``MllamaTextCrossAttention.__call__`` splits the queries in two and takes them for keys and values where there is no image,
and no mask keeps it from the words to come. transformers (and Meta's code) skip these layers then: they have nothing to look at. A question
without an image gets another model's answer. The patch skips them.
"""

from contextlib import contextmanager
from unittest.mock import patch

from workbench.capture.zoo.finding import Finding


@contextmanager
def skipped(model):
    layers = model.language_model.model.layers
    kind = type(layers[model.config.text_config.cross_attention_layers[0]])
    original = kind.__call__

    def forward(self, hidden_states, cross_attention_states=None, **others):
        if cross_attention_states is None:
            return hidden_states
        return original(self, hidden_states, cross_attention_states=cross_attention_states, **others)

    with patch.object(kind, "__call__", forward):
        yield


FINDING = Finding(
    "mllama-text-alone",
    ("mllama",),
    "port",
    "without an image the cross-attention layers run on keys made of the queries; skipped, as they are to be, parity returns",
    "mlx_vlm/models/mllama/language.py: MllamaTextCrossAttention.__call__",
    skipped,
)
