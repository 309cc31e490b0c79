"""What a calibration and its check are given: evenly over the sources, and apart from each other wherever there is enough."""

from types import SimpleNamespace

import numpy as np
import pytest

from workbench.convert import feeds as feeding
from workbench.convert.feeds import LIMIT, apart, divided, spread, told_apart
from workbench.convert.onnx.recipe import SAMPLES_LIMIT
from workbench.convert.subject import Subject


def test_samples_are_spread_evenly_and_the_rest_is_apart():
    assert spread(list("abcdefgh"), 3) == ["a", "c", "f"] and spread([1, 2], 3) == spread([1, 2], None) == [1, 2]
    assert apart(list("abcdefgh"), 3) == (["a", "c", "f"], ["b", "d", "e", "g", "h"])
    assert apart([1, 1, 2], 2) == ([1, 1], [2]) and apart([1, 2], 5) == ([1, 2], [])


class Stages:
    """A module's: each request is one call."""

    family = "module"

    def __iter__(self):
        return iter([SimpleNamespace(name="main")])

    def feeds(self, arrays):
        return {"main": [arrays]}


@pytest.mark.parametrize("count, most", [(5, 3), (3, 3), (1, 16)])
def test_a_check_sees_what_the_calibration_did_not(tmp_path, count, most):
    names = []
    for number in range(count):
        names.append(str(tmp_path / f"{number}.npz"))
        np.savez(names[-1], x=np.full(2, number), scale=np.float32(number))
    subject = Subject("small.py:make", None, "w", "c", 1, None, lambda recipe: None)
    calibrating, checking = divided(subject, names, most)
    (samples, told), (checked, words) = calibrating(Stages()), checking(Stages())
    seen, judged = ([int(call["x"][0]) for call in found["main"]] for found in (samples, checked))
    assert len(seen) == min(count, most) and told == ", ".join(f"{number}.npz" for number in seen)
    assert samples["main"][0]["scale"].shape == ()
    others = [number for number in range(count) if number not in seen]
    assert judged == (others or seen)[:LIMIT] and not (others and set(judged) & set(seen))
    assert words == f"{', '.join(f'{number}.npz' for number in judged)}, {told_apart(bool(others))}"


def test_requests_are_read_once_there_are_stages_and_from_every_task(monkeypatch):
    asked = []

    class Item:
        family = "module"

        def __init__(self, place):
            self.place = place

        def prepare(self, model):
            return SimpleNamespace(arrays={"x": self.place})

    def read(sources, limit):
        asked.append((sources, limit))
        return [Item((task, number)) for task in ("one", "two", "three") for number in range(limit)]

    monkeypatch.setattr(feeding, "get_item_reader", lambda: read)
    monkeypatch.setattr(feeding, "Sounds", lambda subject: None)
    subject = Subject("demo:stt", None, "w", "c", 1, feeding.Path("nowhere"), lambda recipe: None)
    calibrating, checking = divided(subject, ["stt"], SAMPLES_LIMIT)
    assert not asked
    (samples, told), (checked, words) = calibrating(Stages()), checking(Stages())
    seen, judged = ([call["x"] for call in found["main"]] for found in (samples, checked))
    assert asked == [(["stt"], SAMPLES_LIMIT + LIMIT)] * 2 and told == "16 inputs of stt"
    counts = [sum(task == name for task, _ in seen) for name in ("one", "two", "three")]
    assert len(seen) == SAMPLES_LIMIT and max(counts) - min(counts) <= 1
    assert len(judged) == LIMIT and not set(judged) & set(seen) and words == "2 inputs of stt, unseen by the calibration"


def test_an_answer_is_followed_to_its_end_and_no_further(tmp_path):
    """The first token is fed whatever it is: a step is called at least once."""
    (tmp_path / "config.json").write_text('{"eos_token_id": 9, "text_config": {"eos_token_id": 8}}')
    assert feeding.ends_of(tmp_path) == (9,) and feeding.ends_of(tmp_path / "none") == ()
    (tmp_path / "generation_config.json").write_text('{"eos_token_id": [1, 7]}')
    ends = feeding.ends_of(tmp_path)
    assert ends == (1, 7)

    class Writing:
        def __init__(self, answer):
            self.answer = answer

        def feeds(self, arrays, tokens):
            return {"prefill": [()], "step": [tuple(tokens[: at + 1]) for at in range(len(tokens))]}

        def __getitem__(self, name):
            return self

        def run(self, told):
            logits = np.zeros((1, 1, 10))
            logits[0, -1, self.answer[len(told)]] = 1
            return {"logits": logits}, {}

    for answer, fed in (([5, 1, 3], [5]), ([5, 6, 3], [5, 6]), ([1, 6, 3], [1, 6]), ([1, 7, 3], [1])):
        assert feeding.followed(Writing(answer), {}, ends)["step"][-1] == tuple(fed)
