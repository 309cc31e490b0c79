"""Which files are read by whom, and the errors of those that cannot be: cut off, damaged, empty, no sound at all."""

import io

import numpy
import pytest

from tests.data.sounds import RATE, WAVE, by_pyav, written
from tests.data.test_sound import refused
from workbench.data.media import load_audio

pytest.importorskip("soundfile")


@pytest.mark.parametrize(
    ("kind", "subtype", "rate"),
    [
        ("WAV", "PCM_16", RATE),
        ("WAV", "PCM_24", RATE),
        ("WAV", "FLOAT", RATE),
        ("WAV", "DOUBLE", RATE),
        ("AIFF", "PCM_16", RATE),
        ("RF64", "PCM_16", RATE),
        ("W64", "PCM_16", RATE),
        ("CAF", "PCM_16", RATE),
        ("AU", "PCM_16", RATE),
        ("FLAC", "PCM_16", RATE),
        ("OGG", "VORBIS", RATE),
        ("OGG", "OPUS", 48_000),
        ("MP3", "MPEG_LAYER_III", RATE),
    ],
)
def test_what_soundfile_reads(kind, subtype, rate):
    found = load_audio(written(WAVE, rate, kind, subtype), rate)
    assert (found.source["format"], found.source["decoder"]) == (kind if kind != "RF64" else found.source["format"], "soundfile")
    assert len(found.samples) == len(WAVE)
    close = numpy.corrcoef(found.samples, WAVE)[0, 1]
    assert close > (0.98 if kind in ("OGG", "MP3") else 0.999999)


@pytest.mark.parametrize(
    ("container", "codec"),
    [
        ("ipod", "aac"),
        ("mp4", "aac"),
        ("adts", "aac"),
        ("webm", "libopus"),
        ("matroska", "flac"),
        ("mov", "pcm_s16le"),
        ("mp2", "mp2"),
    ],
)
def test_what_pyav_reads(container, codec):
    samples = numpy.repeat(WAVE, 3)
    found = load_audio(by_pyav(container, codec, samples), 48_000)
    assert found.source["decoder"] in ("PyAV", "soundfile")
    assert (found.source["decoder"] == "PyAV") == (container != "mp2")
    assert abs(len(found.samples) - len(samples)) < 3 * 1_152
    delays = range(0, 2_400, 1)
    best = max(abs(float(numpy.dot(found.samples[delay : delay + 40_000], samples[:40_000]))) for delay in delays)
    assert best > 0.95 * float(numpy.dot(samples[:40_000], samples[:40_000]))


def test_two_channels_through_pyav():
    av = pytest.importorskip("av")
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="matroska") as file:
        track = file.add_stream("pcm_s16le", rate=RATE)
        track.layout = "stereo"
        interleaved = (numpy.stack([WAVE, -WAVE / 2], axis=1) * 32768).astype(numpy.int16).reshape(1, -1)
        frame = av.AudioFrame.from_ndarray(interleaved, format="s16", layout="stereo")
        frame.rate = RATE
        file.mux(track.encode(frame))
        file.mux(track.encode(None))
    found = load_audio(buffer.getvalue())
    assert (found.source["decoder"], found.source["channels"]) == ("PyAV", 2)
    assert numpy.abs(found.samples - WAVE / 4).max() < 1e-4


@pytest.mark.parametrize(
    ("kind", "subtype", "shares"),
    [
        ("FLAC", None, (0.3, 0.9, 0.999)),
        ("WAV", "PCM_16", (0.3, 0.9, 0.999)),
        ("AIFF", "PCM_16", (0.3, 0.9, 0.999)),
        ("OGG", "VORBIS", (0.3, 0.9, 0.999)),
        ("OGG", "OPUS", (0.3, 0.9, 0.999)),
        ("MP3", None, (0.3, 0.9)),  # less than two frames may be missing where the length is estimated
    ],
)
def test_a_sound_that_is_cut_off_is_refused(kind, subtype, shares):
    data = written(numpy.tile(WAVE, 10), RATE if subtype != "OPUS" else 48_000, kind, subtype)
    load_audio(data)
    for share in shares:
        error = refused(data[: int(len(data) * share)])
        assert "cut off" in error.what, share
        assert error.why, share


