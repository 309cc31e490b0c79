"""The log-mel against transformers and mlx_whisper, and against its definition in float64."""

import os
import subprocess
import sys

import numpy
import pytest

from workbench.data.media import HOP, WINDOW_SAMPLES, load_audio, log_mel, mel_filters, mel_window
from workbench.errors import ItemError

NOISE = (numpy.random.default_rng(0).standard_normal(WINDOW_SAMPLES) * 0.1).astype(numpy.float32)
SILENCE = -1.5
"""(log10(1e-10) + 4) / 4: what a window of zeros becomes."""


def signals():
    time = numpy.arange(WINDOW_SAMPLES) / 16_000
    return {
        "noise": NOISE,
        "short": NOISE[:5_000],
        "one sample": NOISE[:1],
        "long": numpy.concatenate([NOISE, NOISE[:90_000] * 3]),
        "tone": numpy.sin(2 * numpy.pi * 440 * time).astype(numpy.float32),
        "clicks": (numpy.arange(48_000) % 8_000 == 0).astype(numpy.float32),
        "zeros": numpy.zeros(16_000, numpy.float32),
    }


@pytest.fixture(scope="module")
def extractor():
    transformers = pytest.importorskip("transformers")
    return {mels: transformers.WhisperFeatureExtractor(feature_size=mels) for mels in (80, 128)}


@pytest.fixture(scope="module")
def mlx_audio():
    pytest.importorskip("mlx.core")
    return pytest.importorskip("mlx_whisper.audio")


@pytest.mark.parametrize("mels", [80, 128])
def test_filters_are_those_of_transformers_and_mlx_whisper(mels, extractor):
    ours = mel_filters(mels)
    assert ours.shape == (mels, 201)
    assert ours.dtype == numpy.float32
    assert numpy.abs(ours - extractor[mels].mel_filters.T).max() < 1e-8
    assert not ours.flags.writeable


@pytest.mark.parametrize("mels", [80, 128])
def test_filters_are_those_stored_in_mlx_whisper(mels, mlx_audio):
    assert numpy.abs(mel_filters(mels) - numpy.array(mlx_audio.mel_filters(mels))).max() < 1e-8


