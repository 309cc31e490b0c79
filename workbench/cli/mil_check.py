"""``workbench mil check``: examine, run, compare, write a report; what it prints and its exit code."""

from __future__ import annotations

import argparse
import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from workbench.capture.check import check_program
from workbench.capture.program import Package, open_package
from workbench.cli.mil import check_random
from workbench.errors import EXIT_DIFFERENT, EXIT_INCONCLUSIVE, EXIT_OK, EXIT_USAGE, UsageError
from workbench.parity.text import printable

SHOWN = 12
CELL, LINE = 120, 1200
"""Characters of a name in a table, and of a line: names are a package's own."""
EXECUTION = "reference execution on torch"


@dataclass
class Checked:
    """All that a check found. ``run`` and what follows are None where the program was not run."""

    package: Package
    run: Any = None
    twin: Any = None
    comparison: Any = None
    view: Any = None
    report: Path | None = None
    inputs: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def unmatched(self) -> list[str]:
        """Outputs that no output of the twin could be told to be."""
        return [row.output for row in self.view.band if not row.errors] if self.twin is not None else []

    @property
    def exit_code(self) -> int:
        if self.package.unsupported:
            return EXIT_USAGE
        if self.comparison is None:
            return EXIT_OK
        code = self.comparison.verdict.exit_code
        return EXIT_INCONCLUSIVE if code == EXIT_OK and self.unmatched else code


def check(arguments: argparse.Namespace) -> int:
    from workbench.run.bundle import DEFAULT_RUNS
    from workbench.run.progress import automatic

    renamed = read_map(arguments.map, arguments.against)
    check_random(arguments)
    package = open_package(arguments.package, arguments.function)
    found = Checked(package)
    if not package.unsupported:
        if not arguments.json:
            print_program(package)  # before anything is run
        compare(found, arguments, renamed, Path(arguments.runs or DEFAULT_RUNS), automatic(rate=False))
    if arguments.json:
        print(json.dumps(as_json(found), ensure_ascii=False, allow_nan=False))
    elif package.unsupported:
        print_program(package)
        print_unsupported(package)
    else:
        print_outcome(found)
    return found.exit_code


def read_map(given: Sequence[str], against: str | None) -> dict[str, str]:
    found = {}
    for each in given:
        name, equals, other = each.partition("=")
        if not (name and equals and other):
            raise UsageError(f"--map {each!r} is no NAME=TWINS_NAME", fix="--map Identity=StatefulPartitionedCall:0")
        found[name] = other
    if found and not against:
        raise UsageError("--map names values of a twin", why="there is no --against", fix="--against MODEL.onnx")
    return found


def compare(found: Checked, arguments: argparse.Namespace, renamed: Mapping[str, str], runs: Path, progress: Any) -> None:
    """Run the program and its twin, write both bundles and the report."""
    from workbench.parity.ladder import DEFAULT_MARGIN, compare_all, make_margin
    from workbench.parity.sides import read_sides
    from workbench.report import write
    from workbench.report.program import program_views

    done = check_program(
        found.package,
        arguments.inputs,
        against=arguments.against,
        renamed=renamed,
        count=arguments.random,
        keep=arguments.keep,
        runs=runs,
        fresh=arguments.fresh,
        progress=progress,
    )
    found.inputs = [f"{item.id}: {item.text}" for item in done.items]
    found.run, found.twin, found.notes = done.run, done.twin, done.notes
    sides = read_sides(done.runs)
    comparisons = list(compare_all(sides, make_margin(DEFAULT_MARGIN, False))) if found.twin is not None else []
    found.comparison = comparisons[0] if comparisons else None
    found.view = program_views(sides)[-1]
    names = [run.name for side in sides for run in side.all_runs]
    found.report = write(sides, comparisons, arguments.out or default_report(sides), command=f"workbench report {' '.join(names)}")


def default_report(sides: Sequence[Any]) -> Path:
    from workbench.cli.report import REPORTS
    from workbench.fingerprint import of_json

    return REPORTS / f"report-{of_json([run.manifest['run_key'] for side in sides for run in side.all_runs], 10)}"


def as_json(found: Checked) -> dict[str, Any]:
    from workbench.cli.parity import as_json as comparison_json
    from workbench.cli.parity import plain

    program = found.package.program
    said: dict[str, Any] = {
        "package": str(found.package.path),
        "execution": EXECUTION,
        "program": program,
        "unsupported": found.package.unsupported,
        "exit_code": found.exit_code,
    }
    if found.run is None:
        return plain(said)
    said |= {
        "inputs": found.inputs,
        "capture": str(found.run.folder),
        "was_complete": found.run.was_complete,
        "findings": [{"kind": kind, "text": text} for kind, text, _ in found.view.findings],
        "against": None if found.twin is None else found.view.against,
        "twin_capture": None if found.twin is None else str(found.twin.folder),
        "notes": found.notes,
        "outputs": [
            {
                "output": row.output,
                "twin": row.twin,
                "how": row.how,
                "readings": {
                    name: {"snr_db": error.snr_db, "max_abs": error.max_abs, "relative_rms": error.relative_rms, "n": error.n}
                    for name, error in row.errors
                },
            }
            for row in found.view.band
        ],
        "comparison": None if found.comparison is None else comparison_json(found.comparison),
        "report": str(found.report),
    }
    return json.loads(json.dumps(plain(said), default=str))


