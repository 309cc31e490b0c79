"""The table of the zoo: a row that crashes, hangs or eats memory costs itself alone; a killed table goes on where it stopped."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from workbench.capture.zoo import catalogue, processes
from workbench.capture.zoo import run as running
from workbench.capture.zoo.run import run_zoo
from workbench.errors import BundleError, RuntimeMissing, UsageError
from workbench.run import journal
from workbench.run.bundle import Run, find_bundles
from workbench.run.verify import verify

pytest.importorskip("torch", reason="the reference side: pip install 'parity-workbench[torch]'")
pytest.importorskip("mlx_vlm", reason="the port's side: pip install 'parity-workbench[mlx]'")

pytestmark = pytest.mark.slow
GIB = 2**30
ROWS = """
import sys
from workbench.capture.zoo.run import run_zoo
print("once")
run = run_zoo([sys.argv[1]], runs=sys.argv[2], layouts=["hub"], jobs=1)
print(run.status, run.results["verdicts"])
"""


def here() -> dict[str, str]:
    """This environment, with the package that is under test."""
    root = str(Path(running.__file__).resolve().parents[3])
    return {**os.environ, "PYTHONPATH": os.pathsep.join([root, *filter(None, [os.environ.get("PYTHONPATH")])])}


def rows_of(run):
    return {item["id"]: item["row"] for item in run.iter_items()}


def gone(pid: int, seconds: float = 15.0) -> bool:
    """Whether a process has ended, or ends soon (one that nobody has collected yet is a zombie)."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            os.kill(pid, 0)
            if Path(f"/proc/{pid}/stat").is_file() and Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
                return True
        except (ProcessLookupError, FileNotFoundError):
            return True
        time.sleep(0.05)
    return False


@pytest.fixture
def make(tmp_path):
    """``run_zoo`` into ``tmp_path``."""

    def call(*families, **options):
        return run_zoo(list(families), runs=tmp_path / "runs", **{"layouts": ["hub"], "jobs": 2, **options})

    return call


def test_each_failure_costs_its_own_row_alone(family_file, make, tmp_path, capfd):
    ways = ("aborts", "hangs", "eats", "raises", "leaves", "exits")
    path = family_file(
        "family('good')",
        *(f"family('{way}', config={way})" for way in ways),
        "family('prints', config=prints)",
        "family('refuses', open_port=refuses)",
    )
    run = make(path, jobs=3, timeout=10, memory_bytes=GIB)
    said = capfd.readouterr()
    assert said.out == "" and "printed" not in said.err and "written" not in said.err
    rows = rows_of(run)
    assert {name.removesuffix("/hub"): row["verdict"] for name, row in rows.items()} == {
        "good": "agrees",
        "aborts": "crashed",
        "hangs": "timeout",
        "eats": "memory",
        "raises": "failed",
        "leaves": "failed",
        "exits": "crashed",
        "prints": "agrees",
        "refuses": "refused",
    }
    assert rows["aborts/hub"]["reason"] == "killed by SIGABRT: about to abort"
    assert rows["hangs/hub"]["reason"] == "no result within 10 s" and rows["hangs/hub"]["seconds"] >= 10
    assert rows["eats/hub"]["reason"] == "more than 1 GiB were resident"
    assert GIB < rows["eats/hub"]["peak_memory_bytes"] < 4 * GIB
    line = 1 + path.read_text().splitlines().index("    return 1 / 0")
    assert rows["raises/hub"]["reason"] == f"ZeroDivisionError: division by zero (mine.py, line {line})"
    assert "I leave" in rows["leaves/hub"]["reason"] and "exit code 3" in rows["exits/hub"]["reason"]
    assert rows["refuses/hub"]["reason"].endswith("no such model in FOLDER/checkpoint/hub")
    assert rows["good/hub"]["max_relative_error"] == 0 and rows["good/hub"]["peak_memory_bytes"] > 1e7
    assert gone(int((tmp_path / "grandchild").read_text())), "what a row started must end with it"

    assert run.status == "complete" and run.manifest["kind"] == "zoo" and run.manifest["n"] == 9
    assert run.results["judged"] == 9 and run.results["headline"]["value"] == pytest.approx(100 * 2 / 9)
    assert run.results["item_errors"] == 6, "a row that could not be made; a refusal is a result"
    assert [finding for finding in verify(run) if finding.level == "failed"] == []
    assert list(rows) == [f"{name}/hub" for name in ("good", *ways, "prints", "refuses")], "in the order asked for"
    text = "".join(file.read_text() for file in run.folder.iterdir() if file.is_file())
    assert str(tmp_path) not in text and "workbench-zoo-" not in text, "no folder of this machine"
    layers = list(journal.read(run.folder / "layers.jsonl"))
    assert {line["id"] for line in layers} == {"good/hub", "prints/hub"}
    assert {(line["case"], line["layer"]) for line in layers} >= {("short", "logits"), ("long", "logits")}


