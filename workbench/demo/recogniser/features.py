"""Mel power of speech, noises and rooms, and Whisper's normalisation: what the training mixes.

Training stores the logarithm of each utterance's *mel power* without Whisper's clamp.  Gain, noise and silence are then
added in the power domain while training, where sound powers add, and Whisper's logarithm, clamp and scale come last.
Constants: openai/whisper, ``whisper/audio.py``, ``log_mel_spectrogram``.

    features.normalise(features.mel_power(wave))          # (frames, 80), one frame each 10 ms
"""

import functools

import numpy as np
import torch

RATE, HOP, WINDOW, MELS = 16000, 160, 400, 80
FRAMES_A_SECOND = RATE // HOP
LOWEST = 1e-10  # Whisper's smallest power


@functools.lru_cache(maxsize=1)
def filters() -> torch.Tensor:
    """Slaney's mel filters, (80, 201)."""
    from transformers.audio_utils import mel_filter_bank

    bank = mel_filter_bank(1 + WINDOW // 2, MELS, 0.0, 8000.0, RATE, norm="slaney", mel_scale="slaney")
    return torch.from_numpy(np.ascontiguousarray(bank.T)).float()


def mel_power(wave: np.ndarray) -> torch.Tensor:
    """Mel power (n // 160, 80) of n samples, centred windows, as Whisper computes it before its logarithm."""
    samples = torch.from_numpy(np.ascontiguousarray(wave, dtype=np.float32))
    spectrum = torch.stft(samples, WINDOW, HOP, window=torch.hann_window(WINDOW), return_complex=True)
    return (filters() @ spectrum[:, :-1].abs() ** 2).T


def normalise(power: torch.Tensor, peak: torch.Tensor | None = None) -> torch.Tensor:
    """Whisper's logarithm, clamp at eight decades below the largest value, and scale; over the last two axes.

    ``peak`` is the largest power of the whole window where ``power`` is only a part of it.
    """
    logarithm = power.clamp(min=LOWEST).log10()
    top = logarithm.amax((-2, -1), keepdim=True) if peak is None else peak.clamp(min=LOWEST).log10()
    return (torch.maximum(logarithm, top - 8.0) + 4.0) / 4.0


def noise(kind: str, count: int, generator: np.random.Generator) -> np.ndarray:
    """``count`` samples of a noise of root mean square 0.1: white, pink, brown, hum, clicks or murmur.

    "murmur" is noise in the bands of speech, swelling as several talkers do.
    """
    white = generator.standard_normal(count)
    if kind == "white":
        wave = white
    elif kind in ("pink", "brown"):
        spectrum = np.fft.rfft(white)
        steps = np.maximum(np.arange(len(spectrum)), count * 20 / RATE)
        wave = np.fft.irfft(spectrum / steps ** (0.5 if kind == "pink" else 1.0), count)
    elif kind == "hum":
        time = np.arange(count) / RATE
        base = generator.choice((50.0, 60.0))
        parts = [generator.uniform(0.1, 1) / n * np.sin(2 * np.pi * base * n * time + n) for n in range(1, 9)]
        wave = np.sum(parts, axis=0) + 0.02 * white
    elif kind == "clicks":
        places = generator.random(count) < generator.uniform(0.5, 6) / RATE
        decay = np.exp(-np.arange(400) / generator.uniform(10, 80)) * generator.standard_normal(400)
        wave = np.convolve(places * generator.uniform(0.3, 1, count), decay)[:count] + 0.003 * white
    else:
        spectrum = np.fft.rfft(white)
        hertz = np.arange(len(spectrum)) * RATE / count
        shape = sum(np.exp(-(((hertz - c) / w) ** 2)) * g for c, w, g in ((400, 300, 1), (1500, 600, 0.3), (2600, 700, 0.1)))
        knots = np.arange(0, count + 3200, 3200)
        swell = np.interp(np.arange(count), knots, generator.uniform(0.3, 1, len(knots)))
        wave = np.fft.irfft(spectrum * shape, count) * swell
    return (wave * (0.1 / np.sqrt((wave**2).mean()))).astype(np.float32)


NOISES = ("white", "pink", "brown", "hum", "clicks", "murmur")


def room(wave: np.ndarray, generator: np.random.Generator, decay_seconds: float) -> np.ndarray:
    """``wave`` in a simple synthetic room: the direct sound and noise that falls by 60 dB in ``decay_seconds``."""
    length = int(decay_seconds * RATE)
    response = generator.standard_normal(length) * 10 ** (-3 * np.arange(length) / length)
    response *= generator.uniform(0.2, 0.5) / np.sqrt((response**2).sum())
    response[0] = 1.0
    size = 1 << (len(wave) + length).bit_length()
    mixed = np.fft.irfft(np.fft.rfft(wave, size) * np.fft.rfft(response, size), size)[: len(wave) + length // 3]
    return mixed.astype(np.float32)
