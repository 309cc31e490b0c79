"""Sound files decoded block by block: soundfile first, PyAV for what it cannot read (m4a, aac, mp4, webm, ...).

    with opened(Media(path="talk.m4a", kind="audio")) as stream:
        stream.rate, stream.channels, stream.format             # 44100, 2, "mov,mp4,m4a,3gp,3g2,mj2 aac"
        for block in stream.blocks: ...                         # float32 (frames, channels), full scale at -1 and 1

A sound that ends before its own header says so is refused: libsndfile and FFmpeg often hand over the part that is there and say
nothing, and a transcript of half a sentence is then scored against the whole one.
"""

from __future__ import annotations

import io
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, BinaryIO

from workbench.errors import ItemError, RuntimeMissing
from workbench.types import Media

BLOCK = 65_536
"""Frames read at once: what a file of any length holds in memory before it is mixed and resampled."""

INSTALL = "pip install 'parity-workbench[speech]'"
MPEG_SLACK = 2 * 1152
"""Samples an intact MP3 without a Xing header may lack: its length is then an estimate, good to a frame or so."""

CONTAINER_SLACK_SECONDS = 0.1
CONTAINERS_WITH_LENGTH = ("mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm")
"""PyAV's formats whose duration is written in the file; that of others is guessed from a bit rate."""


@dataclass(frozen=True, slots=True)
class Stream:
    """An opened sound. ``declared`` is how many frames its header promises (None: it does not say)."""

    rate: int
    channels: int
    format: str
    subtype: str
    decoder: str
    declared: int | None
    blocks: Iterator[Any]


def fault(media: Media | None, what: str, why: str | None = None, fix: str | None = None) -> ItemError:
    """An ItemError about one sound, named by its file's name where it has one."""
    name = f" {media.path.name!r}" if media is not None and media.path is not None else ""
    return ItemError(f"audio{name} {what}", reason="audio", why=why, fix=fix)


def soundfile() -> Any:
    """The module soundfile. Raises RuntimeMissing."""
    try:
        import soundfile as module
    except (ImportError, OSError) as error:
        raise RuntimeMissing("the library soundfile is not installed", why="sound files are read with it", fix=INSTALL) from error
    return module


@contextmanager
def opened(media: Media) -> Iterator[Stream]:
    """The sound of ``media``, for as long as the block lasts. Raises ItemError(reason="audio"), RuntimeMissing without soundfile.

    Errors of ``blocks`` are raised while they are read.
    """
    module = soundfile()
    with encoded(media) as file:
        head = file.read(512)
        file.seek(0)
        if not head:
            raise fault(media, "is an empty file", fix="remove the item or fetch the file again")
        refuse_text(media, head)
        try:
            sound = module.SoundFile(file)
        except module.LibsndfileError as error:
            file.seek(0)
            with opened_by_pyav(media, file, plain(error)) as stream:
                yield stream
            return
        with sound:
            known = sound.frames < 2**62
            if known:
                refuse_cut(media, file)
                blocks = read_blocks(media, sound, module)
                yield Stream(sound.samplerate, sound.channels, sound.format, sound.subtype, "soundfile", sound.frames, blocks)
        if not known:
            # soundfile asks for the position after every block, which libsndfile cannot tell of such a FLAC stream.
            file.seek(0)
            with opened_by_pyav(media, file, "its length is not known") as stream:
                yield stream


def plain(error: Exception) -> str:
    """A library's text without addresses and doubled punctuation: outputs must be the same on every run."""
    text = getattr(error, "error_string", None) or getattr(error, "strerror", None) or type(error).__name__
    return text.removeprefix("Error : ").strip().rstrip(".")


@contextmanager
def encoded(media: Media) -> Iterator[BinaryIO]:
    """The encoded bytes as a file that can be searched; a path is not read into memory."""
    if media.path is None:
        yield io.BytesIO(media.read())
        return
    try:
        if not stat.S_ISREG(os.stat(media.path).st_mode):
            raise fault(media, "cannot be read", why="it is not a file")
        # Opened by number: soundfile takes a name's suffix for the format, and .raw asks for arguments.
        file = open(os.open(media.path, os.O_RDONLY | getattr(os, "O_BINARY", 0)), "rb")  # noqa: SIM115  closed below
    except (OSError, ValueError) as error:
        raise fault(media, "cannot be read", why=getattr(error, "strerror", None) or "its name cannot be a path") from error
    with file:
        yield file


def refuse_text(media: Media, head: bytes) -> None:
    """Refuse what is text: a pointer, a web page, a playlist (which FFmpeg would follow to other files)."""
    if head.startswith(b"version https://git-lfs"):
        raise fault(media, "is a Git LFS pointer, not the sound itself", fix="git lfs pull")
    try:
        text = head.decode("utf-8")
    except UnicodeDecodeError as error:
        if error.start < len(head) - 3:
            return
        text = head[: error.start].decode("utf-8")
    if text.isprintable() or not any(ord(letter) < 32 and letter not in "\t\n\r\f" for letter in text):
        raise fault(media, "is text, not sound", fix="name a sound file (wav, flac, mp3, ogg, opus, m4a, ...)")


