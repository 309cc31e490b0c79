"""Vision-language models on torch: answers, batches, limits."""

from __future__ import annotations

import json

import pytest

from workbench.errors import UsageError
from workbench.models.loading import open_vision_language
from workbench.types import Generation, Media, ModelSpec

torch = pytest.importorskip("torch", reason="needs torch (pip install 'parity-workbench[torch]')")

SHORT = Generation(max_tokens=12)


@pytest.fixture(scope="module")
def model(tiny):
    return open_vision_language(ModelSpec.parse(f"torch:{tiny}"))


@pytest.fixture(scope="module")
def answers(model, mixed):
    return model.answer(mixed, SHORT)


def test_matches_a_bare_transformers_loop(tiny, model, mixed, answers):
    from transformers import AutoModelForImageTextToText, GenerationConfig, LlavaProcessor

    bare = AutoModelForImageTextToText.from_pretrained(tiny, dtype=torch.float32).eval()
    bare.generation_config = GenerationConfig(eos_token_id=1, pad_token_id=0)
    processor = LlavaProcessor.from_pretrained(tiny, backend="pil")  # AutoProcessor is replaced once mlx-vlm was imported
    for request, answer in zip(mixed[:4], answers, strict=False):
        pictures = [media.image() for media in request.inputs["images"]]
        content = [{"type": "image"}] * len(pictures) + [{"type": "text", "text": request.inputs["text"]}]
        prompt = processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True, tokenize=False)
        inputs = processor(text=[prompt], images=pictures or None, return_tensors="pt")
        with torch.inference_mode():
            row = bare.generate(**inputs, max_new_tokens=12, do_sample=False)[0, inputs["input_ids"].shape[1] :]
        assert answer.tokens == tuple(row.tolist())


def test_answers_differ_by_image(model, ask, image):
    first, second = model.answer([ask("?", image(seed=1)), ask("?", image(seed=2))], SHORT)
    assert first.tokens != second.tokens


def test_batch_of_16_equals_single_items(tiny, mixed, answers):
    batched = open_vision_language(ModelSpec.parse(f"torch:{tiny}?batch_size=16"))
    assert batched.batch_size == 16
    again = batched.answer(mixed, SHORT)
    assert [output.tokens for output in again] == [output.tokens for output in answers]
    assert [output.value for output in again] == [output.value for output in answers]
    assert {output.timing.batch for output in again} == {5, 2}  # with images; text only


def test_length_and_timing(answers):
    for output in answers:
        assert output.finish == ("stop" if output.tokens[-1] == 1 else "length")
        assert len(output.tokens) == output.timing.n_out and (output.finish == "stop" or len(output.tokens) == 12)
        assert 0 < output.timing.prepare < output.timing.first < output.timing.total
    assert answers[0].timing.n_in == len("USER: What is this? ASSISTANT:") + 16


def test_image_token_in_the_question_makes_no_slot(model, ask, image, answers):
    assert answers[4].error is None
    prompt = model.preprocessor.prepare(ask("Is <image> an HTML tag?", image()), "pt")
    assert prompt.prompt.count("<image>") == 1 and "<image >" in prompt.prompt
    assert int((prompt.arrays["input_ids"] == 2).sum()) == 16


def test_stop_token_ends_and_padding_is_cut(broken, mixed, answers):
    stop = answers[0].tokens[3]
    generation = json.loads((broken / "generation_config.json").read_text()) | {"eos_token_id": [1, stop]}
    (broken / "generation_config.json").write_text(json.dumps(generation))
    model = open_vision_language(ModelSpec.parse(f"torch:{broken}?batch_size=16"))
    outputs = model.answer(mixed, SHORT)
    place = answers[0].tokens.index(stop)
    assert outputs[0].finish == "stop" and outputs[0].tokens == answers[0].tokens[: place + 1]
    for output, full in zip(outputs, answers, strict=True):
        assert output.tokens == full.tokens[: len(output.tokens)]
        assert (output.finish == "stop") == bool({1, stop} & set(full.tokens))
    assert model.describe()["stop_ids"] == sorted({1, stop})


@pytest.mark.parametrize("size", [1, 16])
def test_stop_strings(tiny, mixed, answers, size):
    model = open_vision_language(ModelSpec.parse(f"torch:{tiny}?batch_size={size}"))
    full = model.tokenizer.decode(answers[1].tokens, skip_special_tokens=True)
    stop = full[4:6]
    output = model.answer(mixed, Generation(max_tokens=12, stop=(stop,)))[1]
    assert output.finish == "stop" and output.value == full[: full.index(stop)].strip()
    assert len(output.tokens) < 12 and output.tokens == answers[1].tokens[: len(output.tokens)]