def test_a_complete_table_is_not_made_again_and_a_fresh_one_is(family_file, make, tmp_path):
    path = family_file("family('good')")
    first = make(path, layouts=None)
    assert list(rows_of(first)) == ["good/hub", "good/v5"] and not first.was_complete
    before = {file.name: file.read_bytes() for file in first.folder.iterdir()}
    again = make(path, layouts=None)
    assert again.was_complete and again.folder == first.folder
    assert {file.name: file.read_bytes() for file in again.folder.iterdir()} == before
    fresh = make(path, layouts=None, fresh=True)
    assert not fresh.was_complete and (tmp_path / "runs" / f"{fresh.name}~1").is_dir()
    ours = [
        {key: value for key, value in row.items() if key not in ("seconds", "peak_memory_bytes")} for row in rows_of(fresh).values()
    ]
    former = [
        {key: value for key, value in row.items() if key not in ("seconds", "peak_memory_bytes")} for row in rows_of(first).values()
    ]
    assert ours == former, "the numbers are the same every time"
    path.write_text(path.read_text() + "\n# another file\n")
    assert make(path, layouts=None).folder != first.folder


def test_interrupted_and_killed_it_goes_on_where_it_stopped(family_file, tmp_path):
    path = family_file("family('first')", "family('second', config=waits)", "family('third')")
    command = [sys.executable, "-m", "workbench", "zoo", "--family", str(path), "--layout", "hub", "--jobs", "1"]
    command += ["--runs", str(tmp_path / "runs"), "--json"]

    def begin():
        (tmp_path / "waiting").unlink(missing_ok=True)
        # A test suite that runs in the background ignores SIGINT, and its children would too.
        heeding = {"preexec_fn": lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)}
        begun = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=here(), **heeding)
        while not (tmp_path / "waiting").exists():
            assert begun.poll() is None, begun.stderr.read().decode()
            time.sleep(0.02)
        return begun, int((tmp_path / "waiting").read_text())

    def the_bundle():
        ((folder, manifest),) = find_bundles(tmp_path / "runs")
        return folder, manifest, [line["id"] for line in journal.read(folder / "samples.jsonl")]

    interrupted, row = begin()
    interrupted.send_signal(signal.SIGINT)
    _, said = interrupted.communicate()
    assert interrupted.returncode == 130 and b"Type the same command again" in said and gone(row)
    folder, manifest, done = the_bundle()
    assert manifest["status"] == "running" and done == ["first/hub"]
    assert [event["event"] for event in Run(folder).events()] == ["session", "interrupted"]

    killed, row = begin()
    killed.kill()
    killed.communicate()
    assert gone(row), "a row must not outlive the table that waits for it"
    folder, manifest, done = the_bundle()
    assert manifest["status"] == "running" and done == ["first/hub"]
    # As if it had been killed between a row's layers and its line.
    with journal.Journal(folder / "layers.jsonl") as layers:
        layers.append({"id": "second/hub", "case": "short", "layer": "logits"})

    (tmp_path / "go").touch()
    finished = subprocess.run(command, capture_output=True, text=True, check=False, env=here())
    assert finished.returncode == 0, finished.stderr
    run = Run(json.loads(finished.stdout)["bundle"])
    assert run.folder == folder and run.status == "complete"
    assert {row["verdict"] for row in rows_of(run).values()} == {"agrees"} and len(rows_of(run)) == 3
    assert [(event["done"], event["pending"]) for event in run.events() if event["event"] == "session"] == [(0, 3), (1, 2), (1, 2)]
    layers = [(line["id"], line["case"], line["layer"]) for line in journal.read(folder / "layers.jsonl")]
    assert len(layers) == len(set(layers)) and [name for name, *_ in layers] == sorted(name for name, *_ in layers)
    assert len(run.environment) == 3


def test_an_unfinished_table_of_another_file_is_refused(family_file, make):
    path = family_file("family('first')", "family('second')")
    make(path)
    ((folder, manifest),) = find_bundles(Path(path.parent / "runs"))
    journal.write_json(folder / "manifest.json", {**manifest, "status": "running"})
    path.write_text(path.read_text() + "\n# changed\n")
    with pytest.raises(BundleError, match="unfinished run") as caught:
        make(path)
    assert "first/hub" in caught.value.why and "--allow-mixed" not in caught.value.fix
    assert make(path, fresh=True).status == "complete"


def test_rows_without_a_measurement_keep_their_place(family_file, make):
    path = family_file(
        "family('large', slow=True)",
        "family('nothing', config=None, cases=None, kind='no reference here', reason='nobody has one')",
        "family('words', modality='text')",
    )
    run = make(path)
    assert {name: (row["verdict"], row["reason"]) for name, row in rows_of(run).items() if row["verdict"] == "not run"} == {
        "large/hub": ("not run", "slow: add --slow"),
        "nothing/hub": ("not run", "nobody has one"),
    }
    assert run.results["verdicts"] == {"not run": 2, "agrees": 1} and run.results["judged"] == 1
    assert run.results["headline"]["value"] == 100
    assert rows_of(make(path, slow=True))["large/hub"]["verdict"] == "agrees"
    assert list(rows_of(make(path, modality="text"))) == ["words/hub"]


