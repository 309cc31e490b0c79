"""The table of the zoo: every row in a process of its own, kept in a run bundle as it finishes, continued where it stopped.

    run = run_zoo(["llava", "./mine.py"], layouts=["hub"])
    run.results["verdicts"]                                # {"agrees": 2}
    for item in run.iter_items(): item["row"]["verdict"]

A row that crashes, hangs or eats memory costs itself alone. Beside the usual files the bundle has ``layers.jsonl``: one line a row,
input and layer.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from workbench.backends.hardware import usable_cores
from workbench.backends.torch import package_availability
from workbench.capture.zoo import processes
from workbench.capture.zoo.catalogue import Entry, choose
from workbench.capture.zoo.processes import GIB, Job, Outcome, Processes, ask_worker
from workbench.capture.zoo.row import INPUT_SEED, SEED
from workbench.errors import BundleError, RuntimeMissing, UsageError
from workbench.fingerprint import of_file, of_json, versions
from workbench.run import journal
from workbench.run import writer as writing
from workbench.run.bundle import DEFAULT_RUNS, LAYERS_FILE, ZOO, Run, run_key
from workbench.run.progress import Progress, Silent

VERSION = "1"
SECONDS, SLOW_SECONDS = 300.0, 900.0
MEMORY_BYTES, SLOW_MEMORY_BYTES = 4 * GIB, 12 * GIB
LIBRARIES = ("torch", "transformers", "mlx", "mlx-vlm", "mlx-lm", "numpy")
NEEDED = ("torch", "transformers", "mlx", "mlx-vlm")
SLOW = "slow: add --slow"
ROW_CODE = (
    *("capture/hooks.py", "capture/names.py", "capture/taps.py", "capture/zoo", "convert"),
    *("metrics/drift.py", "metrics/tensors.py", "models/layer_names.py", "models/vlm_mlx.py"),
)
"""What takes part in making a row, besides libraries."""
METRIC = "rows that agree"


def run_zoo(
    families: Sequence[str | Path] | None = None,
    *,
    modality: str | None = None,
    layouts: Sequence[str] | None = None,
    slow: bool = False,
    jobs: int | None = None,
    runs: str | Path = DEFAULT_RUNS,
    fresh: bool = False,
    progress: Progress | None = None,
    timeout: float | None = None,
    memory_bytes: float | None = None,
) -> Run:
    """Make the rows of ``families`` (names, files; all of ours without) and return their bundle; a complete one is returned as it is.

    ``jobs``: rows at a time (default: one a usable core; a slow row never beside another slow one). ``timeout`` in seconds and
    ``memory_bytes`` (resident) hold for each row; by default 300 s and 4 GiB, for slow families 900 s and 12 GiB. Raises UsageError,
    BundleError, and RuntimeMissing without torch, transformers, MLX or mlx-vlm; never for what a row does.
    """
    for name, value in (("jobs", jobs), ("timeout", timeout), ("memory", memory_bytes)):
        if value is not None and not 0 < value < float("inf"):
            raise UsageError(f"--{name} must be more than 0, not {value:g}")
    here = package_availability(NEEDED, "pip install 'parity-workbench[torch,mlx]'")
    if not here.ok:
        raise RuntimeMissing("the zoo compares MLX with PyTorch, and needs both", why=here.reason, fix=here.fix)
    rows = choose(families, modality, layouts)
    limits = {"seconds": timeout, "memory_bytes": memory_bytes and max(1, int(memory_bytes))}
    found = described_device()
    asked = asked_for(families, rows, modality, layouts, slow, limits)
    key = key_of(rows, slow, limits, found)
    writing.make_folder(Path(runs))
    try:
        folder, manifest = writing.locate(Path(runs), asked, key, allow_mixed=False, fresh=fresh)
    except BundleError as error:
        raise BundleError(error.what, why=error.why, fix="add --fresh to start anew") from error
    if manifest and manifest["status"] == "complete":
        run = Run(folder)
        run.was_complete = True
        return run
    first = {
        "kind": ZOO,
        "run_key": run_key(key),
        "key": key,
        "asked": asked,
        "task": {"name": "zoo", "version": VERSION, "scorer": f"zoo {VERSION}", "card": None, "headline": METRIC, "path": None},
        "model": {"text": "zoo", "backend": "zoo", "revision": None},
        "identity": {},
        "evidence": found["evidence"],
        "device": found["hardware"]["device"],
        "n": len(rows),
    }
    with writing.BundleWriter(folder, first) as bundle:
        if bundle.manifest["status"] != "complete":
            width = int(jobs or usable_cores())
            session = {"libraries": key["libraries"], "start_method": processes.METHOD, "jobs": width}
            bundle.add_session({**found["hardware"], **session})
            Table(bundle, rows, slow, limits, progress or Silent()).run(width)
    return Run(folder)


class Table:
    """One session's share of the table: the rows that have no line yet, then the results."""

    def __init__(
        self,
        bundle: writing.BundleWriter,
        rows: Sequence[tuple[Entry, str]],
        slow: bool,
        limits: Mapping[str, Any],
        progress: Progress,
    ):
        self.bundle, self.slow, self.limits, self.progress = bundle, slow, limits, progress
        self.rows = {f"{entry.name}/{layout}": (entry, layout) for entry, layout in rows}
        self.lines = {line["id"]: line for line in journal.read(bundle.folder / "samples.jsonl") if line["id"] in self.rows}

    def run(self, width: int) -> None:
        path = self.bundle.folder / LAYERS_FILE
        # A row's layers are written before its line: those of a row that has none are of a session that was killed between the two.
        kept = [line for line in journal.read(path) if line["id"] in self.lines]
        journal.write_atomically(path, map(journal.encode, kept))
        self.bundle.event("session", done=len(self.lines), pending=len(self.rows) - len(self.lines))
        self.progress.start("zoo", len(self.rows), len(self.lines))
        try:
            with journal.Journal(path) as self.layers:
                self.make_all(width)
        except KeyboardInterrupt:
            self.bundle.event("interrupted", done=len(self.lines))
            raise
        finally:
            self.progress.finish()
        order = {name: place for place, name in enumerate(self.rows)}
        layers = sorted(journal.read(path), key=lambda line: order[line["id"]])  # stable: a row's own lines keep their order
        journal.write_atomically(path, map(journal.encode, layers))
        final = [self.lines[name] for name in self.rows]
        self.bundle.finish(final, results_of(final))

    def make_all(self, width: int) -> None:
        waiting: list[Job] = []
        for name, (entry, layout) in self.rows.items():
            if name in self.lines:
                continue
            if why := unmade(entry, self.slow):
                self.keep(name, Outcome(0.0, None, verdict=why[0], reason=why[1]))
            else:
                waiting.append(self.job(name, entry, layout))
        waiting.sort(key=lambda job: not job.slow)  # long ones first, so that no core waits for them at the end
        if not waiting:
            return
        with Processes(width) as under_way:
            while waiting or under_way.jobs:
                slow_now = any(job.slow for job in under_way.jobs)
                following = next((job for job in waiting if not (job.slow and slow_now)), None) if under_way.free else None
                if following is not None:
                    waiting.remove(following)
                    under_way.start(following)
                else:
                    for job, outcome in under_way.wait():
                        self.keep(job.id, outcome)
                self.progress.update(len(self.lines), ", ".join(job.id for job in under_way.jobs))

    def job(self, name: str, entry: Entry, layout: str) -> Job:
        seconds = self.limits["seconds"] or (SLOW_SECONDS if entry.slow else SECONDS)
        memory = self.limits["memory_bytes"] or (SLOW_MEMORY_BYTES if entry.slow else MEMORY_BYTES)
        return Job(name, entry.origin, entry.name, layout, entry.slow, seconds, memory)

    def keep(self, name: str, outcome: Outcome) -> None:
        """A row that has ended, on the disk."""
        entry, layout = self.rows[name]
        line = line_of(name, entry, layout, outcome)
        if line["output"]["finish"] == "error":
            self.bundle.event("item error", id=name, **line["output"]["error"])
        self.layers.append(*({"id": name, **each} for each in outcome.layers))
        self.bundle.append([line])
        self.lines[name] = line


