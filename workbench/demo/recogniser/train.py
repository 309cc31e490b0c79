"""Trains the bundled recogniser from nothing on a CPU: short windows first, then joined sentences, then the full 30 s.

    python -m workbench.demo.recogniser.train --out build/demo-stt --seed 1

Writes the corpus (once; needs espeak-ng and flite), trains the stages in turn, and writes the model folder to
``OUT/stt`` at the end and every few minutes before it.  Each step's data are a function of (seed, stage, step) and the
state is saved every two minutes, so that a run stopped and started again goes on where it was.  Two processes of one
thread each share a step's windows and average their gradients, which here was faster than one process of two threads.
"""

import argparse
import json
import math
import time
from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

from workbench.demo.recogniser import batches, corpus, folder
from workbench.demo.recogniser.batches import Stage
from workbench.demo.recogniser.network import Network

UTTERANCES = 24000
STAGES = (
    Stage("first", 700, 32, noisy_share=0.3, longest=185, spread_weight=0.5),
    Stage("short", 2200, 32),
    Stage("joined", 1250, 16, sentences=3, joined_share=0.35, quiet_share=0.08, silent=48),
    Stage("full", 350, 8, sentences=4, joined_share=0.35, quiet_share=0.1, full=True),
)
RATE, WARM_STEPS, HELPER_WEIGHT = 2e-3, 200, 0.5
STATE = "state.pt"


class Trainer:
    """Runs the stages one after the other and remembers where it is."""

    def __init__(self, network: Network, maker: batches.Maker, stages: tuple[Stage, ...], out: Path, rank=0, ranks=1):
        self.network, self.maker, self.stages, self.out = network, maker, stages, out
        self.rank, self.ranks = rank, ranks
        matrices = [p for p in network.parameters() if p.requires_grad and p.ndim >= 2]
        others = [p for p in network.parameters() if p.requires_grad and p.ndim < 2]
        groups = [{"params": matrices, "weight_decay": 0.02}, {"params": others, "weight_decay": 0.0}]
        self.optimiser = torch.optim.AdamW(groups, lr=RATE, betas=(0.9, 0.98), fused=True)
        self.stage, self.step, self.seconds = 0, 0, 0.0
        if (out / STATE).is_file():
            state = torch.load(out / STATE, weights_only=True)
            network.load_state_dict(state["network"])
            self.optimiser.load_state_dict(state["optimiser"])
            self.stage, self.step, self.seconds = state["stage"], state["step"], state["seconds"]

    def save(self) -> None:
        """Write the resumable state and the model folder as it is now (first process only)."""
        if self.rank:
            return
        self.out.mkdir(parents=True, exist_ok=True)
        where = {"stage": self.stage, "step": self.step, "seconds": self.seconds}
        state = {"network": self.network.state_dict(), "optimiser": self.optimiser.state_dict(), **where}
        torch.save(state, self.out / "state.part")
        (self.out / "state.part").replace(self.out / STATE)
        folder.write(self.network.published(), self.out / "stt")

    def rate(self) -> float:
        """Warm-up, constant for a quarter, then cosine to 1 % over all stages' work (steps times cost)."""
        # A full window's step takes the time of several short ones, and the schedule follows time.
        cost = [stage.steps * stage.batch * (6 if stage.full else 2 if stage.sentences > 1 else 1) for stage in self.stages]
        done = sum(cost[: self.stage]) + cost[self.stage] * self.step / self.stages[self.stage].steps
        progress = done / sum(cost)
        decay = 1.0 if progress < 0.25 else 0.5 * (1 + math.cos(math.pi * (progress - 0.25) / 0.75))
        warm = min(1.0, (self.step + 1) / WARM_STEPS) if self.stage == 0 else 1.0
        return RATE * warm * max(decay, 0.01)

    def train_step(self) -> dict[str, float]:
        """One step; the three losses of ``Network.losses`` as numbers."""
        for group in self.optimiser.param_groups:
            group["lr"] = self.rate()
        batch = self.maker.batch(self.stages[self.stage], self.step, self.rank, self.ranks)
        self.optimiser.zero_grad(set_to_none=True)
        with torch.autocast("cpu", torch.bfloat16):
            losses = self.network.losses(batch)
        spread = self.stages[self.stage].spread_weight * losses["spread"]
        (losses["token"] + HELPER_WEIGHT * losses["sound"] + spread).backward()
        self.average_gradients()
        nn.utils.clip_grad_norm_(self.network.parameters(), 1.0)
        self.optimiser.step()
        self.step += 1
        return {name: value.item() for name, value in losses.items()}

    def average_gradients(self) -> None:
        """The mean gradient over the processes, in one flat message."""
        if self.ranks == 1:
            return
        parameters = [p for p in self.network.parameters() if p.requires_grad]
        flat = torch.cat([(torch.zeros_like(p) if p.grad is None else p.grad).reshape(-1) for p in parameters])
        torch.distributed.all_reduce(flat)
        flat /= self.ranks
        for parameter, part in zip(parameters, flat.split([p.numel() for p in parameters]), strict=True):
            parameter.grad = part.view_as(parameter)

    def run(self, save_every: float = 120.0, log_every: int = 50) -> None:
        """Train until every stage's steps are done."""
        self.network.train()
        clock, saved, recent = time.time(), self.seconds, []
        while self.stage < len(self.stages):
            if self.step >= self.stages[self.stage].steps:
                self.stage, self.step = self.stage + 1, 0
                continue
            recent.append(self.train_step())
            now = time.time()
            self.seconds += now - clock
            clock = now
            if len(recent) == log_every:
                self.log({name: round(sum(row[name] for row in recent) / log_every, 4) for name in recent[0]})
                recent = []
            if self.seconds - saved > save_every:
                saved = self.seconds
                self.save()
        self.save()

    def log(self, values: dict) -> None:
        """Print a row and add it to ``curve.jsonl`` (first process only)."""
        if self.rank:
            return
        row = {"stage": self.stages[self.stage].name, "step": self.step, "seconds": round(self.seconds), **values}
        print(json.dumps(row), flush=True)
        self.out.mkdir(parents=True, exist_ok=True)
        with (self.out / "curve.jsonl").open("a") as file:
            file.write(json.dumps(row) + "\n")


