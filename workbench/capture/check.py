"""Check a Core ML program without a Mac: examine it, run it, and run what it was converted from on the same arrays.

    found = check_program("encoder.mlpackage", {"mel": mel}, against=encoder)      # a torch module, or a file; see capture.twins
    workbench.compare(found.twin, found.run)                                       # verdict, layers, drift

Both become captures, so they compare anywhere, without any runtime.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from workbench.capture.program import Package, capture_program, open_package
from workbench.capture.program_inputs import ProgramItem, given_inputs
from workbench.capture.readings import Readings
from workbench.errors import UsageError
from workbench.run.bundle import DEFAULT_RUNS, Run
from workbench.run.progress import Progress, Silent


@dataclass
class Checked:
    """``run``: the program's capture; ``twin``: that of what it was converted from, None where nothing was named."""

    package: Package
    run: Run
    twin: Run | None
    items: Sequence[ProgramItem]
    notes: list[str] = field(default_factory=list)

    @property
    def runs(self) -> list[Run]:
        """As `workbench.compare` takes them: the twin first, which is the reference."""
        return [each for each in (self.twin, self.run) if each is not None]


def check_program(
    package: str | Path | Package,
    inputs: Any = None,
    *,
    against: Any = None,
    function: str | None = None,
    renamed: Mapping[str, str] | None = None,
    count: int | None = None,
    keep: bool = False,
    runs: str | Path = DEFAULT_RUNS,
    fresh: bool = False,
    progress: Progress | None = None,
) -> Checked:
    """Run ``package`` on ``inputs`` in every reading, and its twin, and return their captures.

    ``inputs``: arrays by name, several of these in a list, ``.npz`` files, ``NAME=picture.png``; nothing: ``count`` seeded random ones.
    ``against``: a torch module, MODEL.onnx, MODEL.pt2, MODEL.pt, ``file.py:factory``. ``renamed``: names of inputs or outputs of the program
    and those of the twin. ``keep``: also keep every layer's values. Raises UsageError (a bad package, an op that is not known, inputs
    that do not fit), RuntimeMissing, DataError.
    """
    opened = package if isinstance(package, Package) else open_package(package, function)
    refuse_unsupported(opened)
    progress = progress or Silent()
    readings = Readings(opened.path, opened.function, keep=keep)
    items = given_inputs(readings.program, inputs, count)
    renamed = dict(renamed or {})
    twin = None
    if against is not None:  # opened first: a twin that is not there should not cost a run of the program
        from workbench.capture.twin_session import capture_twin, check_names
        from workbench.capture.twins import matched_inputs, open_twin

        check_names(readings, renamed)
        dialect = opened.program["metadata"].get("com.github.apple.coremltools.source_dialect", "")
        twin = open_twin(against, items[0].arrays, dialect)
        twin.renamed.update(renamed)
        matched_inputs(twin.inputs, items[0].arrays, renamed)
    found = Checked(opened, capture_program(opened, readings, items, runs=Path(runs), fresh=fresh, progress=progress), None, items)
    if twin is not None:
        found.twin = capture_twin(
            twin, readings, found.run, items, renamed=renamed, runs=Path(runs), fresh=fresh, progress=progress
        )
        found.notes = [event["text"] for event in found.twin.events() if event["event"] == "note"]
    return found


def refuse_unsupported(package: Package) -> None:
    """Raises UsageError with every op that is not known, before anything is run."""
    rows = package.unsupported
    if rows:
        named = ", ".join(f"{row['type']} ({row['count']})" for row in rows)
        why = f"{named}: not known in {rows[0]['opset']}"
        raise UsageError(
            f"{package.path.name} holds ops that cannot be run", why=why, fix="workbench mil check PACKAGE lists them all"
        )
