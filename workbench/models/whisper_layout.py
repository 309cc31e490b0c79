"""Whisper's weights under their three names: transformers', and the one that mlx-whisper and mlx-audio share.

    dims = dimensions(config)                     # of either config.json: {"n_mels": 80, "n_audio_state": 96, ...}
    weights = to_mlx(arrays, dims, "demo:stt")    # every weight there, of the right shape, and no other; else ModelError naming it

MLX keeps a convolution as (out, kernel, in), transformers as (out, in, kernel); the libraries compute the encoder's table of
sinusoids anew and so drop the checkpoint's (``POSITIONS``), which parts the encoders by 1e-4. Names and shapes were read from
transformers 5.23 ``models/whisper/modeling_whisper.py``, mlx-whisper 0.4.3 ``whisper.py``, mlx-audio 0.6.2 ``stt/models/whisper``.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from workbench.errors import ModelError

TO_DIMENSIONS = {
    "n_mels": "num_mel_bins",
    "n_audio_ctx": "max_source_positions",
    "n_audio_state": "d_model",
    "n_audio_head": "encoder_attention_heads",
    "n_audio_layer": "encoder_layers",
    "n_vocab": "vocab_size",
    "n_text_ctx": "max_target_positions",
    "n_text_state": "d_model",
    "n_text_head": "decoder_attention_heads",
    "n_text_layer": "decoder_layers",
}
POSITIONS = "encoder._positional_embedding"
"""The encoder's table in MLX's naming: no parameter there, so published checkpoints lack it; mlx-whisper takes it where it is."""
ALIGNMENT = "alignment_heads"
"""Pairs (layer, head) for word times; mlx-whisper stores them among the weights."""
TIED = "proj_out.weight"
PACKED = ("scales", "biases")


@dataclass(frozen=True, slots=True)
class Weight:
    """``shape`` as transformers has it; a ``kernel`` is transposed for MLX."""

    hub: str
    mlx: str
    shape: tuple[int, ...]
    kernel: bool = False

    @property
    def mlx_shape(self) -> tuple[int, ...]:
        return (self.shape[0], self.shape[2], self.shape[1]) if self.kernel else self.shape


def is_dimensions(config: Mapping[str, Any]) -> bool:
    """Is this mlx-whisper's config.json, which names no model_type?"""
    return all(isinstance(config.get(name), int) for name in TO_DIMENSIONS)


def is_whisper(config: Mapping[str, Any]) -> bool:
    """Is config.json a Whisper's, of transformers or of mlx-whisper?"""
    return is_dimensions(config) or config.get("model_type") == "whisper"


def dimensions(config: Mapping[str, Any], source: str = "the model") -> dict[str, int]:
    """Whisper's ten sizes by mlx-whisper's names.

    Raises ModelError for what a config.json lacks, and for what transformers would compute and the MLX libraries would not.
    """
    if is_dimensions(config):
        found = {name: int(config[name]) for name in TO_DIMENSIONS}
    else:
        missing = [name for name in TO_DIMENSIONS.values() if not isinstance(config.get(name), int)]
        if missing:
            raise ModelError(f"config.json of {source!r} lacks {missing[0]}", why="a Whisper's config.json says it")
        found = {name: int(config[other]) for name, other in TO_DIMENSIONS.items()}
    width = found["n_audio_state"]
    wrong = [
        f"{name} is {config.get(name, default)!r}"
        for name, default in (
            ("activation_function", "gelu"),
            ("scale_embedding", False),
            ("tie_word_embeddings", True),
            ("encoder_ffn_dim", 4 * width),
            ("decoder_ffn_dim", 4 * width),
        )
        if config.get(name, default) != default
    ]
    wrong += [f"n_text_state is {found['n_text_state']} and n_audio_state {width}"] if found["n_text_state"] != width else []
    wrong += [f"{name} is {found[name]}" for name in TO_DIMENSIONS if found[name] < 1]
    wrong += [
        f"a width of {width} is not divided by {found[heads]} heads"
        for heads in ("n_audio_head", "n_text_head")
        if found[heads] > 0 and width % found[heads]
    ]
    if wrong:
        raise ModelError(
            f"{source!r} is no Whisper that MLX computes", why=f"{wrong[0]}: both libraries have it built in", fix=f"torch:{source}"
        )
    return found