def worker(rank: int, ranks: int, out: Path, seed: int, scale: float) -> None:
    """One of ``ranks`` processes that train together."""
    torch.set_num_threads(1)
    if ranks > 1:
        store = f"file://{(out / 'rendezvous').resolve()}"
        torch.distributed.init_process_group("gloo", init_method=store, rank=rank, world_size=ranks)
    data = corpus.load(out / "corpus")
    network = Network(batches.used_tokens(data.text_tokens), len(data.sounds), seed)
    stages = tuple(replace(stage, steps=max(1, round(stage.steps * scale))) for stage in STAGES)
    Trainer(network, batches.Maker(data.utterances, seed), stages, out, rank, ranks).run()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--utterances", type=int, default=UTTERANCES)
    parser.add_argument("--scale", type=float, default=1.0, help="all stages' steps times this, for a shorter trial")
    parser.add_argument("--processes", type=int, default=2, help="share each step's windows")
    arguments = parser.parse_args()
    out, ranks = arguments.out, arguments.processes
    if not (out / "corpus" / "done").is_file():
        corpus.build(out / "corpus", arguments.utterances, arguments.seed)
    (out / "rendezvous").unlink(missing_ok=True)
    settings = (ranks, out, arguments.seed, arguments.scale)
    if ranks == 1:
        worker(0, *settings)
    else:
        torch.multiprocessing.spawn(worker, settings, nprocs=ranks)


if __name__ == "__main__":
    main()
