"""What a user is told when a model cannot be had: every row names the file or flag that matters."""

from __future__ import annotations

import json
from importlib import metadata
from importlib.util import find_spec

import pytest
from safetensors.numpy import load_file, save_file

from workbench.errors import ModelError, RuntimeMissing, UsageError
from workbench.models.loading import open_vision_language
from workbench.models.source import identify, resolve
from workbench.types import ModelSpec

RUNTIMES = [
    pytest.param(
        name, marks=pytest.mark.skipif(find_spec(module) is None, reason=f"needs {module} (pip install 'parity-workbench[{name}]')")
    )
    for name, module in (("torch", "torch"), ("mlx", "mlx_vlm"))
]
runtimes = pytest.mark.parametrize("runtime", RUNTIMES)


def open_it(runtime: str, folder) -> str:
    """The error's text for a folder that cannot be opened."""
    with pytest.raises(ModelError) as caught:
        open_vision_language(ModelSpec.parse(f"{runtime}:{folder}"))
    assert "Traceback" not in str(caught.value)
    return str(caught.value)


def change(folder, file: str, **entries) -> None:
    path = folder / file
    path.write_text(json.dumps(json.loads(path.read_text()) | entries))


@runtimes
def test_missing_folder(runtime, tmp_path):
    assert "does not exist" in open_it(runtime, tmp_path / "nowhere")


@runtimes
def test_folder_that_is_no_model(runtime, tmp_path):
    assert "config.json" in open_it(runtime, tmp_path)


@runtimes
def test_file_instead_of_a_folder(runtime, broken):
    assert "is a file" in open_it(runtime, broken / "model.safetensors")


@runtimes
def test_config_that_is_no_json(runtime, broken):
    (broken / "config.json").write_text("{")
    assert "config.json" in open_it(runtime, broken)


@runtimes
@pytest.mark.parametrize("keep", [0, 4, 1000, -1])
def test_truncated_weights(runtime, broken, keep):
    path = broken / "model.safetensors"
    path.write_bytes(path.read_bytes()[:keep])
    text = open_it(runtime, broken)
    assert "model.safetensors" in text and "truncated" in text


