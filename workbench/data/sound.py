"""Sound as a model takes it: mono float32 at one rate, and a record of what it was before.

    sound = load_audio("talk.m4a")            # a path, encoded bytes, a Media, or an array with array_rate=44100
    sound.samples.shape, sound.rate           # (176000,), 16000
    sound.source["clipped"]                   # 0.0: the share of samples at full scale

One decoder, one mono rule and one resampler serve every runtime, so that two of them are never told apart by their ears.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from workbench.data.sound_files import BLOCK, INSTALL, Stream, fault, opened
from workbench.errors import RuntimeMissing, UsageError
from workbench.types import Media

RATE = 16_000
MAX_SECONDS = 4 * 3600.0
"""Longer sounds are refused before they fill the memory: four hours are 0.9 GB as float32 at 16 kHz."""

LIMIT = "WORKBENCH_MAX_AUDIO_SECONDS"
MAX_CHANNELS = 64
RATES = (1_000, 1_000_000)
LARGEST = 2.0**31
"""A float sample above this is no sound: 32-bit integers stored as floats end here."""

CLIPPED_WARNING = 0.001
FULL_SCALE = {"PCM_U8": 127 / 128, "PCM_S8": 127 / 128, "ULAW": 32124 / 32768, "ALAW": 32256 / 32768}
"""The largest sample a subtype can hold where that is below 16 bits' 32767/32768 (ITU-T G.711 for the two laws)."""


@dataclass(frozen=True, slots=True, eq=False)
class Sound:
    """``samples`` float32 (n,) at ``rate`` per second, and where they come from.

    ``source``: ``rate``, ``channels``, ``frames``, ``seconds``, ``format``, ``subtype`` and ``decoder`` before conversion, ``peak`` and
    ``clipped`` (the share of samples at full scale, all channels), ``mono`` and ``resampled`` (what was done, or None), ``warnings``.
    """

    samples: Any
    rate: int
    source: Mapping[str, Any]

    @property
    def seconds(self) -> float:
        return len(self.samples) / self.rate


def load_audio(
    audio: Media | str | Path | bytes | Any, rate: int = RATE, *, array_rate: int | None = None, max_seconds: float | None = None
) -> Sound:
    """``audio`` as mono float32 samples at ``rate``.

    Several channels become one by their mean (a sum would clip, one channel would lose speakers). Another rate is converted by
    soxr at its HQ setting. An array is (n,), (n, channels) or (channels, n): the shorter axis is the channels, and of a square one
    the second; integers are divided by their range (int16: 32768, unsigned ones after subtracting its middle).

    Raises ItemError(reason="audio"): unreadable, empty, cut off, longer than ``max_seconds`` (default: the environment's
    WORKBENCH_MAX_AUDIO_SECONDS, else four hours), a sample that is not a number. UsageError: an array without ``array_rate``.
    RuntimeMissing: soundfile or soxr is not installed. Clipping is recorded and warned about in ``source``, not refused.
    """
    if isinstance(audio, (str, Path)):
        audio = Media(path=audio, kind="audio")
    elif isinstance(audio, (bytes, bytearray, memoryview)):
        audio = Media(data=bytes(audio), kind="audio")
    limit = longest(max_seconds)
    if isinstance(audio, Media):
        with opened(audio) as stream:
            return convert(stream, rate, limit, audio)
    if array_rate is None:
        raise UsageError(
            "an array of samples needs its rate",
            why="16,000 and 44,100 samples per second look alike",
            fix="load_audio(samples, array_rate=16000)",
        )
    return convert(of_array(audio, array_rate), rate, limit, None)


def longest(given: float | None) -> float:
    """The limit in seconds. Raises UsageError when the environment's is no number."""
    if given is not None:
        return float(given)
    text = os.environ.get(LIMIT)
    if not text:
        return MAX_SECONDS
    try:
        return float(text)
    except ValueError as error:
        raise UsageError(f"{LIMIT} is {text!r}, not a number of seconds", fix=f"export {LIMIT}=14400") from error


def of_array(array: Any, rate: int) -> Stream:
    """An array as a stream. Raises ItemError when it cannot be sound."""
    import numpy

    array = numpy.asarray(array)
    if array.ndim not in (1, 2):
        raise fault(None, f"array of shape {array.shape} is not sound", why="(n,), (n, channels) or (channels, n) is")
    if array.ndim == 1:
        array = array[:, None]
    elif array.shape[0] < array.shape[1]:
        array = array.T
    kind = array.dtype
    if kind.kind not in "iuf" or kind.itemsize > 4 and kind.kind != "f":
        raise fault(None, f"array of {kind} is not sound", why="floats, or integers of 8, 16 or 32 bits are")
    scale = 2.0 ** (8 * kind.itemsize - 1)

    def blocks() -> Iterator[Any]:
        for start in range(0, len(array), BLOCK):
            block = array[start : start + BLOCK]
            if kind.kind != "f":
                block = (block.astype(numpy.float64) - (scale if kind.kind == "u" else 0.0)) / scale
            with numpy.errstate(over="ignore"):  # a double beyond float32 becomes infinite, and is refused as such
                yield block.astype(numpy.float32)

    names = {"int8": "PCM_S8", "uint8": "PCM_U8"}
    return Stream(int(rate), array.shape[1], "array", names.get(str(kind), str(kind)), "array", len(array), blocks())


