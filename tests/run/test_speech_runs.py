"""Speech to text through a run: what its lines, records and results hold, what fails, what is shared, and what is scored again."""

from __future__ import annotations

import json
from dataclasses import replace
from types import SimpleNamespace

import numpy
import pytest

import workbench as wb
from workbench.errors import ItemError
from workbench.run.archive import pack, unpack
from workbench.run.bundle import Run
from workbench.run.input_records import read_inputs
from workbench.run.merge import merge_to
from workbench.run.redact import is_redacted, redact
from workbench.run.rescore import rescore
from workbench.run.token_records import TOP, read_tokens
from workbench.run.verify import verify
from workbench.tasks.catalogue import load_task
from workbench.types import Loaded, Media

for name in ("torch", "soundfile", "soxr"):
    pytest.importorskip(name, reason="pip install 'parity-workbench[torch,speech]'")
TASK = "asr-sample"
SHORT = {"limit": 3, "max_tokens": 12}


@pytest.fixture(scope="module")
def whisper(tmp_path_factory) -> str:
    """The text of a tiny random model."""
    from tests.models.tiny_whisper import build

    return f"torch:{build(tmp_path_factory.mktemp('models') / 'tiny-whisper')}"


@pytest.fixture(scope="module")
def whole(whisper, tmp_path_factory) -> Run:
    """Three utterances, with everything that can be recorded."""
    return wb.evaluate(TASK, whisper, runs=tmp_path_factory.mktemp("whole"), record=("tokens", "inputs", "media"), **SHORT)


def deterministic(run: Run) -> dict:
    return {name: (line["input_hash"], line["input"], line["output"], line["score"]) for name, line in run.items().items()}


def failed(run: Run) -> list[str]:
    return [f"{each.what}: {each.detail}" for each in verify(run) if each.level == "failed"]


def test_a_line_holds_the_sound_and_how_long_it_is(whole):
    samples = {sample.id: sample for sample in load_task(TASK).load(3).samples}
    assert list(whole.items()) == list(samples) and whole.results["item_errors"] == 0
    for name, line in whole.items().items():
        audio = samples[name].inputs["audio"]
        assert line["input"]["media"] == [audio.sha256] and line["input"]["target"] == samples[name].target
        assert line["input"]["audio_seconds"] == pytest.approx(samples[name].meta["duration"], abs=1e-3)
        assert line["input"]["seen"]["arrays"]["input_features"]["shape"] == [1, 80, 3000]
        assert line["score"]["counts"]["words"] > 0 and "segments" not in line["output"]
        kept = whole.media(audio.sha256)
        assert kept.suffix == ".flac" and kept.read_bytes() == audio.read()
    assert failed(whole) == []


def test_the_manifest_names_the_family_and_the_libraries_that_made_the_answers(whole):
    assert whole.manifest["task"]["family"] == "speech-to-text"
    libraries = set(whole.manifest["key"]["libraries"])
    assert {"torch", "transformers", "tokenizers", "numpy", "soundfile", "soxr"} <= libraries
    assert not libraries & {"pillow", "mlx-vlm"}


def test_a_rate_comes_with_everything_that_it_needs(whole):
    results = whole.results
    assert results["profile"] == "whisper" and results["headline"]["metric"] == "wer"
    assert results["errors"] == results["substitutions"] + results["deletions"] + results["insertions"]
    assert results["headline"]["value"] == pytest.approx(100 * results["errors"] / results["words"])
    assert results["interval"]["low"] <= results["wer"] <= results["interval"]["high"] and "per_item" not in results
    html = whole._repr_html_()
    assert "WER" in html and "whisper" in html and f"{results['errors']:,} errors in {results['words']:,} words" in html


