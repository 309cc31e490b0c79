"""A run continues with nothing lost and nothing done twice, and says what failed. The model here is a fake that is told what to do."""

import json
import random
from pathlib import Path
from types import SimpleNamespace

import pytest

from workbench import registry
from workbench.backends.base import Availability
from workbench.backends.coreml_process import DeviceFailure
from workbench.errors import ItemError, RuntimeMissing, UsageError
from workbench.metrics.accuracy import ACCURACY
from workbench.run import plan, runner, session
from workbench.run.bundle import Run
from workbench.run.journal import read as read_lines
from workbench.types import Generation, Loaded, Output, Request, Sample, Score, Task, Timing


class FakeBackend:
    name = "fake"
    distributions = ("numpy",)

    def available(self):
        return Availability(True, "made up")

    def prepare(self, options):
        return {}

    def device(self, options):
        return {"name": "none", "kind": "cpu", "memory_bytes": 0}

    def evidence(self, options):
        return "host"

    def synchronize(self): ...

    def reset_peak_memory(self): ...

    def peak_memory_bytes(self):
        return 123


class FakeModel:
    """Answers ``answer <text>``; ``stop_after`` items it raises KeyboardInterrupt, and items in ``failing`` fail."""

    def __init__(self, asked, batch_size=1, stop_after=None, failing=()):
        self.asked, self.batch_size, self.stop_after, self.failing = asked, batch_size, stop_after, set(failing)

    def answer(self, requests, generation):
        outputs = []
        for request in requests:
            text = request.inputs["text"]
            if self.stop_after is not None and len(self.asked) >= self.stop_after:
                raise KeyboardInterrupt
            self.asked.append(text)
            if text in self.failing:
                outputs.append(Output.failed(ItemError("too much", reason="memory", fix="--batch-size 1")))
            else:
                outputs.append(Output(f"answer {text}", (1, 2), "stop", Timing(0.001, None, 0.002, 3, 2)))
        return outputs

    def describe(self):
        return {"fake": True}

    def close(self): ...


def score(sample, response, rng):
    if sample.id.endswith("3"):
        letter = rng.choice("ABCD")
        return Score.of(letter == "A", letter, "unparsed", random=True)
    return Score.of(int(sample.id) % 2 == 0, response.text)


def ask(sample):
    if sample.inputs["text"] == "undecodable":
        raise ItemError("image cannot be decoded", reason="image")
    return Request({"text": sample.inputs["text"]}, "fake-1")


def task_of(count=40, texts=None):
    rows = [Sample(str(number), {"text": (texts or {}).get(number, f"q{number}")}, None, str(number)) for number in range(count)]
    card = SimpleNamespace(name="fake", load=lambda limit=None, sample_ids=None: Loaded(rows, "r1", "f1"))
    return Task("fake", "1", "vision-language", card, ask, score, (ACCURACY,), "accuracy", generation=Generation(max_tokens=8))


@pytest.fixture
def world(monkeypatch, tmp_path):
    monkeypatch.setitem(registry.BACKENDS, "fake", FakeBackend)
    monkeypatch.setattr(plan, "identify", lambda spec: {"source": spec.source, "weights": "w1"})
    monkeypatch.setattr(session, "describe_hardware", lambda backend, options: {"cpu": "made up", "hardware_key": "h1"})
    asked: list[str] = []

    def play(task=None, **model):
        monkeypatch.setattr(session, "open_model", lambda spec, family: FakeModel(asked, **model))
        return lambda **more: runner.evaluate(task or task_of(), "fake:x", runs=tmp_path / "runs", **more)

    return SimpleNamespace(play=play, asked=asked, folder=tmp_path / "runs", monkeypatch=monkeypatch)


def deterministic(run):
    return {name: (item["input_hash"], item["output"], item["score"]) for name, item in run.items().items()}


