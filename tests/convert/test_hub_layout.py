"""``to_hub_layout``: the result is the same model for transformers, and one that ports can read; whole, or not there at all."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from workbench.convert import hub_layout
from workbench.convert.hub_layout import is_published, to_hub_layout
from workbench.errors import UsageError

ROOT = Path(__file__).resolve().parents[2]


def state(folder):
    from transformers import AutoModelForImageTextToText

    model, report = AutoModelForImageTextToText.from_pretrained(folder, dtype="auto", output_loading_info=True)
    assert not any(report[name] for name in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    return model.state_dict(), model.config


@pytest.mark.parametrize(
    ("name", "how"),
    [
        ("llava", {}),
        ("llava", {"max_shard_size": "200KB"}),
        ("llava", {"dtype": "bfloat16"}),
        ("qwen2_vl", {}),
        ("qwen2_vl", {"max_shard_size": "100KB"}),
    ],
    ids=str,
)
def test_transformers_reads_the_same_model_from_both(name, how, five, tmp_path, contents):
    import torch

    source, target = five(name, **how), tmp_path / "hub"
    before = contents(source)
    done = to_hub_layout(source, target)
    assert contents(source) == before and "the same when" in done.check
    one, other = state(source), state(target)
    assert one[0].keys() == other[0].keys()
    for key, value in one[0].items():
        assert value.dtype == other[0][key].dtype and torch.equal(value, other[0][key]), key
    config = json.loads((target / "config.json").read_text())
    assert "rope_parameters" not in json.dumps(config)
    if name == "llava":
        assert config["text_config"]["rope_theta"] == 50000.0 and done.renamed == 39
        assert ("text_config.rope_theta", "(absent)", 50000.0) in done.changes
    else:
        assert config["rope_theta"] == 1e6 and config["rope_scaling"]["mrope_section"] == [2, 3, 3] and "text_config" not in config
    assert not is_published(source) and is_published(target)
    assert oct(target.stat().st_mode) == oct(source.stat().st_mode) and os.listdir(tmp_path) == ["hub"]


def test_shards_are_kept_and_the_new_index_is_true(five, tmp_path):
    from safetensors import safe_open

    source, target = five("llava", max_shard_size="200KB"), tmp_path / "hub"
    to_hub_layout(source, target, check=False)
    old, new = (json.loads((folder / "model.safetensors.index.json").read_text()) for folder in (source, target))
    files = sorted(path.name for path in target.glob("*.safetensors"))
    assert files == sorted(path.name for path in source.glob("*.safetensors")) and len(files) > 2
    held = {}
    for name in files:
        with safe_open(target / name, "np") as file:
            assert file.metadata() == {"format": "pt"}
            held |= dict.fromkeys(file.keys(), name)
    assert new["weight_map"] == held and new["metadata"] == old["metadata"]
    assert sum("vision_tower.vision_model." in key for key in held) == 39


def test_mlx_vlm_refuses_the_source_and_reads_the_result(five, tmp_path):
    utils = pytest.importorskip("mlx_vlm.utils", reason="needs mlx-vlm (pip install 'parity-workbench[mlx]')")
    source, target = five("llava", max_shard_size="200KB"), tmp_path / "hub"
    with pytest.raises(ValueError, match="vision_tower"):
        utils.load_model(source, strict=True)
    to_hub_layout(source, target, check=False)
    assert utils.load_model(target, strict=True).config.text_config.rope_theta == 50000.0


def test_other_files_are_copied_and_the_rest_is_named(copied, tmp_path):
    kept = {
        "tokenizer.json": "{}",
        "chat_template.jinja": "{{ messages }}",
        "README.md": "mine",
        "additional_chat_templates/tool.jinja": "{{ tools }}",
    }
    for name, text in {
        **kept,
        "modeling.py": "x",
        "optimizer.pt": "x",
        "extra.gguf": "x",
        ".hidden": "x",
        "checkpoint-5/a.json": "x",
    }.items():
        (copied / name).parent.mkdir(exist_ok=True)
        (copied / name).write_text(text)
    (copied / "linked.txt").symlink_to(copied / "README.md")
    (copied / "dangling.txt").symlink_to(tmp_path / "nowhere")
    (copied / "folder-link").symlink_to(tmp_path)
    os.mkfifo(copied / "pipe.json")
    done = to_hub_layout(copied, tmp_path / "hub", check=False)
    assert {name: (tmp_path / "hub" / name).read_text() for name in kept} == kept
    assert not (tmp_path / "hub" / "linked.txt").is_symlink() and (tmp_path / "hub" / "linked.txt").read_text() == "mine"
    assert done.copied == sorted([*kept, "generation_config.json", "linked.txt"])
    left = dict(done.left_out)
    assert left.keys() == {
        "modeling.py",
        "optimizer.pt",
        "extra.gguf",
        "checkpoint-5/",
        "dangling.txt",
        "folder-link/",
        "pipe.json",
    }
    assert "--trust-remote-code" in left["modeling.py"] and "pickle" in left["optimizer.pt"]
    assert not any((tmp_path / "hub" / name).exists() for name in left)
    trusted = to_hub_layout(copied, tmp_path / "trusted", check=False, trust_remote_code=True)
    assert (tmp_path / "trusted" / "modeling.py").read_text() == "x" and "modeling.py" in trusted.copied


def test_the_hubs_cache_of_links_is_read(five, tmp_path, contents):
    blobs, snapshot = tmp_path / "blobs", tmp_path / "snapshots" / "abc"
    blobs.mkdir()
    snapshot.mkdir(parents=True)
    for number, path in enumerate(sorted(five("llava").iterdir())):
        shutil.copy(path, blobs / str(number))
        (snapshot / path.name).symlink_to(Path("..", "..", "blobs", str(number)))
    to_hub_layout(snapshot, tmp_path / "hub", check=False)
    to_hub_layout(five("llava"), tmp_path / "plain", check=False)
    assert contents(tmp_path / "hub") == contents(tmp_path / "plain")
    assert not any(path.is_symlink() for path in (tmp_path / "hub").iterdir())


def test_the_settings_of_image_processors_are_written_where_older_readers_look(copied, tmp_path):
    transformers = pytest.importorskip("transformers")
    image = {"image_processor_type": "CLIPImageProcessor", "size": {"shortest_edge": 32}, "image_mean": [0.1, 0.2, 0.3]}
    (copied / "processor_config.json").write_text(json.dumps({"processor_class": "LlavaProcessor", "image_processor": image}))
    done = to_hub_layout(copied, tmp_path / "hub", check=False)
    assert done.written == ["preprocessor_config.json"]
    found = json.loads((tmp_path / "hub" / "preprocessor_config.json").read_text())
    assert found == {"processor_class": "LlavaProcessor", **image}
    read = transformers.AutoImageProcessor.from_pretrained(tmp_path / "hub")
    assert read.to_dict() == transformers.AutoImageProcessor.from_pretrained(copied).to_dict() and list(read.image_mean) == [
        0.1,
        0.2,
        0.3,
    ]
    (copied / "preprocessor_config.json").write_text('{"size": 7}')
    assert to_hub_layout(copied, tmp_path / "kept", check=False).written == []
    assert (tmp_path / "kept" / "preprocessor_config.json").read_text() == '{"size": 7}'


@pytest.mark.parametrize(
    "make", [lambda path: path.mkdir(), lambda path: path.write_text("x"), lambda path: path.symlink_to("nowhere")]
)
def test_nothing_is_written_over_what_is_there(make, five, tmp_path, contents):
    target = tmp_path / "hub"
    make(target)
    with pytest.raises(UsageError, match="is there already"):
        to_hub_layout(five("llava"), target, check=False)
    assert os.listdir(tmp_path) == ["hub"]


def test_a_full_disk_leaves_nothing(five, tmp_path, monkeypatch):
    program = f"""
