"""Evidence beside the answers: recorded later, continued after an interruption, never twice."""

from __future__ import annotations

import json

import numpy
import pytest

import workbench as wb
from workbench.cli.main import main
from workbench.errors import BundleError, UsageError
from workbench.run import recording
from workbench.run.input_records import read_inputs
from workbench.run.token_records import read_tokens, recorded_tokens

pytest.importorskip("torch", reason="needs torch (pip install 'parity-workbench[torch]')")
TASK, MODEL = "mmstar-sample", "demo:vlm@torch"


def test_a_complete_run_is_given_records_later_without_new_answers(tmp_path):
    first = wb.evaluate(TASK, MODEL, limit=6, runs=tmp_path)
    before = (first.folder / "samples.jsonl").read_bytes()
    second = wb.evaluate(TASK, MODEL, limit=6, runs=tmp_path, record=["tokens", "inputs", "media"])
    assert second.folder == first.folder and not second.was_complete
    assert (second.folder / "samples.jsonl").read_bytes() == before
    records = read_tokens(second.tensors, "own")
    lines = second.items()
    assert list(records) == list(lines)
    for name, record in records.items():
        tokens = lines[name]["output"]["tokens"]
        assert record.tokens.tolist() == tokens == record.best.tolist(), "greedy answers are their own first choices"
        assert numpy.allclose(numpy.exp(record.logprobs).sum(axis=1), 1, atol=1e-5)
        assert numpy.array_equal(record.logprobs[range(len(tokens)), tokens], record.followed)
    for name, arrays in read_inputs(second.tensors, set(lines)):
        seen = lines[name]["input"]["seen"]["arrays"]["pixel_values"]
        assert list(arrays["pixel_values"].shape) == seen["shape"] and recorded_hash(arrays["pixel_values"]) == seen["hash"]
    for line in lines.values():
        assert all(second.media(sha256) for sha256 in line["input"]["media"])
    assert wb.evaluate(TASK, MODEL, limit=6, runs=tmp_path, record=["tokens", "inputs", "media"]).was_complete


def recorded_hash(array):
    from workbench.models.seen import digest

    return digest(array)


def test_an_interrupted_recording_goes_on(tmp_path, monkeypatch):
    run = wb.evaluate(TASK, MODEL, limit=6, runs=tmp_path)
    made, original = [], recording.record_of

    def interrupted(tokens, logits):
        if len(made) == 4:
            raise KeyboardInterrupt
        made.append(tokens)
        return original(tokens, logits)

    monkeypatch.setattr(recording, "record_of", interrupted)
    with pytest.raises(KeyboardInterrupt):
        wb.evaluate(TASK, MODEL, limit=6, runs=tmp_path, record=["tokens"])
    assert len(read_tokens(run.folder / "tensors", "own")) == 4
    made.clear()
    wb.evaluate(TASK, MODEL, limit=6, runs=tmp_path, record=["tokens"])
    assert len(made) == 2 and list(read_tokens(run.folder / "tensors", "own")) == list(run.items())


def test_following_another_runs_answers(tmp_path):
    reference = wb.evaluate(TASK, MODEL, limit=4, runs=tmp_path, record=["tokens"])
    for place, follow in enumerate((tmp_path, MODEL, reference.folder)):
        candidate = wb.evaluate(
            TASK, f"{MODEL}?dtype=bfloat16", limit=4, runs=tmp_path, record=["tokens"], follow=[follow], fresh=place > 0
        )
        records = read_tokens(candidate.tensors, reference.manifest["run_key"][:12])
        assert [record.tokens.tolist() for record in records.values()] == [
            line["output"]["tokens"] for line in reference.items().values()
        ]
    with pytest.raises(UsageError, match="runs of several models could be followed"):
        wb.evaluate(TASK, f"{MODEL}?dtype=float16", limit=4, runs=tmp_path, record=["tokens"], follow=[tmp_path])
    own = wb.evaluate(TASK, MODEL, limit=4, runs=tmp_path, record=["tokens"], follow=[MODEL])
    assert own.was_complete, "a model that follows itself records its own answers"


