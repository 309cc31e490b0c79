"""Gemma 3n, its language model: alternating updates over four streams, per-layer embeddings, sparse activations, and last layers that
take keys and values from earlier ones.

The vision tower (MobileNet v5) comes from timm, and the port opens no folder without it. So the row writes the language model under its
published names, makes the port's whole model, whose towers are never computed, and loads the language model into it strictly. The port's
logits depend on how much of a prompt is passed at once; generation passes the last token alone, and so does the row with every token.
The audio tower, a conformer, is a row of its own, on mel frames of which some are padding.
"""

import json
import shutil

import numpy

from workbench.capture.zoo import port, reference
from workbench.capture.zoo.family import Case, Family, pixels, prompt, text_arrays


def config():
    from transformers import Gemma3nTextConfig

    return Gemma3nTextConfig(
        vocab_size=1000,
        vocab_size_per_layer_input=1000,
        hidden_size=48,
        intermediate_size=[112] * 6,
        num_hidden_layers=6,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=16,
        hidden_size_per_layer_input=24,
        laurel_rank=8,
        num_kv_shared_layers=2,
        layer_types=["sliding_attention", "full_attention"] * 3,
        activation_sparsity_pattern=[0.95, 0.95, 0.0, 0.0, 0.0, 0.0],
        sliding_window=512,
        rope_parameters={
            "full_attention": {"rope_type": "default", "rope_theta": 1_000_000.0},
            "sliding_attention": {"rope_type": "default", "rope_theta": 10_000.0},
        },
    )


def cases(config, random):
    for name, length in (("short", 6), ("middling", 25), ("long", 70)):
        yield Case(name, text_arrays(prompt(random, [length], 10, 1000)))


def to_hub(source, target):
    from safetensors.torch import load_file, save_file

    from workbench.convert.layouts.gemma3n import LAYOUT

    whole = {"model_type": "gemma3n", "text_config": reference.read_config(source), "vision_config": {}, "audio_config": {}}
    LAYOUT.config(whole)
    target.mkdir()
    (target / "config.json").write_text(json.dumps(whole))
    saved = load_file(source / "model.safetensors")
    weights = {name.replace("model.", "model.language_model.", 1): value for name, value in saved.items()}
    layers = whole["text_config"]["num_hidden_layers"]
    for name in [each for each in weights if ".layers.0.self_attn." in each]:  # published ones hold what shared layers do not use
        for layer in range(layers - whole["text_config"]["num_kv_shared_layers"], layers):
            weights.setdefault(name.replace(".layers.0.", f".layers.{layer}."), weights[name].clone())
    save_file(weights, target / "model.safetensors")


def open_port(folder):
    from mlx import core
    from mlx_vlm.models import gemma3n

    given = gemma3n.ModelConfig.from_dict(reference.read_config(folder))
    given.text_config = gemma3n.TextConfig.from_dict(given.text_config)
    given.vision_config, given.audio_config = gemma3n.VisionConfig(), gemma3n.AudioConfig()
    model = gemma3n.Model(given)
    weights = model.language_model.sanitize(model.sanitize(core.load(str(folder / "model.safetensors"))))
    model.language_model.load_weights([(name.removeprefix("language_model."), value) for name, value in weights.items()])
    return model


def run_port(model, arrays):
    """Every position as ``generate_step`` computes a prompt's last one: alone, after the others are in the cache."""
    from mlx import core
    from mlx_vlm.models import cache

    ids = port.as_mlx(arrays)["input_ids"]
    begun = model.get_input_embeddings(ids)
    made = cache.make_prompt_cache(model.language_model)
    steps = []
    for place in range(ids.shape[1]):
        one = slice(place, place + 1)
        given = {"inputs_embeds": begun.inputs_embeds[:, one], "per_layer_inputs": begun.per_layer_inputs, "n_to_process": 1}
        steps.append(model.language_model(ids[:, one], cache=made, **given).logits[0])
    return core.concatenate(steps)


def audio_config():
    from transformers.models.gemma3n.configuration_gemma3n import Gemma3nAudioConfig

    return Gemma3nAudioConfig(
        input_feat_size=32,
        hidden_size=64,
        conf_num_attention_heads=4,
        conf_num_hidden_layers=2,
        sscp_conv_channel_size=(16, 8),
    )


def audio_cases(config, random):
    for name, frames, heard in (("all heard", 160, 160), ("padded at the end", 200, 130), ("one chunk", 40, 40)):
        silent = numpy.arange(frames)[None] >= heard
        yield Case(name, {"frames": pixels(random, 1, frames, 32), "silent": silent, "unused": numpy.array([[1]])})


def build_audio(config):
    from transformers.models.gemma3n.modeling_gemma3n import Gemma3nAudioEncoder

    return Gemma3nAudioEncoder(config).float().eval()


def save_audio(model, folder):
    from safetensors.torch import save_file

    folder.mkdir(parents=True)
    save_file({f"model.audio_tower.{name}": value for name, value in model.state_dict().items()}, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(model.config.to_dict()))


def run_audio(model, arrays):
    import torch

    dtype = next(model.parameters()).dtype
    with torch.inference_mode():
        return model(torch.as_tensor(arrays["frames"]).to(dtype), torch.as_tensor(arrays["silent"])).last_hidden_state[0]


def open_audio(folder):
    from mlx import core
    from mlx_vlm.models import gemma3n

    model = gemma3n.AudioModel(gemma3n.AudioConfig.from_dict(reference.read_config(folder)))
    weights = model.sanitize(core.load(str(folder / "model.safetensors")))
    model.load_weights([(name.removeprefix("model.audio_tower."), value) for name, value in weights.items()])
    return model


def run_port_audio(model, arrays):
    given = port.as_mlx(arrays)
    return model(given["frames"], given["silent"])[0][0]


AUDIO_NAMES = ((r"^conformer\.", "audio_tower.layers."), (r"^subsample_conv_projection", "audio_tower.embeddings"))

FAMILIES = (
    Family(
        "gemma3n",
        "Gemma 3n, language model: alternating updates, per-layer embeddings, shared keys and values",
        config,
        cases,
        kind="text only",
        reason="the vision tower, MobileNet v5 of 300 million parameters, exists in timm alone, which needs torchvision",
        layouts=("hub",),
        build=reference.build_text,
        to_hub=to_hub,
        open_port=open_port,
        run_port=run_port,
        port_names=((r"model\.embed_tokens$", "model.unscaled"),),
        note="neither the vision nor the audio tower",
    ),
    Family(
        "gemma3n_audio",
        "Gemma 3n, audio tower: a conformer with local attention",
        audio_config,
        audio_cases,
        modality="audio",
        kind="features only",
        reason="the port opens no folder of Gemma 3n without the vision tower; the outputs of the audio tower are compared",
        layouts=("hub",),
        build=build_audio,
        save=save_audio,
        to_hub=shutil.copytree,
        run_reference=run_audio,
        open_port=open_audio,
        run_port=run_port_audio,
        reference_names=AUDIO_NAMES,
        port_names=AUDIO_NAMES,
        probe=None,
        note="no causality probe: the tower is no language model",
    ),
)
