"""Trains the bundled vision-language model from nothing on a CPU: vision, then language, then both together.

    python -m workbench.demo.train --out DIR --minutes 90

Stage ``vision`` is ``pretrain.py``.  Stage ``language`` trains the Llama alone on scenes told in words, options of one
word first.  Stage ``joint`` trains everything on pictures, with a fifth of text-only drills.  The option head
(see ``packing.Block``) is what brought the letter skill about.

Each step draws its own data from (seed, stage, rank, step), and a checkpoint is written every two minutes, so a resumed
run continues exactly; progress is by the clock, or by ``--steps`` where runs must be reproducible.
"""

import argparse
import json
import math
import os
import random
import time
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import nn

from workbench.demo import architecture, attention, measure, packing, pretrain, tokenizer

CHECKPOINT = "state.pt"
# Scene kinds of the joint stage's text-only packs: adding is practised on text, where it is cheap.
TEXT_KINDS = {"sum": 5, "shapes": 3, "bars": 2, "lines": 0.5}
OPTION_LAYER = 4  # hidden state (after this many layers) that the option head reads


@dataclass
class Settings:
    """One stage's settings; ``steps`` replaces ``minutes`` as the measure of progress where it is given."""

    stage: str
    minutes: float
    steps: int | None = None
    batch: int = 32
    rate: float = 1e-3
    seed: int = 1
    text_share: float = 0.2
    pair_share: float = 0.04


def curriculum(settings: Settings, progress: float) -> packing.Curriculum:
    """What the packs may hold at ``progress`` (0 to 1) of a stage."""
    if settings.stage == "language":
        short = {"plain": 0.25, "mmstar_options": 0.45, "mmmu_choice": 0.15, "mmstar_choices": 0.15}
        if progress < 0.1:
            return packing.Curriculum(1, 10, {"word": 1}, {"plain": 0.2, "mmstar_options": 0.8}, 22)
        if progress < 0.25:
            return packing.Curriculum(1, 10, {"word": 1, "shapes": 2, "count": 1, "bars": 1}, short, 50)
        return packing.Curriculum(2 if progress < 0.35 else 4 if progress < 0.5 else 6, 10 if progress < 0.35 else 30)
    longest, largest = 2 if progress < 0.06 else 4 if progress < 0.18 else 6, 12 if progress < 0.1 else 30
    if progress < 0.6:  # many short questions an image, most about two shapes, until look-up works
        kinds = {"shapes": 5, "bars": 2, "sum": 2, "digits": 2.5, "lines": 1.5, "word": 0.7, "count": 1.5}
        styles = {"plain": 0.7, "mmmu_choice": 0.1, "mmstar_options": 0.07, "mmstar_choices": 0.05, "mathvista_choice": 0.08}
        return packing.Curriculum(longest, largest, kinds, styles)
    return packing.Curriculum(longest, largest)


def rate_at(settings: Settings, progress: float, step: int) -> float:
    """Linear warm-up over 100 steps, constant, then cosine to zero from 30 % on."""
    decay = 1.0 if progress < 0.3 else 0.5 * (1 + math.cos(math.pi * (progress - 0.3) / 0.7))
    return settings.rate * min(1.0, (step + 1) / 100) * max(decay, 0.01)


