"""Several models in one command: each in a process of its own.

Runtimes share a process badly: MLX's BLAS route is a choice per process, mlx-vlm replaces parts of transformers, one
model's memory would count as the next one's peak, and a runtime that aborts would take the others along.
"""

from __future__ import annotations

import argparse
import json
import signal
import subprocess
import sys
from typing import Any

from workbench.errors import EXIT_INTERRUPTED, EXIT_ITEM_ERRORS, EXIT_OK

PATIENCE_SECONDS = 2.0


def command_of(arguments: argparse.Namespace, model: str) -> list[str]:
    """The command line that evaluates ``model`` alone, and prints JSON."""
    command = [sys.executable, "-P", "-m", "workbench", "eval", arguments.task, "--model", model, "--json"]
    for name, value in vars(arguments).items():
        flag = "--" + name.replace("_", "-")
        if name in ("task", "model", "json", "verb", "run") or value is None or value is False:
            continue
        if value is True:
            command.append(flag)
        elif isinstance(value, list):
            command += [part for each in value for part in (flag, str(each))]
        else:
            command += [flag, str(value)]
    return command


def run_apart(arguments: argparse.Namespace) -> tuple[int, list[dict[str, Any]]]:
    """Run every model; returns (exit code, rows of the runs). A model that fails has said why and does not stop the next.

    The exit code is that of the first model that could not be run, else 6 if items failed, else 0.
    """
    codes, rows = [], []
    for model in arguments.model:
        code, output = wait_for(command_of(arguments, model))
        codes.append(code)
        if code in (EXIT_OK, EXIT_ITEM_ERRORS):
            rows += json.loads(output)["runs"]
    worst = next((code for code in codes if code not in (EXIT_OK, EXIT_ITEM_ERRORS)), None)
    return (worst if worst is not None else max(codes)), rows


def wait_for(command: list[str]) -> tuple[int, str]:
    """(exit code, standard output). Ctrl-C reaches the child from the terminal, or is passed on, and is waited for."""
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
        try:
            output, _ = child.communicate()
        except KeyboardInterrupt:
            try:
                child.wait(PATIENCE_SECONDS)
            except subprocess.TimeoutExpired:
                child.send_signal(signal.SIGINT)
                child.wait()
            raise SystemExit(EXIT_INTERRUPTED) from None  # the child has said that nothing is lost
    # A child that died of a signal (out of memory, an abort in a runtime) has a negative code.
    return (128 - child.returncode if child.returncode < 0 else child.returncode), output
