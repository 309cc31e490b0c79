"""No wrapper takes a checkpoint whose weights are not exactly the architecture's, and each names the weight."""

from __future__ import annotations

import shutil
from importlib.util import find_spec

import numpy
import pytest
from safetensors.numpy import load_file, save_file

from tests.models import tiny_speech
from workbench.errors import ModelError
from workbench.models.loading import open_speech_to_text
from workbench.types import ModelSpec

pytest.importorskip("torch", reason="needs torch (pip install 'parity-workbench[torch]')")

SMALL = {"d_model": 16, "encoder_ffn_dim": 64, "decoder_ffn_dim": 64, "encoder_layers": 1, "decoder_layers": 1}
HEADS = {"encoder_attention_heads": 1, "decoder_attention_heads": 1}
WHISPER = "model.decoder.layers.0.encoder_attn.v_proj.weight"
WRAPPERS = {
    "transformers-whisper": ("torch", "whisper", "", WHISPER),
    "mlx-whisper": ("mlx", "whisper", "", WHISPER),
    "mlx-audio-whisper": ("mlx", "whisper", "?library=mlx-audio", WHISPER),
    "transformers-ctc": ("torch", "wav2vec2", "", "wav2vec2.encoder.layers.1.attention.k_proj.weight"),
    "transformers-hubert": ("torch", "hubert", "", "hubert.encoder.layers.1.attention.k_proj.weight"),
    "mlx-audio-ctc": ("mlx", "wav2vec2", "", "wav2vec2.encoder.layers.1.attention.k_proj.weight"),
    "transformers-moonshine": ("torch", "moonshine", "", "model.encoder.layers.1.self_attn.k_proj.weight"),
    "mlx-audio-moonshine": ("mlx", "moonshine", "", "model.encoder.layers.1.self_attn.k_proj.weight"),
}
MODULES = {"torch": "torch", "mlx": "mlx_audio"}
wrappers = pytest.mark.parametrize(
    "wrapper",
    [
        pytest.param(name, marks=pytest.mark.skipif(find_spec(MODULES[row[0]]) is None, reason=f"needs {MODULES[row[0]]}"))
        for name, row in WRAPPERS.items()
    ],
)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    base = tmp_path_factory.mktemp("whole")
    tiny_speech.whisper(base / "whisper", alignment=[[0, 0]], max_source_positions=50, **SMALL, **HEADS)
    tiny_speech.ctc(base / "wav2vec2")
    tiny_speech.ctc(base / "hubert", "hubert")
    tiny_speech.moonshine(base / "moonshine")
    return base


def changed(folders, wrapper, tmp_path, change):
    """The model text of a copy whose weights ``change`` has edited; the copy's name says nothing of its type."""
    runtime, kind, query, weight = WRAPPERS[wrapper]
    folder = tmp_path / "model"
    shutil.copytree(folders / kind, folder)
    weights = load_file(folder / "model.safetensors")
    change(weights, weight)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return ModelSpec.parse(f"{runtime}:{folder}{query}")


def refused(spec) -> str:
    with pytest.raises(ModelError) as caught:
        open_speech_to_text(spec)
    return str(caught.value)


def part_of(weight: str) -> str:
    """What of the name every wrapper's error shows: mlx-audio names a Moonshine's weights without their first word."""
    return weight.removeprefix("model.")


@wrappers
def test_a_missing_weight(folders, wrapper, tmp_path):
    assert part_of(WRAPPERS[wrapper][3]) in refused(changed(folders, wrapper, tmp_path, lambda weights, name: weights.pop(name)))


@wrappers
def test_an_unknown_weight(folders, wrapper, tmp_path):
    def change(weights, name):
        weights[f"{name.rpartition('.')[0]}.extra"] = numpy.zeros(3, dtype=numpy.float32)

    assert f"{part_of(WRAPPERS[wrapper][3]).rpartition('.')[0]}.extra" in refused(changed(folders, wrapper, tmp_path, change))


@wrappers
def test_a_weight_of_another_shape(folders, wrapper, tmp_path):
    def change(weights, name):
        weights[name] = weights[name][:-1].copy()

    assert part_of(WRAPPERS[wrapper][3]) in refused(changed(folders, wrapper, tmp_path, change))