def test_a_run_has_every_item_once_in_order_with_its_score(world):
    run = world.play(batch_size=7)()
    assert run.status == "complete" and not run.was_complete
    assert list(run.items()) == [str(number) for number in range(40)]
    assert run.results["n"] == 40 and run.results["item_errors"] == 0
    assert run.results["performance"]["peak_memory_bytes"] == 123
    assert run.results["performance"]["item_seconds"]["median"] == pytest.approx(0.002)
    assert run.results["performance"]["evidence"] == "host" and run.results["performance"]["hardware_key"] == "h1"
    assert run.environment[0]["cpu"] == "made up"


def test_the_same_command_on_a_complete_run_does_nothing(world):
    world.play()()
    before = {path.name: path.read_bytes() for path in next(world.folder.iterdir()).iterdir() if path.is_file()}
    again = world.play()()
    assert again.was_complete and len(world.asked) == 40
    assert {path.name: path.read_bytes() for path in again.folder.iterdir() if path.is_file()} == before


@pytest.mark.parametrize("batch_size", [1, 7])
def test_an_interrupted_run_equals_an_uninterrupted_one_draws_included(world, tmp_path, batch_size):
    whole = deterministic(world.play(batch_size=batch_size)(fresh=True))
    world.asked.clear()
    generator = random.Random(5)
    sessions = 0
    while True:
        try:
            run = world.play(batch_size=batch_size, stop_after=len(world.asked) + generator.randint(1, 15))(fresh=sessions == 0)
            break
        except KeyboardInterrupt:
            sessions += 1
            journal = next(path for path in world.folder.iterdir() if "~" not in path.name) / "samples.jsonl"
            journal.write_bytes(journal.read_bytes() + b'{"id": "39", "outp')
    assert sessions >= 2
    assert deterministic(run) == whole
    assert sum(item["score"].get("random", False) for item in run.items().values()) == 4
    assert len(set(world.asked)) == 40
    assert sum(event["event"] == "repaired" for event in run.events()) == sessions
    if batch_size == 1:
        assert len(world.asked) == 40, "an item was answered twice"


def test_failed_items_are_recorded_and_can_be_tried_again(world):
    run = world.play(task=task_of(texts={5: "undecodable"}), failing={"q2", "q7"})()
    assert run.results["item_errors"] == 3 and run.status == "complete"
    item = run.items()["2"]
    assert item["output"]["error"] == {"reason": "memory", "what": "too much", "why": None, "fix": "--batch-size 1"}
    assert item["score"]["reason"] == "error" and item["score"]["value"] == 0
    assert run.items()["5"]["output"]["error"]["reason"] == "image"
    assert world.play(task=task_of(texts={5: "undecodable"}))().was_complete
    world.asked.clear()
    again = world.play(task=task_of(texts={5: "undecodable"}))(retry_errors=True)
    assert sorted(world.asked) == ["q2", "q7"]
    assert again.results["item_errors"] == 1 and again.items()["2"]["output"]["value"] == "answer q2"
    assert list(again.items()) == [str(number) for number in range(40)]
    assert [event["id"] for event in again.events() if event["event"] == "item error"] == ["2", "5", "7", "5"]


def test_an_upgraded_library_stops_a_resume_and_names_itself(world):
    with pytest.raises(KeyboardInterrupt):
        world.play(stop_after=10)()
    world.monkeypatch.setattr("workbench.run.key.versions", lambda names: {"numpy": "99.0"})
    with pytest.raises(Exception, match="libraries.numpy") as caught:
        world.play()()
    assert caught.value.exit_code == 2 and "--allow-mixed" in caught.value.fix
    assert len(world.asked) == 10
    run = world.play()(allow_mixed=True)
    assert run.status == "complete" and len(world.asked) == 40
    assert "libraries.numpy" in run.manifest["mixed_fields"]
    assert world.play()().was_complete


def test_other_settings_make_another_run(world):
    first = world.play()(limit=5)
    assert [world.play()(limit=5, **more).folder != first.folder for more in ({"max_tokens": 9}, {"seed": 1})] == [True, True]
    assert world.play()(limit=6).folder != first.folder


