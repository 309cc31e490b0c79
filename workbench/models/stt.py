"""Whisper on any runtime: what is the same everywhere, over a ``SpeechRuntime`` that only encodes and decodes.

    model = WhisperSpeech(spec, runtime, tokens, options, generation)
    model.transcribe("talk.flac", Decoding(timestamps=True)).segments
    model.answer([Request({"audio": media, "language": "en", "task": "transcribe"}, "asr-1")], Generation(max_tokens=224))

Sound, log-mel, prompts, search, fallback, windows and times are the workbench's own, so two runtimes differ in their arithmetic
only. ``loop=own`` runs the library's own transcription instead, and ``preprocessing=own`` its log-mel; both are named in ``describe``.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, fields, replace
from typing import Any

from workbench.errors import ItemError, RuntimeMissing, UsageError
from workbench.models.answering import item_error
from workbench.models.following import Following, check_tokens
from workbench.models.processors import Prepared
from workbench.models.seen import seen
from workbench.models.speech_to_text import Decoding, Segment, SpeechRuntime, Transcript
from workbench.models.whisper_loop import Loop, Timed, languages
from workbench.models.whisper_recording import FRAMES_PER_SECOND, Recording
from workbench.models.whisper_search import Limits
from workbench.models.whisper_tokens import WhisperTokens
from workbench.types import Generation, Media, ModelSpec, Output, Request, Timing

RATE = 16_000
SAMPLES_PER_FRAME = RATE // FRAMES_PER_SECOND

OwnMel = Callable[[Any, int, int], Any]
"""(samples float32 (n,), mels, frames) -> log-mel float32 (mels, frames): the samples cut or filled with zeros to so many hops."""

OwnTranscribe = Callable[[Any, Decoding], Transcript]
"""(samples float32 (n,) at 16 kHz, decoding) -> the library's own transcript, its ``loop`` named."""


