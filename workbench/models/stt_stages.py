"""Whisper as converted programs: an encoder, and a decoder step that reads one token, under the decoding that all runtimes share.

    model = open_speech_to_text(ModelSpec.parse("demo:stt@coreml"))
    model.transcribe("talk.flac").text

Programs are made for one row, so the rows of a beam search or of several windows are run in turn. The encoder also gives the keys and
values that the decoder's cross-attention reads: once a window. Beside ``stt_program``, which drives exports of other layouts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from workbench.errors import ItemError
from workbench.models import masks
from workbench.models.program_stages import Stages, StepCache
from workbench.models.source import Resolved
from workbench.models.stt import WhisperSpeech
from workbench.models.whisper_tokens import WhisperTokens
from workbench.types import Generation, ModelSpec, Output, Request

ONE_AT_A_TIME = "windows run one at a time: the programs are made for one"


@dataclass(frozen=True, eq=False)
class Heard:
    """One window as the encoder put it out; ``keys`` and ``values`` (layers, heads, positions, head size) of the cross-attention."""

    keys: Any
    values: Any
    encoded: Any = None

    def arrays(self) -> dict[str, Any]:
        return {"cross_keys": self.keys, "cross_values": self.values}


@dataclass(eq=False)
class Row:
    """One text that is being written: the window it is of, and what the step remembers of it."""

    heard: Heard
    cache: StepCache


class StagesWhisper:
    """The ``SpeechRuntime`` over the stages encoder and step. What the encoder put out is a list of ``Heard``, a cache a list of ``Row``."""

    def __init__(self, stages: Stages):
        self.stages = stages
        sizes = stages.converted.sizes
        self.mels, self.frames = sizes["mels"], sizes["frames"]
        self.text_positions, self.vocabulary = sizes["context"], sizes["vocabulary"]
        self._pass: tuple[Heard, bytes, Any, Any] | None = None

    def encode(self, mel: Any) -> list[Heard]:
        """``mel`` float32 (batch, mels, frames), run window by window."""
        import numpy

        found = []
        for row in numpy.asarray(mel, dtype=numpy.float32):
            given = self.stages["encoder"]({"mel": row[None]})
            found.append(Heard(_fixed(given["cross_keys"]), _fixed(given["cross_values"]), given.get("encoded")))
        return found

    def select(self, encoded: Sequence[Heard], rows: Sequence[int]) -> list[Heard]:
        return [encoded[row] for row in rows]

    def start(self, encoded: Sequence[Heard], tokens: Any) -> tuple[Any, list[Row]]:
        """Rows of one window that begin with the same tokens are read once: samples and beams share a prompt."""
        import numpy

        encoded = list(encoded) * len(tokens) if len(encoded) == 1 else encoded
        done: dict[tuple[int, bytes], tuple[Any, StepCache]] = {}
        logits, rows = [], []
        for heard, ids in zip(encoded, numpy.asarray(tokens), strict=True):
            key = (id(heard), ids.tobytes())
            if key in done:
                found, cache = done[key][0], done[key][1].copy()
            else:
                cache = StepCache(self.stages["step"], self.stages.converted.sizes, self.stages.stateful)
                found = numpy.stack([self._step(heard, cache, int(token))["logits"][0, 0] for token in ids])
                done[key] = (found, cache)
            logits.append(found)
            rows.append(Row(heard, cache))
        return numpy.stack(logits).astype(numpy.float32, copy=False), rows

    def step(self, tokens: Any, cache: Sequence[Row]) -> tuple[Any, Sequence[Row]]:
        import numpy

        found = [self._step(row.heard, row.cache, int(token))["logits"][0, 0] for row, (token,) in zip(cache, tokens, strict=True)]
        return numpy.stack(found).astype(numpy.float32, copy=False), cache

    def reorder(self, cache: Sequence[Row], rows: Sequence[int]) -> list[Row]:
        """The first text that goes on from a row takes its memory along, further ones a copy."""
        used: set[int] = set()
        found = []
        for row in rows:
            found.append(Row(cache[row].heard, cache[row].cache.copy()) if row in used else cache[row])
            used.add(row)
        return found

    def teacher_forced(self, encoded: Sequence[Heard], tokens: Any) -> Any:
        """Token by token, as the text was written: these programs have no other way to read it."""
        import numpy

        encoded = list(encoded) * len(tokens) if len(encoded) == 1 else encoded
        return numpy.stack([self._read(heard, ids)[0] for heard, ids in zip(encoded, tokens, strict=True)])

    def cross_attention(self, encoded: Sequence[Heard], tokens: Any) -> Any:
        """Raises ItemError where the step does not give it."""
        _, attention = self._read(encoded[0], tokens[0])
        if attention is None:
            raise ItemError(
                "this converted model gives no attention weights",
                reason="model",
                why="word times are read from them",
                fix="?word_timestamps=false",
            )
        return attention

    def step_inputs(self, heard: Heard, token: int, position: int) -> dict[str, Any]:
        """The arrays of the stage step without its caches."""
        import numpy

        return {
            "tokens": numpy.asarray([[token]], dtype=numpy.int32),
            "positions": numpy.asarray([[position]], dtype=numpy.int32),
            "mask": masks.up_to(position, self.text_positions),
            **heard.arrays(),
        }

    def _step(self, heard: Heard, cache: StepCache, token: int) -> dict[str, Any]:
        return cache.run(self.step_inputs(heard, token, cache.filled))

    def _read(self, heard: Heard, ids: Any) -> tuple[Any, Any]:
        """(logits (tokens, vocabulary), attention (layers, heads, tokens, positions) or None). The latest is kept: word times ask for
        both of the same text."""
        import numpy

        ids = numpy.asarray(ids)
        if self._pass is None or self._pass[0] is not heard or self._pass[1] != ids.tobytes():
            cache = StepCache(self.stages["step"], self.stages.converted.sizes, self.stages.stateful)
            found = [self._step(heard, cache, int(token)) for token in ids]
            logits = numpy.concatenate([each["logits"][0] for each in found]).astype(numpy.float32, copy=False)
            attention = None
            if all("cross_attention" in each for each in found):
                attention = numpy.concatenate([each["cross_attention"] for each in found], axis=2).astype(numpy.float32, copy=False)
            self._pass = (heard, ids.tobytes(), logits, attention)
        return self._pass[2], self._pass[3]


class StagesSpeech(WhisperSpeech):
    """Whisper's shared decoding over converted programs; of reference evidence no output has a timing."""

    def __init__(
        self,
        spec: ModelSpec,
        found: Resolved,
        stages: Stages,
        config: Mapping[str, Any],
        generation: Mapping[str, Any],
        options: Mapping[str, Any],
    ):
        self.found, self.stages = found, stages
        runtime = StagesWhisper(stages)
        tokens = WhisperTokens.from_folder(found.folder, runtime.vocabulary, generation)
        notes = [ONE_AT_A_TIME] if (options.get("batch_size") or 1) > 1 else []
        about = {**stages.describe(), "notes": notes}
        super().__init__(spec, runtime, tokens, {**options, "batch_size": 1}, generation, about=about, close=stages.close)

    def answer(self, requests: Sequence[Request], generation: Generation) -> list[Output]:
        """As ``WhisperSpeech.answer``."""
        outputs = super().answer(requests, generation)
        return outputs if self.stages.timed else [replace(output, timing=None) for output in outputs]


def _fixed(array: Any) -> Any:
    """Read-only, with memory of its own: a runtime that has seen it once need not look at it again
    (``workbench.backends.base.TensorProgram``). What lies on a device (``keep_on_device``) is so already."""
    import numpy

    if not isinstance(array, numpy.ndarray):
        return array
    made = array if array.base is None and array.flags.owndata else numpy.array(array)
    made.setflags(write=False)
    return made
