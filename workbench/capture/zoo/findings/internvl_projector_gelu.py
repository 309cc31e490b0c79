"""mlx-vlm 0.7.10 computes the activation between InternVL's two projector layers by the tanh approximation, not by the exact GELU that
``projector_hidden_act`` names (only in the package for transformers' names; ``internvl_chat`` has the exact one).
"""

from unittest.mock import patch

from workbench.capture.zoo.finding import Finding


def exact(model):
    from mlx import nn

    return patch.object(model.multi_modal_projector, "activation", nn.GELU())


FINDING = Finding(
    "internvl-projector-gelu",
    ("internvl",),
    "port",
    "the projector's GELU is the tanh approximation, whatever projector_hidden_act says; the patch computes the exact one",
    "mlx_vlm/models/internvl/internvl.py: MultiModalProjector",
    exact,
)
