"""A Whisper laid out for mlx-whisper and back: bit for bit, checked by logits, whole or not at all; read by the libraries themselves."""

from __future__ import annotations

import json
import shutil

import numpy
import pytest
from safetensors.numpy import load_file, save_file

from tests.models import tiny_speech
from workbench.cli.main import main
from workbench.convert import whisper, whisper_check
from workbench.convert.reload import DifferentModel
from workbench.errors import ModelError, UsageError
from workbench.models import checkpoint, whisper_layout

pytest.importorskip("torch", reason="needs torch (pip install 'parity-workbench[torch]')")
pytest.importorskip("mlx_whisper", reason="needs mlx-whisper (pip install 'parity-workbench[mlx]')")

SMALL = {"encoder_layers": 1, "decoder_layers": 1, "max_source_positions": 50}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    base = tmp_path_factory.mktemp("convert")
    for dtype in ("float32", "float16"):
        tiny_speech.whisper(base / dtype, dtype=dtype, alignment=[[0, 1]], **SMALL)
    return base


@pytest.fixture(scope="module")
def plain(folders):
    return whisper.to_mlx_whisper(folders / "float32", folders / "plain")


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("WORKBENCH_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))


def same(one, other) -> bool:
    return set(one) == set(other) and all(one[name].tobytes() == other[name].tobytes() for name in one)


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_there_and_back_keeps_every_bit_and_the_configuration(folders, plain, tmp_path, dtype):
    source = folders / dtype
    target = plain.target if dtype == "float32" else whisper.to_mlx_whisper(source, tmp_path / "mlx", check=False).target
    back = whisper.to_transformers(target, tmp_path / "back", check=dtype == "float32")
    stored = load_file(source / "model.safetensors")
    stored.pop("proj_out.weight", None)
    assert same(stored, load_file(back.target / "model.safetensors")) and back.dtype == dtype
    before, after = (json.loads((each / "config.json").read_text()) for each in (source, back.target))
    assert before == after
    assert {path.name for path in source.iterdir()} == {path.name for path in back.target.iterdir()}


def test_the_check_says_what_was_compared(plain):
    assert "mlx-whisper against transformers" in plain.check and "8 of 8 tokens the same" in plain.check


def test_mlx_whisper_itself_reads_the_folder_with_the_checkpoints_table(folders, plain):
    from mlx import core
    from mlx_whisper.load_models import load_model

    model = load_model(str(plain.target), core.float32)
    stored = load_file(folders / "float32" / "model.safetensors")
    assert numpy.array_equal(numpy.array(model.encoder._positional_embedding), stored["model.encoder.embed_positions.weight"])
    assert numpy.array_equal(numpy.array(model.alignment_heads), [[0, 1]])
    assert numpy.array_equal(numpy.array(model.encoder.conv1.weight), stored["model.encoder.conv1.weight"].transpose(0, 2, 1))


def test_the_names_are_those_that_mlx_audio_makes_of_transformers(folders, plain):
    pytest.importorskip("mlx_audio", reason="needs mlx-audio (pip install 'parity-workbench[mlx]')")
    from mlx import core
    from mlx_audio.stt.models.whisper import Model, ModelConfig

    config = checkpoint.read_config(folders / "float32")
    theirs = Model(ModelConfig.from_dict(config), core.float32).sanitize(core.load(str(folders / "float32" / "model.safetensors")))
    ours = load_file(plain.target / whisper.MLX_WEIGHTS)
    assert set(theirs) == set(ours) - {whisper_layout.POSITIONS, whisper_layout.ALIGNMENT} | (set(theirs) & {"proj_out.weight"})
    assert all(numpy.array_equal(numpy.array(value), ours[name]) for name, value in theirs.items() if name in ours)


def test_quantised_says_which_and_the_library_reads_it(folders, tmp_path):
    from mlx import core, nn
    from mlx_whisper.load_models import load_model

    done = whisper.to_mlx_whisper(folders / "float16", tmp_path / "packed", bits=4)
    assert "weights in 4 bits, each value within" in done.check
    assert "decoder.token_embedding.weight" in done.quantised and "encoder.conv1.weight" in done.plain
    model = load_model(str(done.target), core.float16)
    assert isinstance(model.decoder.token_embedding, nn.QuantizedEmbedding) and model.decoder.token_embedding.group_size == 32
    assert isinstance(model.encoder.conv1, nn.Conv1d)
    with pytest.raises(ModelError, match="is quantised"):
        whisper.to_transformers(done.target, tmp_path / "back")


def test_another_precision_is_said_and_allowed_its_rounding(folders, tmp_path):
    done = whisper.to_mlx_whisper(folders / "float32", tmp_path / "half", dtype="float16")
    assert done.dtype == "float16" and "stored as float32 and float16" in done.check


def test_a_folder_that_computes_something_else_is_found_out_and_not_left(folders, plain, tmp_path, monkeypatch):
    """The conversion is broken on purpose: one weight doubled on its way into the file."""
    real = whisper._save

    def broken(path, arrays, metadata):
        real(path, {**arrays, "encoder.ln_post.weight": arrays["encoder.ln_post.weight"] * 2}, metadata)

    monkeypatch.setattr(whisper, "_save", broken)
    with pytest.raises(DifferentModel, match="not the same model"):
        whisper.to_mlx_whisper(folders / "float32", tmp_path / "wrong")
    assert list(tmp_path.iterdir()) == []


def test_a_packed_weight_that_is_off_by_more_than_its_step_is_found_out(folders, tmp_path):
    done = whisper.to_mlx_whisper(folders / "float32", tmp_path / "packed", bits=8, check=False)
    path = done.target / whisper.MLX_WEIGHTS
    weights = load_file(path)
    weights["encoder.blocks.0.mlp1.biases"] = weights["encoder.blocks.0.mlp1.biases"] + 3 * numpy.abs(
        weights["encoder.blocks.0.mlp1.scales"]
    )
    save_file(weights, path)
    dims = whisper_layout.dimensions(checkpoint.read_config(done.target))
    with pytest.raises(DifferentModel, match="encoder.blocks.0.mlp1.weight"):
        whisper_check.within_a_step(folders / "float32", done.target, dims, "it", "source")


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError(28, "No space left on device")])
def test_an_interrupted_conversion_leaves_nothing(folders, tmp_path, monkeypatch, error):
    def stopped(path, arrays, metadata):
        path.write_bytes(b"half")
        raise error

    monkeypatch.setattr(whisper, "_save", stopped)
    with pytest.raises(KeyboardInterrupt if error is KeyboardInterrupt else UsageError):
        whisper.to_mlx_whisper(folders / "float32", tmp_path / "target", check=False)
    assert list(tmp_path.iterdir()) == []


