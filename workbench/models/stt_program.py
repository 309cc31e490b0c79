"""Exported speech models as a ``SpeechRuntime``: an encoder and a decoder that map named arrays to named arrays.

    runtime = ProgramSpeech(encoder, decoder, Layout(caches={"past.0.key": "present.0.key"}, empty={"past.0.key": (3, 0, 32)}), sizes)
    WhisperSpeech(spec, runtime, tokens, options)

A program is any callable from ``{name: numpy array}`` to ``{name: numpy array}``: an ONNX session, a Core ML model, an engine, or a
module that is to be exported. What such programs differ in is said by ``Layout``, so the same decoding loop drives all of them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from workbench.errors import ItemError, ModelError

Program = Callable[[Mapping[str, Any]], Mapping[str, Any]]


@dataclass(frozen=True)
class Layout:
    """The names of the arrays, and how the decoder keeps what it has read.

    ``from_encoder``: outputs of the encoder that the decoder takes under the same names (its states, or keys and values over them).
    ``caches``: the decoder's input for each of its outputs that the next step needs, by input name; ``empty`` are their shapes without the
    leading batch before the first token: a 0 where they grow, or all positions where ``position`` names the input that says how many
    are filled. Without caches the decoder is given all tokens at each step. ``one_token``: it takes one token at a time only.
    ``attention``: an output float (batch, layers, heads, tokens, positions), for word times.
    """

    mel: str = "mel"
    from_encoder: tuple[str, ...] = ("encoded",)
    tokens: str = "tokens"
    logits: str = "logits"
    caches: Mapping[str, str] = field(default_factory=dict)
    empty: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    position: str | None = None
    one_token: bool = False
    attention: str | None = None

    def __post_init__(self):
        """Raises ModelError for caches without a shape, or steps that nothing could remember."""
        if set(self.caches) != set(self.empty):
            raise ModelError(
                "the decoder's caches and their shapes do not have the same names", why=f"{set(self.caches) ^ set(self.empty)}"
            )
        if self.one_token and not self.caches:
            raise ModelError("a decoder that takes one token at a time needs caches")


@dataclass(frozen=True)
class Sizes:
    """``frames`` of log-mel in a window, ``positions`` of the decoder, ``vocabulary``; as the exported model's config.json says."""

    mels: int = 80
    frames: int = 3000
    positions: int = 448
    vocabulary: int = 51865


class ProgramSpeech:
    """The ``SpeechRuntime``. Everything is numpy; a cache is (what the encoder put out, the decoder's arrays, the tokens read)."""

    def __init__(self, encoder: Program, decoder: Program, layout: Layout, sizes: Sizes):
        self.encoder, self.decoder, self.layout = encoder, decoder, layout
        self.mels, self.frames, self.text_positions, self.vocabulary = sizes.mels, sizes.frames, sizes.positions, sizes.vocabulary

    def encode(self, mel: Any) -> dict[str, Any]:
        """The encoder's declared outputs. Raises ModelError when one of them is not there."""
        import numpy

        found = self.encoder({self.layout.mel: numpy.asarray(mel, dtype=numpy.float32)})
        return {name: _output(found, name, "encoder") for name in self.layout.from_encoder}

    def select(self, encoded: Mapping[str, Any], rows: Sequence[int]) -> dict[str, Any]:
        return {name: value[list(rows)] for name, value in encoded.items()}

    def start(self, encoded: Mapping[str, Any], tokens: Any) -> tuple[Any, Any]:
        import numpy

        rows = len(tokens)
        encoded = {name: _rows(value, rows) for name, value in encoded.items()}
        held = {name: numpy.zeros((rows, *shape), dtype=numpy.float32) for name, shape in self.layout.empty.items()}
        if not self.layout.one_token:
            found, held = self._run(encoded, tokens, held, 0)
            return found, (encoded, held, tokens)
        parts = []
        for place in range(tokens.shape[1]):
            found, held = self._run(encoded, tokens[:, place : place + 1], held, place)
            parts.append(found)
        return numpy.concatenate(parts, axis=1), (encoded, held, tokens)

    def step(self, tokens: Any, cache: Any) -> tuple[Any, Any]:
        import numpy

        encoded, held, read = cache
        whole = numpy.concatenate([read, tokens], axis=1)
        found, held = self._run(encoded, tokens if self.layout.caches else whole, held, read.shape[1])
        return found[:, -1], (encoded, held, whole)

    def reorder(self, cache: Any, rows: Sequence[int]) -> Any:
        encoded, held, read = cache
        index = list(rows)
        return self.select(encoded, index), {name: value[index] for name, value in held.items()}, read[index]

    def teacher_forced(self, encoded: Mapping[str, Any], tokens: Any) -> Any:
        return self.start(encoded, tokens)[0]

    def cross_attention(self, encoded: Mapping[str, Any], tokens: Any) -> Any:
        """Raises ItemError where the program does not give it."""
        if self.layout.attention is None or self.layout.one_token:
            raise ItemError(
                "this exported model gives no attention weights",
                reason="model",
                why="word times are read from them",
                fix="?word_timestamps=false",
            )
        import numpy

        empty = {name: numpy.zeros((len(tokens), *shape), dtype=numpy.float32) for name, shape in self.layout.empty.items()}
        return _output(self.decoder(self._given(encoded, tokens, empty, 0)), self.layout.attention, "decoder")[0]

    def _given(self, encoded: Mapping[str, Any], tokens: Any, held: Mapping[str, Any], place: int) -> dict[str, Any]:
        import numpy

        given = {**encoded, **held, self.layout.tokens: numpy.asarray(tokens, dtype=numpy.int64)}
        if self.layout.position:
            given[self.layout.position] = numpy.asarray([place], dtype=numpy.int64)
        return given

    def _run(self, encoded: Mapping[str, Any], tokens: Any, held: Mapping[str, Any], place: int) -> tuple[Any, dict[str, Any]]:
        import numpy

        found = self.decoder(self._given(encoded, tokens, held, place))
        kept = {name: _output(found, output, "decoder") for name, output in self.layout.caches.items()}
        return numpy.asarray(_output(found, self.layout.logits, "decoder"), dtype=numpy.float32), kept


def _output(found: Mapping[str, Any], name: str, program: str) -> Any:
    if name not in found:
        raise ModelError(f"the {program} gives no {name!r}", why=f"it gives {', '.join(sorted(found)) or 'nothing'}")
    return found[name]


def _rows(value: Any, rows: int) -> Any:
    import numpy

    return numpy.repeat(value, rows, axis=0) if len(value) == 1 and rows > 1 else value
