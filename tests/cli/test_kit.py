"""``workbench kit`` as a user types it: the plan, how steps end, what is packed, and how kits of two machines meet in a report."""

import errno
import json
import shutil
import signal
import sys
import time
import zipfile
from pathlib import Path

import pytest

from tests.report.bundles import compared, make_line, make_run
from tests.run.conftest import edit
from tests.run.kits import ABORT, make_kit
from workbench.backends.base import Availability
from workbench.cli import kit as verb
from workbench.cli import kit_plan, kit_steps
from workbench.cli.kit_plan import Here, PlannedStep
from workbench.cli.main import main
from workbench.errors import BundleError
from workbench.run import archive, kit
from workbench.run.bundle import Run
from workbench.run.scrub import Private

OK = Availability(True, "1.0")
NO_GPU = Availability(False, "no NVIDIA driver is here", "run the kit on a machine with an NVIDIA GPU")
LINUX = Here(dict.fromkeys(kit_plan.RUNTIMES, OK), engine=NO_GPU)
LINES = [make_line(str(number), right=bool(number % 3)) for number in range(6)]
NOBODY = Private.of([], [])


@pytest.fixture
def child(monkeypatch):
    """Steps run this Python program instead of the workbench."""
    return lambda program: monkeypatch.setattr(kit_steps, "PROGRAM", (sys.executable, "-c", program))


def step(name="eval vlm mlx", what="eval"):
    return PlannedStep(name, what, "vlm", "mlx", "mlx", "demo:vlm@mlx", ("eval", "demo"))


ENDS = {
    'print(\'{"runs": [{"run": "/a/b/run-1"}]}\')': ("complete", 0, None, ("run-1",), ()),
    'print(\'{"capture": "r/c-1"}\'); raise SystemExit(6)': ("item errors", 6, None, ("c-1",), ()),
    "import os, sys; sys.stderr.write('E5RT\\n'); sys.stderr.flush(); os.abort()": ("aborted", None, "SIGABRT", (), ("E5RT",)),
    "import sys; sys.stderr.write('ended by signal SIGSEGV in /Users/x/m.py\\n'); sys.exit(2)": (
        *("aborted", 2, "SIGSEGV", ()),
        ("ended by signal SIGSEGV in …/m.py",),
    ),
    "raise SystemExit('no such thing')": ("failed", 1, None, (), ("no such thing",)),
    "raise SystemExit(3)": ("not here", 3, None, (), ()),
    "import sys; sys.stderr.write('workbench: Core ML with units=ALL ended its process by signal SIGABRT during load\\n'); sys.exit(3)": (
        *("aborted", 3, "SIGABRT", ()),
        ("workbench: Core ML with units=ALL ended its process by signal SIGABRT during load",),
    ),
    "import sys; sys.stderr.write('workbench: Core ML with units=ALL did not come back from load\\n'); sys.exit(3)": (
        *("failed", 3, None, ()),
        ("workbench: Core ML with units=ALL did not come back from load",),
    ),
    "print('hello')": ("failed", 0, None, (), ("its output is no JSON of an evaluation or a capture",)),
}


@pytest.mark.parametrize("program", ENDS)
def test_how_a_step_ended_is_recorded(child, program):
    child(program)
    said = []
    done = kit_steps.run_step(step(), Path("runs"), NOBODY, said.append, follow=False)
    assert (done.status, done.exit_code, done.signal, done.runs, done.stderr) == ENDS[program]
    assert done.command == "workbench eval demo" and len(said) == len([line for line in done.stderr if "JSON" not in line])