@pytest.mark.parametrize(("rate", "n_fft"), [(22_050, 1024), (8_000, 256)])
def test_filters_at_other_rates(rate, n_fft):
    utils = pytest.importorskip("transformers.audio_utils")
    theirs = utils.mel_filter_bank(n_fft // 2 + 1, 40, 0.0, rate / 2, rate, norm="slaney", mel_scale="slaney")
    assert numpy.abs(mel_filters(40, rate, n_fft) - theirs.T).max() < 1e-8


@pytest.mark.parametrize("name", list(signals()))
@pytest.mark.parametrize("mels", [80, 128])
def test_a_window_is_that_of_transformers(name, mels, extractor):
    samples = signals()[name]
    ours = log_mel(samples, mels)
    theirs = extractor[mels](samples, sampling_rate=16_000, return_tensors="np").input_features[0]
    assert ours.shape == theirs.shape == (mels, 3_000)
    assert ours.dtype == numpy.float32
    assert ours.flags.c_contiguous
    # The tone: 80 dB below it, every float32 transform (theirs too) is its own rounding.
    assert numpy.abs(ours - theirs).max() < 1e-4


@pytest.mark.parametrize("name", list(signals()))
def test_a_window_is_that_of_mlx_whisper(name, mlx_audio):
    samples = signals()[name]
    padded = mlx_audio.pad_or_trim(mlx_audio.mx.array(samples))
    theirs = numpy.array(mlx_audio.log_mel_spectrogram(padded)).T
    assert numpy.abs(log_mel(samples) - theirs).max() < 1e-4


def test_jfk_in_every_way_that_the_libraries_take_it(shared_data, extractor, mlx_audio):
    samples = load_audio(shared_data / "speech" / "jfk.flac").samples
    assert samples.shape == (176_000,)
    window = extractor[80](samples, sampling_rate=16_000, return_tensors="np").input_features[0]
    assert numpy.abs(log_mel(samples) - window).max() < 1e-4
    long = extractor[80](
        numpy.tile(samples, 4), sampling_rate=16_000, truncation=False, padding="longest", return_tensors="np"
    ).input_features[0]
    assert numpy.abs(log_mel(numpy.tile(samples, 4), frames=None) - long).max() < 1e-4
    whole = numpy.array(mlx_audio.log_mel_spectrogram(samples, padding=WINDOW_SAMPLES)).T
    ours = log_mel(samples, frames=None, padding=WINDOW_SAMPLES)
    assert ours.shape == whole.shape == (80, 4_100)
    assert numpy.abs(ours - whole).max() < 1e-4


def test_the_definition_in_float64():
    samples = NOISE[:16_000].astype(numpy.float64)
    padded = numpy.pad(samples, 200, mode="reflect")
    hann = 0.5 - 0.5 * numpy.cos(2 * numpy.pi * numpy.arange(400) / 400)
    power = [numpy.abs(numpy.fft.rfft(padded[160 * frame :][:400] * hann)) ** 2 for frame in range(100)]
    log = numpy.log10(numpy.maximum(power @ mel_filters(80).T.astype(numpy.float64), 1e-10))
    expected = (numpy.maximum(log, log.max() - 8) + 4) / 4
    assert numpy.abs(log_mel(samples, frames=None) - expected.T).max() < 1e-5


def test_frames_that_only_see_silence_are_the_floor_and_nothing_else_changes():
    short = log_mel(NOISE[:16_000])
    # Computed without the short cut.
    filled = numpy.concatenate([NOISE[:16_000], numpy.zeros(WINDOW_SAMPLES - 16_000, numpy.float32)])
    assert numpy.array_equal(short, log_mel(filled))
    assert (short[:, 102:] == short.min()).all()
    assert short.min() == pytest.approx(short.max() - 2, abs=1e-6)
    assert (short[:, :100] > short.min()).all()
    assert numpy.abs(log_mel(numpy.zeros(10, numpy.float32)) - SILENCE).max() < 1e-6


def test_the_maximum_is_of_what_is_given_together():
    quiet_then_loud = numpy.concatenate([NOISE[:16_000] * 1e-3, NOISE[:16_000] * 10])
    apart, together = log_mel(quiet_then_loud[:16_000], frames=100), log_mel(quiet_then_loud, frames=None)[:, :100]
    # By itself the first second has its own levels; beside a sound 80 dB louder nearly all of it is cut off.
    assert apart.max() - apart.min() > 0.4
    assert (together[:, :90] == together.min()).mean() > 0.9


def test_windows_of_a_whole_are_filled_with_the_value_zero():
    whole = log_mel(NOISE[:80_000], frames=None)
    assert whole.shape == (80, 500)
    part = mel_window(whole, 400)
    assert part.shape == (80, 3_000)
    assert numpy.array_equal(part[:, :100], whole[:, 400:])
    assert not part[:, 100:].any()
    assert numpy.array_equal(mel_window(whole, 100, 50), whole[:, 100:150])
    assert not mel_window(whole, 9_999).any()


def test_a_sound_shorter_than_the_reflection_is_reflected_again(extractor):
    samples = NOISE[:170]
    theirs = extractor[80]._np_extract_fbank_features(samples[None].astype(numpy.float64), "cpu")[0]
    ours = log_mel(samples, frames=None)
    assert ours.shape == theirs.shape == (80, 1)
    assert numpy.abs(ours - theirs).max() < 1e-5


def test_the_same_twice_and_the_samples_untouched():
    samples = NOISE[:50_000].copy()
    assert numpy.array_equal(log_mel(samples), log_mel(samples))
    assert numpy.array_equal(samples, NOISE[:50_000])
    assert numpy.abs(log_mel(samples.astype(numpy.float64)) - log_mel(samples)).max() == 0


PROGRAM = """
import hashlib, numpy
from workbench.data.mel import log_mel
noise = numpy.random.default_rng(0).standard_normal(48_000).astype(numpy.float32)
print([hashlib.sha256(log_mel(noise, mels).tobytes()).hexdigest() for mels in (80, 128)])
"""


def test_the_bits_do_not_depend_on_the_number_of_threads():
    """Else the inputs of two runs would differ at rung 2 because one had the machine to itself."""
    found = {
        subprocess.run(
            [sys.executable, "-c", PROGRAM],
            env={**os.environ, "OMP_NUM_THREADS": threads, "OPENBLAS_NUM_THREADS": threads},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for threads in ("1", "2", "3")
    }
    assert len(found) == 1


def test_what_has_no_log_mel_is_refused():
    with pytest.raises(ItemError, match="too short") as caught:
        log_mel(NOISE[: HOP - 1], frames=None)
    assert caught.value.reason == "audio"
    with pytest.raises(ItemError, match="not numbers"):
        log_mel(numpy.array([0.0, numpy.nan] * 400))
    with pytest.raises(ValueError, match="shape"):
        log_mel(NOISE[None, :400])
