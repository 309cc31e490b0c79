"""One name for one layer on every runtime: ``vision.block.3.attention`` whatever the libraries call the modules around it.

    layer_name("model.vision_tower.vision_model.encoder.layers.3.self_attn")    # "vision.block.3.attention"
    layer_name("language_model.model.layers.3.self_attn")                       # "text.block.3.attention"

A name is the tower (``vision``, ``projector``, ``audio``, ``text``), then what is left of the module's path when containers are
dropped and synonyms made one. Families whose libraries disagree beyond that rename with regular expressions.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence

from workbench.models.speech_to_text import FAMILY as SPEECH

PROJECTOR = frozenset(
    {
        *("multi_modal_projector", "mm_projector", "projector", "connector", "merger", "aligner", "modality_projection"),
        *("vision_embed_tokens_projector", "embed_vision", "embed_audio", "image_projection", "img_projection", "mlp1"),
        *("perceiver_resampler", "deepstack_merger_list", "vision_language_adapter", "image_projector"),
    }
)
VISION = frozenset(
    {
        *("vision_tower", "vision_model", "visual", "vision", "vision_encoder", "image_encoder", "vision_backbone", "image_vit"),
        *("vit", "vision_embed_tokens", "sam_model", "img_processor", "image_tower", "vision_tower_high", "vpm"),
    }
)
AUDIO = frozenset({"audio_tower", "audio_model", "audio_encoder"})
CONTAINERS = frozenset({"model", "language_model", "text_model", "base_model", "transformer", "encoder", "trunk", "module"})
"""Left out of a name. Encoder and decoder of a text model are kept apart by ``decoder``, which stays."""

BLOCKS = frozenset({"layers", "blocks", "h", "resblocks", "block"})
SYNONYMS = {
    **dict.fromkeys(("self_attn", "attn", "attention", "self_attention"), "attention"),
    **dict.fromkeys(("mlp", "feed_forward", "ffn"), "mlp"),
    **dict.fromkeys(("embed_tokens", "embeddings", "patch_embed", "wte", "tok_embeddings", "patch_embedder"), "embeddings"),
    **dict.fromkeys(("norm", "post_layernorm", "final_layernorm", "ln_post", "ln_f", "layernorm_post", "final_norm"), "norm"),
}
HEADS = frozenset({"lm_head", "output", "head"})


PROJECTIONS = {"query": "q_proj", "key": "k_proj", "value": "v_proj", "out": "out_proj"}
Renames = Sequence[tuple[str, str | Callable[[re.Match[str]], str]]]
SPEECH_RENAMES: Renames = (
    (r"^(\w+\.)?encoder\.", "audio_tower."),
    (r"^(\w+\.)?decoder(\.|$)", ""),
    (r"\b(encoder_attn|cross_attn)(?=\.|$)", "cross_attention"),
    (r"\b(self_attn_layer_norm|attn_ln)$", "attention_norm"),
    (r"\b(encoder_attn_layer_norm|cross_attn_ln)$", "cross_attention_norm"),
    (r"((?:layers|blocks)\.\d+\.)(?:final_layer_norm|mlp_ln)$", r"\1mlp_norm"),
    (r"\b(?:layer_norm|ln)$", "norm"),
    (r"\btoken_embedding$", "embeddings"),
    (r"\bmlp([12])$", r"fc\1"),
    (r"\b(query|key|value|out)$", lambda found: PROJECTIONS[found[1]]),
    (r"\bproj_out$", "lm_head"),
)
"""An encoder of sound is a tower of its own, the decoder writes text. Paths: transformers' ``modeling_whisper.py`` and the mlx-whisper
and mlx-audio ``whisper.py``."""
RENAMES = {SPEECH: SPEECH_RENAMES}
"""By family of model."""


def layer_name(path: str, renames: Renames = (), *, whole: bool = False) -> str | None:
    """The name of the module at ``path``; None for the containers and for what is no layer (the head: logits are recorded as output).

    ``renames`` are regular expressions and their replacements, applied to the whole path first. ``whole`` leaves the containers in.
    """
    for pattern, replacement in renames:
        path = re.sub(pattern, replacement, path)
    parts = [part for part in path.split(".") if part]
    tower = tower_of(parts)
    kept: list[str] = []
    for place, part in enumerate(parts):
        following = parts[place + 1] if place + 1 < len(parts) else ""
        if not whole and (
            part in CONTAINERS
            or (part in (*VISION, *AUDIO) and not kept)
            or (tower == "projector" and not kept and part in PROJECTOR)
        ):
            continue
        if part in BLOCKS and following.isdigit():
            kept.append("block")
        else:
            kept.append(SYNONYMS.get(part, part))
    if not kept:
        return tower if tower == "projector" and parts[-1] in PROJECTOR else None
    if tower == "text" and kept[-1] in HEADS and "block" not in kept:
        return None
    return ".".join([tower, *kept])


def tower_of(parts: Sequence[str]) -> str:
    if any(part in PROJECTOR for part in parts):
        return "projector"
    if any(part in VISION for part in parts):
        return "vision"
    return "audio" if any(part in AUDIO for part in parts) else "text"


def names_of(paths: Iterable[str], renames: Renames = ()) -> dict[str, str]:
    """``{path: name}``; of several paths with one name the outermost (first) has it. Blocks of a second stack (of another vision tower) are
    called by their whole path, so that none is left out."""
    found: dict[str, str] = {}
    taken: set[str] = set()
    for path in paths:
        name = layer_name(path, renames)
        if name in taken and ".block." in name:
            name = layer_name(path, renames, whole=True)
        if name is not None and name not in taken:
            found[path] = name
            taken.add(name)
    return found
