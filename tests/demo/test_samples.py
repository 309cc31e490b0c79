"""The sample sets in the repository are what the generator writes, in the benchmarks' columns."""

import ast
import hashlib
from collections import Counter
from pathlib import Path

import pytest
from PIL import ImageChops, ImageStat

pytest.importorskip("datasets")

from workbench.demo import samples  # noqa: E402

FOLDER = Path(__file__).resolve().parents[2] / "datasets" / "samples"


@pytest.fixture(scope="module")
def loaded(tmp_path_factory):
    from datasets import load_dataset

    cache = str(tmp_path_factory.mktemp("cache"))
    return {name: load_dataset(str(FOLDER / name), split=split, cache_dir=cache) for name, split in samples.SPLITS.items()}


def test_two_runs_write_the_same_bytes(tmp_path):
    def hashes(folder):
        return [hashlib.sha256(path.read_bytes()).hexdigest() for path in samples.write(folder)]

    assert hashes(tmp_path / "a") == hashes(tmp_path / "b")


def test_the_committed_files_hold_what_the_generator_makes(tmp_path, loaded):
    from datasets import Dataset

    for path in samples.write(tmp_path):
        name = path.parent.name
        fresh = Dataset.from_parquet(str(path), cache_dir=str(tmp_path / "cache"))
        kept = loaded[name]
        pictures = [column for column, kind in kept.features.items() if type(kind).__name__ == "Image"]
        assert kept.remove_columns(pictures).to_list() == fresh.remove_columns(pictures).to_list()
        column = pictures[0]
        # Byte for byte with one set of library versions (above); another Pillow may shade the edges of a glyph differently.
        for a, b in zip(kept, fresh, strict=True):
            assert a[column].size == b[column].size
            assert sum(ImageStat.Stat(ImageChops.difference(a[column], b[column])).mean) < 3


def test_features_and_sizes(loaded):
    for name, rows in loaded.items():
        assert len(rows) == samples.ITEMS
        assert rows.features == samples.features(name)
    assert sum(path.stat().st_size for path in FOLDER.rglob("*.parquet")) < 4_000_000


def test_mmmu(loaded):
    rows = loaded["mmmu"]
    kinds = Counter(rows["question_type"])
    assert kinds == {"multiple-choice": 240, "open": 160}
    assert sum(image is not None for image in rows["image_2"]) == 40
    for row in rows:
        options = ast.literal_eval(row["options"])
        assert len(options) == (4 if row["question_type"] == "multiple-choice" else 0)
        assert "<image 1>" in row["question"]
    assert any(answer.startswith("[") for answer in rows["answer"])


def test_mmstar(loaded):
    rows = loaded["mmstar"]
    assert len(set(rows["category"])) == 6 and len(set(rows["l2_category"])) == 18
    assert set(rows["answer"]) == set("ABCD")
    styles = Counter("Options:" in question for question in rows["question"])
    assert styles == {True: 300, False: 100}


def test_ocrbench(loaded):
    counts = Counter(loaded["ocrbench"]["question_type"])
    assert sorted(counts.values()) == [20] * 6 + [40, 80, 80, 80]
    assert sum(name == "HME100k" for name in loaded["ocrbench"]["dataset"]) == 40


def test_mathvista(loaded):
    rows = loaded["mathvista"]
    assert Counter(rows["question_type"]) == {"free_form": 220, "multi_choice": 180}
    assert set(rows["precision"]) == {None, 1.0, 2.0}
    for row in rows:
        assert row["query"].startswith("Hint: ")
        assert (row["choices"] is not None) == (row["question_type"] == "multi_choice")
        if row["choices"]:
            assert row["answer"] in row["choices"]
