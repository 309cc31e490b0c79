"""``make test-mac``: the contract tests on Apple's runtime; elsewhere the list of what would be run, and why it is not.

python -m tests.mac.run                 # on a Mac: everything, with a summary of what was recorded
python -m tests.mac.run -k CPU_ONLY     # arguments go to pytest
"""

from __future__ import annotations

import ast
import platform
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
UNITS = ("CPU_ONLY", "CPU_AND_GPU", "CPU_AND_NE", "ALL")


def contract() -> list[tuple[str, str, str]]:
    """(file, test, its first line) of every contract test, without importing any."""
    found = []
    for path in sorted(set(HERE.glob("test_*.py")) - {HERE / "test_listing.py"}):
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
                found.append((path.name, node.name, (ast.get_docstring(node) or "").splitlines()[0]))
    return found


def listing() -> str:
    """What would run on a Mac, a line each."""
    lines = [f"on a Mac `make test-mac` runs these with the compute units {', '.join(UNITS)}:"]
    before = None
    for file, name, words in contract():
        if file != before:
            lines.append(f"  tests/mac/{file}")
            before = file
        lines.append(f"    {name.removeprefix('test_').replace('_', ' ')}: {words}")
    lines.append(
        "the parts that are not Apple's run in `make test`, on a stand-in for the runtime that is as strict as coremltools"
    )
    lines.append(f"not run here: needs macOS; this is {platform.system()} {platform.machine()}")
    return "\n".join(lines)


def main(arguments: list[str]) -> int:
    if platform.system() != "Darwin":
        print(listing())
        return 0
    return subprocess.call([sys.executable, "-m", "pytest", "-v", "-ra", "--durations=10", str(HERE), *arguments])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
