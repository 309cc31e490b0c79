"""Whisper's log-mel spectrogram in numpy: one front end for every runtime that is compared.

    mel = log_mel(load_audio("talk.flac").samples)      # float32 (80, 3000): one window of 30 s
    whole = log_mel(samples, frames=None, padding=WINDOW_SAMPLES); mel_window(whole, 2740)

The values depend on what is normalised together, because everything 8 decades (of power: 80 dB) below the maximum is cut off:

- per window, ``log_mel(samples[start:start + WINDOW_SAMPLES])``: WhisperFeatureExtractor of transformers by default (30 s, the
  rest cut off), mlx-audio for each chunk when it streams;
- over the whole sound, ``frames=None``: transformers' long form (``truncation=False, padding="longest"``), no zeros appended;
- over the whole sound with 30 s of zeros appended, ``frames=None, padding=WINDOW_SAMPLES``: ``transcribe`` of openai/whisper,
  mlx_whisper and mlx-audio. Those zeros do not change the maximum, but the frames at the sound's end see them.

In both long forms a window beyond the end is filled with the *value* zero in the log-mel domain, not with silence: ``mel_window``.
Sources: A. Radford et al., arXiv 2212.04356; openai/whisper ``whisper/audio.py`` and ``whisper/transcribe.py``; M. Slaney, Auditory
Toolbox, 1998, for the filters.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from workbench.errors import ItemError

RATE = 16_000
WINDOW = 400
HOP = 160
WINDOW_FRAMES = 3_000
WINDOW_SAMPLES = 480_000
FLOOR = 1e-10
DYNAMIC_RANGE = 8.0
BATCH = 120
"""Frames transformed at once: 0.2 MB of float32, which stays in a core's cache (a quarter faster than all 3,000 together)."""
ONE_THREAD = 2**18
"""Multiplications of a matrix product up to which OpenBLAS stays on one thread (interface/gemm.c: SMP_THRESHOLD_MIN 65536 times
GEMM_MULTITHREAD_THRESHOLD 4). A larger one is cut by the number of threads, and rounds by it."""


def hertz_to_mel(hertz: Any) -> Any:
    """Slaney's scale: linear up to 1000 Hz (15 mel), then 27 steps to a factor of 6.4."""
    import numpy

    hertz = numpy.asarray(hertz, numpy.float64)
    return numpy.where(
        hertz < 1000.0, hertz * 3 / 200, 15.0 + numpy.log(numpy.maximum(hertz, 1e-9) / 1000.0) * (27.0 / numpy.log(6.4))
    )


def mel_to_hertz(mel: Any) -> Any:
    import numpy

    mel = numpy.asarray(mel, numpy.float64)
    return numpy.where(mel < 15.0, mel * 200 / 3, 1000.0 * numpy.exp((mel - 15.0) * (numpy.log(6.4) / 27.0)))


