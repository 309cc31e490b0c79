"""Small sound files for tests, made in memory."""

import io

import numpy
import pytest

RATE = 16_000
WAVE = (numpy.sin(numpy.arange(RATE) * 0.05) * 0.3 + numpy.random.default_rng(1).standard_normal(RATE) * 0.02).astype(numpy.float32)


def written(samples=WAVE, rate=RATE, kind="FLAC", subtype=None):
    """The bytes of a file that soundfile writes."""
    soundfile = pytest.importorskip("soundfile")
    buffer = io.BytesIO()
    soundfile.write(buffer, samples, rate, format=kind, subtype=subtype)
    return buffer.getvalue()


def by_pyav(container, codec, samples=WAVE, rate=48_000, options=None):
    """The bytes of a mono file that PyAV writes."""
    av = pytest.importorskip("av")
    buffer = io.BytesIO()
    with av.open(buffer, "w", format=container, options=options or {}) as file:
        track = file.add_stream(codec, rate=rate)
        track.layout = "mono"
        for start in range(0, len(samples), 960):
            frame = av.AudioFrame.from_ndarray(samples[None, start : start + 960].copy(), format="fltp", layout="mono")
            frame.rate, frame.pts = rate, start
            file.mux(track.encode(frame))
        file.mux(track.encode(None))
    return buffer.getvalue()
