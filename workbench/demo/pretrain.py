"""Stage 0: the vision tower alone learns, patch by patch, what is in the picture.

Ten linear heads (glyph, its index, word, shape, colour, left or right, larger, count, bar value) read every patch and
are thrown away afterwards.  Fourteen minutes on one core brought every head to 99 % or better on its foreground.

    python -m workbench.demo.train --stage vision --out DIR --minutes 12
"""

import math
import random
import time
from pathlib import Path

import numpy as np
import torch
from torch import nn

from workbench.demo import architecture, questions, scenes

BACKGROUND_WEIGHT = 0.1
# Scene kind -> share of the pictures.
_KIND_WEIGHTS = {"digits": 3, "word": 2, "lines": 3, "sum": 2, "shapes": 2, "count": 1.5, "bars": 1.5}


def pixels_of(images) -> torch.Tensor:
    """(n, 3, 64, 64) normalised pixels of 64 x 64 pictures, the same numbers as the image processor's."""
    stack = np.stack([np.asarray(image, np.uint8) for image in images]).astype(np.float32) / 255
    stack = (stack - np.float32(architecture.PIXEL_MEAN)) / np.float32(architecture.PIXEL_STD)
    return torch.from_numpy(np.ascontiguousarray(stack.transpose(0, 3, 1, 2)))


class PatchReader(nn.Module):
    """The vision tower with one linear head for each dense label."""

    def __init__(self, tower: nn.Module):
        super().__init__()
        self.tower = tower
        self.heads = nn.Linear(architecture.VISION["hidden_size"], sum(scenes.HEADS.values()))

    def loss(self, pixels: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, dict[str, float]]:
        """Foreground-weighted cross-entropy summed over heads, and each head's accuracy on its foreground."""
        hidden = self.tower(pixels).last_hidden_state[:, 1:]
        logits = self.heads(hidden).float().split(list(scenes.HEADS.values()), dim=-1)
        total = hidden.new_zeros(())
        accuracy = {}
        for column, (name, classes) in enumerate(scenes.HEADS.items()):
            target = labels[:, :, column].reshape(-1)
            scores = logits[column].reshape(-1, classes)
            weight = torch.ones(classes, device=scores.device)
            weight[0] = BACKGROUND_WEIGHT
            total = total + nn.functional.cross_entropy(scores, target, weight=weight)
            seen = target > 0
            accuracy[name] = (scores.detach().argmax(-1) == target)[seen].float().mean().item()
        return total, accuracy


def rate_at(rate: float, part: float, step: int) -> float:
    """Linear warm-up over 100 steps, constant to 60 % of the stage, then linear to 3 %."""
    return rate * min(1.0, (step + 1) / 100) * max(0.03, min(1.0, (1 - part) / 0.4))


def batch_of(seed: int, part: float, step: int, batch: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Pixels (n, 3, 64, 64) and labels (n, 64, heads) of one step, a function of (seed, step) and the curriculum."""
    generator = random.Random(f"vision-{seed}-{step}")
    longest = 2 if part < 0.08 else 4 if part < 0.2 else 6
    kinds = generator.choices(list(_KIND_WEIGHTS), list(_KIND_WEIGHTS.values()), k=batch)
    drawn = [questions.sample_scene(generator, kind, held_out=False, longest=longest) for kind in kinds]
    labels = torch.from_numpy(np.stack([scene.labels for scene in drawn]))
    return pixels_of([scene.image for scene in drawn]), labels


def run(out: Path, minutes: float, seed: int, steps: int | None = None, batch: int = 48, rate: float = 1.5e-3) -> None:
    """Train a fresh tower for ``minutes`` (or ``steps``) and write it to ``out/vision.pt``.

    ``out/vision-state.pt`` is written every two minutes, and an interrupted run continues from it.
    """
    device = "cuda" if torch.cuda.is_available() else "cpu"
    reader = PatchReader(architecture.create_model(seed, "eager").model.vision_tower).to(device).train()
    optimiser = torch.optim.AdamW(reader.parameters(), lr=rate, betas=(0.9, 0.98), weight_decay=0.01)
    step, elapsed, average = 0, 0.0, {}
    out.mkdir(parents=True, exist_ok=True)
    state_file = out / "vision-state.pt"
    if state_file.is_file():
        state = torch.load(state_file, weights_only=True, map_location=device)
        reader.load_state_dict(state["reader"])
        optimiser.load_state_dict(state["optimiser"])
        step, elapsed = state["step"], state["elapsed"]
    clock = time.time()
    reported = saved = elapsed
    while (part := step / steps if steps else elapsed / (minutes * 60)) < 1:
        for group in optimiser.param_groups:
            group["lr"] = rate_at(rate, part, step)
        pixels, labels = batch_of(seed, part, step, batch)
        with torch.autocast(device, torch.bfloat16):
            loss, accuracy = reader.loss(pixels.to(device), labels.to(device))
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(reader.parameters(), 1.0)
        optimiser.step()
        step += 1
        for name, value in {"loss": loss.item(), **accuracy}.items():
            if not math.isnan(value):  # a head without foreground in this batch has no accuracy
                average[name] = 0.95 * average.get(name, value) + 0.05 * value
        elapsed, clock = elapsed + time.time() - clock, time.time()
        if elapsed - reported > 20:
            reported = elapsed
            shown = " ".join(f"{name} {average[name]:.2f}" for name in ("loss", *scenes.HEADS) if name in average)
            print(f"vision {elapsed:6.0f}s step {step:5d} {shown}", flush=True)
        if elapsed - saved > 120:
            saved = elapsed
            state = {"reader": reader.state_dict(), "optimiser": optimiser.state_dict(), "step": step}
            write(state | {"elapsed": elapsed}, state_file)
    write(reader.tower.state_dict(), out / "vision.pt")


def write(value: dict, path: Path) -> None:
    """Save a checkpoint so that ``path`` is never half written."""
    temporary = path.with_suffix(".tmp")
    torch.save(value, temporary)
    temporary.replace(path)