@lru_cache(maxsize=8)
def mel_filters(mels: int = 80, rate: int = RATE, n_fft: int = WINDOW) -> Any:
    """Triangles of unit area on Slaney's scale from 0 to ``rate / 2``: float32 (mels, n_fft // 2 + 1), read-only."""
    import numpy

    corners = mel_to_hertz(numpy.linspace(0.0, hertz_to_mel(rate / 2), mels + 2))
    bins = numpy.arange(n_fft // 2 + 1) * (rate / n_fft)
    low, centre, high = corners[:-2, None], corners[1:-1, None], corners[2:, None]
    triangles = numpy.maximum(0.0, numpy.minimum((bins - low) / (centre - low), (high - bins) / (high - centre)))
    filters = (triangles * (2.0 / (high - low))).astype(numpy.float32)
    filters.setflags(write=False)
    return filters


@lru_cache(maxsize=1)
def window() -> Any:
    """The periodic Hann window, float32 (400,)."""
    import numpy

    return (0.5 - 0.5 * numpy.cos(2 * numpy.pi * numpy.arange(WINDOW) / WINDOW)).astype(numpy.float32)


def log_mel(samples: Any, mels: int = 80, frames: int | None = WINDOW_FRAMES, padding: int = 0) -> Any:
    """The log-mel of 16 kHz mono ``samples`` (n,): float32 (mels, frames).

    ``frames`` cuts or fills the samples with zeros to so many hops first; None keeps all of them (n // 160 frames). ``padding``
    zeros are appended before either. Frame i is centred on sample 160 i, the ends are reflected, and the last frame of the
    transform is dropped, as Whisper does. Raises ItemError(reason="audio") for samples that are not finite, or fewer than a hop
    with ``frames=None``; ValueError for another shape.

    float32 throughout, as openai/whisper, transformers and mlx_whisper compute it: those agree with this to 4e-5, which is also
    how far each of them is from float64. numpy's transform (pocketfft, single precision) is a quarter faster than in float64.
    """
    import numpy

    samples = numpy.asarray(samples, numpy.float32)
    if samples.ndim != 1:
        raise ValueError(f"log_mel takes samples of shape (n,), not {samples.shape}")
    total = len(samples) + padding if frames is None else frames * HOP
    if total < HOP:
        raise ItemError(
            "audio is too short", reason="audio", why=f"{total} samples are not one frame of {HOP}", fix="pad it with silence"
        )
    samples = samples[:total]
    if not numpy.isfinite(samples).all():
        raise ItemError("audio holds samples that are not numbers", reason="audio", why="a log-mel of them has no value")
    # Frames that only see the appended zeros have no power: they are not computed. Whole batches are, because a matrix product
    # rounds differently with another number of rows, and zeros that the caller appended must give the same bits.
    heard = -(-(len(samples) + WINDOW // 2) // HOP)
    heard = min(total // HOP, -(-heard // BATCH) * BATCH)
    power = numpy.full((total // HOP, mels), FLOOR, numpy.float32)
    power_into(power[:heard], extended(samples, total), mels)
    log = numpy.log10(numpy.maximum(power, numpy.float32(FLOOR)))
    log = numpy.maximum(log, log.max() - numpy.float32(DYNAMIC_RANGE))
    log += numpy.float32(4.0)
    log /= numpy.float32(4.0)
    return numpy.ascontiguousarray(log.T)


def extended(samples: Any, total: int) -> Any:
    """``samples`` filled with zeros to ``total`` and reflected by half a window at both ends; several times where it is shorter."""
    import numpy

    filled = numpy.zeros(total, numpy.float32)
    filled[: len(samples)] = samples
    return numpy.pad(filled, WINDOW // 2, mode="reflect")


def power_into(power: Any, samples: Any, mels: int) -> None:
    """Write the power in each filter of the first frames of ``samples`` into ``power``, float32 (frames, mels)."""
    import numpy

    hann, filters = window(), mel_filters(mels).T
    windows = numpy.lib.stride_tricks.sliding_window_view(samples, WINDOW)[::HOP]
    rows = next((each for each in range(BATCH, 0, -1) if BATCH % each == 0 and each * filters.size <= ONE_THREAD), 1)
    for start in range(0, len(power), BATCH):
        spectrum = numpy.fft.rfft(windows[start : min(start + BATCH, len(power))] * hann)
        found = spectrum.real**2 + spectrum.imag**2
        for row in range(0, len(found), rows):
            power[start + row : start + row + rows] = found[row : row + rows] @ filters


def mel_window(mel: Any, start: int, frames: int = WINDOW_FRAMES) -> Any:
    """Frames ``start`` to ``start + frames`` of a whole sound's log-mel (mels, n); beyond its end the value 0, as Whisper's loops do."""
    import numpy

    part = mel[:, start : start + frames]
    return numpy.pad(part, ((0, 0), (0, frames - part.shape[1])))
