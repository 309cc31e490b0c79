"""Recurrent layers: LSTM, GRU and the simple recurrent network, over sequences of shape [steps, batch, features].

Gates lie in MIL's order (LSTM: input, forget, output, cell; GRU: reset, output, update). The cells that torch has run in torch's
own kernels, with their weights brought into torch's order once; the others run step by step.

What the docstrings leave open follows Core ML's layer definitions (mlmodel/format/NeuralNetwork.proto: GRULayerParams, LSTMParams,
BiDirectionalLSTMLayerParams) and the cases that coremltools compares with devices (ops/tests/iOS14/test_recurrent.py):
``reverse`` gives its outputs in the order in which it computes them, last step first, while the backward half of ``bidirectional``
is aligned with time; ``scaled_tanh`` is tanh and ``hard_sigmoid`` is 0.2 x + 0.5 cut to [0, 1]. Weights are const in MIL, so
what is made of them when an op is bound stays (``holds``).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from workbench.mil.errors import UnsupportedError
from workbench.mil.registry import Family, Tensor

recurrent = Family("recurrent")

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "tanh": torch.tanh,
    "scaled_tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
    "hard_sigmoid": lambda x: (0.2 * x + 0.5).clamp(0, 1),
    "relu": torch.relu,
    "linear": lambda x: x,
}
ACTIVATIONS["sigmoid_hard"] = ACTIVATIONS["hard_sigmoid"]  # as the docstring of rnn spells it


def activation_named(name: str) -> Callable[[Tensor], Tensor]:
    """The function of an activation's name, in any case. Raises UnsupportedError."""
    if name.lower() not in ACTIVATIONS:
        raise UnsupportedError(f"the activation {name!r} of a recurrent layer is not known", why=f"known: {', '.join(ACTIVATIONS)}")
    return ACTIVATIONS[name.lower()]


def _named(activations: tuple[str, ...], *plain: str) -> bool:
    """Whether these are the activations of torch's own cell."""
    return all(name.lower() == wanted for name, wanted in zip(activations, plain, strict=True))


def _reordered(weight: Tensor | None, *order: int) -> Tensor | None:
    """The gates' rows in another order."""
    if weight is None:
        return None
    gates = weight.chunk(len(order))
    return torch.cat([gates[gate] for gate in order])


def _unrolled(x: Tensor, h: Tensor, step: Callable[..., Tensor], sequence: bool) -> tuple[Tensor, Tensor]:
    """``step(inputs of one step, h)`` over all steps: (every h or the last one, the last one)."""
    every = []
    for one in x.unbind(0):
        h = step(one, h)
        every.append(h)
    return (torch.stack(every) if sequence else h[None]), h


@recurrent.bind("rnn", holds=("weight_ih", "weight_hh", "bias"))
def rnn(
    x: Tensor,
    initial_h: Tensor,
    weight_ih: Tensor,
    weight_hh: Tensor,
    bias: Tensor | None = None,
    direction: str = "forward",
    output_sequence: bool = False,
    activation: str = "tanh",
) -> Any:
    """h = activation(W_ih x + W_hh h + bias)."""
    apply = activation_named(activation)
    backwards = direction == "reverse"
    kernel = {"tanh": torch.rnn_tanh, "relu": torch.rnn_relu}.get(activation.lower())
    if kernel is not None:
        flat = [weight_ih, weight_hh] + ([] if bias is None else [bias, torch.zeros_like(bias)])

        def fast(x: Tensor, h: Tensor, *_: Tensor) -> tuple[Tensor, Tensor]:
            every, last = kernel(x.flip(0) if backwards else x, h[None], flat, bias is not None, 1, 0.0, False, False, False)
            return (every if output_sequence else last), last[0]

        return fast
    recurrence = weight_hh.t()

    def steps(x: Tensor, h: Tensor, *_: Tensor) -> tuple[Tensor, Tensor]:
        projected = torch.nn.functional.linear(x.flip(0) if backwards else x, weight_ih, bias)
        return _unrolled(projected, h, lambda one, h: apply(torch.addmm(one, h, recurrence)), output_sequence)

    return steps


