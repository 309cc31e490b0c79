"""Kits for tests: bundles as the report's tests make them, a record, and one zip; no model, no runtime.

zip_path = make_kit(tmp_path / "mac.zip", [reference, candidate], machine="device")
"""

from dataclasses import replace

from tests.report.bundles import MACHINES
from workbench.cli.kit_readme import readme
from workbench.run import archive
from workbench.run.bundle import Run
from workbench.run.kit import ABORTED, COMPLETE, KIT_FILE, README_FILE, Kit, Runtime, Step

COMMAND = "workbench eval demo --model MODEL --limit 50"
ABORT = Step(
    "eval vlm coreml-ALL-fp16",
    "eval",
    "demo:vlm@coreml?units=ALL&precision=fp16",
    COMMAND,
    ABORTED,
    None,
    "SIGABRT",
    ("E5RT: ANE compiler <b>gave up</b>",),
)


def record(runs, machine="host", **changes) -> Kit:
    """The record of a kit that made ``runs``, one step each, and whose last step aborted."""
    session = runs[0].environment[-1] if runs else {}
    about = {name: value for name, value in MACHINES[machine].items() if name != "gpus"}
    about |= {"python": "3.12.1", "hardware_key": session.get("hardware_key", "0" * 16), "gpus": MACHINES[machine]["gpus"]}
    steps = [
        Step(f"eval {number}", "eval", run.manifest["model"]["text"], COMMAND, COMPLETE, 0, runs=(run.name,))
        for number, run in enumerate(runs)
    ]
    lacking = (Runtime("mlx", "mlx is not installed", "pip install 'parity-workbench[mlx]'"),)
    return replace(Kit("0.1.0", {"vlm": 50, "stt": 140}, about, {"torch": "2.13.0"}, (*steps, ABORT), lacking), **changes)


def make_kit(target, folders, machine="host", **changes):
    """The zip of a kit that holds the bundles in ``folders``, the first being its reference."""
    runs = [Run(folder) for folder in folders]
    kit = record(runs, machine, **changes)
    archive.pack(runs, target, beside={KIT_FILE: kit.encode(), README_FILE: readme(kit, target.name)})
    return target
