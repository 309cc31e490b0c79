"""Runs the steps of a kit, each in a process of its own: what aborts takes nothing along, and how it ended is a result.

done = run_step(step, Path("reports/kit"), Private.here(), say=print, follow=False)
done.status, done.signal        # ('aborted', 'SIGABRT')
"""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from threading import Thread
from typing import Any

from workbench.cli.apart import PATIENCE_SECONDS
from workbench.cli.kit_plan import PlannedStep
from workbench.errors import EXIT_INTERRUPTED, EXIT_ITEM_ERRORS, EXIT_NO_RUNTIME, EXIT_OK
from workbench.run import kit
from workbench.run.kit import Step
from workbench.run.scrub import Private

PROGRAM = (sys.executable, "-P", "-m", "workbench")
KEPT_LINES = 20
LONGEST_LINE = 400
SIGNAL = re.compile(r"\bSIG[A-Z][A-Z0-9]{1,9}\b")
DEVICE = re.compile(r"^(?:workbench: )?Core ML with units=\w+ (?:ended its process|did not come back)")
"""A device that is here and failed (``coreml_process.DeviceFailure``), though it has the exit code of one that is not."""


def run_step(step: PlannedStep, runs: Path, private: Private, say: Callable[[str], None], *, follow: bool) -> Step:
    """Run a step with its bundles in ``runs`` and record how it ended; what it writes on stderr goes to ``say``, line by line.

    Ctrl-C reaches the process from the terminal, or is passed on, and is waited for; then KeyboardInterrupt is raised.
    """
    code, output, lines = wait_for([*PROGRAM, *step.command(runs, follow), "--json"], say)
    if code == EXIT_INTERRUPTED:
        raise KeyboardInterrupt
    made = runs_of(output) if code in (EXIT_OK, EXIT_ITEM_ERRORS) else None
    kept = [] if code == EXIT_OK and made is not None else [private.scrubbed(line)[:LONGEST_LINE] for line in lines]
    if made is None and code in (EXIT_OK, EXIT_ITEM_ERRORS):
        kept.append("its output is no JSON of an evaluation or a capture")
    status, ended_by = how_it_ended(code, made is not None, kept)
    return Step(
        step.name,
        step.what,
        step.model,
        step.shown(follow),
        status,
        code if code >= 0 else None,
        ended_by,
        tuple(kept),
        tuple(made or ()),
    )


def how_it_ended(code: int, made_runs: bool, lines: Sequence[str]) -> tuple[str, str | None]:
    """(status, name of the signal). A worker's abort reaches the step as an error that names the signal."""
    if code < 0:
        return kit.ABORTED, signal_name(-code)
    if code == EXIT_OK and made_runs:
        return kit.COMPLETE, None
    if code == EXIT_ITEM_ERRORS and made_runs:
        return kit.ITEM_ERRORS, None
    named = next((found[0] for line in reversed(lines) if (found := SIGNAL.search(line))), None)
    if named:
        return kit.ABORTED, named
    if code == EXIT_NO_RUNTIME and not any(DEVICE.search(line) for line in lines):
        return kit.NOT_HERE, None
    return kit.FAILED, None


def signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def runs_of(output: str) -> list[str] | None:
    """Folders of the bundles that a step made, by name; None where its output is something else."""
    try:
        found = json.loads(output)
        rows = [row["run"] for row in found["runs"]] if "runs" in found else [found["capture"]]
    except (ValueError, KeyError, TypeError):
        return None
    return [str(row).replace("\\", "/").rpartition("/")[2] for row in rows]


def wait_for(command: Sequence[str], say: Callable[[str], None]) -> tuple[int, str, list[str]]:
    """(exit code, negative for a signal; standard output; the last lines of stderr)."""
    lines: deque[str] = deque(maxlen=KEPT_LINES)
    output: list[str] = []
    pipes: dict[str, Any] = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    child = subprocess.Popen(command, **pipes, text=True, errors="replace")

    def listen() -> None:
        for line in child.stderr or ():
            if line.strip():
                lines.append(line.rstrip("\n"))
                say(line.rstrip("\n"))

    def collect() -> None:
        output.append(child.stdout.read() if child.stdout else "")

    threads = [Thread(target=listen, daemon=True), Thread(target=collect, daemon=True)]
    for thread in threads:
        thread.start()
    try:
        child.wait()
    except KeyboardInterrupt:
        try:
            child.wait(PATIENCE_SECONDS)
        except subprocess.TimeoutExpired:
            child.send_signal(signal.SIGINT)
            child.wait()
        raise
    finally:
        for thread, pipe in zip(threads, (child.stderr, child.stdout), strict=True):
            thread.join(PATIENCE_SECONDS)
            if not thread.is_alive() and pipe is not None:  # else a process that the child left behind holds it open
                pipe.close()
    return child.returncode, "".join(output), list(lines)