def test_an_interrupt_reaches_the_step_and_is_waited_for(child, monkeypatch, tmp_path):
    child("raise SystemExit(130)")
    with pytest.raises(KeyboardInterrupt):
        kit_steps.run_step(step(), tmp_path, NOBODY, print, follow=False)
    child(
        "import pathlib, sys, time\n"
        "here = pathlib.Path(sys.argv[sys.argv.index('--runs') + 1])\n"
        "try: (here / 'began').touch(); time.sleep(30)\n"
        "except KeyboardInterrupt: (here / 'ended well').touch(); raise SystemExit(130)"
    )
    monkeypatch.setattr(kit_steps, "PATIENCE_SECONDS", 0.05)

    def press(*_):
        while not (tmp_path / "began").exists():
            time.sleep(0.01)
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, press)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.05)
        with pytest.raises(KeyboardInterrupt):
            kit_steps.run_step(step(), tmp_path, NOBODY, print, follow=False)
    finally:
        signal.signal(signal.SIGALRM, before)
    assert (tmp_path / "ended well").exists()


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A folder to work in; steps are answered from made bundles, and what was asked is listed."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(kit_plan, "look", lambda: LINUX)
    asked = []
    runs = Path("reports/kit")

    def answer(command, say):
        words = list(command[4:])
        asked.append(words)
        model = words[words.index("--model") + 1] if words[0] == "eval" else words[1]
        if "mlx" in model:
            say(f"segmentation fault in {tmp_path}/x.so")
            return -signal.SIGSEGV, "", [f"segmentation fault in {tmp_path}/x.so"]
        text = {"task": f"{words[0]}-{model.partition('@')[0].partition(':')[2]}"}
        found = next(runs.glob(f"{text['task']}-*{'torch' if 'torch' in model else model[-4:]}*"), None)
        found = found or make_run(runs, model, LINES, **text)
        return 0, json.dumps({"runs": [{"run": str(found)}]}), []

    monkeypatch.setattr(kit_steps, "wait_for", answer)
    return asked


def test_a_step_that_aborts_is_recorded_and_the_kit_goes_on(here, capsys, tmp_path):
    assert main(["kit", "--skip", "capture,stt,onnx,tensorrt", "--out", "k.zip"]) == 6
    said = capsys.readouterr()
    assert "[2/4] eval vlm mlx" in said.err and "SIGSEGV; recorded, and the kit goes on" in said.err
    assert "failed: eval vlm mlx: aborted (SIGSEGV): segmentation fault in …/x.so" in said.out
    assert "k.zip: 3 runs and 0 captures" in said.out and "next: workbench report k.zip" in said.out
    assert ["--follow" in words for words in here] == [False, True, True, True] and all(words[-1] == "--json" for words in here)
    found = archive.read_kit(Path("k.zip"))
    assert [(each.name, each.ended) for each in found.failed] == [("eval vlm mlx", "SIGSEGV")] and found.items == {
        "vlm": 50,
        "stt": 140,
    }
    with zipfile.ZipFile("k.zip") as packed:
        everything = b"".join(packed.read(name) for name in packed.namelist())
        text = packed.read("README.txt").decode()
    assert str(tmp_path).encode() not in everything and "eval vlm mlx: aborted SIGSEGV" in text and "k.zip" in text
    # The same command again: the same bundles, the same bytes; the earlier kit of this machine is replaced.
    first = Path("k.zip").read_bytes()
    assert main(["kit", "--skip", "capture,stt,onnx,tensorrt", "--out", "k.zip", "--json"]) == 6
    assert Path("k.zip").read_bytes() == first
    row = json.loads(capsys.readouterr().out)
    assert (
        row["zip"] == "k.zip"
        and len(row["runs"]) == 3
        and row["failed"] == [{"name": "eval vlm mlx", "status": "aborted", "ended": "SIGSEGV"}]
    )
    assert main(["verify", "k.zip"]) in (0, 1) and "3, as the kit names them" in capsys.readouterr().out


