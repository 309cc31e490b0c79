"""Values that are not finite on both sides alike: a mask's are gone after its softmax, an output's are the result."""

import pytest

from workbench.metrics.drift import Layer
from workbench.metrics.tensors import TensorError
from workbench.parity.tensors import Depth, judged

OWN = TensorError(n=100, reference_square=100.0, error_square=1e-12)


def layer(name, broken=0):
    error = TensorError(100, 100.0, 100.0, 100.0, 1e-12, non_finite_reference=broken, non_finite_candidate=broken)
    return Layer(name, error, OWN)


@pytest.mark.parametrize(
    ("layers", "status", "said"),
    [
        ([layer("scores", 6), layer("softmax"), layer("output.y")], "close", "what follows them is finite"),
        ([layer("scores"), layer("softmax"), layer("output.x", 6), layer("output.y")], "unclear", "and so do outputs"),
        ([layer("scores", 6), layer("logits", 6)], "unclear", "and so do outputs"),
        ([layer("scores"), layer("output.y")], "close", "No layer departs"),
    ],
)
def test_only_what_reaches_the_end_is_in_doubt(layers, status, said):
    found, sentence = judged(Depth(layers, 1, "float32", False), layers)
    assert found == status and said in sentence
