"""What every conversion to a folder of programs prints: what is there, what stays fp32, the check; and where it goes unless the user says.

print("\\n".join([*head(done), *kept(done.artifact), *checked(done.artifact)]))
"""

from __future__ import annotations

import argparse
import re
import shlex
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from workbench.convert.feeds import LIMIT

EVALS = {"vision-language": "demo", "speech-to-text": "stt"}


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of every conversion to a folder of programs."""
    group = parser.add_argument_group("coreml, onnx and tensorrt")
    group.add_argument(
        "--precision",
        metavar="fp32|fp16|bf16|int8-qdq",
        help="what the programs compute in (default fp32); bf16 and int8-qdq are for onnx and tensorrt",
    )
    group.add_argument(
        "--keep-fp32",
        action="append",
        metavar="PATTERN",
        help="ops that stay fp32, by type, layer or value, with * for anything; repeatable",
    )
    group.add_argument(
        "--context", type=int, metavar="N", help="positions of the decoder's cache (default: the model's, at most 2048)"
    )
    group.add_argument(
        "--inputs",
        action="append",
        metavar="WHAT",
        help="check on a task's or suite's first items, an image, a sound or a file of arrays (default: the bundled models' own tasks, else seeded random inputs)",
    )
    group.add_argument("--limit", type=int, metavar="N", help=f"with --inputs: the first N items of each task (default {LIMIT})")


def default_out(model: str, name: str, words: Sequence[str]) -> Path:
    """Beside the user's own folder, else in the current one, with ``words`` behind the name. ``name``: the subject's."""
    from workbench.cli.convert import find

    plain = re.split(r"[/:]", name)[-1]
    if model.endswith(f":{plain}") and model.count(".py:"):
        plain = f"{Path(name.partition(':')[0]).stem}-{plain}"
    suffix = "".join(f"-{word}" for word in words if word)
    if Path(model).expanduser().is_dir():
        return find(model, suffix)[1]
    return Path(f"{'demo-' if name.startswith('demo:') else ''}{plain}{suffix}")


def head(done: Any) -> Iterator[str]:
    """The folder, and a line a package: its size and stages."""
    from workbench.report.text import byte_text

    artifact = done.artifact
    if done.reused:
        yield f"{done.folder} is there already, exactly as asked for: nothing was converted"
    about = f"{artifact.architecture}, {artifact.label}, {count(len(artifact.stages), 'stage')}"
    yield f"{done.folder}: {about}, {byte_text(artifact.size_bytes)}"
    for package, entry in artifact.packages.items():
        held = [stage for stage in artifact.stages.values() if stage.package == package]
        words = ", ".join(f"{stage.name} ({sum(stage.ops.values()):,} ops)" for stage in held)
        yield f"  {package}  {byte_text(entry['bytes'])}  {words}"


def kept(artifact: Any, *, reasons: bool = False) -> Iterator[str]:
    """Ops that stay fp32, by stage and type; ``reasons``: and why."""
    for name in artifact.stages:
        rows = artifact.manifest["stages"][name].get("kept_fp32") or []
        if rows:
            types = ", ".join(f"{op} × {number}" for op, number in Counter(row["op"] for row in rows).most_common())
            yield f"kept in fp32: {name}: {count(len(rows), 'op')} ({types})"
        if reasons:
            for why, number in Counter(row.get("reason") or row.get("pattern") for row in rows).most_common():
                yield f"  {number} × {why}"


def checked(artifact: Any, *, against: str = "torch", remark: str = "") -> Iterator[str]:
    """The check, a line a stage; ``against``: what it was held to; ``remark``: what it was made before, say."""
    if not artifact.check:
        yield "check: none was made (--no-check)"
        return
    yield f"check against {against}, on {artifact.manifest.get('inputs')} (relative L2 of the outputs{remark})"
    for name, seen in artifact.check.items():
        if seen is None:
            yield f"  {name}: not checked, the inputs never reach it"
            continue
        found = ", ".join(f"{number} ops {dtype}" for dtype, number in seen["precision"]["found"].items())
        row = f"  {name}: {_verdict(seen)}; {count(seen['calls'], 'call')}; {found}"
        if compressed := seen.get("compressed"):
            most = max(compressed.items(), key=lambda pair: pair[1]["relative_l2"] or 0.0)
            row += f"; compressed: {tell(most[1]['relative_l2'])} ({most[0]})"
        yield row
        if seen.get("note"):
            yield f"    {seen['note']}"


def _verdict(seen: Mapping[str, Any]) -> str:
    if not seen["outputs"]:
        return "measured alone"
    worst = max(seen["outputs"].items(), key=lambda pair: pair[1]["relative_l2"] or 0.0)
    own = worst[1].get("own_error")
    words = f"{'same' if seen['same'] else 'DIFFERENT'}, at most {tell(worst[1]['relative_l2'])} ({worst[0]})"
    return words + f", limit {worst[1]['limit']:.0e}{f', torch itself {tell(own)}' if own is not None else ''}"


def eval_of(done: Any, runtime: str) -> str | None:
    """The evaluation to type next; None where there is none for the family."""
    if done.artifact.family not in EVALS:
        return None
    folder = str(done.folder)
    named = folder if folder.startswith((".", "/", "~")) else f"./{folder}"
    return f"workbench eval {EVALS[done.artifact.family]} --model {shlex.quote(f'{runtime}:{named}')}"


def count(number: int, what: str) -> str:
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def tell(value: float | None) -> str:
    return "not finite" if value is None else f"{value:.1e}"
