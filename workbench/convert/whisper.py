"""A Whisper of transformers laid out for mlx-whisper, quantised if asked for, and the other way; checked by what the models compute.

    done = to_mlx_whisper(Path("whisper-small"), Path("whisper-small-mlx"), bits=4)
    done.check      # "logits of mlx-whisper against transformers: at most 0.31 apart of 14.2, 7 of 8 tokens the same; ..."
    to_transformers(Path("whisper-small-mlx"), Path("whisper-small-again"))

The way there and back keeps every bit of float32 and float16 weights. mlx-whisper's published folders lack three things that
transformers has, and lose nothing by them here: the encoder's table of sinusoids lies among the weights (the library takes it), the
configuration beside them, and the tokenizer's files are copied.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from workbench.convert import saved as folders
from workbench.convert.hub_layout import NOT_CHECKED, _draft, _write_json
from workbench.convert.saved import WEIGHTS
from workbench.errors import ModelError, RuntimeMissing, UsageError
from workbench.models import checkpoint, whisper_layout
from workbench.models.source import Resolved

MLX_WEIGHTS = "weights.safetensors"
KEPT_CONFIG = "transformers_config.json"
"""transformers' config.json within an mlx-whisper folder, whose own may hold nothing but ModelDimensions."""
OWN_FILES = {"config.json", KEPT_CONFIG, MLX_WEIGHTS, checkpoint.NPZ, WEIGHTS}
DTYPES = ("float32", "float16", "bfloat16")
MULTILINGUAL_FROM = 51865


@dataclass(frozen=True)
class Converted:
    """``quantised`` and ``plain``: names of weights that were packed and that were not; empty lists when nothing was."""

    target: Path
    weights: int
    dtype: str
    copied: list[str] = field(default_factory=list)
    written: list[str] = field(default_factory=list)
    left_out: list[tuple[str, str]] = field(default_factory=list)
    quantised: list[str] = field(default_factory=list)
    plain: list[str] = field(default_factory=list)
    check: str = NOT_CHECKED


def to_mlx_whisper(
    source: Path,
    target: Path,
    *,
    bits: int | None = None,
    group_size: int = 32,
    dtype: str | None = None,
    check: bool = True,
    say: Callable[[str], None] | None = None,
) -> Converted:
    """Write transformers' folder ``source`` to the new folder ``target`` as mlx-whisper reads it. It appears whole or not at all.

    Raises ModelError (the folder is refused), UsageError (``target`` is there, no space left), RuntimeMissing, DifferentModel.
    """
    say = say or (lambda text: None)
    core = _mlx()
    saved = folders.read(source)
    if whisper_layout.is_dimensions(saved.config) or not whisper_layout.is_whisper(saved.config):
        raise ModelError(
            f"{saved.name!r} is no Whisper of transformers", why=f"its model_type is {saved.config.get('model_type')!r}"
        )
    _refuse_existing(target)
    dims = whisper_layout.dimensions(saved.config, saved.name)
    arrays = whisper_layout.to_mlx(_read(source), dims, saved.name)
    arrays = {name: value.astype(getattr(core, dtype)) for name, value in arrays.items()} if dtype else arrays
    config: dict[str, Any] = dict(dims)
    quantised: list[str] = []
    if bits:
        arrays, quantised = _packed(arrays, dims, bits, group_size)
        config["quantization"] = {"group_size": group_size, "bits": bits}
    plain = sorted(name for name in arrays if name not in quantised and not name.endswith((".scales", ".biases"))) if bits else []
    heads = whisper_layout.alignment_heads(_json(source / "generation_config.json"), dims, saved.name)
    if heads:
        arrays[whisper_layout.ALIGNMENT] = core.array(heads, dtype=core.uint32)
    with _draft(target, sum(value.nbytes for value in arrays.values())) as draft:
        say(f"writing {MLX_WEIGHTS}")
        _save(draft / MLX_WEIGHTS, arrays, {"format": "mlx"})
        _write_json(draft / "config.json", config)
        _write_json(draft / KEPT_CONFIG, saved.config)
        copied = _copy(source, draft, saved.files)
        words = _compared(source, draft, dims, bits, say, mlx_is_source=False) if check else NOT_CHECKED
        os.rename(draft, target)
    kept = _dtype(arrays)
    return Converted(target, len(arrays), kept, copied, [KEPT_CONFIG], saved.left_out, quantised, plain, words)


