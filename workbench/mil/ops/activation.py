"""Activation functions. From iOS17 their constants may be of another float type than the input."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F

from workbench.mil.errors import ExecutionError
from workbench.mil.registry import Family, Tensor

activation = Family("activation")


@activation.op("clamped_relu")
def clamped_relu(x: Tensor, alpha: float, beta: Tensor) -> Tensor:
    """min(beta, x) where x >= 0, else min(beta, alpha x)."""
    return torch.minimum(F.leaky_relu(x, alpha), beta)


@activation.op("elu")
def elu(x: Tensor, alpha: float) -> Tensor:
    return F.elu(x, alpha)


_GELU: dict[str, Callable[[Tensor], Tensor]] = {
    "EXACT": F.gelu,
    "TANH_APPROXIMATION": lambda x: F.gelu(x, approximate="tanh"),
    "SIGMOID_APPROXIMATION": lambda x: x * torch.sigmoid(1.702 * x),
}


@activation.bind("gelu")
def gelu(x: Tensor, mode: str = "EXACT") -> Callable[[Tensor], Tensor]:
    if mode not in _GELU:
        raise ExecutionError(f"gelu has no mode {mode!r}", why=f"known: {', '.join(_GELU)}")
    return _GELU[mode]


@activation.op("leaky_relu")
def leaky_relu(x: Tensor, alpha: float) -> Tensor:
    return F.leaky_relu(x, alpha)


@activation.op("linear_activation")
def linear_activation(x: Tensor, alpha: float, beta: float) -> Tensor:
    return (x * alpha).add_(beta)


@activation.op("prelu")
def prelu(x: Tensor, alpha: Tensor) -> Tensor:
    """x [B, C, ...], alpha [C]."""
    return F.prelu(x, alpha.to(x.dtype))


@activation.op("relu", moves=True)
def relu(x: Tensor) -> Tensor:
    return torch.relu(x)


@activation.op("relu6", moves=True)
def relu6(x: Tensor) -> Tensor:
    return torch.clamp(x, 0, 6)


@activation.op("scaled_tanh")
def scaled_tanh(x: Tensor, alpha: float, beta: float) -> Tensor:
    """alpha tanh(beta x)."""
    return (x * beta).tanh_().mul_(alpha)


@activation.op("sigmoid")
def sigmoid(x: Tensor) -> Tensor:
    return torch.sigmoid(x)


@activation.op("sigmoid_hard")
def sigmoid_hard(x: Tensor, alpha: float, beta: float) -> Tensor:
    return (x * alpha).add_(beta).clamp_(0, 1)


@activation.op("silu")
def silu(x: Tensor) -> Tensor:
    return F.silu(x)


@activation.op("softmax")
def softmax(x: Tensor, axis: int = -1) -> Tensor:
    return torch.softmax(x, axis)


@activation.op("softplus")
def softplus(x: Tensor) -> Tensor:
    """log(1 + e^x); x itself above 20, where the two are one number even in fp32."""
    return F.softplus(x)


@activation.bind("softplus_parametric")
def softplus_parametric(x: Tensor, alpha: Tensor, beta: Tensor) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    """alpha_c log(1 + e^(beta_c x)); x [B, C, ...], alpha and beta [C]. Large beta_c x do not overflow."""
    shape = (-1,) + (1,) * (x.ndim - 2)
    dtype = x.dtype
    return lambda x, alpha, beta: F.softplus(x * beta.to(dtype).view(shape)).mul_(alpha.to(dtype).view(shape))


@activation.op("softsign")
def softsign(x: Tensor) -> Tensor:
    return F.softsign(x)


@activation.op("thresholded_relu", moves=True)
def thresholded_relu(x: Tensor, alpha: float) -> Tensor:
    """x where x >= alpha, alpha itself included, unlike torch's threshold."""
    return x.masked_fill(x < alpha, 0)
