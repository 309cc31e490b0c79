"""The demo recogniser's speed on each runtime that is here, utterance by utterance in turn: host evidence, of this machine, now.

demo:stt@mlx          RTF 0.061 (16.4 x real time), 1.21 x the time of demo:stt@torch (0.98 to 1.40)   20 utterances, 51.3 s of speech
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from statistics import median, quantiles
from typing import Any

MODELS = (
    "demo:stt@torch",
    "demo:stt@torch?loop=own",
    "demo:stt@torch?dtype=bfloat16",
    "demo:stt@mlx",
    "demo:stt@mlx?library=mlx-audio",
    "demo:stt@mlx?bits=4",
    "demo:stt@onnx",
)
"""The first is what the others are divided by; ``loop=own`` is transformers' ``generate``."""


def rounds(names: Sequence[str], limit: int) -> tuple[dict[str, list[float]], list[float], Any]:
    """Seconds of each model on each utterance, the seconds of speech, and what the runtimes say of themselves.

    All models are loaded before the first utterance, one untimed utterance warms each, and the order turns by one every time.
    """
    from workbench.models.loading import open_speech_to_text
    from workbench.registry import get_backend
    from workbench.tasks.catalogue import load_task
    from workbench.types import ModelSpec

    get_backend("mlx").prepare({})  # the BLAS route has to be there before MLX is imported
    task = load_task("asr-sample")
    samples = list(task.load().samples)
    samples = samples[:: max(1, len(samples) // (limit + 1))][: limit + 1]
    specs = {name: ModelSpec.parse(name) for name in names}
    models = {name: open_speech_to_text(spec) for name, spec in specs.items()}
    times: dict[str, list[float]] = {name: [] for name in names}
    for turn, sample in enumerate(samples):
        for place in range(len(names)):
            name = names[(turn + place) % len(names)]
            (output,) = models[name].answer([task.ask(sample)], task.generation)
            if output.error is not None:
                raise SystemExit(f"{name} failed on {sample.id}: {output.error['what']}")
            if turn:
                times[name].append(output.timing.total)
    evidence = {name: get_backend(spec.backend).evidence(dict(spec.options)) for name, spec in specs.items()}
    return times, [sample.meta["duration"] for sample in samples[1:]], evidence


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--limit", type=int, default=20, help="utterances")
    parser.add_argument("--model", action="append", metavar="M", help="instead of the demo recogniser on every runtime; repeatable")
    parser.add_argument("--out", type=Path, help="also write the figures here, as JSON")
    arguments = parser.parse_args()
    from workbench.backends.hardware import describe_hardware

    names = tuple(arguments.model or MODELS)
    hardware = describe_hardware("torch", {})
    times, audio, evidence = rounds(names, arguments.limit)
    speech = sum(audio)
    print(f"machine: {hardware.get('cpu')}, {hardware.get('cores')} cores; {len(audio)} utterances, {speech:.1f} s of speech, one at a time")
    figures: dict[str, Any] = {"hardware": hardware, "n": len(audio), "audio_seconds": speech}
    reference = times[names[0]]
    for name in names:
        rtf = sum(times[name]) / speech
        ratios = [one / other for one, other in zip(times[name], reference, strict=True)]
        low, _, high = quantiles(ratios, n=4) if len(ratios) > 1 else (ratios[0],) * 3
        beside = "" if name == names[0] else f", {median(ratios):.2f} x the time of {names[0]} (quartiles {low:.2f} to {high:.2f})"
        print(f"{name:<32} RTF {rtf:.3f}, RTFx {1 / rtf:.1f} ({evidence[name]}){beside}")
        figures[name] = {"rtf": rtf, "rtfx": 1 / rtf, "evidence": evidence[name], "ratio": median(ratios), "seconds": times[name]}
    if arguments.out:
        arguments.out.write_text(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()