def to_transformers(
    source: Path, target: Path, *, dtype: str | None = None, check: bool = True, say: Callable[[str], None] | None = None
) -> Converted:
    """The other way: an mlx-whisper folder (safetensors or npz) as transformers reads it. Quantised weights are refused: what was
    rounded away is not in them. Raises as ``to_mlx_whisper``."""
    say = say or (lambda text: None)
    core = _mlx()
    checkpoint.check(source)
    config = checkpoint.read_config(source)
    name = source.resolve().name
    if not whisper_layout.is_dimensions(config):
        raise ModelError(f"{name!r} is not laid out for mlx-whisper", why="its config.json holds no ModelDimensions")
    if config.get("quantization"):
        raise ModelError(
            f"{name!r} is quantised ({checkpoint.describe_quantisation(config)})",
            why="what quantisation rounded away cannot be had back",
            fix="convert the folder as it was before it was quantised",
        )
    _refuse_existing(target)
    dims = whisper_layout.dimensions(config, name)
    arrays = whisper_layout.to_mlx(_read(source), dims, name)
    heads = arrays.pop(whisper_layout.ALIGNMENT, None)
    if whisper_layout.POSITIONS not in arrays:
        arrays[whisper_layout.POSITIONS] = _sinusoids(dims).astype(arrays["encoder.conv1.weight"].dtype)
    arrays = whisper_layout.to_hub(arrays, dims, name)
    arrays = {key: value.astype(getattr(core, dtype)) for key, value in arrays.items()} if dtype else arrays
    files, left_out = folders._others(source, OWN_FILES, False)
    with _draft(target, sum(value.nbytes for value in arrays.values())) as draft:
        say(f"writing {WEIGHTS}")
        _save(draft / WEIGHTS, arrays, {"format": "pt"})
        _write_json(draft / "config.json", _hub_config(source, dims, _dtype(arrays)))
        copied = _copy(source, draft, files)
        written = _companions(draft, dims, heads)
        words = _compared(draft, source, dims, None, say, mlx_is_source=True) if check else NOT_CHECKED
        os.rename(draft, target)
    return Converted(target, len(arrays), _dtype(arrays), copied, written, left_out, check=words)


def _mlx() -> Any:
    """``mlx.core``, with the BLAS route where there is one. Raises RuntimeMissing without mlx-whisper."""
    from importlib.util import find_spec

    from workbench.backends.mlx import import_mlx, open_route

    if find_spec("mlx_whisper") is None:
        raise RuntimeMissing(
            "Whisper is not converted here", why="mlx-whisper is not installed", fix="pip install 'parity-workbench[mlx]'"
        )
    open_route({})
    return import_mlx()


def _refuse_existing(target: Path) -> None:
    if os.path.lexists(target):
        raise UsageError(f"{target} is there already", why="nothing is written over it", fix="--out ANOTHER-FOLDER")


def _read(folder: Path) -> dict[str, Any]:
    from workbench.models.stt_mlx import read_weights

    return read_weights(Resolved(folder, folder.resolve().name))


def _save(path: Path, arrays: Mapping[str, Any], metadata: dict[str, str]) -> None:
    from mlx import core

    core.save_safetensors(str(path), dict(arrays), metadata)
    with open(path, "rb+") as file:
        os.fsync(file.fileno())


def _copy(source: Path, draft: Path, names: list[str]) -> list[str]:
    import shutil

    for name in names:
        (draft / name).parent.mkdir(exist_ok=True)
        shutil.copyfile(source / name, draft / name)
    return list(names)


def _json(path: Path) -> dict[str, Any]:
    from workbench.models.loading import read_json

    return read_json(path)


def _dtype(arrays: Mapping[str, Any]) -> str:
    from mlx import core

    return ", ".join(
        sorted({str(each.dtype).rpartition(".")[2] for each in arrays.values() if core.issubdtype(each.dtype, core.floating)})
    )


