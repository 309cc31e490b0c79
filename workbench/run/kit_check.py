"""Whether a kit holds what its record says, and how its steps ended: what ``workbench verify kit.zip`` says before it checks each bundle.

    kit, names = open_record(Path("kit.zip"))
    for finding in check_record(kit, names):
        print(finding.level, finding.what, finding.detail)

That a step failed, or a runtime was not there, is a note: it is what the kit found out. That a bundle is missing is a failure.
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from workbench.errors import BundleError
from workbench.run.archive import check_entries, read_kit, reading
from workbench.run.bundle import Run
from workbench.run.kit import Kit, Step
from workbench.run.verify import Finding, listed

LAST_LINES = 2


def open_record(path: Path) -> tuple[Kit, list[str]] | None:
    """The record of a kit and the names of the bundles that are there; None where ``path`` is no kit. Raises BundleError."""
    if not path.exists() or (path / "manifest.json").exists():
        return None
    kit = read_kit(path)
    if kit is None:
        return None
    if path.is_dir():
        return kit, sorted(each.name for each in path.iterdir() if (each / "manifest.json").is_file())
    with reading(path) as packed:
        return kit, sorted({name.partition("/")[0] for name, _ in check_entries(packed, path)[0]})


def check_record(kit: Kit, names: Collection[str]) -> list[Finding]:
    """The machine, the bundles that the record names, the steps that did not end well, and the runtimes that were not there."""
    found = [Finding("ok", "kit", f"{kit.machine_text}; {kit.summary}")]
    missing = [name for name in kit.runs if name not in names]
    unnamed = sorted(set(names) - set(kit.runs))
    if missing:
        found.append(Finding("failed", "bundles", f"{len(missing)} of {len(kit.runs)} are missing: {listed(missing)}"))
    if unnamed:
        found.append(Finding("failed", "bundles", f"of no step of the kit: {listed(unnamed)}"))
    if not missing and not unnamed:
        found.append(Finding("ok", "bundles", f"{len(names)}, as the kit names them"))
    found += [Finding("note", "step", step_text(step)) for step in kit.failed]
    found += [Finding("note", "not here", f"{each.name}: {each.reason}") for each in kit.not_here]
    if kit.left_out:
        found.append(Finding("note", "left out", listed(kit.left_out)))
    return found


def step_text(step: Step) -> str:
    """``eval vlm coreml-ALL-fp16 aborted (SIGABRT): the last words on its stderr``."""
    said = " / ".join(line.strip() for line in step.stderr[-LAST_LINES:])
    return f"{step.name}: {step.status}{f' ({step.ended})' if step.ended else ''}{f': {said}' if said else ''}"


def check_machine(run: Run) -> list[Finding]:
    """Whether a bundle was made on the machine that its kit names, as far as both say so."""
    if run.kit is None:
        return []
    try:
        sessions = run.environment
    except BundleError:
        return []  # a finding of its own
    last = sessions[-1] if isinstance(sessions, list) and sessions else None
    made, named = last.get("hardware_key") if isinstance(last, dict) else None, run.kit.machine.get("hardware_key")
    if not made or not named or made == named:
        return []
    return [Finding("note", "machine", f"made on hardware {str(made)[:16]}, its kit on {named[:16]}")]
