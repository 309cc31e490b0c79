"""Timings as the report shows them: one block a kind of evidence and machine, so that no two machines share a table.

    timing_blocks(sides)[0].title      # 'device · NVIDIA H200'

Numbers stand for themselves here: a ratio needs interleaved pairs (``workbench bench``), not two runs on two days.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from workbench.parity.sides import Side
from workbench.run.bundle import Run
from workbench.run.summary import performance

EVIDENCE = {
    "device": "the vendor's runtime on its own accelerator",
    "host": "the vendor's runtime on this kind of processor",
    "server": "answers over HTTP; runtime and hardware are not seen, the network is part of every time",
    "reference": "the same converted graph run by a reference executor: it settles fidelity and has no timing",
}
"""The kinds of evidence, in the order of the page, and what each means."""


@dataclass(frozen=True)
class TimingRow:
    """Seconds and bytes; None where nothing was measured."""

    task: str
    label: str
    run: str
    n: int
    median: float | None
    p90: float | None
    first: float | None
    items_per_second: float | None
    tokens_per_second: float | None
    cold_start: float | None
    peak_memory_bytes: int | None
    size_bytes: int | None
    audio_seconds: float | None = None
    rtf: float | None = None
    rtfx: float | None = None
    """Of speech: seconds of audio in all, processing over audio, audio over processing."""


@dataclass
class TimingBlock:
    """The runs of one kind of evidence on one kind of machine."""

    evidence: str
    meaning: str
    hardware: str
    hardware_key: str | None
    rows: list[TimingRow] = field(default_factory=list)


def timing_blocks(sides: Sequence[Side]) -> list[TimingBlock]:
    """Blocks in the order device, host, server, reference; within a block by side and task."""
    blocks: dict[tuple[str, str | None], TimingBlock] = {}
    for side in sides:
        for run in (run for runs in side.runs.values() for run in runs):  # a capture measures nothing
            evidence = run.manifest.get("evidence") or "host"
            session = (run.environment or [{}])[-1]
            key = session.get("hardware_key")
            if (evidence, key) not in blocks:
                blocks[evidence, key] = TimingBlock(evidence, EVIDENCE.get(evidence, ""), hardware_text(session), key)
            blocks[evidence, key].rows.append(timing_row(side, run))
    order = list(EVIDENCE)
    return sorted(blocks.values(), key=lambda block: order.index(block.evidence) if block.evidence in order else len(order))


def timing_row(side: Side, run: Run) -> TimingRow:
    """Of ``results.json``; of a run without results from the lines of its items."""
    task, results = run.manifest["task"]["name"], run.results
    found: Mapping[str, Any] = (results or {}).get("performance") or performance(list(run.items().values()))
    timed = run.manifest.get("evidence") != "reference"
    spread = (found.get("item_seconds") or {}) if timed else {}
    return TimingRow(
        task,
        side.label,
        run.name,
        found.get("n", 0) if timed else 0,
        spread.get("median"),
        spread.get("p90"),
        (found.get("first_token_seconds") or {}).get("median") if timed else None,
        found.get("items_per_second") if timed else None,
        found.get("tokens_per_second") if timed else None,
        found.get("cold_start_seconds") if timed else None,
        found.get("peak_memory_bytes") if timed else None,
        size_on_disk(run),
        *(found.get(name) if timed else None for name in ("audio_seconds", "rtf", "rtfx")),
    )


def size_on_disk(run: Run) -> int | None:
    """Bytes of the weights: as the bundle's artifact says, else as the run key says."""
    artifact = getattr(run, "artifact", None) or {}
    return artifact.get("bytes") or run.manifest["key"]["model"].get("size_bytes")


def gpu_text(session: Mapping[str, Any]) -> str:
    """The names of a session's GPUs, which stand there as mappings or as plain names."""
    return ", ".join(str(gpu.get("name") if isinstance(gpu, Mapping) else gpu) for gpu in session.get("gpus") or [])


def hardware_text(session: Mapping[str, Any]) -> str:
    """``NVIDIA H200 · AMD EPYC 9654, 16 cores, 137 GB · Linux``; what a session of ``environment.json`` says."""
    from workbench.report.text import byte_text

    parts = [gpu_text(session)]
    cpu = [str(session[name]) for name in ("cpu",) if session.get(name)]
    if session.get("cores"):
        cpu.append(f"{session['cores']} cores")
    if session.get("memory_bytes"):
        cpu.append(byte_text(session["memory_bytes"]))
    parts += [", ".join(cpu), str(session.get("system") or "")]
    device = session.get("device") or {}
    if device.get("kind"):
        parts.append(f"run on: {device.get('name') or device['kind']}")
    return " · ".join(part for part in parts if part) or "hardware not recorded"
