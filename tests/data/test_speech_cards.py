"""Cards of sounds: JSON lines with files beside them, parquet as Hugging Face datasets writes it, and the hub's."""

import json
import shutil
from pathlib import Path

import pytest

from tests.data.sounds import WAVE, written
from workbench.data import card as cards
from workbench.data import loading
from workbench.data.card import load_card, load_samples
from workbench.data.media import load_audio
from workbench.data.rows import Rows
from workbench.errors import DataError, ItemError
from workbench.types import Sample

pytest.importorskip("soundfile")
COLUMNS = 'ask = ["id", "audio"]\nscore = ["id", "text"]\noptional = ["speaker"]\nmedia = ["audio"]'


def to_sample(row, position):
    return Sample(str(row["id"]), {"audio": row.get("audio")}, row["text"], row.get("speaker") or str(row["id"]))


def load(path, **options):
    return load_samples(load_card(path), to_sample, **options)


@pytest.fixture
def folder(tmp_path):
    """A function that writes rows, and a sound for each path that stays inside, and returns the card's path."""

    def make(rows):
        data = tmp_path / "data"
        (data / "audio").mkdir(parents=True, exist_ok=True)
        for index, row in enumerate(rows):
            name = row.get("audio")
            if isinstance(name, str) and name.startswith("audio/"):
                (data / name).write_bytes(written(WAVE * (0.5 + 0.1 * index)))
        (data / "items.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        path = tmp_path / "mine.toml"
        path.write_text(f'path = "data"\nfiles = ["items.jsonl"]\nsplit = "test"\nlicence = "x"\n[columns]\n{COLUMNS}\n')
        return path

    return make


ROWS = [
    {"id": "a", "audio": "audio/a.flac", "text": "yes", "speaker": "s1"},
    {"id": "b", "audio": "audio/b.flac", "text": "no", "speaker": "s1"},
    {"id": "c", "audio": None, "text": "-", "speaker": "s2"},
]


def test_json_lines_with_sounds_beside_them(folder):
    path = folder(ROWS)
    loaded = load(path)
    first, second, third = loaded.samples
    assert (first.inputs["audio"].kind, first.target, second.group) == ("audio", "yes", "s1")
    assert load_audio(second.inputs["audio"]).seconds == 1.0
    assert third.inputs["audio"] is None
    assert [sample.id for sample in load(path, limit=1).samples] == ["a"]
    assert [sample.id for sample in load(path, sample_ids=["b"]).samples] == ["b"]
    assert load(path, limit=1).fingerprint == loaded.fingerprint
    assert loaded.revision == f"sha256:{loaded.fingerprint[:16]}"


def test_another_sound_is_another_data_set(folder):
    path = folder(ROWS)
    before = load(path).fingerprint
    (path.parent / "data" / "audio" / "b.flac").write_bytes(written(WAVE[::-1].copy()))
    assert load(path).fingerprint != before
    assert load(folder(ROWS)).fingerprint == before


@pytest.mark.parametrize(
    "name", ["../out.flac", "audio/../../out.flac", "/etc/hostname", "..\\out.flac", "audio/./../../data/../x", ".", "a\0b"]
)
def test_a_path_that_leads_out_of_the_folder_is_refused(folder, name):
    (folder([]).parent / "out.flac").write_bytes(written())
    with pytest.raises(DataError, match="line 2 of 'items.jsonl', column 'audio': the path .* leads out"):
        load(folder([ROWS[0], {**ROWS[1], "audio": name}]))


@pytest.mark.parametrize(("value", "message"), [(3, "not int"), ("", "an empty text"), ({"path": "x"}, "not dict")])
def test_what_is_no_path(folder, value, message):
    with pytest.raises(DataError, match=message):
        load(folder([{**ROWS[0], "audio": value}]))


def test_what_is_not_there_is_named(folder):
    path = folder(ROWS)
    (path.parent / "data" / "audio" / "a.flac").unlink()
    with pytest.raises(DataError, match="1 media files of mine are not here") as caught:
        load(path)
    assert (caught.value.why, caught.value.fix) == ("such as 'a.flac'", "git lfs pull")
    with pytest.raises(DataError, match="line 1 of 'items.jsonl' lacks the column 'text'"):
        load(folder([{"id": "a", "audio": "audio/a.flac"}]))
    path.write_text(path.read_text().replace('"items.jsonl"', '"items.jsonl", "more.parquet"'))
    (path.parent / "data" / "more.parquet").touch()
    with pytest.raises(DataError, match="mixes"):
        load(path)


@pytest.fixture
def parquet(tmp_path, monkeypatch):
    """A function that writes rows with an Audio feature as ``datasets`` does, and returns the card's path."""
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")

    def make(rows, feature=True, column="audio"):
        data = datasets.Dataset.from_list(rows)
        if feature:
            data = data.cast_column(column, datasets.Audio(decode=False)).cast_column(column, datasets.Audio(sampling_rate=16_000))
        (tmp_path / "data").mkdir(exist_ok=True)
        data.with_format("arrow").to_parquet(tmp_path / "data" / "test.parquet")
        path = tmp_path / "mine.toml"
        columns = COLUMNS.replace('"audio"', f'"{column}"')
        path.write_text(f'path = "data"\nfiles = ["test.parquet"]\nsplit = "test"\nlicence = "x"\n[columns]\n{columns}\n')
        return path

    return make


def cell(data=None, path=None):
    return {"bytes": data, "path": path}


@pytest.mark.parametrize("feature", [True, False])
def test_parquet_with_encoded_sounds_of_every_kind(parquet, feature):
    kinds = [("FLAC", None, 16_000), ("WAV", "PCM_16", 16_000), ("MP3", None, 16_000), ("OGG", "OPUS", 48_000)]
    rows = [
        {"id": kind, "audio": cell(written(WAVE, rate, kind, subtype), f"{kind}.x"), "text": kind} for kind, subtype, rate in kinds
    ]
    loaded = load(parquet([*rows, {"id": "none", "audio": None, "text": ""}], feature))
    for sample, (kind, _, rate) in zip(loaded.samples, kinds, strict=False):
        media = sample.inputs["audio"]
        assert (media.kind, media.data) == ("audio", None)
        assert load_audio(media, rate).source["format"] == kind
    assert loaded.samples[-1].inputs["audio"] is None


def test_a_column_of_another_name_is_known_by_its_feature(parquet):
    path = parquet([{"id": "a", "speech": cell(written()), "text": "x"}], column="speech")
    assert loading.read_rows(load_card(path))[0]["speech"].kind == "audio"


def test_parquet_with_paths_stays_in_its_folder(parquet):
    path = parquet(
        [{"id": "a", "audio": cell(path="a.flac"), "text": "x"}, {"id": "b", "audio": cell(path="../a.flac"), "text": "y"}],
        feature=False,
    )
    (path.parent / "data" / "a.flac").write_bytes(written())
    shutil.copy(path.parent / "data" / "a.flac", path.parent / "a.flac")
    inside, outside = (sample.inputs["audio"] for sample in load(path).samples)
    assert load_audio(inside).seconds == 1.0
    with pytest.raises(ItemError, match=r"cannot read audio 'a\.flac'") as caught:
        load_audio(outside)
    assert caught.value.reason == "audio"
    assert "leads out" in caught.value.why


def hub_card(**changes):
    columns = {"ask": ("id", "audio"), "score": ("id", "text"), "media": ("audio",)}
    return cards.Card("toy", "test", "x", **{"hub": "org/toy", "configs": ("clean",), "revision": "0" * 40, **columns, **changes})


@pytest.mark.parametrize("revision", ["to be given", "main", "", None, "ABC"])
def test_a_card_without_a_commit_is_refused_and_says_how_to_pin_it(revision):
    with pytest.raises(DataError, match="data card 'toy' is not pinned") as caught:
        load_samples(hub_card(revision=revision), to_sample)
    assert 'in datasets/cards/toy.toml write revision = "COMMIT"' in caught.value.fix
    assert "dataset_info('org/toy').sha" in caught.value.fix


def test_sounds_of_the_hub_are_not_decoded(monkeypatch):
    datasets = pytest.importorskip("datasets")
    rows = [
        {"id": "a", "audio": cell(written(), "a.flac"), "text": "x"},
        {"id": "b", "audio": cell(path="/etc/hostname"), "text": "y"},
    ]

    def load_dataset(hub, config, *, split, revision):
        return (
            datasets.Dataset.from_list(rows)
            .cast_column("audio", datasets.Audio(decode=False))
            .cast_column("audio", datasets.Audio())
        )

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    monkeypatch.setattr(loading, "announce", lambda card: True)
    first, second = (sample.inputs["audio"] for sample in load_samples(hub_card(), to_sample).samples)
    assert load_audio(first).seconds == 1.0
    with pytest.raises(ItemError, match="cannot read audio 'hostname'") as caught:
        second.read()
    assert "leads out of the hub's caches" in caught.value.why


def test_only_the_files_that_a_card_names_are_downloaded(parquet, monkeypatch, tmp_path, capsys):
    import huggingface_hub

    source = parquet([{"id": "a", "audio": cell(written()), "text": "x"}]).parent / "data" / "test.parquet"
    snapshot = tmp_path / "snapshot"
    for name in ("clean/test-0.parquet", "clean/train-0.parquet"):
        (snapshot / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(source, snapshot / name)
    asked = []

    def download(hub, **options):
        asked.append((hub, options))
        return str(snapshot)

    class Api:
        def dataset_info(self, hub, **options):
            files = [("clean/test-0.parquet", 5_000_000), ("clean/train-0.parquet", 9_000_000_000)]
            return type("Info", (), {"siblings": [type("File", (), {"rfilename": name, "size": size}) for name, size in files]})

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    monkeypatch.setattr(huggingface_hub, "HfApi", Api)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    loaded = load_samples(hub_card(patterns=("{config}/test-*.parquet",)), to_sample)
    assert [sample.id for sample in loaded.samples] == ["a"]
    assert load_audio(loaded.samples[0].inputs["audio"]).seconds == 1.0
    assert asked == [("org/toy", {"repo_type": "dataset", "revision": "0" * 40, "allow_patterns": ["clean/test-*.parquet"]})]
    assert "about 5 MB" in capsys.readouterr().err
    assert loaded.fingerprint != loading.fingerprint(hub_card())
    with pytest.raises(DataError, match=r"has no file 'other/\*'"):
        load_samples(hub_card(patterns=("other/*",)), to_sample)


def test_a_hub_card_may_name_its_files(tmp_path):
    path = tmp_path / "toy.toml"
    path.write_text(f'hub = "a/b"\nrevision = "{"0" * 40}"\nfiles = ["clean/test-*.parquet"]\nsplit = "test"\nlicence = "x"\n')
    card = load_card(path)
    assert (card.patterns, card.files, card.pinned) == (("clean/test-*.parquet",), (), True)


def test_own_rows_of_speech(tmp_path):
    data = written()
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.flac").write_bytes(data)
    (tmp_path / "b.flac").write_bytes(data)
    rows = [
        {"id": 7, "audio": "a.flac", "text": "x", "speaker": "s", "language": "de", "room": 3},
        {"audio": data, "text": "y"},
        {"audio": cell(data, "z"), "text": "z"},
    ]
    first, second, third = Rows(rows, folder=tmp_path / "in").load().samples
    assert (first.target, first.group, first.meta) == ("x", "s", {"speaker": "s", "room": 3})
    assert (first.inputs["language"], first.inputs["task"], second.inputs["language"]) == ("de", "transcribe", None)
    assert first.inputs["audio"].sha256 == second.inputs["audio"].sha256 == third.inputs["audio"].sha256
    assert {sample.inputs["audio"].kind for sample in (first, second, third)} == {"audio"}
    with pytest.raises(DataError, match="not int"):
        Rows([{"audio": 3, "text": "x"}]).load()
    (tmp_path / "in" / "rows.jsonl").write_text('{"audio": "../b.flac", "text": "x"}\n')
    with pytest.raises(DataError, match="leads out") as caught:
        Rows.read(tmp_path / "in" / "rows.jsonl").load()
    assert "anywhere=True" in caught.value.fix
    assert len(Rows.read(tmp_path / "in" / "rows.jsonl", anywhere=True).load().samples) == 1


def test_every_bundled_sound_is_what_its_row_says(tmp_path):
    folder = Path(__file__).parents[2] / "datasets" / "samples" / "asr"
    path = tmp_path / "asr.toml"
    path.write_text(
        f'path = "{folder.as_posix()}"\nfiles = ["items.jsonl", "nonspeech.jsonl"]\nsplit = "test"\nlicence = "x"\n'
        f"[columns]\n{COLUMNS.replace('speaker', 'duration')}\n"
    )
    rows = loading.read_rows(load_card(path))
    assert len(rows) >= 400
    for row in rows:
        found = load_audio(row["audio"])
        assert (found.rate, found.source["rate"], found.source["channels"]) == (16_000, 16_000, 1), row["id"]
        assert found.seconds == pytest.approx(row["duration"], abs=0.01), row["id"]
        assert found.source["warnings"] == [], row["id"]
