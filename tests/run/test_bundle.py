"""Bundles are found, named, refused and read by the rules of the design."""

import json

import pytest

from workbench.errors import BundleError, UsageError
from workbench.run import bundle, key, writer


def manifest_of(**more):
    asked = {"task": "t", "model": "m"}
    parts = {"task": {"name": "t"}, "libraries": {"torch": "1"}}
    return {"asked": asked, "key": parts, "run_key": bundle.run_key(parts), "task": {"name": "t"}, "n": 1, **more}


def test_folder_names_are_safe_whatever_the_model_is_called():
    name = bundle.folder_name("my/../task", "torch:../../etc/passwd?x=<b>", "0123456789abcdef")
    assert name == "my-..-task-torch-..-..-etc-passwd-x-b-0123456789ab"
    assert "/" not in name and not name.startswith(".")


def test_differences_name_the_field():
    before = {"libraries": {"torch": "1", "numpy": "2"}, "n": 1}
    after = {"libraries": {"torch": "2", "numpy": "2"}, "n": 1, "new": True}
    assert bundle.differences(before, after) == {"libraries.torch": ("1", "2"), "new": (None, True)}


def test_a_newer_schema_is_refused(tmp_path):
    (tmp_path / "manifest.json").write_text(json.dumps({"schema": bundle.SCHEMA + 1}))
    with pytest.raises(BundleError, match="newer workbench") as caught:
        bundle.Run(tmp_path)
    assert "upgrade" in caught.value.fix


@pytest.mark.parametrize("text", ["", "{", "[]", '{"schema": "x"}'])
def test_a_damaged_manifest_is_a_clear_error(tmp_path, text):
    (tmp_path / "manifest.json").write_text(text)
    with pytest.raises(BundleError, match="cannot be read"):
        bundle.Run(tmp_path)


def test_the_second_writer_is_refused_and_the_first_goes_on(tmp_path):
    with writer.BundleWriter(tmp_path / "b", manifest_of()) as first:
        with pytest.raises(BundleError, match="another process is writing"):
            writer.BundleWriter(tmp_path / "b", manifest_of())
        first.append([{"id": "1"}])
    with writer.BundleWriter(tmp_path / "b", manifest_of()) as again:
        assert again.manifest["status"] == "running"
    assert list(bundle.Run(tmp_path / "b").items()) == ["1"]


def test_an_upgraded_library_is_refused_by_name_unless_mixing_is_allowed(tmp_path):
    old = manifest_of()
    with writer.BundleWriter(tmp_path / "t-m-old", old):
        pass
    new_key = {"task": {"name": "t"}, "libraries": {"torch": "2"}}
    with pytest.raises(BundleError, match="other conditions") as caught:
        writer.locate(tmp_path, old["asked"], new_key, allow_mixed=False, fresh=False)
    assert "libraries.torch: 1 then, 2 now" in caught.value.why
    path, manifest = writer.locate(tmp_path, old["asked"], new_key, allow_mixed=True, fresh=False)
    with writer.BundleWriter(path, manifest) as opened:
        opened.mixed(new_key)
    path, manifest = writer.locate(tmp_path, old["asked"], new_key, allow_mixed=False, fresh=False)
    assert path.name == "t-m-old" and manifest["mixed_fields"] == ["libraries.torch"]
    assert bundle.Run(path).events()[-1]["fields"]["libraries.torch"] == {"before": "1", "after": "2"}


def test_fresh_sets_the_former_run_aside(tmp_path):
    made = manifest_of()
    path, found = writer.locate(tmp_path, made["asked"], made["key"], allow_mixed=False, fresh=True)
    assert found is None
    with writer.BundleWriter(path, made) as opened:
        opened.append([{"id": "1"}])
    again, found = writer.locate(tmp_path, made["asked"], made["key"], allow_mixed=False, fresh=True)
    assert again == path and found is None and not path.exists()
    assert list(bundle.Run(path.with_name(path.name + "~1")).items()) == ["1"]


def test_shards_cover_every_item_once_whatever_the_order():
    ids = [f"item-{number}" for number in range(1000)]
    parts = [[name for name in ids if key.in_shard(name, (number, 3))] for number in (1, 2, 3)]
    assert sorted(sum(parts, [])) == sorted(ids)
    assert all(250 < len(part) < 420 for part in parts)


@pytest.mark.parametrize("text", ["0/3", "4/3", "1", "a/b", "1/0", "-1/2"])
def test_a_bad_shard_is_a_usage_error(text):
    with pytest.raises(UsageError, match="cannot read shard"):
        key.parse_shard(text)


def test_a_bundle_shows_itself_as_text_and_table(make_run):
    run = bundle.Run(make_run())
    assert str(run).splitlines()[0].split() == ["run", run.name] and "95 % interval" in str(run)
    run.manifest["model"]["text"] = "<script>"
    assert "<script>" not in run._repr_html_() and "&lt;script&gt;" in run._repr_html_()
    assert repr(run) == f"Run({run.name}, complete)"


def test_what_was_recorded_is_found_by_hash_and_a_link_is_not_followed(make_run, tmp_path):
    folder = make_run(media=True)
    run = bundle.Run(folder)
    picture = next(iter(run.iter_items()))["input"]["media"][0]
    assert run.media(picture) == folder / "media" / f"{picture}.png"
    assert run.media("../../secret") is None and run.media("0" * 64) is None
    assert run.artifact is None and run.tensors is None and run.checked == []
    (folder / "artifact.json").write_text('{"bytes": 3}')
    (folder / "tensors").mkdir()
    assert run.artifact == {"bytes": 3} and run.tensors == folder / "tensors"
    (folder / "media").rename(tmp_path / "elsewhere")
    (folder / "media").symlink_to(tmp_path / "elsewhere")
    assert bundle.Run(folder).media(picture) is None


def test_the_last_line_of_an_item_counts_in_an_unfinished_run(tmp_path):
    with writer.BundleWriter(tmp_path / "b", manifest_of()) as opened:
        opened.append([{"id": "1", "try": 1}, {"id": "2"}, {"id": "1", "try": 2}])
    run = bundle.Run(tmp_path / "b")
    assert list(run.items()) == ["1", "2"] and [line.get("try") for line in run.iter_items()] == [2, None]


@pytest.mark.parametrize("line", [b"[]", b"5", b'{"id": 7}', b'{"no": "id"}', b"[" * 100_000, b"{", b"\xff"])
def test_a_damaged_line_is_a_clear_error(tmp_path, line):
    with writer.BundleWriter(tmp_path / "b", manifest_of()):
        pass
    (tmp_path / "b" / "samples.jsonl").write_bytes(line + b"\n")
    with pytest.raises(BundleError, match="is damaged"):
        bundle.Run(tmp_path / "b").items()


def test_a_damaged_result_file_is_a_clear_error(make_run):
    folder = make_run()
    (folder / "results.json").write_text("{")
    with pytest.raises(BundleError, match=r"results\.json of .* cannot be read"):
        _ = bundle.Run(folder).results


def test_names_that_belong_into_a_bundle():
    good = ("manifest.json", "samples.jsonl", f"media/{'0' * 64}.png", "tensors/tokens-own-00000.safetensors")
    bad = (
        "x.py",
        ".lock",
        "media/a.png",
        f"media/{'0' * 64}",
        "tensors/.safetensors",
        "tensors/a.pkl",
        "media/../manifest.json",
        "",
    )
    assert all(map(bundle.belongs, good)) and not any(map(bundle.belongs, bad))