def weights(dims: Mapping[str, int]) -> Iterator[Weight]:
    """Every weight of a Whisper, the encoder's table among them; ``proj_out`` is the token embedding and so none."""
    width, wide = dims["n_audio_state"], 4 * dims["n_audio_state"]

    def both(hub: str, mlx: str, rows: int, columns: int | None = None, bias: bool = True) -> Iterator[Weight]:
        yield Weight(f"{hub}.weight", f"{mlx}.weight", (rows,) if columns is None else (rows, columns))
        if bias:
            yield Weight(f"{hub}.bias", f"{mlx}.bias", (rows,))

    def attention(hub: str, mlx: str) -> Iterator[Weight]:
        for one, other in (("q_proj", "query"), ("k_proj", "key"), ("v_proj", "value"), ("out_proj", "out")):
            yield from both(f"{hub}.{one}", f"{mlx}.{other}", width, width, bias=one != "k_proj")

    yield Weight("encoder.conv1.weight", "encoder.conv1.weight", (width, dims["n_mels"], 3), kernel=True)
    yield Weight("encoder.conv1.bias", "encoder.conv1.bias", (width,))
    yield Weight("encoder.conv2.weight", "encoder.conv2.weight", (width, width, 3), kernel=True)
    yield Weight("encoder.conv2.bias", "encoder.conv2.bias", (width,))
    yield Weight("encoder.embed_positions.weight", POSITIONS, (dims["n_audio_ctx"], width))
    yield Weight("decoder.embed_tokens.weight", "decoder.token_embedding.weight", (dims["n_vocab"], width))
    yield Weight("decoder.embed_positions.weight", "decoder.positional_embedding", (dims["n_text_ctx"], width))
    for part, layers, last in (("encoder", "n_audio_layer", "ln_post"), ("decoder", "n_text_layer", "ln")):
        for number in range(dims[layers]):
            hub, mlx = f"{part}.layers.{number}", f"{part}.blocks.{number}"
            yield from attention(f"{hub}.self_attn", f"{mlx}.attn")
            yield from both(f"{hub}.self_attn_layer_norm", f"{mlx}.attn_ln", width)
            if part == "decoder":
                yield from attention(f"{hub}.encoder_attn", f"{mlx}.cross_attn")
                yield from both(f"{hub}.encoder_attn_layer_norm", f"{mlx}.cross_attn_ln", width)
            yield from both(f"{hub}.fc1", f"{mlx}.mlp1", wide, width)
            yield from both(f"{hub}.fc2", f"{mlx}.mlp2", width, wide)
            yield from both(f"{hub}.final_layer_norm", f"{mlx}.mlp_ln", width)
        yield from both(f"{part}.layer_norm", f"{part}.{last}", width)


def parameter_count(dims: Mapping[str, int]) -> int:
    """As transformers counts them: with the encoder's table, the tied output once."""
    return sum(math.prod(each.shape) for each in weights(dims))


def named_by_transformers(names: Any) -> bool:
    """Do the weights have transformers' names?"""
    return any(name.removeprefix("model.").startswith(("encoder.layers.", "decoder.layers.")) for name in names)


