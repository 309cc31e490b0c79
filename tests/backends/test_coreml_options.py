"""What the Core ML backend says about itself, on this machine and on a Mac."""

import subprocess
import sys

import pytest

from workbench.backends import coreml, coreml_device
from workbench.errors import UsageError
from workbench.mil.program import PRECISIONS
from workbench.registry import backend_names, get_backend


@pytest.fixture
def backend():
    return get_backend("coreml")


@pytest.fixture
def linux(monkeypatch):
    monkeypatch.setattr("platform.system", lambda: "Linux")


@pytest.fixture
def mac(monkeypatch):
    monkeypatch.setattr("platform.system", lambda: "Darwin")


def test_it_is_built_in():
    assert "coreml" in backend_names()
    assert coreml.READINGS == PRECISIONS


def test_asking_imports_no_runtime():
    code = (
        "import sys; from workbench.registry import get_backend\n"
        "b = get_backend('coreml'); assert b.available().ok, b.available(); b.evidence({}); b.device({})\n"
        "assert not {'torch', 'coremltools'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


def test_off_a_mac_it_is_the_reference(backend, linux):
    here = backend.available()
    assert here.ok and "coremltools 9" in here.reason and here.notes == ("reference execution: no timing",)
    assert backend.evidence({}) == "reference" and backend.device({})["kind"] == "reference"
    assert backend.peak_memory_bytes() is None
    done = backend.prepare({"reading": "float64"})
    assert done["reading"] == "float64" and done["executor"].startswith("workbench.mil ") and "threads" not in done
    assert backend.prepare({}) != done  # another reading is another run


@pytest.mark.parametrize(
    ("units", "evidence"),
    [("CPU_ONLY", "host"), ("CPU_AND_GPU", "device"), ("CPU_AND_NE", "device"), ("ALL", "device"), (None, "device")],
)
def test_on_a_mac_the_units_say_what_ran(backend, mac, units, evidence):
    options = {} if units is None else {"units": units}
    assert backend.available().notes == ()
    assert backend.prepare(options) == {"units": units or "ALL"}
    assert backend.evidence(options) == evidence
    assert backend.device(options)["kind"] == "coreml" and backend.device(options)["name"].endswith(units or "ALL")


def test_a_mac_can_be_asked_for_the_reference(backend, mac):
    options = {"executor": "reference", "reading": "emulate"}
    assert backend.evidence(options) == "reference" and backend.prepare(options)["reading"] == "emulate"


def test_units_off_a_mac_are_refused(backend, linux, coreml_plain):
    for call in (backend.prepare, backend.evidence, backend.device, lambda options: backend.open(coreml_plain, options)):
        with pytest.raises(UsageError, match="units=CPU_AND_NE would do nothing here") as caught:
            call({"units": "CPU_AND_NE"})
        assert "reference executor" in caught.value.why and "Mac" in caught.value.fix


@pytest.mark.parametrize(
    ("options", "word", "fix"),
    [
        ({"units": "cpu-and-ne"}, "unknown units 'cpu-and-ne'", "?units=CPU_AND_NE"),
        ({"units": "ANE"}, "unknown units 'ANE'", "?units=CPU_ONLY"),
        ({"executor": "device"}, "unknown executor 'device'", "?executor=auto"),
        ({"executor": "reference", "reading": "fp8"}, "unknown reading 'fp8'", "?reading=native"),
        ({"executor": "reference", "units": "ALL"}, "units=ALL would do nothing", "leave executor out"),
        ({"reading": "float64"}, "reading=float64 would do nothing", "?executor=reference&reading=float64"),
        ({"threads": "2"}, "threads=2 would do nothing", "?executor=reference&threads=2"),
        ({"executor": "reference", "threads": "many"}, "threads must be a number", "?threads=4"),
        ({"timeout": "0"}, "timeout must be a number of seconds above 0", "?timeout=900"),
        ({"timeout": "soon"}, "timeout must be", "?timeout=900"),
    ],
)
def test_options_that_are_wrong_or_would_do_nothing(backend, mac, options, word, fix):
    with pytest.raises(UsageError, match=word.replace("(", r"\(")) as caught:
        backend.prepare(options)
    assert caught.value.fix == fix


def test_threads_of_the_reference_executor(backend, linux):
    import torch

    before = torch.get_num_threads()
    try:
        assert backend.prepare({"threads": "1"})["threads"] == 1 and torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(before)


def test_opening_hands_the_settings_on(backend, mac, monkeypatch, coreml_plain):
    seen = []
    monkeypatch.setattr(coreml_device, "DeviceProgram", lambda *given, **named: seen.append((given, named)))
    backend.open(coreml_plain, {"units": "CPU_AND_GPU", "timeout": "7.5"}, "main")
    backend.open(coreml_plain, {})
    assert seen == [
        ((coreml_plain, "main", "CPU_AND_GPU"), {"timeout_seconds": 7.5}),
        ((coreml_plain, None, "ALL"), {"timeout_seconds": coreml.TIMEOUT_SECONDS}),
    ]
    assert backend.open(coreml_plain, {"executor": "reference"}).evidence == "reference"
