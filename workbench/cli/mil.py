"""``workbench mil check PACKAGE`` and ``workbench mil run PACKAGE``: Core ML programs on any machine, by reference execution on torch.

    workbench mil check encoder.mlpackage --against encoder.onnx --inputs mel.npz
    workbench mil check encoder.mlpackage --against package.module:factory
    workbench mil run encoder.mlpackage --inputs mel.npz --out hidden.npz

It answers whether a conversion is faithful. It says nothing of speed, and its numbers are not those of a particular device.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from workbench.errors import EXIT_OK, UsageError

READINGS = ("native", "emulate", "fp16-weights", "float64")
MOST_INPUTS = 1000


def add_parser(parsers: Any) -> None:
    parser = parsers.add_parser(
        "mil",
        help="check a Core ML program on any machine",
        description="Check or run a Core ML program on any machine: by reference execution on torch, op by op.",
    )
    actions = parser.add_subparsers(dest="action", metavar="check|run", required=True)
    check = actions.add_parser(
        "check",
        help="ops, weights, findings; run it; compare it with what it was converted from",
        description="List ops, weights and findings of a package, run it, and compare it with its twin, output by output and layer by layer.",
        epilog="Exit codes: 0 no op is missing and the twin agrees, 1 DIFFERENT, 2 an op that is not supported or a bad package, 3 a library is missing, 4 INCONCLUSIVE, 5 INCOMPARABLE.",
    )
    common(check)
    check.add_argument(
        "--against",
        metavar="TWIN",
        help="MODEL.onnx, MODEL.pt2, MODEL.pt (TorchScript), package.module:factory or file.py:factory; files of torch and factories hold code, which is run",
    )
    check.add_argument(
        "--map",
        action="append",
        default=[],
        metavar="NAME=TWINS",
        help="an input or output of the program and its name in the twin, where they cannot be told; repeatable",
    )
    check.add_argument("--random", type=int, metavar="N", help="without --inputs: how many random inputs (default 1)")
    check.add_argument("--keep", action="store_true", help="also keep the values of every layer, above 4 million a sample of them")
    check.add_argument("--runs", type=Path, metavar="FOLDER", help="where bundles go (default: reports/runs)")
    check.add_argument("--fresh", action="store_true", help="start anew; a former capture is set aside, not deleted")
    check.add_argument("--out", type=Path, metavar="FOLDER", help="where the report goes (default: reports/report-HASH)")
    run_ = actions.add_parser(
        "run",
        help="run it on inputs",
        description="Run a package on inputs and say what comes out, by reference execution on torch.",
    )
    common(run_)
    run_.add_argument("--precision", choices=READINGS, default="native", help="how floats are read (default: native)")
    run_.add_argument("--steps", type=int, default=1, metavar="N", help="of a stateful program: predict N times on one state")
    run_.add_argument("--out", type=Path, metavar="OUT.npz", help="where the outputs go")


def common(parser: Any) -> None:
    parser.add_argument("package", type=Path, metavar="PACKAGE", help=".mlpackage or .mlmodel of the ML Program kind")
    parser.add_argument(
        "--inputs",
        action="append",
        default=[],
        metavar="WHAT",
        help="X.npz with one array an input, or NAME=picture.png; repeatable (default: seeded random numbers of the declared shapes)",
    )
    parser.add_argument("--function", metavar="NAME", help="of a package with several functions (default: its default)")
    parser.add_argument("--json", action="store_true", help="print one JSON object and nothing else")


def run(arguments: argparse.Namespace) -> int:
    if arguments.action == "check":
        from workbench.cli.mil_check import check

        return check(arguments)
    return predict(arguments)


def check_random(arguments: argparse.Namespace) -> None:
    """Raises UsageError where ``--random`` makes no sense."""
    count = arguments.random
    if count is None:
        return
    if arguments.inputs:
        raise UsageError(
            "--random and --inputs were both given", why="inputs are either named or drawn", fix="leave one of them out"
        )
    if not 1 <= count <= MOST_INPUTS:
        raise UsageError(f"--random must be between 1 and {MOST_INPUTS}, not {count}")


def predict(arguments: argparse.Namespace) -> int:
    """``workbench mil run``."""
    from workbench.capture.program_inputs import given_inputs
    from workbench.capture.readings import told
    from workbench.parity.text import printable

    if arguments.steps < 1:
        raise UsageError(f"--steps must be at least 1, not {arguments.steps}")
    if arguments.out is not None and arguments.out.suffix != ".npz":
        raise UsageError(f"{arguments.out} is no .npz", fix="--out OUT.npz")
    with told():
        from workbench.mil import load

        program = load(arguments.package, arguments.function, arguments.precision)
        items = given_inputs(program, arguments.inputs)
        if len(items) > 1:
            raise UsageError(f"{len(items)} inputs were given", why="a run takes one", fix="workbench mil check takes several")
        if arguments.steps > 1 and not program.states:
            raise UsageError("--steps is for programs with a state", why="every step would give the same")
        state = program.make_state() if program.states else None
        for _ in range(arguments.steps):
            outputs = program.predict(items[0].arrays, state=state)
    told_outputs = [described(name, value) for name, value in outputs.items()]
    if arguments.out is not None:
        save(arguments.out, outputs)
    if arguments.json:
        found = {
            "package": str(arguments.package),
            "function": program.function_name,
            "precision": arguments.precision,
            "execution": "reference execution on torch",
            "inputs": items[0].text,
            "steps": arguments.steps,
            "outputs": told_outputs,
            "out": None if arguments.out is None else str(arguments.out),
        }
        print(json.dumps(found, ensure_ascii=False, allow_nan=False))
        return EXIT_OK
    print(printable(f"{arguments.package.name}  {program.function_name}  {arguments.precision}  reference execution on torch"))
    print(printable(f"inputs: {items[0].text}"))
    for each in told_outputs:
        print(printable(f"  {each['name']}  {each['words']}"))
    if arguments.out is not None:
        print(printable(f"outputs: {arguments.out}"))
    return EXIT_OK


def described(name: str, value: Any) -> dict[str, Any]:
    """An output in numbers and in words."""
    import numpy

    found: dict[str, Any] = {"name": name}
    if isinstance(value, dict):
        best = max(value, key=value.get) if value else None
        return found | {
            "kind": "probabilities",
            "labels": len(value),
            "best": best,
            "words": f"{len(value)} labels, most likely {best!r}",
        }
    if isinstance(value, str):
        return found | {"kind": "label", "value": value, "words": f"label {value!r}"}
    array = numpy.asarray(value)
    if array.dtype.kind not in "fiub":
        return found | {"kind": "text", "words": f"{array.size} values of type {array.dtype}"}
    finite = array[numpy.isfinite(array)] if array.dtype.kind == "f" else array
    bad = int(array.size - finite.size)
    numbers = (
        {"min": float(finite.min()), "max": float(finite.max()), "mean": float(finite.mean(dtype=numpy.float64))}
        if finite.size
        else {}
    )
    words = f"{array.dtype}{list(array.shape)}" + (
        f", {numbers['min']:.6g} to {numbers['max']:.6g}, mean {numbers['mean']:.6g}" if numbers else ""
    )
    words += f", {bad:,} values not finite" if bad else ""
    return found | {
        "kind": "array",
        "dtype": str(array.dtype),
        "shape": list(array.shape),
        "non_finite": bad,
        **numbers,
        "words": words,
    }


def save(path: Path, outputs: dict[str, Any]) -> None:
    """Outputs by name; of probabilities the values, and their labels as ``NAME.labels``. Raises UsageError."""
    import numpy

    arrays: dict[str, Any] = {}
    for name, value in outputs.items():
        if isinstance(value, dict):
            arrays[name] = numpy.array(list(value.values()))
            arrays[f"{name}.labels"] = numpy.array(list(map(str, value)))
        else:
            arrays[name] = numpy.asarray(value)
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "wb") as file:
        numpy.savez(file, allow_pickle=False, **arrays)
