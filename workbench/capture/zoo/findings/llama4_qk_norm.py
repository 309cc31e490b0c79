"""mlx-vlm 0.7.10 normalises Llama 4's queries and keys with an epsilon of 1e-6; its configuration says 1e-5.

``language.py``, ``Attention.__call__``. transformers takes ``rms_norm_eps``. Small: logits move by some 1e-5 of the largest, more where
queries or keys are small. Maverick does not normalise them. The patch takes the configuration's epsilon.
"""

from contextlib import contextmanager
from unittest.mock import patch

from workbench.capture.zoo.finding import Finding


@contextmanager
def configured(model):
    import mlx.core

    original, epsilon = mlx.core.fast.rms_norm, model.config.text_config.rms_norm_eps

    def normalise(x, weight, eps, **others):
        return original(x, weight, epsilon if weight is None else eps, **others)

    with patch.object(mlx.core.fast, "rms_norm", normalise):
        yield


FINDING = Finding(
    "llama4-qk-norm",
    ("llama4",),
    "port",
    "queries and keys are normalised with an epsilon of 1e-6, not the configuration's",
    "mlx_vlm/models/llama4/language.py: Attention.__call__",
    configured,
)
