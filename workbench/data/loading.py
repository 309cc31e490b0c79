"""Reads a card's rows with Hugging Face ``datasets``: hub and local parquet files by one path.

    rows = read_rows(load_card("mmstar-sample"))     # [{"index": 0, "question": ..., "image": Media(...)}, ...]

Images and sounds are never decoded here: each becomes a Media that reads its encoded bytes from the memory-mapped table when
asked, so 100,000 rows cost no more memory than their text.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from fnmatch import fnmatch
from importlib import metadata
from pathlib import Path
from typing import Any

from workbench import fingerprint as hashing
from workbench.data import local
from workbench.data.card import Card
from workbench.data.rows import inside
from workbench.errors import DataError, ItemError
from workbench.types import Media


class ColumnMedia(Media):
    """A cell of an Arrow column of type struct{bytes, path} (how ``datasets`` stores an image or a sound), read when asked."""

    __slots__ = ("_column", "_folder", "_row")

    def __init__(self, column: Any, row: int, folder: Path | None, kind: str = "image"):
        self.path = self.data = self._sha256 = None
        self.kind = kind
        self._column, self._row, self._folder = column, row, folder

    def read(self) -> bytes:
        cell = self._column[self._row].as_py()
        if isinstance(cell, bytes):
            return cell
        if cell.get("bytes") is not None:
            return cell["bytes"]
        name = cell.get("path") or ""
        try:
            return self._file(name).read_bytes()
        except (OSError, DataError) as error:
            why = str(error.strerror) if isinstance(error, OSError) else error.what
            raise ItemError(f"cannot read {self.kind} {Path(name).name!r}", reason=self.kind, why=why) from error

    def _file(self, name: str) -> Path:
        """Where a path of the table leads: below the card's folder, or for a hub's table into the hub's own caches."""
        if self._folder:
            return inside(self._folder, name, f"row {self._row}")
        from huggingface_hub import constants

        import datasets

        path = os.path.normpath(name)
        caches = (constants.HF_HUB_CACHE, datasets.config.HF_DATASETS_CACHE)
        if "\0" in name or not any(Path(path).is_relative_to(os.path.abspath(cache)) for cache in caches):
            raise DataError(f"row {self._row}: the path leads out of the hub's caches")
        return Path(path)

    def __repr__(self) -> str:
        return f"Media({self.kind}, row {self._row})"


def require_datasets() -> Any:
    """The ``datasets`` module. Raises DataError when it is not installed."""
    # A folder datasets/ on the path makes "import datasets" succeed with an empty namespace, so ask the installer's records.
    try:
        metadata.version("datasets")
    except metadata.PackageNotFoundError:
        raise DataError(
            "the library datasets is not installed", why="data sets are read with it", fix="pip install datasets"
        ) from None
    import datasets

    if not hasattr(datasets, "load_dataset"):
        raise DataError(
            "the library datasets cannot be imported", why="a folder or file named datasets hides it", fix="run from another folder"
        )
    return datasets


def read_rows(card: Card, limit: int | None = None) -> list[dict[str, Any]]:
    """The card's rows in data order, the first ``limit`` if given; images and sounds as Media or None. Raises DataError."""
    refuse_unpinned(card)
    for file in card.files:
        if not file.is_file():
            raise DataError(
                f"the data file {file.name!r} of {card.name} is not here", why=f"looked in {file.parent.name}/", fix="git lfs pull"
            )
    if local.is_local(card):
        return local.read_local(card, limit)
    datasets = require_datasets()
    rows: list[dict[str, Any]] = []
    with offline() if card.hub and not announce(card) else nullcontext():
        for config in card.configs:
            rows += table_rows(*load_table(datasets, card, config), card, None if limit is None else limit - len(rows))
            if limit is not None and len(rows) >= limit:
                break
    return rows


def refuse_unpinned(card: Card) -> None:
    """Refuse a hub card without a commit: its rows may be others tomorrow, and a score of them could not be compared."""
    if card.pinned:
        return
    given = f"its revision is {card.revision!r}" if card.revision else "it has no revision"
    show = f"from huggingface_hub import HfApi; print(HfApi().dataset_info('{card.hub}').sha)"
    raise DataError(
        f"data card {card.name!r} is not pinned",
        why=f"{given}, and scores of rows that may change cannot be compared",
        fix=f'in datasets/cards/{card.name}.toml write revision = "COMMIT", the 40 digits that this prints: python -c "{show}"',
    )


