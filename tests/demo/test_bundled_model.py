"""The bundled model: small, loadable, and at or above its floors on fresh items."""

import os

import pytest

from workbench.demo import vlm_folder

pytest.importorskip("torch")
pytest.importorskip("transformers")

from workbench.demo import measure  # noqa: E402

ITEMS = int(os.environ.get("WORKBENCH_DEMO_ITEMS", "100"))


@pytest.fixture(scope="module")
def answerer():
    return measure.Answerer(vlm_folder())


def test_folder_is_small_and_complete():
    folder = vlm_folder()
    names = {path.name for path in folder.iterdir()}
    assert {"config.json", "generation_config.json", "preprocessor_config.json", "processor_config.json"} <= names
    assert {"tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "README.md"} <= names
    assert sum(path.stat().st_size for path in folder.iterdir()) <= 12_000_000


@pytest.mark.parametrize("name", [name for name, group in measure.GROUPS.items() if group.floor is not None])
def test_skill_is_not_below_its_floor(answerer, name):
    """At most three standard errors below the floor, which is what ``ITEMS`` fresh items can tell."""
    floor = measure.GROUPS[name].floor
    items = measure.fresh_items(name, ITEMS, seed=11)
    given = answerer.answer(items)
    right = sum(text == item.prompt.answer for text, item in zip(given, items, strict=True))
    assert right / ITEMS >= floor - 3 * (floor * (1 - floor) / ITEMS) ** 0.5


def test_chat_template(answerer):
    def rendered(content, generation=True):
        messages = [{"role": "user", "content": content}]
        return answerer.processor.apply_chat_template(messages, add_generation_prompt=generation)

    text = {"type": "text", "text": "Hi"}
    image = {"type": "image"}
    assert rendered("Hi") == "USER: Hi ASSISTANT:"
    assert rendered([text]) == "USER: Hi ASSISTANT:"
    assert rendered([text, image]) == "USER: <image>\nHi ASSISTANT:"
    assert rendered([image, image, text]) == "USER: <image><image>\nHi ASSISTANT:"
    assert rendered([image, text], generation=False) == "USER: <image>\nHi"


def test_both_loaders_give_the_same_logits(answerer):
    """transformers and mlx-vlm, the same ids and pixels: relative difference below 2e-5."""
    import numpy as np
    import torch

    mx = pytest.importorskip("mlx.core")
    mlx_vlm = pytest.importorskip("mlx_vlm")
    item = measure.fresh_items("letter, MMStar", 1)[0]
    content = [{"type": "image"}, {"type": "text", "text": item.prompt.text}]
    text = answerer.processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
    inputs = answerer.processor(images=item.scenes[0].image, text=text, return_tensors="pt")
    with torch.inference_mode():
        wanted = answerer.model(**inputs).logits.numpy()
    model, _ = mlx_vlm.load(str(vlm_folder()))
    ids = mx.array(inputs["input_ids"].numpy())
    embeddings = model.get_input_embeddings(ids, mx.array(inputs["pixel_values"].numpy())).inputs_embeds
    given = np.array(model.language_model(ids, inputs_embeds=embeddings).logits)
    assert np.abs(given - wanted).max() / np.abs(wanted).max() < 2e-5
