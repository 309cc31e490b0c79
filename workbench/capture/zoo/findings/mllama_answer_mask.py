"""mlx-vlm 0.7.10 lets the words of an answer see empty tiles, which Llama 3.2 Vision must not see.

An image of fewer than four tiles is filled up with empty ones, which ``cross_attention_mask`` hides. After the prompt ``generate_step``
(``generate/ar.py``) hands on the tiles alone, ``cross_attention_states``, so from the second word of an answer on all four are read, padding
included. transformers repeats the mask's last row for every new word, and so does the patch. Only images of four tiles are answered right.
"""

from unittest.mock import patch

from workbench.capture.zoo.finding import Finding

MASKS = ("cross_attention_mask", "full_text_row_masked_out_mask")


def repeated(model):
    kind = type(model.language_model)
    plain = kind.__call__
    last = {}

    def forward(self, *arguments, **named):
        if named.get("cross_attention_mask") is not None:
            last.update({name: named[name][:, :, -1:] for name in MASKS})
        elif named.get("cross_attention_states") is not None:
            named |= last
        return plain(self, *arguments, **named)

    return patch.object(kind, "__call__", forward)


FINDING = Finding(
    "mllama-answer-mask",
    ("mllama_answer",),
    "port",
    "after the prompt no mask hides empty tiles from an answer's words; the patch repeats the mask's last row",
    "mlx_vlm/generate/ar.py: generate_step; mlx_vlm/models/mllama/language.py: LanguageModel.__call__",
    repeated,
)