def fetched(card: Card, config: str | None) -> list[str]:
    """The hub files that match the card's patterns, downloaded once. Raises DataError when there are none."""
    from huggingface_hub import snapshot_download

    patterns = [pattern.replace("{config}", config or "") for pattern in card.patterns]
    folder = Path(snapshot_download(card.hub, repo_type="dataset", revision=card.revision, allow_patterns=patterns))
    files = sorted({str(path) for pattern in patterns for path in folder.glob(pattern)})
    if not files:
        raise DataError(
            f"{card.hub} has no file {' or '.join(map(repr, patterns))} here",
            fix="check the card's files, and that the hub is reachable",
        )
    return files


def load_table(datasets: Any, card: Card, config: str | None) -> tuple[Any, dict[str, str]]:
    """One configuration as an Arrow table with its media undecoded, and what its media columns hold. Raises DataError."""
    quiet = not card.hub and not datasets.are_progress_bars_disabled()
    if quiet:
        datasets.disable_progress_bars()
    try:
        if card.hub and not card.patterns:
            data = datasets.load_dataset(card.hub, config, split=card.split, revision=card.revision)
        else:
            files = fetched(card, config) if card.hub else [str(file) for file in card.files]
            data = datasets.load_dataset("parquet", data_files={card.split: files}, split=card.split)
        kinds = {name: local.kind_of(name) for name in card.media}
        for name, feature in data.features.items():
            if name in card.media and isinstance(feature, (datasets.Image, datasets.Audio)):
                kinds[name] = "audio" if isinstance(feature, datasets.Audio) else "image"
                data = data.cast_column(name, type(feature)(decode=False))
        return data.with_format("arrow")[:], kinds
    except DataError:
        raise
    except Exception as error:  # noqa: BLE001  the library raises errors of many packages; all become one with a next step
        raise explain(card, error) from error
    finally:
        if quiet:
            datasets.enable_progress_bars()


def table_rows(table: Any, kinds: dict[str, str], card: Card, limit: int | None) -> list[dict[str, Any]]:
    """Rows of one table; raises DataError naming the columns that are missing."""
    check_columns(card, table.column_names, (*card.ask, *card.score))
    if limit is not None:
        table = table.slice(0, limit)
    media = [name for name in card.media if name in table.column_names]
    rows = table.drop_columns(media).to_pylist()
    folder = card.files[0].parent if card.files else None
    for name in media:
        column = table.column(name)
        for index, present in enumerate(filled(column)):
            rows[index][name] = ColumnMedia(column, index, folder, kinds[name]) if present else None
    return rows


def filled(column: Any) -> list[bool]:
    """Which cells hold an image or a sound: a struct may be there with both of its fields null."""
    import pyarrow
    from pyarrow import compute

    valid = column.is_valid()
    if pyarrow.types.is_struct(column.type):
        names = [field.name for field in column.type]
        parts = [compute.is_valid(compute.struct_field(column, name)) for name in ("bytes", "path") if name in names]
        some = parts[0]
        for part in parts[1:]:
            some = compute.or_(some, part)
        valid = compute.and_(valid, some)
    return valid.to_pylist()


def check_columns(card: Card, present: Sequence[str], needed: Sequence[str]) -> None:
    missing = [name for name in dict.fromkeys(needed) if name not in present]
    if missing:
        named = ", ".join(map(repr, missing))
        raise DataError(
            f"{card.where} lacks the column {named}",
            why=f"it has: {', '.join(present)}",
            fix="check the card's revision and columns",
        )


UNREACHABLE = {"ConnectionError", "ConnectError", "OfflineModeIsEnabled", "LocalEntryNotFoundError", "TimeoutException", "Timeout"}


def is_unreachable(error: Exception) -> bool:
    """Whether an error, or one that caused it, says that there is no network (requests, httpx and the hub's own names)."""
    return bool(UNREACHABLE & {kind.__name__ for step in chain(error) for kind in type(step).__mro__})