def print_program(package: Package) -> None:
    """Ops, weights and what is known before a run."""
    program = package.program
    print(line_of(f"{package.path.name}  {program['function']}  {program['opset']}  {program['precision']}"))
    for name in ("inputs", "outputs", "states"):
        if program[name]:
            print(line_of(f"{name}: {'; '.join(program[name])}"))
    rows = [
        (row["type"], str(row["count"]), row["opset"], ", ".join(row["precisions"]) or "-", row["reason"] or "supported")
        for row in sorted(program["ops"], key=lambda row: row["supported"])
    ]
    print()
    aligned(("op", "count", "opset", "precision", "support"), rows)
    groups: dict[str, list[Mapping[str, Any]]] = {}
    for weight in program["weights"]:
        groups.setdefault(weight["compression"], []).append(weight)
    if groups:
        print()
        aligned(
            ("weights", "count", "stored", "without compression"),
            [
                (name, str(len(held)), size_of(held, "stored_bytes"), size_of(held, "dense_bytes"))
                for name, held in sorted(groups.items(), key=lambda each: -sum(weight["stored_bytes"] for weight in each[1]))
            ],
        )
        skipped = [weight["name"] for weight in program["weights"] if weight["skipped"]]
        if skipped:
            print(line_of(f"not compressed although others are: {few(skipped)}"))
    for finding in program["findings"]:
        if finding["kind"] != "unsupported":
            print(line_of(f"{finding['kind']}: {finding['text']}"))


def size_of(weights: Sequence[Mapping[str, Any]], name: str) -> str:
    from workbench.report.text import byte_text

    return byte_text(sum(weight[name] for weight in weights))


def few(names: Sequence[str]) -> str:
    return ", ".join(line_of(name, CELL) for name in names[:SHOWN]) + (
        f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    )


def line_of(text: str, limit: int = LINE) -> str:
    """What may be printed of a text that is not ours."""
    return printable(text if len(text) <= limit else f"{text[:limit]}… ({len(text):,} characters)")


def aligned(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """A plain table; the last column may be longer."""
    cells = [[*(line_of(cell, CELL) for cell in row[:-1]), line_of(row[-1])] for row in (columns, *rows)]
    widths = [max(len(row[place]) for row in cells) for place in range(len(columns) - 1)]
    for row in cells:
        print("  ".join([*(cell.ljust(width) for cell, width in zip(row, widths, strict=False)), row[-1]]).rstrip())


def print_unsupported(package: Package) -> None:
    print("\nnot run: these ops are not supported")
    for row in package.unsupported:
        print(line_of(f"  {row['type']}  {row['count']} times, first {row['example']!r}: {row['reason']}"))


def print_outcome(found: Checked) -> None:
    """What the run showed."""
    known = {finding["text"] for finding in found.package.program["findings"]}
    for kind, text, _ in found.view.findings:
        if text not in known:
            print(line_of(f"{kind}: {text}"))
    print(line_of(f"\n{EXECUTION}, {len(found.inputs)} {'input' if len(found.inputs) == 1 else 'inputs'}"))
    for text in found.inputs[:SHOWN]:
        print(line_of(f"  {text}"))
    print(line_of(f"\noutputs, measured from {found.view.against}"))
    rows = []
    for row in found.view.band:
        for place, (reading, snr, largest) in enumerate(row.cells):
            how = f"= {row.twin}, {row.how}" if row.how and place == 0 else ""
            rows.append((row.output if place == 0 else "", reading, snr, largest, how))
        if not row.cells:
            rows.append((row.output, "not compared", "", "", row.how or ""))
    aligned(("output", "reading", "SNR", "largest error", "matched"), rows)
    for note in found.notes:
        print(line_of(f"note: {note}"))
    print()
    if found.comparison is not None:
        print(line_of(found.comparison.verdict.sentence))
        if found.comparison.verdict.exit_code == EXIT_DIFFERENT:
            print_compressed(found)
        if found.unmatched:
            word = "INCONCLUSIVE" if found.exit_code == EXIT_INCONCLUSIVE else "also"
            print(line_of(f"{word}: {few(found.unmatched)} could not be matched; say which it is with --map NAME=TWINS_NAME"))
    print(line_of(f"bundle: {found.run.folder}"))
    if found.twin is not None:
        print(line_of(f"twin's bundle: {found.twin.folder}"))
    print(line_of(f"report: {found.report}"))
    print(line_of(f"next: {next_command(found)}"))


def print_compressed(found: Checked) -> None:
    """Which weights are compressed and whether what is stored makes the error, or how it is computed."""
    weights = found.package.program["weights"]
    packed = [weight for weight in weights if weight["kind"] != "none"]
    if not packed:
        return
    print(line_of(f"{len(packed)} of {len(weights)} weights are compressed: {few([weight['name'] for weight in packed])}"))
    for row in found.view.band:
        errors = dict(row.errors)
        own, exact = next(iter(errors.values()), None), errors.get("float64")
        if own is None or exact is None or not own.error_square:
            continue
        share = min(1.0, exact.error_square / own.error_square)
        print(
            line_of(
                f"  {line_of(row.output, CELL)}: SNR {own.snr_db:.1f} dB as written, {exact.snr_db:.1f} dB without rounding: "
                f"{100 * share:.0f} % of the error's energy is in the stored values, compression included, the rest is rounding"
            )
        )


def next_command(found: Checked) -> str:
    if found.twin is None:
        return f"workbench mil check {shlex.quote(str(found.package.path))} --against MODEL.onnx (or package.module:factory)"
    return f"workbench parity {shlex.quote(str(found.twin.folder))} {shlex.quote(str(found.run.folder))}"