def test_speed_is_pooled_over_the_items(whole):
    speed, lines = whole.results["performance"], list(whole.items().values())
    audio, taken = sum(line["input"]["audio_seconds"] for line in lines), sum(line["timing"]["total"] for line in lines)
    assert speed["audio_seconds"] == pytest.approx(audio) and speed["evidence"] == "host"
    assert speed["rtf"] == pytest.approx(taken / audio) and speed["rtfx"] == pytest.approx(audio / taken)


def test_reference_evidence_has_no_speed(whole, tmp_path):
    copy = unpack_copy(whole, tmp_path)
    manifest = json.loads((copy / "manifest.json").read_text()) | {"evidence": "reference"}
    (copy / "manifest.json").write_text(json.dumps(manifest))
    found = Run(copy).results["performance"]
    assert {name: found[name] for name in ("rtf", "rtfx", "audio_seconds", "item_seconds")} == dict.fromkeys(
        ("rtf", "rtfx", "audio_seconds", "item_seconds")
    )


def test_records_of_a_large_vocabulary_are_the_likeliest_tokens(whole):
    records, lines = read_tokens(whole.tensors, "own"), whole.items()
    assert list(records) == list(lines)
    for name, record in records.items():
        assert record.tokens.tolist() == lines[name]["output"]["tokens"] and not record.whole
        assert record.top_ids.shape == (len(record.tokens), TOP)
        assert numpy.allclose(numpy.exp(record.top_logprobs).sum(axis=1) + record.rest, 1, atol=1e-4)
    for name, arrays in read_inputs(whole.tensors, set(lines)):
        assert arrays["input_features"].shape == (1, 80, 3000) and arrays["input_ids"].shape == (1, 4)
        from workbench.models.seen import digest

        assert digest(arrays["input_features"]) == lines[name]["input"]["seen"]["arrays"]["input_features"]["hash"]


def test_an_interrupted_run_continues(whole, whisper, tmp_path, monkeypatch):
    from workbench.models.stt import WhisperSpeech

    real, answered = WhisperSpeech.answer, []

    def stop_at_the_second(self, requests, generation):
        if len(answered) == 1:
            raise KeyboardInterrupt
        answered.append(len(requests))
        return real(self, requests, generation)

    with monkeypatch.context() as patch:
        patch.setattr(WhisperSpeech, "answer", stop_at_the_second)
        with pytest.raises(KeyboardInterrupt):
            wb.evaluate(TASK, whisper, runs=tmp_path, **SHORT)
    (folder,) = tmp_path.iterdir()
    assert Run(folder).status == "running" and len(Run(folder).items()) == 1
    run = wb.evaluate(TASK, whisper, runs=tmp_path, **SHORT)
    assert run.folder == folder and deterministic(run) == deterministic(whole)
    assert wb.evaluate(TASK, whisper, runs=tmp_path, **SHORT).was_complete


def test_an_unreadable_file_deletes_its_words_and_the_run_goes_on(whole, whisper, tmp_path):
    task = load_task(TASK)
    samples = list(task.load(3).samples)
    samples[1] = replace(samples[1], inputs={"audio": Media(data=b"no sound at all", kind="audio")})
    card = SimpleNamespace(name="broken", load=lambda limit=None, sample_ids=None: Loaded(samples, "r", "f"))
    run = wb.evaluate(replace(task, card=card), whisper, runs=tmp_path, record="media", **SHORT)
    line, before = run.items()[samples[1].id], whole.items()[samples[1].id]
    assert run.results["item_errors"] == 1 and line["output"]["error"]["reason"] == "audio"
    counts = line["score"]["counts"]
    assert counts["words"] == counts["deletions"] == before["score"]["counts"]["words"] and line["score"]["reason"] == "error"
    assert "audio_seconds" not in line["input"] and line["timing"] is None
    others = [sample.id for sample in (samples[0], samples[2])]
    assert [run.items()[name]["output"] for name in others] == [whole.items()[name]["output"] for name in others]
    assert run.results["words"] == whole.results["words"], "a failed item is not dropped from the rate"


