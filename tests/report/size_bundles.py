"""Bundles of one model stored in several ways: a reference on torch and converted ones whose weights are other files. No model, no runtime.

folders = compressed_runs(tmp_path)        # torch, then Core ML in fp32, int8 and palette4 (one weight was to be compressed and was not)
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.report.bundles import make_line, make_run, write_json
from tests.report.speech_bundles import SENTENCES, make_speech_run, spoken

WAYS = {"int8": "int8, a scale per channel", "palette4": "one table of 16 entries"}
NAMES = [f"model.layers.{number}.mlp.up_proj.weight" for number in range(6)]
HOSTILE = "<img src=x onerror=window.hacked=1>"


def weight(name: str, number: int, **more: Any) -> dict[str, Any]:
    """One weight of a converted model, as ``artifact.json`` lists it."""
    return {
        **{
            "dtype": "F32",
            "shape": [96, 32],
            "hash": f"{number:016x}",
            "sampled": False,
            "rms": 0.1,
            "of": name,
            "how": "as it is",
        },
        **{"kind": "none", "compression": None, "asked": None, "why_not": None, "error": 0.0, "stored_bytes": 12_288},
        **{"dense_bytes": 12_288, "value": f"w{number}", "op": "linear", "module": f"layers.{number}", "line": "model.py:7"},
        **{"stages": ["prefill", "step"], **more},
    }


def plain(number: int) -> dict[str, Any]:
    return {"dtype": "F32", "shape": [96, 32], "hash": f"{number:016x}", "sampled": False, "rms": 0.1}


def converted(
    size: int, precision: str = "fp32", quantize: str | None = None, label: str = "", stages: Any = None
) -> dict[str, Any]:
    """``artifact.json`` of a converted model; with ``quantize`` all weights but the last are compressed."""
    tensors = {}
    for number, name in enumerate(NAMES):
        more: dict[str, Any] = {}
        if quantize and number < len(NAMES) - 1:
            more = {"kind": quantize, "compression": WAYS[quantize], "asked": quantize, "error": 0.004 + number / 1000}
            more |= {"hash": f"{number + 100:016x}", "stored_bytes": 3_200}
        elif quantize:
            more = {"asked": quantize, "why_not": f"16 input channels are no multiple of the block of 32 {HOSTILE}"}
        tensors[name] = weight(name, number, **more)
    recipe = {"precision": precision, "quantize": quantize, "target": "iOS18", "stateful": True}
    about = {"runtime": "coreml", "recipe": recipe, "label": label, "source": {"name": "demo:vlm"}, "versions": {}}
    held = {
        "prefill": {"package": "decoder.mlpackage", "function": "prefill", "computes": {precision: 40}, "others": 0, "other": []}
    }
    return {
        **{"bytes": size, "files": [], "tensors": tensors, "quantisation": None, "settings": {}},
        "converted": {**about, "stages": stages or held},
    }


def with_artifact(folder: Path, artifact: dict[str, Any]) -> Path:
    write_json(folder / "artifact.json", artifact)
    return folder


def compressed_runs(where: Path, n: int = 60) -> list[Path]:
    """Of a vision-language model."""
    right = {"demo:vlm@torch": 0, "coreml:fp32": 0, "coreml:int8": 1, "coreml:palette4": 17, f"coreml:{HOSTILE}": 3}
    held = {
        "demo:vlm@torch": {
            "bytes": 11_100_000,
            "tensors": {name: plain(number) for number, name in enumerate(NAMES)},
            "settings": {},
        },
        "coreml:fp32": converted(11_300_000, label="fp32 iOS18 stateful"),
        "coreml:int8": converted(3_100_000, "fp16", "int8", "fp16 int8 iOS18 stateful"),
        "coreml:palette4": converted(1_700_000, "fp16", "palette4", "fp16 palette4 iOS18 stateful"),
        f"coreml:{HOSTILE}": converted(5_700_000, "fp16", label=f"fp16 {HOSTILE}"),
    }
    folders = []
    for place, (name, wrong) in enumerate(right.items()):
        lines = [make_line(str(number), number >= wrong, untimed=place > 0) for number in range(n)]
        evidence = "host" if place == 0 else "reference"
        folders.append(with_artifact(make_run(where, name, lines, weights=f"{place:064x}", evidence=evidence), held[name]))
    return folders


def compressed_speech(where: Path, n: int = 20) -> list[Path]:
    """Of a recogniser: the reference hears everything, the compressed one half of the last words otherwise."""
    folders = []
    for place, (name, size) in enumerate((("demo:stt@torch", 12_400_000), ("coreml:stt-int8", 3_900_000))):
        lines = []
        for number in range(n):
            said = SENTENCES[number % len(SENTENCES)]
            heard = said if place == 0 or number % 2 else f"{said.rpartition(' ')[0]} mourning"
            lines.append(spoken(str(number), said, heard, speaker=f"speaker {number % 4}"))
        held = converted(size, "fp16", "int8", "fp16 int8 iOS18") if place else {"bytes": size, "tensors": {}, "settings": {}}
        evidence = "reference" if place else "host"
        folders.append(with_artifact(make_speech_run(where, name, lines, weights=f"{place + 50:064x}", evidence=evidence), held))
    return folders
