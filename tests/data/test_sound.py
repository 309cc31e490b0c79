"""Any sound to mono float32 at 16 kHz: the mono rule, resampling, arrays, limits, and what is said about bad samples."""

import numpy
import pytest

from tests.data.sounds import RATE, WAVE, written
from workbench.data import sound
from workbench.data.media import load_audio
from workbench.errors import ItemError, RuntimeMissing, UsageError
from workbench.types import Media

pytest.importorskip("soundfile")


def refused(audio, **options):
    with pytest.raises(ItemError) as caught:
        load_audio(audio, **options)
    assert caught.value.reason == "audio"
    assert "0x" not in str(caught.value)
    return caught.value


def test_a_path_bytes_a_media_and_an_array_are_the_same_sound(tmp_path):
    data = written(WAVE, subtype="PCM_24")
    path = tmp_path / "a.flac"
    path.write_bytes(data)
    expected = numpy.rint(WAVE.astype(numpy.float64) * 2**23) / 2**23
    for given in (path, str(path), data, Media(path=path, kind="audio"), Media(data=data, kind="audio")):
        found = load_audio(given)
        assert found.samples.dtype == numpy.float32
        assert found.rate == RATE
        assert found.seconds == 1.0
        assert numpy.abs(found.samples - expected).max() < 2e-7
    assert numpy.array_equal(load_audio(WAVE, array_rate=RATE).samples, WAVE)
    assert found.source == {
        "rate": RATE,
        "channels": 1,
        "frames": RATE,
        "seconds": 1.0,
        "format": "FLAC",
        "subtype": "PCM_24",
        "decoder": "soundfile",
        "peak": float(numpy.abs(found.samples).max()),
        "clipped": 0.0,
        "mono": None,
        "resampled": None,
        "warnings": [],
    }


@pytest.mark.parametrize("rate", [8_000, 22_050, 44_100, 48_000, 192_000])
def test_resampling_in_blocks_is_soxr_in_one_call(rate):
    soxr = pytest.importorskip("soxr")
    samples = numpy.random.default_rng(2).standard_normal(rate * 3 + 7).astype(numpy.float32) * 0.1
    found = load_audio(samples, array_rate=rate)
    assert numpy.array_equal(found.samples, soxr.resample(samples, rate, RATE, quality="HQ"))
    assert found.source["resampled"] == f"soxr HQ, {rate} to 16000 Hz"
    assert load_audio(samples, rate, array_rate=rate).source["resampled"] is None


def test_several_channels_become_their_mean():
    channels = numpy.random.default_rng(3).uniform(-0.5, 0.5, (70_000, 2)).astype(numpy.float32)
    found = load_audio(written(channels, kind="WAV", subtype="FLOAT"))
    assert numpy.abs(found.samples - channels.astype(numpy.float64).mean(axis=1)).max() < 1e-7
    assert found.source["mono"] == "mean of 2 channels"
    assert numpy.array_equal(load_audio(channels, array_rate=RATE).samples, found.samples)
    assert numpy.array_equal(load_audio(channels.T, array_rate=RATE).samples, found.samples)
    assert load_audio(numpy.eye(2, dtype=numpy.float32), array_rate=RATE).source["channels"] == 2


def test_eight_channels_at_192_khz():
    pytest.importorskip("soxr")
    time = numpy.arange(192_000 // 2) / 192_000
    tone = numpy.sin(2 * numpy.pi * 1_000 * time) * 0.5
    found = load_audio(written(numpy.stack([tone] * 8, axis=1), 192_000, "WAV"))
    assert (found.source["channels"], found.source["rate"], found.seconds) == (8, 192_000, 0.5)
    expected = 0.5 * numpy.sin(2 * numpy.pi * 1_000 * numpy.arange(8_000) / RATE)
    assert numpy.abs(found.samples - expected)[200:-200].max() < 1e-3


@pytest.mark.parametrize(
    ("kind", "values", "expected"),
    [
        ("int16", [-32768, 0, 16384, 32767], [-1, 0, 0.5, 32767 / 32768]),
        ("int8", [-128, 0, 64, 127], [-1, 0, 0.5, 127 / 128]),
        ("uint8", [0, 128, 192, 255], [-1, 0, 0.5, 127 / 128]),
        ("uint16", [0, 32768, 49152, 65535], [-1, 0, 0.5, 32767 / 32768]),
        ("int32", [-(2**31), 0, 2**30, 2**31 - 1], [-1, 0, 0.5, 1]),
        ("float16", [-1, 0, 0.5, 1], [-1, 0, 0.5, 1]),
        ("float64", [-1, 0, 0.5, 1], [-1, 0, 0.5, 1]),
    ],
)
def test_integers_are_scaled_by_their_range(kind, values, expected):
    found = load_audio(numpy.array(values, kind), array_rate=RATE)
    assert numpy.allclose(found.samples, expected, atol=1e-7)
    assert found.source["clipped"] == 0.5


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (numpy.zeros((2, 3, 4)), "shape (2, 3, 4)"),
        (numpy.float32(1), "shape ()"),
        (numpy.zeros((80, 3_000)), "has 80 channels"),
        (numpy.zeros(5, bool), "array of bool"),
        (numpy.zeros(5, "int64"), "array of int64"),
        (numpy.zeros(5, "complex64"), "array of complex64"),
        (numpy.zeros(0), "holds no sound"),
        (numpy.full(5, 1e300), "is infinite"),
        (numpy.full(5, 1e12), "1e+12 times full scale"),
    ],
)
def test_arrays_that_are_no_sound(array, message):
    assert message in str(refused(array, array_rate=RATE))


