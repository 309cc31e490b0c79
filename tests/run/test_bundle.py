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
