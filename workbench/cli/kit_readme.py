"""The text inside a kit's zip: what it is, what it holds and does not hold, and what to do with it."""

from __future__ import annotations

from collections.abc import Iterator

from workbench.run.kit import Kit

HEAD = """\
A kit of the parity workbench
=============================

Is a model that was converted to another runtime still the same model? This zip is one machine's evidence: the two small models
that come with the workbench, run on the runtimes of that machine, question by question.

Made on: {machine}
With:    {libraries}
Result:  {summary}

Look at it (neither a runtime nor that machine is needed; Python 3.11 to 3.13):

    pip install parity-workbench         or, from a checkout: pip install -e .
    workbench verify {name}
    workbench report {name} --open

Put it beside runs of your own, or beside another machine's kit. All are compared with this kit's PyTorch on the CPU, since it comes
first; times of different machines are never compared:

    workbench report {name} reports/demo

"""

CONTENTS = """\
What is inside
--------------

- kit.json: the kind of machine (processor, cores, memory, GPU, system), versions of the libraries, and every step with its command and
  how it ended. A step that failed is a result too: its last messages are kept.
- one folder a run: the answers, their scores, log-probabilities of the tokens, times, the names and hashes of the model's weights
- one folder a capture: statistics and sketches of what each layer put out, and the arrays that were fed

Questions, pictures and voices are synthetic and belong to the workbench; the models' weights are not inside.

What is not inside
------------------

No host name, no user name, no serial number, no address, no file or path of that machine. Messages of failed steps had paths and names
taken out. Nothing was sent anywhere: who made this zip decides who gets it. All of it is text, JSON and arrays (safetensors);
nothing in it is ever run.
"""


def readme(kit: Kit, name: str) -> bytes:
    """``README.txt`` of a kit whose zip is called ``name``: plain ASCII or UTF-8, the same bytes for the same kit."""
    libraries = ", ".join(f"{library} {version}" for library, version in kit.libraries.items()) or "no runtime"
    parts = [HEAD.format(machine=kit.machine_text, libraries=libraries, summary=kit.summary, name=name), *steps(kit), CONTENTS]
    return "".join(parts).encode("utf-8")


def steps(kit: Kit) -> Iterator[str]:
    """What did not end well, and what was not there."""
    for title, lines in (
        ("Steps that did not end well", [f"{each.name}: {each.status} {each.ended}".rstrip() for each in kit.failed]),
        ("Not on that machine", [f"{each.name}: {each.reason}" for each in kit.not_here]),
        ("Left out by its maker", list(kit.left_out)),
    ):
        if lines:
            yield f"{title}\n{'-' * len(title)}\n\n" + "".join(f"- {line}\n" for line in lines) + "\n"
