"""``make test-gpu``: the contract tests on TensorRT and a GPU; elsewhere the list of what would be run, and why it is not.

python -m tests.gpu.run                 # with both: everything, with a summary of what was recorded
python -m tests.gpu.run -k fp16         # arguments go to pytest

Nothing but Python itself is needed for the list.
"""

from __future__ import annotations

import ast
import importlib
import importlib.util
import platform
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent


def contract() -> list[tuple[str, str, str]]:
    """(file, test, its first line) of every contract test, without importing any."""
    found = []
    for path in sorted(set(HERE.glob("test_*.py")) - {HERE / "test_listing.py"}):
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
                found.append((path.name, node.name, (ast.get_docstring(node) or "").splitlines()[0]))
    return found


def missing() -> list[str]:
    """What an engine needs and this machine has not, each with what was found; empty where the tests can run."""
    found = []
    cards = gpus()
    if not cards:
        found.append("an NVIDIA GPU: nvidia-smi is not here or lists none")
    if importlib.util.find_spec("tensorrt") is None:
        found.append("TensorRT: there is no Python module 'tensorrt'")
    elif cards:
        try:
            importlib.import_module("tensorrt")
        except (ImportError, OSError) as error:
            found.append(f"TensorRT: {(str(error).splitlines() or ['it cannot be imported'])[0]}")
    if importlib.util.find_spec("torch") is None:
        found.append("PyTorch with CUDA: there is no Python module 'torch'")
    elif cards and not found:
        torch = importlib.import_module("torch")
        if not torch.cuda.is_available():
            found.append(f"PyTorch with CUDA: torch {torch.__version__} reaches no GPU")
    return found


def gpus() -> list[str]:
    """The GPUs as nvidia-smi lists them."""
    try:
        asked = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=60, check=True)
    except (OSError, subprocess.SubprocessError):
        return []
    return [line.split(" (UUID")[0] for line in asked.stdout.splitlines() if line.startswith("GPU ")]


def listing(lacking: list[str]) -> str:
    """What would run with a GPU, a line each."""
    lines = ["with TensorRT and an NVIDIA GPU `make test-gpu` runs these, the stages in fp32, fp16, bf16 and int8-qdq:"]
    before = None
    for file, name, words in contract():
        if file != before:
            lines.append(f"  tests/gpu/{file}")
            before = file
        lines.append(f"    {name.removeprefix('test_').replace('_', ' ')}: {words}")
    lines.append("the parts that are neither's run in `make test`, on stand-ins for TensorRT and for the GPU")
    lines.append(f"not run here, on {platform.system()} {platform.machine()}; missing:")
    lines += [f"  {each}" for each in lacking]
    return "\n".join(lines)


def main(arguments: list[str]) -> int:
    lacking = missing()
    if lacking:
        print(listing(lacking))
        return 0
    print("\n".join(gpus()))
    return subprocess.call([sys.executable, "-m", "pytest", "-v", "-ra", "--durations=10", str(HERE), *arguments])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
