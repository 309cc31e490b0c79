"""The log-mel of 30 s of sound: ours against transformers, torch.stft and mlx_whisper, interleaved, on one thread.

transformers   0.43 x its time (target at most 1)   ours 5.6 ms, theirs 13.0 ms   differ by 1.4e-06
"""

from __future__ import annotations

import gc
import json
import os
import sys
import time
from collections.abc import Callable
from statistics import median
from typing import Any

# Before numpy is imported: its BLAS reads the number of threads once.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")

PAIRS = 15
TARGET = 1.0
CLOSE = 1e-4
SECONDS = (30, 5)
"""A whole window, and a command of five seconds in one: frames that only see silence are not computed by ours."""


def front_ends() -> dict[str, Callable[[Any], Any]]:
    """Functions from samples (n,) to a log-mel (80, 3000), by name; ours first."""
    import mlx_whisper.audio
    import numpy
    import torch
    from mlx import core
    from transformers import WhisperFeatureExtractor

    from workbench.data.media import WINDOW_SAMPLES, log_mel

    torch.set_num_threads(1)
    extractor = WhisperFeatureExtractor()
    filters = torch.from_numpy(extractor.mel_filters.astype(numpy.float32)).T.contiguous()
    window = torch.hann_window(400)

    def by_transformers(samples: Any) -> Any:
        return extractor(samples, sampling_rate=16000, return_tensors="np").input_features[0]

    def by_torch(samples: Any) -> Any:
        padded = torch.nn.functional.pad(torch.from_numpy(samples), (0, WINDOW_SAMPLES - len(samples)))
        power = torch.stft(padded, 400, 160, window=window, return_complex=True)[:, :-1].abs() ** 2
        log = (filters @ power).clamp(min=1e-10).log10()
        return ((torch.maximum(log, log.max() - 8) + 4) / 4).numpy()

    def by_mlx(samples: Any) -> Any:
        padded = mlx_whisper.audio.pad_or_trim(core.array(samples))
        return numpy.array(mlx_whisper.audio.log_mel_spectrogram(padded)).T

    return {"ours": log_mel, "transformers": by_transformers, "torch.stft": by_torch, "mlx_whisper": by_mlx}


def seconds_of(run: Callable[[], Any]) -> float:
    gc.collect()
    began = time.perf_counter()
    run()
    return time.perf_counter() - began


def interleaved(functions: dict[str, Callable[[Any], Any]], samples: Any) -> dict[str, list[float]]:
    """Seconds of every function in PAIRS rounds after one to warm up; the order turns by one each round."""
    times: dict[str, list[float]] = {name: [] for name in functions}
    names = list(functions)
    for turn in range(PAIRS + 1):
        for place in range(len(names)):
            name = names[(turn + place) % len(names)]
            times[name].append(seconds_of(lambda name=name: functions[name](samples)))
    return {name: found[1:] for name, found in times.items()}


def main() -> int:
    from workbench.registry import get_backend

    get_backend("mlx").prepare({})  # with the BLAS that runs use, before anything imports MLX
    import numpy

    functions = front_ends()
    failed = False
    for seconds in SECONDS:
        samples = (numpy.random.default_rng(0).standard_normal(seconds * 16_000) * 0.1).astype(numpy.float32)
        mels = {name: function(samples) for name, function in functions.items()}
        times = interleaved(functions, samples)
        ours = times["ours"]
        print(f"log-mel of {seconds} s in a window of 30 s, one thread, medians of {PAIRS} interleaved rounds")
        for name in list(functions)[1:]:
            ratio = median(mine / theirs for mine, theirs in zip(ours, times[name], strict=True))
            apart = float(numpy.abs(mels["ours"] - mels[name]).max())
            failed = failed or apart > CLOSE or name == "transformers" and ratio > TARGET
            target = f" (target at most {TARGET:g})" if name == "transformers" else ""
            print(
                f"  {name:<13} {ratio:.2f} x its time{target}   ours {median(ours) * 1e3:.1f} ms, "
                f"theirs {median(times[name]) * 1e3:.1f} ms   differ by {apart:.1e}"
            )
        print(
            json.dumps({"seconds": seconds, "milliseconds": {name: round(median(each) * 1e3, 2) for name, each in times.items()}})
        )
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
