"""Masks against torch's softmax: what they let through, and that the rest is exactly nothing."""

from __future__ import annotations

import numpy
import pytest

from workbench.models.masks import MASKED, causal, up_to


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_a_masked_place_has_a_weight_of_exactly_zero(dtype):
    torch = pytest.importorskip("torch")
    scores = 30 * torch.randn(1, 2, 9, 9, generator=torch.Generator().manual_seed(1))
    mask = torch.from_numpy(causal(9))
    weights = torch.softmax((scores + mask).to(getattr(torch, dtype)), dim=-1)
    assert torch.isfinite(mask.half()).all()
    above = torch.ones(9, 9).triu(1).bool()
    assert (weights[..., above] == 0).all() and (weights[..., ~above].amax() > 0)
    expected = torch.softmax(scores.masked_fill(above, -torch.inf).to(getattr(torch, dtype)), dim=-1)
    assert (weights == expected).all() if dtype == "float32" else torch.allclose(weights, expected, atol=2e-2)


@pytest.mark.parametrize("length", [1, 2, 7])
def test_a_row_of_the_causal_mask_is_the_mask_of_a_step(length):
    mask = causal(length)
    assert mask.dtype == numpy.float32 and mask.shape == (1, 1, length, length)
    for position in range(length):
        assert (up_to(position, length)[0, 0, 0] == mask[0, 0, position]).all()
        assert (mask[0, 0, position] == 0).sum() == position + 1
    assert set(numpy.unique(mask)) <= {0.0, MASKED}


@pytest.mark.parametrize("position", [-1, 4])
def test_a_position_outside_of_the_cache_is_refused(position):
    with pytest.raises(ValueError, match="none of 4 places"):
        up_to(position, 4)