def convert(stream: Stream, rate: int, limit: float, media: Media | None) -> Sound:
    """Mix, check and resample block by block: memory holds the result and one block."""
    import numpy

    if stream.channels > MAX_CHANNELS:
        raise fault(media, f"has {stream.channels} channels", why=f"at most {MAX_CHANNELS} are taken for sound")
    if not RATES[0] <= stream.rate <= RATES[1]:
        raise fault(media, f"has {stream.rate} samples per second", why=f"{RATES[0]:,} to {RATES[1]:,} are taken for sound")
    refuse_long(stream, stream.declared or 0, limit, media)
    resample = resampler(stream.rate, rate)
    full = FULL_SCALE.get(stream.subtype, 32767 / 32768)
    result, frames, peak, clipped = bytearray(), 0, 0.0, 0
    for block in stream.blocks:
        refuse_long(stream, frames + len(block), limit, media)
        size = numpy.abs(block)
        loudest = float(size.max(initial=0.0))
        if not loudest <= LARGEST:  # also when it is not a number
            refuse_bad(stream, block, frames, media)
        if loudest >= full:
            clipped += int((size >= full).sum())
        peak = max(peak, loudest)
        frames += len(block)
        result += resample(block[:, 0] if stream.channels == 1 else block.mean(axis=1, dtype=numpy.float32), False).tobytes()
    if not frames:
        raise fault(media, "holds no sound", why="it has 0 samples")
    result += resample(numpy.zeros(0, numpy.float32), True).tobytes()
    if not result:
        raise fault(media, "is too short", why=f"its {frames} samples are not one at {rate} per second")
    source = {
        "rate": stream.rate,
        "channels": stream.channels,
        "frames": frames,
        "seconds": frames / stream.rate,
        "format": stream.format,
        "subtype": stream.subtype,
        "decoder": stream.decoder,
        "peak": peak,
        "clipped": clipped / (frames * stream.channels),
        "mono": None if stream.channels == 1 else f"mean of {stream.channels} channels",
        "resampled": None if stream.rate == rate else f"soxr HQ, {stream.rate} to {rate} Hz",
    }
    return Sound(numpy.frombuffer(result, numpy.float32), rate, {**source, "warnings": warnings_of(source)})


def warnings_of(source: Mapping[str, Any]) -> list[str]:
    found = []
    if source["clipped"] > CLIPPED_WARNING:
        found.append(f"{source['clipped']:.2%} of the samples are at full scale: the recording is clipped")
    if source["peak"] > 1.001:
        found.append(f"the largest sample is {source['peak']:.4g} times full scale")
    return found


def refuse_long(stream: Stream, frames: int, limit: float, media: Media | None) -> None:
    if frames > limit * stream.rate:
        raise fault(
            media,
            f"is longer than {limit:g} s",
            why=f"it has at least {frames / stream.rate:,.0f} s, and a limit keeps the memory free",
            fix=f"cut it, or export {LIMIT}={int(frames / stream.rate) + 1}",
        )


def refuse_bad(stream: Stream, block: Any, before: int, media: Media | None) -> None:
    import numpy

    frame, channel = numpy.argwhere(~(numpy.abs(block) <= LARGEST))[0]
    value = float(block[frame, channel])
    place = before + int(frame)
    what = "is not a number" if numpy.isnan(value) else "is infinite" if numpy.isinf(value) else f"is {value:.3g} times full scale"
    of = f" of channel {channel + 1}" if stream.channels > 1 else ""
    raise fault(media, "holds a sample that is no sound", why=f"sample {place} ({place / stream.rate:.4f} s){of} {what}")


def resampler(given: int, rate: int) -> Any:
    """A function (samples, whether they are the last) -> float32 samples at ``rate``, as soxr's one call makes them of the whole."""
    import numpy

    if given == rate:
        return lambda samples, last: numpy.ascontiguousarray(samples)
    try:
        import soxr
    except ImportError as error:
        raise RuntimeMissing("the library soxr is not installed", why="sample rates are converted with it", fix=INSTALL) from error
    stream = soxr.ResampleStream(given, rate, 1, dtype="float32", quality="HQ")
    return lambda samples, last: stream.resample_chunk(numpy.ascontiguousarray(samples), last=last)