class WhisperSpeech:
    """A loaded model of the speech-to-text family; made by ``workbench.models.loading.open_speech_to_text``.

    ``generation`` is the checkpoint's generation_config.json: its ``alignment_heads`` give word times, the rest is ignored, so that every
    checkpoint is decoded alike. ``about`` is merged into ``describe``; ``close`` frees the weights.
    """

    def __init__(
        self,
        spec: ModelSpec,
        runtime: SpeechRuntime,
        tokens: WhisperTokens,
        options: Mapping[str, Any],
        generation: Mapping[str, Any] | None = None,
        *,
        about: Mapping[str, Any] | None = None,
        own_mel: OwnMel | None = None,
        own_transcribe: OwnTranscribe | None = None,
        close: Callable[[], None] | None = None,
    ):
        self.spec, self.runtime, self.tokens, self.options = spec, runtime, tokens, options
        self.batch_size: int = options.get("batch_size") or 1
        self.heads = _heads(generation or {})
        self.about = dict(about or {})
        self.own_mel = own_mel if options.get("preprocessing") == "own" else None
        if options.get("preprocessing") == "own" and own_mel is None:
            raise UsageError("this model has no log-mel of its own library", fix="?preprocessing=shared")
        if options.get("loop") == "own" and own_transcribe is None:
            raise UsageError("this model has no transcription loop of its own library", fix="?loop=shared")
        self.own_transcribe = own_transcribe if options.get("loop") == "own" else None
        self._close = close
        self._following = Following([str(self.about.get("dtype", "float32"))])

    @property
    def model(self) -> Any:
        """The runtime's module, whose layers can be recorded; None where there is none."""
        return getattr(self.runtime, "model", None)

    def transcribe(self, audio: Media | str | Any, decoding: Decoding | None = None) -> Transcript:
        """Audio of any length (a Media, a path, or samples at 16 kHz); ``decoding`` None: as the model's options say.

        Raises ItemError for audio that cannot be used, and when the model fails on it.
        """
        decoding = decoding or decoding_of(self.options, None, None)
        sound = self._sound(audio)
        if self.own_transcribe:
            try:
                return self.own_transcribe(sound.samples, decoding)
            except Exception as error:
                raise item_error(error) from error
        timed = Timed(self._recording(sound, decoding))
        self._loop().run([timed])
        if timed.recording.error:
            raise timed.recording.error
        return timed.recording.transcript()

    def answer(self, requests: Sequence[Request], generation: Generation) -> list[Output]:
        """One Output a request, in order. Requests that fail carry their error; the others are not disturbed."""
        outputs: list[Output | None] = [None] * len(requests)
        waiting: list[tuple[int, Timed, Any, float]] = []
        for index, request in enumerate(requests):
            began = time.perf_counter()
            try:
                decoding = decoding_of(self.options, request, generation)
                sound = self._sound(_audio(request))
                if self.own_transcribe:
                    outputs[index] = self._own_answer(sound, decoding, began)
                    continue
                recording = self._recording(sound, decoding)
            except RuntimeMissing:
                raise
            except Exception as error:  # noqa: BLE001  a task or language that does not exist is this request's error, not the run's
                outputs[index] = Output.failed(item_error(error))
                continue
            waiting.append((index, Timed(recording), sound, time.perf_counter() - began))
        self._loop().run([timed for _, timed, _, _ in waiting])
        for index, timed, sound, prepared in waiting:
            outputs[index] = self._output(timed, sound, prepared)
        return outputs  # type: ignore[return-value]  every place was filled above

    def prepare(self, request: Request) -> Prepared:
        """The log-mel of one window and the decoder's prompt; without a language the model is asked for it. Raises ItemError."""
        recording = self._recording(self._sound(_audio(request)), decoding_of(self.options, request, None), prompt_only=True)
        if recording.length > self.runtime.frames:
            raise ItemError(
                f"audio of {recording.seconds:.1f} s is longer than one window",
                reason="context",
                why=f"only {self.runtime.frames / FRAMES_PER_SECOND:g} s are looked at together",
                fix="cut the audio",
            )
        if recording.language is None:
            (chances,) = languages(self.runtime, self.runtime.encode(recording.window(0)[None]), self.tokens, 1)
            recording.language = max(chances, key=chances.__getitem__)
        return self._prepared(recording)

    def follow(self, request: Request, tokens: Sequence[int]) -> Any:
        """The logits that predict each of ``tokens`` after the prompt and the tokens before it (teacher forcing).

        Numpy float32 of shape (len(tokens), vocabulary). Raises ItemError, for audio longer than one window too.
        """
        import numpy

        prepared = self.prepare(request)
        check_tokens(tokens, self.runtime.vocabulary, prepared.length, self.runtime.text_positions + 1)
        encoded = self.runtime.encode(prepared.arrays["input_features"])
        prompt = prepared.arrays["input_ids"]

        def at_once(following: Sequence[int]) -> Any:
            whole = numpy.concatenate([prompt, numpy.asarray([list(following[:-1])], dtype=numpy.int64)], axis=1)
            return numpy.asarray(self.runtime.teacher_forced(encoded, whole)[0, -len(following) :], dtype=numpy.float32)

        def by_step(following: Sequence[int]) -> Any:
            logits, cache = self.runtime.start(encoded, prompt)
            found = [logits[0, -1]]
            for token in following[:-1]:
                logits, cache = self.runtime.step(numpy.asarray([[token]], dtype=numpy.int64), cache)
                found.append(logits[0])
            return numpy.stack(found).astype(numpy.float32)

        return self._following(tuple(prepared.arrays), tokens, at_once, by_step)

    def logits(self, prepared: Prepared) -> Any:
        """The logits at every position of the prompt, numpy (positions, vocabulary)."""
        encoded = self.runtime.encode(prepared.arrays["input_features"])
        return self.runtime.teacher_forced(encoded, prepared.arrays["input_ids"])[0]

    def describe(self) -> dict[str, Any]:
        """What was really loaded."""
        decoding = asdict(decoding_of(self.options, None, None))
        for name in ("language", "task", "prompt", "prefix", "max_tokens", "seed"):
            decoding.pop(name)  # these are the request's
        own = self.options.get("loop") == "own"
        return {
            "batch_size": self.batch_size,
            "loop": str(self.about.get("own_loop", "own")) if own else "shared",
            "preprocessing": self.options.get("preprocessing") or "shared",
            "decoding": {name: list(value) if isinstance(value, tuple) else value for name, value in decoding.items()},
            "log_mel": {"mels": self.runtime.mels, "frames": self.runtime.frames, "rate": RATE, "hop": SAMPLES_PER_FRAME},
            "tokenizer": self.tokens.source,
            "languages": len(self.tokens.languages),
            "alignment_heads": "upper half of the layers" if self.heads is None else [list(pair) for pair in self.heads],
            "stop_ids": [self.tokens.end],
            "context": self.runtime.text_positions,
            "notes": [],
            **{name: value for name, value in self.about.items() if name != "own_loop"},
        }

    def close(self) -> None:
        """Free the weights."""
        if self._close:
            self._close()
        self.runtime = None

    def _loop(self) -> Loop:
        return Loop(self.runtime, self.tokens, self.batch_size, self.heads)

    def _sound(self, audio: Any) -> Any:
        from workbench.data.media import load_audio

        return load_audio(audio, rate=RATE, array_rate=RATE if hasattr(audio, "__array__") else None)

    def _recording(self, sound: Any, decoding: Decoding, prompt_only: bool = False) -> Recording:
        """``prompt_only``: there is room for the prompt, whatever may be written after it."""
        # Whole frames (openai/whisper, ``whisper/audio.py``): a few samples more than 30 s are no second window.
        length = max(1, len(sound.samples) // SAMPLES_PER_FRAME)
        window = self.runtime.frames
        # One window is filled up with silence; of longer audio every window is, because it may begin anywhere.
        frames = window if length <= window else length + window
        limits = Limits(1 if prompt_only else decoding.max_tokens, self.runtime.text_positions)
        mel = self._mel(sound.samples, frames)
        return Recording(mel, length, len(sound.samples) / RATE, decoding, self.tokens, limits, window)

    def _mel(self, samples: Any, frames: int) -> Any:
        from workbench.data.media import log_mel

        return (self.own_mel or log_mel)(samples, self.runtime.mels, frames)

    def _prepared(self, recording: Recording) -> Prepared:
        """What the model was given first: the whole log-mel, and the first window's prompt."""
        import numpy

        first = replace(recording, heard={}, decoding=replace(recording.decoding, language=recording.language))
        prompt = first.prompt()
        arrays = {"input_features": recording.mel[None], "input_ids": numpy.asarray([prompt], dtype=numpy.int64)}
        return Prepared(arrays, self.tokens.text(prompt), len(prompt))

    def _output(self, timed: Timed, sound: Any, prepared_seconds: float) -> Output:
        recording = timed.recording
        if recording.error:
            return Output.failed(recording.error)
        found = recording.transcript()
        first = None if timed.first is None else prepared_seconds + timed.first
        timing = Timing(
            prepared_seconds, first, prepared_seconds + timed.seconds, recording.prompt_tokens, len(found.tokens), timed.batch
        )
        given = seen(self._prepared(recording)) | {"audio": _about(sound)}
        return _as_output(found, timing, given, recording.decoding)

    def _own_answer(self, sound: Any, decoding: Decoding, began: float) -> Output:
        prepared = time.perf_counter() - began
        try:
            found = self.own_transcribe(sound.samples, decoding)
        except Exception as error:  # noqa: BLE001  whatever a library raises is this item's failure, not the run's
            return Output.failed(item_error(error))
        timing = Timing(prepared, None, time.perf_counter() - began, 0, len(found.tokens))
        return _as_output(found, timing, {"loop": found.loop, "audio": _about(sound)}, decoding)


def decoding_of(options: Mapping[str, Any], request: Request | None, generation: Generation | None) -> Decoding:
    """How one request is decoded: language, task and prompt are the request's, length, seed and temperature the generation's, all else
    the model's options. A temperature of the generation stands in for the options' only where those say nothing but 0."""
    found = {each.name: options[each.name] for each in fields(Decoding) if each.name in options}
    if request is not None:
        found["language"] = request.inputs.get("language")
        found["task"] = request.inputs.get("task") or "transcribe"
        if request.inputs.get("prompt"):
            found["prompt"] = request.inputs["prompt"]
    if generation is not None:
        found["max_tokens"], found["seed"] = generation.max_tokens, generation.seed
        if generation.temperature > 0 and found.get("temperatures", (0.0,)) == (0.0,):
            found["temperatures"] = (generation.temperature,)
    return Decoding(**found)


def segment_mapping(segment: Segment) -> dict[str, Any]:
    """A segment as JSON holds it; what is not known is left out."""
    found = {name: value for name, value in asdict(segment).items() if value is not None}
    found["tokens"] = list(segment.tokens)
    if segment.words is not None:
        found["words"] = [asdict(word) for word in segment.words]
    return found


def _as_output(found: Transcript, timing: Timing, given: Mapping[str, Any], decoding: Decoding) -> Output:
    timed = decoding.timestamps or decoding.word_timestamps or found.windows > 1
    return Output(
        value=found.text.strip(),
        tokens=found.tokens,
        finish=found.finish,
        timing=timing,
        seen=given,
        segments=tuple(segment_mapping(each) for each in found.segments) if timed else None,
    )


def _about(sound: Any) -> dict[str, Any]:
    """The sound as it was decoded: ``seconds`` at 16 kHz, and what the file said."""
    return {**sound.source, "seconds": round(len(sound.samples) / RATE, 6)}


def _audio(request: Request) -> Media:
    audio = request.inputs.get("audio")
    if audio is None:
        raise ItemError(
            "the request holds no audio", reason="audio", why=f"it holds {', '.join(map(str, request.inputs)) or 'nothing'}"
        )
    return audio


def _heads(generation: Mapping[str, Any]) -> tuple[tuple[int, int], ...] | None:
    given = generation.get("alignment_heads")
    return tuple((int(layer), int(head)) for layer, head in given) if given else None
