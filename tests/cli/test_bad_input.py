"""Whatever a user gets wrong: what, why, what to type, the right exit code, and nothing lost. One table.

Every row goes through the command line as a user would type it, on the bundled model.
"""

import io
import json
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from workbench import locate
from workbench.cli.main import main
from workbench.run.bundle import SCHEMA, Run, find_bundles

pytest.importorskip("torch", reason="these rows run the bundled model on PyTorch: pip install 'parity-workbench[torch]'")

DEMO = "demo:vlm@torch"


@dataclass(frozen=True)
class Case:
    """``prepare(folder)`` returns the arguments; the message must hold every string of ``says``."""

    name: str
    exit_code: int
    says: tuple[str, ...]
    prepare: Callable[[Path], list[str]]


def evaluate(model: str = DEMO, task: str = "mmstar-sample", *more: str) -> list[str]:
    return ["eval", task, "--model", model, "--limit", "2", *more]


def empty_folder(folder: Path) -> list[str]:
    (folder / "nothing").mkdir()
    return evaluate("torch:./nothing")


def truncated_weights(folder: Path) -> list[str]:
    shutil.copytree(locate.demo_model("vlm"), folder / "model")
    weights = folder / "model" / "model.safetensors"
    with open(weights, "r+b") as file:
        file.truncate(weights.stat().st_size // 2)
    return evaluate("torch:./model")


def write_rows(folder: Path, change: Callable[[list[dict]], list[dict]]) -> list[str]:
    """A changed copy of the MMStar sample, found through --include."""
    import pyarrow
    from pyarrow import parquet

    source = locate.find("datasets/samples/mmstar/val.parquet")
    table = parquet.read_table(source)
    rows = change(table.slice(0, 4).to_pylist())
    target = folder / "mine" / "datasets" / "samples" / "mmstar"
    target.mkdir(parents=True)
    parquet.write_table(pyarrow.Table.from_pylist(rows), target / "val.parquet")
    cards = folder / "mine" / "datasets" / "cards"
    cards.mkdir()
    shutil.copy(locate.find("datasets/cards/mmstar-sample.toml"), cards)
    return ["eval", "mmstar-sample", "--model", DEMO, "--include", "mine"]


def missing_column(folder: Path) -> list[str]:
    return write_rows(folder, lambda rows: [{name: value for name, value in row.items() if name != "question"} for row in rows])


def with_image(data: bytes) -> Callable[[Path], list[str]]:
    def change(rows: list[dict]) -> list[dict]:
        return [{**row, "image": {"bytes": data, "path": None}} if number == 1 else row for number, row in enumerate(rows)]

    return lambda folder: write_rows(folder, change)


def png(width: int, height: int) -> bytes:
    from PIL import Image

    target = io.BytesIO()
    Image.new("RGB", (width, height), "red").save(target, "PNG")
    return target.getvalue()


def predictions(*lines: dict) -> Callable[[Path], list[str]]:
    def prepare(folder: Path) -> list[str]:
        items = [{"index": number, "answer": "A", "category": "math", "l2_category": "geometry"} for number in range(2)]
        (folder / "items.jsonl").write_text("".join(json.dumps(item) + "\n" for item in items))
        (folder / "answers.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        return ["score", "mmstar", "--items", "items.jsonl", "--predictions", "answers.jsonl", "--json"]

    return prepare


def runs_below_a_file(folder: Path) -> list[str]:
    (folder / "reports").write_text("a file where a folder should be")
    return evaluate()


def read_only_runs(folder: Path) -> list[str]:
    """The kernel's own read-only folder: permissions would not stop a superuser."""
    if not Path("/proc/self").exists():
        pytest.skip("needs /proc as a folder that nobody can write")
    return evaluate(DEMO, "mmstar-sample", "--runs", "/proc/self/runs")


def newer_schema(folder: Path) -> list[str]:
    assert main(evaluate()) == 0
    (bundle, manifest), *_ = find_bundles(folder / "reports/runs")
    (bundle / "manifest.json").write_text(json.dumps({**manifest, "schema": SCHEMA + 1}))
    return evaluate()


def upgraded_library(folder: Path) -> list[str]:
    assert main(evaluate()) == 0
    (bundle, manifest), *_ = find_bundles(folder / "reports/runs")
    libraries = manifest["key"]["libraries"] | {"transformers": "4.0.0"}
    older = {**manifest, "status": "running", "run_key": "0" * 64, "key": manifest["key"] | {"libraries": libraries}}
    (bundle / "manifest.json").write_text(json.dumps(older))
    return evaluate()


CASES = [
    Case("missing model folder", 2, ("./nowhere", "try:"), lambda _: evaluate("torch:./nowhere")),
    Case("a folder that is no model", 2, ("config.json",), empty_folder),
    Case("truncated safetensors", 2, ("model.safetensors",), truncated_weights),
    Case("unknown task", 2, ("'mmmuu'", "workbench list"), lambda _: evaluate(task="mmmuu")),
    Case("unknown runtime", 2, ("'tpu'", "known:"), lambda _: evaluate("tpu:x")),
    Case("unreadable model text", 2, ("cannot read model", "demo:vlm@torch"), lambda _: evaluate("vlm")),
    Case("unknown option", 2, ("'dtpye'", "known:"), lambda _: evaluate(DEMO + "?dtpye=float16")),
    Case("unknown item", 2, ("'nope'",), lambda _: ["eval", "mmstar-sample", "--model", DEMO, "--sample-id", "nope"]),
    Case("a missing column", 2, ("question", "index"), missing_column),
    Case("an undecodable image", 6, ("image cannot be decoded", "--retry-errors"), with_image(b"\x89PNG\r\n\x1a\nbroken")),
    Case("an image of one pixel", 0, ("bundle:",), with_image(png(1, 1))),
    Case("an image 20,000 pixels wide", 0, ("bundle:",), with_image(png(20_000, 3))),
    Case("an image of too many pixels", 6, ("too large",), with_image(png(20_000, 6_000))),
    Case("a prediction for an unknown item", 2, ("'7'",), predictions(*({"id": str(i), "response": "A"} for i in (0, 1, 7)))),
    Case("two predictions for one item", 2, ("'0'",), predictions(*({"id": str(i), "response": "A"} for i in (0, 0, 1)))),
    Case("an item without a prediction", 2, ("--partial",), predictions({"id": "0", "response": "A"})),
    Case("a prediction without a response", 2, ("response",), predictions({"id": "0"}, {"id": "1", "response": "A"})),
    Case("a report folder that cannot be made", 2, ("cannot write runs", "--runs"), runs_below_a_file),
    Case("a read-only report folder", 2, ("cannot write runs", "--runs"), read_only_runs),
    Case("a newer bundle schema", 2, ("newer workbench", "upgrade"), newer_schema),
    Case("resuming after a library upgrade", 2, ("libraries.transformers: 4.0.0 then", "--allow-mixed"), upgraded_library),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_bad_input(case, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(locate, "INCLUDED", [])
    arguments = case.prepare(tmp_path)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*.jsonl")}
    capsys.readouterr()
    exit_code = main(arguments)
    said = capsys.readouterr()
    text = said.out + said.err
    assert exit_code == case.exit_code, text
    for words in case.says:
        assert words in text, text
    assert "Traceback" not in text
    if case.exit_code == 2:
        assert {path: path.read_bytes() for path in before} == before, "something was changed"
        assert "items/s" not in text, "work was begun"
    if case.exit_code == 6:
        (run,) = (Run(path) for path, _ in find_bundles(tmp_path / "reports/runs"))
        assert run.status == "complete" and run.results["n"] == 4 and run.results["item_errors"] == 1


# The limit is set by the process itself once everything is imported, so that only the run meets it.
FULL_DISK = """
import resource, signal, sys
import torch, transformers, datasets
from workbench.cli.main import main
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
# Above artifact.json (30 kB), below the answers (60 lines of a good kB).
resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, resource.RLIM_INFINITY))
sys.exit(main(sys.argv[1:]))
"""


def test_a_full_disk_loses_no_finished_item(tmp_path):
    command = ["eval", "mmstar-sample", "--model", DEMO, "--limit", "60"]
    full = subprocess.run([sys.executable, "-c", FULL_DISK, *command], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert full.returncode == 2, full.stderr
    assert "no space left" in full.stderr and "type the same command again" in full.stderr
    ((folder, manifest),) = find_bundles(tmp_path / "reports/runs")
    kept = list(Run(folder).items())
    assert manifest["status"] == "running" and 0 < len(kept) < 60
    rest = subprocess.run([sys.executable, "-m", "workbench", *command], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert rest.returncode == 0, rest.stderr
    assert f"{len(kept)}/60 items are done" in rest.stderr
    assert len(Run(folder).items()) == 60


def test_control_c_ends_cleanly_and_the_run_continues(tmp_path):
    command = [sys.executable, "-m", "workbench", "eval", "mmstar-sample", "--model", DEMO]
    # A test suite that runs in the background ignores SIGINT, and its children would too.
    heeding = {"preexec_fn": lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)}
    running = subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True, **heeding)
    while not any(path.stat().st_size for path in tmp_path.glob("reports/runs/*/samples.jsonl")):
        assert running.poll() is None, running.stderr.read()
        time.sleep(0.01)
    running.send_signal(signal.SIGINT)
    _, said = running.communicate(timeout=60)
    assert running.returncode == 130, said
    assert "Traceback" not in said and "Type the same command again" in said
    ((folder, _),) = find_bundles(tmp_path / "reports/runs")
    assert Run(folder).events()[-1]["event"] == "interrupted"
