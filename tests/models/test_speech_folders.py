"""Speech folders before any runtime is loaded: .npz weights are read without pickle, and mlx-whisper's config.json is recognised."""

from __future__ import annotations

import json
from importlib.util import find_spec

import numpy
import pytest

from tests.models import tiny_speech
from workbench.errors import ModelError
from workbench.models import checkpoint, whisper_layout
from workbench.models.artifact import artifact
from workbench.models.loading import open_speech_to_text
from workbench.models.source import identify
from workbench.types import ModelSpec

DIMS = {
    "n_mels": 4,
    "n_audio_ctx": 6,
    "n_audio_state": 8,
    "n_audio_head": 2,
    "n_audio_layer": 1,
    "n_vocab": 51865,
    "n_text_ctx": 10,
    "n_text_state": 8,
    "n_text_head": 2,
    "n_text_layer": 1,
}


def arrays(seed: int = 0) -> dict[str, numpy.ndarray]:
    """mlx-whisper's weights, without the encoder's table, as its own converter writes them."""
    random = numpy.random.default_rng(seed)
    return {
        each.mlx: random.standard_normal(each.mlx_shape).astype(numpy.float16)
        for each in whisper_layout.weights(DIMS)
        if each.mlx != whisper_layout.POSITIONS
    } | {"alignment_heads": numpy.array([[0, 1]], dtype=numpy.uint32)}


@pytest.fixture
def folder(tmp_path):
    tiny_speech.write(tmp_path, "config.json", DIMS)
    numpy.savez(tmp_path / "weights.npz", **arrays())
    return tmp_path


def test_an_npz_folder_is_identified_and_listed(folder):
    found = identify(ModelSpec.parse(f"mlx:{folder}"))
    assert (found["format"], found["architecture"], found["quantisation"]) == ("npz", "whisper", None)
    listed = artifact(folder)
    stored = arrays()
    assert set(listed["tensors"]) == set(stored) and "quantised" not in listed
    one = listed["tensors"]["encoder.conv1.weight"]
    assert (one["dtype"], one["shape"]) == ("F16", [8, 3, 4])
    wanted = numpy.sqrt(numpy.mean(stored["encoder.conv1.weight"].astype(float) ** 2))
    assert one["rms"] == pytest.approx(wanted) and listed["tensors"]["alignment_heads"]["dtype"] == "U32"


def test_pickled_arrays_are_refused_before_anything_reads_them(folder):
    class Danger:
        def __reduce__(self):
            return (pytest.fail, ("a pickle was run",))

    stored = arrays() | {"encoder.conv1.bias": numpy.array([Danger()], dtype=object)}
    numpy.savez(folder / "weights.npz", allow_pickle=True, **stored)
    for read in (checkpoint.check, artifact):
        with pytest.raises(ModelError, match="holds Python objects"):
            read(folder)


@pytest.mark.parametrize("keep", [0, 10, 1000, -100])
def test_a_truncated_npz(folder, keep):
    path = folder / "weights.npz"
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(ModelError, match="weights.npz is truncated or no .npz file"):
        checkpoint.check(folder)


def test_an_npz_of_something_else(folder):
    import zipfile

    with zipfile.ZipFile(folder / "weights.npz", "w") as archive:
        archive.writestr("readme.txt", "hello")
    with pytest.raises(ModelError, match="no .npz file"):
        checkpoint.check(folder)


def test_packed_weights_are_told_from_plain_ones(tmp_path):
    from safetensors.numpy import save_file

    names = {"a.weight": "uint32", "a.scales": "float16", "a.biases": "float16", "b.weight": "float16", "b.bias": "float16"}
    save_file({name: numpy.zeros((2, 2), dtype=dtype) for name, dtype in names.items()}, tmp_path / "model.safetensors")
    tiny_speech.write(tmp_path, "config.json", {"quantization": {"bits": 4, "group_size": 32}})
    listed = artifact(tmp_path)
    assert (listed["quantised"], listed["plain"]) == (["a.weight"], ["b.bias", "b.weight"])


def test_a_config_that_lacks_one_size_is_no_whisper():
    assert whisper_layout.is_dimensions(DIMS) and whisper_layout.is_whisper({"model_type": "whisper"})
    assert not whisper_layout.is_dimensions({name: value for name, value in DIMS.items() if name != "n_vocab"})
    with pytest.raises(ModelError, match="lacks num_mel_bins"):
        whisper_layout.dimensions({"model_type": "whisper"})


def test_the_way_to_mlx_and_back_changes_nothing():
    stored = arrays() | {whisper_layout.POSITIONS: numpy.ones((6, 8), dtype=numpy.float16)}
    hub = whisper_layout.to_hub(stored, DIMS, "it")
    assert hub["model.encoder.conv1.weight"].shape == (8, 4, 3) and len(hub) == len(stored) - 1
    again = whisper_layout.to_mlx(hub, DIMS, "it")
    assert all(numpy.array_equal(again[name], stored[name]) for name in again) and set(again) == set(stored) - {"alignment_heads"}


@pytest.mark.skipif(find_spec("mlx_whisper") is None, reason="needs mlx-whisper (pip install 'parity-workbench[mlx]')")
def test_an_npz_folder_without_tokenizer_is_opened(folder):
    model = open_speech_to_text(ModelSpec.parse(f"mlx:{folder}?device=cpu"))
    said = model.describe()
    assert (said["tokenizer"], said["dtype"], said["alignment_heads"]) == ("mlx-whisper", "float32", [[0, 1]])
    assert said["positions"] == "sinusoids computed by mlx_whisper: the checkpoint has none"
    stored = arrays()
    held = numpy.array(model.model.decoder.token_embedding.weight)
    assert numpy.array_equal(held, stored["decoder.token_embedding.weight"].astype(numpy.float32))
    logits = model.runtime.teacher_forced(model.runtime.encode(numpy.zeros((1, 4, 12), dtype=numpy.float32)), numpy.array([[1, 2]]))
    assert logits.shape == (1, 2, 51865) and numpy.isfinite(logits).all()
    json.dumps(said)


@pytest.mark.skipif(find_spec("torch") is None, reason="needs torch (pip install 'parity-workbench[torch]')")
def test_torch_says_where_an_mlx_folder_goes(folder):
    with pytest.raises(ModelError) as caught:
        open_speech_to_text(ModelSpec.parse(f"torch:{folder}"))
    assert "--to transformers" in str(caught.value)
