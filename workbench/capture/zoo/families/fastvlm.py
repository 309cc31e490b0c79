"""FastVLM: the language model (Qwen2) and how image features get between its words.

The tower, FastViTHD, exists in timm alone. The features are therefore random, and the same for both sides, as they would come from the
projector. Both sides get Apple's prompts: one token (-200) an image, in whose place all its features come. The reference puts them
there as Apple's ``prepare_inputs_labels_for_multimodal`` (ml-fastvlm, llava_arch.py) describes: the text before, the features, the text
after. Apple's own prompts have one image; the format allows several.
"""

import json

from workbench.capture.zoo import port, reference
from workbench.capture.zoo.family import Case, Family, pixels, prompt, text_arrays

IMAGE = -200
PATCHES = 9
HIDDEN = 48


def config():
    from transformers import Qwen2Config

    return Qwen2Config(
        vocab_size=1000,
        hidden_size=HIDDEN,
        intermediate_size=112,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        rms_norm_eps=1e-6,
        rope_parameters={"rope_type": "default", "rope_theta": 1_000_000.0},
        tie_word_embeddings=True,
    )


def cases(config, random):
    for name, parts, images in (
        ("image first", [[IMAGE], 12], 1),
        ("image last", [12, [IMAGE], 1], 1),
        ("two images", [4, [IMAGE], 6, [IMAGE], 7], 2),
    ):
        yield Case(name, text_arrays(prompt(random, parts, 10, 1000)) | {"features": pixels(random, images, PATCHES, HIDDEN)})
    yield Case("text alone", text_arrays(prompt(random, [20], 10, 1000)))


def run_reference(model, arrays):
    import torch

    table = model.get_input_embeddings()
    ids, features = torch.as_tensor(arrays["input_ids"][0]), arrays.get("features", ())
    pieces, images = [], iter(features)
    for token in ids.split(1):
        pieces.append(torch.as_tensor(next(images)).to(table.weight.dtype) if token.item() == IMAGE else table(token))
    with torch.inference_mode():
        return model(inputs_embeds=torch.cat(pieces)[None]).logits[0]


def to_hub(source, target):
    """Apple's layout, of the language model: a flat configuration of type ``llava_qwen2``."""
    from safetensors.torch import load_file, save_file

    from workbench.convert.layout import rope

    flat = reference.read_config(source)
    rope(flat)
    flat |= {"model_type": "llava_qwen2", "image_token_index": IMAGE, "mm_projector_type": "mlp2x_gelu", "mm_hidden_size": 3072}
    target.mkdir()
    (target / "config.json").write_text(json.dumps(flat))
    save_file(load_file(source / "model.safetensors"), target / "model.safetensors")


def open_port(folder):
    """The port's whole model, whose tower is never computed; the language model is loaded into it strictly."""
    from mlx import core
    from mlx_vlm.models import fastvlm

    given = fastvlm.ModelConfig.from_dict(reference.read_config(folder))
    given.text_config = fastvlm.TextConfig.from_dict(given.text_config)
    given.vision_config = fastvlm.VisionConfig.from_dict(given.vision_config)
    model = fastvlm.Model(given)
    weights = model.language_model.sanitize(model.sanitize(core.load(str(folder / "model.safetensors"))))
    model.language_model.load_weights([(name.removeprefix("language_model."), value) for name, value in weights.items()])
    return model


def run_port(model, arrays):
    given = dict(arrays)
    if "features" in given:
        features = given.pop("features")
        given |= {"cached_image_features": features, "pixel_values": features[:, :1]}
    return port.run_mlx_vlm(model, given)


FAMILY = Family(
    "fastvlm",
    "FastVLM, without its tower: image features between the words of Qwen2",
    config,
    cases,
    kind="composite reference",
    reason="the tower, FastViTHD, exists in timm alone, which needs torchvision; both sides are given the same image features",
    layouts=("hub",),
    build=reference.build_text,
    to_hub=to_hub,
    run_reference=run_reference,
    open_port=open_port,
    run_port=run_port,
    reference_names=((r"^model\.embed_tokens$", "model.words"),),
    port_names=((r"model\.embed_tokens$", "model.words"),),
    note="neither the tower nor the projector",
)