def test_why_a_runtime_is_not_here_names_no_place(here, tmp_path, monkeypatch):
    broken = Availability(False, f"dlopen({tmp_path}/lib/libmlx.dylib, 6): not found {'x' * 5_000}", "pip install x")
    monkeypatch.setattr(kit_plan, "look", lambda: Here({**LINUX.runtimes, "mlx": broken}, engine=NO_GPU))
    assert main(["kit", "--skip", "capture,stt", "--out", "k.zip"]) == 0
    reason = archive.read_kit(Path("k.zip")).not_here[0].reason
    assert reason.startswith("dlopen(…/libmlx.dylib, 6): not found") and len(reason) <= verb.LONGEST_REASON


def test_a_smaller_kit_does_not_replace_a_larger_one(here, capsys):
    assert main(["kit", "--only", "coreml", "--skip", "capture,stt", "--out", "k.zip"]) == 0
    before = Path("k.zip").read_bytes()
    assert main(["kit", "--only", "coreml-reference-fp32", "--skip", "capture,stt", "--out", "k.zip"]) == 2
    assert (
        "would be lost, such as eval vlm coreml-reference-fp16" in capsys.readouterr().err and Path("k.zip").read_bytes() == before
    )


def test_a_dry_run_runs_nothing(here, capsys):
    assert main(["kit", "--dry-run", "--full"]) == 0
    text = capsys.readouterr().out
    assert "28 steps" in text and "of each set all items" in text and "(the reference)" in text and "not here: a GPU" in text
    assert main(["kit", "--dry-run", "--json", "--only", "mlx,vlm"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["items"] == {"vlm": 50, "stt": 140} and found["steps"][0]["reference"] is True and found["left_out"]
    assert here == [] and not Path("reports").exists()


def test_what_would_fail_at_the_end_is_said_at_the_beginning(here, monkeypatch, capsys):
    Path("notes.zip").write_text("precious")
    assert main(["kit", "--out", "notes.zip"]) == 2 and "no kit of this machine" in capsys.readouterr().err
    assert main(["kit", "--out", "nowhere/k.zip"]) == 2 and "no such folder" in capsys.readouterr().err
    assert main(["kit", "--limit", "0"]) == 2 and "at least 1" in capsys.readouterr().err
    foreign = make_kit(Path("mac.zip"), [make_run(Path("a"), "torch:z", LINES, evidence="device")], "device")
    assert main(["kit", "--out", str(foreign)]) == 2 and "no kit of this machine" in capsys.readouterr().err
    with monkeypatch.context() as patch:
        patch.setattr(verb.os, "access", lambda path, mode: False)
        assert main(["kit"]) == 2 and "cannot be written" in capsys.readouterr().err
    Path("reports").write_text("no folder")
    assert main(["kit"]) == 2 and "--runs ANOTHER_FOLDER" in capsys.readouterr().err
    assert Path("notes.zip").read_text() == "precious" and here == []


def test_a_full_disk_stops_the_kit_and_says_how_to_go_on(here, monkeypatch, capsys):
    usage = shutil.disk_usage(".")._replace(free=10_000_000)
    monkeypatch.setattr(verb.shutil, "disk_usage", lambda path: usage)
    assert main(["kit"]) == 2 and "too little space" in capsys.readouterr().err and here == []
    monkeypatch.setattr(verb, "NEEDED_BYTES", 0)
    assert main(["kit", "--only", "mlx", "--skip", "capture,stt"]) == 2
    assert "is full" in (said := capsys.readouterr().err) and "finished steps are reused" in said
    monkeypatch.setattr(verb, "FULL_DISK_BYTES", 0)

    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(archive.os, "replace", full)
    with pytest.raises(BundleError, match=r"cannot write k\.zip") as caught:
        archive.pack([], Path("k.zip"), beside={"kit.json": b"{}"})
    assert "No space left" in caught.value.why and list(Path().glob("*.zip")) == [] and list(Path().glob(".*draft")) == []


def test_an_interrupted_kit_packs_nothing_and_says_how_to_go_on(here, monkeypatch, capsys):
    monkeypatch.setattr(kit_steps, "wait_for", lambda command, say: (130, "", []))
    assert main(["kit"]) == 130
    assert "--skip 'eval vlm torch-cpu'" in (said := capsys.readouterr().err) and "same command again" in said
    assert not list(Path().glob("*.zip"))


def test_a_run_that_names_a_place_on_this_machine_stays_here(here, capsys, tmp_path):
    assert main(["kit", "--only", "coreml", "--skip", "capture,stt,mlx", "--out", "a.zip"]) == 0
    leaking = next(Path("reports/kit").glob("*fp16*"))
    (leaking / "events.jsonl").write_text(json.dumps({"event": "x", "why": f"{tmp_path}/m.mlpackage"}) + "\n")
    assert main(["kit", "--only", "coreml", "--skip", "capture,stt,mlx", "--out", "b.zip"]) == 6
    assert f"left out of the zip: {leaking.name}: events.jsonl names a place" in capsys.readouterr().out
    assert leaking.name not in {run.name for run in Run.open("b.zip")} and archive.read_kit(Path("b.zip")).runs


def test_the_folder_of_the_runs_is_a_place_on_this_machine_too(here, tmp_path, tmp_path_factory):
    elsewhere = tmp_path_factory.mktemp("usb stick") / "runs"
    (elsewhere / "a").mkdir(parents=True)
    (elsewhere / "a" / "events.jsonl").write_text(json.dumps({"event": "x", "why": f"{elsewhere}/m.mlpackage"}) + "\n")
    (elsewhere / "a" / "manifest.json").write_text(json.dumps({"schema": 2, "status": "complete"}))
    made = kit.Kit("0.1.0", {"vlm": 1}, {}, {}, (kit.Step("a", "eval", "m", "c", "complete", 0, runs=("a",)),))
    assert "events.jsonl names a place" in verb.pack_kit(made, [Run(elsewhere / "a")], tmp_path / "k.zip")["a"]


def test_eval_and_capture_understand_a_step_and_say_where_its_bundles_are(tmp_path, monkeypatch, capsys):
    """The real command lines, with a bundle that is there already in place of a model's answers."""
    asked = []

    def answer(task, model, *, runs, subset, record, follow, **_):
        asked.append((task, model.text, subset, tuple(record), tuple(follow)))
        return Run(make_run(Path(runs), f"{model.backend}:{model.text}", LINES, task=task))

    def look_into(model, inputs, *, runs, limit, also, **_):
        asked.append((inputs, model, limit, tuple(also)))
        made = make_run(Path(runs), model, LINES, task="capture")
        edit(made / "results.json", lambda found: found | {"layers": 3})
        return Run(made)

    def inside(command, say):
        assert main(command[len(kit_steps.PROGRAM) :]) == 0
        return 0, capsys.readouterr().out, []

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("workbench.run.runner.evaluate", answer)
    monkeypatch.setattr("workbench.capture.session.capture_layers", look_into)
    monkeypatch.setattr(kit_plan, "look", lambda: LINUX)
    monkeypatch.setattr(kit_steps, "wait_for", inside)
    assert main(["kit", "--only", "mlx", "--limit", "7", "--skip", "stt", "--out", "k.zip"]) == 0
    reference = "demo:vlm@torch?device=cpu"
    assert asked[3] == ("mathvista-sample", reference, 7, ("tokens", "media"), ())
    assert asked[4] == ("mmmu-sample", "demo:vlm@mlx", 7, ("tokens",), (reference,))
    assert asked[8:] == [(["demo"], reference, 2, ("auto", "float16")), (["demo"], "demo:vlm@mlx", 2, ("auto",))]
    found = archive.read_kit(Path("k.zip"))
    assert (
        [len(step.runs) for step in found.steps] == [4, 4, 1, 1]
        and len(Run.open("k.zip")) == 10
        and found.items == {"vlm": 7, "stt": 7}
    )


@pytest.fixture
def two_kits(tmp_path):
    """A Mac's kit with device evidence, and one of a Linux machine."""
    mac = [make_run(tmp_path / "m", model, LINES, evidence="device", options={"m": "1"}) for model in ("torch:z", "coreml:a")]
    linux = [make_run(tmp_path / "l", model, LINES) for model in ("torch:z", "mlx:b")]
    return make_kit(tmp_path / "mac.zip", mac, "device"), make_kit(tmp_path / "linux.zip", linux)


def test_kits_of_two_machines_meet_and_their_times_never_do(two_kits):
    sides, comparisons = compared(*two_kits)
    assert sides[0].text == "torch:z" and sides[0].manifest["evidence"] == "device", "the first kit's reference is the reference"
    assert len(sides) == 4 and {side.text for side in sides} == {"torch:z", "coreml:a", "mlx:b"}
    times = {
        each.candidate.text: each.rung(6) for each in comparisons if each.candidate.all_runs[0].kit.machine["system"] == "Linux"
    }
    assert set(times) == {"torch:z", "mlx:b"} and all("The machines differ" in rung.finding for rung in times.values())
    assert all(each.verdict.name == "EQUIVALENT" or each.verdict.n == 6 for each in comparisons)


def test_a_report_of_kits_says_what_their_machines_could_not_run(two_kits, tmp_path, capsys, monkeypatch):
    local = make_run(tmp_path / "own", "torch:own", LINES)
    assert main(["report", *map(str, two_kits), str(local), "--out", str(tmp_path / "report")]) == 0
    page = (tmp_path / "report" / "index.html").read_text()
    assert page.count("Apple M4 Max GPU, Apple M4 Max, 16 cores") >= 2 and "SIGABRT" in page and 'id="kits"' in page
    assert "&lt;b&gt;gave up&lt;/b&gt;" in page and "<b>gave up" not in page
    text = (tmp_path / "report" / "report.md").read_text()
    assert "## Kits" in text and "mlx is not installed" in text and "<b>" not in text
    assert main(["report", str(local), "--out", str(tmp_path / "plain")]) == 0
    assert 'id="kits"' not in (tmp_path / "plain" / "index.html").read_text()
    assert main(["parity", *map(str, two_kits), "--json"]) in (0, 4)
    monkeypatch.chdir(tmp_path)
    assert main(["view", str(two_kits[0]), "--no-open"]) == 0 and Path(capsys.readouterr().out.split()[-1]).is_file()


def test_verify_finds_a_bundle_that_was_changed_and_says_what_a_step_said(two_kits, tmp_path, capsys):
    damaged = tmp_path / "damaged.zip"
    with zipfile.ZipFile(two_kits[0]) as found, zipfile.ZipFile(damaged, "w") as out:
        for entry in found.infolist():
            content = found.read(entry)
            out.writestr(
                entry.filename,
                content.replace(b'"The answer is A."', b'"The answer is B."') if "coreml" in entry.filename else content,
            )
    assert main(["verify", str(damaged)]) == 1
    text = capsys.readouterr().out
    assert "damaged.zip: ok" in text and "samples.jsonl changed after the run was finished" in text and text.count("FAILED") == 1
    assert f"{ABORT.name}: aborted (SIGABRT)" in text and "mlx: mlx is not installed" in text
    empty = make_kit(tmp_path / "empty.zip", [])
    assert main(["verify", str(empty)]) == 0 and "SIGABRT" in capsys.readouterr().out
    assert main(["report", str(empty)]) == 2 and "none of its 1 steps made one" in capsys.readouterr().err
    newer = tmp_path / "newer.zip"
    with zipfile.ZipFile(newer, "w") as out:
        out.writestr("kit.json", '{"format": 99}')
    assert main(["verify", str(newer)]) == 2 and "pip install --upgrade" in capsys.readouterr().out
