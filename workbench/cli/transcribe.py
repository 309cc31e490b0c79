"""``workbench transcribe``: sound files to text, subtitles or JSON.

workbench transcribe talk.flac --model demo:stt@torch
workbench transcribe *.wav --model mlx:ORG/NAME --format srt --out subtitles
workbench transcribe talk.mp3 --language auto --format json --words
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from workbench.errors import EXIT_ITEM_ERRORS, EXIT_OK, ItemError, UsageError
from workbench.models.transcripts import FORMATS, render, write
from workbench.types import Media, ModelSpec

TIMED = ("srt", "vtt", "tsv")
"""Formats that are made of times: the model is asked for them."""


def add_parser(parsers: Any) -> None:
    parser = parsers.add_parser("transcribe", help="sound files to text or subtitles", description=__doc__.splitlines()[0])
    parser.add_argument("audio", metavar="AUDIO", nargs="+", type=Path, help="sound files of any length and format")
    parser.add_argument(
        "--model", default="demo:stt@torch", help="demo:stt@torch, torch:ORG/NAME, mlx:FOLDER ... (default: %(default)s)"
    )
    parser.add_argument("--format", choices=FORMATS, default="txt", help="default: %(default)s")
    parser.add_argument("--out", type=Path, metavar="FOLDER", help="one file for each sound; without it everything is printed")
    parser.add_argument("--overwrite", action="store_true", help="replace files that are there already")
    parser.add_argument("--language", default="en", metavar="CODE", help="en, de, ...; auto: the model says (default: %(default)s)")
    parser.add_argument("--task", choices=("transcribe", "translate"), default="transcribe", help="translate: into English")
    parser.add_argument("--prompt", metavar="TEXT", help="text before the sound: names and spellings to expect")
    parser.add_argument(
        "--timestamps", action=argparse.BooleanOptionalAction, help="times of segments (default: for srt, vtt, tsv)"
    )
    parser.add_argument("--words", action="store_true", help="times of words too, in json")
    parser.add_argument("--max-tokens", type=int, metavar="N", help="at most so many tokens for each 30 s")


def run(arguments: argparse.Namespace) -> int:
    """Returns 0, or 6 when a file could not be transcribed; the others are. Raises WorkbenchError for everything else, before a model is
    loaded: exit code 2 for a file that would be replaced and a folder that cannot be written."""
    from workbench.models.loading import open_speech_to_text
    from workbench.models.transcribing import decoding_for
    from workbench.parity.text import printable

    if arguments.out is None and arguments.format != "txt" and len(arguments.audio) > 1:
        raise UsageError(f"several files in the format {arguments.format} are not printed together", fix="--out FOLDER")
    spec = ModelSpec.parse(arguments.model)
    decoding = decoding_for(spec)
    timestamps = decoding.timestamps or arguments.format in TIMED if arguments.timestamps is None else arguments.timestamps
    decoding = replace(
        decoding,
        language=None if arguments.language == "auto" else arguments.language,
        task=arguments.task,
        prompt=arguments.prompt or decoding.prompt,
        timestamps=timestamps,
        word_timestamps=arguments.words or decoding.word_timestamps,
        max_tokens=decoding.max_tokens if arguments.max_tokens is None else arguments.max_tokens,
    )
    made = list(names(arguments.audio, arguments.format))
    if arguments.out:
        check_folder(arguments.out, made, arguments.overwrite)
    model = open_speech_to_text(spec)
    failed = 0
    try:
        for path, name in zip(arguments.audio, made, strict=True):
            try:
                found = model.transcribe(Media(path=path, kind="audio"), decoding)
            except ItemError as error:
                failed += 1
                print(printable(f"{path}: {error}"), file=sys.stderr)
                continue
            if arguments.out:
                print(printable(f"{path} -> {write(found, arguments.out / name, arguments.format)}"))
            else:
                if len(arguments.audio) > 1:
                    print(printable(f"== {path}"))
                print(render(found, arguments.format), end="")
    finally:
        model.close()
    if failed:
        print(f"workbench: {failed} of {len(arguments.audio)} files could not be transcribed", file=sys.stderr)
    return EXIT_ITEM_ERRORS if failed else EXIT_OK


def check_folder(folder: Path, made: Sequence[str], overwrite: bool) -> None:
    """Make ``folder``. Raises UsageError when it cannot be written, or holds a file of these names: beside a recording often lies the
    text that somebody wrote down."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        writable = os.access(folder, os.W_OK | os.X_OK)
    except OSError as error:
        raise UsageError(f"{folder} cannot be a folder for transcripts", why=str(error.strerror), fix="--out FOLDER") from error
    if not writable:
        raise UsageError(f"nothing can be written into {folder}", why="its permissions forbid it", fix="--out FOLDER")
    there = [name for name in made if os.path.lexists(folder / name)]
    if there and not overwrite:
        more = f" and {len(there) - 1} more" if len(there) > 1 else ""
        raise UsageError(f"{folder / there[0]}{more} is there already", fix="--out ANOTHER-FOLDER, or --overwrite")


def names(paths: Sequence[Path], form: str) -> Iterator[str]:
    """A file name for each sound: its own with the format's ending; where two would be the same, the later ones are numbered."""
    used: set[str] = set()
    for path in paths:
        name, number = f"{path.stem}.{form}", 2
        while name.casefold() in used:
            name, number = f"{path.stem}-{number}.{form}", number + 1
        used.add(name.casefold())
        yield name
