import json

import pytest

from workbench.data.rows import Rows, read_rows
from workbench.errors import DataError
from workbench.types import Media

ROWS = [{"id": "a", "question": "q", "answer": "x", "extra": 1}, {"id": "b", "question": "r", "answer": None, "extra": 2}]


def write(path, rows=ROWS):
    if path.suffix == ".parquet":
        parquet = pytest.importorskip("pyarrow.parquet")
        import pyarrow

        parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    elif path.suffix == ".json":
        path.write_text(json.dumps(rows))
    else:
        path.write_text("\n".join(json.dumps(row) for row in rows) + "\n\n")
    return path


@pytest.mark.parametrize("suffix", [".jsonl", ".json", ".parquet"])
def test_rows_are_the_same_from_every_format(tmp_path, suffix):
    path = write(tmp_path / f"rows{suffix}")
    assert read_rows(path) == ROWS
    assert read_rows(path, ["id"], ["extra", "absent"]) == [{"id": "a", "extra": 1}, {"id": "b", "extra": 2}]
    with pytest.raises(DataError, match="lacks the column 'wanted'") as caught:
        read_rows(path, ["id", "wanted"])
    assert "id, question, answer, extra" in caught.value.why


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", b'{"id": 1}\n{"id": \n', "line 2 of 'a.jsonl'"),
        ("a.jsonl", b"[1]\n", "line 1 of 'a.jsonl'"),
        ("a.jsonl", b"\xff\xfe\n", "not UTF-8"),
        ("a.jsonl", b"\n", "holds no rows"),
        ("a.json", b"{}", "not a list of rows"),
        ("a.json", b"{", "not JSON"),
        ("a.parquet", b"PAR1 no", "as parquet"),
    ],
)
def test_broken_files_are_named(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=message):
        read_rows(tmp_path / name)


def test_a_missing_file(tmp_path):
    with pytest.raises(DataError, match="no rows file"):
        read_rows(tmp_path / "none.jsonl")


def test_line_separators_inside_text_do_not_break_lines(tmp_path):
    (tmp_path / "a.jsonl").write_text('\ufeff{"id": "a\u2028b"}\r\n', encoding="utf-8")
    assert read_rows(tmp_path / "a.jsonl") == [{"id": "a\u2028b"}]


def test_own_rows_become_samples(tmp_path):
    image = pytest.importorskip("PIL.Image").new("RGB", (3, 2), "red")
    image.save(tmp_path / "red.png")
    rows = [
        {"question": "q", "image": "red.png", "answer": "x", "level": 3},
        {"id": 7, "question": "q", "images": [image, Media(data=b"1")], "answer": "y"},
        {"question": "text only", "answer": "z"},
    ]
    write(tmp_path / "mine.jsonl", [rows[0], rows[2]])
    loaded = Rows(rows, folder=tmp_path).load()
    assert [sample.id for sample in loaded.samples] == ["0", "7", "2"]
    first, second, third = (sample.inputs["images"] for sample in loaded.samples)
    assert first[0].image().getpixel((0, 0)) == second[0].image().getpixel((0, 0)) == (255, 0, 0)
    assert third == []
    assert loaded.samples[0].meta == {"level": 3}
    assert [sample.target for sample in Rows.read(tmp_path / "mine.jsonl").load().samples] == ["x", "z"]


def test_the_fingerprint_is_of_all_rows_and_follows_content():
    base = Rows(ROWS).load()
    assert Rows(ROWS).load(limit=1).fingerprint == base.fingerprint
    assert len(Rows(ROWS).load(limit=1).samples) == 1
    changed = [ROWS[0], {**ROWS[1], "answer": "other"}]
    assert Rows(changed).load().fingerprint != base.fingerprint


@pytest.mark.parametrize(
    ("rows", "message"),
    [([ROWS[0], ROWS[0]], "occur more than once"), ([{"id": "a", "answer": "x"}], "column 'question' is missing")],
)
def test_bad_rows_are_named(rows, message):
    with pytest.raises(DataError) as caught:
        Rows(rows).load()
    assert message in str(caught.value)


def test_unknown_ids():
    assert [sample.id for sample in Rows(ROWS).load(sample_ids=["b"]).samples] == ["b"]
    with pytest.raises(DataError, match="such as 'zz'"):
        Rows(ROWS).load(sample_ids=["b", "zz"])