def unmade(entry: Entry, slow: bool) -> tuple[str, str] | None:
    """(verdict, reason) of a row that needs no process."""
    if entry.problem:
        return "failed", entry.problem
    if not entry.measurable:
        return "not run", entry.reason
    return ("not run", SLOW) if entry.slow and not slow else None


def line_of(name: str, entry: Entry, layout: str, outcome: Outcome) -> dict[str, Any]:
    """The line of ``samples.jsonl``."""
    row: dict[str, Any] = {field: getattr(entry, field) for field in ("title", "modality", "kind", "note")}
    row = {
        "family": entry.name,
        "layout": layout,
        **row,
        "verdict": outcome.verdict,
        "reason": outcome.reason,
        **(outcome.row or {}),
    }
    if outcome.verdict != "not run":
        row |= {"seconds": round(outcome.seconds, 3), "peak_memory_bytes": outcome.peak_memory_bytes}
    verdict, reason = str(row["verdict"]), str(row["reason"])
    output: dict[str, Any] = {"value": f"{verdict}: {reason}" if reason else verdict, "tokens": None, "finish": "stop"}
    if outcome.row is None and verdict != "not run":
        output |= {"finish": "error", "error": {"reason": verdict, "what": reason, "why": None, "fix": None}}
    return {
        "id": name,
        "group": entry.name,
        "groups": [["layout", layout], ["modality", row["modality"]], ["kind", row["kind"]]],
        "input_hash": of_json([entry.source, layout, SEED, INPUT_SEED], 32),
        "input": None,
        "output": output,
        "score": {
            "value": None if verdict == "not run" else float(verdict == "agrees"),
            "answer": verdict,
            "reason": "parsed",
            "counts": {},
        },
        "timing": None,
        "row": row,
    }


