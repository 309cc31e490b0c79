"""What capturing costs: a forward with statistics of all layers against a plain one, interleaved; and the memory it takes.

torch  hidden 512, 12 blocks, 600 tokens   1.21 x a plain forward (target below 2)   parts of blocks too: 1.52 x
memory: 1.9 MiB above a plain forward's with 24 blocks, 1.9 MiB with 48
"""

from __future__ import annotations

import gc
import json
import sys
import tempfile
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

PAIRS = 7
TARGET = 2.0


def torch_model(blocks: int) -> tuple[Any, Callable[[], Any]]:
    """(a LLaVA-style model with random weights, a plain forward of one image and some 600 tokens)."""
    import torch
    from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration

    config = LlavaConfig(
        vision_config=CLIPVisionConfig(
            hidden_size=384,
            intermediate_size=1536,
            num_hidden_layers=blocks // 2,
            num_attention_heads=6,
            image_size=336,
            patch_size=14,
        ),
        text_config=LlamaConfig(
            vocab_size=2000,
            hidden_size=512,
            intermediate_size=1408,
            num_hidden_layers=blocks,
            num_attention_heads=8,
            num_key_value_heads=4,
        ),
        image_token_index=5,
    )
    model = LlavaForConditionalGeneration(config).eval()
    ids = torch.cat([torch.full((1, 576), 5), torch.arange(10, 34)[None]], dim=1)
    pixels = torch.randn(1, 3, 336, 336)

    def forward() -> Any:
        with torch.inference_mode():
            return model(input_ids=ids, pixel_values=pixels).logits[0].numpy()

    return model, forward


def mlx_model(torch_version: Any, folder: Path) -> tuple[Any, Callable[[], Any]]:
    """The same model in MLX."""
    import numpy
    from mlx import core
    from mlx_vlm.utils import load_model

    from workbench.convert.hub_layout import to_hub_layout
    from workbench.models.vlm_mlx import prompt_logits

    torch_version.save_pretrained(folder / "v5")
    to_hub_layout(folder / "v5", folder / "hub", check=False)
    model = load_model(folder / "hub", lazy=False, strict=True)
    ids = core.array([[5] * 576 + list(range(10, 34))])
    pixels = core.random.normal((1, 3, 336, 336))
    return model, lambda: numpy.array(prompt_logits(model, ids, pixels, None, {})[0])


def captured(model: Any, forward: Callable[[], Any], patterns: Any) -> Callable[[], Any]:
    """``forward`` with the layers that match recorded as a capture without ``--keep`` does."""
    from workbench.capture import names
    from workbench.capture.accumulate import Accumulating
    from workbench.capture.hooks import module_paths, tapped

    known = names.names_of(module_paths(model))
    outputs = names.chosen(known, patterns)
    inputs = names.first_blocks(known)

    def run() -> Any:
        tap = Accumulating(keep=False)
        with tapped(model, outputs, inputs, tap):
            tap("logits", forward())
        return tap

    return run


def ratio(plain: Callable[[], Any], with_capture: Callable[[], Any]) -> list[float]:
    """Pairwise ratios of times, after one of each to warm up; which comes first alternates."""
    found = []
    for pair in range(PAIRS + 1):
        times = {}
        for run in (plain, with_capture) if pair % 2 else (with_capture, plain):
            gc.collect()
            began = time.perf_counter()
            run()
            times[run] = time.perf_counter() - began
        found.append(times[with_capture] / times[plain])
    return found[1:]


def peak(run: Callable[[], Any]) -> int:
    """Bytes that numpy and Python hold at most while ``run`` works (the libraries' own tensors are not counted)."""
    gc.collect()
    tracemalloc.start()
    run()
    found = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return found


def main() -> int:
    from workbench.registry import get_backend

    get_backend("mlx").prepare({})  # with the BLAS that runs use, before anything imports MLX
    import torch

    from workbench.capture import names

    torch.set_num_threads(1)
    failed = False
    with tempfile.TemporaryDirectory() as folder:
        model, forward = torch_model(12)
        sides = {"torch": (model, forward), "mlx": mlx_model(model, Path(folder))}
        for name, (module, plain) in sides.items():
            row = {}
            for what, patterns in (("layers", names.COARSE), ("parts of blocks too", names.FINE)):
                pairs = ratio(plain, captured(module, plain, patterns))
                row[what] = {"ratio": round(median(pairs), 3), "pairs": [round(each, 2) for each in sorted(pairs)]}
            failed = failed or row["layers"]["ratio"] >= TARGET
            print(
                f"{name:<6} capture against a plain forward: {row['layers']['ratio']:.2f} x (target below {TARGET:g}), with the parts of each block {row['parts of blocks too']['ratio']:.2f} x"
            )
            print(json.dumps({name: row}))
    for blocks in (12, 24):
        model, forward = torch_model(blocks)
        run = captured(model, forward, names.COARSE)
        run()
        print(
            f"memory of the recording, {blocks} text blocks: {peak(run) / 2**20:.1f} MiB ({sum(each.numel() for each in model.parameters()) / 1e6:.0f} M parameters)"
        )
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
