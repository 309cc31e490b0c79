"""What a request's images and sounds are, told from their bytes alone: the suffix they are kept under, and how long a sound is.

    suffix(Media(path="talk.wav", kind="audio"))                   # "flac", if that is what the bytes are
    audio_seconds(Request({"audio": media, ...}, "asr-1"))         # 10.998

A file's name says what somebody called it; a bundle keeps media under what they are.
"""

from __future__ import annotations

import io

from workbench.errors import ItemError, WorkbenchError
from workbench.types import Media, Request, media_in

UNKNOWN = "bin"
HEAD_BYTES = 16


def suffix(media: Media) -> str:
    """The usual suffix of the encoded bytes' format; ``bin`` when it is not known or the bytes cannot be read."""
    try:
        data = media.read()
    except ItemError:
        return UNKNOWN
    return audio_suffix(data[:HEAD_BYTES]) or image_suffix(data)


def audio_suffix(head: bytes) -> str | None:
    """``flac``, ``wav``, ``mp3`` or ``ogg`` from a file's first bytes; None for anything else.

    Marks: RFC 9639 section 8 (FLAC), RFC 3533 section 6 (Ogg), ID3v2.4 section 3.1 and ISO 11172-3 section 2.4.1.3 (an MPEG frame begins
    with eleven ones, then version and layer, neither of them reserved), Microsoft's RIFF (WAVE; RF64 of EBU Tech 3306).
    """
    if head.startswith(b"fLaC"):
        return "flac"
    if head[:4] in (b"RIFF", b"RF64") and head[8:12] == b"WAVE":
        return "wav"
    if head.startswith(b"OggS"):
        return "ogg"
    frame = len(head) > 2 and head[0] == 0xFF and head[1] & 0xE0 == 0xE0 and head[1] & 0x18 != 0x08 and head[1] & 0x06 == 0x02
    return "mp3" if head.startswith(b"ID3") or frame else None


def image_suffix(data: bytes) -> str:
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(io.BytesIO(data)) as picture:
            return {"JPEG": "jpg", "TIFF": "tif"}.get(str(picture.format), str(picture.format).lower())
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        return UNKNOWN


def audio_seconds(request: Request) -> float | None:
    """How long the request's audio lasts, in seconds; None where it has none, or one that cannot be read. For models that do not say."""
    sounds = [media for media in media_in(request) if media.kind == "audio"]
    try:
        return sum(map(seconds_of, sounds)) if sounds else None
    except WorkbenchError:
        return None


def seconds_of(media: Media) -> float:
    """From the header where libsndfile reads it (some ten microseconds), else from what was decoded. Raises WorkbenchError."""
    try:
        import soundfile

        found = soundfile.info(io.BytesIO(media.read()))
        if found.samplerate > 0 and 0 <= found.frames < 2**40:  # a stream may leave its length open
            return found.frames / found.samplerate
    except (ImportError, OSError, RuntimeError, ValueError):
        pass
    from workbench.data.media import load_audio

    return float(load_audio(media).source["seconds"])
