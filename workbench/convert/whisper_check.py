"""Do a Whisper in transformers and its mlx-whisper folder compute the same? One random log-mel and eight tokens through both.

    same_logits(Path("hub"), Path("mlx"), dims, None, print, "the converted folder", "whisper-small")
    # "logits of mlx-whisper against transformers (float32): at most 2.1e-06 apart of 4.51, 8 of 8 tokens the same"

Both compute in float32 from what their folders store, with the same table of sinusoids, so a plain conversion leaves rounding alone.
A quantised model computes something else: there every packed weight must lie within one step of its group from the source's, and how
far the logits part is said.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from workbench.convert.reload import DifferentModel, require
from workbench.errors import ModelError, WorkbenchError
from workbench.models.source import Resolved

TOLERANCE = 1e-5
"""Of the largest logit, for float32 arithmetic in another order (a tiny model: 9e-7; published advice: 1e-5 with a shared table)."""
ROUNDED = {"float32": 0.0, "float16": 2e-2, "bfloat16": 1e-1}
"""Of the largest logit, where the target stores fewer digits than the source."""
MOST_STEPS = 1.0 + 1e-3
DIGITS = {"float32": 2.0**-23, "float16": 2.0**-10, "bfloat16": 2.0**-7}
"""Relative spacing: a group's scale and zero are stored in this type, and are rounded to it."""
TOKENS = 8


def same_logits(
    hub: Path, mlx: Path, dims: Mapping[str, int], bits: int | None, say: Callable[[str], None], called: str, source: str
) -> str:
    """What was compared, in words. Raises DifferentModel when the folders do not compute the same, RuntimeMissing without torch."""
    import numpy

    require()
    random = numpy.random.default_rng(0)
    mel = random.standard_normal((1, dims["n_mels"], 2 * dims["n_audio_ctx"])).astype(numpy.float32)
    tokens = random.integers(0, dims["n_vocab"], (1, TOKENS))
    say("checking: transformers")
    one, stored = _by_transformers(hub, mel, tokens, called)
    say("checking: mlx-whisper")
    other, kept = _by_mlx(mlx, mel, tokens, called)
    apart, scale = float(numpy.abs(one - other).max()), float(numpy.abs(one).max())
    same = int((one.argmax(axis=-1) == other.argmax(axis=-1)).sum())
    words = f"logits of mlx-whisper against transformers (computed in float32): at most {apart:.2g} apart of {scale:.3g}"
    words += f", {same} of {TOKENS} tokens the same"
    if bits:
        return f"{words}; {within_a_step(hub, mlx, dims, called, source)}"
    allowed = max(TOLERANCE, 0.0 if stored == kept else max(ROUNDED.get(stored, 0.0), ROUNDED.get(kept, 0.0))) * scale
    if not apart <= allowed:
        raise DifferentModel(
            f"{called} is not the same model as {source!r}",
            why=f"{words}; at most {allowed:.2g} is rounding",
            fix="nothing was written",
        )
    return words + ("" if stored == kept else f"; stored as {stored} and {kept}")


def within_a_step(hub: Path, mlx: Path, dims: Mapping[str, int], called: str, source: str) -> str:
    """Raises DifferentModel for a packed weight that is farther from the source's than its group's step: affine quantisation rounds to
    a multiple of it, and may move the group's zero by less than one (the rounding of scale and zero as stored comes on top)."""
    from mlx import core

    from workbench.models import whisper_layout
    from workbench.models.checkpoint import read_config
    from workbench.models.stt_mlx import read_weights

    settings = read_config(mlx)["quantization"]
    bits, group = int(settings["bits"]), int(settings["group_size"])
    plain = whisper_layout.to_mlx(read_weights(Resolved(hub, source)), dims, source)
    packed = read_weights(Resolved(mlx, called))
    names = [name.removesuffix(".scales") for name in packed if name.endswith(".scales")]
    worst = 0.0
    for name in names:
        scales, biases = (packed[f"{name}.{each}"].astype(core.float32) for each in ("scales", "biases"))
        again = core.dequantize(packed[f"{name}.weight"], scales, biases, group, bits)
        source_weight = plain[f"{name}.weight"].astype(core.float32)
        digits = DIGITS[str(packed[f"{name}.scales"].dtype).rpartition(".")[2]]
        rounding = digits * (2**bits * core.abs(scales) + core.abs(biases))
        step = core.repeat(core.abs(scales) + rounding, group, axis=1) + digits * core.abs(source_weight)
        steps = float((core.abs(again - source_weight) / core.maximum(step, 1e-12)).max())
        if not steps <= MOST_STEPS:
            raise DifferentModel(
                f"{called} is not {source!r} quantised to {bits} bits",
                why=f"{name}.weight is {steps:.3g} steps of its group away",
                fix="nothing was written",
            )
        worst = max(worst, steps)
    return f"{len(names)} weights in {bits} bits, each value within {worst:.2f} steps of its group"


def _by_transformers(folder: Path, mel: Any, tokens: Any, called: str) -> tuple[Any, str]:
    """(logits (n, vocabulary), the stored type)."""
    import torch
    from transformers import WhisperForConditionalGeneration

    from workbench.convert.reload import _quietly

    try:
        with _quietly():
            model, report = WhisperForConditionalGeneration.from_pretrained(
                str(folder), dtype=torch.float32, local_files_only=True, use_safetensors=True, output_loading_info=True
            )
        wrong = sorted(str(key) for name in ("missing_keys", "unexpected_keys", "mismatched_keys") for key in report.get(name, ()))
        if wrong:
            raise ModelError(
                f"transformers does not load {called} whole", why=f"{wrong[0]} is missing, unknown or of another shape"
            )
        with torch.inference_mode():
            logits = model.eval()(input_features=torch.tensor(mel), decoder_input_ids=torch.tensor(tokens)).logits[0].numpy()
    except WorkbenchError:
        raise
    except Exception as error:  # loaders raise many types
        raise ModelError(
            f"transformers cannot load {called}", why=f"{type(error).__name__}: {error}".splitlines()[0][:300]
        ) from error
    return logits, _stored(folder)


def _by_mlx(folder: Path, mel: Any, tokens: Any, called: str) -> tuple[Any, str]:
    from mlx_whisper import whisper

    from workbench.models import options
    from workbench.models.checkpoint import read_config
    from workbench.models.stt_mlx import MLXWhisper

    settings = options.read("mlx", {"dtype": "float32", "dequantise": "true"}, options.SPEECH)
    found = Resolved(folder, called)
    runtime = MLXWhisper(found, read_config(folder), {}, settings, whisper.Whisper, whisper.ModelDimensions)
    logits = runtime.teacher_forced(runtime.encode(mel), tokens)[0]
    runtime.close()
    return logits, _stored(folder)


def _stored(folder: Path) -> str:
    """The type of the first convolution, which is never packed."""
    from workbench.models.stt_mlx import read_weights

    arrays = read_weights(Resolved(folder, ""))
    name = next(each for each in arrays if each.endswith("encoder.conv1.weight"))
    return str(arrays[name].dtype).rpartition(".")[2]
