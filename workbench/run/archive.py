"""Run bundles as one zip: the same bytes every time it is made, and nothing written that a bundle may not hold when it is read.

    pack([Run("reports/runs/a"), Run("reports/runs/b")], Path("both.zip"))
    unpack(Path("both.zip"), Path("elsewhere"))      # [elsewhere/a, elsewhere/b]

A zip comes from somebody else: names, types, sizes and the archive itself are hostile until checked.
"""

from __future__ import annotations

import os
import re
import shutil
import stat
import tempfile
import weakref
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from workbench.errors import BundleError
from workbench.run.bundle import Run, belongs, read_manifest

MAX_ENTRIES = 250_000
MAX_BYTES = 20 * 2**30
MAX_RATIO = 250
"""How many times its packed size an entry may grow to; only asked beyond ``RATIO_FROM`` bytes. Deflate itself allows 1,032."""
RATIO_FROM = 16 * 2**20
PIECE = 2**20

FOLDER_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._~-]{0,199}")
FIXED_TIME = (1980, 1, 1, 0, 0, 0)
FIXED_MODE = stat.S_IFREG | 0o644
STORED_AS_IT_IS = ("media", "tensors")


def pack(runs: Sequence[Run], target: Path) -> list[str]:
    """Write the runs into one zip, each in a folder of its name; returns the names of files that were left out.

    Names are sorted, times and permissions fixed: the same runs give the same bytes, whatever the machine, as long as its
    zlib packs alike (zlib-ng does not; what unpacks is the same). The zip is read back before it gets its name.
    Raises BundleError: two runs of one name, an unfinished run, another file at ``target``, no space.
    """
    folders: dict[str, Run] = {}
    for run in runs:
        name = re.sub(r"[^A-Za-z0-9._~-]+", "-", run.name).lstrip(".~-")[:200] or "run"
        if name.casefold() in map(str.casefold, folders):
            raise BundleError("two runs have the same name", why=name, fix="pack them one by one")
        if run.status != "complete":
            raise BundleError(
                f"{run.name} is not complete", why="it may still grow", fix="type the eval command again to finish it"
            )
        folders[name] = run
    left_out: list[str] = []
    draft = target.with_name(f".{target.name}.draft")
    try:
        with zipfile.ZipFile(draft, "w") as packed:
            for name, run in sorted(folders.items()):
                for file in sorted(files_of(run.folder)):
                    if belongs(file):
                        add(packed, run.folder / file, f"{name}/{file}")
                    elif not Path(file).name.startswith("."):
                        left_out.append(f"{name}/{file}")
        check_written(draft)
        if target.exists() and not same_bytes(draft, target):
            raise BundleError(f"{target} is there already", why="it holds something else", fix="--out ANOTHER.zip")
        with open(draft, "rb") as file:
            os.fsync(file.fileno())
        os.replace(draft, target)
    except OSError as error:
        raise BundleError(f"cannot write {target}", why=str(error.strerror or error), fix="--out FOLDER/FILE.zip") from error
    finally:
        draft.unlink(missing_ok=True)
    return left_out


def files_of(folder: Path) -> Iterator[str]:
    """Regular files of a bundle by relative name. Links are passed over: they may point anywhere."""
    for path in folder.iterdir():
        if path.is_symlink():
            continue
        if path.is_file():
            yield path.name
        elif path.name in STORED_AS_IT_IS:
            yield from (f"{path.name}/{each.name}" for each in path.iterdir() if each.is_file() and not each.is_symlink())


def add(packed: zipfile.ZipFile, path: Path, name: str) -> None:
    entry = zipfile.ZipInfo(name, FIXED_TIME)
    entry.create_system, entry.external_attr = 3, FIXED_MODE << 16
    entry.compress_type = zipfile.ZIP_STORED if path.parent.name in STORED_AS_IT_IS else zipfile.ZIP_DEFLATED
    entry.file_size = path.stat().st_size
    with open(path, "rb") as source, packed.open(entry, "w") as out:
        shutil.copyfileobj(source, out, PIECE)


def check_written(path: Path) -> None:
    with zipfile.ZipFile(path) as packed:
        broken = packed.testzip()
    if broken is not None:
        raise BundleError(f"{path.name} could not be read back", why=f"{broken} has another checksum", fix="try another disk")


def same_bytes(one: Path, other: Path) -> bool:
    from workbench.fingerprint import of_file

    return one.stat().st_size == other.stat().st_size and of_file(one) == of_file(other)


