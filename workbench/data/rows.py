"""Rows without a hub: a data source for an own eval, and the reader of the rows files that ``workbench score`` takes.

Rows([{"id": "1", "question": "What colour?", "image": "cat.png", "answer": "black"}])
Rows.read("questions.jsonl")              # paths of images and sounds are relative to the file
Rows([{"id": "1", "audio": "yes.flac", "text": "yes"}])
"""

from __future__ import annotations

import io
import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from workbench import fingerprint as hashing
from workbench.data.card import ToSample, make_samples, select
from workbench.errors import DataError
from workbench.types import Loaded, Media, Sample


class Rows:
    """Rows given in Python or in a JSON lines file, as a task's data source.

    ``rows`` is a list of mappings or a function that returns one (called when the data is first needed). By default a row has
    ``id`` (else its position), ``question``, ``answer`` and ``image`` or ``images``: a path, a ``PIL.Image`` or a Media. A row of
    speech has ``audio`` (a path, encoded bytes or a Media), ``text`` (what is said), and may have ``language``, ``task`` and
    ``speaker`` (the group). Other columns go to ``sample.meta``. ``to_sample(row, position)`` replaces that reading.
    """

    def __init__(
        self,
        rows: Iterable[Mapping[str, Any]] | Callable[[], Iterable[Mapping[str, Any]]],
        *,
        name: str = "rows",
        folder: str | Path = ".",
        to_sample: ToSample | None = None,
        anywhere: bool = True,
    ):
        self.rows, self.name, self.folder, self.anywhere = rows, name, Path(folder), anywhere
        self.to_sample = to_sample or self.plain_sample

    @classmethod
    def read(cls, path: str | Path, to_sample: ToSample | None = None, *, anywhere: bool = False) -> Rows:
        """Rows of a JSON lines or parquet file, read when first needed.

        Paths in it that lead out of the file's folder are refused, unless ``anywhere`` says that the file is to be trusted.
        """
        path = Path(path)
        return cls(lambda: read_rows(path), name=path.name, folder=path.parent, to_sample=to_sample, anywhere=anywhere)

    def load(self, limit: int | None = None, sample_ids: Sequence[str] | None = None) -> Loaded:
        rows = list(self.rows() if callable(self.rows) else self.rows)
        samples = make_samples(rows, self.to_sample, self.name)
        # Over all rows, so that a part of the data is the same data.
        fingerprint = hashing.of_json([[sample.id, plain(sample.inputs), plain(sample.target)] for sample in samples])
        return Loaded(select(samples, limit, sample_ids, self.name), f"sha256:{fingerprint[:16]}", fingerprint)

    def plain_sample(self, row: Mapping[str, Any], position: int) -> Sample:
        if row.get("audio") is not None:
            return self.speech_sample(row, position)
        images = row.get("images") or ([] if row.get("image") is None else [row["image"]])
        inputs = {"text": row["question"], "images": [self.media(image) for image in images]}
        name = str(row.get("id", position))
        meta = {key: value for key, value in row.items() if key not in ("id", "question", "answer", "image", "images")}
        return Sample(name, inputs, row["answer"], name, meta)

    def speech_sample(self, row: Mapping[str, Any], position: int) -> Sample:
        inputs = {
            "audio": self.media(row["audio"], "audio"),
            "language": row.get("language"),
            "task": row.get("task") or "transcribe",
        }
        name = str(row.get("id", position))
        meta = {key: value for key, value in row.items() if key not in ("id", "audio", "text", "language", "task")}
        return Sample(name, inputs, row["text"], str(row.get("speaker") or name), meta)

    def media(self, image: Any, kind: str = "image") -> Media:
        if isinstance(image, Media):
            return image
        if isinstance(image, Mapping):  # as Hugging Face datasets stores a sound or a picture in parquet
            image = image["path"] if image.get("bytes") is None else image["bytes"]
        if isinstance(image, (str, Path)):
            path = self.folder / image if self.anywhere else inside(self.folder, image, f"{self.name!r}")
            return Media(path=path, kind=kind)
        if isinstance(image, bytes):
            return Media(data=image, kind=kind)
        if kind == "audio":
            raise ValueError(f"a sound is a path, encoded bytes or a Media, not {type(image).__name__}")
        buffer = io.BytesIO()
        image.save(buffer, "PNG")
        return Media(data=buffer.getvalue())


