"""transformers 5.23 leaves out Cohere's ``logit_scale`` in Aya Vision and Command A Vision: its logits are 4 times too large (16 times in 32B).

The scale is 0.25 in the 8B and in Command A, 0.0625 in the 32B. ``Cohere2ForCausalLM`` and ``CohereForCausalLM`` multiply after the head;
``AyaVisionForConditionalGeneration`` and ``Cohere2VisionForConditionalGeneration`` have a head of their own and do not. Greedy answers are
the same. Sampling is as at a quarter of the temperature asked for, log-probabilities and perplexities are wrong, and fine-tuning adapts the
model to another scale than the one other runtimes then apply. mlx-vlm does scale.
"""

from unittest.mock import patch

from workbench.capture.zoo.finding import Finding


def scaled(model):
    whole = model.lm_head.forward
    scale = model.config.text_config.logit_scale
    return patch.object(model.lm_head, "forward", lambda hidden: whole(hidden) * scale)


FINDING = Finding(
    "aya-logit-scale",
    ("aya_vision", "aya_vision_32b", "cohere2_vision"),
    "reference",
    "the logits are not multiplied by logit_scale; the patch multiplies",
    "transformers/models/aya_vision/modeling_aya_vision.py and cohere2_vision: ForConditionalGeneration.forward",
    scaled,
)