def to_mlx(found: Mapping[str, Any], dims: Mapping[str, int], source: str, quantisation: Mapping[str, Any] | None = None) -> dict:
    """``found`` (numpy or MLX arrays) by MLX's names, kernels transposed; ``POSITIONS`` and ``ALIGNMENT`` where the checkpoint has them.

    ``quantisation`` is config.json's (``bits``, ``group_size``). Raises ModelError naming the first weight that is missing, unknown
    or of another shape.
    """
    if not named_by_transformers(found):
        checked(found, {each.mlx: each.mlx_shape for each in weights(dims)}, source, (POSITIONS, ALIGNMENT), quantisation)
        return dict(found)
    plain = {name.removeprefix("model."): value for name, value in found.items()}
    checked(plain, {each.hub: each.shape for each in weights(dims)}, source, (TIED,), quantisation)
    if TIED in plain and not bool((plain[TIED] == plain["decoder.embed_tokens.weight"]).all()):
        raise ModelError(f"{TIED} of {source!r} is not the token embedding", why="the MLX libraries have one weight for both")
    made: dict[str, Any] = {}
    for each in weights(dims):
        value = plain[each.hub]
        made[each.mlx] = value.transpose(0, 2, 1) if each.kernel else value
        for name in PACKED:
            other = f"{each.hub.removesuffix('.weight')}.{name}"
            if other in plain:
                made[f"{each.mlx.removesuffix('.weight')}.{name}"] = plain[other]
    return made


def to_hub(found: Mapping[str, Any], dims: Mapping[str, int], source: str) -> dict[str, Any]:
    """The other way: ``found`` by MLX's names, with ``POSITIONS``, by transformers' (``model.encoder...``), without the tied output."""
    checked(found, {each.mlx: each.mlx_shape for each in weights(dims)}, source, (ALIGNMENT,), None)
    return {f"model.{each.hub}": found[each.mlx].transpose(0, 2, 1) if each.kernel else found[each.mlx] for each in weights(dims)}


def checked(
    found: Mapping[str, Any],
    wanted: Mapping[str, tuple[int, ...]],
    source: str,
    optional: tuple[str, ...],
    quantisation: Mapping[str, Any] | None,
) -> None:
    """Raises ModelError for the first weight that is missing, of another shape, or not of the architecture."""
    fix = "export or convert the model again"
    expected = dict(wanted)
    if quantisation:
        for name, shape in wanted.items():
            layer = name.removesuffix(".weight")
            if name.endswith(".weight") and f"{layer}.scales" in found and len(shape) == 2:
                bits, group = int(quantisation["bits"]), int(quantisation["group_size"])
                expected[name] = (shape[0], shape[1] * bits // 32)
                expected |= {f"{layer}.{each}": (shape[0], shape[1] // group) for each in PACKED}
    for name, shape in expected.items():
        if name not in found:
            if name in optional:
                continue
            raise ModelError(f"{source!r} lacks the weight {name}", why="its config.json asks for it", fix=fix)
        have = tuple(found[name].shape)
        if have != shape:
            raise ModelError(
                f"the weight {name} of {source!r} has the shape {list(have)}",
                why=f"its config.json asks for {list(shape)}",
                fix=fix,
            )
    unknown = sorted(name for name in found if name not in expected and name not in optional)
    if unknown:
        more = f" and {len(unknown) - 1} more" if len(unknown) > 1 else ""
        raise ModelError(f"{source!r} has an unknown weight {unknown[0]}{more}", why="its config.json has no place for it", fix=fix)


def alignment_heads(generation: Mapping[str, Any], dims: Mapping[str, int], source: str) -> list[list[int]] | None:
    """The (layer, head) pairs of generation_config.json; None where there are none. Raises ModelError for heads that do not exist."""
    heads = generation.get(ALIGNMENT)
    if not heads:
        return None
    good = isinstance(heads, list) and all(
        isinstance(pair, list)
        and len(pair) == 2
        and all(isinstance(each, int) for each in pair)
        and 0 <= pair[0] < dims["n_text_layer"]
        and 0 <= pair[1] < dims["n_text_head"]
        for pair in heads
    )
    if not good:
        raise ModelError(
            f"generation_config.json of {source!r} names alignment heads that the model does not have", why=str(heads)[:200]
        )
    return heads
