"""Speech models that are no Whisper: what their wrappers share. A subclass says how one stretch of sound becomes text.

    class Hearing(PlainSpeech):
        def hear(self, samples, decoding): return Heard("text", (17, 4), "stop", 1)

Requests run one at a time. Their audio is decoded as Whisper's is; features come from the model's own library.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from workbench.errors import ItemError
from workbench.models import answering
from workbench.models.processors import Prepared
from workbench.models.source import Resolved
from workbench.models.speech_to_text import Decoding, Segment, Transcript
from workbench.types import Generation, Media, ModelSpec, Output, Request, Timing

RATE = 16_000
ONE_AT_A_TIME = "requests run one at a time: only Whisper's are answered together"
HASH_DIGITS = 32


@dataclass(frozen=True, slots=True)
class Heard:
    """``tokens`` None: the library gives text alone. ``windows``: stretches that the sound was read in."""

    text: str
    tokens: tuple[int, ...] | None
    finish: Literal["stop", "length"] = "stop"
    windows: int = 1


class PlainSpeech:
    """A loaded model of the speech-to-text family (``SpeechToText``). ``model`` is the runtime's own."""

    batch_size = 1
    loop = "own"
    followable = "this model's wrapper does not follow tokens"
    """Why ``follow`` refuses, for wrappers that do not have it."""

    def __init__(
        self,
        spec: ModelSpec,
        found: Resolved,
        options: Mapping[str, Any],
        model: Any,
        about: Mapping[str, Any],
        free: Callable[[], None],
    ):
        self.spec, self.found, self.options, self.model = spec, found, options, model
        self.about, self._free = dict(about), free

    def hear(self, samples: Any, decoding: Decoding) -> Heard:
        """The text of ``samples`` float32 (n,) at 16 kHz, of any length. May raise anything."""
        raise NotImplementedError

    def transcribe(self, audio: Media | str | Any, decoding: Decoding | None = None) -> Transcript:
        """Audio of any length. Raises ItemError."""
        decoding = decoding or Decoding()
        self._refuse(decoding)
        sound = self.sound(audio)
        heard = self._heard(sound.samples, decoding)
        seconds = len(sound.samples) / RATE
        whole = Segment(0.0, seconds, heard.text, heard.tokens or ())
        return Transcript(
            heard.text,
            decoding.language,
            (whole,),
            heard.tokens or (),
            heard.windows,
            seconds,
            heard.finish,
            self.describe()["loop"],
        )

    def answer(self, requests: Sequence[Request], generation: Generation) -> list[Output]:
        """One Output a request, in order. Requests that fail carry their error."""
        return [self._answer(request, generation) for request in requests]

    def prepare(self, request: Request) -> Prepared:
        """What the model is given for ``request``. Raises ItemError."""
        raise NotImplementedError

    def follow(self, request: Request, tokens: Sequence[int]) -> Any:
        """Raises ItemError: a wrapper that can follow tokens has its own."""
        raise ItemError("this model cannot be made to follow tokens", reason="model", why=self.followable)

    def logits(self, prepared: Prepared) -> Any:
        """Raises ItemError: a wrapper that sees logits has its own."""
        raise ItemError("this model's logits are not seen", reason="model", why=self.followable)

    def describe(self) -> dict[str, Any]:
        """What was really loaded."""
        notes = [ONE_AT_A_TIME] if self.options["batch_size"] > 1 else []
        return {
            "batch_size": 1,
            "loop": self.loop,
            "preprocessing": "own",
            **self.about,
            "notes": [*self.about.get("notes", ()), *notes],
        }

    def close(self) -> None:
        """Free the weights."""
        self.model = None
        self._free()

    def sound(self, audio: Any) -> Any:
        from workbench.data.media import load_audio

        return load_audio(audio, rate=RATE, array_rate=RATE if hasattr(audio, "__array__") else None)

    def asked(self, request: Request) -> Any:
        """The request's sound. Raises ItemError, also for a translation, which these models are not told to make."""
        if request.inputs.get("audio") is None:
            raise ItemError("the request holds no audio", reason="audio")
        if request.inputs.get("task") == "translate":
            raise ItemError("this model only transcribes", reason="model", why="a translation was asked for")
        return self.sound(request.inputs["audio"])

    @staticmethod
    def _refuse(decoding: Decoding) -> None:
        """Raises ItemError for what these models would silently leave undone."""
        asked = {"task=translate": decoding.task == "translate", "prompt": decoding.prompt, "prefix": decoding.prefix}
        asked |= {"beam_size": (decoding.beam_size or 1) > 1, "word_timestamps": decoding.word_timestamps}
        if wrong := [name for name, value in asked.items() if value]:
            raise ItemError(f"this model cannot do {wrong[0]}", reason="model", why="only Whisper is decoded by the workbench")

    def _heard(self, samples: Any, decoding: Decoding) -> Heard:
        try:
            return self.hear(samples, decoding)
        except ItemError:
            raise
        except Exception as error:  # whatever a library raises is this item's failure
            if answering.is_memory_error(error):
                raise answering.memory_error(error) from error
            why = f"{type(error).__name__}: {error}"[:500]
            raise ItemError("the model failed on this item", reason="model", why=why) from error

    def _answer(self, request: Request, generation: Generation) -> Output:
        began = time.perf_counter()
        try:
            sound = self.asked(request)
            prepared = time.perf_counter() - began
            decoding = Decoding(
                language=request.inputs.get("language"),
                max_tokens=generation.max_tokens,
                seed=generation.seed,
                temperatures=(generation.temperature,),
            )
            heard = self._heard(sound.samples, decoding)
        except ItemError as error:
            return Output.failed(error)
        except MemoryError as error:
            return Output.failed(answering.memory_error(error))
        timing = Timing(prepared, None, time.perf_counter() - began, 0, len(heard.tokens or ()))
        text = answering.cut(heard.text, generation.stop) if generation.stop else heard.text
        return Output(text.strip(), heard.tokens, heard.finish, timing, seen=self._seen(sound))

    def _seen(self, sound: Any) -> dict[str, Any]:
        """The decoded samples' hash, which is the same on every runtime, and what the file said."""
        from workbench.models.seen import as_array, digest

        samples = as_array(sound.samples)
        return {
            "arrays": {"samples": {"hash": digest(samples), "shape": list(samples.shape), "dtype": str(samples.dtype)}},
            "audio": {**sound.source, "seconds": round(len(samples) / RATE, 6)},
        }


def stretches(count: int, chunk: int, stride: int) -> list[tuple[int, int, int, int]]:
    """(first sample, end, context on the left, context on the right) of overlapping stretches that cover ``count`` samples.

    The parts between the contexts meet without gap or overlap; the first stretch has none on its left and the last none on its right.
    The rule is that of transformers' ``pipelines/automatic_speech_recognition.py`` (``chunk_iter``).
    """
    if count <= chunk:
        return [(0, count, 0, 0)]
    step = chunk - 2 * stride
    found = []
    for first in range(0, count, step):
        end = min(first + chunk, count)
        last = end == count
        found.append((first, end, 0 if first == 0 else stride, 0 if last else stride))
        if last:
            break
    return found