def read_blocks(media: Media, sound: Any, module: Any) -> Iterator[Any]:
    done = 0
    try:
        while len(block := sound.read(BLOCK, dtype="float32", always_2d=True)):
            done += len(block)
            yield block
    except module.LibsndfileError as error:
        raise fault(media, "is cut off or damaged", why=f"the {sound.format} decoder reports: {plain(error)}") from error
    slack = MPEG_SLACK if sound.format in ("MP3", "MPEG") or "MPEG" in sound.subtype else 0
    if done < sound.frames - slack:
        raise cut_off(media, sound.frames / sound.samplerate, done / sound.samplerate)


def cut_off(media: Media, declared: float, there: float) -> ItemError:
    return fault(
        media,
        "is cut off",
        why=f"its header promises {declared:.3f} s, and {there:.3f} s are there",
        fix="fetch the file again, or cut it with an audio editor",
    )


def refuse_cut(media: Media, file: BinaryIO) -> None:
    """Refuse the formats of which libsndfile reports the length of what is there instead of what the header promises."""
    before = file.tell()
    file.seek(0)
    head = file.read(12)
    size = file.seek(0, os.SEEK_END)
    if head[:4] in (b"RIFF", b"FORM"):
        missing = missing_bytes(file, size, "little" if head[:4] == b"RIFF" else "big")
        if missing:
            raise fault(media, "is cut off", why=f"its header promises {missing:,} bytes more than there are")
    elif head[:4] == b"OggS":
        file.seek(max(0, size - 2 * 65_307))  # the largest Ogg page has 65,307 bytes (RFC 3533)
        tail = file.read()
        page = tail.rfind(b"OggS")
        if page < 0 or not is_last_page(tail[page:]):
            raise fault(media, "is cut off", why="its last Ogg page is not whole, or not marked as the end")
    file.seek(before)


def is_last_page(page: bytes) -> bool:
    """Whether an Ogg page is whole and marked as its stream's last: 27 bytes, a table of lengths, the content (RFC 3533, section 6)."""
    if len(page) < 27 or not page[5] & 4:
        return False
    lengths = page[27 : 27 + page[26]]
    return len(lengths) == page[26] and len(page) >= 27 + len(lengths) + sum(lengths)


def missing_bytes(file: BinaryIO, size: int, order: str) -> int:
    """How many bytes of samples a WAV or AIFF file promises beyond its end."""
    position = 12
    while position + 8 <= size:
        file.seek(position)
        chunk = file.read(8)
        length = int.from_bytes(chunk[4:], order)
        if chunk[:4] in (b"data", b"SSND"):
            # Written to a pipe: programs put a number near 2 or 4 GiB where the length is not known.
            return 0 if length >= 0x7FFF_F000 else max(0, position + 8 + length - size)
        position += 8 + length + length % 2
    return 0


@contextmanager
def opened_by_pyav(media: Media, file: BinaryIO, refused: str) -> Iterator[Stream]:
    """The first sound track as PyAV decodes it; ``refused`` is what soundfile said. Raises ItemError."""
    try:
        import av
    except ImportError as error:
        raise fault(media, "needs PyAV, which is not installed", why=f"soundfile: {refused}", fix=INSTALL) from error
    try:
        # No protocol: a container must not lead to other files or to the network.
        container = av.open(file, container_options={"protocol_whitelist": "none"})
    except (av.FFmpegError, ValueError) as error:
        why = f"soundfile: {refused}; FFmpeg: {plain(error)}"
        raise fault(media, "is in no known sound format, cut off or damaged", why=why) from error
    with container:
        if not container.streams.audio:
            raise fault(media, "holds no sound", why=f"it is {container.format.name} without a sound track")
        track = container.streams.audio[0]
        rate, channels = track.codec_context.sample_rate, track.codec_context.channels
        if not rate or not channels:
            raise fault(media, "cannot be decoded", why="its header gives no sample rate or no channels")
        declared = None
        if container.format.name in CONTAINERS_WITH_LENGTH:
            if track.duration:
                declared = int(track.duration * track.time_base * rate)
            elif container.duration and len(container.streams) == 1:
                declared = int(container.duration * rate / av.time_base) - int((container.start_time or 0) * rate / av.time_base)
        blocks = pyav_blocks(media, container, track, rate, declared)
        name = f"{container.format.name} {track.codec_context.name}"
        yield Stream(rate, channels, name, track.codec_context.format.name, "PyAV", declared, blocks)


def pyav_blocks(media: Media, container: Any, track: Any, rate: int, declared: int | None) -> Iterator[Any]:
    import av

    # Only the sample format changes here (to planar float32); the rate is soxr's work and the channels are the mono rule's.
    to_float = av.AudioResampler(format="fltp", layout=track.codec_context.layout, rate=rate)
    done = 0
    try:
        for frame in container.decode(track):
            if frame.sample_rate != rate:
                raise fault(media, "changes its sample rate", why=f"from {rate} to {frame.sample_rate} per second")
            for part in to_float.resample(frame):
                done += part.samples
                yield part.to_ndarray().T
    except (av.FFmpegError, ValueError) as error:
        raise fault(
            media, "is cut off or damaged", why=f"the decoder {track.codec_context.name} reports: {plain(error)}"
        ) from error
    if declared is not None and done < declared - CONTAINER_SLACK_SECONDS * rate:
        raise cut_off(media, declared / rate, done / rate)