def test_the_librarys_own_call_takes_what_ours_refuses_and_casts_it(folders, tmp_path):
    """Why the wrapper does not call it: half precision that nobody asked for, and a weight filled with noise."""
    pytest.importorskip("mlx_audio", reason="needs mlx-audio (pip install 'parity-workbench[mlx]')")
    from workbench.registry import get_backend

    get_backend("mlx").prepare({})
    from mlx import core
    from mlx_audio.stt import load

    def change(weights, name):
        weights.pop(name)

    spec = changed(folders, "mlx-audio-whisper", tmp_path, change)
    theirs = load(tmp_path / "model")
    assert theirs.encoder.conv1.weight.dtype == core.float16
    assert load_file(tmp_path / "model" / "model.safetensors")["model.encoder.conv1.weight"].dtype == numpy.float32
    assert WHISPER.removeprefix("model.") in refused(spec)


def test_the_other_librarys_own_call_takes_what_ours_refuses(folders, tmp_path):
    pytest.importorskip("mlx_whisper", reason="needs mlx-whisper (pip install 'parity-workbench[mlx]')")
    from workbench.convert.whisper import MLX_WEIGHTS, to_mlx_whisper
    from workbench.registry import get_backend

    get_backend("mlx").prepare({})
    from mlx import core
    from mlx_whisper.load_models import load_model

    done = to_mlx_whisper(folders / "whisper", tmp_path / "mlx", check=False)
    weights = load_file(done.target / MLX_WEIGHTS)
    del weights["decoder.blocks.0.cross_attn.value.weight"]
    save_file(weights, done.target / MLX_WEIGHTS)
    assert load_model(str(done.target), core.float32).dims.n_mels == 80
    assert "decoder.blocks.0.cross_attn.value.weight" in refused(ModelSpec.parse(f"mlx:{done.target}"))


@pytest.mark.parametrize("wrapper", ["transformers-whisper", "mlx-whisper"])
def test_an_output_that_is_not_the_embedding_is_refused(folders, wrapper, tmp_path):
    pytest.importorskip(MODULES[WRAPPERS[wrapper][0]])

    def change(weights, name):
        weights["proj_out.weight"] = weights["model.decoder.embed_tokens.weight"] + 1

    assert "proj_out.weight" in refused(changed(folders, wrapper, tmp_path, change))


def test_alignment_heads_that_do_not_exist_are_refused(folders, tmp_path):
    pytest.importorskip("mlx_whisper", reason="needs mlx-whisper (pip install 'parity-workbench[mlx]')")
    spec = changed(folders, "mlx-whisper", tmp_path, lambda weights, name: None)
    tiny_speech.write(tmp_path / "model", "generation_config.json", {"alignment_heads": [[3, 0]]})
    assert "alignment heads that the model does not have" in refused(spec)


@wrappers
def test_a_weight_of_whole_numbers(folders, wrapper, tmp_path):
    """Every library would load them as if they were the weights."""

    def change(weights, name):
        weights[name] = (100 * weights[name]).astype(numpy.int32)

    said = refused(changed(folders, wrapper, tmp_path, change))
    assert WRAPPERS[wrapper][3] in said and "stored as I32" in said


def test_an_npz_of_whole_numbers(folders, tmp_path):
    pytest.importorskip("mlx_whisper", reason="needs mlx-whisper (pip install 'parity-workbench[mlx]')")
    from workbench.convert.whisper import MLX_WEIGHTS, to_mlx_whisper

    done = to_mlx_whisper(folders / "whisper", tmp_path / "mlx", check=False)
    weights = load_file(done.target / MLX_WEIGHTS)
    (done.target / MLX_WEIGHTS).unlink()
    numpy.savez(done.target / "weights.npz", **weights)
    open_speech_to_text(ModelSpec.parse(f"mlx:{done.target}")).close()
    weights["encoder.conv1.bias"] = weights["encoder.conv1.bias"].astype(numpy.int8)
    numpy.savez(done.target / "weights.npz", **weights)
    assert "encoder.conv1.bias" in refused(ModelSpec.parse(f"mlx:{done.target}"))


@pytest.mark.parametrize("wrapper", ["mlx-whisper", "mlx-audio-ctc", "mlx-audio-moonshine"])
def test_a_weight_in_two_files(folders, wrapper, tmp_path):
    """torch reads model.safetensors alone; MLX would take whichever file comes last."""
    pytest.importorskip("mlx_audio", reason="needs mlx-audio (pip install 'parity-workbench[mlx]')")
    spec = changed(folders, wrapper, tmp_path, lambda weights, name: None)
    shutil.copyfile(tmp_path / "model" / "model.safetensors", tmp_path / "model" / "old.safetensors")
    said = refused(spec)
    assert "twice" in said and "old.safetensors" in said
