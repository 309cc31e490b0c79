import pytest

from workbench.data import card as cards
from workbench.data import loading
from workbench.data.card import FromCard, load_card, load_samples
from workbench.errors import DataError, ItemError, UsageError
from workbench.tasks import mmmu
from workbench.types import Sample

datasets = pytest.importorskip("datasets")
PICTURE = b"\x89PNG not really"


def plain(row, position):
    return Sample(row["id"], {"image": row.get("image")}, row["answer"], row["id"])


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


@pytest.fixture
def local(tmp_path, cache):
    """A function that writes rows as a parquet file with its card, and returns the card's path."""

    def make(rows, columns='ask = ["id", "image"]\nscore = ["id", "answer"]\nmedia = ["image"]', as_image=True):
        data = datasets.Dataset.from_list(rows)
        if as_image and "image" in data.column_names:
            data = data.cast_column("image", datasets.Image(decode=False))
        (tmp_path / "data").mkdir(exist_ok=True)
        data.to_parquet(tmp_path / "data" / "val.parquet")
        path = tmp_path / "mine.toml"
        path.write_text(f'path = "data"\nfiles = ["val.parquet"]\nsplit = "val"\nlicence = "x"\n[columns]\n{columns}\n')
        return path

    return make


def rows(count=3):
    return [
        {"id": f"i{index}", "image": {"bytes": PICTURE + bytes([index]), "path": None}, "answer": str(index)}
        for index in range(count)
    ]


@pytest.mark.parametrize("name", ["mmmu", "mmstar", "ocrbench", "mathvista"])
def test_benchmark_cards_are_pinned_and_their_samples_alike(name):
    card, sample = load_card(name), load_card(f"{name}-sample")
    assert len(card.revision) == 40
    assert int(card.revision, 16)
    assert card.licence
    assert card.url.endswith(card.hub)
    assert (card.split, card.score, card.ask, card.media) == (sample.split, sample.score, sample.ask, sample.media)
    assert sample.hub is None


def test_mmmu_has_its_thirty_subjects_in_order():
    assert load_card("mmmu").configs == mmmu.SUBJECTS


@pytest.mark.parametrize("name", ["mmmu", "mmstar", "ocrbench", "mathvista"])
def test_bundled_samples_load_as_the_benchmark_does(name, cache):
    from workbench.tasks.catalogue import load_task

    task = load_task(f"{name}-sample")
    loaded = task.load(limit=5)
    assert len(loaded.samples) == 5
    for sample in task.load().samples:
        request = task.ask(sample)
        assert request.inputs["images"]
        assert request.inputs["text"]
        assert list(task.groups(sample))
    assert loaded.samples[0].inputs["images"][0].image().mode == "RGB"
    assert task.load(sample_ids=[loaded.samples[3].id]).samples[0].id == loaded.samples[3].id


def test_images_are_read_only_when_asked(local, monkeypatch):
    path = local([*rows(2), {"id": "none", "image": None, "answer": "-"}])
    loaded = load_samples(load_card(path), plain)
    media = [sample.inputs["image"] for sample in loaded.samples]
    assert [medium and medium.data for medium in media] == [None, None, None]
    assert media[1].read() == PICTURE + b"\x01"
    assert media[2] is None
    with pytest.raises(ItemError, match="decoded"):
        media[0].image()


def test_images_as_plain_structs_load_the_same(local):
    path = local(rows(2), as_image=False)
    assert load_samples(load_card(path), plain).samples[1].inputs["image"].read() == PICTURE + b"\x01"


def test_the_fingerprint_is_that_of_the_files(local):
    first = load_samples(load_card(local(rows())), plain)
    assert load_samples(load_card(local(rows())), plain, limit=1).fingerprint == first.fingerprint
    assert first.revision.startswith("sha256:")
    second = load_samples(load_card(local([*rows(2), {**rows()[2], "answer": "other"}])), plain)
    assert second.fingerprint != first.fingerprint
    assert second.samples[2].target == "other"


def test_a_missing_column_is_named(local):
    path = local([{"id": "a", "answer": "x"}])
    with pytest.raises(DataError, match="lacks the column 'image'") as caught:
        load_samples(load_card(path), plain)
    assert caught.value.why == "it has: id, answer"


def test_ids_must_be_unique(local):
    path = local([*rows(2), rows()[0], rows()[1]])
    with pytest.raises(DataError, match=r"ids of val.parquet occur more than once \(2\)") as caught:
        load_samples(load_card(path), plain)
    assert "'i0', 'i1'" in caught.value.why