def test_a_published_folder_without_table_tokenizer_and_configuration(plain, tmp_path):
    """As mlx-community has them: sizes and weights alone, here as .npz. The table is the one that transformers gives a new model."""
    published = tmp_path / "published"
    published.mkdir()
    shutil.copy(plain.target / "config.json", published)
    weights = load_file(plain.target / whisper.MLX_WEIGHTS)
    table = weights.pop(whisper_layout.POSITIONS)
    numpy.savez(published / "weights.npz", **weights)
    done = whisper.to_transformers(published, tmp_path / "hub", check=False)
    assert done.written == ["preprocessor_config.json", "tokenizer.json", "tokenizer_config.json", "generation_config.json"]
    made = load_file(done.target / "model.safetensors")["model.encoder.embed_positions.weight"]
    assert numpy.array_equal(made, table)
    from tokenizers import Tokenizer
    from transformers import WhisperFeatureExtractor, WhisperForConditionalGeneration

    ours, demo = (Tokenizer.from_file(str(each / "tokenizer.json")) for each in (done.target, tiny_speech.locate.demo_model("stt")))
    assert ours.get_vocab() == demo.get_vocab()
    text = "Hello, wörld! don't 123"
    assert ours.encode(text, add_special_tokens=False).ids == demo.encode(text, add_special_tokens=False).ids
    assert WhisperFeatureExtractor.from_pretrained(done.target).feature_size == 80
    model, report = WhisperForConditionalGeneration.from_pretrained(done.target, output_loading_info=True)
    assert not any(report[name] for name in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert model.generation_config.alignment_heads == [[0, 1]] and model.config.decoder_start_token_id == 50258


def test_what_is_refused(folders, plain, tmp_path):
    with pytest.raises(UsageError, match="is there already"):
        whisper.to_mlx_whisper(folders / "float32", plain.target)
    with pytest.raises(ModelError, match="not laid out for mlx-whisper"):
        whisper.to_transformers(folders / "float32", tmp_path / "x")
    broken = tmp_path / "broken"
    shutil.copytree(folders / "float32", broken)
    weights = load_file(broken / "model.safetensors")
    del weights["model.decoder.layer_norm.bias"]
    save_file(weights, broken / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"lacks the weight decoder\.layer_norm\.bias"):
        whisper.to_mlx_whisper(broken, tmp_path / "x")
    assert not (tmp_path / "x").exists()


def test_the_command(folders, tmp_path, capsys):
    out = tmp_path / "cli"
    text = ["convert", str(folders / "float32"), "--to", "mlx-whisper", "--bits", "8", "--no-check", "--json", "--out", str(out)]
    assert main(text) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["target"] == str(out) and found["quantised"] and found["plain"] and found["checked"] is False
    assert json.loads((out / "config.json").read_text())["quantization"] == {"group_size": 32, "bits": 8}
    for extra, words in (
        (["--to", "hub-layout", "--bits", "4"], "does nothing for --to hub-layout"),
        (["--to", "mlx-whisper", "--group-size", "64"], "quantised weights"),
        (["--to", "transformers", "--bits", "4"], "does nothing for --to transformers"),
    ):
        assert main(["convert", str(folders / "float32"), *extra]) == 2
        assert words in capsys.readouterr().err
    assert main(["convert", "torch:ORG/NAME", "--to", "transformers"]) == 2
    assert "folder of mlx" in capsys.readouterr().err