@recurrent.bind("gru", since="iOS18", holds=("weight_ih", "weight_hh", "bias", "input_bias"))
def gru(
    x: Tensor,
    initial_h: Tensor,
    weight_ih: Tensor,
    weight_hh: Tensor,
    bias: Tensor | None = None,
    direction: str = "forward",
    output_sequence: bool = False,
    recurrent_activation: str = "sigmoid",
    activation: str = "tanh",
    reset_after: bool = False,
    input_bias: Tensor | None = None,
) -> Any:
    """Without ``reset_after`` the reset gate scales h before W_ho, and every bias adds up. With it, it scales W_ho h + b_ho, where
    ``bias`` holds b_ho and ``input_bias`` b_io: torch.nn.GRU, as in coremltools ops/tests/iOS18/test_recurrent.py
    (test_pytorch_parity; the docstring's "before" contradicts the parameter's name)."""
    gate, apply = activation_named(recurrent_activation), activation_named(activation)
    backwards = direction == "reverse"
    if reset_after and _named((recurrent_activation, activation), "sigmoid", "tanh"):
        biased = bias is not None or input_bias is not None
        zeros = weight_ih.new_zeros(weight_ih.shape[0])
        flat = [_reordered(weight_ih, 0, 2, 1), _reordered(weight_hh, 0, 2, 1)]
        if biased:
            flat += [_reordered(zeros if one is None else one, 0, 2, 1) for one in (input_bias, bias)]

        def fast(x: Tensor, h: Tensor, *_: Tensor) -> tuple[Tensor, Tensor]:
            every, last = torch.gru(x.flip(0) if backwards else x, h[None], flat, biased, 1, 0.0, False, False, False)
            return (every if output_sequence else last), last[0]

        return fast
    hidden = weight_hh.shape[1]
    # [H, reset | update] and [H, output]
    both, output = _reordered(weight_hh, 0, 2, 1).t().split((2 * hidden, hidden), dim=1)  # type: ignore[union-attr]
    added = _reordered(input_bias, 0, 2, 1)
    after = None
    if bias is not None:
        recurrent_bias = _reordered(bias, 0, 2, 1)
        if reset_after:
            after = recurrent_bias[2 * hidden :]  # type: ignore[index]
            recurrent_bias = torch.cat([recurrent_bias[: 2 * hidden], torch.zeros_like(after)])  # type: ignore[index]
        added = recurrent_bias if added is None else added + recurrent_bias
    weight = _reordered(weight_ih, 0, 2, 1)

    def step(one: Tensor, h: Tensor) -> Tensor:
        r, z = gate(torch.addmm(one[:, : 2 * hidden], h, both)).chunk(2, dim=1)
        if reset_after:
            inner = h @ output if after is None else torch.addmm(after, h, output)
            o = apply(one[:, 2 * hidden :] + r * inner)
        else:
            o = apply(torch.addmm(one[:, 2 * hidden :], r * h, output))
        return (1 - z) * o + z * h

    def steps(x: Tensor, h: Tensor, *_: Tensor) -> tuple[Tensor, Tensor]:
        projected = torch.nn.functional.linear(x.flip(0) if backwards else x, weight, added)  # type: ignore[arg-type]
        return _unrolled(projected, h, step, output_sequence)

    return steps


@recurrent.bind("gru", holds=("weight_ih", "weight_hh", "bias"))
def gru_reset_before(
    x: Tensor,
    initial_h: Tensor,
    weight_ih: Tensor,
    weight_hh: Tensor,
    bias: Tensor | None = None,
    direction: str = "forward",
    output_sequence: bool = False,
    recurrent_activation: str = "sigmoid",
    activation: str = "tanh",
) -> Any:
    return gru(x, initial_h, weight_ih, weight_hh, bias, direction, output_sequence, recurrent_activation, activation)