def test_failed_items_can_be_tried_again(whole, whisper, tmp_path, monkeypatch):
    from workbench.models.stt import WhisperSpeech

    real, unlucky = WhisperSpeech._sound, next(iter(whole.items().values()))["input"]["media"][0]

    def fail(self, audio):
        if isinstance(audio, Media) and audio.sha256 == unlucky:
            raise ItemError("out of memory", reason="memory")
        return real(self, audio)

    with monkeypatch.context() as patch:
        patch.setattr(WhisperSpeech, "_sound", fail)
        first = wb.evaluate(TASK, whisper, runs=tmp_path, **SHORT)
    assert first.results["item_errors"] == 1 and first.results["deletions"] > 0
    again = wb.evaluate(TASK, whisper, runs=tmp_path, retry_errors=True, **SHORT)
    assert again.folder == first.folder and again.results["item_errors"] == 0
    assert deterministic(again) == deterministic(whole)


def unpack_copy(run: Run, folder):
    pack([run], folder / "one.zip")
    return unpack(folder / "one.zip", folder / "copy")[0]


def test_packed_scored_again_and_redacted(whole, tmp_path):
    copy = unpack_copy(whole, tmp_path)
    assert failed(Run(copy)) == [] and deterministic(Run(copy)) == deterministic(whole)
    assert rescore(copy)["changed"] == []
    assert rescore(copy, "oal-2026-08")["profile"] == "oal-2026-08"
    assert failed(Run(copy)) == [], "verified under the profile that its results name"
    made = redact(Run(copy), tmp_path / "safe" / copy.name, b"key")
    line = next(iter(made.items().values()))
    assert is_redacted(line["output"]["value"]) and is_redacted(line["score"]["answer"]) and is_redacted(line["input"]["target"])
    assert line["input"]["audio_seconds"] > 0 and made.results["profile"] == "oal-2026-08" and failed(made) == []


def test_an_edited_count_is_found(whole, tmp_path, edit):
    copy = unpack_copy(whole, tmp_path)

    def fewer_errors(line):
        line["score"]["counts"]["substitutions"] = 0

    edit(copy / "samples.jsonl", fewer_errors)
    assert any(each.startswith("scores: 3 items score differently") for each in failed(Run(copy)))


def test_shards_are_merged_to_the_whole(whole, whisper, tmp_path):
    names = list(whole.items())
    folders = [wb.evaluate(TASK, whisper, runs=tmp_path, sample_ids=each, max_tokens=12).folder for each in (names[:1], names[1:])]
    merged = merge_to(folders)
    assert {name: merged.results[name] for name in ("words", "errors", "wer", "interval")} == {
        name: whole.results[name] for name in ("words", "errors", "wer", "interval")
    }
    assert merged.results["performance"]["audio_seconds"] == pytest.approx(whole.results["performance"]["audio_seconds"])


def test_segments_are_kept_where_times_are_asked_for(whisper, tmp_path):
    run = wb.evaluate(TASK, f"{whisper}?timestamps=true", runs=tmp_path, limit=1, max_tokens=12)
    (line,) = run.items().values()
    assert isinstance(line["output"]["segments"], list) and failed(run) == []
    for segment in line["output"]["segments"]:
        assert 0 <= segment["start"] <= segment["end"] and isinstance(segment["text"], str)


@pytest.mark.parametrize("backend", ["torch", "mlx"])
def test_a_batch_is_answered_like_single_items(backend, tmp_path):
    if backend == "mlx":
        pytest.importorskip("mlx_whisper", reason="pip install 'parity-workbench[mlx]'")
    model = f"demo:stt@{backend}"
    single, batched = (wb.evaluate(TASK, f"{model}?batch_size={size}", runs=tmp_path, limit=2, max_tokens=4) for size in (1, 2))
    assert [line["timing"]["batch"] for line in batched.items().values()] == [2] * 2
    assert {name: line["output"] for name, line in batched.items().items()} == {
        name: line["output"] for name, line in single.items().items()
    }