def test_an_array_needs_its_rate_and_a_rate_must_make_sense():
    with pytest.raises(UsageError, match="needs its rate"):
        load_audio(WAVE)
    assert "10 samples per second" in refused(WAVE, array_rate=10).what


@pytest.mark.parametrize("bad", [numpy.nan, numpy.inf, -numpy.inf])
def test_the_first_bad_sample_is_named_with_its_time(bad):
    samples = numpy.zeros((100_000, 2), numpy.float32)
    samples[80_000, 1] = samples[90_000, 0] = bad
    error = refused(written(samples, kind="WAV", subtype="FLOAT"))
    what = "is not a number" if numpy.isnan(bad) else "is infinite"
    assert error.why == f"sample 80000 (5.0000 s) of channel 2 {what}"


def test_clipping_is_counted_and_warned_about():
    loud = numpy.clip(WAVE * 10, -1, 1)
    found = load_audio(written(loud, subtype="PCM_16"))
    share = float((numpy.abs(loud) >= 32767 / 32768).mean())
    assert found.source["clipped"] == pytest.approx(share, abs=2e-4)
    assert found.source["warnings"] == [f"{found.source['clipped']:.2%} of the samples are at full scale: the recording is clipped"]
    over = load_audio(WAVE * 10, array_rate=RATE)
    assert "times full scale" in over.source["warnings"][1]
    assert numpy.array_equal(over.samples, WAVE * 10)
    for subtype in ("PCM_U8", "ULAW", "ALAW"):
        assert load_audio(written(loud, kind="WAV", subtype=subtype)).source["clipped"] > 0.5, subtype
        assert load_audio(written(WAVE, kind="WAV", subtype=subtype)).source["clipped"] == 0.0, subtype


def test_silence_and_a_hundredth_of_a_second_are_sound():
    found = load_audio(written(numpy.zeros(RATE)))
    assert (found.source["peak"], found.source["warnings"], found.samples.any()) == (0.0, [], False)
    assert len(load_audio(written(WAVE[:160])).samples) == 160
    pytest.importorskip("soxr")
    assert len(load_audio(written(WAVE[:441], 44_100)).samples) == 160
    assert "too short" in refused(WAVE[:1], array_rate=44_100).what


def test_long_sounds_are_refused_before_they_are_decoded(monkeypatch):
    bomb = written(numpy.zeros(RATE * 60, numpy.int16))
    assert len(bomb) < 60_000
    read = []
    monkeypatch.setattr(sound, "resampler", lambda *given: read.append(given))
    error = refused(bomb, max_seconds=30)
    assert error.what == "audio is longer than 30 s"
    assert "60 s" in error.why
    assert error.fix == "cut it, or export WORKBENCH_MAX_AUDIO_SECONDS=61"
    assert read == []


def test_the_environment_sets_the_limit(monkeypatch):
    monkeypatch.setenv(sound.LIMIT, "0.5")
    assert "longer than 0.5 s" in refused(WAVE, array_rate=RATE).what
    assert load_audio(WAVE, array_rate=RATE, max_seconds=2).seconds == 1.0
    monkeypatch.setenv(sound.LIMIT, "long")
    with pytest.raises(UsageError, match="not a number of seconds"):
        load_audio(WAVE, array_rate=RATE)
    monkeypatch.delenv(sound.LIMIT)
    assert sound.longest(None) == sound.MAX_SECONDS


@pytest.mark.parametrize("module", ["soundfile", "soxr"])
def test_a_missing_library_is_named_with_the_command_that_installs_it(monkeypatch, module):
    data = written(WAVE, 8_000)
    monkeypatch.setitem(__import__("sys").modules, module, None)
    with pytest.raises(RuntimeMissing, match=f"{module} is not installed") as caught:
        load_audio(data)
    assert caught.value.fix == "pip install 'parity-workbench[speech]'"


def test_jfk(shared_data):
    found = load_audio(shared_data / "speech" / "jfk.flac")
    assert found.seconds == 11.0
    assert found.source["channels"] == 2
