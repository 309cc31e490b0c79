"""Captures of recognisers: encoder and decoder of three libraries under the same names, on the log-mel and a transcript that all read."""

from __future__ import annotations

import json
import shutil

import numpy
import pytest
from PIL import Image

from workbench.capture import names
from workbench.capture.inputs import TRANSCRIPT_TOKENS, read_items, with_tokens
from workbench.capture.session import capture_layers
from workbench.cli.main import main
from workbench.errors import UsageError
from workbench.models.processors import Prepared
from workbench.parity.ladder import compare
from workbench.run.input_records import read_inputs
from workbench.run.layer_records import LayerRecords
from workbench.run.token_records import read_tokens
from workbench.run.verify import verify
from workbench.tasks.catalogue import load_task

for name in ("torch", "soundfile", "soxr"):
    pytest.importorskip(name, reason="pip install 'parity-workbench[torch,speech]'")
SPEECH = "speech-to-text"
COARSE = [
    *("audio.input", "audio.block.0", "audio.block.1", "audio.norm"),
    *("text.embeddings", "text.input", "text.block.0", "text.block.1", "text.norm", "logits"),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Windows of 5 s, which hold the first sample: a sixth of the work of 30 s."""
    from tests.models.tiny_speech import whisper

    return whisper(tmp_path_factory.mktemp("models") / "tiny-whisper", max_source_positions=250)


@pytest.fixture(scope="module")
def first():
    return load_task("asr-sample").load(1).samples[0]


@pytest.fixture(scope="module")
def reference(folder, tmp_path_factory):
    return capture_layers(f"torch:{folder}", "stt", limit=1, keep=True, runs=tmp_path_factory.mktemp("reference"))


def test_both_towers_are_recorded(reference, first):
    assert reference.manifest["task"]["family"] == SPEECH and reference.results["item_errors"] == 0
    ((item, line),) = reference.items().items()
    passes = LayerRecords(reference).read(item).passes
    assert list(passes) == ["float32", "float64"], "torch's own error is measured"
    assert list(passes["float32"]) == COARSE
    shapes = {layer: record.line["shape"] for layer, record in passes["float32"].items()}
    assert shapes["audio.block.0"] == [1, 250, 32] and shapes["logits"][-1] == 51865
    assert item == f"asr-sample/{first.id}" and line["input"]["media"] == [first.inputs["audio"].sha256]
    assert line["capture"]["causality"]["moved"] <= 1e-5 * line["capture"]["causality"]["largest"]
    assert not [finding for finding in verify(reference) if finding.level == "failed"]


def test_the_decoder_reads_the_prompt_and_the_reference_text(reference, first):
    from workbench.models.whisper_tokens import WhisperTokens

    ((item, line),) = reference.items().items()
    ((_, arrays),) = read_inputs(reference.tensors, {item})
    tokens = WhisperTokens.standard(51865)
    ids = arrays["input_ids"][0].tolist()
    assert ids == [*tokens.start("en", "transcribe", False), *tokens.encode(f" {first.target}")]
    assert arrays["input_features"].shape == (1, 80, 500)
    assert line["input"]["seen"]["prompt"].endswith(f"<|notimestamps|> {first.target}")
    record = read_tokens(reference.tensors, "own")[item]
    assert record.tokens.tolist() == ids[1:] and record.top_ids.shape == (len(ids) - 1, 64)


def test_a_run_is_followed_where_it_is_named(folder, tmp_path):
    import workbench as wb

    run = wb.evaluate("asr-sample", f"torch:{folder}", limit=1, max_tokens=6, runs=tmp_path / "runs")
    made = capture_layers(f"torch:{folder}", "asr-sample", limit=1, follow=run.folder, also=["none"], runs=tmp_path / "captures")
    ((item, _),) = made.items().items()
    ((_, arrays),) = read_inputs(made.tensors, {item})
    ((_, line),) = run.items().items()
    assert arrays["input_ids"][0, 4:].tolist() == line["output"]["tokens"]
    with pytest.raises(UsageError, match="no run of librispeech-clean|no transcripts to follow"):
        read_items(["mmstar-sample"], limit=1, follow=run)
    with pytest.raises(UsageError, match="has no tokens for"):
        read_items(["asr-sample"], limit=2, follow=run)


def test_a_long_transcript_is_cut():
    tokenizer = type("Tokens", (), {"text": staticmethod(lambda ids: f"{len(ids)} tokens")})
    made = with_tokens(Prepared({"input_ids": numpy.array([[7, 8]])}, "start", 2), range(1000), tokenizer)
    assert made.length == 2 + TRANSCRIPT_TOKENS == made.arrays["input_ids"].shape[1] and made.prompt == "226 tokens"


@pytest.mark.parametrize("library", ["mlx-whisper", "mlx-audio"])
def test_mlx_is_compared_layer_by_layer_and_localised(library, folder, reference, tmp_path):
    pytest.importorskip(library.replace("-", "_"), reason="pip install 'parity-workbench[mlx]'")
    from workbench.backends import blas_route

    own = "" if blas_route._done else "&blas=off"  # independent of torch, where another test did not open its library
    run = capture_layers(f"mlx:{folder}?library={library}{own}", reference, localise=True, runs=tmp_path)
    ((item, line),) = run.items().items()
    passes = LayerRecords(run).read(item).passes
    assert len(passes) == 2 and all(set(found) == set(COARSE) for found in passes.values())
    found = compare(reference, run)
    assert found.verdict.name == "AGREE" and {row["layer"] for row in found.rung(3).facts["layers"]} == set(COARSE)
    assert all(row["times_own"] is not None for row in found.rung(3).facts["layers"])
    assert line["capture"]["replayed"] == reference.manifest["run_key"][:12]


def test_a_fault_is_found_where_it_is(folder, reference, tmp_path, monkeypatch):
    """A wrong bias in the first cross-attention: that block makes the error, the later one passes it on, the encoder is clean."""
    import torch

    from workbench.capture import session

    real = session.open_model

    def damaged(spec, family):
        model = real(spec, family)
        with torch.no_grad():
            model.model.model.decoder.layers[0].encoder_attn.out_proj.bias += 0.3
        return model

    monkeypatch.setattr(session, "open_model", damaged)
    run = capture_layers(f"torch:{folder}", reference, localise=True, also=["none"], runs=tmp_path)
    found = compare(reference, run)
    assert found.verdict.name == "DIFFERENT"
    errors = {row["layer"]: row["relative_rms"] for row in found.rung(3).facts["layers"]}
    assert max(error for layer, error in errors.items() if layer.startswith("audio.")) == 0
    assert errors["text.block.0"] > 0.01 and errors["text.input"] == 0
    assert "text.block.0" in found.rung(3).finding


def test_sounds_as_inputs(folder, first, tmp_path, capsys):
    path = tmp_path / "hello there.flac"
    path.write_bytes(first.inputs["audio"].read())
    typed = ["capture", f"torch:{folder}", "--inputs", str(path), "--also", "none", "--runs", str(tmp_path / "runs")]
    assert main([*typed, "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["n"] == 1 and said["layers"] == len(COARSE)
    bad = tmp_path / "talk.wav"
    bad.write_text("no sound")
    assert main(["capture", f"torch:{folder}", "--inputs", str(bad), "--runs", str(tmp_path / "bad")]) == 6
    assert "talk failed:" in capsys.readouterr().out
    assert main(["capture", f"torch:{folder}", "--inputs", str(tmp_path / "gone.wav"), "--runs", str(tmp_path / "bad")]) == 2


def test_inputs_of_two_families_are_refused(first, tmp_path):
    shutil.copyfile(first.inputs["audio"].path, path := tmp_path / "a.flac")
    Image.new("RGB", (8, 8)).save(tmp_path / "b.png")
    with pytest.raises(UsageError, match="vision-language"):
        read_items([tmp_path / "b.png", path], prompt="what is it?")


def test_recorded_arrays_are_known_by_what_they_hold(tmp_path):
    for name, arrays in (
        ("heard", {"input_features": numpy.zeros((1, 80, 8))}),
        ("seen", {"pixel_values": numpy.zeros((1, 3, 4, 4))}),
    ):
        numpy.savez(tmp_path / f"{name}.npz", input_ids=numpy.array([[1, 2]]), **arrays)
    assert [read_items([tmp_path / f"{name}.npz"])[0].family for name in ("heard", "seen")] == [SPEECH, "vision-language"]


PAIRS = [
    # transformers, mlx-whisper and mlx-audio, the name of all
    ("model.encoder.conv1", "encoder.conv1", "audio.conv1"),
    ("model.encoder.layers.3", "encoder.blocks.3", "audio.block.3"),
    ("model.encoder.layers.3.self_attn", "encoder.blocks.3.attn", "audio.block.3.attention"),
    ("model.encoder.layers.3.self_attn.q_proj", "encoder.blocks.3.attn.query", "audio.block.3.attention.q_proj"),
    ("model.encoder.layers.3.final_layer_norm", "encoder.blocks.3.mlp_ln", "audio.block.3.mlp_norm"),
    ("model.encoder.layer_norm", "encoder.ln_post", "audio.norm"),
    ("model.decoder.embed_tokens", "decoder.token_embedding", "text.embeddings"),
    ("model.decoder.layers.0.encoder_attn", "decoder.blocks.0.cross_attn", "text.block.0.cross_attention"),
    ("model.decoder.layers.0.encoder_attn.out_proj", "decoder.blocks.0.cross_attn.out", "text.block.0.cross_attention.out_proj"),
    ("model.decoder.layers.0.encoder_attn_layer_norm", "decoder.blocks.0.cross_attn_ln", "text.block.0.cross_attention_norm"),
    ("model.decoder.layers.0.fc1", "decoder.blocks.0.mlp1", "text.block.0.fc1"),
    ("model.decoder.layer_norm", "decoder.ln", "text.norm"),
    ("model.decoder", "decoder", None),
    ("proj_out", "encoder", None),
]


@pytest.mark.parametrize(("reference_path", "port", "name"), PAIRS, ids=[each[0] for each in PAIRS])
def test_libraries_paths_have_one_name(reference_path, port, name):
    renames = names.RENAMES[SPEECH]
    assert names.layer_name(reference_path, renames) == names.layer_name(port, renames) == name