def explain(card: Card, error: Exception) -> DataError:
    """A DataError that says what to do about an error of ``datasets`` or ``huggingface_hub``."""
    kinds = {kind.__name__ for step in chain(error) for kind in type(step).__mro__}
    text = " ".join(str(step) for step in chain(error))
    first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    if not card.hub:
        return DataError(f"cannot read {card.where!r} of {card.name}", why=first, fix="fetch the file again; it must be parquet")
    sample = f"workbench eval {'asr' if 'audio' in card.media else card.name}-sample needs no network"
    if "GatedRepoError" in kinds or "gated" in text.lower() or "401" in text:
        return DataError(
            f"{card.hub} needs a permission", why=first, fix="accept its terms on the hub, then: export HF_TOKEN=hf_..."
        )
    if is_unreachable(error):
        return DataError(f"the hub cannot be reached for {card.hub}", why=first, fix=sample)
    if kinds & {"RepositoryNotFoundError", "DatasetNotFoundError", "RevisionNotFoundError"}:
        return DataError(
            f"{card.hub} at revision {card.revision} was not found", why=first, fix="if it is private: export HF_TOKEN=hf_..."
        )
    return DataError(f"cannot load {card.hub}", why=f"{type(error).__name__}: {first}", fix=sample)


def chain(error: BaseException | None) -> list[BaseException]:
    """The error and those that caused it."""
    found: list[BaseException] = []
    while error is not None and error not in found:
        found.append(error)
        error = error.__cause__ or error.__context__
    return found


@contextmanager
def offline() -> Iterator[None]:
    """Use what is cached. Without it the libraries try a hub that is out of reach for half a minute."""
    from huggingface_hub import constants

    import datasets

    before = constants.HF_HUB_OFFLINE, datasets.config.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = datasets.config.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE, datasets.config.HF_HUB_OFFLINE = before


def announce(card: Card) -> bool:
    """Say on stderr how much is about to be downloaded, unless cached or unknown. False: the hub is out of reach."""
    try:
        from huggingface_hub import HfApi, constants

        import datasets

        owner, _, name = card.hub.partition("/")
        cached = Path(datasets.config.HF_DATASETS_CACHE) / f"{owner}___{name.lower()}"
        if constants.HF_HUB_OFFLINE:
            return False
        files = HfApi().dataset_info(card.hub, revision=card.revision, files_metadata=True, timeout=10).siblings
        if card.patterns:
            cached = Path(constants.HF_HUB_CACHE) / f"datasets--{owner}--{name}" / "snapshots"
        if any(cached.rglob(card.revision)):
            return True
    except Exception as error:  # noqa: BLE001  only a courtesy: the load itself reports what is wrong
        return not is_unreachable(error)
    configs = {config for config in card.configs if config}
    patterns = [pattern.replace("{config}", config or "") for config in card.configs for pattern in card.patterns]
    wanted = [
        file.size or 0
        for file in files
        if any(fnmatch(file.rfilename, pattern) for pattern in patterns)
        or not patterns
        and file.rfilename.endswith(".parquet")
        and (len(configs) < 2 or file.rfilename.partition("/")[0] in configs)
        and (card.split in file.rfilename or sum(other.rfilename.endswith(".parquet") for other in files) == 1)
    ]
    if wanted:
        text = f"downloading {card.hub} ({card.split}, {card.revision[:7]}): about {sum(wanted) / 1e6:,.0f} MB, once"
        print(text, file=sys.stderr)
    return True


def revision(card: Card, whole: str) -> str:
    """The pinned commit, or the beginning of ``whole``: the hash of the local files."""
    return card.revision if card.hub else f"sha256:{whole[:16]}"


def fingerprint(card: Card) -> str:
    """One hash for what the rows come from: hub id, commit, configurations and split, or the local files' bytes."""
    if card.hub:
        parts = [list(card.patterns)] if card.patterns else []
        return hashing.of_json([card.hub, card.revision, list(card.configs), card.split, *parts])
    if local.is_local(card):
        return local.fingerprint(card)
    return hashing.of_json([hashing.of_file(file) for file in card.files])
