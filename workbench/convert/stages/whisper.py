"""Whisper in two programs: an encoder that also computes what every step attends to, and a decoder that adds a token.

    stages = whisper_stages(folder, config, stateful=False)
    stages["encoder"].outputs        # ("encoded", "cross_keys", "cross_values")

L decoder layers, H heads, head size D, S places (the context), V tokens, width d, F frames of log-mel:

- ``encoder``: mel (1, mels, F) -> encoded (1, F/2, d), cross_keys and cross_values (L, H, F/2, D), computed once a window
- ``step``: tokens int32 (1, 1), positions int32 (1, 1), mask (1, 1, 1, S), cross_keys, cross_values, keys and values (L, H, S, D) ->
  logits (1, 1, V), cross_attention (L, H, 1, F/2) for word times, new_keys and new_values. Stateful: keys and values are float16
  states instead.

All else is float32. Masks are ``workbench.models.masks``'s. The prompt goes through ``step`` too: it has three or four tokens.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from workbench.convert.stages import feeding
from workbench.convert.stages.caches import WithCross, Written, place_of
from workbench.convert.stages.loading import context_of, load, located
from workbench.convert.stages.naming import Names
from workbench.convert.stages.stage import Stage, StageSet
from workbench.errors import ModelError
from workbench.models.source import Resolved
from workbench.models.speech_to_text import FAMILY
from workbench.models.whisper_layout import is_dimensions

CLASS = "WhisperForConditionalGeneration"


class Encoder(torch.nn.Module):
    def __init__(self, model: Any):
        super().__init__()
        layers = model.model.decoder.layers
        self.encoder = model.model.encoder
        self.cross_keys = torch.nn.ModuleList(layer.encoder_attn.k_proj for layer in layers)
        self.cross_values = torch.nn.ModuleList(layer.encoder_attn.v_proj for layer in layers)
        self.heads = model.config.decoder_attention_heads

    def forward(self, mel: Any) -> Any:
        encoded = self.encoder(mel).last_hidden_state
        keys, values = (
            torch.cat([self._by_head(project(encoded)) for project in projections])
            for projections in (self.cross_keys, self.cross_values)
        )
        return encoded, keys, values

    def _by_head(self, projected: Any) -> Any:
        """(windows, frames, width) -> (windows, heads, frames, head size)"""
        return projected.view(projected.shape[0], projected.shape[1], self.heads, projected.shape[2] // self.heads).transpose(1, 2)


class Decoder(torch.nn.Module):
    def __init__(self, model: Any):
        super().__init__()
        self.decoder = model.model.decoder
        self.proj_out = model.proj_out

    def decode(self, tokens: Any, positions: Any, mask: Any, own: Written, cross_keys: Any, cross_values: Any) -> Any:
        """(logits, attention to the sound)"""
        found = self.decoder(
            input_ids=tokens,
            attention_mask=mask,
            position_ids=positions,
            past_key_values=WithCross(own, cross_keys, cross_values),
            encoder_hidden_states=cross_keys[:1, 0],  # only whether there is one is asked: keys and values come from the cache
            use_cache=True,
            output_attentions=True,
        )
        return self.proj_out(found.last_hidden_state), torch.cat(found.cross_attentions)


class Step(Decoder):
    """With the caches as inputs and outputs."""

    def forward(self, tokens: Any, positions: Any, mask: Any, cross_keys: Any, cross_values: Any, keys: Any, values: Any) -> Any:
        own = Written(keys, values, place_of(positions, keys.shape[2]))
        logits, attention = self.decode(tokens, positions, mask, own, cross_keys, cross_values)
        return logits, attention, *own.written()


class StatefulStep(Decoder):
    """With the caches as buffers that each call changes."""

    def __init__(self, model: Any, shape: tuple[int, ...]):
        super().__init__(model)
        self.register_buffer("keys", torch.zeros(shape, dtype=torch.float16))
        self.register_buffer("values", torch.zeros(shape, dtype=torch.float16))

    def forward(self, tokens: Any, positions: Any, mask: Any, cross_keys: Any, cross_values: Any) -> Any:
        own = Written(self.keys, self.values, place_of(positions, self.keys.shape[2]))
        logits, attention = self.decode(tokens, positions, mask, own, cross_keys, cross_values)
        keys, values = own.written()
        self.keys.copy_(keys.to(torch.float16))
        self.values.copy_(values.to(torch.float16))
        return logits, attention


def whisper_stages(folder: Path | Resolved, config: Mapping[str, Any], *, stateful: bool, context: int | None = None) -> StageSet:
    """The two stages of a Whisper of any size and vocabulary.

    Raises ModelError for a folder that transformers cannot load whole, UsageError for a context that the model has not.
    """
    found = located(folder)
    if is_dimensions(config):
        raise ModelError(
            f"{found.source!r} is a Whisper in mlx-whisper's layout",
            why="stages are cut from transformers' model",
            fix=f"workbench convert mlx:{found.source} --to transformers",
        )
    model = load(found, config, CLASS)
    settings = model.config
    heads = settings.decoder_attention_heads
    sizes = {
        "layers": settings.decoder_layers,
        "heads": heads,
        "head_size": settings.d_model // heads,
        "hidden": settings.d_model,
        "vocabulary": model.proj_out.out_features,
        "context": context_of(found, context, settings.max_target_positions, 8, "a prompt takes up to 4 tokens"),
        "mels": settings.num_mel_bins,
        "frames": settings.max_source_positions * 2,
    }
    names = Names(model, found.folder, FAMILY)
    encoder = Stage(
        "encoder",
        Encoder(model).eval(),
        {"mel": torch.zeros(1, sizes["mels"], sizes["frames"])},
        ("encoded", "cross_keys", "cross_values"),
    )
    stages = tuple(names.told(stage) for stage in (encoder, step(model, sizes, stateful)))
    return StageSet(FAMILY, "whisper", stages, sizes, (), feeding.speech)


def step(model: Any, sizes: Mapping[str, int], stateful: bool) -> Stage:
    layers, heads, size = sizes["layers"], sizes["heads"], sizes["head_size"]
    cross, own = (layers, heads, sizes["frames"] // 2, size), (layers, heads, sizes["context"], size)
    example = {
        "tokens": torch.zeros(1, 1, dtype=torch.int32),
        "positions": torch.zeros(1, 1, dtype=torch.int32),
        "mask": torch.zeros(1, 1, 1, sizes["context"]),
        "cross_keys": torch.zeros(cross),
        "cross_values": torch.zeros(cross),
    }
    outputs = ("logits", "cross_attention")
    if stateful:
        return Stage("step", StatefulStep(model, own).eval(), example, outputs, states=("keys", "values"))
    example |= {"keys": torch.zeros(own), "values": torch.zeros(own)}
    return Stage("step", Step(model).eval(), example, (*outputs, "new_keys", "new_values"))