def test_sampling_is_seeded_and_independent_of_the_batch(tiny, mixed):
    warm = Generation(max_tokens=8, temperature=1.0, seed=3)
    one, many = (open_vision_language(ModelSpec.parse(f"torch:{tiny}?batch_size={size}")).answer(mixed, warm) for size in (1, 16))
    assert [output.tokens for output in one] == [output.tokens for output in many]
    other = open_vision_language(ModelSpec.parse(f"torch:{tiny}")).answer(mixed, Generation(max_tokens=8, temperature=1.0, seed=4))
    assert [output.tokens for output in other] != [output.tokens for output in one]


def test_bad_items_do_not_disturb_others(tiny, mixed, answers, ask):
    model = open_vision_language(ModelSpec.parse(f"torch:{tiny}?batch_size=16"))
    bad = [ask("x", Media(data=b"no picture")), ask("long " * 200), ask("x", Media(path="/nowhere/at-all.png"))]
    outputs = model.answer([bad[0], mixed[0], bad[1], mixed[1], bad[2]], SHORT)
    assert [output.finish for output in outputs] == ["error", "length", "error", "length", "error"]
    assert [outputs[index].error["reason"] for index in (0, 2, 4)] == ["image", "context", "image"]
    assert outputs[0].value is None and "0x" not in str(outputs[0].error)
    assert "512 positions" in outputs[2].error["why"]
    assert (outputs[1].tokens, outputs[3].tokens) == (answers[0].tokens, answers[1].tokens)


@pytest.mark.parametrize("size", [(1, 1), (20_000, 3), (3, 20_000), (20_000, 1)])
def test_extreme_images_are_answered(model, ask, image, size):
    assert model.answer([ask("?", image(*size))], SHORT)[0].error is None


def test_a_line_that_would_explode_is_refused(broken, ask, image):
    settings = json.loads((broken / "preprocessor_config.json").read_text())
    settings |= {"size": {"shortest_edge": 224}, "do_center_crop": True}
    (broken / "preprocessor_config.json").write_text(json.dumps(settings))
    output = open_vision_language(ModelSpec.parse(f"torch:{broken}")).answer([ask("?", image(20_000, 1))], SHORT)[0]
    assert output.error["reason"] == "image" and "4,480,000 x 224" in output.error["why"]


def test_out_of_memory_retries_singles_then_fails_the_item(tiny, mixed, monkeypatch):
    model = open_vision_language(ModelSpec.parse(f"torch:{tiny}?batch_size=4"))
    real = model.model.generate

    def generate(**inputs):
        if inputs["input_ids"].shape[0] > 1 or inputs["input_ids"].shape[1] > 80:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return real(**inputs)

    monkeypatch.setattr(model.model, "generate", generate)
    outputs = model.answer([mixed[0], mixed[1], mixed[6]], SHORT)
    assert [output.error is None for output in outputs] == [True, False, True]
    assert outputs[1].error["reason"] == "memory" and "--batch-size 1" in outputs[1].error["fix"]


def test_a_failure_of_the_model_is_the_items(model, mixed, monkeypatch):
    monkeypatch.setattr(model.model, "generate", lambda **_: 1 / 0)
    output = model.answer(mixed[:1], SHORT)[0]
    assert output.error["reason"] == "model" and "ZeroDivisionError" in output.error["why"]


def test_max_pixels_shrinks(tiny, ask, image):
    model = open_vision_language(ModelSpec.parse(f"torch:{tiny}?max_pixels=100"))
    (picture,) = model.preprocessor.images(ask("?", image(400, 100)))
    assert picture.size == (20, 5)
    assert model.describe()["resized_by"] == "workbench"


def test_describe(model):
    facts = model.describe()
    assert facts["dtype"] == "float32" and facts["device"] == "cpu" and facts["parameters"] > 100_000
    assert facts["prompt"] == "chat template, content list" and facts["stop_ids"] == [1] and facts["context"] == 512
    assert facts["ignored_generation_defaults"]["repetition_penalty"] == 1.3
    assert str(model.found.folder) not in json.dumps(facts)


def test_dtype_and_attention(tiny, mixed):
    model = open_vision_language(ModelSpec.parse(f"torch:{tiny}?dtype=bfloat16&attention=eager"))
    assert (model.describe()["dtype"], model.describe()["attention"]) == ("bfloat16", "eager")
    assert model.answer(mixed[:1], SHORT)[0].finish == "length"


@pytest.mark.parametrize(
    "option", ["dtypo=float16", "dtype=float8", "batch_size=0", "batch_size=x", "blas=torch", "device=tpu", "threads=0"]
)
def test_options_that_are_refused(tiny, option):
    with pytest.raises(UsageError):
        open_vision_language(ModelSpec.parse(f"torch:{tiny}?{option}"))
