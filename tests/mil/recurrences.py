"""Witnesses of recurrent layers: torch's own layers with MIL's weights, and the definitions written out in float64."""

from __future__ import annotations

import numpy as np
import torch

STEPS, BATCH, FEATURES, HIDDEN = 5, 2, 3, 4


def weights(gates, seed, kind=np.float32, peephole=False):
    """Weights of one direction, in MIL's order of gates."""
    random = np.random.default_rng(seed)
    shapes = {"weight_ih": (gates * HIDDEN, FEATURES), "weight_hh": (gates * HIDDEN, HIDDEN), "bias": (gates * HIDDEN,)}
    if peephole:
        shapes["peephole"] = (3 * HIDDEN,)
    return {name: random.uniform(-1, 1, shape).astype(kind) for name, shape in shapes.items()}


def back(given):
    return {f"{name}_back": value for name, value in given.items()}


def inputs(states, directions=1, kind=np.float32, steps=STEPS):
    random = np.random.default_rng(7)
    found = {"x": random.standard_normal((steps, BATCH, FEATURES)).astype(kind)}
    for name in states:
        found[name] = random.uniform(-1, 1, (BATCH, directions * HIDDEN)).astype(kind)
    return found


# The definitions, in float64.

APPLY = {
    "tanh": np.tanh,
    "scaled_tanh": np.tanh,
    "sigmoid": lambda x: 1 / (1 + np.exp(-x)),
    "hard_sigmoid": lambda x: np.clip(0.2 * x + 0.5, 0, 1),
    "sigmoid_hard": lambda x: np.clip(0.2 * x + 0.5, 0, 1),
    "relu": lambda x: np.maximum(x, 0),
    "linear": lambda x: x,
}


def wide(given):
    return {name: value.astype(np.float64) for name, value in given.items() if isinstance(value, np.ndarray)}


def ordered(steps, direction):
    return steps[::-1] if direction == "reverse" else steps


def lstm_written_out(w, x, h, c, direction="forward", acts=("sigmoid", "tanh", "tanh"), clip=None):
    gate, cell, out = (APPLY[name] for name in acts)
    sees = np.split(w.get("peephole", np.zeros(3 * HIDDEN)), 3)
    every = []
    for one in ordered(x, direction):
        i, f, o, z = np.split(one @ w["weight_ih"].T + h @ w["weight_hh"].T + w.get("bias", 0), 4, axis=1)
        i, f = gate(i + sees[0] * c), gate(f + sees[1] * c)
        c = f * c + i * cell(z)
        if clip is not None:
            c = np.clip(c, -clip, clip)
        h = gate(o + sees[2] * c) * out(c)
        every.append(h)
    return np.stack(every), h, c


def gru_written_out(w, x, h, direction="forward", acts=("sigmoid", "tanh"), reset_after=False):
    gate, out = (APPLY[name] for name in acts)
    (wr, wo, wz), (rr, ro, rz) = np.split(w["weight_ih"], 3), np.split(w["weight_hh"], 3)
    br, bo, bz = np.split(w.get("bias", np.zeros(3 * HIDDEN)), 3)
    ir, io, iz = np.split(w.get("input_bias", np.zeros(3 * HIDDEN)), 3)
    every = []
    for one in ordered(x, direction):
        r = gate(one @ wr.T + ir + h @ rr.T + br)
        z = gate(one @ wz.T + iz + h @ rz.T + bz)
        o = out(one @ wo.T + io + (r * (h @ ro.T + bo) if reset_after else (r * h) @ ro.T + bo))
        h = (1 - z) * o + z * h
        every.append(h)
    return np.stack(every), h


def rnn_written_out(w, x, h, direction="forward", acts=("tanh",)):
    every = []
    for one in ordered(x, direction):
        h = APPLY[acts[0]](one @ w["weight_ih"].T + h @ w["weight_hh"].T + w.get("bias", 0))
        every.append(h)
    return np.stack(every), h


def written(definition, w, sequence, states, **options):
    """``expected`` of one direction from a definition."""

    def expected(x, **given):
        every, *last = definition(wide(w), x.astype(np.float64), *(given[name].astype(np.float64) for name in states), **options)
        return (every if sequence else every[-1:], *last)

    return expected


def written_both(w, w_back, sequence, **options):
    def expected(x, initial_h, initial_c):
        x, h, c = x.astype(np.float64), initial_h.astype(np.float64), initial_c.astype(np.float64)
        ahead = lstm_written_out(wide(w), x, h[:, :HIDDEN], c[:, :HIDDEN], **options)
        behind = lstm_written_out(wide(w_back), x, h[:, HIDDEN:], c[:, HIDDEN:], direction="reverse", **options)
        last_h, last_c = (np.concatenate([ahead[n], behind[n]], axis=1) for n in (1, 2))
        return (np.concatenate([ahead[0], behind[0][::-1]], axis=2) if sequence else last_h[None]), last_h, last_c

    return expected


# torch's layers, with the weights in their order of gates.


def by_torch(layer, order, w, states, direction, sequence, *, second=None, recurrent_bias=None, **options):
    """``expected`` from torch.nn: ``order`` brings MIL's gates into torch's."""

    def put(value):
        gates = np.split(value, len(order))
        return torch.from_numpy(np.concatenate([gates[gate] for gate in order]).astype(np.float64))

    def expected(x, **given):
        net = layer(FEATURES, HIDDEN, bias="bias" in w, bidirectional=second is not None, **options).double()
        with torch.no_grad():
            for side, ending in ((w, "l0"), (second, "l0_reverse")):
                if side is None:
                    continue
                getattr(net, f"weight_ih_{ending}").copy_(put(side["weight_ih"]))
                getattr(net, f"weight_hh_{ending}").copy_(put(side["weight_hh"]))
                if "bias" in side:
                    getattr(net, f"bias_ih_{ending}").copy_(put(side["bias"]))
                    getattr(net, f"bias_hh_{ending}").copy_(0 if recurrent_bias is None else put(recurrent_bias))
            count = 1 if second is None else 2
            hidden = [torch.from_numpy(np.stack(np.split(given[name].astype(np.float64), count, axis=1))) for name in states]
            steps = torch.from_numpy(np.array(ordered(x, direction), np.float64))
            every, last = net(steps, tuple(hidden) if len(hidden) > 1 else hidden[0])
        last = [np.concatenate(list(one.numpy()), axis=1) for one in (last if isinstance(last, tuple) else (last,))]
        return (every.numpy() if sequence else last[0][None], *last)

    return expected