def results_of(lines: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Rows by verdict; the headline is the share that agree, of the rows that were judged."""
    values = [line["score"]["value"] for line in lines if line["score"]["value"] is not None]
    value = 100 * sum(values) / len(values) if values else None
    return {
        "task": "zoo",
        "version": VERSION,
        "scorer": f"zoo {VERSION}",
        "n": len(lines),
        "judged": len(values),
        "headline": {"metric": METRIC, "value": value, "unit": "%", "of": None},
        "interval": None,
        "verdicts": dict(Counter(line["score"]["answer"] for line in lines).most_common()),
        "item_errors": sum(line["output"]["finish"] == "error" for line in lines),
    }


def described_device() -> dict[str, Any]:
    """Hardware, kind of evidence and setup of the port's runtime, by a process of its own: this one may still want the BLAS route,
    which must be opened before MLX is imported. Raises RuntimeMissing."""
    answer, why = ask_worker("device")
    if answer is None:
        raise RuntimeMissing("MLX does not run here", why=why, fix="workbench doctor")
    return answer


def asked_for(
    families: Sequence[str | Path] | None,
    rows: Sequence[tuple[Entry, str]],
    modality: str | None,
    layouts: Sequence[str] | None,
    slow: bool,
    limits: Mapping[str, Any],
) -> dict[str, Any]:
    """What was typed. ``model`` is the selection in a word, for the folder's name."""
    names = sorted({entry.name for entry, _ in rows}) if families else []
    which = "-".join(names) if 0 < len(names) <= 3 else f"{len(names)}-families" if names else modality or "all"
    typed = sorted({entry.typed for entry, _ in rows}) if families else None
    parts = [which, *sorted(set(layouts or ())), *(["slow"] if slow else [])]
    return {
        "task": "zoo",
        "model": "-".join(parts),
        "families": typed,
        "modality": modality,
        "layouts": sorted(set(layouts)) if layouts else None,
        "slow": slow,
        **limits,
    }


def key_of(rows: Sequence[tuple[Entry, str]], slow: bool, limits: Mapping[str, Any], found: Mapping[str, Any]) -> dict[str, Any]:
    """What the rows depend on, as JSON with named fields."""
    return {
        "task": {"name": "zoo", "version": VERSION, "code": code_hash()},
        "rows": {f"{entry.name}/{layout}": entry.source for entry, layout in rows},
        "options": {"slow": slow, **limits},
        "seeds": {"weights": SEED, "inputs": INPUT_SEED},
        "backend": {
            "name": "mlx",
            "device": found["hardware"]["device"]["kind"],
            "threads": 1,
            **{f"setup.{name}": value for name, value in sorted(found["setup"].items())},
        },
        "libraries": versions(LIBRARIES),
    }


def code_hash() -> str:
    """One hash over the code that makes a row, findings included; families have hashes of their own."""
    package = Path(__file__).resolve().parents[2]
    files = [package / name for name in ROW_CODE if name.endswith(".py")]
    files += [path for name in ROW_CODE if not name.endswith(".py") for path in sorted((package / name).rglob("*.py"))]
    return of_json([[path.relative_to(package).as_posix(), of_file(path)] for path in files if path.parent.name != "families"], 32)
