"""The command ``workbench``: one module a verb, imported when that verb is used.

Exit codes: 0 ok, 1 different or a failed gate, 2 usage, 3 the runtime is not here, 4 inconclusive, 5 incomparable,
6 finished with item errors, 130 interrupted and resumable.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Sequence
from importlib import import_module

from workbench import __version__
from workbench.errors import EXIT_INTERRUPTED, EXIT_USAGE, WorkbenchError

VERBS = {
    "doctor": "what runs here, what does not, why, and what to type",
    "list": "tasks, suites, models and runs",
    "eval": "run a task or a suite on one or more models",
    "score": "score answers made elsewhere, or score a run again",
    "transcribe": "sound files to text, subtitles or JSON",
    "extract": "let a language model extract or judge a run's answers",
    "capture": "record what a model's layers put out, to find where two runtimes part",
    "mil": "check a Core ML program on any machine: its ops, its weights, and whether it computes what it was converted from",
    "parity": "compare runs rung by rung and say whether they agree",
    "report": "one page about one run or several: verdict, ladder, flips",
    "view": "open a report",
    "pack": "put runs into one zip",
    "kit": "run the demo suite on this machine's runtimes and pack the evidence into one zip",
    "merge": "put the shards of a run together",
    "zoo": "does the port of an architecture compute what transformers computes? tiny random checkpoints of every family",
    "convert": "another layout or format of the same model",
    "verify": "check that a run is whole and that its results follow from its answers",
}


def build_parser(verb: str | None) -> argparse.ArgumentParser:
    """The parser; only the module of the verb in use is imported."""
    parser = argparse.ArgumentParser(prog="workbench", description="Is the model I ship still the model I evaluated?")
    parser.add_argument("--version", action="version", version=f"parity-workbench {__version__}")
    parsers = parser.add_subparsers(dest="verb", metavar="VERB", required=True)
    for name, text in VERBS.items():
        if name == verb:
            import_module(f"workbench.cli.{name}").add_parser(parsers)
            described = parsers.choices[name]
            described.description = (described.description or text).replace("``", "`")
        else:
            parsers.add_parser(name, help=text)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command line; returns the exit code."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    verb = next((word for word in given if word in VERBS), None)
    parsed = build_parser(verb).parse_args(given)
    try:
        return import_module(f"workbench.cli.{parsed.verb}").run(parsed)
    except WorkbenchError as error:
        from workbench.parity.text import printable

        print(printable(f"workbench: {error}"), file=sys.stderr)  # names come from files and bundles
        return error.exit_code
    except KeyboardInterrupt:
        print("\nworkbench: interrupted; nothing is lost. Type the same command again to continue.", file=sys.stderr)
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        # A reader such as `head` went away; point stdout elsewhere so that the interpreter's exit stays quiet.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE
    except OSError as error:
        from workbench.parity.text import printable

        print(printable(f"workbench: {error.strerror or error}: {error.filename or ''}"), file=sys.stderr)
        return EXIT_USAGE


if __name__ == "__main__":
    sys.exit(main())
