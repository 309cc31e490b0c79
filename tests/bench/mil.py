"""The reference executor against torch eager with the same form of attention, interleaved, in fp32; load, first call and memory.

whisper-tiny encoder  iOS17 eager   1.02 x torch (target at most 1.5)   load 0.12 s, first call 0.31 s, peak 512 MiB
The readings of fp16 are printed without a bar: torch's own fp16 on a CPU is slow.
"""

from __future__ import annotations

import gc
import sys
import tempfile
import time
from collections.abc import Callable
from multiprocessing import get_context
from pathlib import Path
from statistics import median
from typing import Any

PAIRS = 9
TARGET = 1.5
SIZES = ("vit-b", "whisper-tiny-encoder")
FORMS = (("iOS17", "eager"), ("iOS18", "sdpa"))
READINGS = ("native", "emulate", "fp16-weights")


def torch_model(name: str, form: str) -> tuple[Any, Any]:
    """(a model with random weights that returns its last hidden state, its input)."""
    import torch
    from transformers import ViTConfig, ViTModel, WhisperConfig
    from transformers.models.whisper.modeling_whisper import WhisperEncoder

    class Last(torch.nn.Module):
        def __init__(self, inner: Any):
            super().__init__()
            self.inner = inner

        def forward(self, x: Any) -> Any:
            return self.inner(x).last_hidden_state

    torch.manual_seed(0)
    if name == "vit-b":
        return Last(ViTModel(ViTConfig(attn_implementation=form), add_pooling_layer=False)).eval(), torch.randn(1, 3, 224, 224)
    config = WhisperConfig(d_model=384, encoder_layers=4, encoder_attention_heads=6, encoder_ffn_dim=1536, attn_implementation=form)
    return Last(WhisperEncoder(config)).eval(), torch.randn(1, 80, 3000)


def convert(model: Any, x: Any, opset: str, half: bool, folder: Path) -> Path:
    import coremltools as ct
    import torch

    with torch.no_grad():
        traced = torch.jit.trace(model, x)
    made = ct.convert(
        traced,
        inputs=[ct.TensorType(shape=tuple(x.shape), name="x")],
        minimum_deployment_target=getattr(ct.target, opset),
        compute_precision=ct.precision.FLOAT16 if half else ct.precision.FLOAT32,
        skip_model_load=True,
    )
    path = folder / "model.mlpackage"
    made.save(str(path))
    return path


def timed(run: Callable[[], Any]) -> float:
    gc.collect()
    began = time.perf_counter()
    run()
    return time.perf_counter() - began


def high_water_mib() -> float:
    """Most memory this process has held. Not ``getrusage``: its peak is inherited from the parent."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith("VmHWM"))) / 1024


def alone(path: str, x: Any, pipe: Any) -> None:
    """In a fresh process, libraries imported: seconds to load, of the first call, of a second one, and the memory above the libraries'."""
    import torch

    from workbench.mil.package import protocol
    from workbench.mil.program import load

    protocol()
    before = high_water_mib()
    began = time.perf_counter()
    program = load(path)
    loaded = time.perf_counter()
    program.run({"x": torch.from_numpy(x)})
    first = time.perf_counter()
    program.run({"x": torch.from_numpy(x)})
    second = time.perf_counter()
    pipe.send((loaded - began, first - loaded, second - first, high_water_mib() - before))


def in_its_own_process(path: Path, x: Any) -> tuple[float, float, float, float]:
    context = get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=alone, args=(str(path), x.numpy(), there))
    process.start()
    found = here.recv()
    process.join()
    return found


def main() -> int:
    import logging

    import torch

    logging.disable(logging.WARNING)
    from workbench.mil import load

    missed = 0
    for name in SIZES:
        for opset, form in FORMS:
            model, x = torch_model(name, form)
            with tempfile.TemporaryDirectory() as folder:
                path = convert(model, x, opset, False, Path(folder))
                program = load(path)
                feed = {"x": x}

                def ours(program: Any = program, feed: Any = feed) -> Any:
                    return program.run(feed)

                def theirs(model: Any = model, x: Any = x) -> Any:
                    with torch.inference_mode():
                        return model(x)

                error = next(iter(ours().values())) - theirs()
                relative = float(error.norm() / theirs().norm())
                ratios, plain = [], []
                for pair in range(PAIRS + 1):
                    times = {run: timed(run) for run in ((ours, theirs) if pair % 2 else (theirs, ours))}
                    ratios.append(times[ours] / times[theirs])
                    plain.append(times[theirs])
                ratios, middle = sorted(ratios[1:]), median(ratios[1:])
                loading, first, second, memory = in_its_own_process(path, x)
                missed += middle > TARGET
                print(
                    f"{name:<22} fp32 {opset} {form:<6} {middle:.2f} x torch eager ({ratios[0]:.2f} to {ratios[-1]:.2f}, {PAIRS} pairs; target at most {TARGET}), "
                    f"torch {median(plain) * 1000:.0f} ms, relative L2 {relative:.1e}, {len(program.fused)} attentions fused; "
                    f"load {loading:.2f} s, first call {first:.2f} s, second {second:.2f} s, peak {memory:,.0f} MiB",
                    flush=True,
                )
                if opset == "iOS17":
                    half = convert(model, x, opset, True, Path(folder) / "half")
                    told = []
                    for reading in READINGS:
                        other = load(half, precision=reading)
                        given = {
                            feature.name: x.half() if feature.dtype == "fp16" and reading == "native" else x
                            for feature in other.inputs
                        }
                        other.run(given)
                        times = {run: timed(run) for run in (lambda o=other, g=given: o.run(g), theirs)}
                        first_run, second_run = times.values()
                        told.append(f"{reading} {first_run / second_run:.1f} x")
                    print(f"{name:<22} fp16 {opset} {form:<6} {', '.join(told)} torch eager fp32 (no bar)", flush=True)
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
