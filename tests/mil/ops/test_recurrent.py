"""Golden cases: recurrent layers, against torch's layers (their own cells) and the definitions written out (all others)."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from coremltools.converters.mil import Builder as mb

from tests.mil.building import run, save
from tests.mil.cases import Case, check, close
from tests.mil.recurrences import (
    FEATURES,
    HIDDEN,
    STEPS,
    back,
    by_torch,
    gru_written_out,
    inputs,
    lstm_written_out,
    rnn_written_out,
    weights,
    written,
    written_both,
)
from workbench.mil import load
from workbench.mil.errors import MilError


def op(name, given, **options):
    """A build that calls ``mb.<name>`` with these weights."""
    return lambda **states: mb_op(name)(**states, **given, **options)


def mb_op(name):
    return getattr(mb, name)


LSTM, GRU, RNN = ("initial_h", "initial_c"), ("initial_h",), ("initial_h",)
CASES = []


def add(
    name,
    opset,
    given,
    expected,
    source,
    label,
    *,
    kind=np.float32,
    directions=1,
    tolerance=2e-6,
    reading=None,
    steps=STEPS,
    **options,
):
    CASES.append(
        Case(
            name,
            opset,
            op(name, given, **options),
            inputs(LSTM if name == "lstm" else RNN, directions, kind, steps),
            expected,
            source,
            label,
            tolerance,
            {"precision": reading} if reading else {},
        )
    )


def without(given, *names):
    return {name: value for name, value in given.items() if name not in names}


for opset in ("iOS15", "iOS17"):
    for direction in ("forward", "reverse"):
        for sequence in (False, True):
            for biased in (False, True) if opset == "iOS15" else (sequence,):
                label = f"{direction}-{'every' if sequence else 'last'}-{'bias' if biased else 'plain'}"
                flags = {"direction": direction, "output_sequence": sequence}
                for name, layer, order, states in (
                    ("lstm", torch.nn.LSTM, (0, 1, 3, 2), LSTM),
                    ("rnn", torch.nn.RNN, (0,), RNN),
                ):
                    w = weights(len(order), 1) if biased else without(weights(len(order), 1), "bias")
                    add(name, opset, w, by_torch(layer, order, w, states, direction, sequence), "torch", label, **flags)
                w = weights(3, 2) if biased else without(weights(3, 2), "bias")
                expected = written(gru_written_out, w, sequence, GRU, direction=direction)
                add("gru", opset, w, expected, "definition", label, **flags)
        w, w_back = weights(4, 3), weights(4, 4)
        expected = by_torch(torch.nn.LSTM, (0, 1, 3, 2), w, LSTM, "forward", direction == "reverse", second=w_back)
        flags = {"direction": "bidirectional", "output_sequence": direction == "reverse"}
        add("lstm", opset, w | back(w_back), expected, "torch", f"both-{flags['output_sequence']}", directions=2, **flags)

# Every activation in every role: one program for a role, one output for a name.
NAMES = ("tanh", "scaled_tanh", "sigmoid", "hard_sigmoid", "relu", "linear")
ROLES = {
    "lstm": (("recurrent_activation", "sigmoid"), ("cell_activation", "tanh"), ("activation", "tanh")),
    "gru": (("recurrent_activation", "sigmoid"), ("activation", "tanh")),
    "rnn": (("activation", "tanh"),),
}


def every_activation(name, opset, definition, w, **flags):
    states = LSTM if name == "lstm" else RNN
    names = NAMES if name != "rnn" else (*NAMES, "sigmoid_hard")
    for role, (parameter, _) in enumerate(ROLES[name]):
        acts = [tuple(one if place == role else usual for place, (_, usual) in enumerate(ROLES[name])) for one in names]

        def build(parameter=parameter, **given):
            return [mb_op(name)(**given, **w, **{parameter: one}, output_sequence=True, **flags)[0] for one in names]

        def expected(acts=acts, **given):
            return tuple(written(definition, w, True, states, acts=one, **flags)(**given)[0] for one in acts)

        CASES.append(Case(name, opset, build, inputs(states), expected, "definition", f"every-{parameter}-{len(flags)}"))


every_activation("lstm", "iOS15", lstm_written_out, weights(4, 5, peephole=True))
every_activation("lstm", "iOS17", lstm_written_out, weights(4, 5))
every_activation("gru", "iOS15", gru_written_out, weights(3, 6))
every_activation("gru", "iOS18", gru_written_out, weights(3, 6), reset_after=True)
every_activation("rnn", "iOS15", rnn_written_out, weights(1, 7))

# Peepholes, and a clip that bites and one that does not.
for clip in (None, 0.3, 50.0):
    for direction in ("forward", "reverse"):
        w = weights(4, 8, peephole=True)
        flags = {"output_sequence": True, "direction": direction} | ({} if clip is None else {"clip": np.float32(clip)})
        expected = written(lstm_written_out, w, True, LSTM, direction=direction, clip=clip)
        add("lstm", "iOS17", w, expected, "definition", f"peephole-{direction}-{clip}", **flags)
w, w_back = weights(4, 8, peephole=True), weights(4, 9, peephole=True)
for sequence in (False, True):
    expected = written_both(w, w_back, sequence, clip=0.4)
    flags = {"output_sequence": sequence, "direction": "bidirectional", "clip": np.float32(0.4)}
    add("lstm", "iOS15", w | back(w_back), expected, "definition", f"both-peephole-{sequence}", directions=2, **flags)
expected = written_both(without(w, "peephole"), without(w_back, "bias"), True)
given = without(w, "peephole") | back(without(w_back, "bias"))
add(
    "lstm",
    "iOS15",
    given,
    expected,
    "definition",
    "one-side-of-each",
    directions=2,
    output_sequence=True,
    direction="bidirectional",
)
given, expected = without(w, "peephole", "bias") | back(without(w_back, "peephole")), None
expected = written_both(without(w, "peephole", "bias"), without(w_back, "peephole"), True)
add(
    "lstm",
    "iOS15",
    given,
    expected,
    "definition",
    "bias-behind-only",
    directions=2,
    output_sequence=True,
    direction="bidirectional",
)
w = weights(4, 10)
add(
    "lstm",
    "iOS15",
    w,
    by_torch(torch.nn.LSTM, (0, 1, 3, 2), w, LSTM, "forward", True),
    "torch",
    "one-step",
    steps=1,
    output_sequence=True,
)

# iOS18: input_bias and reset_after. torch's update gate is its second, its new gate MIL's output gate.
w, ahead = weights(3, 11), weights(3, 12)["bias"]
for direction in ("forward", "reverse"):
    for sequence in (False, True):
        flags = {"direction": direction, "output_sequence": sequence}
        swapped = w | {"bias": ahead}
        expected = by_torch(torch.nn.GRU, (0, 2, 1), swapped, GRU, direction, sequence, recurrent_bias=w["bias"])
        given = w | {"input_bias": ahead}
        add("gru", "iOS18", given, expected, "torch", f"after-{direction}-{sequence}", reset_after=True, **flags)
        expected = written(gru_written_out, given, sequence, GRU, direction=direction)
        add("gru", "iOS18", given, expected, "definition", f"before-{direction}-{sequence}", **flags)
for label, given in (
    ("no-bias", without(w, "bias")),
    ("recurrent-bias", w),
    ("input-bias", without(w, "bias") | {"input_bias": ahead}),
):
    for after in (False, True):
        expected = written(gru_written_out, given, True, GRU, reset_after=after)
        add("gru", "iOS18", given, expected, "definition", f"{label}-{after}", output_sequence=True, reset_after=after)
    acts = {"recurrent_activation": "sigmoid", "activation": "relu"}
    expected = written(gru_written_out, given, True, GRU, reset_after=True, acts=tuple(acts.values()))
    add("gru", "iOS18", given, expected, "definition", f"{label}-steps", output_sequence=True, reset_after=True, **acts)

# fp16: half a unit of the result's last place where fp32 carries it; torch's own fp16 within a few.
for reading, tolerance in (("fp16-weights", 5e-4), ("native", 4e-3), ("emulate", 5e-4)):
    half = np.float16
    w = weights(4, 13, half)
    expected = written(lstm_written_out, w, True, LSTM)
    add(
        "lstm",
        "iOS17",
        w,
        expected,
        "definition",
        f"fp16-{reading}",
        kind=half,
        tolerance=tolerance,
        reading=reading,
        output_sequence=True,
    )
    w = weights(4, 13, half, peephole=True)
    expected = written(lstm_written_out, w, True, LSTM, clip=0.5)
    flags = {"output_sequence": True, "clip": half(0.5)}
    add(
        "lstm",
        "iOS17",
        w,
        expected,
        "definition",
        f"fp16-steps-{reading}",
        kind=half,
        tolerance=tolerance,
        reading=reading,
        **flags,
    )
    w = weights(3, 14, half)
    for after in (False, True):
        flags = {"output_sequence": True, "reset_after": after}
        expected = written(gru_written_out, w, True, GRU, reset_after=after)
        add(
            "gru",
            "iOS18",
            w,
            expected,
            "definition",
            f"fp16-{after}-{reading}",
            kind=half,
            tolerance=tolerance,
            reading=reading,
            **flags,
        )
    w = weights(3, 14, half)
    expected = written(gru_written_out, w, True, GRU)
    add(
        "gru",
        "iOS17",
        w,
        expected,
        "definition",
        f"fp16-{reading}",
        kind=half,
        tolerance=tolerance,
        reading=reading,
        output_sequence=True,
    )
    w = weights(1, 15, half)
    for name in ("tanh", "hard_sigmoid"):
        expected = written(rnn_written_out, w, True, RNN, acts=(name,))
        flags = {"output_sequence": True, "activation": name}
        add(
            "rnn",
            "iOS17",
            w,
            expected,
            "definition",
            f"fp16-{name}-{reading}",
            kind=half,
            tolerance=tolerance,
            reading=reading,
            **flags,
        )


@pytest.mark.parametrize("case", CASES, ids=str)
def test_golden(case, tmp_path):
    check(case, tmp_path)


def test_an_activation_nobody_knows(tmp_path):
    with pytest.raises(MilError, match="softsign"):
        run(op("rnn", weights(1, 7), activation="softsign"), inputs(RNN), tmp_path)


def test_sequences_of_any_length(tmp_path):
    """One loaded program, several lengths and batches: what is bound to one shape is not used for another."""
    w = weights(4, 16)
    names = {
        "x": ((None, None, FEATURES), np.float32),
        "initial_h": ((None, HIDDEN), np.float32),
        "initial_c": ((None, HIDDEN), np.float32),
    }
    program = load(save(op("lstm", w, output_sequence=True), names, tmp_path))
    for steps, batch in ((3, 2), (1, 4), (6, 1), (3, 2)):
        random = np.random.default_rng(steps)
        given = {
            "x": random.standard_normal((steps, batch, FEATURES)).astype(np.float32),
            "initial_h": random.standard_normal((batch, HIDDEN)).astype(np.float32),
            "initial_c": random.standard_normal((batch, HIDDEN)).astype(np.float32),
        }
        wanted = by_torch(torch.nn.LSTM, (0, 1, 3, 2), w, LSTM, "forward", True)(**given)
        for one, other in zip(program.predict(given).values(), wanted, strict=True):
            close(one, other, 2e-6)