def inside(folder: Path, name: str | Path, where: str) -> Path:
    """``folder / name`` without detours. Raises DataError when that is not in the folder.

    The names are compared, not what symbolic links lead to: who made the folder may link to other places.
    """
    path = os.path.normpath(str(name).replace("\\", "/"))
    if os.path.isabs(path) or Path(path).drive or path.split(os.sep)[0] == ".." or path == "." or "\0" in path:
        raise DataError(
            f"{where}: the path {Path(str(name)).name!r} leads out of the data set's folder",
            why="a path in a file of rows names a file beside it or below it",
            fix="copy the media into the folder; for an own file of rows: Rows.read(path, anywhere=True)",
        )
    return folder / path


def plain(value: Any) -> Any:
    """JSON for a hash: media by their bytes' hash."""
    if isinstance(value, Media):
        return value.sha256
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    return [plain(item) for item in value] if isinstance(value, (list, tuple)) else value


def read_rows(path: Path, columns: Sequence[str] = (), optional: Sequence[str] = ()) -> list[dict[str, Any]]:
    """Rows of a ``.jsonl``, ``.json`` (a list) or ``.parquet`` file.

    With ``columns``, only these and ``optional`` ones are read, and one that is missing raises DataError with those present.
    """
    if not path.is_file():
        raise DataError(f"there is no rows file {str(path)!r}")
    if path.suffix == ".parquet":
        return read_parquet(path, columns, optional)
    rows = [row for _, row in read_json_lines(path)] if path.suffix != ".json" else read_json_list(path)
    if not rows:
        raise DataError(f"{path.name!r} holds no rows")
    if columns:
        for position, row in enumerate(rows):
            check(path, columns, list(row), f" in row {position}")
        rows = [{name: row[name] for name in (*columns, *optional) if name in row} for row in rows]
    return rows


def read_json_lines(path: Path) -> list[tuple[int, dict[str, Any]]]:
    """(line number from 1, object) of every line that is not blank. Raises DataError naming the first line that is broken."""
    found, broken = [], []
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except UnicodeDecodeError as error:
        raise DataError(f"{path.name!r} is not UTF-8 text", why=str(error)) from error
    except OSError as error:
        raise DataError(f"cannot read {str(path)!r}", why=error.strerror) from error
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            value = json.loads(line)
        except (json.JSONDecodeError, RecursionError) as error:
            broken.append((number, str(error)))
            continue
        if isinstance(value, dict):
            found.append((number, value))
        else:
            broken.append((number, f"an object in braces is needed, not {type(value).__name__}"))
    if broken:
        number, why = broken[0]
        more = f" ({len(broken)} such lines)" if len(broken) > 1 else ""
        raise DataError(f"line {number} of {path.name!r} is not a JSON object{more}", why=why)
    return found


def read_json_list(path: Path) -> list[dict[str, Any]]:
    try:
        rows = json.loads(path.read_text(encoding="utf-8-sig"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise DataError(f"{path.name!r} is not JSON", why=str(error)) from error
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise DataError(f"{path.name!r} is not a list of rows", why="a .json file must hold one list of objects")
    return rows


def read_parquet(path: Path, columns: Sequence[str], optional: Sequence[str]) -> list[dict[str, Any]]:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as error:
        raise DataError("parquet files need pyarrow", fix="pip install pyarrow") from error
    try:
        names = parquet.read_schema(path).names
        check(path, columns, names)
        wanted = [name for name in (*columns, *optional) if name in names] if columns else None
        return parquet.read_table(path, columns=wanted).to_pylist()
    except (pyarrow.ArrowException, OSError) as error:
        raise DataError(f"cannot read {path.name!r} as parquet", why=str(error).splitlines()[0]) from error


def check(path: Path, columns: Sequence[str], present: Sequence[str], where: str = "") -> None:
    missing = [name for name in columns if name not in present]
    if missing:
        raise DataError(
            f"{path.name!r} lacks the column {', '.join(map(repr, missing))}{where}", why=f"it has: {', '.join(present)}"
        )
