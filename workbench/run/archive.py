"""Run bundles as one zip: the same bytes every time it is made, and nothing written that a bundle may not hold when it is read.

    pack([Run("reports/runs/a"), Run("reports/runs/b")], Path("both.zip"))
    unpack(Path("both.zip"), Path("elsewhere"))      # [elsewhere/a, elsewhere/b]

A zip comes from somebody else: names, types, sizes and the archive itself are hostile until checked. The zip of a kit
(``workbench.run.kit``) also holds its record and a text, and its bundles come in the order of the kit's plan.
"""

from __future__ import annotations

import io
import os
import re
import shutil
import stat
import tempfile
import weakref
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from workbench.errors import BundleError
from workbench.run import kit as kits
from workbench.run.bundle import Run, belongs, read_manifest
from workbench.run.kit import KIT_FILE, README_FILE, Kit

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


def pack(runs: Sequence[Run], target: Path, *, beside: Mapping[str, bytes] | None = None, replace: bool = False) -> list[str]:
    """Write the runs into one zip, each in a folder of its name; returns the names of files that were left out.

    ``beside``: the two files of a kit, by name; they come first. ``replace``: another file at ``target`` goes.

    Names are sorted, times and permissions fixed: the same runs give the same bytes, whatever the machine, as long as its
    zlib packs alike (zlib-ng does not; what unpacks is the same). The zip is read back before it gets its name.
    Raises BundleError: two runs of one name, an unfinished run, another file at ``target``, no space.
    """
    folders: dict[str, Run] = {}
    for run in runs:
        name = packed_name(run)
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
            for name, content in sorted((beside or {}).items()):
                packed.writestr(entry_of(name, zipfile.ZIP_DEFLATED), content)
            for name, run in sorted(folders.items()):
                for file in sorted(files_of(run.folder)):
                    if belongs(file):
                        add(packed, run.folder / file, f"{name}/{file}")
                    elif not Path(file).name.startswith("."):
                        left_out.append(f"{name}/{file}")
        check_written(draft)
        if target.exists() and not replace and not same_bytes(draft, target):
            raise BundleError(f"{target} is there already", why="it holds something else", fix="--out ANOTHER.zip")
        with open(draft, "rb") as file:
            os.fsync(file.fileno())
        os.replace(draft, target)
    except OSError as error:
        raise BundleError(f"cannot write {target}", why=str(error.strerror or error), fix="--out FOLDER/FILE.zip") from error
    finally:
        draft.unlink(missing_ok=True)
    return left_out


def packed_name(run: Run) -> str:
    """The name of a run's folder in a zip."""
    return re.sub(r"[^A-Za-z0-9._~-]+", "-", run.name).lstrip(".~-")[:200] or "run"


def files_of(folder: Path) -> Iterator[str]:
    """Regular files of a bundle by relative name. Links are passed over: they may point anywhere."""
    for path in folder.iterdir():
        if path.is_symlink():
            continue
        if path.is_file():
            yield path.name
        elif path.name in STORED_AS_IT_IS:
            yield from (f"{path.name}/{each.name}" for each in path.iterdir() if each.is_file() and not each.is_symlink())


def entry_of(name: str, compression: int) -> zipfile.ZipInfo:
    entry = zipfile.ZipInfo(name, FIXED_TIME)
    entry.create_system, entry.external_attr, entry.compress_type = 3, FIXED_MODE << 16, compression
    return entry


def add(packed: zipfile.ZipFile, path: Path, name: str) -> None:
    entry = entry_of(name, zipfile.ZIP_STORED if path.parent.name in STORED_AS_IT_IS else zipfile.ZIP_DEFLATED)
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
    """The bundles of a zip, as folders in ``folder``; sorted by name, those of a kit in the order of its plan.

    Raises BundleError naming the entry for anything that is no bundle's file: a path out of the folder, a link, a name
    twice, an encrypted entry, an entry that grows beyond belief. Nothing half-written remains.
    """
    return unpack_with_record(path, folder, max_bytes)[0]


def unpack_with_record(path: Path, folder: Path, max_bytes: int = MAX_BYTES) -> tuple[list[Path], Kit | None]:
    """As ``unpack``; and the record of the kit, where the zip is one."""
    with reading(path) as packed:
        entries, beside = check_entries(packed, path)
        kit = record_of(packed, beside, path)
        check_bundles(entries, path, kit)
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
    return [folder / name for name in in_order(names, kit)], kit