def unpack(path: Path, folder: Path, max_bytes: int = MAX_BYTES) -> list[Path]:
    """The bundles of a zip, as folders in ``folder``; sorted by name.

    Raises BundleError naming the entry for anything that is no bundle's file: a path out of the folder, a link, a name
    twice, an encrypted entry, an entry that grows beyond belief. Nothing half-written remains.
    """
    with reading(path) as packed:
        entries = check_entries(packed, path)
        names = sorted({name.partition("/")[0] for name, _ in entries})
        there = next((name for name in names if (folder / name).exists()), None)
        if there is not None:
            raise BundleError(f"{folder / there} is there already", why=f"{path.name} holds a run of that name")
        folder.mkdir(parents=True, exist_ok=True)
        draft = Path(tempfile.mkdtemp(prefix=".unpack-", dir=folder))
        try:
            remaining = max_bytes
            for name, entry in entries:
                target = draft / name
                target.parent.mkdir(parents=True, exist_ok=True)
                with packed.open(entry) as source, open(target, "xb") as out:
                    remaining -= copy(source, out, entry, remaining, path)
            for name in names:
                read_manifest(draft / name)
            for name in names:
                (draft / name).rename(folder / name)
        finally:
            shutil.rmtree(draft, ignore_errors=True)
    return [folder / name for name in names]


class Unpacked:
    """A private temporary folder that lives as long as this object, at most until the interpreter ends."""

    def __init__(self):
        self.folder = Path(tempfile.mkdtemp(prefix="workbench-"))
        weakref.finalize(self, shutil.rmtree, self.folder, ignore_errors=True)


def unpack_temporarily(path: Path) -> tuple[list[Path], Unpacked]:
    """The bundles of a zip in a private temporary folder, and the object that keeps it there."""
    keep = Unpacked()
    return unpack(path, keep.folder), keep


@contextmanager
def reading(path: Path) -> Iterator[zipfile.ZipFile]:
    """The zip, open; every way in which it can be broken is a BundleError."""
    try:
        with zipfile.ZipFile(path) as packed:
            yield packed
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, UnicodeDecodeError, ValueError, RuntimeError) as error:
        raise BundleError(
            f"{path.name} cannot be read as a zip of runs",
            why=str(error) or type(error).__name__,
            fix="copy it again, or pack it again",
        ) from error
    except OSError as error:
        raise BundleError(f"{path.name} cannot be unpacked", why=str(error.strerror or error)) from error


def check_entries(packed: zipfile.ZipFile, path: Path) -> list[tuple[str, zipfile.ZipInfo]]:
    """(name, entry) of the files, all names allowed and none twice, also on disks that do not tell upper from lower case."""
    entries = packed.infolist()
    if len(entries) > MAX_ENTRIES:
        raise BundleError(f"{path.name} holds {len(entries):,} entries", why=f"the limit is {MAX_ENTRIES:,}")
    seen: set[str] = set()
    found: list[tuple[str, zipfile.ZipInfo]] = []
    for entry in entries:
        why = refusal(entry)
        if why is None and entry.filename.casefold() in seen:
            why = "its name is there twice"
        if why is not None:
            name = entry.orig_filename[:200]
            raise BundleError(
                f"{path.name} holds an entry that is refused: {name!r}", why=why, fix="workbench pack RUN makes such zips"
            )
        seen.add(entry.filename.casefold())
        if not entry.is_dir():
            found.append((entry.filename, entry))
    if sum(entry.compress_size for _, entry in found) > path.stat().st_size:
        raise BundleError(f"{path.name} is refused", why="its entries overlap")
    lacking = {name.partition("/")[0] for name, _ in found} - {
        name.partition("/")[0] for name, _ in found if name.endswith("/manifest.json")
    }
    if lacking or not found:
        raise BundleError(
            f"{path.name} holds no run bundle", why=f"{min(lacking)}/manifest.json is missing" if lacking else "it is empty"
        )
    return found


def refusal(entry: zipfile.ZipInfo) -> str | None:
    """Why an entry is refused; None when it is not."""
    name, kind = entry.orig_filename, stat.S_IFMT(entry.external_attr >> 16)
    if name != entry.filename or "\\" in name or "\0" in name:
        return "its name holds a backslash or a null"
    if name.startswith("/") or re.match(r"[A-Za-z]:", name):
        return "its path is absolute"
    if ".." in name.split("/"):
        return "its path leads out of the folder"
    if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
        return "it is a link or a device"
    if entry.flag_bits & 0x1:
        return "it is encrypted"
    if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        return "its compression is neither stored nor deflate"
    run, _, file = name.partition("/")
    if not FOLDER_NAME.fullmatch(run):
        return "its folder is no name of a run"
    if entry.is_dir():
        return None if file.rstrip("/") in ("", *STORED_AS_IT_IS) else "no bundle holds such a folder"
    return None if belongs(file) else "no bundle holds such a file"


def copy(source: BinaryIO | Any, out: BinaryIO, entry: zipfile.ZipInfo, limit: int, path: Path) -> int:
    """Copy an entry, counting what really comes out of it: a header may say anything. Returns the bytes."""
    size = 0
    while piece := source.read(PIECE):
        size += len(piece)
        if size > limit:
            raise BundleError(f"{path.name} unpacks to too much", why=f"the limit was reached in {entry.filename!r}")
        if size > RATIO_FROM and size > MAX_RATIO * entry.compress_size:
            raise BundleError(
                f"{path.name} holds an entry that is refused: {entry.filename!r}",
                why=f"it grows to more than {MAX_RATIO} times its packed size",
            )
        out.write(piece)
    return size
