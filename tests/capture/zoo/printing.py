"""Keeps what ``workbench zoo --json`` printed: each row's verdict and first layer, and what it was measured with. Nothing is typed in.

    workbench zoo --fresh --runs build/zoo --json | python -m tests.capture.zoo.printing

``printed.json`` says what changed when a row changes; nothing is measured by it, and no code of the workbench reads it.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

PRINTED = Path(__file__).with_name("printed.json")
COMMAND = "workbench zoo --fresh --runs build/zoo --json | python -m tests.capture.zoo.printing"
FIELDS = ("family", "layout", "verdict", "first_layer")


def kept(found: dict[str, Any]) -> dict[str, Any]:
    """Of the command's object, and of the bundle that it names, what is kept."""
    from workbench.run.bundle import Run

    manifest = Run(found["bundle"]).manifest
    rows = [{field: row.get(field) for field in FIELDS} for row in found["rows"]]
    return {"libraries": manifest["key"]["libraries"], "device": manifest["device"]["kind"], "rows": rows}


def as_text(value: dict[str, Any]) -> str:
    """JSON with a line a row."""
    rows = ",\n".join(f"  {json.dumps(row)}" for row in value["rows"])
    head = ",\n".join(f" {json.dumps(name)}: {json.dumps(each)}" for name, each in value.items() if name != "rows")
    return f'{{\n{head},\n "rows": [\n{rows}\n ]\n}}\n'


if __name__ == "__main__":
    PRINTED.write_text(as_text(kept(json.load(sys.stdin))), encoding="utf-8")