def batch_of(settings: Settings, progress: float, step: int, rank: int) -> dict:
    """The batch of one step, a function of (seed, stage, rank, step) and the curriculum alone."""
    generator = random.Random(f"{settings.stage}-{settings.seed}-{rank}-{step}")
    rules = curriculum(settings, progress)
    packs = []
    images = 2 if generator.random() < settings.pair_share else 1
    for _ in range(settings.batch // images):
        if settings.stage == "language":
            packs.append(packing.sample_pack(generator, rules, True, images))
        elif generator.random() < settings.text_share:
            packs.append(packing.sample_drill(generator, replace(rules, kinds=TEXT_KINDS)))
        else:
            packs.append(packing.sample_pack(generator, rules, False, images))
    return packing.collate(packs, torch.bfloat16)


def forward(model, batch: dict) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits (m, vocabulary) where a label counts, and option scores (k, 5) at the options' last tokens."""
    llava = model.model
    device = llava.language_model.embed_tokens.weight.device
    batch |= {name: value.to(device) for name, value in batch.items() if isinstance(value, torch.Tensor)}
    embeddings = llava.language_model.embed_tokens(batch["ids"])
    if batch["images"]:
        hidden = llava.vision_tower(pretrain.pixels_of(batch["images"]).to(device)).last_hidden_state[:, 1:]
        features = llava.multi_modal_projector(hidden).to(embeddings.dtype)
        places = (batch["ids"] == tokenizer.IMAGE_ID).unsqueeze(-1)
        embeddings = embeddings.masked_scatter(places, features)
    output = llava.language_model(
        inputs_embeds=embeddings,
        attention_mask=batch["mask"],
        position_ids=batch["positions"],
        use_cache=False,
        output_hidden_states=True,
    )
    middle = output.hidden_states[OPTION_LAYER][batch["option"] >= 0]
    return model.lm_head(output.last_hidden_state[batch["labels"] >= 0]), model.option_head(middle)


def loss_of(model, batch: dict) -> torch.Tensor:
    """Weighted mean cross-entropy of the answer tokens, plus the option head's."""
    logits, options = forward(model, batch)
    known = batch["labels"] >= 0
    weights = batch["weights"][known]
    losses = nn.functional.cross_entropy(logits.float(), batch["labels"][known], reduction="none")
    loss = (losses * weights).sum() / weights.sum()
    marks = batch["option"][batch["option"] >= 0]
    if len(marks):
        options = options.float()
        loss = loss + 0.3 * nn.functional.cross_entropy(options[:, :4], marks // 2)
        right = (marks % 2).float()
        loss = loss + nn.functional.binary_cross_entropy_with_logits(options[:, 4], right)
    return loss


def optimiser_of(model, settings: Settings) -> torch.optim.Optimizer:
    matrices = [p for p in model.parameters() if p.requires_grad and p.ndim >= 2]
    others = [p for p in model.parameters() if p.requires_grad and p.ndim < 2]
    groups = [{"params": matrices, "weight_decay": 0.02}, {"params": others, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=settings.rate, betas=(0.9, 0.98))


class Trainer:
    """Runs one stage on one rank; gradients and the clock are averaged over ranks in one flat all-reduce."""

    def __init__(self, model, settings: Settings, out: Path, rank: int = 0, ranks: int = 1):
        self.model, self.settings, self.out, self.rank, self.ranks = model, settings, out, rank, ranks
        self.device = next(model.parameters()).device.type
        self.optimiser = optimiser_of(model, settings)
        self.step, self.elapsed, self.losses = 0, 0.0, []
        if (out / CHECKPOINT).is_file():
            self.load()

    @property
    def progress(self) -> float:
        if self.settings.steps is not None:
            return self.step / self.settings.steps
        return self.elapsed / (self.settings.minutes * 60)

    def load(self) -> None:
        state = torch.load(self.out / CHECKPOINT, weights_only=True, map_location="cpu")
        if state["stage"] != self.settings.stage:
            return
        self.model.load_state_dict(state["model"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.step, self.elapsed = state["step"], state["elapsed"]

    def save(self) -> None:
        if self.rank:
            return
        self.out.mkdir(parents=True, exist_ok=True)
        state = {
            "stage": self.settings.stage,
            "step": self.step,
            "elapsed": self.elapsed,
            "model": self.model.state_dict(),
            "optimiser": self.optimiser.state_dict(),
        }
        pretrain.write(state, self.out / CHECKPOINT)

    def train_step(self) -> float:
        progress = self.progress
        for group in self.optimiser.param_groups:
            group["lr"] = rate_at(self.settings, progress, self.step)
        batch = batch_of(self.settings, progress, self.step, self.rank)
        self.optimiser.zero_grad(set_to_none=True)
        with torch.autocast(self.device, torch.bfloat16):
            loss = loss_of(self.model, batch)
        loss.backward()
        self.average_gradients()
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimiser.step()
        self.step += 1
        return loss.item()

    def average_gradients(self) -> None:
        if self.ranks == 1:
            return
        parameters = [p for p in self.model.parameters() if p.requires_grad]
        gradients = [p.grad if p.grad is not None else torch.zeros_like(p) for p in parameters]
        flat = torch.cat([g.reshape(-1) for g in gradients] + [gradients[0].new_tensor([self.elapsed])])
        torch.distributed.all_reduce(flat)
        flat /= self.ranks
        self.elapsed = flat[-1].item()
        offset = 0
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = flat[offset : offset + gradient.numel()].view_as(parameter)
            offset += gradient.numel()

    def run(self, measure=None, save_every: float = 120, measure_every: float = 300) -> None:
        """Train until progress reaches 1; ``measure(model)`` gives a dict that goes into ``curve.jsonl``."""
        self.model.train()
        clock = time.time()
        saved, measured, reported = self.elapsed, self.elapsed, self.elapsed
        while self.progress < 1:
            self.losses.append(self.train_step())
            now = time.time()
            self.elapsed += now - clock
            clock = now
            if self.rank:
                continue
            if self.elapsed - reported > 20:
                reported = self.elapsed
                mean = sum(self.losses[-50:]) / len(self.losses[-50:])
                self.log({"loss": round(mean, 4)})
            if self.elapsed - saved > save_every:
                saved = self.elapsed
                self.save()
            if measure and self.elapsed - measured > measure_every:
                measured = self.elapsed
                self.model.eval()
                self.log(measure(self.model))
                self.model.train()
        self.save()

    def log(self, values: dict) -> None:
        row = {"stage": self.settings.stage, "step": self.step, "seconds": round(self.elapsed), **values}
        print(json.dumps(row), flush=True)
        self.out.mkdir(parents=True, exist_ok=True)
        with (self.out / "curve.jsonl").open("a") as file:
            file.write(json.dumps(row) + "\n")


def load_parts(model, folder: Path) -> None:
    """Start the joint stage from ``vision.pt`` and ``language.pt`` in ``folder``, where they exist."""
    if (folder / "vision.pt").is_file():
        model.model.vision_tower.load_state_dict(torch.load(folder / "vision.pt", weights_only=True))
    if (folder / "language.pt").is_file():
        state = torch.load(folder / "language.pt", weights_only=True)
        kept = {name: value for name, value in state.items() if "vision_tower" not in name and "projector" not in name}
        model.load_state_dict(kept, strict=False)


def run_stage(rank: int, settings: Settings, out: Path, ranks: int) -> None:
    """One rank of one stage, in its own process when there are several."""
    torch.set_num_threads(1)
    if ranks > 1:
        store = out / f"rendezvous-{settings.stage}"
        torch.distributed.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=ranks)
    model = architecture.create_model(settings.seed, attention.register())
    if settings.stage == "language":
        model.model.vision_tower.requires_grad_(False)
        model.model.multi_modal_projector.requires_grad_(False)
    else:
        load_parts(model, out)
    if torch.cuda.is_available():
        model.cuda()
    trainer = Trainer(model, settings, out, rank, ranks)
    if settings.stage == "language":
        trainer.run(save_every=60)
        if rank == 0:
            pretrain.write(model.state_dict(), out / "language.pt")
    else:
        trainer.run(measure.measure_packed)
        if rank == 0:
            architecture.export(model, out / "vlm")


def launch(settings: Settings, out: Path, ranks: int) -> None:
    """Run a stage on ``ranks`` processes of one thread each; gradients are averaged."""
    out.mkdir(parents=True, exist_ok=True)
    (out / f"rendezvous-{settings.stage}").unlink(missing_ok=True)
    if ranks == 1:
        run_stage(0, settings, out, 1)
    else:
        torch.multiprocessing.spawn(run_stage, (settings, out, ranks), nprocs=ranks)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=90, help="for all stages together")
    parser.add_argument("--steps", type=int, default=None, help="steps a stage instead of minutes (reproducible)")
    parser.add_argument("--stage", choices=("all", "vision", "language", "joint"), default="all")
    ranks = 1 if torch.cuda.is_available() else max(1, min(2, os.cpu_count() or 1))
    parser.add_argument("--ranks", type=int, default=ranks, help="processes of one thread each")
    parser.add_argument("--batch", type=int, default=16, help="packs a step and rank in the joint stage")
    parser.add_argument("--rate", type=float, default=1e-3)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    shares = {"vision": 0.14, "language": 0.1, "joint": 0.76} if arguments.stage == "all" else {arguments.stage: 1.0}
    for stage, share in shares.items():
        minutes = arguments.minutes * share
        if stage == "vision":
            if not (arguments.out / "vision.pt").is_file():
                pretrain.run(arguments.out, minutes, arguments.seed, arguments.steps)
            continue
        if stage == "language" and (arguments.out / "language.pt").is_file():
            continue
        batch, rate = (10, 1.5e-3) if stage == "language" else (arguments.batch, arguments.rate)
        settings = Settings(stage, minutes, arguments.steps, batch, rate, arguments.seed)
        launch(settings, arguments.out, arguments.ranks)


if __name__ == "__main__":
    main()
