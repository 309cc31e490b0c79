"""mlx-vlm 0.7.10 turns the queries of Gemma 3n's last layers to positions that lie too late: by one token in generation.

The last layers take keys and values from an earlier layer's cache. ``language.py``, ``Gemma3nAttention.__call__`` takes ``cache.offset`` for
the position of the first query, but the earlier layer has already put this pass's tokens into the cache: queries are late by as many.
``generate_step`` passes the last token of a prompt and every new one alone, so 10 of 30 layers in E2B and 15 of 35 in E4B see everything
one token further away than it is; a whole prompt in one pass (as in training, or scoring by it) is late by its length. mlx-lm 0.32.2 has it
right. The patch takes back what was added.
"""

from contextlib import ExitStack, contextmanager
from unittest.mock import patch

from workbench.capture.zoo.finding import Finding


@contextmanager
def from_the_beginning(model):
    def turned(rope):
        return lambda queries, offset: rope(queries, offset=offset - queries.shape[2])

    with ExitStack() as stack:
        for layer in model.language_model.layers:
            if layer.self_attn.is_kv_shared_layer:
                stack.enter_context(patch.object(layer.self_attn, "rope", turned(layer.self_attn.rope)))
        yield


FINDING = Finding(
    "gemma3n-shared-positions",
    ("gemma3n",),
    "port",
    "layers that share keys and values turn their queries by a cache offset that counts this pass's tokens already; the patch takes them back",
    "mlx_vlm/models/gemma3n/language.py: Gemma3nAttention.__call__",
    from_the_beginning,
)
