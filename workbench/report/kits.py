"""The kits that runs came in: which steps ended badly on that machine, and which runtimes it lacked. Evidence too, though it has no score.

kits_of(sides)[0].failed      # (Step('eval vlm coreml-ALL-fp16', ..., status='aborted', signal='SIGABRT'),)
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from workbench.parity.sides import Side
from workbench.report.text import markdown
from workbench.run.kit import Kit
from workbench.run.kit_check import step_text

LONGEST_DETAIL = 600


def kits_of(sides: Sequence[Side]) -> list[Kit]:
    """Each kit once, in the order of the sides."""
    found: list[Kit] = []
    for kit in (run.kit for side in sides for run in side.all_runs):
        if kit is not None and kit not in found:
            found.append(kit)
    return found


def kit_parts(sides: Sequence[Side]) -> Iterator[str]:
    """The same in Markdown."""
    kits = kits_of(sides)
    if kits:
        yield "## Kits"
    for kit in kits:
        lines = [f"**{markdown(kit.machine_text, 400)}**: {markdown(kit.summary, 400)}"]
        lines += [f"- {markdown(step_text(step), LONGEST_DETAIL)}" for step in kit.failed]
        lines += [f"- not there: {markdown(f'{each.name}: {each.reason}', LONGEST_DETAIL)}" for each in kit.not_here]
        lines += [f"- left out by its maker: {markdown(', '.join(kit.left_out), LONGEST_DETAIL)}"] if kit.left_out else []
        yield "\n".join(lines)