@runtimes
def test_git_lfs_pointer(runtime, broken):
    (broken / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n")
    assert "git lfs pull" in open_it(runtime, broken)


@runtimes
def test_no_weights(runtime, broken):
    (broken / "model.safetensors").unlink()
    assert "holds no weights" in open_it(runtime, broken)
    (broken / "pytorch_model.bin").write_bytes(b"x")
    assert "allow_pickle=true" in open_it(runtime, broken)


@runtimes
def test_missing_tensor(runtime, broken):
    weights = load_file(broken / "model.safetensors")
    name = next(name for name in weights if "layers.1.self_attn.v_proj.weight" in name and "language" in name)
    del weights[name]
    save_file(weights, broken / "model.safetensors", metadata={"format": "pt"})
    assert "v_proj" in open_it(runtime, broken)


@runtimes
def test_unknown_tensor(runtime, broken):
    weights = load_file(broken / "model.safetensors")
    weights["language_model.model.layers.7.extra.weight"] = weights["language_model.model.norm.weight"].copy()
    save_file(weights, broken / "model.safetensors", metadata={"format": "pt"})
    assert "extra" in open_it(runtime, broken)


@runtimes
def test_tensor_of_another_shape(runtime, broken):
    weights = load_file(broken / "model.safetensors")
    weights["language_model.lm_head.weight"] = weights["language_model.lm_head.weight"][:-8].copy()
    save_file(weights, broken / "model.safetensors", metadata={"format": "pt"})
    assert "lm_head" in open_it(runtime, broken)


@runtimes
def test_missing_shard_and_tensor_of_an_index(runtime, broken):
    names = list(load_file(broken / "model.safetensors"))
    index = {"weight_map": {name: "model.safetensors" for name in names} | {"another": "model-2.safetensors"}}
    (broken / "model.safetensors.index.json").write_text(json.dumps(index))
    assert "model-2.safetensors" in open_it(runtime, broken)
    index["weight_map"]["another"] = "model.safetensors"
    (broken / "model.safetensors.index.json").write_text(json.dumps(index))
    assert "'another'" in open_it(runtime, broken)


@runtimes
def test_unknown_architecture(runtime, broken):
    change(broken, "config.json", model_type="frobnicator")
    assert "frobnicator" in open_it(runtime, broken)


def test_text_only_model(broken):
    pytest.importorskip("torch", reason="needs torch")
    change(broken, "config.json", model_type="llama")
    assert "does not answer questions about images" in open_it("torch", broken)


def test_foreign_code_needs_the_flag(broken):
    pytest.importorskip("torch", reason="needs torch")
    change(broken, "config.json", model_type="frobnicator", auto_map={"AutoConfig": "code.Config"})
    assert "--trust-remote-code" in open_it("torch", broken)


def test_foreign_code_of_mlx_needs_the_flag(broken):
    pytest.importorskip("mlx_vlm", reason="needs mlx-vlm")
    (broken / "evil.py").write_text("raise SystemExit('ran')")
    change(broken, "config.json", model_file="evil.py")
    assert "--trust-remote-code" in open_it("mlx", broken)


@runtimes
@pytest.mark.parametrize("file", ["tokenizer.json", "preprocessor_config.json"])
def test_missing_processor(runtime, broken, file):
    (broken / file).unlink()
    if file == "tokenizer.json":
        (broken / "tokenizer_config.json").unlink()
    assert "processor" in open_it(runtime, broken)


@pytest.mark.parametrize(("runtime", "package"), [("torch", "torch"), ("mlx", "mlx-vlm")])
def test_missing_runtime(monkeypatch, tiny, runtime, package):
    real = metadata.version

    def version(name):
        if name == package:
            raise metadata.PackageNotFoundError(name)
        return real(name)

    monkeypatch.setattr(metadata, "version", version)
    with pytest.raises(RuntimeMissing) as caught:
        open_vision_language(ModelSpec.parse(f"{runtime}:{tiny}"))
    assert caught.value.exit_code == 3
    assert package in caught.value.why and caught.value.fix == f"pip install 'parity-workbench[{runtime}]'"


def test_adapters_are_not_ignored(tiny):
    with pytest.raises(UsageError, match="adapter"):
        open_vision_language(ModelSpec.parse(f"torch:{tiny}?adapter=./lora"))


def test_unknown_demo_model():
    with pytest.raises(ModelError, match="no demo model"):
        resolve(ModelSpec.parse("demo:nothing@torch"))


def test_identify_loads_no_runtime_and_shows_no_path(tiny):
    import subprocess
    import sys

    code = (
        "import json, sys; from workbench.models.source import identify; from workbench.types import ModelSpec\n"
        f"print(json.dumps(identify(ModelSpec.parse('torch:{tiny}'))))\n"
        "assert not {'torch', 'mlx', 'mlx.core', 'transformers'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    found = json.loads(done.stdout)
    assert found == identify(ModelSpec.parse(f"mlx:{tiny}"))
    assert found["source"] == tiny.name and found["format"] == "safetensors" and found["architecture"] == "llava"
    assert str(tiny.parent) not in done.stdout


def test_identity_follows_contents(tiny, broken):
    assert identify(ModelSpec.parse(f"torch:{broken}")) | {"source": tiny.name} == identify(ModelSpec.parse(f"torch:{tiny}"))
    change(broken, "generation_config.json", eos_token_id=5)
    changed = identify(ModelSpec.parse(f"torch:{broken}"))
    assert changed["config"] != identify(ModelSpec.parse(f"torch:{tiny}"))["config"]
    weights = load_file(broken / "model.safetensors")
    weights["language_model.model.norm.weight"] += 1
    save_file(weights, broken / "model.safetensors", metadata={"format": "pt"})
    assert identify(ModelSpec.parse(f"torch:{broken}"))["weights"] != changed["weights"]


def test_identity_without_a_writable_cache(tiny, monkeypatch):
    monkeypatch.setenv("WORKBENCH_CACHE", "/proc/nowhere")
    assert len(identify(ModelSpec.parse(f"torch:{tiny}"))["weights"]) == 64
