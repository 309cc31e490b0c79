"""LLaVA-style models in three programs: a vision tower with its projector, a decoder that reads a prompt, a decoder that adds a token.

    stages = vision_language_stages(folder, config, stateful=True, context=512)
    stages["prefill"].outputs        # ("logits", "new_keys", "new_values")

L layers, H key-value heads, head size D, S places (the context), T prompt tokens, V tokens, width d, N features an image:

- ``vision``: pixel_values (1, 3, h, w) -> image_features (N, d)
- ``prefill``: tokens int32 (1, T), image_embeddings (1, T, d), mask (1, 1, T, T), positions int32 (1, T) -> logits (1, T, V),
  new_keys and new_values (L, H, T, D). The host puts image features at the rows of image tokens; other rows are not looked at.
- ``step``: tokens int32 (1, 1), mask (1, 1, 1, S), positions int32 (1, 1), keys and values (L, H, S, D) -> logits (1, 1, V), new_keys
  and new_values. Stateful: keys and values are float16 states instead.

All else is float32. Masks are ``workbench.models.masks``'s.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from workbench.convert.stages import feeding
from workbench.convert.stages.caches import Handed, Written, place_of
from workbench.convert.stages.loading import context_of, load, located, refuse
from workbench.convert.stages.naming import Names
from workbench.convert.stages.stage import Stage, StageSet
from workbench.errors import UsageError
from workbench.models.options import VISION
from workbench.models.source import Resolved

CLASS = "LlavaForConditionalGeneration"
TOWERS = ("clip_vision_model", "siglip_vision_model")
DECODERS = ("llama", "mistral", "qwen2")
FIXED_ROPE = ("default", "linear", "llama3", "yarn")
"""Rotary positions whose frequencies do not depend on how long a text is."""
EXAMPLE_TOKENS = 8


class Vision(torch.nn.Module):
    """The tower, its hidden states as config.json chooses them, the projector; of one picture."""

    def __init__(self, model: Any):
        super().__init__()
        self.vision_tower = model.model.vision_tower
        self.multi_modal_projector = model.model.multi_modal_projector
        chosen = model.config.vision_feature_layer
        self.chosen = [chosen] if isinstance(chosen, int) else list(chosen)
        self.skipped = 1 if model.config.vision_feature_select_strategy == "default" else 0

    def forward(self, pixel_values: Any) -> Any:
        return self.projected(pixel_values)[0]

    def projected(self, pixel_values: Any) -> Any:
        hidden = self.vision_tower(pixel_values, output_hidden_states=True).hidden_states
        chosen = [hidden[layer][:, self.skipped :] for layer in self.chosen]
        return self.multi_modal_projector(torch.cat(chosen, dim=-1) if len(chosen) > 1 else chosen[0])


class Pictures(Vision):
    """The same of any number of pictures: the features of the first, then those of the next, (pictures x N, d)."""

    def __init__(self, one: Vision):
        torch.nn.Module.__init__(self)
        self.vision_tower, self.multi_modal_projector = one.vision_tower, one.multi_modal_projector
        self.chosen, self.skipped = one.chosen, one.skipped

    def forward(self, pixel_values: Any) -> Any:
        return self.projected(pixel_values).flatten(0, 1)


class Decoder(torch.nn.Module):
    """What prefill and step share: the language model and its head."""

    def __init__(self, model: Any):
        super().__init__()
        self.language_model = model.model.language_model
        self.lm_head = model.lm_head

    def decode(self, embedded: Any, mask: Any, positions: Any, cache: Any) -> Any:
        found = self.language_model(
            inputs_embeds=embedded, attention_mask=mask, position_ids=positions, past_key_values=cache, use_cache=True
        )
        return self.lm_head(found.last_hidden_state)


class Prefill(Decoder):
    def __init__(self, model: Any, image_token: int):
        super().__init__(model)
        self.image_token = image_token

    def forward(self, tokens: Any, image_embeddings: Any, mask: Any, positions: Any) -> Any:
        embedded = self.language_model.embed_tokens(tokens)
        embedded = torch.where((tokens == self.image_token).unsqueeze(-1), image_embeddings, embedded)
        cache = Handed()
        logits = self.decode(embedded, mask, positions, cache)
        return logits, *cache.written()


class Step(Decoder):
    """With the caches as inputs and outputs."""

    def forward(self, tokens: Any, mask: Any, positions: Any, keys: Any, values: Any) -> Any:
        cache = Written(keys, values, place_of(positions, keys.shape[2]))
        logits = self.decode(self.language_model.embed_tokens(tokens), mask, positions, cache)
        return logits, *cache.written()


class StatefulStep(Decoder):
    """With the caches as buffers that each call changes."""

    def __init__(self, model: Any, shape: tuple[int, ...]):
        super().__init__(model)
        self.register_buffer("keys", torch.zeros(shape, dtype=torch.float16))
        self.register_buffer("values", torch.zeros(shape, dtype=torch.float16))

    def forward(self, tokens: Any, mask: Any, positions: Any) -> Any:
        cache = Written(self.keys, self.values, place_of(positions, self.keys.shape[2]))
        logits = self.decode(self.language_model.embed_tokens(tokens), mask, positions, cache)
        keys, values = cache.written()
        self.keys.copy_(keys.to(torch.float16))
        self.values.copy_(values.to(torch.float16))
        return logits


def vision_language_stages(
    folder: Path | Resolved, config: Mapping[str, Any], *, stateful: bool, context: int | None = None
) -> StageSet:
    """The three stages of a LLaVA-style model with a CLIP or SigLIP tower and a Llama, Mistral or Qwen2 decoder.

    Raises ModelError for other architectures and for a folder that cannot be loaded, UsageError for a context that the model has not.
    """
    found = located(folder)
    check(found, config)
    model = load(found, config, CLASS)
    text = model.config.text_config
    refuse_moving_rope(found, text)
    vision = Vision(model).eval()
    side = model.config.vision_config.image_size
    pixels = torch.zeros(1, model.config.vision_config.num_channels, side, side)
    with torch.no_grad():
        features = vision(pixels)
    context = context_for(found, text, context, features.shape[0])
    sizes = {
        "layers": text.num_hidden_layers,
        "heads": text.num_key_value_heads,
        "head_size": getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads,
        "hidden": text.hidden_size,
        "vocabulary": model.lm_head.out_features,
        "context": context,
        "image_token": model.config.image_token_id,
        "image_tokens": features.shape[0],
    }
    names = Names(model, found.folder, VISION)
    stages = (
        Stage("vision", vision, {"pixel_values": pixels}, ("image_features",)),
        prefill(model, sizes),
        step(model, sizes, stateful),
    )
    return StageSet(
        VISION, "llava", tuple(names.told(stage) for stage in stages), sizes, (("prefill", "step"),), feeding.vision_language
    )


def prefill(model: Any, sizes: Mapping[str, int]) -> Stage:
    length = min(EXAMPLE_TOKENS, sizes["context"])
    example = {
        "tokens": torch.zeros(1, length, dtype=torch.int32),
        "image_embeddings": torch.zeros(1, length, sizes["hidden"]),
        "mask": torch.zeros(1, 1, length, length),
        "positions": torch.arange(length, dtype=torch.int32)[None],
    }
    return Stage(
        "prefill",
        Prefill(model, sizes["image_token"]).eval(),
        example,
        ("logits", "new_keys", "new_values"),
        dynamic={"tokens": {1: "T"}, "image_embeddings": {1: "T"}, "mask": {2: "T", 3: "T"}, "positions": {1: "T"}},
        bounds={"T": (2, sizes["context"])},
    )


def step(model: Any, sizes: Mapping[str, int], stateful: bool) -> Stage:
    shape = tuple(sizes[name] for name in ("layers", "heads", "context", "head_size"))
    example = {
        "tokens": torch.zeros(1, 1, dtype=torch.int32),
        "mask": torch.zeros(1, 1, 1, sizes["context"]),
        "positions": torch.zeros(1, 1, dtype=torch.int32),
    }
    if stateful:
        return Stage("step", StatefulStep(model, shape).eval(), example, ("logits",), states=("keys", "values"))
    example |= {"keys": torch.zeros(shape), "values": torch.zeros(shape)}
    return Stage("step", Step(model).eval(), example, ("logits", "new_keys", "new_values"))


def check(found: Resolved, config: Mapping[str, Any]) -> None:
    """Raises ModelError for what config.json already shows: another architecture, tower or decoder than those that fit."""
    kind = config.get("model_type")
    if kind != "llava":
        raise refuse(
            found,
            f"is a {kind} model, which is not cut into stages",
            "LLaVA's one image size and plain merge of image features into the prompt are (llava); "
            "models that tile images, merge tokens or attend both ways are not",
        )
    tower = (config.get("vision_config") or {}).get("model_type", "clip_vision_model")
    if tower not in TOWERS:
        raise refuse(found, f"has the vision tower {tower}", f"towers with one image size are cut into stages: {', '.join(TOWERS)}")
    decoder = (config.get("text_config") or {}).get("model_type", "llama")
    if decoder not in DECODERS:
        raise refuse(found, f"has the language model {decoder}", f"those cut into stages: {', '.join(DECODERS)}")


def refuse_moving_rope(found: Resolved, text: Any) -> None:
    kind = (getattr(text, "rope_parameters", None) or {}).get("rope_type", "default")
    if kind not in FIXED_ROPE:
        raise refuse(
            found,
            f"has rotary positions of the type {kind}",
            "their frequencies change with the length of the text, an exported program's do not",
        )


def context_for(found: Resolved, text: Any, asked: int | None, image_tokens: int) -> int:
    """The places of the caches. Raises UsageError for more than the model has, or than its window sees; and for fewer than one image takes."""
    window = window_of(text)
    if window is not None and asked is not None and window < asked <= text.max_position_embeddings:
        raise UsageError(
            f"{found.source!r} does not attend over {asked} tokens",
            why=f"its layers see the last {window} only, and the stages' masks leave no window out",
            fix=f"--context {window}",
        )
    positions = min(text.max_position_embeddings, window or text.max_position_embeddings)
    return context_of(found, asked, positions, image_tokens + 2, f"one image takes {image_tokens} places")


def window_of(text: Any) -> int | None:
    """Tokens that the layers with the shortest sight attend over; None where all see all."""
    window = getattr(text, "sliding_window", None)
    kinds = getattr(text, "layer_types", None)
    return window if window and (kinds is None or "sliding_attention" in kinds) else None