def test_an_own_eval_with_another_wording_is_another_run(world):
    first = world.play()(limit=5)
    changed = task_of(texts={1: "reworded"})
    assert world.play(task=changed)(limit=5).folder != first.folder
    assert not first.was_complete and world.play()(limit=5).was_complete


def test_selection_by_id_shard_and_limit(world):
    assert list(world.play()(sample_ids=["7", "3"]).items()) == ["3", "7"]
    parts = [set(world.play()(shard=f"{number}/3").items()) for number in (1, 2, 3)]
    assert set.union(*parts) == {str(number) for number in range(40)} and sum(map(len, parts)) == 40
    with pytest.raises(UsageError, match="no item has the id 'nope'"):
        world.play()(sample_ids=["nope"])
    with pytest.raises(UsageError, match="--limit"):
        world.play()(limit=0)


def test_a_subset_is_spread_over_the_set_and_the_same_every_time(world):
    first = world.play()(subset=7)
    assert list(first.items()) == ["0", "5", "11", "17", "22", "28", "34"]
    assert first.manifest["asked"]["subset"] == 7 and "subset" not in world.play()(limit=7).manifest["asked"]
    assert world.play()(subset=7).was_complete
    parts = [list(world.play()(subset=7, shard=f"{number}/2").items()) for number in (1, 2)]
    assert sorted(sum(parts, []), key=int) == list(first.items())
    assert len(world.play()(subset=1000).items()) == 40
    for wrong, match in (({"subset": 0}, "--subset must be at least 1"), ({"subset": 3, "limit": 3}, "--subset and --limit")):
        with pytest.raises(UsageError, match=match):
            world.play()(**wrong)


def test_a_missing_runtime_is_said_before_anything_is_written(world):
    world.monkeypatch.setattr(FakeBackend, "available", lambda self: Availability(False, "not installed", "pip install it"))
    with pytest.raises(RuntimeMissing) as caught:
        world.play()()
    assert caught.value.exit_code == 3 and caught.value.fix == "pip install it"
    assert not world.folder.exists()


def test_manifest_and_environment_hold_no_user_name_or_absolute_path(world):
    run = world.play()()
    for name in ("manifest.json", "environment.json", "results.json", "events.jsonl"):
        text = (run.folder / name).read_text()
        assert str(world.folder) not in text and "/home/" not in text
    assert json.loads((run.folder / "manifest.json").read_text())["schema"] == 2


def test_reading_needs_only_the_folder(world):
    run = Run(world.play()(limit=4).folder)
    frame = run.to_frame()
    assert list(frame["value"]) == [1.0, 0.0, 1.0, run.items()["3"]["score"]["value"]]
    assert "<table>" in run._repr_html_() and "fake:x" in run._repr_html_()


def test_a_runtime_that_ends_is_recorded_and_the_run_goes_on_from_there(world):
    """A device's abort is its own result, and no item's error: the next session asks what is missing."""
    failure = DeviceFailure(
        *("ALL", "predict", "aborted"), signal_name="SIGABRT", code=-6, what="Core ML ended its process", why="as on that system",
        stderr=f"{Path.home()}/x/model.py: failed assertion\nsecond line",
    )  # fmt: skip
    answer = FakeModel.answer

    def until_seven(self, requests, generation):
        if len(self.asked) >= 7:
            raise failure
        return answer(self, requests, generation)

    with world.monkeypatch.context() as patched, pytest.raises(DeviceFailure):
        patched.setattr(FakeModel, "answer", until_seven)
        world.play()()
    (folder,) = world.folder.iterdir()
    events = list(read_lines(folder / "events.jsonl"))
    (ended,) = [event for event in events if event["event"] == "runtime ended"]
    assert (ended["done"], ended["units"], ended["signal"], ended["stage"]) == (7, "ALL", "SIGABRT", "predict")
    assert ended["stderr"] == "…/model.py: failed assertion\nsecond line"
    assert Run(folder).status == "running" and not any(event["event"] == "item error" for event in events)
    assert world.play()().results["item_errors"] == 0 and len(world.asked) == 40
