"""Workers that abort, crash, exit, hang or answer nonsense: each becomes a result with the unit, the stage and what to type."""

import os
import signal
import subprocess
import sys
import textwrap
import time

import numpy as np
import pytest

from tests.backends.conftest import FAKE
from workbench.backends import coreml_process
from workbench.backends.coreml_device import DeviceProgram
from workbench.backends.coreml_process import DeviceFailure
from workbench.errors import EXIT_NO_RUNTIME, ItemError, ModelError

GIVEN = {"x": np.ones((1, 4), np.float32)}


def gone(process_id):
    """Has the process ended within a few seconds?"""
    for _ in range(100):
        try:
            os.kill(process_id, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.05)
    return False


@pytest.mark.parametrize(
    ("deed", "how", "end"),
    [("abort", "aborted", "signal SIGABRT"), ("crash", "aborted", "signal SIGSEGV"), ("exit", "exited", "code 3")],
)
def test_a_worker_that_dies_at_its_prediction(coreml_plain, misbehaving, deed, how, end):
    program = DeviceProgram(coreml_plain, None, "ALL", runtime=FAKE, timeout_seconds=60)
    folder = program.process.folder
    with misbehaving(f"predict={deed}"), pytest.raises(DeviceFailure) as caught:
        program(GIVEN)
    failure = caught.value
    assert (failure.units, failure.stage, failure.how, failure.exit_code) == ("ALL", "predict", how, EXIT_NO_RUNTIME)
    assert failure.what == f"Core ML with units=ALL ended its process by {end} during predict".replace("by code", "with code")
    assert failure.fix == "?units=CPU_ONLY" and not folder.exists()
    if deed == "abort":
        assert "failed assertion `no such luck'" in failure.stderr and failure.record()["signal"] == "SIGABRT"
    with pytest.raises(DeviceFailure) as again:  # it stays recorded; nothing hangs, nothing starts anew behind one's back
        program(GIVEN)
    assert again.value is failure
    program.close()


def test_the_next_program_gets_a_new_worker(coreml_plain, misbehaving):
    with misbehaving("load=abort"), pytest.raises(DeviceFailure) as caught:
        DeviceProgram(coreml_plain, None, "CPU_ONLY", runtime=FAKE)
    assert (caught.value.stage, caught.value.fix) == ("load", "?executor=reference")
    program = DeviceProgram(coreml_plain, None, "CPU_ONLY", runtime=FAKE)
    assert program.process.failure is None and program.evidence == "host"
    program.close()
    assert not any(runtime == FAKE and units == "CPU_ONLY" for units, runtime in coreml_process._PROCESSES)
    assert program.process.child.poll() is not None


def test_a_worker_that_hangs_is_ended(coreml_plain, misbehaving):
    program = DeviceProgram(coreml_plain, None, "ALL", runtime=FAKE, timeout_seconds=60)
    program.timeout_seconds = 0.3
    began = time.monotonic()
    with (
        misbehaving("predict=hang"),
        pytest.raises(DeviceFailure, match=r"did not come back from predict within 0\.3 seconds") as caught,
    ):
        program(GIVEN)
    assert time.monotonic() - began < 20 and caught.value.how == "hung" and "timeout" in caught.value.why
    assert program.process.child.poll() == -signal.SIGKILL
    program.close()


PARENT = """
import sys, time
from workbench.backends import coreml_process
process = coreml_process.Process("ALL", {fake!r})
print(process.child.pid, process.folder, flush=True)
if {hang}:
    process.ask({{"op": "open", "path": {path!r}, "changed": 0, "function": None}}, stage="load", seconds=1)
time.sleep(60)
"""


@pytest.mark.parametrize("hang", [False, True])
def test_a_worker_does_not_outlive_its_parent(coreml_plain, misbehaving, hang):
    """Also one that is stuck in a native call, which neither sees that its parent is gone nor runs any Python."""
    code = textwrap.dedent(PARENT).format(fake=FAKE, hang=hang, path=str(coreml_plain))
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    with misbehaving("load=hang" if hang else ""):
        parent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, env=environment)
        worker, folder = parent.stdout.readline().split()
        if hang:
            time.sleep(0.3)
        os.kill(int(worker), 0)
        parent.kill()
        parent.wait()
        parent.stdout.close()
        assert gone(int(worker))
    assert hang or not os.path.exists(folder)  # one that hung leaves it, until any worker's start clears it away
    coreml_process.remove_stale()  # as the next worker's start does
    assert not os.path.exists(folder)


def test_what_the_runtime_refuses_leaves_the_worker_alive(opened, coreml_plain, misbehaving):
    program = opened(coreml_plain)
    with misbehaving("predict=raise"), pytest.raises(ItemError, match="refused predict") as caught:
        program(GIVEN)
    assert "RuntimeError" in caught.value.why and caught.value.reason == "model"
    with misbehaving("plan=old"), pytest.raises(ModelError, match="no compute plan") as caught:
        program.plan()
    assert "macOS" in caught.value.fix
    for stage in ("compile", "load"):
        with (
            misbehaving(f"{stage}=raise"),
            pytest.raises(ModelError, match="cannot load program.mlpackage with units=ALL") as caught,
        ):
            DeviceProgram(coreml_plain, None, "ALL", runtime=FAKE)
        assert "frobnicate" in caught.value.why and caught.value.fix == "?units=CPU_ONLY"
    assert program(GIVEN)["y"].shape == (1, 3)


def test_states_on_a_system_without_them(opened, coreml_counter, misbehaving):
    program = opened(coreml_counter)
    with misbehaving("state=old"), pytest.raises(ItemError, match="refused state") as caught:
        program.make_state()
    assert "macOS >= 15" in caught.value.why


def test_outputs_that_are_not_numbers_come_back_as_they_are(opened, coreml_plain, misbehaving):
    program = opened(coreml_plain)
    with misbehaving("predict=nan"):
        assert np.isnan(program(GIVEN)["y"]).all()


def test_outputs_of_other_names_are_never_taken_for_ours(opened, coreml_plain, misbehaving):
    with misbehaving("predict=names"), pytest.raises(ModelError, match="gave no output 'y'") as caught:
        opened(coreml_plain)(GIVEN)
    assert "it gave var_0" in caught.value.why


def test_a_runtime_that_cannot_be_imported(coreml_plain):
    with pytest.raises(DeviceFailure) as caught:
        DeviceProgram(coreml_plain, None, "ALL", runtime="coremltools_of_another_planet")
    assert caught.value.stage == "start" and "ModuleNotFoundError" in caught.value.why and "pip install" in caught.value.fix


def test_a_runtime_that_ends_the_process_when_it_is_imported(coreml_plain, misbehaving):
    with misbehaving("start=abort"), pytest.raises(DeviceFailure, match="signal SIGABRT during start") as caught:
        DeviceProgram(coreml_plain, None, "ALL", runtime=FAKE)
    assert "no such luck" in caught.value.why or "no such luck" in caught.value.stderr


def test_an_interrupt_half_way_ends_the_worker(coreml_plain, misbehaving, monkeypatch):
    """Else the next request would get the answer of the one that was interrupted."""
    program = DeviceProgram(coreml_plain, None, "ALL", runtime=FAKE)

    def interrupted():
        raise KeyboardInterrupt

    monkeypatch.setattr(program.process._ear, "receive", interrupted)
    with pytest.raises(KeyboardInterrupt):
        program(GIVEN)
    assert program.process.child.poll() is not None
    with pytest.raises(DeviceFailure, match="was ended"):
        program(GIVEN)
    program.close()