def test_one_kind_and_one_run_need_no_list(tmp_path):
    reference = wb.evaluate(TASK, MODEL, limit=2, runs=tmp_path, record="tokens")
    candidate = wb.evaluate(TASK, f"{MODEL}?dtype=bfloat16", limit=2, runs=tmp_path, record="tokens", follow=reference.folder)
    assert len(read_tokens(candidate.tensors, reference.manifest["run_key"][:12])) == 2


def test_a_run_is_not_set_aside_for_a_command_that_cannot_start(tmp_path):
    run = wb.evaluate(TASK, MODEL, limit=2, runs=tmp_path)
    with pytest.raises(UsageError, match="nothing to follow"):
        wb.evaluate(TASK, MODEL, limit=2, runs=tmp_path, fresh=True, record="tokens", follow="mlx:never/ran")
    assert [folder.name for folder in tmp_path.iterdir()] == [run.name]


def test_the_timing_holds_no_recording(tmp_path):
    run = wb.evaluate(TASK, MODEL, limit=4, runs=tmp_path, record=["tokens"])
    kinds = [event["event"] for event in run.events()]
    assert kinds.index("answered") < kinds.index("recorded")
    assert run.results["performance"]["session_items"] == 4


def test_a_model_without_logits_says_so(tmp_path, monkeypatch):
    wb.evaluate(TASK, MODEL, limit=2, runs=tmp_path)
    monkeypatch.delattr("workbench.models.vlm_torch.TorchVisionLanguage.follow")
    with pytest.raises(UsageError, match="cannot record tokens"):
        wb.evaluate(TASK, MODEL, limit=2, runs=tmp_path, record=["tokens"])


def test_a_run_without_tokens_is_not_followed_silently(tmp_path, edit):
    reference = wb.evaluate(TASK, MODEL, limit=2, runs=tmp_path)

    def without_tokens(line):
        line["output"]["tokens"] = None

    edit(reference.folder / "samples.jsonl", without_tokens)
    with pytest.raises(UsageError, match="has no tokens to follow"):
        wb.evaluate(TASK, f"{MODEL}?dtype=bfloat16", limit=2, runs=tmp_path, record=["tokens"], follow=[MODEL])
    assert len(list(tmp_path.glob("*/manifest.json"))) == 1, "nothing was begun"


def test_a_run_that_asked_otherwise_is_not_followed_silently(tmp_path, edit):
    reference = wb.evaluate(TASK, MODEL, limit=2, runs=tmp_path)
    edit(reference.folder / "samples.jsonl", lambda line: line | {"input_hash": "another"})
    with pytest.raises(UsageError, match="has no tokens to follow"):
        wb.evaluate(TASK, f"{MODEL}?dtype=bfloat16", limit=2, runs=tmp_path, record=["tokens"], follow=[reference.folder])


def test_records_of_answers_that_were_made_anew_are_made_anew(tmp_path, edit):
    reference = wb.evaluate(TASK, MODEL, limit=3, runs=tmp_path)
    arguments = {"limit": 3, "runs": tmp_path, "record": ["tokens"], "follow": [reference.folder]}
    wb.evaluate(TASK, f"{MODEL}?dtype=bfloat16", **arguments)

    def other_tokens(line):
        line["output"]["tokens"] = [9, 8, 1]

    edit(reference.folder / "samples.jsonl", other_tokens)
    again = wb.evaluate(TASK, f"{MODEL}?dtype=bfloat16", **arguments)
    records = read_tokens(again.tensors, reference.manifest["run_key"][:12])
    assert not again.was_complete and [record.tokens.tolist() for record in records.values()] == [[9, 8, 1]] * 3


