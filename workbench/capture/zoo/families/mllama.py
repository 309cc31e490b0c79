"""Llama 3.2 Vision (Mllama): tiles of an image in a tower of its own kind, read by cross-attention layers between Llama's.

An image is one to four tiles, side by side or stacked; the others are zeros. ``cross_attention_mask`` says which tiles a token sees: none
before the first image, and after an image that image (until the next). Text alone skips the cross-attention layers. The tower has 16
heads because published configurations call them ``attention_heads``, which the port does not read: 16 is its default.

A second row goes on where a prompt ends: the words of an answer come one by one, as in generation, and must see the tiles that the prompt's
last word saw.
"""

import numpy

from workbench.capture.zoo import port, reference
from workbench.capture.zoo.family import Case, Family, pixels, prompt, text_arrays

IMAGE = 1000
TILES = 4
SIDE = 56
RATIOS = [[1, 1], [1, 2], [1, 3], [1, 4], [2, 1], [2, 2], [3, 1], [4, 1]]


def config():
    from transformers import MllamaConfig
    from transformers.models.mllama.configuration_mllama import MllamaTextConfig, MllamaVisionConfig

    return MllamaConfig(
        vision_config=MllamaVisionConfig(
            hidden_size=128,
            intermediate_size=160,
            num_hidden_layers=3,
            num_global_layers=2,
            attention_heads=16,
            vision_output_dim=128 * 3,
            intermediate_layers_indices=[0, 2],
            image_size=SIDE,
            patch_size=14,
            max_num_tiles=TILES,
            supported_aspect_ratios=RATIOS,
        ),
        text_config=MllamaTextConfig(
            vocab_size=1000,
            hidden_size=48,
            intermediate_size=112,
            num_hidden_layers=4,
            cross_attention_layers=[1, 3],
            num_attention_heads=4,
            num_key_value_heads=2,
            rope_parameters={
                "rope_type": "llama3",
                "rope_theta": 500_000.0,
                "factor": 8.0,
                "low_freq_factor": 1.0,
                "high_freq_factor": 4.0,
                "original_max_position_embeddings": 8192,
            },
            pad_token_id=4,
        ),
        image_token_index=IMAGE,
    )


def cases(config, random):
    def case(name, parts, *ratios):
        ids = prompt(random, parts, 10, 1000)
        return Case(name, text_arrays(ids) | images(random, ids, ratios))

    yield case("one tile, image first", [[IMAGE], 14], [1, 1])
    yield case("wide, image between", [5, [IMAGE], 12], [1, 3])
    yield case("tall, image last", [12, [IMAGE], 1], [2, 1])
    yield case("four tiles", [3, [IMAGE], 12], [2, 2])
    yield case("two images", [3, [IMAGE], 6, [IMAGE], 9], [1, 2], [4, 1])
    yield Case("text alone", text_arrays(prompt(random, [20], 10, 1000)))


def images(random, ids, ratios):
    """As the processor makes them: tiles that an image has not are zeros and masked out."""
    values = numpy.zeros((1, len(ratios), TILES, 3, SIDE, SIDE), numpy.float32)
    tiles = numpy.zeros((1, len(ratios), TILES), numpy.int64)
    seen = numpy.zeros((1, ids.shape[1], len(ratios), TILES), numpy.int64)
    places = [*numpy.flatnonzero(ids[0] == IMAGE), ids.shape[1]]
    for place, (rows, columns) in enumerate(ratios):
        values[0, place, : rows * columns] = pixels(random, rows * columns, 3, SIDE, SIDE)
        tiles[0, place, : rows * columns] = 1
        seen[0, places[place] : places[place + 1], place, : rows * columns] = 1
    numbers = numpy.array([[RATIOS.index(each) + 1 for each in ratios]])
    return {"pixel_values": values, "aspect_ratio_ids": numbers, "aspect_ratio_mask": tiles, "cross_attention_mask": seen}


ANSWER = 3


def answers(config, random):
    """Those of one image, as mlx-vlm's chat takes it, with words enough after it."""
    for case in cases(config, random):
        ids = case.arrays["input_ids"][0]
        if (ids == IMAGE).sum() == 1 and ids[-1 - ANSWER :].max() < IMAGE:
            yield case


def follow(model, arrays):
    """The logits of one pass that predict the last words and what comes after them."""
    return reference.run(model, arrays)[-1 - ANSWER :]


def answer(model, arrays):
    """The same from mlx-vlm's generation, which is given all but the last words as its prompt and made to choose these."""
    from mlx import core
    from mlx_vlm.generate.ar import generate_step

    asked = {name: arrays[name][:, :-ANSWER] for name in ("input_ids", "attention_mask", "cross_attention_mask")}
    given = port.as_mlx({**arrays, **asked})
    ids, values, mask = (given.pop(name) for name in ("input_ids", "pixel_values", "attention_mask"))
    words, found = arrays["input_ids"][0, -ANSWER:].tolist(), []

    def choose(_, logits):
        found.append(logits[0])
        word = words[min(len(found), ANSWER) - 1]
        return core.where(core.arange(logits.shape[-1]) == word, 0.0, -core.inf)[None]

    settings = {"max_tokens": ANSWER + 1, "temperature": 0.0, "top_p": 1.0, "top_k": 0, "logits_processors": [choose]}
    for _ in generate_step(ids, model, values, mask, **settings, **given):
        pass
    return core.stack(found[: ANSWER + 1])


FAMILIES = (
    Family("mllama", "Llama 3.2 Vision: tiles, and cross-attention in Llama", config, cases),
    Family(
        "mllama_answer",
        "Llama 3.2 Vision: the words of an answer",
        config,
        answers,
        layouts=("hub",),
        run_reference=follow,
        run_port=answer,
    ),
)