import resource, signal, sys
from pathlib import Path
from workbench.convert.hub_layout import to_hub_layout
from workbench.errors import UsageError
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, 300_000))   # the kernel refuses to grow a file beyond this: EFBIG
try:
    to_hub_layout(Path({str(five("llava"))!r}), Path({str(tmp_path / "new" / "hub")!r}), check=False)
except UsageError as error:
    sys.exit(str(error))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, cwd=ROOT)
    assert "no space left to write" in done.stderr and "try: free some space" in done.stderr and "Traceback" not in done.stderr
    assert list((tmp_path / "new").iterdir()) == []
    monkeypatch.setattr(hub_layout.shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10**6, 10**6, 1000))
    with pytest.raises(UsageError, match="no space left") as caught:
        to_hub_layout(five("llava"), tmp_path / "other", check=False)
    assert "are needed and 0.00 GB are free" in caught.value.why and not (tmp_path / "other").exists()


def test_an_interruption_leaves_nothing(five, tmp_path, monkeypatch):
    def interrupted(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(hub_layout.shards.Renamed, "write", interrupted)
    with pytest.raises(KeyboardInterrupt):
        to_hub_layout(five("llava"), tmp_path / "hub", check=False)
    assert os.listdir(tmp_path) == []


def test_unchecked_it_loads_no_runtime_and_no_more_than_a_piece_of_the_weights(five, tmp_path):
    program = f"""
import json, resource, shutil, sys
from pathlib import Path
import numpy
from safetensors.numpy import save_file
from workbench.convert.hub_layout import to_hub_layout
folder = Path({str(tmp_path / "large")!r})
folder.mkdir()
shutil.copy(Path({str(five("llava"))!r}, "config.json"), folder)
names = [f"model-0000{{n}}-of-00004.safetensors" for n in (1, 2, 3, 4)]
for number, name in enumerate(names):
    save_file({{f"vision_tower.{{number}}": numpy.full((48, 2**20), number, "u1")}}, str(folder / name))
index = {{f"vision_tower.{{number}}": name for number, name in enumerate(names)}}
(folder / "model.safetensors.index.json").write_text(json.dumps({{"weight_map": index}}))
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
done = to_hub_layout(folder, folder.with_name("hub"), check=False)
grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
assert done.renamed == 4, done
print(grown // (1024 if sys.platform == "linux" else 2**20), sorted({{"torch", "transformers", "mlx"}} & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=ROOT)
    grown, loaded = done.stdout.split(maxsplit=1)
    assert loaded.strip() == "[]" and int(grown) < 40, f"{grown} MiB more for 192 MiB of weights in files of 48 MiB"


def test_what_is_published_is_told_by_names_and_fields_and_then_by_who_saved_it(copied, five, tmp_path, edit):
    def without(version):
        edit(folder / "config.json", lambda config: {**config, "transformers_version": version})
        return is_published(folder)

    to_hub_layout(copied, tmp_path / "hub", check=False)
    edit(
        tmp_path / "hub" / "config.json", lambda config: {**config, "rope_parameters": {"rope_type": "default", "rope_theta": 1.0}}
    )
    assert not is_published(tmp_path / "hub")
    folder = Path(shutil.copytree(five("llava"), tmp_path / "names"))
    shutil.copy(tmp_path / "hub" / "config.json", folder / "config.json")
    edit(folder / "config.json", lambda config: config.pop("rope_parameters") and config)
    assert not is_published(folder)
    folder = tmp_path / "flat"
    to_hub_layout(five("qwen2_vl"), folder, check=False)
    assert [without(version) for version in ("5.23.0", "4.41.2", None, 7, "5x")] == [True] * 5
    folder = Path(shutil.copytree(five("qwen2_vl"), tmp_path / "again"))
    assert [without(version) for version in ("5.23.0", "4.41.2", None)] == [False] * 3