def test_items_that_cannot_be_followed_are_said_and_the_others_recorded(tmp_path, edit):
    from workbench.run.progress import Silent

    reference = wb.evaluate(TASK, MODEL, limit=3, runs=tmp_path)
    bad = iter([[5, 10**12], [5, None]])

    def spoiled(line):
        line["output"]["tokens"] = next(bad, [5, 6])

    edit(reference.folder / "samples.jsonl", spoiled)

    class Said(Silent):
        texts: list[str] = []  # noqa: RUF012

        def say(self, text):
            self.texts.append(text)

    run = wb.evaluate(
        TASK, f"{MODEL}?dtype=bfloat16", limit=3, runs=tmp_path, record=["tokens"], follow=[reference.folder], progress=Said()
    )
    assert len(read_tokens(run.tensors, reference.manifest["run_key"][:12])) == 1
    (event,) = [each for each in run.events() if each["event"] == "recorded"]
    assert (event["n"], event["n_failed"], len(event["failed"])) == (1, 2, 2)
    assert "2 of 3 items have no record" in Said.texts[0] and "this model's tokens are" in Said.texts[0]


def test_a_damaged_part_is_named(tmp_path):
    run = wb.evaluate(TASK, MODEL, limit=2, runs=tmp_path, record=["tokens"])
    (path,) = (run.folder / "tensors").glob("tokens-*")
    path.write_bytes(path.read_bytes()[:-8])
    for read in (recorded_tokens, read_tokens):
        with pytest.raises(BundleError, match=path.name):
            read(run.tensors, "own")


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--follow", MODEL], "--record tokens"),
        (["--record", "tokens", "--follow", "mlx:never/ran"], "no model that ran here"),
        (["--record", "tokens", "--follow", "nowhere"], "it is no run"),
    ],
)
def test_bad_flags_say_what_to_type(tmp_path, capsys, flags, words):
    assert main(["eval", TASK, "--model", MODEL, "--limit", "2", "--runs", str(tmp_path), *flags]) == 2
    said = capsys.readouterr().err
    assert words in said and "try: " in said
    assert list(tmp_path.glob("*/manifest.json")) == [], "nothing was begun"


def test_the_artifact_lists_every_weight(tmp_path):
    from safetensors import safe_open

    from workbench.locate import demo_model

    run = wb.evaluate(TASK, MODEL, limit=2, runs=tmp_path)
    held = json.loads((run.folder / "artifact.json").read_text())
    with safe_open(demo_model("vlm") / "model.safetensors", framework="numpy") as file:
        assert set(held["tensors"]) == set(file.keys())
        for name, entry in list(held["tensors"].items())[:5]:
            weight = file.get_tensor(name)
            assert entry["shape"] == list(weight.shape)
            assert entry["rms"] == pytest.approx(float(numpy.sqrt((weight.astype(float) ** 2).mean())))
    assert held["settings"]["preprocessor_config.json"]["resample"] == 3


def test_an_unfinished_run_of_the_first_schema_goes_on(tmp_path, as_schema_1, edit, monkeypatch):
    from workbench.run import verify

    whole = wb.evaluate(TASK, MODEL, limit=6, runs=tmp_path)
    expected = whole.results
    as_schema_1(whole.folder)
    samples = whole.folder / "samples.jsonl"
    samples.write_bytes(b"".join(samples.read_bytes().splitlines(keepends=True)[:3]) + b'{"id": "torn')
    edit(whole.folder / "manifest.json", lambda manifest: {**manifest, "status": "running"})
    run = wb.evaluate(TASK, MODEL, limit=6, runs=tmp_path, record=["media"])
    assert run.folder == whole.folder and (run.manifest["schema"], run.manifest["migrated_from"]) == (2, 1)
    assert (
        run.results["groups"] == expected["groups"]
        and [line["input"] is None for line in run.iter_items()] == [True] * 3 + [False] * 3
    )
    assert len(list((run.folder / "media").iterdir())) == len({line["input_hash"] for line in run.iter_items()})
    assert wb.evaluate(TASK, MODEL, limit=6, runs=tmp_path, record=["media"]).was_complete
    for data_here in (True, False):
        if not data_here:
            monkeypatch.setattr(verify, "officially", lambda *_: (_ for _ in ()).throw(BundleError("no data here")))
        assert [each.detail for each in verify.verify(run) if each.level == "failed"] == []


def test_settings_that_are_nested_too_deeply_are_known_by_their_hash(tmp_path):
    from workbench.models.artifact import read_settings

    (tmp_path / "config.json").write_text("[" * 50_000)
    ((name, value),) = read_settings(tmp_path)
    assert name == "config.json" and set(value) == {"hash"}