@pytest.mark.parametrize("container", ["webm", "matroska", "ipod"])
def test_a_container_that_is_cut_off_is_refused(container):
    codec = {"webm": "libopus", "matroska": "flac", "ipod": "aac"}[container]
    data = by_pyav(container, codec, numpy.tile(WAVE, 6))
    assert "cut off" in refused(data[: len(data) // 2]).what


@pytest.mark.parametrize("length", [1, 10, 42, 100])
def test_the_first_bytes_of_a_flac_are_refused(length):
    error = refused(written()[:length])
    assert "cut off" in error.what or "text" in error.what


def test_flac_that_does_not_say_its_length_is_read():
    data = bytearray(written(subtype="PCM_16"))
    # STREAMINFO's 36 bits of total samples (RFC 9639, section 8.2) set to 0: unknown.
    data[21] &= 0xF0
    data[22:26] = bytes(4)
    found = load_audio(bytes(data))
    assert found.source["decoder"] == "PyAV"
    assert numpy.array_equal(found.samples, load_audio(written(subtype="PCM_16")).samples)
    assert "longer than 0.5 s" in refused(bytes(data), max_seconds=0.5).what


@pytest.mark.parametrize("length", [0xFFFFFFFF, 0x7FFFFFFF])
def test_wav_from_a_pipe_is_read(length):
    data = bytearray(written(kind="WAV", subtype="PCM_16"))
    at = data.index(b"data")
    data[at + 4 : at + 8] = length.to_bytes(4, "little")
    assert len(load_audio(bytes(data)).samples) == len(WAVE)


def test_mp3_without_a_length_is_read():
    data = by_pyav("mp3", "libmp3lame", numpy.tile(WAVE, 3), options={"write_xing": "0"})
    assert len(load_audio(data, 48_000).samples) >= 3 * len(WAVE)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is an empty file"),
        (b"hello, this is no sound\n" * 40, "is text, not sound"),
        ("Grüße\n".encode() * 200, "is text, not sound"),
        (b"#EXTM3U\n#EXTINF:1,\nfile:///etc/hostname\n", "is text, not sound"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "Git LFS pointer"),
        (b"\x89PNG\r\n\x1a\n" + bytes(range(256)), "holds no sound"),
        (bytes(2_000), "no known sound format"),
        (bytes(range(256)) * 8, "no known sound format"),
    ],
)
def test_what_is_no_sound(tmp_path, content, message):
    path = tmp_path / "clip.wav"
    path.write_bytes(content)
    error = refused(path)
    assert message in error.what
    assert error.what.startswith("audio 'clip.wav' ")
    assert str(tmp_path) not in str(error)
    assert str(refused(content)) == str(error).replace(" 'clip.wav'", "")


def test_a_file_without_samples():
    assert "0 samples" in refused(written(numpy.zeros(0, numpy.float32), kind="WAV")).why


def test_a_film_without_sound():
    av = pytest.importorskip("av")
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="matroska") as file:
        track = file.add_stream("mpeg4", rate=5)
        track.width, track.height, track.pix_fmt = 32, 32, "yuv420p"
        frame = av.VideoFrame.from_ndarray(numpy.zeros((32, 32, 3), numpy.uint8), format="rgb24")
        file.mux(track.encode(frame))
        file.mux(track.encode(None))
    assert "holds no sound" in refused(buffer.getvalue()).what


def test_paths_that_are_no_files(tmp_path):
    import os

    assert "cannot be read" in refused(tmp_path / "absent.wav").what
    assert refused(tmp_path).why == "it is not a file"
    assert "cannot be read" in refused("a\0b.wav").what
    if hasattr(os, "mkfifo"):
        os.mkfifo(tmp_path / "pipe.wav")
        assert refused(tmp_path / "pipe.wav").why == "it is not a file"


def test_a_name_says_nothing_about_the_content(tmp_path):
    for name in ("a.raw", "a.txt", "b"):
        (tmp_path / name).write_bytes(written(kind="WAV"))
        assert load_audio(tmp_path / name).source["format"] == "WAV"


def test_without_pyav_the_error_says_what_to_install(monkeypatch):
    data = by_pyav("ipod", "aac")
    monkeypatch.setitem(__import__("sys").modules, "av", None)
    error = refused(data)
    assert "needs PyAV" in error.what
    assert error.fix == "pip install 'parity-workbench[speech]'"


def test_a_container_is_not_followed_to_other_files(tmp_path):
    secret = tmp_path / "secret.wav"
    secret.write_bytes(written(kind="WAV"))
    # A playlist with a byte before it that is no text: refused by FFmpeg itself.
    error = refused(b"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\x01\n" + f"file://{secret}\n#EXT-X-ENDLIST\n".encode())
    assert "no known sound format" in error.what
