"""The program section of the Markdown twin: outputs in every reading, findings, ops, weights by compression."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from workbench.parity.sides import Side
from workbench.report.program import ProgramView, program_views
from workbench.report.text import byte_text, markdown

MOST = 60


def program_parts(sides: Sequence[Side]) -> Iterator[str]:
    """Nothing where no side is a Core ML program."""
    views = program_views(sides) if any(side.captures for side in sides) else []
    for view in views:
        yield f"## Program: {markdown(view.label)}" if len(views) > 1 else "## Program"
        yield "Reference execution on torch. It settles whether the conversion is faithful; it is no device, and nothing here is a timing."
        yield "\n".join(f"- {markdown(name)}: {markdown(value)}" for name, value in view.facts)
        yield from outputs(view)
        if view.findings:
            yield "\n".join(f"- **{markdown(kind)}**: {markdown(text, 600)}" for kind, text, _ in view.findings[:MOST])
        yield from tables(view)


def outputs(view: ProgramView) -> Iterator[str]:
    from workbench.report.markdown import table

    rows = []
    for row in view.band[:MOST]:
        told = markdown(row.output, 160) + (f" ({markdown(row.how)})" if row.how else "")
        rows += [(told, f"{row.n:,}", reading, snr, largest) for reading, snr, largest in row.cells] or [
            (told, "–", "not compared", "–", "–")
        ]
    if rows:
        yield f"Outputs, measured from {markdown(view.against)}:"
        yield table(("output", "values (n)", "reading", "SNR", "largest error"), rows, right=(1, 3, 4))


def tables(view: ProgramView) -> Iterator[str]:
    from workbench.report.markdown import table

    rows = [
        (
            markdown(row["type"]),
            f"{row['count']:,}",
            markdown(row["opset"]),
            markdown(", ".join(row["precisions"])),
            markdown(row.get("reason") or "") or "yes",
        )
        for row in view.ops[:MOST]
    ]
    yield table(("op", "count", "opset", "precision", "supported"), rows, right=(1,))
    if view.groups:
        found = []
        for group in view.groups:
            names = ", ".join(group.names) + (
                f" and {group.count - len(group.names):,} more" if group.count > len(group.names) else ""
            )
            skipped = f"; not compressed although others are: {', '.join(group.skipped[:12])}" if group.skipped else ""
            found.append(
                (
                    markdown(group.compression),
                    f"{group.count:,}",
                    byte_text(group.stored_bytes),
                    byte_text(group.dense_bytes),
                    markdown(names + skipped),
                )
            )
        yield table(("stored as", "weights", "stored", "without compression", "which"), found, right=(1, 2, 3))
