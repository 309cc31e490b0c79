"""Converted vision-language models, their stages run by torch: they answer as the whole model does, and fail item by item."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy
import pytest

from workbench.errors import ModelError, RuntimeMissing, UsageError
from workbench.models import options
from workbench.models.loading import open_vision_language
from workbench.models.processors import Prepared
from workbench.models.sampling import draw
from workbench.models.source import converted, identify
from workbench.types import Generation, Media, ModelSpec

torch = pytest.importorskip("torch", reason="needs torch (pip install 'parity-workbench[torch]')")

from tests.models.staged_programs import TorchStages, manifest_of, opened, write_artifact  # noqa: E402
from workbench.convert.stages import stages_of  # noqa: E402
from workbench.models.converted import Feature  # noqa: E402
from workbench.models.program_stages import CACHE_SIZES, check, open_stages  # noqa: E402
from workbench.models.vlm_program import ProgramVisionLanguage  # noqa: E402

SHORT = Generation(max_tokens=12)
FOLLOWED = (5, 17, 9, 1)


@pytest.fixture(scope="module")
def reference(tiny):
    return open_vision_language(ModelSpec.parse(f"torch:{tiny}?device=cpu"))


@pytest.fixture(scope="module", params=[False, True], ids=["caches", "states"])
def model(tiny, request):
    return opened(ProgramVisionLanguage, tiny, stateful=request.param, context=256)


@pytest.fixture
def fresh(tiny):
    """``fresh(context=..., evidence=...)``: a model to be broken."""
    return lambda **changes: opened(ProgramVisionLanguage, tiny, **{"stateful": False, "context": 256, **changes})


def test_same_answers_as_torch(reference, model, mixed):
    expected, found = reference.answer(mixed, SHORT), model.answer(mixed, SHORT)
    assert [output.tokens for output in found] == [output.tokens for output in expected]
    assert [(output.value, output.finish) for output in found] == [(output.value, output.finish) for output in expected]
    assert [output.seen["tokens"] for output in found] == [output.seen["tokens"] for output in expected]
    assert all(output.timing is None for output in found)


def test_followed_tokens_have_torchs_logits_in_one_pass_and_step_by_step(reference, model, mixed):
    allowed = 2e-3 if model.stages.stateful else 2e-5  # states are float16
    for request in mixed[:4]:
        expected = reference.follow(request, FOLLOWED)
        prepared = model.prepare(request)
        for found in (model.follow(request, FOLLOWED), model._by_step(prepared, FOLLOWED), model._at_once(prepared, FOLLOWED)):
            assert found.shape == expected.shape and found.dtype == numpy.float32
            assert numpy.abs(found - expected).max() < allowed * numpy.abs(expected).max()
    assert numpy.abs(model.logits(prepared) - reference.logits(reference.prepare(request))).max() < 1e-4


def test_a_prompt_of_one_token_is_read_by_the_step(reference, model):
    prepared = Prepared({"input_ids": numpy.asarray([[7]])}, "x", 1)
    before = model.stages["prefill"].calls
    expected = reference.logits(Prepared({"input_ids": torch.tensor([[7]])}, "x", 1))
    assert numpy.abs(model.logits(prepared) - expected).max() < 1e-4
    whole = reference.logits(Prepared({"input_ids": torch.tensor([[7, *FOLLOWED[:-1]]])}, "x", 4))
    assert model.stages["prefill"].calls == before
    assert numpy.abs(model._by_step(prepared, FOLLOWED) - whole).max() < 1e-2


def test_sampling_repeats_with_its_seed(model, ask):
    def tokens(seed):
        return model.answer([ask("Hi")], Generation(max_tokens=8, temperature=2.0, seed=seed))[0].tokens

    assert tokens(1) == tokens(1) and len({tokens(seed) for seed in range(4)}) > 1


def test_tokens_are_drawn_by_their_probability():
    random, scores = numpy.random.default_rng(3), numpy.log(numpy.asarray([0.5, 0.3, 0.2], dtype=numpy.float32))
    drawn = Counter(draw(scores, 1.0, random) for _ in range(4000))
    assert [drawn[token] / 4000 for token in range(3)] == pytest.approx([0.5, 0.3, 0.2], abs=0.03)
    assert draw(numpy.asarray([1.0, 3.0, 3.0]), 0.0, None) == 1


def test_a_stop_string_ends_the_answer_where_torch_ends_it(reference, model, ask, image):
    request = ask("What is this?", image(seed=1))
    text = reference.answer([request], SHORT)[0].value
    stop = replace(SHORT, stop=(text[3:5],))
    (expected,), (found,) = reference.answer([request], stop), model.answer([request], stop)
    assert (found.tokens, found.value, found.finish) == (expected.tokens, expected.value, "stop") and text.startswith(found.value)


def test_one_bad_item_spoils_no_other(fresh, ask, image):
    model = fresh(context=64)
    good = ask("Hi")
    bad = ask("What?", Media(data=b"\x89PNG no picture"))
    long = ask("a" * 80, image())
    found = model.answer([bad, good, long], SHORT)
    assert [each.finish == "error" for each in found] == [True, False, True]
    assert found[0].error["reason"] == "image"
    assert found[2].error["reason"] == "context" and "the model has 64 positions" in found[2].error["why"]


def test_a_program_that_fails_is_that_items_error(fresh, ask):
    model = fresh()
    model.stages["step"].failing = 2
    first, second = model.answer([ask("Hi"), ask("Hi")], SHORT)
    assert first.error == {
        "reason": "model",
        "what": "the model failed on this item",
        "why": "RuntimeError: error code: -1, computing the program",
        "fix": None,
    }
    assert second.finish != "error"


def test_a_runtime_that_ended_is_no_items_error(fresh, ask):
    model = fresh()

    def gone(*_, **__):
        raise RuntimeMissing("Core ML with units=ALL ended its process by signal SIGABRT during predict")

    model._generate = gone
    with pytest.raises(RuntimeMissing, match="SIGABRT"):
        model.answer([ask("Hi"), ask("Hi")], SHORT)


def test_pictures_of_another_size_and_missing_ones_are_named(model, ask, image):
    prepared = model.prepare(ask("What is this?", image(seed=1)))
    small = Prepared({**prepared.arrays, "pixel_values": prepared.arrays["pixel_values"][..., :16]}, "x", 1)
    with pytest.raises(Exception, match="do not fit") as caught:
        model.logits(small)
    assert caught.value.reason == "image" and "one picture at a time" in caught.value.why
    without = {name: value for name, value in prepared.arrays.items() if name != "pixel_values"}
    with pytest.raises(Exception, match="16 image tokens, and the pictures make 0"):
        model.logits(Prepared(without, "x", 1))
    with pytest.raises(Exception, match="'image_sizes', which the converted model has no input for"):
        model.logits(Prepared({**prepared.arrays, "image_sizes": numpy.ones(2)}, "x", 1))


def test_a_device_is_timed_and_a_reference_is_not(fresh, ask):
    model = fresh(evidence="device")
    (output,) = model.answer([ask("Hi")], SHORT)
    assert 0 < output.timing.first <= output.timing.total and output.timing.n_out == len(output.tokens)
    found = model.stages.seconds()
    assert found["step"]["calls"] == len(output.tokens) - 1 and found["step"]["first_seconds"] > 0 < found["step"]["steady_seconds"]
    assert found["vision"] == {"load_seconds": None, "first_seconds": None, "steady_seconds": None, "calls": 0}
    assert fresh().stages.seconds() == {}


def test_what_was_loaded_is_described(model, fresh):
    found = model.describe()
    assert found["evidence"] == "reference" and found["stateful"] is model.stages.stateful and found["context"] == 256
    assert set(found["stages"]) == {"vision", "prefill", "step"} and found["precision"] == "fp32" and found["notes"] == []
    assert "one at a time" in fresh(batch_size="4").describe()["notes"][0]


def test_a_folder_that_lacks_something_is_refused_before_it_runs(tiny):
    cut = stages_of(tiny, stateful=True, context=64)

    def said(family="vision-language", **changes):
        made = manifest_of(tiny, cut, True)
        for name, value in changes.items():
            setattr(made, name, value)
        with pytest.raises(ModelError) as caught:
            check(made, "coreml", family)
        return str(caught.value)

    assert "is a vision-language model" in said("speech-to-text") and "was converted for onnx" in said(runs_on=("onnx",))
    without = {name: size for name, size in cut.sizes.items() if name != "image_token"}
    assert "does not say its image_token" in said(sizes=without)
    step = manifest_of(tiny, cut, True).stages["step"]
    stages = {**manifest_of(tiny, cut, True).stages, "step": replace(step, inputs=step.inputs[:1])}
    assert "the stage step" in said(stage=stages.__getitem__) and "'mask'" in said(stage=stages.__getitem__)
    stages["step"] = replace(step, states=())
    assert "has no 'keys'" in said(stage=stages.__getitem__)
    held = tuple(Feature(name, "fp16", tuple(cut.sizes[size] for size in CACHE_SIZES)) for name in ("keys", "values"))
    stages["step"] = replace(step, states=held)
    whole = manifest_of(tiny, cut, True)
    whole.stage = stages.__getitem__
    check(whole, "coreml", "vision-language")
    assert "keys of the stage step is" in said(stage=stages.__getitem__, sizes={**cut.sizes, "layers": 9})


def test_programs_are_closed_when_a_later_one_cannot_be_opened(tiny):
    cut = stages_of(tiny, stateful=True, context=64)
    backend = TorchStages(cut, "reference")
    opening = backend.open

    def fails(path, *more, **named):
        if path.stem == "step":
            raise ModelError("it was made for a newer macOS")
        return opening(path, *more, **named)

    backend.open = fails
    with pytest.raises(ModelError, match="newer macOS"):
        open_stages(manifest_of(tiny, cut, True), backend, {}, "vision-language")
    assert [program.closed for program in backend.opened] == [True, True]


def test_units_are_refused_off_a_mac_before_anything_is_converted(monkeypatch):
    monkeypatch.setattr("platform.system", lambda: "Linux")
    monkeypatch.setattr("workbench.models.source.get_converter", lambda name: pytest.fail("it was converted"))
    with pytest.raises(UsageError, match="units=ALL would do nothing here") as caught:
        converted(ModelSpec.parse("demo:vlm@coreml?units=ALL"))
    assert "Mac" in caught.value.fix


def test_options_of_a_conversion_are_known_and_typed():
    found = options.read("coreml", {"context": "512", "quantize": "int8"})
    assert (found["context"], found["quantize"], found["precision"], found["image_position"]) == (512, "int8", "fp32", "first")
    for given, words in (
        ({"dtype": "float16"}, "try: ?precision=fp16"),
        ({"target": "ios18"}, "try: ?target=iOS18"),
        ({"quantize": "int3"}, "int4-block32"),
        ({"units": "GPU"}, "CPU_AND_GPU"),
    ):
        with pytest.raises(UsageError) as caught:
            options.read("coreml", given)
        assert words in str(caught.value)
    assert options.in_key("coreml", {"timeout": "9", "reading": "emulate"}) == {"reading": "emulate"}


def test_a_folder_is_what_it_was_made_with(tmp_path):
    folder = write_artifact(tmp_path / "made")
    found = identify(ModelSpec.parse(f"coreml:{folder}?precision=fp32&context=8&stateful=true&quantize=none"))
    assert (found["source"], found["revision"], found["format"]) == ("ORG/NAME", "r1", "coreml") and found["recipe"][
        "target"
    ] == "iOS18"
    for option, words in (
        ("quantize=int8", "quantize=none"),
        ("stateful=false", "stateful=true"),
        ("context=16", "context=8"),
        ("keep_fp32=softmax", "keep_fp32="),
    ):
        with pytest.raises(UsageError, match=f"{option} contradicts 'made'") as caught:
            identify(ModelSpec.parse(f"coreml:{folder}?{option}"))
        assert words in caught.value.why


def test_one_program_is_no_model(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_artifact(tmp_path / "made")
    with pytest.raises(ModelError, match=r"'step\.mlpackage' is one program, not a model") as caught:
        identify(ModelSpec.parse("coreml:./made/step.mlpackage"))
    assert caught.value.fix == "--model coreml:made, or workbench capture coreml:./made/step.mlpackage"
    (tmp_path / "other.mlmodel").write_bytes(b"")
    with pytest.raises(ModelError) as caught:
        identify(ModelSpec.parse("coreml:./other.mlmodel"))
    assert "workbench convert MODEL --to coreml" in caught.value.fix
    write_artifact(tmp_path / "newer", format=2)
    with pytest.raises(ModelError, match="by a newer version"):
        identify(ModelSpec.parse("coreml:./newer"))