def test_a_script_without_a_guard_is_not_run_again_by_its_rows(family_file, tmp_path):
    script = tmp_path / "script.py"
    script.write_text(ROWS)
    path = family_file("family('good')")
    done = subprocess.run(
        [sys.executable, str(script), str(path), str(tmp_path / "runs")], capture_output=True, text=True, check=False, env=here()
    )
    assert done.stdout.splitlines() == ["once", "complete {'agrees': 1}"], done.stderr
    assert done.stderr == ""


def test_a_fresh_interpreter_a_row_gives_the_same(family_file, make, monkeypatch):
    path = family_file("family('good')", "family('aborts', config=aborts)")
    forked = rows_of(make(path))
    monkeypatch.setattr(processes, "METHOD", "spawn")
    started = rows_of(make(path, fresh=True, jobs=1))
    for name, row in started.items():
        assert {**row, "seconds": 0, "peak_memory_bytes": 0} == {**forked[name], "seconds": 0, "peak_memory_bytes": 0}


@pytest.mark.skipif(sys.platform != "linux", reason="rows are forked on Linux alone")
def test_rows_are_forked_from_one_thread_without_mlx():
    program = "import os, sys, workbench.capture.zoo.preload; print(len(os.listdir('/proc/self/task')), 'mlx.core' in sys.modules, 'torch' in sys.modules)"
    environment = {name: value for name, value in here().items() if not name.endswith("_NUM_THREADS")}
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, env=environment)
    assert done.stdout.split() == ["1", "False", "True"]


def test_a_file_that_cannot_be_used_is_a_row_or_an_error_with_a_name(family_file, make, tmp_path):
    broken = family_file("family('good')", name="broken.py", tail="1 / 0")
    aborting = family_file("family('good')", name="aborting.py", tail="aborts()")
    printing = family_file("family('good')", name="printing.py", tail="prints()")
    rows = rows_of(make(broken, aborting, printing))
    assert [(name, row["verdict"]) for name, row in rows.items()] == [
        ("broken/hub", "failed"),
        ("aborting/hub", "failed"),
        ("good/hub", "agrees"),
    ]
    assert "broken.py: ZeroDivisionError" in rows["broken/hub"]["reason"] and "SIGABRT" in rows["aborting/hub"]["reason"]
    empty = tmp_path / "empty.py"
    empty.write_text("")
    assert "it defines no family" in rows_of(make(empty))["empty/hub"]["reason"]
    with pytest.raises(UsageError, match="there is no family file"):
        make(tmp_path / "nowhere.py")
    with pytest.raises(UsageError, match="two of the families are named 'good'"):
        make(printing, family_file("family('good')", name="other.py"))
    two = family_file("family('one')", "family('two')", name="two.py")
    assert [entry.name for entry, _ in catalogue.choose([f"{two}::two"], layouts=["hub"])] == ["two"]
    with pytest.raises(UsageError, match=r"two.py holds no family 'tow'") as caught:
        make(f"{two}::tow")
    assert "did you mean two" in caught.value.why


def test_our_own_families_can_all_be_listed(monkeypatch):
    entries = catalogue.built_in()
    names = [entry.name for entry in entries]
    assert "llava" in names and names == sorted(set(names))
    assert [entry.problem for entry in entries if entry.problem] == []
    with pytest.raises(UsageError, match="there is no family 'lava'") as caught:
        catalogue.choose(["lava"])
    assert "llava" in caught.value.why
    with pytest.raises(UsageError, match="no choice"):
        catalogue.choose(layouts=["v6"])
    assert {entry.modality for entry, _ in catalogue.choose(modality="text")} == {"text"}

    def break_llava(origin):
        if origin.endswith(".llava"):
            raise ImportError("torch is too old")
        return loaded(origin)

    loaded = catalogue.load
    monkeypatch.setattr(catalogue, "load", break_llava)
    (entry,) = [entry for entry in catalogue.built_in() if entry.problem]
    assert entry.name == "llava" and entry.problem == "families/llava.py: ImportError: torch is too old"


def test_without_a_runtime_it_says_what_to_install(family_file, make, monkeypatch):
    real = running.package_availability
    monkeypatch.setattr(running, "package_availability", lambda names, fix: real(("mlx-nowhere",), fix))
    with pytest.raises(RuntimeMissing, match="needs both") as caught:
        make(family_file("family('good')"))
    assert caught.value.exit_code == 3 and caught.value.fix == "pip install 'parity-workbench[torch,mlx]'"


def test_a_family_of_ours_is_measured_against_mlx(tmp_path):
    run = run_zoo(["llava"], runs=tmp_path, layouts=["hub"], jobs=1)
    (row,) = rows_of(run).values()
    assert row["verdict"] == "agrees" and 0 < row["max_relative_error"] < 2e-5, row["reason"]
    assert row["argmax_agreement"] == 1 and row["causal"] and row["parameters"] > 1e5
    key = run.manifest["key"]
    assert set(key["rows"]) == {"llava/hub"} and {"torch", "transformers", "mlx", "mlx-vlm"} <= set(key["libraries"])
    assert run.manifest["evidence"] in ("host", "device")
    if sys.platform == "linux":
        assert key["backend"]["setup.blas_route"] == "off", "with torch's matrix products agreement would prove nothing"
