"""A family whose two sides are both torch, one embedding and one matrix, so that a row takes a moment; and the ways in which one fails.

Copied beside a test's own file: a family's file is run by path, in another process.
"""

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

from workbench.capture.zoo.family import Case, Family

HERE = Path(__file__).parent


def config():
    return {}


def cases(config, random):
    for name in ("short", "long"):
        yield Case(name, {"input_ids": random.integers(30, 60, (1, 4 if name == "short" else 9))})


def build(config):
    import torch

    class Tiny(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.config = config
            self.embed_tokens = torch.nn.Embedding(60, 8)
            self.lm_head = torch.nn.Linear(8, 60)

        def forward(self, ids):
            return self.lm_head(torch.cumsum(self.embed_tokens(ids), 1))

    return Tiny().eval()


def save(model, folder):
    import torch

    folder.mkdir()
    torch.save(model.state_dict(), folder / "weights.pt")


def open_port(folder):
    import torch

    model = build({})
    model.load_state_dict(torch.load(folder / "weights.pt"))
    return model


def run(model, arrays):
    import torch

    with torch.inference_mode():
        return model(torch.as_tensor(arrays["input_ids"]))[0]


def family(name, **changes):
    functions = {
        "build": build,
        "save": save,
        "to_hub": shutil.copytree,
        "open_port": open_port,
        "run_reference": run,
        "run_port": run,
    }
    return Family(name, f"Stub: {name}", **{"config": config, "cases": cases, **functions, **changes})


def note_pid(name):
    """Say that a row has begun, and in which process."""
    draft = HERE / f".{name}"
    draft.write_text(str(os.getpid()))
    draft.rename(HERE / name)


def aborts():
    print("about to abort", file=sys.stderr, flush=True)
    os.abort()


def hangs():
    child = subprocess.Popen(["sleep", "600"])
    (HERE / "grandchild").write_text(str(child.pid))
    time.sleep(600)


def eats():
    kept = []
    while True:
        kept.append(bytearray(os.urandom(2**20)) * 32)


def raises():
    return 1 / 0


def leaves():
    sys.exit("I leave")


def exits():
    os._exit(3)


def prints():
    print("printed by a family", flush=True)
    print("printed as an error by a family", file=sys.stderr, flush=True)
    os.write(1, b"written past Python\n")
    return {}


def waits():
    """Until a file is there; a row that a test may interrupt."""
    note_pid("waiting")
    while not (HERE / "go").exists():
        time.sleep(0.02)
    return {}


def refuses(folder):
    raise ValueError(f"no such model in {folder}")
