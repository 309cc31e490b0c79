"""Sequence models: recurrent taggers, and a causal transformer whose keys and values live in states."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from tests.mil.whole.comparing import FP32, TIMES_HALF, convert, judge, relative
from workbench.mil import InputError, load


class Tagger(nn.Module):
    """Tokens to a score for every tag, through a recurrent network of any kind; its last state is an output too."""

    def __init__(self, kind: type[nn.Module], **options: Any) -> None:
        super().__init__()
        self.embedding = nn.Embedding(50, 24)
        self.network = kind(24, 20, batch_first=True, **options)
        self.head = nn.Linear(40 if options.get("bidirectional") else 20, 7)

    def forward(self, tokens):
        found, state = self.network(self.embedding(tokens))
        state = torch.cat(state, -1) if isinstance(state, tuple) else state
        return self.head(found), state


@pytest.mark.parametrize(
    "kind, options",
    [
        (nn.LSTM, {"num_layers": 2, "bidirectional": True}),
        (nn.LSTM, {"bias": False}),
        (nn.GRU, {"num_layers": 2, "bidirectional": True}),
        (nn.RNN, {"nonlinearity": "tanh"}),
        (nn.RNN, {"nonlinearity": "relu", "num_layers": 2}),
    ],
    ids=["lstm-2-bidirectional", "lstm-no-bias", "gru-2-bidirectional", "rnn-tanh", "rnn-2-relu"],
)
def test_taggers(tmp_path: Path, kind: type[nn.Module], options: dict[str, Any]) -> None:
    torch.manual_seed(0)
    judge(Tagger(kind, **options).eval(), [torch.randint(0, 50, (1, 19), dtype=torch.int32)], tmp_path, since="iOS17")


WIDTH, HEADS, STEPS, TOKENS = 32, 4, 64, 40


class Decoder(nn.Module):
    """Two causal layers that read and write one cache of keys and one of values, [layer, head, position, channel], at a position.

    ``rounds``: what is written is rounded to fp16, as a state of Core ML is fp16 whatever the program computes in.
    """

    def __init__(self) -> None:
        super().__init__()
        self.rounds = False
        self.embedding = nn.Embedding(TOKENS, WIDTH)
        self.places = nn.Embedding(STEPS, WIDTH)
        self.norms = nn.ModuleList(nn.LayerNorm(WIDTH) for _ in range(4))
        self.projections = nn.ModuleList(nn.Linear(WIDTH, 3 * WIDTH) for _ in range(2))
        self.outs = nn.ModuleList(nn.Linear(WIDTH, WIDTH) for _ in range(2))
        self.wide = nn.ModuleList(nn.Linear(WIDTH, 4 * WIDTH) for _ in range(2))
        self.narrow = nn.ModuleList(nn.Linear(4 * WIDTH, WIDTH) for _ in range(2))
        self.head = nn.Linear(WIDTH, TOKENS)
        for name in ("keys", "values"):
            self.register_buffer(name, torch.zeros(2, HEADS, STEPS, WIDTH // HEADS))

    def forward(self, token, position):
        mask = torch.where(torch.arange(STEPS) > position, -1e4, 0.0).to(self.head.weight.dtype)
        place = position.to(torch.int64)
        x = self.embedding(token) + self.places(position)
        for layer in range(2):
            split = self.projections[layer](self.norms[2 * layer](x)).reshape(3, HEADS, 1, WIDTH // HEADS)
            self.keys[layer : layer + 1, :, place : place + 1] = self.kept(split[1:2])
            self.values[layer : layer + 1, :, place : place + 1] = self.kept(split[2:3])
            found = F.scaled_dot_product_attention(split[0], self.keys[layer], self.values[layer], attn_mask=mask)
            x = x + self.outs[layer](found.reshape(1, WIDTH))
            x = x + self.narrow[layer](F.gelu(self.wide[layer](self.norms[2 * layer + 1](x))))
        return self.head(x)

    def kept(self, x):
        return x.half().to(x.dtype) if self.rounds else x


class Twin:
    """The decoder in torch: a conversation of its own."""

    def __init__(self, model: nn.Module, dtype: torch.dtype) -> None:
        self.model = copy.deepcopy(model).to(dtype)
        self.model.rounds = True

    def step(self, token: int, position: int) -> np.ndarray:
        with torch.inference_mode():
            return self.model(torch.tensor([token]), torch.tensor([position])).double().numpy()


@pytest.fixture(scope="module")
def decoder() -> nn.Module:
    torch.manual_seed(0)
    return Decoder().eval()


@pytest.fixture(scope="module", params=[False, True], ids=["fp32", "fp16"])
def stateful(decoder: nn.Module, request: Any, tmp_path_factory: Any) -> tuple[Path, bool]:
    """(package, whether it is fp16)."""
    import coremltools as ct

    example = [torch.tensor([1], dtype=torch.int32), torch.tensor([2], dtype=torch.int32)]
    shape = tuple(decoder.keys.shape)
    wrapped = ct.TensorType(shape=shape, dtype=np.float16)
    path = convert(
        copy.deepcopy(decoder),
        example,
        tmp_path_factory.mktemp("stateful") / "decoder.mlpackage",
        half=request.param,
        since="iOS18",
        inputs=[ct.TensorType(name, shape=(1,), dtype=np.int32) for name in ("token", "position")],
        states=[ct.StateType(wrapped_type=wrapped, name=name) for name in ("keys", "values")],
        outputs=[ct.TensorType(name="scores")],
    )
    return path, request.param


def test_a_stateful_transformer_over_64_steps(decoder: nn.Module, stateful: tuple[Path, bool]) -> None:
    """Two conversations by turns, each with its own state: every step's scores, and the caches at the end."""
    path, half = stateful
    program = load(path)
    assert [(state.name, state.dtype, state.shape) for state in program.states] == [
        (name, "fp16", tuple(decoder.keys.shape)) for name in ("keys", "values")
    ]
    said = torch.randint(0, TOKENS, (2, STEPS), generator=torch.Generator().manual_seed(1)).tolist()
    states = [program.make_state(), program.make_state()]
    plain = torch.float16 if half else torch.float32
    twins = {dtype: [Twin(decoder, dtype) for _ in said] for dtype in (torch.float64, plain)}
    scores: dict[Any, list[Any]] = {"found": [], **{dtype: [] for dtype in twins}}
    for position in range(STEPS):
        for number, tokens in enumerate(said):
            given = {"token": np.array([tokens[position]]), "position": np.array([position])}
            scores["found"].append(program.predict(given, state=states[number])["scores"])
            for dtype, pair in twins.items():
                scores[dtype].append(pair[number].step(tokens[position], position))
    own = relative(scores[plain], scores[torch.float64])
    if half:
        assert relative(scores["found"], scores[torch.float64]) <= TIMES_HALF * own
    else:
        assert relative(scores["found"], scores[plain]) <= max(FP32, 2 * own)
    for number, state in enumerate(states):
        for name in ("keys", "values"):
            held = state.read(name)
            assert held.dtype == np.float16 and held.shape == tuple(decoder.keys.shape)
            wanted, exact = (getattr(twins[dtype][number].model, name).double().numpy() for dtype in (plain, torch.float64))
            # Values are equal but where the last bits of fp32 decide to which side fp16 rounds.
            allowed = TIMES_HALF * relative([wanted], [exact]) if half else 1e-5
            assert relative([held], [exact if half else wanted]) <= allowed
    assert not np.array_equal(states[0].read("keys"), states[1].read("keys"))


def test_a_state_can_be_saved_and_restored(stateful: tuple[Path, bool]) -> None:
    program = load(stateful[0])
    state, other = program.make_state(), program.make_state()

    def step(token: int, position: int, state: Any) -> np.ndarray:
        return program.predict({"token": [token], "position": [position]}, state=state)["scores"]

    for position, token in enumerate((3, 1, 4, 1, 5)):
        step(token, position, state)
    for name in state.names:
        other.write(name, state.read(name))
    np.testing.assert_array_equal(step(9, 5, other), step(9, 5, state))
    assert not np.array_equal(step(9, 5, program.make_state()), step(9, 5, state))
    with pytest.raises(InputError, match="make_state"):
        program.predict({"token": [1], "position": [0]})
