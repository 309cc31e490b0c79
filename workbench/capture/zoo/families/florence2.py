"""Florence-2: a DaViT tower (window and channel attention, depth-wise convolutions) and a BART encoder and decoder.

Images are squares whose stages the windows divide, as in the processor. The port is run as it generates: the first pass encodes the prompt
and decodes the start token, each further token is one pass. Cases: answers and prompts of several lengths, and a prompt without an image.
"""

from workbench.capture.zoo.family import Case, Family, pixels, text_arrays
from workbench.capture.zoo.port import as_mlx

IMAGE = 999
TOKENS = 1 + 4 * 4
START = 2
STAGES = (
    (r"vision_tower\.blocks\.(\d+)\.(\d+)", r"vision_tower.stage.\1.layers.\2"),
    (r"(spatial|channel)_block\.(?:window|channel)_attn", r"\1_attention"),
    (r"(spatial|channel)_block\.ffn", r"\1_mlp"),
    (r"(spatial|channel)_block\.norm1", r"\1_attention_norm"),
    (r"(spatial|channel)_block\.norm2", r"\1_mlp_norm"),
)
"""Convolutions and whole blocks are not compared: transformers keeps channels first there."""


def config():
    from transformers import BartConfig, Florence2Config

    return Florence2Config(
        vision_config={
            "embed_dim": [16, 24, 32, 48],
            "num_heads": [2, 3, 4, 6],
            "num_groups": [4, 2, 8, 3],
            "depths": [1, 1, 2, 1],
            "window_size": 4,
            "projection_dim": 64,
        },
        text_config=BartConfig(
            vocab_size=1000,
            d_model=64,
            encoder_layers=2,
            decoder_layers=2,
            encoder_attention_heads=4,
            decoder_attention_heads=8,
            encoder_ffn_dim=160,
            decoder_ffn_dim=96,
            max_position_embeddings=128,
        ),
        image_token_id=IMAGE,
        architectures=["Florence2ForConditionalGeneration"],
    )


def cases(config, random):
    import numpy

    for name, image, words, answer in (
        ("a task and one word", 1, 3, 2),
        ("longer answer", 1, 6, 9),
        ("longer prompt", 1, 20, 5),
        ("no image", 0, 8, 6),
    ):
        ids = numpy.concatenate([[IMAGE] * TOKENS * image, [0], random.integers(10, 900, words), [2]]).astype(numpy.int64)[None]
        decoder = numpy.concatenate([[START], random.integers(10, 900, answer)]).astype(numpy.int64)[None]
        arrays = text_arrays(ids) | {"decoder_input_ids": decoder}
        yield Case(name, arrays | ({"pixel_values": pixels(random, 1, 3, 128, 128)} if image else {}))


def run_port(model, arrays):
    """The steps of mlx-vlm's ``generate_step`` for a model with an encoder, with the answer's tokens given."""
    from mlx import core
    from mlx_vlm.models import cache

    given = as_mlx(arrays)
    prompt, answer = given["input_ids"], given["decoder_input_ids"]
    begun = model.get_input_embeddings(prompt, given.get("pixel_values"))
    made = cache.make_prompt_cache(model.language_model)
    extra = {"attention_mask": begun.attention_mask, "decoder_inputs_embeds": begun.decoder_inputs_embeds}
    step = model.language_model(prompt, inputs_embeds=begun.inputs_embeds, cache=made, **extra)
    logits = [step.logits[0]]
    for place in range(1, answer.shape[1]):
        step = model.language_model(answer[:, place], cache=made, cross_attention_states=step.cross_attention_states)
        logits.append(step.logits[0])
    return core.concatenate(logits)


def to_hub(saved, folder):
    from workbench.convert.hub_layout import to_hub_layout

    to_hub_layout(saved, folder, check=False)  # transformers 5 does not read Microsoft's layout


FAMILY = Family(
    "florence2",
    "Florence-2: DaViT, BART encoder and decoder",
    config,
    cases,
    to_hub=to_hub,
    run_port=run_port,
    reference_names=STAGES,
    port_names=(
        *STAGES,
        (r"^image_proj_norm$", "multi_modal_projector"),
        (r"_attention\.norm$", "_attention_norm"),
        (r"_mlp\.norm$", "_mlp_norm"),
        (r"(_attention|_mlp)$", r"\1_and_residual"),
        (r"(_attention|_mlp)\.fn$", r"\1"),
    ),
    probe="decoder_input_ids",
    note="the published layout is Microsoft's; transformers 5 reads and writes that of florence-community, which is the v5 row",
)