def in_order(names: Sequence[str], kit: Kit | None) -> list[str]:
    """The bundles' names in the order of a kit's plan, whose first is the reference; others after them, by name."""
    planned = {name: place for place, name in enumerate(kit.runs if kit else ())}
    return sorted(names, key=lambda name: (planned.get(name, len(planned)), name))


def read_kit(path: Path) -> Kit | None:
    """The record of a kit: of its zip, or of the folder that was made of one (browsers unpack what they fetch); None for anything else.

    Raises BundleError: damaged, hostile, or written by a newer workbench.
    """
    if path.is_dir():
        file = path / KIT_FILE
        if not file.is_file() or file.is_symlink():
            return None
        with open(file, "rb") as source:
            content = source.read(kits.MAX_RECORD_BYTES + 1)
        if len(content) > kits.MAX_RECORD_BYTES:
            raise BundleError(
                f"{path.name}/{KIT_FILE} is no record of a kit", why=f"it is larger than {kits.MAX_RECORD_BYTES:,} bytes"
            )
        return kits.parse(content, f"{path.name}/{KIT_FILE}")
    with reading(path) as packed:
        return record_of(packed, check_entries(packed, path)[1], path)


class Unpacked:
    """A private temporary folder that lives as long as this object, at most until the interpreter ends.

    ``kit``: the record of the kit that was unpacked there, if it was one.
    """

    kit: Kit | None = None

    def __init__(self):
        self.folder = Path(tempfile.mkdtemp(prefix="workbench-"))
        weakref.finalize(self, shutil.rmtree, self.folder, ignore_errors=True)


def unpack_temporarily(path: Path) -> tuple[list[Path], Unpacked]:
    """The bundles of a zip in a private temporary folder, and the object that keeps it there."""
    keep = Unpacked()
    folders, keep.kit = unpack_with_record(path, keep.folder)
    return folders, keep


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


Entries = list[tuple[str, zipfile.ZipInfo]]


def check_entries(packed: zipfile.ZipFile, path: Path) -> tuple[Entries, Entries]:
    """(name, entry) of the bundles' files, and of those beside them that only a kit has.

    All names are allowed and none is there twice, also on disks that do not tell upper from lower case.
    """
    entries = packed.infolist()
    if len(entries) > MAX_ENTRIES:
        raise BundleError(f"{path.name} holds {len(entries):,} entries", why=f"the limit is {MAX_ENTRIES:,}")
    seen: set[str] = set()
    found: Entries = []
    is_kit = any(entry.filename == KIT_FILE for entry in entries)
    for entry in entries:
        why = refusal(entry, kits.BESIDE_BUNDLES if is_kit else ())
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
    beside = [(name, entry) for name, entry in found if name in kits.BESIDE_BUNDLES]
    return [(name, entry) for name, entry in found if name not in kits.BESIDE_BUNDLES], beside


def check_bundles(found: Entries, path: Path, kit: Kit | None) -> None:
    """Raises BundleError where a folder has no manifest, or where there is no bundle at all."""
    lacking = {name.partition("/")[0] for name, _ in found} - {
        name.partition("/")[0] for name, _ in found if name.endswith("/manifest.json")
    }
    if lacking or not found:
        empty = "it is empty" if kit is None else f"none of its {len(kit.steps)} steps made one"
        raise BundleError(
            f"{path.name} holds no run bundle",
            why=f"{min(lacking)}/manifest.json is missing" if lacking else empty,
            fix=f"workbench verify {path.name}" if kit and not lacking else None,
        )


def record_of(packed: zipfile.ZipFile, beside: Entries, path: Path) -> Kit | None:
    """What the files beside the bundles say, checked; None where it is no kit."""
    entries = dict(beside)
    if KIT_FILE not in entries:
        return None
    if README_FILE in entries:
        read_entry(packed, entries[README_FILE], kits.MAX_README_BYTES, path).decode("utf-8")  # nobody reads it but people
    return kits.parse(read_entry(packed, entries[KIT_FILE], kits.MAX_RECORD_BYTES, path), f"{path.name}/{KIT_FILE}")


def read_entry(packed: zipfile.ZipFile, entry: zipfile.ZipInfo, limit: int, path: Path) -> bytes:
    out = io.BytesIO()
    with packed.open(entry) as source:
        copy(source, out, entry, limit, path)
    return out.getvalue()


def refusal(entry: zipfile.ZipInfo, beside: Sequence[str] = ()) -> str | None:
    """Why an entry is refused; None when it is not. ``beside``: files that may stand beside the bundles."""
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
    if name in beside:
        return None
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