def _packed(arrays: Mapping[str, Any], dims: Mapping[str, int], bits: int, group_size: int) -> tuple[dict[str, Any], list[str]]:
    """(weights with packed layers, names of the packed ones). Packed by mlx-whisper's own layers, as its loader expects them."""
    from mlx.utils import tree_flatten
    from mlx_whisper import whisper

    from workbench.models import mlx_weights

    model = whisper.Whisper(whisper.ModelDimensions(**dims))
    table = arrays[whisper_layout.POSITIONS]
    rest = {name: value for name, value in arrays.items() if name != whisper_layout.POSITIONS}
    model.load_weights([*rest.items(), (whisper_layout.ALIGNMENT, model.alignment_heads)], strict=True)
    mlx_weights.quantise(model, bits, group_size)
    names = mlx_weights.precision_record(model)["quantised"]
    made = {name: value for name, value in tree_flatten(model.parameters()) if name != whisper_layout.ALIGNMENT}
    return {**made, whisper_layout.POSITIONS: table}, names


def _sinusoids(dims: Mapping[str, int]) -> Any:
    """The table as transformers makes it for a new model: published checkpoints hold it."""
    from mlx import core

    try:
        from transformers.models.whisper.modeling_whisper import sinusoids
    except ImportError as error:
        raise RuntimeMissing(
            "the encoder's table cannot be made",
            why="the folder lacks it, and torch is not here",
            fix="pip install 'parity-workbench[torch]'",
        ) from error
    return core.array(sinusoids(dims["n_audio_ctx"], dims["n_audio_state"]).numpy())


def _hub_config(source: Path, dims: Mapping[str, int], dtype: str) -> dict[str, Any]:
    """transformers' config.json: the one kept in the folder when it fits the weights, else one made of the sizes."""
    kept = _json(source / KEPT_CONFIG)
    if kept and whisper_layout.dimensions(kept, source.name) == dict(dims):
        return {**kept, "dtype": dtype} if "dtype" in kept else {**kept, "torch_dtype": dtype}
    end = 50257 if dims["n_vocab"] >= MULTILINGUAL_FROM else 50256
    wide = 4 * dims["n_audio_state"]
    sizes = {name: dims[ours] for ours, name in whisper_layout.TO_DIMENSIONS.items()}
    ends = {"bos_token_id": end, "eos_token_id": end, "pad_token_id": end, "decoder_start_token_id": end + 1}
    fixed = {"activation_function": "gelu", "scale_embedding": False, "tie_word_embeddings": True, "is_encoder_decoder": True}
    named = {"architectures": ["WhisperForConditionalGeneration"], "model_type": "whisper", "torch_dtype": dtype}
    return {**named, **sizes, "encoder_ffn_dim": wide, "decoder_ffn_dim": wide, **ends, **fixed}


def _companions(draft: Path, dims: Mapping[str, int], heads: Any) -> list[str]:
    """Write what transformers reads and the folder lacks: feature extractor, tokenizer, alignment heads. Returns the names."""
    written = []
    if not (draft / "preprocessor_config.json").exists():
        sound = {"sampling_rate": 16000, "hop_length": 160, "n_fft": 400, "chunk_length": 30, "padding_value": 0.0}
        made = {"feature_extractor_type": "WhisperFeatureExtractor", "feature_size": dims["n_mels"], **sound}
        _write_json(draft / "preprocessor_config.json", {**made, "return_attention_mask": False})
        written.append("preprocessor_config.json")
    if not (draft / "tokenizer.json").exists():
        from workbench.convert.whisper_tokenizer import write_tokenizer

        written += write_tokenizer(draft, dims["n_vocab"])
    if heads is not None and not (draft / "generation_config.json").exists():
        pairs = [[int(each) for each in pair] for pair in heads.tolist()]
        ids = {name: value for name, value in _json(draft / "config.json").items() if name.endswith("_token_id")}
        _write_json(draft / "generation_config.json", {**ids, "alignment_heads": pairs})
        written.append("generation_config.json")
    return written


def _compared(
    hub: Path, mlx: Path, dims: Mapping[str, int], bits: int | None, say: Callable[[str], None], mlx_is_source: bool
) -> str:
    from workbench.convert.whisper_check import same_logits

    return same_logits(hub, mlx, dims, bits, say, "the converted folder", source=(mlx if mlx_is_source else hub).resolve().name)