@recurrent.bind(
    "lstm",
    holds=(
        *("weight_ih", "weight_hh", "bias", "peephole"),
        *("weight_ih_back", "weight_hh_back", "bias_back", "peephole_back"),
    ),
)
def lstm(
    x: Tensor,
    initial_h: Tensor,
    initial_c: Tensor,
    weight_ih: Tensor,
    weight_hh: Tensor,
    bias: Tensor | None = None,
    peephole: Tensor | None = None,
    weight_ih_back: Tensor | None = None,
    weight_hh_back: Tensor | None = None,
    bias_back: Tensor | None = None,
    peephole_back: Tensor | None = None,
    direction: str = "forward",
    output_sequence: bool = False,
    recurrent_activation: str = "sigmoid",
    cell_activation: str = "tanh",
    activation: str = "tanh",
    clip: float | None = None,
) -> Any:
    """Peepholes: the input and forget gates see the last c, the output gate the new one. ``clip`` bounds the new c."""
    both = direction == "bidirectional"
    sides = [(weight_ih, weight_hh, bias, peephole)]
    if both:
        sides.append((weight_ih_back, weight_hh_back, bias_back, peephole_back))  # type: ignore[arg-type]
    names = (recurrent_activation, cell_activation, activation)
    plain = clip is None and all(side[3] is None for side in sides) and _named(names, "sigmoid", "tanh", "tanh")
    if plain:
        return _lstm_of_torch(sides, direction == "reverse", output_sequence)
    functions = tuple(activation_named(name) for name in names)
    cells = [_lstm_cell(*side, functions, clip, number == 1 or direction == "reverse") for number, side in enumerate(sides)]

    def steps(x: Tensor, h: Tensor, c: Tensor, *_: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        found = [cell(x, *state) for cell, *state in zip(cells, h.chunk(len(cells), 1), c.chunk(len(cells), 1), strict=True)]
        if not both:
            every, h, c = found[0]
            return (torch.stack(every) if output_sequence else h[None]), h, c
        (ahead, *first), (back, *second) = found
        h, c = (torch.cat(pair, dim=1) for pair in zip(first, second, strict=True))
        if not output_sequence:
            return h[None], h, c
        return torch.cat([torch.stack(ahead), torch.stack(back[::-1])], dim=2), h, c

    return steps


def _lstm_of_torch(sides: list[Any], backwards: bool, sequence: bool) -> Callable[..., Any]:
    count = len(sides)
    biased = any(side[2] is not None for side in sides)
    flat = []
    for weight_ih, weight_hh, bias, _ in sides:
        flat += [_reordered(weight_ih, 0, 1, 3, 2), _reordered(weight_hh, 0, 1, 3, 2)]
        if biased:
            zeros = weight_ih.new_zeros(weight_ih.shape[0])
            flat += [zeros if bias is None else _reordered(bias, 0, 1, 3, 2), zeros]

    def fast(x: Tensor, h: Tensor, c: Tensor, *_: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x = x.flip(0) if backwards else x
        if count == 1:
            every, last, cell = torch.lstm(x, (h[None], c[None]), flat, biased, 1, 0.0, False, False, False)
            return (every if sequence else last), last[0], cell[0]
        state = (torch.stack(h.chunk(2, 1)), torch.stack(c.chunk(2, 1)))
        every, last, cell = torch.lstm(x, state, flat, biased, 1, 0.0, False, True, False)
        last, cell = torch.cat(last.unbind(0), 1), torch.cat(cell.unbind(0), 1)
        return (every if sequence else last[None]), last, cell

    return fast


def _lstm_cell(
    weight_ih: Tensor,
    weight_hh: Tensor,
    bias: Tensor | None,
    peephole: Tensor | None,
    functions: tuple[Callable[[Tensor], Tensor], ...],
    clip: float | None,
    backwards: bool,
) -> Callable[..., tuple[list[Tensor], Tensor, Tensor]]:
    """One direction, step by step: (h of every step in the order of computation, the last h, the last c)."""
    gate, cell, out = functions
    recurrence, hidden = weight_hh.t(), weight_hh.shape[1]
    sees = None if peephole is None else peephole.split(hidden)

    def run(x: Tensor, h: Tensor, c: Tensor) -> tuple[list[Tensor], Tensor, Tensor]:
        projected = torch.nn.functional.linear(x, weight_ih, bias).unbind(0)
        every = []
        for one in reversed(projected) if backwards else projected:
            i, f, o, z = torch.addmm(one, h, recurrence).chunk(4, dim=1)
            if sees is not None:
                i, f = i + c * sees[0], f + c * sees[1]
            c = gate(f) * c + gate(i) * cell(z)
            c = c if clip is None else c.clamp(-clip, clip)
            h = gate(o if sees is None else o + c * sees[2]) * out(c)
            every.append(h)
        return every, h, c

    return run