def test_a_file_that_is_no_parquet(local, tmp_path):
    path = local(rows())
    (tmp_path / "data" / "val.parquet").write_bytes(b"version https://git-lfs.github.com/spec/v1")
    with pytest.raises(DataError, match="cannot read 'val.parquet'"):
        load_samples(load_card(path), plain)
    (tmp_path / "data" / "val.parquet").unlink()
    with pytest.raises(DataError, match="'val.parquet' of mine is not here"):
        load_samples(load_card(path), plain)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("split = ", "cannot read"),
        ('split = "x"\nlicence = "y"', "either hub or path"),
        ('hub = "a/b"\nsplit = "x"\nlicence = "y"', "'revision'"),
    ],
)
def test_broken_cards(tmp_path, text, message):
    path = tmp_path / "bad.toml"
    path.write_text(text)
    with pytest.raises(DataError) as caught:
        load_card(path)
    assert message in str(caught.value)


def test_unknown_cards():
    with pytest.raises(UsageError, match="unknown data card 'nothing'"):
        load_card("nothing")


def test_limit_must_be_positive():
    with pytest.raises(UsageError):
        FromCard("mmmu-sample", plain).load(limit=0)


def hub_card(configs=("one", "two", "three")):
    columns = {"ask": ("id", "image"), "score": ("id", "answer"), "media": ("image",)}
    return cards.Card("toy", "val", "x", hub="org/toy", configs=configs, revision="0" * 40, **columns)


def test_the_hub_is_read_by_configuration_and_revision_and_no_further_than_needed(monkeypatch):
    asked = []

    def load_dataset(hub, config, *, split, revision):
        asked.append((hub, config, split, revision))
        data = datasets.Dataset.from_list([{**row, "id": f"{config}-{row['id']}"} for row in rows(2)])
        return data.cast_column("image", datasets.Image())

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    monkeypatch.setattr(loading, "announce", lambda card: True)
    loaded = load_samples(hub_card(), plain)
    assert [sample.id for sample in loaded.samples] == [f"{config}-i{k}" for config in ("one", "two", "three") for k in range(2)]
    assert loaded.samples[5].inputs["image"].read() == PICTURE + b"\x01"
    assert loaded.revision == "0" * 40
    assert asked == [("org/toy", config, "val", "0" * 40) for config in ("one", "two", "three")]
    asked.clear()
    assert [sample.id for sample in load_samples(hub_card(), plain, limit=3).samples] == ["one-i0", "one-i1", "two-i0"]
    assert [config for _, config, _, _ in asked] == ["one", "two"]


def named(name, base=Exception):
    return type(name, (base,), {})


@pytest.mark.parametrize(
    ("error", "message", "fix"),
    [
        (ConnectionError("Couldn't reach"), "cannot be reached", "toy-sample needs no network"),
        (named("OfflineModeIsEnabled", ConnectionError)("offline"), "cannot be reached", "toy-sample"),
        (
            named("DatasetNotFoundError", FileNotFoundError)("Dataset 'org/toy' is a gated dataset"),
            "needs a permission",
            "HF_TOKEN",
        ),
        (named("DatasetNotFoundError", FileNotFoundError)("doesn't exist on the Hub"), "was not found", "HF_TOKEN"),
        (RuntimeError("odd"), "cannot load org/toy", "toy-sample"),
    ],
)
def test_errors_of_the_hub_say_what_to_do(monkeypatch, error, message, fix):
    def fail(*args, **kwargs):
        raise error

    monkeypatch.setattr(datasets, "load_dataset", fail)
    monkeypatch.setattr(loading, "announce", lambda card: True)
    with pytest.raises(DataError, match=message) as caught:
        load_samples(hub_card(), plain)
    assert fix in caught.value.fix


def test_a_download_is_announced_with_its_size(monkeypatch, tmp_path, capsys, cache):
    import huggingface_hub

    class Api:
        def dataset_info(self, hub, **options):
            names = {
                "one/val-0.parquet": 3e6,
                "two/val-0.parquet": 4e6,
                "one/test-0.parquet": 9e6,
                "four/val-0.parquet": 9e6,
                "README.md": 1,
            }
            return type(
                "Info", (), {"siblings": [type("File", (), {"rfilename": name, "size": int(size)}) for name, size in names.items()]}
            )

    monkeypatch.setattr(huggingface_hub, "HfApi", Api)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    assert loading.announce(hub_card()) is True
    captured = capsys.readouterr()
    assert "about 7 MB" in captured.err
    assert captured.out == ""
    (tmp_path / "cache" / "org___toy" / "one" / "0.0.0" / ("0" * 40)).mkdir(parents=True)
    assert loading.announce(hub_card()) is True
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    assert loading.announce(hub_card()) is False


def test_without_the_library_the_error_names_it(monkeypatch):
    def version(name):
        raise loading.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(loading.metadata, "version", version)
    with pytest.raises(DataError, match="datasets is not installed") as caught:
        load_samples(hub_card(), plain)
    assert caught.value.fix == "pip install datasets"
